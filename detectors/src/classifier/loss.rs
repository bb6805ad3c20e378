//! The classification loss.

use ckd_kernels::Value;
use ckd_kernels::losses::softmax_cross_entropy;

use crate::{Error, Result};

/// The mean cross-entropy with targets (1 - ε) onehot + ε / K (Szegedy et al. 2016, arXiv 1512.00567, section 7), as
/// `torch.nn.functional.cross_entropy(label_smoothing=ε)`. With ε = 0 it is the plain loss, bit for bit.
///
/// # Shapes
/// `logits` (N, K), `labels` N classes below K; a scalar.
///
/// # Errors
/// Shapes that differ; a label of K or more; ε outside of [0, 1].
pub fn smoothed_cross_entropy(logits: &Value, labels: &[u32], smoothing: f64) -> Result<Value> {
    if !(0.0..=1.0).contains(&smoothing) {
        let reason = format!("a label smoothing of {smoothing}, which must be from 0 to 1");
        return Err(Error::Invalid { part: "classification loss", reason });
    }
    let plain = softmax_cross_entropy(logits, labels, labels.len().max(1) as f64)?;
    if smoothing == 0.0 || labels.is_empty() {
        return Ok(plain);
    }
    // -Σ log p / K = mean cross-entropy with the label y + the mean of (x_y - x_k) over k, which is linear in x.
    let (rows, classes) = logits.tensor().dims2()?;
    let mut tilt = vec![(-smoothing / (rows * classes) as f64) as f32; rows * classes];
    for (row, &label) in labels.iter().enumerate() {
        tilt[row * classes + label as usize] += (smoothing / rows as f64) as f32;
    }
    let tilt = candle_core::Tensor::from_vec(tilt, (rows, classes), logits.tensor().device())?;
    let linear = Value::from_candle(&[logits], |inputs| (&inputs[0] * &tilt)?.sum_all())?;
    Ok(ckd_kernels::elementwise::weighted_sum(&[(&plain, 1.0), (&linear, 1.0)])?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    fn logits() -> Value {
        let rows = [[0.3f32, -1.0, 2.0, 0.5], [1.0, 0.0, -0.5, 0.25], [-0.2, 0.7, 0.1, 0.0]];
        Value::leaf("x", Tensor::new(&rows, &Device::Cpu).unwrap())
    }

    #[test]
    fn it_is_the_cross_entropy_with_mixed_targets() {
        let x = logits();
        let labels = [2u32, 0, 3];
        let epsilon = 0.1;
        let loss = smoothed_cross_entropy(&x, &labels, epsilon).unwrap();
        let gradient = loss.backward().unwrap()["x"].to_vec2::<f32>().unwrap();
        let (mut expected, n, k) = (0.0, 3.0, 4.0);
        for (row, x) in x.tensor().to_vec2::<f32>().unwrap().iter().enumerate() {
            let total: f64 = x.iter().map(|&x| f64::from(x).exp()).sum();
            for (class, &x) in x.iter().enumerate() {
                let one = if labels[row] as usize == class { 1.0 } else { 0.0 };
                let target = (1.0 - epsilon) * one + epsilon / k;
                expected -= target * (f64::from(x) - total.ln()) / n;
                let slope = (f64::from(x).exp() / total - target) / n;
                assert!((f64::from(gradient[row][class]) - slope).abs() < 1e-7);
            }
        }
        assert!((f64::from(loss.item().unwrap()) - expected).abs() < 1e-6);
    }

    #[test]
    fn without_smoothing_it_is_the_plain_loss_and_nonsense_is_refused() {
        let x = logits();
        let plain = softmax_cross_entropy(&x, &[1, 1, 0], 3.0).unwrap().item().unwrap();
        assert_eq!(smoothed_cross_entropy(&x, &[1, 1, 0], 0.0).unwrap().item().unwrap(), plain);
        assert!(smoothed_cross_entropy(&x, &[1, 1, 0], 1.5).is_err());
        assert!(smoothed_cross_entropy(&x, &[1, 4, 0], 0.1).is_err());
    }
}
