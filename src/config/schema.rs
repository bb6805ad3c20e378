//! Every key of a configuration: type, default, unit and source.
//!
//! Defaults are torchvision's (`torchvision.models.detection`) wherever it has the same setting.

mod classify;
mod cohort;
mod network;
mod pretrain;
mod run;
mod training;

use ckd_detectors::backbone::{BackboneConfig, Plan};
use ckd_detectors::pyramid::Pyramid;
use ckd_detectors::taps::{Level, Tap};
use ckd_settings::{Check, Overlay, Read, section};

pub use ckd_detectors::anchors::AnchorCorners;
pub use ckd_detectors::images::Normalization;
pub use ckd_detectors::nn::{HeadNorm, NormKind};
pub use ckd_detectors::roi_heads::RoiAlign;
pub use ckd_detectors::settings::{Architecture, DetectorSettings};

pub use crate::data::augment::{Crop, LabelledInput, Policy};
pub use crate::data::box_augment::BoxAugment;
pub use crate::data::input::Input;
pub use crate::data::label_order::LabelOrder;
pub use crate::data::labelled_data::{LabelledData, LabelledKind};
pub use crate::data::open::{Data, DataKind};
pub use crate::data::synth::Synth;
pub use crate::data::transform::Resize;
pub use crate::data::unlabelled_images::{UnlabelledImages, UnlabelledKind};
pub use classify::{Bn, ClassifierStudent, ClassifierTeacher, ClassifyConfig, Labelled, Probe};
pub use cohort::{CohortConfig, Peer};
pub use network::{Backbone, Network, StrideIn, Student, Teacher, TeacherPrecision, TrainedBy};
pub use pretrain::{FrozenBackbone, PretrainConfig, TrainedBackbone};
pub use run::{Run, Task};
pub use training::{Engine, Eval, OnNonFinite, Precision, Stage, Train};

pub use crate::optim::{Length, Optim, OptimKind, Schedule, ScheduleKind};

use crate::distill::{Distill, MapsAt, Offer, RowsAt};

section! {
    /// Experiment: a student, its teacher, and the distillation methods.
    pub struct Config with run: Run {
        /// The kind of detector, shared by teacher and student.
        pub detector: DetectorSettings,
        /// Resizing, flips and padding of images.
        pub input: Input = Input::default(),
        /// Normalisation of the student's images.
        pub normalization: Normalization = Normalization::default(),
        /// The images and boxes.
        pub data: Data,
        /// The network to learn from; without it the student trains alone.
        pub teacher: Option<Teacher>,
        /// The network to train.
        pub student: Student,
        /// Methods of distillation, one entry each; empty: plain training.
        pub distill: Vec<Distill> = Vec::new(),
    }
}

impl Config {
    fn check(&self, check: &mut Check<'_>) {
        let offer = self.offer();
        for (index, entry) in self.distill.iter().enumerate() {
            let check = &mut check.within(&format!("distill.{index}"));
            check.that(
                self.teacher.is_some(),
                "method",
                format!("is {:?}, but there is no teacher to learn from", entry.word()),
                "add a [teacher] table, or remove [[distill]]",
            );
            entry.check_place(&offer, check);
        }
        let trains_teacher = self.teacher.as_ref().is_some_and(|teacher| teacher.train.is_some());
        check.that(
            self.data.unlabelled.is_none() || !trains_teacher,
            "data.unlabelled",
            "is given, but teacher.train trains the teacher on its student's data, pseudo-labels included",
            "train the teacher first, and name its weights: teacher.weights = \"FILE\"",
        );
        if let Some(teacher) = &self.teacher {
            self.check_teacher(teacher, &mut check.within("teacher"));
        }
        self.detector.check_levels(&trunk(&self.student.network), &mut check.within("detector"));
        self.run.check_comparison(&self.distill, check);
        let backbone = self.student.network.backbone;
        check.that(
            backbone.is_residual() || self.run.engine.recompute.is_empty(),
            "engine.recompute",
            format!("names stages of a ResNet, but the student's backbone is {backbone}"),
            "leave it out",
        );
    }

