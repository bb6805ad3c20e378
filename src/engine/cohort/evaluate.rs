//! Each network of a cohort on the held-out images.

use serde_json::{Value, json};

use super::model::Cohort;
use crate::config::CohortConfig;
use crate::engine::Result;
use crate::engine::classify::{LabelledSets, MeasuredClassifier, measure as measure_one};
use crate::engine::outcome::ClassResult;
use crate::engine::task::{Evaluating, Measured, Network};
use crate::report::cohort_table::CohortRow;

/// Result of an evaluation, for every network.
#[derive(Debug, Clone)]
pub struct MeasuredCohort {
    peers: Vec<(String, MeasuredClassifier)>,
}

/// Measures every network of `model`.
pub(super) fn measure(
    sets: &LabelledSets,
    config: &CohortConfig,
    model: &Cohort,
    around: Evaluating<'_>,
) -> Result<MeasuredCohort> {
    let measured = config.peer.iter().zip(model.peers()).enumerate().map(|(index, (peer, own))| {
        let config = config.alone(peer.network);
        let name = format!("{} ({})", super::model::folder(index), peer.network);
        Ok((name, measure_one(own.classifier(), &sets.val, &config, None, around)?))
    });
    Ok(MeasuredCohort { peers: measured.collect::<Result<_>>()? })
}

impl Measured for MeasuredCohort {
    type Row = CohortRow;

    /// The mean over the networks.
    fn headline(&self) -> f64 {
        let sum: f64 = self.peers.iter().map(|(_, peer)| peer.headline()).sum();
        sum / self.peers.len().max(1) as f64
    }

    fn each(&self) -> Vec<(f64, Value)> {
        self.peers.iter().map(|(_, peer)| (peer.headline(), peer.logged())).collect()
    }

    fn told(&self) -> String {
        let each = self.peers.iter().map(|(name, peer)| format!("{name} {}", peer.told()));
        each.collect::<Vec<_>>().join("; ")
    }

    fn logged(&self) -> Value {
        let peers: Vec<Value> = self.peers.iter().map(|(_, peer)| peer.logged()).collect();
        json!({ "top1": self.headline(), "peers": peers })
    }

    fn written(&self) -> Value {
        let peers: Vec<Value> = self.peers.iter().map(|(_, peer)| peer.written()).collect();
        json!({ "top1": self.headline(), "peers": peers })
    }

    fn row(&self, name: &str, networks: &[Network<'_>]) -> CohortRow {
        let row = |((own, peer), network): (&(String, MeasuredClassifier), &Network<'_>)| {
            peer.row(own, std::slice::from_ref(network))
        };
        CohortRow::new(name, self.peers.iter().zip(networks).map(row).collect())
    }

    fn hits(&self) -> Vec<&[bool]> {
        self.peers.iter().flat_map(|(_, peer)| peer.hits()).collect()
    }

    fn per_class(&self) -> Vec<ClassResult> {
        Vec::new()
    }
}
