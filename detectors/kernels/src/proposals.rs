//! Proposals of a dense head: its best anchors as boxes, decoded, clipped and suppressed on a GPU.
//!
//! On the host the best anchors are handed over as they are: boxes and their suppression are the caller's.

#[cfg(feature = "cuda")]
mod gpu;

use std::ops::Range;

use candle_core::Tensor;

use crate::dispatch::{self, Host};
use crate::ranking::{Best, best};
use crate::{Error, Result};

/// Left, top, right, bottom in pixels.
pub type Corners = [f32; 4];

/// Anchors of a level: those of a cell, once for each cell, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct AnchorGrid {
    /// Anchors of the first cell.
    pub cell: Vec<Corners>,
    /// Cells in a row.
    pub columns: usize,
    /// Pixels from a cell to the next one below, and to the next one beside it.
    pub stride: (usize, usize),
}

/// Rules of a selection of proposals.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Anchors of each level that are decoded, by logit.
    pub per_level: usize,
    /// Boxes of an image that are kept, by score.
    pub per_image: usize,
    /// IoU above which the lower-scored of two boxes of a level goes.
    pub iou: f32,
    /// Lowest score, the sigmoid of the logit.
    pub score: f32,
    /// Shortest side of a clipped box in pixels.
    pub side: f32,
    /// The largest logarithm of a ratio of sides.
    pub log_ratio: f32,
}

/// Proposals, as far as they are made where the tensors lie.
#[derive(Debug, Clone, PartialEq)]
pub enum Proposals {
    /// The best anchors of each segment, still to be decoded and suppressed.
    Anchors(Vec<Best>),
    /// The boxes of each image by descending score.
    Boxes(Vec<Vec<Corners>>),
}

/// Proposals among the anchors of images.
///
/// The deltas are those of Girshick et al. 2014 with weights of 1. Up to 2,048 anchors of a level, and as many boxes of an
/// image, are made into boxes on a GPU, to the bit those that the host makes of the same exponentials.
///
/// # Shapes
/// `logits` (M, 1) and `deltas` (M, 4); a segment of rows for each level of each image, image by image; a grid for each level;
/// `sizes` (height, width) of the images.
///
/// # Errors
/// If shapes do not fit, or a segment has not as many rows as its grid has anchors in whole rows of cells.
pub fn proposals(
    (logits, deltas): (&Tensor, &Tensor),
    segments: &[Range<usize>],
    grids: &[AnchorGrid],
    sizes: &[(usize, usize)],
    rules: Rules,
) -> Result<Proposals> {
    let invalid = |reason: String| Err(Error::invalid("proposals", reason));
    if logits.dims().last() != Some(&1) || deltas.dims() != [logits.elem_count(), 4] {
        return invalid(format!(
            "(M, 1) and (M, 4) expected, got {:?} and {:?}",
            logits.dims(),
            deltas.dims()
        ));
    }
    if segments.len() != grids.len() * sizes.len() {
        return invalid(format!(
            "{} segments of {} levels, {} images",
            segments.len(),
            grids.len(),
            sizes.len()
        ));
    }
    let wrong = segments.iter().zip(grids.iter().cycle()).find(|(segment, grid)| {
        let row = grid.columns * grid.cell.len();
        segment.end > logits.elem_count() || !segment.len().is_multiple_of(row)
    });
    if let Some((segment, grid)) = wrong {
        return invalid(format!("segment {segment:?} of rows of {} x {}", grid.columns, grid.cell.len()));
    }
    dispatch::run(logits, Proposing { logits, deltas, segments, grids, sizes, rules })
}

/// Outputs of a head, and what its proposals are made by.
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "the host hands its anchors over as they are"))]
struct Proposing<'a> {
    logits: &'a Tensor,
    deltas: &'a Tensor,
    segments: &'a [Range<usize>],
    grids: &'a [AnchorGrid],
    sizes: &'a [(usize, usize)],
    rules: Rules,
}

impl Proposing<'_> {
    /// The best anchors, wherever the tensors lie.
    fn anchors(&self) -> Result<Proposals> {
        let floor = f32::NEG_INFINITY;
        best(self.logits, self.deltas, self.segments, self.rules.per_level, floor).map(Proposals::Anchors)
    }
}

impl Host for Proposing<'_> {
    type Output = Proposals;

    fn on_host(self) -> Result<Proposals> {
        self.anchors()
    }
}
