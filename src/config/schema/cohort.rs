//! Networks that learn from each other: `task = "cohort"`.

use std::path::PathBuf;

use ckd_detectors::classifier::Architecture;
use ckd_settings::{Check, section};

use super::check_name;
use super::classify::{
    Bn, ClassifierStudent, ClassifyConfig, LabelledData, LabelledInput, Probe, Task, check_labelled,
};
use super::data::Normalization;
use super::training::{Engine, Eval, Optim, Schedule, Train};
use crate::distill::mcl::{Cohort, CohortMethod};

section! {
    /// One experiment on image classifiers that train together, from scratch and without a teacher.
    pub struct CohortConfig {
        /// Names the run's folder. Default: the name of the file.
        pub name: String,
        /// What is learned; the other keys depend on it.
        pub task: Task,
        /// Every random number of the run follows from it.
        pub seed: u64 = 0,
        /// The folder that runs are written to: OUTPUT/NAME/peer0/, peer1/, ...
        pub output: PathBuf = PathBuf::from("runs"),
        /// Weight of every cross-entropy with the labels in the total loss.
        pub loss_weight: f64 = 1.0,
        /// The share of the target that is spread over all classes.
        pub label_smoothing: f64 = 0.0,
        /// How images are cropped, flipped and coloured; all networks see the same.
        pub input: LabelledInput,
        /// What images are normalised with. Default: the data set's own mean and deviation.
        pub normalization: Option<Normalization>,
        /// The images and labels.
        pub data: LabelledData,
        /// The networks, two or more, equal or not.
        pub peer: Vec<Peer> = Vec::new(),
        /// How they learn from each other.
        pub cohort: Cohort,
        /// The optimiser: SGD, of all networks and of what is trained beside them.
        pub optim: Optim,
        /// How long, and the learning rate over time.
        pub schedule: Schedule,
        /// The training loop; an update is one of all networks, on the same images.
        pub train: Train,
        /// How training computes.
        pub engine: Engine,
        /// The evaluation loop.
        pub eval: Eval,
    }
}

section! {
    /// A network of a cohort.
    pub struct Peer {
        /// The network.
        pub network: Architecture,
    }
}

impl CohortConfig {
    fn check(&self, check: &mut Check<'_>) {
        check_name(&self.name, check);
        check_labelled(self.loss_weight, self.label_smoothing, &self.engine, check);
        check.that(
            !self.train.compare_alone,
            "train.compare_alone",
            "needs a [[distill]] entry to compare with",
            "set compare_alone = false: without distillation the student trains alone anyway",
        );
        let peers = self.peer.len();
        check.that(
            peers >= 2,
            "peer",
            match peers {
                0 => "is missing: a cohort has no network".to_owned(),
                _ => "is one network, which has nobody to learn from".to_owned(),
            },
            "give two or more [[peer]] tables, or train one network with task = \"classify\"",
        );
        let batch = self.train.batch_size;
        check.that(
            batch >= 2,
            "train.batch_size",
            format!("is {batch}, and an image alone has no other to be compared with"),
            "give 2 or more; 128 with data.order = \"class_pairs\" is the authors'",
        );
        check.that(
            self.train.share_steps == 0,
            "train.share_steps",
            "is of methods that learn from a teacher",
            "leave it out",
        );
        if self.cohort.method == CohortMethod::LMcl {
            self.check_layers(check);
        }
    }

    fn check_layers(&self, check: &mut Check<'_>) {
        let layers = &self.cohort.layers;
        let optim = &self.optim;
        for (key, own) in [("norm", optim.norm_decay()), ("bias", optim.bias_decay())] {
            check.that(
                own == optim.weight_decay || layers.meta_every == 0,
                &format!("optim.weight_decay_{key}"),
                format!("is {own}, but l_mcl's virtual updates decay everything by weight_decay"),
                "leave it out",
            );
        }
        let able: Vec<&str> = Architecture::ALL
            .iter()
            .filter(|network| network.has_branches())
            .map(|network| network.name())
            .collect();
        for (index, peer) in self.peer.iter().enumerate() {
            check.that(
                peer.network.has_branches(),
                &format!("peer.{index}.network"),
                format!("is {}, of whose stages l_mcl has no auxiliary branches", peer.network),
                format!("choose from {}, or set cohort.method = \"mcl\"", able.join(", ")),
            );
        }
    }

    /// What images are normalised with.
    pub fn normalization(&self) -> Normalization {
        self.normalization.clone().unwrap_or_else(|| self.data.kind.normalization())
    }

    /// The experiment of one of its networks on its own: the same data and schedule.
    pub fn alone(&self, network: Architecture) -> ClassifyConfig {
        ClassifyConfig {
            name: self.name.clone(),
            task: Task::Classify,
            seed: self.seed,
            output: self.output.clone(),
            loss_weight: self.loss_weight,
            label_smoothing: self.label_smoothing,
            input: self.input.clone(),
            normalization: self.normalization.clone(),
            data: self.data.clone(),
            teacher: None,
            student: ClassifierStudent { network, init: None, allow_random_weights: false },
            distill: Vec::new(),
            probe: Probe { bn: Bn::Frozen },
            optim: self.optim.clone(),
            schedule: self.schedule.clone(),
            train: self.train.clone(),
            engine: self.engine.clone(),
            eval: self.eval.clone(),
        }
    }
}
