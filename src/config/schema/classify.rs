//! Image classification: `task = "classify"`, and `task = "probe"`, which trains a linear layer on a trained
//! network.

use std::path::PathBuf;

use ckd_detectors::classifier::Architecture;
use ckd_settings::{Check, choices, section};

use super::network::{TrainedBy, check_origin};
use super::run::{Run, Task};
use crate::data::augment::LabelledInput;
use crate::data::labelled_data::LabelledData;
use crate::distill::{Distill, MapsAt, Offer, RowsAt};
use ckd_detectors::images::Normalization;

section! {
    /// Experiment on image classification.
    pub struct ClassifyConfig with run: Run, labelled: Labelled {
        /// The network to learn from; without it the student trains alone.
        pub teacher: Option<ClassifierTeacher>,
        /// The network to train.
        pub student: ClassifierStudent,
        /// Methods of distillation, one entry each; empty: plain training.
        pub distill: Vec<Distill> = Vec::new(),
        /// Use of the trained network, for task = "probe".
        pub probe: Probe = Probe::default(),
    }
}

section! {
    /// Labelled images, and the loss of their labels.
    pub struct Labelled {
        /// Weight of the cross-entropy with the labels in the total loss; in a cohort, of each network's.
        pub loss_weight: f64 = 1.0,
        /// The share of the target that is spread over all classes.
        pub label_smoothing: f64 = 0.0,
        /// Augmentation of images: crop, flip, colour; all networks of a cohort see the same.
        pub input: LabelledInput = LabelledInput::default(),
        /// Normalisation of the student's images. Default: the data set's own mean and deviation.
        pub normalization: Option<Normalization>,
        /// The images and labels.
        pub data: LabelledData,
    }
}

impl Labelled {
    fn check(&self, check: &mut Check<'_>) {
        check.not_negative("loss_weight", self.loss_weight);
        check.fraction("label_smoothing", self.label_smoothing);
    }

    /// Normalisation of the images.
    pub fn normalization(&self) -> Normalization {
        self.normalization.unwrap_or_else(|| self.data.kind.normalization())
    }
}

section! {
    /// The network to learn from: exactly one of `weights` and `train` says where it comes from.
    pub struct ClassifierTeacher {
        /// The network.
        pub network: Architecture,
        /// Weights of the network: .safetensors, .pth, .th (RepDistiller's and mdistiller's checkpoints too).
        pub weights: Option<PathBuf>,
        /// Train it first, on this experiment's data: as the configuration of this name says, or, with a table, as this
        /// experiment's own settings and those of the table say (`schedule`, `optim`, `input`, ...; `seed` and
        /// `train.compare_alone` are the student's alone). A teacher that was trained so before is used again.
        pub train: Option<TrainedBy>,
        /// Normalisation of its images. Default: the student's normalisation.
        pub normalization: Option<Normalization>,
        /// Begin with random weights where the weight files named here do not exist. For timing and trying
        /// out only: such a run's results mean nothing.
        pub allow_random_weights: bool = false,
    }
}

impl ClassifierTeacher {
    fn check(&self, check: &mut Check<'_>) {
        check_origin(self.weights.is_some(), self.train.is_some(), check);
    }
}

section! {
    /// The network to train.
    pub struct ClassifierStudent {
        /// The network.
        pub network: Architecture,
        /// Weights to begin with; the last layer may have other classes and then starts at random. A probe's
        /// trained network. `run:NAME` is the last weights of the run of that name below `output`.
        pub init: Option<PathBuf>,
        /// Begin with random weights where the weight files named here do not exist. For timing and trying
        /// out only: such a run's results mean nothing.
        pub allow_random_weights: bool = false,
    }
}

choices! {
    /// Batch norms of a probe's frozen network.
    pub enum Bn {
        /// They use their running statistics and keep them: a linear probe in the strict sense.
        Frozen = "frozen",
        /// They use and track the statistics of the new images, as the ICD authors' code does.
        Adapt = "adapt",
    }
}

section! {
    /// A linear layer on a trained network that stays as it is.
    pub struct Probe {
        /// The network's batch norms while the layer trains.
        pub bn: Bn = Bn::Frozen,
    }
}

impl ClassifyConfig {
    fn check(&self, check: &mut Check<'_>) {
        self.run.check_nothing_is_recomputed(check);
        self.check_taught(check);
        self.check_probed(check);
        self.run.check_comparison(&self.distill, check);
    }

    /// Rows and maps that teacher and student offer to methods of distillation; without a teacher, the student's.
    pub fn offer(&self) -> Offer {
        let ours = self.student.network.stages();
        let stages = self.teacher.as_ref().map_or(ours, |teacher| teacher.network.stages().min(ours));
        Offer {
            networks: "a pair of these classifiers".to_owned(),
            rows: vec![RowsAt::Logits, RowsAt::Embedding],
            maps: MapsAt::Stages,
            levels: (1..=stages).map(|stage| format!("stage{stage}")).collect(),
        }
    }

    fn check_taught(&self, check: &mut Check<'_>) {
        let Some(teacher) = &self.teacher else {
            check.that(
                self.distill.is_empty(),
                "distill",
                "is given, but there is no teacher to learn from",
                "add a [teacher] table, or remove [[distill]]",
            );
            return;
        };
        check.that(
            teacher.weights.is_some()
                || teacher.train.is_some()
                || self.distill.is_empty()
                || teacher.allow_random_weights,
            "teacher.weights",
            "is missing: the student is to learn from a teacher without weights",
            "give `weights = \"FILE\"`, `train = \"CONFIG\"` or `train = {}`",
        );
        let offer = self.offer();
        for (index, entry) in self.distill.iter().enumerate() {
            entry.check_place(&offer, &mut check.within(&format!("distill.{index}")));
        }
    }

    fn check_probed(&self, check: &mut Check<'_>) {
        if self.run.task != Task::Probe {
            return;
        }
        let has_network = self.student.init.is_some() || self.student.allow_random_weights;
        check.that(
            has_network,
            "student.init",
            "is missing: a probe needs a trained network",
            "give the weights of a run, runs/NAME/last.safetensors",
        );
        check.that(
            self.teacher.is_none(),
            "teacher",
            "is given, but a probe has none",
            "remove [teacher] and [[distill]]",
        );
    }

    /// Normalisation of the student's images.
    pub fn student_normalization(&self) -> Normalization {
        self.labelled.normalization()
    }

    /// Normalisation of the teacher's images.
    pub fn teacher_normalization(&self) -> Normalization {
        let own = self.teacher.as_ref().and_then(|teacher| teacher.normalization);
        own.unwrap_or_else(|| self.student_normalization())
    }
}
