//! Maps of a head that looks at every cell of a pyramid, as rows of one matrix.

use ckd_kernels::Value;
use ckd_kernels::elementwise::{concatenate, permute, reshape};

use crate::anchors::AnchorGenerator;
use crate::{Error, Result};

/// Anchors at each cell: one number for all levels, since they share a head.
pub(crate) fn anchors_per_cell(anchors: &AnchorGenerator) -> Result<usize> {
    match anchors.per_location().as_slice() {
        [first, rest @ ..] if rest.iter().all(|count| count == first) => Ok(*first),
        counts => Err(Error::Invalid {
            part: "anchors",
            reason: format!(
                "levels that share a head need equally many sizes each; anchors per cell: {counts:?}"
            ),
        }),
    }
}

/// Map of a head as one row per anchor.
///
/// # Shapes
/// (N, A·width, H, W) to (N, H·W·A, width); no element moves in channels-last memory.
pub(crate) fn per_anchor(map: &Value, width: usize) -> Result<Value> {
    let (n, channels, h, w) = map.tensor().dims4()?;
    Ok(reshape(&permute(map, &[0, 2, 3, 1])?, &[n, h * w * (channels / width), width])?)
}

/// Rows of all levels in one matrix.
///
/// # Shapes
/// (N, Al, width) per level to (N·A, width).
pub(crate) fn flat(levels: &[Value]) -> Result<Value> {
    let all = concatenate(levels, 1)?;
    let (count, width) = (all.dims()[0] * all.dims()[1], all.dims()[2]);
    Ok(reshape(&all, &[count, width])?)
}
