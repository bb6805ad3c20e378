//! The tiles of a map, and the shapes that the form suits.

use super::super::config::Conv2dConfig;
use super::super::geometry::Geometry;
use super::IS_ON;
use crate::lanes::LANES;

/// Points of the transformed tile.
pub(super) const POINTS: usize = 36;

/// Channels of which the last vector may be a part: with fewer, what it wastes is too much.
const MANY: usize = 64;

/// Returns whether a convolution (or the gradient of its input) is computed in Winograd's form.
pub(in super::super) fn suits(geometry: &Geometry) -> bool {
    let &Geometry { config: Conv2dConfig { stride, padding, dilation, groups }, oh, ow, c, k, r, s, .. } =
        geometry;
    let channels = [c, k].iter().all(|&count| count >= MANY || count >= LANES && count.is_multiple_of(LANES));
    // Tiles stick out of small maps.
    let covered = oh.next_multiple_of(4) * ow.next_multiple_of(4);
    let plain = [r, s] == [3, 3] && stride == [1, 1] && dilation == [1, 1] && groups == 1;
    IS_ON.get() && plain && channels && padding.iter().all(|&padding| padding <= 2) && covered <= 2 * oh * ow
}

/// The 4x4 tiles of a batch of maps, row by row.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    images: usize,
    rows: usize,
    columns: usize,
}

impl Tiles {
    pub(super) fn of(images: usize, (h, w): (usize, usize)) -> Self {
        Self { images, rows: h.div_ceil(4), columns: w.div_ceil(4) }
    }

    pub(super) fn count(&self) -> usize {
        self.images * self.rows * self.columns
    }

    /// Image and top-left pixel of tile `index`.
    pub(super) fn at(&self, index: usize) -> (usize, usize, usize) {
        let (image_row, column) = (index / self.columns, index % self.columns);
        (image_row / self.rows, 4 * (image_row % self.rows), 4 * column)
    }
}

/// Floats from one point of a transformed tile to the next, whole vectors: neighbours never share a set of the cache.
pub(super) fn point_stride(channels: usize) -> usize {
    channels.next_multiple_of(LANES) + if channels < 64 { 0 } else { LANES }
}

/// Floats from one point of transformed weights, `size` of them, to the next: the 36 points never share a set of the cache.
pub(super) fn apart(size: usize) -> usize {
    size.next_multiple_of(LANES) + LANES
}
