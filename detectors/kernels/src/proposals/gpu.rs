//! Proposals on a GPU: one launch each for the boxes, all overlaps, the suppression and the best of what is kept.

use candle_core::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::DeviceRepr;

use super::{Corners, Proposals, Proposing};
use crate::Result;
use crate::cuda::{Family, Fresh, Table, arguments, floats, int, launch};
use crate::dispatch::Gpu;
use crate::memory::{elements, on_host};
use crate::ranking::gpu::{MOST, Selected, highest};

/// Boxes of a word of overlaps.
const WORD: usize = 64;

/// Numbers of a box that is copied to the host: its corners and its score.
const WIDTH: usize = 5;

/// Anchors of a segment and the image that its boxes are clipped to, as the kernels read it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Level {
    row: i64,
    first: i32,
    per_cell: i32,
    columns: i32,
    stride_y: i32,
    stride_x: i32,
    height: f32,
    width: f32,
    padding: f32,
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for Level {}

impl Gpu for Proposing<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Proposals> {
        let (count, images) = (self.segments.len(), self.sizes.len());
        let longest = self.segments.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let (most, limit) = (self.rules.per_level.min(longest), self.rules.per_image);
        if most == 0 || limit == 0 || most > MOST || limit > MOST {
            return self.anchors();
        }
        let Self { logits, deltas, segments, grids, sizes, rules } = self;
        let (logits, deltas) = (logits.contiguous()?, deltas.contiguous()?);
        let Selected { keys, .. } = highest(device, &logits, 1, segments, most, f32::NEG_INFINITY)?;

        let cells: Vec<f32> = grids.iter().flat_map(|grid| grid.cell.iter().flatten()).copied().collect();
        let mut levels = Vec::with_capacity(count);
        for (index, segment) in segments.iter().enumerate() {
            let (image, level) = (index / grids.len(), index % grids.len());
            let first = grids[..level].iter().map(|grid| grid.cell.len()).sum();
            let grid = &grids[level];
            levels.push(Level {
                row: segment.start as i64,
                first: int(first)?,
                per_cell: int(grid.cell.len())?,
                columns: int(grid.columns)?,
                stride_y: int(grid.stride.0)?,
                stride_x: int(grid.stride.1)?,
                height: sizes[image].0 as f32,
                width: sizes[image].1 as f32,
                padding: 0.0,
            });
        }
        let (cells, levels) = (Table::of_floats(device, &cells)?, Table::of_structs(device, &levels)?);
        let slots = count * most;
        let (boxes, scores) = (Fresh::<f32>::new(device, 4 * slots)?, Fresh::<f32>::new(device, slots)?);
        let arguments = arguments![
            keys.address(),
            levels.address(),
            cells.address(),
            floats(&logits)?,
            floats(&deltas)?,
            boxes.address(),
            scores.address(),
            int(most)?,
            rules.score,
            rules.side,
            rules.log_ratio
        ];
        let segments = int(count)? as u32;
        let grid = [most.div_ceil(256) as u32, segments, 1];
        launch(device, Family::Suppression, "boxes_of_anchors", grid, [256, 1], arguments)?;

        let words = most.div_ceil(WORD);
        let overlaps = Fresh::<i64>::new(device, slots * words)?;
        let arguments =
            arguments![boxes.address(), scores.address(), overlaps.address(), int(most)?, rules.iou];
        let grid = [words as u32, words as u32, segments];
        launch(device, Family::Suppression, "overlaps", grid, [WORD as u32, 1], arguments)?;
        let arguments = arguments![overlaps.address(), scores.address(), int(most)?];
        launch(device, Family::Suppression, "suppress", [segments, 1, 1], [WORD as u32, 1], arguments)?;

        // The best of an image's levels together.
        let scores = scores.tensor(slots, device);
        let of_image = slots / images;
        let of_images: Vec<_> = (0..images).map(|image| image * of_image..(image + 1) * of_image).collect();
        let limit = limit.min(of_image);
        let Selected { keys, .. } = highest(device, &scores, 1, &of_images, limit, 0.0)?;
        let out = Fresh::<f32>::new(device, images * limit * WIDTH)?;
        let arguments = arguments![
            keys.address(),
            boxes.address(),
            floats(&scores)?,
            out.address(),
            of_image as i64,
            int(limit)?
        ];
        let grid = [limit.div_ceil(256) as u32, int(images)? as u32, 1];
        launch(device, Family::Suppression, "kept_boxes", grid, [256, 1], arguments)?;
        let kept = on_host(&out.tensor(images * limit * WIDTH, device))?;
        let kept = elements(&kept)?;
        Ok(Proposals::Boxes(kept.chunks_exact(limit * WIDTH).map(boxes_of).collect()))
    }
}

/// The boxes of an image; places behind the last one have a score below 0.
fn boxes_of(slots: &[f32]) -> Vec<Corners> {
    let (slots, _) = slots.as_chunks::<WIDTH>();
    let kept = slots.iter().take_while(|slot| slot[4] >= 0.0);
    kept.map(|&[left, top, right, bottom, _]| [left, top, right, bottom]).collect()
}
