//! A backbone that learns from a frozen one on images without labels: `task = "pretrain"`.

use std::path::PathBuf;

use ckd_detectors::classifier::Architecture;
use ckd_detectors::images::Normalization;
use ckd_settings::{Check, section};

use super::run::Run;
use crate::data::augment::LabelledInput;
use crate::data::unlabelled_images::UnlabelledImages;
use crate::distill::{Distill, MapsAt, Offer, RowsAt};

section! {
    /// Experiment on images without labels: the student's backbone learns the features of a frozen one. Detectors and
    /// classifiers begin with what it writes, by student.init.
    pub struct PretrainConfig with run: Run {
        /// Augmentation of the images: crop, flip, colour. Both networks see the same.
        pub input: LabelledInput = LabelledInput::default(),
        /// Blend each image with another of its batch, all by one share, uniform in [0, 1).
        pub mix_up: bool = true,
        /// Normalisation of the images, for both networks: the teacher's.
        pub normalization: Normalization = Normalization::default(),
        /// The images.
        pub data: UnlabelledImages,
        /// The backbone to learn from.
        pub teacher: FrozenBackbone,
        /// The backbone to train.
        pub student: TrainedBackbone,
        /// Methods of distillation, one entry each: dense and queue, and beside them any that compares stages.
        pub distill: Vec<Distill> = Vec::new(),
    }
}

section! {
    /// The backbone to learn from.
    pub struct FrozenBackbone {
        /// The network; its last layer does not matter.
        pub network: Architecture,
        /// Weights of the network: of a classifier, of a backbone, or of a detector with that backbone.
        pub weights: Option<PathBuf>,
        /// Begin with random weights where the weight files named here do not exist. For timing and trying
        /// out only: such a run's results mean nothing.
        pub allow_random_weights: bool = false,
    }
}

section! {
    /// The backbone to train.
    pub struct TrainedBackbone {
        /// The network; its last layer is left out.
        pub network: Architecture,
        /// Weights to begin with: of a classifier, of a backbone, or of a detector with that backbone.
        pub init: Option<PathBuf>,
        /// Begin with random weights where the weight files named here do not exist. For timing and trying
        /// out only: such a run's results mean nothing.
        pub allow_random_weights: bool = false,
    }
}

impl PretrainConfig {
    fn check(&self, check: &mut Check<'_>) {
        self.run.check_nothing_is_recomputed(check);
        check.that(
            !self.run.train.compare_alone,
            "train.compare_alone",
            "is true, but without a teacher there is nothing to learn from images alone",
            "set compare_alone = false",
        );
        let levels = self.offer().levels;
        let last = levels.last().cloned().unwrap_or_default();
        let measured = |entry: &&Distill| ["dense", "queue"].contains(&entry.word()) && !entry.is_off();
        let always = |entry: &Distill| entry.timing().from_step == 0 && entry.timing().until_step.is_none();
        check.that(
            self.distill.iter().filter(measured).any(always),
            "distill",
            "has no entry by which the backbone is measured, and learns at every step: dense or queue",
            format!("add [[distill]] with method = \"dense\", at = \"stages\", levels = [\"{last}\"]"),
        );
        for (index, entry) in self.distill.iter().enumerate() {
            entry.check_place(&self.offer(), &mut check.within(&format!("distill.{index}")));
        }
        check.that(
            self.teacher.weights.is_some() || self.teacher.allow_random_weights,
            "teacher.weights",
            "is missing: the student is to learn from a teacher without weights",
            "give `weights = \"FILE\"` (to time a step, allow_random_weights = true)",
        );
    }

    /// Rows and maps that both backbones offer to methods of distillation.
    pub fn offer(&self) -> Offer {
        let stages = self.student.network.stages().min(self.teacher.network.stages());
        Offer {
            networks: "a pair of these backbones".to_owned(),
            rows: vec![RowsAt::Embedding],
            maps: MapsAt::Stages,
            levels: (1..=stages).map(|stage| format!("stage{stage}")).collect(),
        }
    }
}
