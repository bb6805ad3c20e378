//! Reports of the parts of an update, which all ranks learn.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ckd_collective::Collective;
use serde::{Deserialize, Serialize};

use super::packet::garbled;
use crate::data::BadImage;
use crate::engine::pass::LossTerm;
use crate::engine::{EngineError, Result};

/// A number as its bits: JSON would round it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Bits(u64);

impl From<f64> for Bits {
    fn from(number: f64) -> Self {
        Self(number.to_bits())
    }
}

impl Bits {
    fn number(self) -> f64 {
        f64::from_bits(self.0)
    }
}

/// Report of a rank's parts of an update.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::engine) struct Report {
    /// Updates before this one.
    pub(in crate::engine) step: u64,
    /// Parts, in order.
    pub(in crate::engine) parts: Vec<PartReport>,
    /// Places in the optimiser's order of the parameters that have a gradient, in the order in which they left the last walk.
    pub(in crate::engine) left: Vec<usize>,
    /// Side effects of each pass.
    pub(in crate::engine) effects: usize,
    /// Images that turned out broken.
    broken: Vec<(PathBuf, String)>,
}

/// Report of a part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::engine) struct PartReport {
    pub(in crate::engine) ids: Vec<u64>,
    pub(in crate::engine) images: usize,
    terms: Vec<(String, Bits)>,
    shares: BTreeMap<String, Bits>,
    failure: Option<Failure>,
}

/// A number that is not finite.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Failure {
    what: String,
    value: Bits,
    losses: String,
}

impl Report {
    pub(in crate::engine) fn of(step: u64, parts: Vec<PartReport>, broken: Vec<BadImage>) -> Self {
        let broken = broken.into_iter().map(|image| (image.path, image.reason)).collect();
        Self { step, parts, left: Vec::new(), effects: 0, broken }
    }

    /// The reports of all ranks, in their order.
    ///
    /// # Errors
    /// [`EngineError::RanksDiffer`] if one is at another step.
    pub(in crate::engine) fn shared(self, ranks: &dyn Collective) -> Result<Vec<Self>> {
        if ranks.is_alone() {
            return Ok(vec![self]);
        }
        let mine = serde_json::to_vec(&self).expect("a plain structure has a JSON form");
        let all = ranks.all_gather(mine)?;
        let all: Vec<Self> = all
            .iter()
            .map(|bytes| serde_json::from_slice(bytes).map_err(|error| garbled(&error)))
            .collect::<Result<_>>()?;
        for (rank, other) in all.iter().enumerate() {
            if (other.step, other.effects) != (self.step, self.effects)
                && other.parts.iter().all(PartReport::is_whole)
            {
                let reason = format!(
                    "rank {rank} is after step {} with {} side effects of a pass, rank {} has {}",
                    other.step,
                    other.effects,
                    ranks.rank(),
                    self.effects
                );
                return Err(EngineError::RanksDiffer { step: self.step, reason });
            }
        }
        Ok(all)
    }

    /// Images that turned out broken.
    pub(in crate::engine) fn broken(&self) -> impl Iterator<Item = BadImage> + '_ {
        self.broken.iter().map(|(path, reason)| BadImage { path: path.clone(), reason: reason.clone() })
    }
}

impl PartReport {
    /// Report of a part that was drawn and not yet computed.
    pub(in crate::engine) fn drawn(ids: Vec<u64>, images: usize) -> Self {
        Self { ids, images, terms: Vec::new(), shares: BTreeMap::new(), failure: None }
    }

    /// Takes in the result of the pass.
    pub(in crate::engine) fn computed(&mut self, terms: &[LossTerm], shares: &BTreeMap<String, f64>) {
        self.terms = terms.iter().map(|term| (term.name.clone(), term.weighted.into())).collect();
        self.shares = shares.iter().map(|(name, &norm)| (name.clone(), norm.into())).collect();
    }

    /// Takes in what the pass found not to be finite; any other error is handed back.
    pub(in crate::engine) fn failed(&mut self, error: EngineError) -> Result<()> {
        let EngineError::NonFinite { what, value, losses, .. } = error else { return Err(error) };
        self.failure = Some(Failure { what, value: value.into(), losses });
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.failure.is_none()
    }

    /// The error of the part, if a number was not finite.
    pub(in crate::engine) fn failure(&self, step: u64) -> Option<EngineError> {
        self.failure.as_ref().map(|Failure { what, value, losses }| EngineError::NonFinite {
            step,
            what: what.clone(),
            value: value.number(),
            losses: losses.clone(),
            advice: String::new(),
        })
    }

    pub(in crate::engine) fn terms(&self) -> impl Iterator<Item = (&str, f64)> {
        self.terms.iter().map(|(name, weighted)| (name.as_str(), weighted.number()))
    }

    pub(in crate::engine) fn shares(&self) -> BTreeMap<String, f64> {
        self.shares.iter().map(|(name, norm)| (name.clone(), norm.number())).collect()
    }
}
