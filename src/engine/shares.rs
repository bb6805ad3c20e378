//! Whose gradient is it? The parts of the task's losses and of each method in the gradient, over the first steps: a weight
//! that is off by a factor of 100 shows.
//!
//! A detector's is measured at the student's pyramid (a classifier's at its weights: `classify/shares.rs`). The pyramid is
//! where they all meet. In a measured step each of them sees a pyramid of its own, the same values behind an
//! operation that does nothing but note the length of the gradient that comes back; methods that compare logits also run
//! the student's head again, so that their part is told from that of the detection losses. There is one walk back as
//! always; sums round differently than in a step that is not measured.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use ckd_kernels::Value;
use ckd_kernels::sgd::squared_norm;
use serde::Serialize;

/// The name of the detection losses.
pub const DETECTION: &str = "detection";

/// Notes the lengths of gradients of one pass.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<BTreeMap<String, f64>>>);

impl Ledger {
    /// `value`, whose gradient is noted under `name`.
    pub(super) fn watch(&self, value: &Value, name: &str) -> Value {
        let (ledger, name) = (self.clone(), name.to_owned());
        Value::operation(&[value], value.tensor().clone(), move |g| {
            let square = squared_norm(g)?;
            if let Ok(mut sums) = ledger.0.lock() {
                *sums.entry(name).or_default() += square;
            }
            Ok(vec![Some(g.clone())])
        })
    }

    /// The length of the gradient of each name.
    pub(super) fn norms(&self) -> BTreeMap<String, f64> {
        self.0
            .lock()
            .map(|sums| sums.iter().map(|(name, sum)| (name.clone(), sum.sqrt())).collect())
            .unwrap_or_default()
    }
}

/// The mean lengths of the gradients of some passes. Its `Display` is a table.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Shares {
    /// Passes measured.
    pub passes: u64,
    /// Mean length of the gradient at a detector's pyramid, or at a classifier's weights, by what it comes from.
    pub gradient_norms: BTreeMap<String, f64>,
}

impl Shares {
    /// Takes in the lengths of one pass.
    pub fn add(&mut self, norms: &BTreeMap<String, f64>) {
        if norms.is_empty() {
            return;
        }
        self.passes += 1;
        let passes = self.passes as f64;
        self.gradient_norms.values_mut().for_each(|mean| *mean *= (passes - 1.0) / passes);
        for (name, norm) in norms {
            *self.gradient_norms.entry(name.clone()).or_default() += norm / passes;
        }
    }

    /// Each part's share of the sum of the lengths.
    pub fn shares(&self) -> impl Iterator<Item = (&str, f64)> {
        let total: f64 = self.gradient_norms.values().sum();
        self.gradient_norms
            .iter()
            .map(move |(name, norm)| (name.as_str(), norm / total.max(f64::MIN_POSITIVE)))
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.gradient_norms.keys().map(String::len).max().unwrap_or(0);
        write!(f, "whose gradient reaches the student ({} passes):", self.passes)?;
        for (name, share) in self.shares() {
            let norm = self.gradient_norms[name];
            write!(f, "\n  {name:width$}  {:5.1} %  norm {norm:.3e}", 100.0 * share)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    #[test]
    fn a_watched_value_passes_its_gradient_on_and_notes_its_length() {
        let x = Value::leaf("x", Tensor::new(&[3f32, 4.0], &Device::Cpu).unwrap());
        let ledger = Ledger::default();
        let watched = ledger.watch(&x, "a");
        let gradient = Tensor::new(&[-3f32, 4.0], &Device::Cpu).unwrap();
        let gradients = watched.backward_from(&gradient).unwrap();
        assert_eq!(gradients["x"].to_vec1::<f32>().unwrap(), [-3.0, 4.0]);
        assert_eq!(ledger.norms(), BTreeMap::from([("a".to_owned(), 5.0)]));
    }

    #[test]
    fn shares_are_of_the_mean_lengths_and_a_part_that_was_absent_counts_0() {
        let mut shares = Shares::default();
        shares.add(&BTreeMap::from([("a".to_owned(), 3.0)]));
        shares.add(&BTreeMap::from([("a".to_owned(), 3.0), ("b".to_owned(), 2.0)]));
        shares.add(&BTreeMap::new());
        assert_eq!(shares.shares().collect::<Vec<_>>(), [("a", 0.75), ("b", 0.25)]);
        assert!(shares.to_string().contains("a   75.0 %"), "{shares}");
    }
}
