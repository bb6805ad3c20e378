//! The observer that writes TensorBoard's event files, into the run's folder `tensorboard/`.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::clock::now;
use super::event::{Begin, End, Eval, Evaluated, Observer, Step};
use crate::config::flat;
use crate::engine::error::Result;
use crate::eval::STAT_NAMES;
use crate::machine::memory_mib;
use crate::report::csv::measures;
use crate::report::draw::png;
use crate::report::run_folder::{RunFolder, SharesLine};
use crate::report::tensorboard::{EventFile, Hyperparameter, Point};

/// Writes scalars of updates and evaluations, each evaluation's picture, the run's settings and its end.
#[derive(Debug, Default)]
pub struct TensorBoard {
    open: RefCell<Option<(EventFile, u64)>>,
}

impl Observer for TensorBoard {
    fn begin(&self, begin: &Begin<'_>) -> Result<()> {
        let mut events = EventFile::begin(&begin.folder.tensorboard(), now(), begin.step)?;
        if begin.step == 0 {
            let name = begin.folder.path().file_name().unwrap_or_default().to_string_lossy();
            events.add_hyperparameters(now(), &name, &settings(begin.folder), &["eval/AP", "eval/top1"])?;
        }
        *self.open.borrow_mut() = Some((events, begin.log_every.max(1)));
        Ok(())
    }

    fn wants_picture(&self) -> bool {
        true
    }

    fn step(&self, event: &Step<'_>) -> Result<()> {
        let mut open = self.open.borrow_mut();
        let Some((events, every)) = &mut *open else { return Ok(()) };
        if !event.step.is_multiple_of(*every) && event.step != event.total {
            return Ok(());
        }
        let loss: f64 = event.terms.iter().map(|term| term.weighted).sum();
        let mut numbers = vec![
            ("train/loss".to_owned(), loss),
            ("train/lr".to_owned(), event.lr),
            ("train/epoch".to_owned(), event.epoch),
            ("train/gradient_norm".to_owned(), event.gradient_norm),
            ("time/step_ms".to_owned(), 1e3 * event.took.as_secs_f64()),
            ("time/data_wait_ms".to_owned(), 1e3 * event.waited.as_secs_f64()),
        ];
        numbers.extend(memory_mib().map(|memory| ("memory_mib".to_owned(), memory)));
        numbers.extend(event.terms.iter().map(|term| (format!("loss/{}", term.name), term.weighted)));
        Ok(events.add(now(), event.step, scalars(numbers))?)
    }

    fn eval(&self, event: &Eval<'_>) -> Result<()> {
        let mut open = self.open.borrow_mut();
        let Some((events, _)) = &mut *open else { return Ok(()) };
        let of = |prefix: &str, found: &Evaluated| scalars(measures(prefix, &found.logged, &STAT_NAMES));
        let mut points = of("eval", event.weights);
        points.extend(event.average.into_iter().flat_map(|average| of("ema", average)));
        if let Some(picture) = event.picture {
            let (width, height) = picture.dimensions();
            // A picture without pixels, of no image with objects, has no PNG form.
            if let Ok(png) = png(picture) {
                points.push(("detections".to_owned(), Point::Png(png, width, height)));
            }
        }
        Ok(events.add(now(), event.step, points)?)
    }

    fn shares(&self, line: &SharesLine) -> Result<()> {
        let mut open = self.open.borrow_mut();
        let Some((events, _)) = &mut *open else { return Ok(()) };
        let shares = line.shares.shares().map(|(name, share)| (format!("share/{name}"), share));
        Ok(events.add(now(), line.step, scalars(shares.collect()))?)
    }

    fn end(&self, end: &End) -> Result<()> {
        let Some((mut events, _)) = self.open.borrow_mut().take() else { return Ok(()) };
        match *end {
            End::Finished { step } => Ok(events.add_end(now(), step, true)?),
            End::Failed { step, .. } => Ok(events.add_end(now(), step, false)?),
            // It goes on later.
            End::Interrupted { .. } => Ok(()),
        }
    }
}

fn scalars(numbers: Vec<(String, f64)>) -> Vec<(String, Point)> {
    numbers.into_iter().map(|(tag, number)| (tag, Point::Scalar(number))).collect()
}

/// The settings of the run as its folder records them.
fn settings(folder: &RunFolder) -> BTreeMap<String, Hyperparameter> {
    let text = std::fs::read_to_string(folder.config()).unwrap_or_default();
    let Ok(document) = text.parse::<toml::Table>() else { return BTreeMap::new() };
    let value = |text: String| match (text.parse::<f64>(), text.parse::<bool>()) {
        (Ok(number), _) => Hyperparameter::Number(number),
        (_, Ok(switch)) => Hyperparameter::Switch(switch),
        _ => Hyperparameter::Text(text.trim_matches('"').to_owned()),
    };
    flat(&document).into_iter().map(|(key, text)| (key, value(text))).collect()
}
