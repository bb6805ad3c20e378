//! Products of rows and weights: linear layers are 1x1 convolutions of a column of pixels.

use super::Conv2dConfig;
use super::geometry::Geometry;
use crate::microkernel::Finish;

fn geometry((m, i, o): (usize, usize, usize)) -> Geometry {
    let config = Conv2dConfig::default();
    Geometry { config, n: 1, h: m, w: 1, c: i, oh: m, ow: 1, k: o, r: 1, s: 1 }
}

/// x (m, i) times the transpose of `weight` (o, i), finished.
pub(crate) fn product(size: (usize, usize, usize), x: &[f32], weight: &[f32], finish: Finish) -> Vec<f32> {
    super::forward::product(&geometry(size), x, weight, None, finish)
}

/// g (m, o) times `weight` (o, i).
pub(crate) fn input_gradient(size: (usize, usize, usize), g: &[f32], weight: &[f32]) -> Vec<f32> {
    super::input_gradient::product(&geometry(size), g, weight, None)
}

/// The transpose of g (m, o) times x (m, i).
pub(crate) fn weight_gradient(size: (usize, usize, usize), x: &[f32], g: &[f32]) -> Vec<f32> {
    super::weight_gradient::sums(&geometry(size), x, g)
}
