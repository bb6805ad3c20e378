//! Boxes of the best anchors and of regions, decoded, clipped and suppressed on a GPU: proposals and detections.
//!
//! On the host the best anchors are handed over as they are: boxes and their suppression are the caller's. On a GPU they are
//! made to the bit as the host makes them of the same exponentials.

mod detections;
#[cfg(feature = "cuda")]
mod gpu;
mod proposals;

use std::ops::Range;

use candle_core::Tensor;

use crate::{Error, Result};

pub use detections::{
    DetectionRules, Detections, Found, Regions, detections_of_anchors, detections_of_regions,
};
pub use proposals::{ProposalRules, Proposals, proposals};

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

/// Outputs of a head for every anchor of images.
///
/// # Shapes
/// `values` (M, K) and `rows` (M, 4); a segment of rows for each level of each image, image by image; a grid for each level.
#[derive(Debug, Clone, Copy)]
pub struct AnchorOutputs<'a> {
    /// Logits or scores, by which anchors are chosen.
    pub values: &'a Tensor,
    /// Four numbers that make a box of an anchor.
    pub rows: &'a Tensor,
    /// Rows of each level of each image.
    pub segments: &'a [Range<usize>],
    /// Anchors of each level.
    pub grids: &'a [AnchorGrid],
    /// (height, width) of the images.
    pub sizes: &'a [(usize, usize)],
}

impl AnchorOutputs<'_> {
    /// The number of values in a row.
    ///
    /// # Errors
    /// If shapes do not fit, or a segment has not as many rows as its grid has anchors in whole rows of cells.
    fn columns(&self) -> Result<usize> {
        let invalid = |reason: String| Err(Error::invalid("boxes of anchors", reason));
        let Self { values, rows, segments, grids, sizes } = *self;
        let &[count, columns] = values.dims() else {
            return invalid(format!("values (M, K) expected, got {:?}", values.dims()));
        };
        if rows.dims() != [count, 4] {
            return invalid(format!("({count}, 4) numbers of boxes expected, got {:?}", rows.dims()));
        }
        if segments.len() != grids.len() * sizes.len() {
            let (levels, images) = (grids.len(), sizes.len());
            return invalid(format!("{} segments of {levels} levels, {images} images", segments.len()));
        }
        let wrong = segments.iter().zip(grids.iter().cycle()).find(|(segment, grid)| {
            let row = grid.columns * grid.cell.len();
            segment.end > count || !segment.len().is_multiple_of(row)
        });
        if let Some((segment, grid)) = wrong {
            return invalid(format!("segment {segment:?} of rows of {} x {}", grid.columns, grid.cell.len()));
        }
        Ok(columns)
    }
}
