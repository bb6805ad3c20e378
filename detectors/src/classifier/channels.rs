//! Channels in another order: what splits and shuffles are made of.

use std::sync::Arc;

use candle_core::Tensor;
use ckd_kernels::Value;
use ckd_kernels::memory::{channels_last, elements, from_channels_last};
use rayon::prelude::*;

use crate::{Error, Result};

/// Channel `order[i]` of `x` becomes channel i; channels that `order` leaves out get no gradient.
///
/// # Shapes
/// (N, C, H, W) to (N, `order.len()`, H, W).
///
/// # Errors
/// If `order` names a channel that `x` has not.
pub(super) fn pick(x: &Value, order: &Arc<[usize]>) -> Result<Value> {
    let (n, c, h, w) = x.tensor().dims4()?;
    if let Some(outside) = order.iter().find(|&&channel| channel >= c) {
        return Err(Error::Invalid { part: "classifier", reason: format!("channel {outside} of {c}") });
    }
    let picked = order.len();
    let mut out = vec![0f32; n * h * w * picked];
    if !out.is_empty() {
        let input = channels_last(x.tensor())?;
        let input = elements(&input)?;
        let (large, small) = (h * w * c, h * w * picked);
        out.par_chunks_exact_mut(small).zip(input.par_chunks_exact(large)).for_each(|(out, image)| {
            for (out, pixel) in out.chunks_exact_mut(picked).zip(image.chunks_exact(c)) {
                for (out, &channel) in out.iter_mut().zip(order.iter()) {
                    *out = pixel[channel];
                }
            }
        });
    }
    let out = from_channels_last(out, (n, h, w, picked), x.tensor())?;
    let order = order.clone();
    Ok(Value::operation(&[x], out, move |gradient: &Tensor| {
        let mut spread = vec![0f32; n * h * w * c];
        if !spread.is_empty() && picked > 0 {
            let host = channels_last(gradient)?;
            let g = elements(&host)?;
            let (large, small) = (h * w * c, h * w * picked);
            spread.par_chunks_exact_mut(large).zip(g.par_chunks_exact(small)).for_each(|(spread, g)| {
                for (pixel, g) in spread.chunks_exact_mut(c).zip(g.chunks_exact(picked)) {
                    for (g, &channel) in g.iter().zip(order.iter()) {
                        pixel[channel] += g;
                    }
                }
            });
        }
        Ok(vec![Some(from_channels_last(spread, (n, h, w, c), gradient)?)])
    }))
}

/// The maps side by side, channels of the first before those of the second.
///
/// # Shapes
/// (N, C, H, W) and (N, D, H, W) to (N, C + D, H, W).
pub(super) fn side_by_side(a: &Value, b: &Value) -> Result<Value> {
    use ckd_kernels::elementwise::{concatenate, permute};
    // Along the last dimension of what lies in memory: nothing is turned over.
    let [a, b] = [permute(a, &[0, 2, 3, 1])?, permute(b, &[0, 2, 3, 1])?];
    Ok(permute(&concatenate(&[a, b], 3)?, &[0, 3, 1, 2])?)
}

/// The order of a channel shuffle (Zhang et al. 2018, figure 1): channel j of group i becomes neighbour of channel j
/// of the other groups.
pub(super) fn shuffled(channels: usize, groups: usize) -> Arc<[usize]> {
    let per_group = channels / groups;
    (0..channels).map(|place| place % groups * per_group + place / groups).collect()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_shuffle_is_a_transposition_of_groups_and_places() {
        assert_eq!(shuffled(6, 2)[..], [0, 3, 1, 4, 2, 5]);
        assert_eq!(shuffled(6, 3)[..], [0, 2, 4, 1, 3, 5]);
        assert_eq!(shuffled(4, 1)[..], [0, 1, 2, 3]);
    }

    #[test]
    fn gradients_go_back_to_the_channels_they_came_from() {
        let x = Tensor::arange(0f32, 8.0, &Device::Cpu).unwrap().reshape((1, 4, 1, 2)).unwrap();
        let x = Value::leaf("x", x);
        let picked = pick(&x, &[3, 1].into()).unwrap();
        assert_eq!(values(picked.tensor()), [6.0, 7.0, 2.0, 3.0]);
        let gradient = Tensor::new(&[1f32, 2.0, 3.0, 4.0], &Device::Cpu).unwrap();
        let gradients = picked.backward_from(&gradient.reshape((1, 2, 1, 2)).unwrap()).unwrap();
        assert_eq!(values(&gradients["x"]), [0.0, 0.0, 3.0, 4.0, 0.0, 0.0, 1.0, 2.0]);
        assert!(pick(&x, &[4].into()).unwrap_err().to_string().contains("channel 4 of 4"));
    }

    #[test]
    fn maps_side_by_side_share_their_gradient() {
        let map = |name: &str, channels: usize| {
            let count = (channels * 2) as f32;
            let values = Tensor::arange(0f32, count, &Device::Cpu).unwrap();
            Value::leaf(name, values.reshape((1, channels, 2, 1)).unwrap())
        };
        let (a, b) = (map("a", 1), map("b", 2));
        let both = side_by_side(&a, &b).unwrap();
        assert_eq!(values(both.tensor()), [0.0, 1.0, 0.0, 1.0, 2.0, 3.0]);
        let gradients = both.backward_from(both.tensor()).unwrap();
        assert_eq!(values(&gradients["a"]), [0.0, 1.0]);
        assert_eq!(values(&gradients["b"]), [0.0, 1.0, 2.0, 3.0]);
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }
}
