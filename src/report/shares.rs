//! Whose gradient is it? The parts of the task's losses and of each method in the gradient, over the first
//! steps: a weight that is off by a factor of 100 shows.
//!
//! A detector's is measured at the student's pyramid, a classifier's at its weights (`shares.rs` of either
//! task).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The mean lengths of the gradients of some passes. Its `Display` is a table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Shares {
    /// Passes measured.
    pub passes: u64,
    /// Mean length of the gradient at a detector's pyramid, or at a classifier's weights, by what it comes
    /// from.
    pub gradient_norms: BTreeMap<String, f64>,
}

impl Shares {
    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.passes == 0
    }

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
