//! Distils with a method that this file defines: `cargo run --release --example own_distiller [CONFIG [KEY=VALUE ...]]`
//!
//! The method compares the energy of feature maps, mean over channels, at two levels of the pyramid.

use ckd_det::Training;
use ckd_det::ckd_detectors::taps::{Level, Tap};
use ckd_det::ckd_kernels::Value;
use ckd_det::config::{Config, Document};
use ckd_det::distill::{DistillError, Distiller, Lesson, Term};

/// Mean squared difference of the energy of teacher's and student's maps, in units of the teacher's mean.
struct Energy {
    at: Vec<Tap>,
    weight: f64,
}

impl Distiller for Energy {
    fn name(&self) -> &str {
        "energy"
    }

    fn taps(&self) -> Vec<Tap> {
        self.at.clone()
    }

    fn terms(&self, lesson: &Lesson<'_>) -> Result<Vec<Term>, DistillError> {
        let missing = |role| move |source| DistillError::MissingTap { role, source };
        let term = |&tap: &Tap| {
            let teacher = lesson.teacher.require(tap).map_err(missing("teacher"))?;
            let student = lesson.student.require(tap).map_err(missing("student"))?;
            // The networks may differ in channels, and do not in pixels. `from_candle` gives the gradient, too.
            let value = Value::from_candle(&[teacher, student], |maps| {
                let energy = |map: &candle_core::Tensor| map.sqr()?.mean(1);
                let (teacher, student) = (energy(&maps[0])?, energy(&maps[1])?);
                (student - &teacher)?.broadcast_div(&teacher.mean_all()?)?.sqr()?.mean_all()
            })?;
            Ok(Term { name: format!("energy/{tap}"), value, weight: self.weight })
        };
        self.at.iter().map(term).collect()
    }
}

/// Runs the experiment `config` with the method added; gives the AP.
pub fn run(config: &str, sets: &[String]) -> Result<f64, Box<dyn std::error::Error>> {
    let levels = [3, 4].map(|level| Tap::Fpn(Level(level)));
    let finished = Training::of(Config::load(config, sets)?)
        .method(move |_| Ok(Box::new(Energy { at: levels.to_vec(), weight: 0.1 })))
        .run()?;
    Ok(finished.student.row.stats[0])
}

#[allow(clippy::print_stdout)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let config = args.next().unwrap_or_else(|| "quickstart.toml".to_owned());
    println!("{:.1} AP", 100.0 * run(&config, &args.collect::<Vec<_>>())?);
    Ok(())
}
