//! Another epsilon, folded into the weights of the norms.

use candle_core::{Device, Tensor};
use ckd_detectors::nn::EPSILON;

use super::{TrainedEpsilon, WeightsError, WeightsFile};

impl WeightsFile {
    /// Rescales the norms of weights that were trained with the batch-norm epsilon `value`.
    ///
    /// # Errors
    /// If a norm would divide by nothing, which no network does that was trained so.
    pub fn trained_with_epsilon(mut self, trained: TrainedEpsilon) -> Result<Self, WeightsError> {
        let before = self.trained_epsilon.as_ref().map_or(EPSILON, |earlier| earlier.value);
        let norms: Vec<String> = self
            .tensors
            .keys()
            .filter_map(|name| name.strip_suffix(".running_var").map(str::to_owned))
            .collect();
        for norm in norms {
            let variance = self.tensors[&format!("{norm}.running_var")].flatten_all()?.to_vec1::<f32>()?;
            let Some(weight) = self.tensors.get_mut(&format!("{norm}.weight")) else { continue };
            let mut weights = weight.flatten_all()?.to_vec1::<f32>()?;
            for (channel, (weight, variance)) in weights.iter_mut().zip(variance).enumerate() {
                let [earlier, now] = [before, trained.value].map(|epsilon| f64::from(variance) + epsilon);
                let scaled = (f64::from(*weight) * (earlier / now).sqrt()) as f32;
                if now <= 0.0 || !scaled.is_finite() {
                    let reason = format!(
                        "the variance of channel {channel} of {norm} is {variance}, which allows no epsilon of {}; it was \
                         trained with another one",
                        trained.value
                    );
                    return Err(WeightsError::Card { path: self.path, reason });
                }
                *weight = scaled;
            }
            *weight = Tensor::from_vec(weights, weight.dims(), &Device::Cpu)?;
        }
        self.trained_epsilon = (trained.value != EPSILON).then_some(trained);
        Ok(self)
    }
}
