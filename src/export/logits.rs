//! Differences between the logits of a classifier and of its export.

use super::error::{ExportError, Result};

/// Largest difference of logits, as a share of the largest logit, that rounding explains: the graph sums in
/// another order.
const ROUNDING: f32 = 1e-3;

/// Difference of two lists of logits.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LogitDifference {
    /// Logits that were compared.
    pub count: usize,
    /// The largest difference; infinite where one of two is not a number.
    pub most: f32,
    /// The largest magnitude of the network's own.
    pub largest: f32,
}

impl LogitDifference {
    /// Adds the logits of some images.
    ///
    /// # Errors
    /// If the export gives another number of logits.
    pub fn add(&mut self, network: &[f32], export: &[f32]) -> Result<()> {
        if network.len() != export.len() {
            let reason = format!("it gives {} logits, the network {}", export.len(), network.len());
            return Err(ExportError::Graph { reason });
        }
        self.count += network.len();
        for (own, theirs) in network.iter().zip(export) {
            let apart = (own - theirs).abs();
            self.most = self.most.max(if apart.is_nan() { f32::INFINITY } else { apart });
            self.largest = self.largest.max(own.abs());
        }
        Ok(())
    }

    /// Fails if logits differ by more than rounding.
    ///
    /// # Errors
    /// [`ExportError::Drift`] if logits differ by more than 0.001, or 0.001 of the largest where that is
    /// above 1.
    pub fn check(&self) -> Result<()> {
        self.within(ROUNDING * self.largest.max(1.0))
    }

    /// Fails if a logit is not a number.
    ///
    /// # Errors
    /// [`ExportError::Drift`] if there is one.
    pub fn check_finite(&self) -> Result<()> {
        self.within(f32::MAX)
    }

    fn within(&self, limit: f32) -> Result<()> {
        match self.most.is_finite() && self.most <= limit {
            true => Ok(()),
            false => Err(ExportError::Drift { reason: self.to_string() }),
        }
    }
}

impl std::fmt::Display for LogitDifference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { count, most, largest } = self;
        write!(f, "{count} logits differ by at most {most:.2e}, the largest being {largest:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(network: &[f32], export: &[f32]) -> LogitDifference {
        let mut difference = LogitDifference::default();
        difference.add(network, export).expect("as many");
        difference
    }

    #[test]
    fn rounding_passes_and_anything_else_is_refused() {
        assert!(difference(&[100.0, -3.0], &[100.05, -3.0]).check().is_ok());
        assert!(difference(&[0.1, 0.2], &[0.1, 0.2009]).check().is_ok());
        assert!(difference(&[0.1, 0.2], &[0.1, 0.202]).check().is_err());
        assert!(difference(&[0.1, 0.2], &[0.1, 0.202]).check_finite().is_ok());
        assert!(LogitDifference::default().add(&[0.0], &[]).is_err());
    }

    #[test]
    fn what_is_no_number_is_refused_whatever_follows() {
        for (network, export) in [(0.0, f32::NAN), (f32::NAN, 0.0), (f32::INFINITY, f32::INFINITY)] {
            let apart = difference(&[network, 1.0], &[export, 1.0]);
            assert!(apart.check().is_err() && apart.check_finite().is_err(), "{apart}");
        }
    }
}
