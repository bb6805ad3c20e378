//! Channels in another order: what splits and shuffles are made of.

use std::sync::Arc;

use ckd_kernels::Value;

use crate::Result;

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
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn a_shuffle_is_a_transposition_of_groups_and_places() {
        assert_eq!(shuffled(6, 2)[..], [0, 3, 1, 4, 2, 5]);
        assert_eq!(shuffled(6, 3)[..], [0, 2, 4, 1, 3, 5]);
        assert_eq!(shuffled(4, 1)[..], [0, 1, 2, 3]);
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
