//! Products of rows and weights: linear layers are 1x1 convolutions of a column of pixels.

use super::config::Conv2dConfig;
use super::geometry::Geometry;
use crate::Precision;
use crate::microkernel::Finish;

/// Sizes of a product: m rows of i numbers, to o numbers.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) m: usize,
    pub(crate) i: usize,
    pub(crate) o: usize,
    pub(crate) precision: Precision,
}

fn geometry(Sizes { m, i, o, precision }: Sizes) -> Geometry {
    let config = Conv2dConfig::default();
    Geometry { config, n: 1, h: m, w: 1, c: i, oh: m, ow: 1, k: o, r: 1, s: 1, precision }
}

/// x (m, i) times the transpose of `weight` (o, i), finished.
pub(crate) fn product(size: Sizes, x: &[f32], weight: &[f32], finish: Finish) -> Vec<f32> {
    super::forward::product(&geometry(size), x, weight, None, finish)
}

/// g (m, o) times `weight` (o, i).
pub(crate) fn input_gradient(size: Sizes, g: &[f32], weight: &[f32]) -> Vec<f32> {
    super::input_gradient::product(&geometry(size), g, weight, None)
}

/// The transpose of g (m, o) times x (m, i).
pub(crate) fn weight_gradient(size: Sizes, x: &[f32], g: &[f32]) -> Vec<f32> {
    super::weight_gradient::sums(&geometry(size), x, g)
}
