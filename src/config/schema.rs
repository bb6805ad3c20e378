//! Every key of a configuration: type, default, unit and source.
//!
//! Defaults are torchvision's (`torchvision.models.detection`) wherever it has the same setting.

mod classify;
mod cohort;
mod data;
mod detector;
mod distill;
mod network;
mod training;

use std::path::PathBuf;

pub use classify::{
    Bn, ClassifierStudent, ClassifierTeacher, ClassifyConfig, Crop, LabelOrder, LabelledData, LabelledInput,
    LabelledKind, Policy, Probe, Task,
};
pub use cohort::{Bank, Cohort, CohortConfig, CohortMethod, Layers, Peer, SameImage};
pub use data::{Data, DataKind, Input, Normalization, Resize, Synth};
pub use detector::{
    AnchorCorners, Architecture, BoxLoss, Clip, Detector, HeadNorm, P6From, Retina, Roi, RoiAlign, RoiHead,
    Rpn,
};
pub use distill::{
    At, Ckd, Crd, Cwd, Dist, Distill, Dkd, Fcka, FckaOf, Fgd, Fgfi, FitNet, Icd, IcdDirection, IcdScale, Kd,
    Lcka, Maps, MapsAt, Method, MethodCard, Mimic, Negatives, Pkd, PkdStd, Place, Rcka, Regressor, ReviewKd,
    Rkd, RowNorm, Rows, RowsAt, Timing,
};
pub use network::{Backbone, Network, Norm, StrideIn, Student, Teacher};
pub use training::{Engine, Eval, Length, Optim, Precision, Schedule, ScheduleKind, Stage, Train};

use super::section::section;

section! {
    /// One experiment: a student, the teacher it learns from, and how.
    pub struct Config {
        /// Names the run's folder. Default: the name of the file.
        pub name: String,
        /// What is learned; the other keys depend on it.
        pub task: Task = Task::Detect,
        /// Every random number of the run follows from it.
        pub seed: u64 = 0,
        /// The folder that runs are written to: OUTPUT/NAME/.
        pub output: PathBuf = PathBuf::from("runs"),
        /// The kind of detector, shared by teacher and student.
        pub detector: Detector,
        /// How images are resized, flipped and padded.
        pub input: Input,
        /// What the student's images are normalised with.
        pub normalization: Normalization,
        /// The images and boxes.
        pub data: Data,
        /// The network to learn from; without it the student trains alone.
        pub teacher: Option<Teacher>,
        /// The network to train.
        pub student: Student,
        /// What the student learns from the teacher, one entry a method; empty: plain training.
        pub distill: Vec<Distill> = Vec::new(),
        /// The optimiser: SGD.
        pub optim: Optim,
        /// How long, and the learning rate over time.
        pub schedule: Schedule,
        /// The training loop.
        pub train: Train,
        /// How training computes.
        pub engine: Engine,
        /// The evaluation loop.
        pub eval: Eval,
    }
}

impl Config {
    /// The detector of the teacher: the student's, but for what `[teacher.detector]` says.
    pub fn teacher_detector(&self) -> &Detector {
        let own = self.teacher.as_ref().and_then(|teacher| teacher.detector.as_ref());
        own.map_or(&self.detector, |own| &own.0)
    }

    /// How the teacher's images are resampled.
    pub fn teacher_resize(&self) -> Resize {
        self.teacher.as_ref().and_then(|teacher| teacher.resize).unwrap_or(self.input.resize)
    }

    /// What the teacher's images are normalised with.
    pub fn teacher_normalization(&self) -> &Normalization {
        let own = self.teacher.as_ref().and_then(|teacher| teacher.normalization.as_ref());
        own.unwrap_or(&self.normalization)
    }
}
