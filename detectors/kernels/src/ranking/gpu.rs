//! Selection of the highest values, and scores to select by, on a GPU.

use std::ops::Range;

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{CudaDevice, Tensor};

use super::joint::JointScores;
use super::{Best, RowMaxima, Selection};
use crate::Result;
use crate::cuda::{Family, Fresh, Table, arguments, blocks, floats, int, launch};
use crate::dispatch::{Gpu, Host};
use crate::memory::{elements, on_host};

/// Values that the kernels can keep of a segment.
pub(crate) const MOST: usize = 2048;

/// Values that one block reads at first.
const CHUNK: usize = 1 << 16;

/// Values that a block selects from, as the kernels read it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Chunk {
    start: i64,
    place: u32,
    count: i32,
}

/// Chunks of a segment, as the kernels read it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Segment {
    row: i64,
    first: i32,
    count: i32,
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for Chunk {}
// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for Segment {}

impl Gpu for Selection<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Vec<Best>> {
        let longest = self.segments.iter().map(|rows| rows.len() * self.columns).max().unwrap_or(0);
        let most = self.most.min(longest);
        if most == 0 {
            return Ok(vec![Best::default(); self.segments.len()]);
        }
        if most > MOST {
            return self.on_host();
        }
        let Self { columns, width, floor, segments, .. } = self;
        let (values, companion) = (self.values.contiguous()?, self.companion.contiguous()?);
        let Selected { keys, segments: table } = highest(device, &values, columns, segments, most, floor)?;
        let slots = segments.len() * most;
        let out = Fresh::<f32>::new(device, slots * (2 + width))?;
        let arguments = arguments![
            keys.address(),
            table.address(),
            floats(&values)?,
            floats(&companion)?,
            int(columns)?,
            int(width)?,
            int(most)?,
            out.address()
        ];
        let grid = [most.div_ceil(8) as u32, int(segments.len())? as u32, 1];
        launch(device, Family::Ranking, "chosen", grid, [32, 8], arguments)?;
        let out = on_host(&out.tensor(slots * (2 + width), device))?;
        Ok(elements(&out)?.chunks_exact(most * (2 + width)).map(|slots| best_of(slots, width)).collect())
    }
}

/// Highest values of segments, on the device.
pub(crate) struct Selected {
    /// Keys of each segment, in order: its place in the lower half of each, -1 where no value is left.
    pub(crate) keys: Fresh<i64>,
    segments: Table<Segment>,
}

/// The `most` highest of `values`, `columns` to a row, of each segment of rows; `most` is from 1 to [`MOST`].
///
/// # Errors
/// Errors of the driver.
pub(crate) fn highest(
    device: &CudaDevice,
    values: &Tensor,
    columns: usize,
    segments: &[Range<usize>],
    most: usize,
    floor: f32,
) -> Result<Selected> {
    let (mut chunks, mut table) = (Vec::new(), Vec::new());
    for rows in segments {
        let (start, len, first) = (rows.start * columns, rows.len() * columns, chunks.len());
        chunks.extend((0..len).step_by(CHUNK).map(|place| Chunk {
            start: (start + place) as i64,
            place: place as u32,
            count: CHUNK.min(len - place) as i32,
        }));
        let count = int(chunks.len() - first)?;
        table.push(Segment { row: rows.start as i64, first: int(first)?, count });
    }
    let (blocks, slots) = (chunks.len(), segments.len() * most);
    let (of_chunks, keys) = (Fresh::<i64>::new(device, blocks * most)?, Fresh::<i64>::new(device, slots)?);
    let chunks = Table::of_structs(device, &chunks)?;
    let arguments = arguments![floats(values)?, chunks.address(), int(most)?, floor, of_chunks.address()];
    launch(device, Family::Ranking, "best_of_chunks", [int(blocks)? as u32, 1, 1], [1024, 1], arguments)?;
    let table = Table::of_structs(device, &table)?;
    let arguments = arguments![of_chunks.address(), table.address(), int(most)?, keys.address()];
    let count = int(segments.len())? as u32;
    launch(device, Family::Ranking, "best_of_segments", [count, 1, 1], [1024, 1], arguments)?;
    Ok(Selected { keys, segments: table })
}

/// The choice of the kernels in a segment; slots behind the last one are empty.
fn best_of(slots: &[f32], width: usize) -> Best {
    let mut best = Best::default();
    for slot in slots.chunks_exact(2 + width) {
        let place = slot[0].to_bits();
        if place == u32::MAX {
            break;
        }
        best.places.push(place);
        best.values.push(slot[1]);
        best.rows.extend_from_slice(&slot[2..]);
    }
    best
}

impl Gpu for RowMaxima<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { x, rows, columns } = self;
        let out = Fresh::<f32>::new(device, rows)?;
        if rows > 0 {
            let x = x.contiguous()?;
            let arguments = arguments![floats(&x)?, out.address(), rows as i64, int(columns)?];
            let grid = [int(rows.div_ceil(8))? as u32, 1, 1];
            launch(device, Family::Ranking, "row_maxima", grid, [32, 8], arguments)?;
        }
        Ok(out.tensor((rows, 1), device))
    }
}

impl Gpu for JointScores<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { classes, places, rows, columns, floor } = self;
        let count = rows * columns;
        let out = Fresh::<f32>::new(device, count)?;
        if count > 0 {
            let (classes, places) = (classes.contiguous()?, places.contiguous()?);
            let arguments = arguments![
                floats(&classes)?,
                floats(&places)?,
                out.address(),
                count as i64,
                int(columns)?,
                floor
            ];
            launch(device, Family::Ranking, "joint_scores", blocks(count)?, [256, 1], arguments)?;
        }
        Ok(out.tensor((rows, columns), device))
    }
}
