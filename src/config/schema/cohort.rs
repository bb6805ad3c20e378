//! Networks that learn from each other: `task = "cohort"`.

use ckd_detectors::classifier::Architecture;
use ckd_settings::{Check, section};

use super::classify::{ClassifierStudent, ClassifyConfig, Labelled};
use super::run::{Run, Task};
use crate::distill::mcl::{Cohort, CohortMethod};
use crate::optim::OptimKind;

section! {
    /// Experiment on image classifiers that train together, from scratch and without a teacher.
    pub struct CohortConfig with run: Run, labelled: Labelled {
        /// The networks, two or more, equal or not.
        pub peer: Vec<Peer> = Vec::new(),
        /// Mutual learning of the networks.
        pub cohort: Cohort,
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
        self.run.check_nothing_is_recomputed(check);
        self.run.check_comparison(&[], check);
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
        let batch = self.run.train.batch_size;
        check.that(
            batch >= 2,
            "train.batch_size",
            format!("is {batch}, and an image alone has no other to be compared with"),
            "give 2 or more; 128 with data.order = \"class_pairs\" is the authors'",
        );
        check.that(
            self.run.train.share_steps.unwrap_or(0) == 0,
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
        let optim = &self.run.optim;
        check.that(
            !self.run.train.sync_bn || layers.meta_every == 0,
            "train.sync_bn",
            "is true, but l_mcl's meta step is made on one part",
            "leave it out, or set cohort.layers.meta_every = 0",
        );
        check.that(
            optim.kind == OptimKind::Sgd || layers.meta_every == 0,
            "optim.kind",
            format!("is {:?}, but l_mcl's virtual updates are those of SGD", optim.kind.word()),
            "set optim.kind = \"sgd\", or cohort.layers.meta_every = 0 to leave the pairs' weights as they begin",
        );
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

    /// The experiment of one of its networks on its own: the same data and schedule.
    pub fn alone(&self, network: Architecture) -> ClassifyConfig {
        let run = Run { task: Task::Classify, ..self.run.clone() };
        ClassifyConfig::new(run, self.labelled.clone(), ClassifierStudent::new(network))
    }
}
