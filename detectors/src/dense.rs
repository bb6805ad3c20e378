//! Maps of a head that looks at every cell of a pyramid, as rows of one matrix.

use std::ops::Range;

use ckd_kernels::Value;
use ckd_kernels::elementwise::{concatenate, in_f32, permute, reshape};
use ckd_kernels::ranking::Best;

use crate::anchors::AnchorGenerator;
use crate::boxes::Xyxy;
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

/// First `convs` layers of a head's convolutions.
pub(crate) fn first_convs<T>(layers: &[T], convs: usize) -> Result<&[T]> {
    layers.get(..convs).ok_or_else(|| Error::Invalid {
        part: "head",
        reason: format!("its {convs} first convolutions were asked for, it has {}", layers.len()),
    })
}

/// Map of a head as one row per anchor, in f32.
///
/// # Shapes
/// (N, A·width, H, W) to (N, H·W·A, width); no element of an f32 map moves in channels-last memory.
pub(crate) fn per_anchor(map: &Value, width: usize) -> Result<Value> {
    let (n, channels, h, w) = map.tensor().dims4()?;
    Ok(reshape(&permute(&in_f32(map)?, &[0, 2, 3, 1])?, &[n, h * w * (channels / width), width])?)
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

/// Rows of each level of each image in a matrix by [`flat`], for images of `per_level` anchors.
pub(crate) fn segments(per_level: &[usize], images: usize) -> Vec<Range<usize>> {
    let mut end = 0;
    let levels = (0..images).flat_map(|_| per_level);
    let segment = |&count: &usize| {
        end += count;
        end - count..end
    };
    levels.map(segment).collect()
}

/// The best rows of each level of an image with the level's anchors.
pub(crate) fn by_level<'a>(
    best: &'a [Best],
    anchors: &'a [Xyxy],
    per_level: &'a [usize],
) -> impl Iterator<Item = (&'a Best, &'a [Xyxy])> {
    let levels = segments(per_level, 1).into_iter().map(|level| &anchors[level]);
    best.iter().zip(levels)
}
