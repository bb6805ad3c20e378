//! Whose gradient moves a detector: the length of each part's gradient at the student's pyramid, where all parts meet.
//!
//! In a pass that measures, each part sees a pyramid of its own, the same values behind an operation that does nothing but
//! note the length of the gradient that comes back; methods that compare logits also run the student's head again, so that
//! their part is told from that of the detection losses.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use ckd_kernels::Value;
use ckd_kernels::sgd::squared_norm;

/// The name of the detection losses.
pub(super) const DETECTION: &str = "detection";

/// Notes the lengths of gradients of one pass.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<BTreeMap<String, f64>>>);

impl Ledger {
    /// `value`, whose gradient is noted under `name`.
    pub(super) fn watch(&self, value: &Value, name: &str) -> Value {
        let (ledger, name) = (self.clone(), name.to_owned());
        Value::operation(&[value], value.tensor().clone(), move |g| {
            let square = squared_norm(&[g])?;
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

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

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
}
