//! Trains and distils without any file of settings: `cargo run --release --example train_from_code [FOLDER]`
//!
//! A synthetic data set is drawn, a teacher is trained, and a narrower student learns from it by CKD.

use std::path::{Path, PathBuf};

use ckd_det::Training;
use ckd_det::config::{
    Architecture, Backbone, Config, Data, DataKind, DetectorSettings, Input, Network, NormKind, Optim, Run,
    Schedule, ScheduleKind, Student, Synth, Teacher, Train, TrainedBy,
};
use ckd_det::distill::{Ckd, Rows, RowsAt};

/// Sizes of the experiment.
pub struct Sizes {
    /// Images to learn from.
    pub images: usize,
    /// Their side in pixels.
    pub side_px: u32,
    /// Updates of each network.
    pub steps: u64,
    /// Channels of the teacher's stem; the student has half as many.
    pub width: usize,
}

/// A detector of `width` that trains alone; its run goes to `folder`/runs/`name`.
pub fn plain(name: &str, width: usize, folder: &Path, sizes: &Sizes) -> Config {
    let schedule = Schedule {
        steps: Some(sizes.steps),
        kind: ScheduleKind::Cosine,
        warmup_steps: sizes.steps / 10,
        ..Schedule::default()
    };
    let run = Run {
        output: folder.join("runs"),
        train: Train { batch_size: 2, ..Train::default() },
        ..Run::new(name.to_owned(), Optim::new(0.02), schedule)
    };
    let synth = Synth::new(sizes.images, sizes.images.div_ceil(2), sizes.side_px, 3);
    let data = Data { synth: Some(synth), ..Data::new(DataKind::Synth, folder.join("data")) };
    let anchors = [8.0, 16.0, 32.0, 64.0, 128.0].map(|side| vec![side]).to_vec();
    let detector = DetectorSettings {
        fpn_channels: 4 * width,
        anchor_sizes: Some(anchors),
        ..DetectorSettings::new(Architecture::FasterRcnn)
    };
    Config {
        input: Input { short_side_px: vec![sizes.side_px], long_side_px: sizes.side_px, ..Input::default() },
        ..Config::new(run, detector, data, Student::new(network(width)))
    }
}

/// A narrow ResNet-18 with random weights.
fn network(width: usize) -> Network {
    Network { width: Some(width), norm: NormKind::Bn, ..Network::new(Backbone::RESNET18) }
}

/// The student, taught by the other configuration's network.
pub fn distilled(folder: &Path, sizes: &Sizes) -> (Config, Config) {
    let teacher = plain("teacher", sizes.width, folder, sizes);
    let mut student = plain("student", sizes.width / 2, folder, sizes);
    student.detector = teacher.detector.clone();
    student.teacher = Some(Teacher {
        train: Some(TrainedBy::Named("teacher".to_owned())),
        ..Teacher::new(network(sizes.width))
    });
    student.distill = vec![Ckd { weight: 0.5, ..Ckd::new(Rows::new(RowsAt::RoiLogits)) }.into()];
    (student, teacher)
}

/// Trains both; gives the student's AP.
pub fn run(folder: &Path, sizes: &Sizes) -> Result<f64, Box<dyn std::error::Error>> {
    let (student, teacher) = distilled(folder, sizes);
    let finished = Training::new(student)?.taught_by(teacher)?.run()?;
    Ok(finished.student.row.stats[0])
}

#[allow(clippy::print_stdout)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).map_or_else(|| PathBuf::from("from_code"), PathBuf::from);
    let sizes = Sizes { images: 400, side_px: 128, steps: 400, width: 32 };
    println!("{:.1} AP; everything is in {}", 100.0 * run(&folder, &sizes)?, folder.display());
    Ok(())
}