    fn check_teacher(&self, teacher: &Teacher, check: &mut Check<'_>) {
        check.that(
            teacher.weights.is_some()
                || teacher.train.is_some()
                || self.distill.is_empty()
                || teacher.network.allow_random_weights,
            "weights",
            "is missing: the student is to learn from a teacher without weights",
            "give `weights = \"FILE\"`, `train = \"CONFIG\"` or `train = {}` (to time a step, allow_random_weights = true)",
        );
        let Some(Overlay(own)) = &teacher.detector else {
            // Where both have the same levels, it is said of the student.
            if self.pyramid(&teacher.network) != self.pyramid(&self.student.network) {
                self.detector.check_levels(&trunk(&teacher.network), &mut check.within("detector"));
            }
            return;
        };
        let (check, students) = (&mut check.within("detector"), &self.detector);
        check.that(
            own.architecture == students.architecture,
            "architecture",
            format!("is \"{}\", but the student is a {}", own.architecture, students.architecture),
            "teacher and student are compared level by level and region by region: remove it",
        );
        if own.architecture != students.architecture {
            return;
        }
        own.check_all(check);
        own.check_levels(&trunk(&teacher.network), check);
        let per_cell = |detector: &DetectorSettings, network: &Network| {
            detector.anchors_per_cell(&detector.architecture.pyramid(&trunk(network)))
        };
        let (theirs, ours) = (per_cell(own, &teacher.network), per_cell(students, &self.student.network));
        check.that(
            own.architecture.logits() != Tap::AnchorLogits || theirs == ours,
            "anchor_sizes",
            format!("makes {theirs} anchors a cell, the student has {ours}"),
            "the logits of the same anchors are compared: give both as many sizes and aspect ratios",
        );
    }

    /// Rows and maps that a pair of such detectors offers to methods of distillation.
    pub fn offer(&self) -> Offer {
        let architecture = self.detector.architecture;
        let rows = match architecture {
            Architecture::FasterRcnn => vec![RowsAt::RoiLogits, RowsAt::RoiBoxes],
            Architecture::RetinaNet | Architecture::Fcos => vec![RowsAt::AnchorLogits, RowsAt::AnchorBoxes],
        };
        let (levels, ours) = (self.common_levels(), self.pyramid(&self.student.network));
        let networks = match &self.teacher {
            Some(teacher) if levels != ours.levels() => format!(
                "{architecture} on {} with the strides of {}",
                self.student.network.backbone, teacher.network.backbone
            ),
            _ => architecture.to_string(),
        };
        let levels = levels.iter().map(Level::to_string).collect();
        Offer { networks, rows, maps: MapsAt::Fpn, levels }
    }

    /// Levels of the feature pyramid that teacher and student have with the same stride; without a teacher,
    /// the student's.
    pub fn common_levels(&self) -> Vec<Level> {
        let ours = self.pyramid(&self.student.network);
        match &self.teacher {
            Some(teacher) => ours.common(&self.pyramid(&teacher.network)),
            None => ours.levels().to_vec(),
        }
    }

    /// Feature pyramid of the configuration's detector on the trunk of `network`.
    pub fn pyramid(&self, network: &Network) -> Pyramid {
        self.detector.architecture.pyramid(&trunk(network))
    }

    /// The detector of the teacher: the student's, but for what `[teacher.detector]` says.
    pub fn teacher_detector(&self) -> &DetectorSettings {
        let own = self.teacher.as_ref().and_then(|teacher| teacher.detector.as_ref());
        own.map_or(&self.detector, |own| &own.0)
    }

    /// Resampling of the teacher's images.
    pub fn teacher_resize(&self) -> Resize {
        self.teacher.as_ref().and_then(|teacher| teacher.resize).unwrap_or(self.input.resize)
    }

    /// Normalisation of the teacher's images.
    pub fn teacher_normalization(&self) -> &Normalization {
        let own = self.teacher.as_ref().and_then(|teacher| teacher.normalization.as_ref());
        own.unwrap_or(&self.normalization)
    }
}

/// Layers of a network's trunk, as wide as published.
fn trunk(network: &Network) -> Plan {
    BackboneConfig::new(network.backbone).plan().unwrap_or_default()
}
