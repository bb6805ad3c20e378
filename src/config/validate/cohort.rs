//! Cohorts: what their keys must be, alone and together.

use ckd_detectors::classifier::Architecture;

use super::{Check, Problem};
use crate::config::diagnose::ConfigError;
use crate::config::load::{Loaded, Root};
use crate::config::lookup::ConfigSource;
use crate::config::schema::{Cohort, CohortConfig, CohortMethod, Task};
use crate::config::section::Key;
use crate::config::tree::Node;

impl Root for CohortConfig {
    const TASKS: &'static [Task] = &[Task::Cohort];

    fn document_root(keys: &mut Vec<Key>) {
        Self::document_fields("", keys);
    }

    fn problems(&self) -> Vec<Problem> {
        // What it has in common with a network on its own.
        let network = self.peer.first().map_or(Architecture::ALL[0], |peer| peer.network);
        let mut found = self.alone(network).problems();
        let mut check = Check { section: "", found: &mut found };
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
        cohort(&self.cohort, &mut found);
        if self.cohort.method == CohortMethod::LMcl {
            layers(self, &mut found);
        }
        found
    }

    fn write_out_paths(&mut self, loaded: &Loaded<Self>) {
        loaded.write_out(&mut self.data.root);
        loaded.write_out_given(&mut self.data.class_index);
    }

    fn teacher_experiment(
        &self,
        _root: &Node,
        _trail: &mut Vec<ConfigSource>,
    ) -> Result<Option<Loaded<Self>>, ConfigError> {
        Ok(None)
    }
}

fn cohort(cohort: &Cohort, found: &mut Vec<Problem>) {
    let Cohort { alpha, beta, gamma, lambda, .. } = *cohort;
    let mut check = Check { section: "cohort", found };
    for (key, weight) in [("alpha", alpha), ("beta", beta), ("gamma", gamma), ("lambda", lambda)] {
        check.not_negative(key, weight);
    }
    check.not_negative("logit_kd", cohort.logit_kd);
    check.that(
        cohort.logit_kd == 0.0 || cohort.method == CohortMethod::Mcl,
        "logit_kd",
        "is given, but l_mcl's networks learn from their aggregated teachers",
        "leave it out, or set method = \"mcl\"",
    );
    check.positive("tau", cohort.tau);
    check.positive("temperature", cohort.temperature);
    check.at_least_one("width", cohort.width);
    if let Some(bank) = &cohort.bank {
        check.at_least_one("bank.negatives", bank.negatives);
        check.fraction("bank.momentum", bank.momentum);
    }
}

fn layers(config: &CohortConfig, found: &mut Vec<Problem>) {
    let layers = &config.cohort.layers;
    let mut check = Check { section: "cohort.layers", found };
    check.at_least_one("branch_blocks", layers.branch_blocks.unwrap_or(1));
    check.positive("kd_temperature", layers.kd_temperature);
    check.at_least_one("meta_steps", layers.meta_steps);
    check.positive("meta_lr_factor", layers.meta_lr_factor);
    check.positive("meta_difference", layers.meta_difference);
    let mut check = Check { section: "", found };
    let optim = &config.optim;
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
    for (index, peer) in config.peer.iter().enumerate() {
        check.that(
            peer.network.has_branches(),
            &format!("peer.{index}.network"),
            format!("is {}, of whose stages l_mcl has no auxiliary branches", peer.network),
            format!("choose from {}, or set cohort.method = \"mcl\"", able.join(", ")),
        );
    }
}
