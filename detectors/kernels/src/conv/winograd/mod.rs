//! Winograd's minimal filtering F(4x4, 3x3) for 3x3 convolutions of stride 1 (Winograd 1980; Lavin and Gray 2016,
//! arXiv 1509.09308): 36 multiplications for 16 outputs instead of 144.
//!
//! A 6x6 tile of the input and the 3x3 kernel are transformed, multiplied point by point (36 matrix products over
//! channels), and transformed back to 4x4 outputs. The interpolation points are 0, ±3/4, ±3/2 and infinity: the
//! constants of the input's and the output's transform are exact in f32, and the error is smaller than with the textbook's
//! 0, ±1, ±2. Against f64 the largest error is below 3e-5 of the result's root mean square; the tests hold it there, for up to
//! 256 channels.
//!
//! The weights are transformed on every call: with them in cache that is faster than to read ready ones, four times
//! as large, from memory.

mod product;
mod transforms;
mod weight_gradient;

pub(super) use product::convolve;
pub(super) use weight_gradient::{suits as suits_weight_gradient, weight_gradient};

use super::Conv2dConfig;
use super::geometry::Geometry;

/// Points of the transformed tile.
const POINTS: usize = 36;

/// Whether a convolution (or the gradient of its input) is computed in this form.
pub(super) fn suits(geometry: &Geometry) -> bool {
    let &Geometry { config: Conv2dConfig { stride, padding, dilation, groups }, oh, ow, c, k, r, s, .. } =
        geometry;
    let channels = [c, k].iter().all(|count| count.is_multiple_of(16) && *count >= 32);
    // Tiles stick out of small maps.
    let covered = oh.next_multiple_of(4) * ow.next_multiple_of(4);
    let plain = [r, s] == [3, 3] && stride == [1, 1] && dilation == [1, 1] && groups == 1;
    plain && channels && padding.iter().all(|&padding| padding <= 2) && covered <= 2 * oh * ow
}

/// The 4x4 tiles of a batch of maps, row by row.
#[derive(Clone, Copy)]
struct Tiles {
    images: usize,
    rows: usize,
    columns: usize,
}

impl Tiles {
    fn of(images: usize, (h, w): (usize, usize)) -> Self {
        Self { images, rows: h.div_ceil(4), columns: w.div_ceil(4) }
    }

    fn count(&self) -> usize {
        self.images * self.rows * self.columns
    }

    /// Image and top-left pixel of tile `index`.
    fn at(&self, index: usize) -> (usize, usize, usize) {
        let (image_row, column) = (index / self.columns, index % self.columns);
        (image_row / self.rows, 4 * (image_row % self.rows), 4 * column)
    }
}

/// Floats from one point of a transformed tile to the next: neighbours never share a set of the cache.
fn point_stride(channels: usize) -> usize {
    channels + 16
}
