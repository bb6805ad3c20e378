//! Boxes on a GPU: one launch each to decode them, for all overlaps, for the suppression and for the best of what is kept.

use candle_core::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::DeviceRepr;

use super::detections::{AmongAnchors, AmongRegions};
use super::proposals::Proposing;
use super::{AnchorOutputs, Corners, DetectionRules, Detections, Found, Proposals};
use crate::Result;
use crate::cuda::{Family, Fresh, Table, arguments, blocks, floats, int, launch};
use crate::dispatch::Gpu;
use crate::memory::{elements, on_host};
use crate::ranking::gpu::{MOST, Selected, highest};

/// Boxes of a word of overlaps.
const WORD: usize = 64;

/// Numbers of a proposal that is copied to the host: its corners and its score.
const OF_PROPOSAL: usize = 5;

/// Numbers of a detection that is copied to the host: its corners, its score and the bits of its label.
const OF_DETECTION: usize = 6;

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

/// Limits of what becomes a box, as the kernels read them.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Limits {
    score: f32,
    side: f32,
    log_ratio: f32,
}

/// A region and the size of its image, as the kernels read it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Region {
    corners: Corners,
    height: f32,
    width: f32,
}

/// Slots of an image, as the kernels read them.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    first: i64,
    count: i32,
    padding: i32,
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for Level {}
// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for Limits {}
// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for Region {}
// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for Span {}

/// Slots with a box and a label each, and a score; -1 where there is no box.
struct Boxes {
    corners: Fresh<f32>,
    scores: Fresh<f32>,
    labels: Fresh<i32>,
}

impl Boxes {
    fn new(device: &CudaDevice, slots: usize) -> Result<Self> {
        Ok(Self {
            corners: Fresh::new(device, 4 * slots)?,
            scores: Fresh::new(device, slots)?,
            labels: Fresh::new(device, slots)?,
        })
    }
}

impl AnchorOutputs<'_> {
    /// Boxes of the `most` highest values of each segment that are at least `floor`.
    fn best_boxes(
        &self,
        device: &CudaDevice,
        (columns, most, floor): (usize, usize, f32),
        (limits, are_distances, clips): (Limits, bool, bool),
    ) -> Result<Boxes> {
        let &Self { values, rows, segments, grids, sizes } = self;
        let (values, rows) = (values.contiguous()?, rows.contiguous()?);
        let Selected { keys, .. } = highest(device, &values, columns, segments, most, floor)?;
        let cells: Vec<f32> = grids.iter().flat_map(|grid| grid.cell.iter().flatten()).copied().collect();
        let mut levels = Vec::with_capacity(segments.len());
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
        let limits = Table::of_structs(device, &[limits])?;
        let boxes = Boxes::new(device, segments.len() * most)?;
        let arguments = arguments![
            keys.address(),
            levels.address(),
            cells.address(),
            floats(&values)?,
            floats(&rows)?,
            boxes.corners.address(),
            boxes.scores.address(),
            boxes.labels.address(),
            int(most)?,
            int(columns)?,
            i32::from(are_distances),
            i32::from(clips),
            limits.address()
        ];
        let grid = [most.div_ceil(256) as u32, int(segments.len())? as u32, 1];
        launch(device, Family::Suppression, "boxes_of_anchors", grid, [256, 1], arguments)?;
        Ok(boxes)
    }

    /// Values of a segment that can be among the `most` highest.
    fn most(&self, columns: usize, most: usize) -> usize {
        let longest = self.segments.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        most.min(longest * columns)
    }
}

impl Gpu for Proposing<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Proposals> {
        let Self { outputs, rules } = &self;
        let (count, images) = (outputs.segments.len(), outputs.sizes.len());
        let (most, limit) = (outputs.most(1, rules.per_level), rules.per_image);
        if most == 0 || limit == 0 || most > MOST || limit > MOST {
            return self.anchors();
        }
        let limits = Limits { score: rules.score, side: rules.side, log_ratio: rules.log_ratio };
        let choice = (1, most, f32::NEG_INFINITY);
        let Boxes { corners, scores, .. } = outputs.best_boxes(device, choice, (limits, false, true))?;

        let (segments, slots) = (int(count)? as u32, count * most);
        let words = most.div_ceil(WORD);
        let overlaps = Fresh::<i64>::new(device, slots * words)?;
        let arguments =
            arguments![corners.address(), scores.address(), overlaps.address(), int(most)?, rules.iou];
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
        let out = Fresh::<f32>::new(device, images * limit * OF_PROPOSAL)?;
        let arguments = arguments![
            keys.address(),
            corners.address(),
            floats(&scores)?,
            out.address(),
            of_image as i64,
            int(limit)?
        ];
        let grid = [limit.div_ceil(256) as u32, int(images)? as u32, 1];
        launch(device, Family::Suppression, "kept_boxes", grid, [256, 1], arguments)?;
        let kept = on_host(&out.tensor(images * limit * OF_PROPOSAL, device))?;
        let kept = elements(&kept)?;
        Ok(Proposals::Boxes(kept.chunks_exact(limit * OF_PROPOSAL).map(boxes_of).collect()))
    }
}

/// The boxes of an image; places behind the last one have a score below 0.
fn boxes_of(slots: &[f32]) -> Vec<Corners> {
    let (slots, _) = slots.as_chunks::<OF_PROPOSAL>();
    let kept = slots.iter().take_while(|slot| slot[4] >= 0.0);
    kept.map(|&[left, top, right, bottom, _]| [left, top, right, bottom]).collect()
}

impl Gpu for AmongAnchors<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Detections> {
        let Self { outputs, columns, rules, .. } = self;
        let most = outputs.most(columns, self.per_level);
        if most == 0 || rules.per_image == 0 || most > MOST {
            return self.anchors();
        }
        let limits =
            Limits { score: rules.score, side: rules.side, log_ratio: rules.log_ratio.unwrap_or_default() };
        let kind = (limits, rules.log_ratio.is_none(), rules.clips);
        let boxes = outputs.best_boxes(device, (columns, most, self.floor), kind)?;
        let slots = vec![outputs.grids.len() * most; outputs.sizes.len()];
        Ok(Detections::Boxes(boxes.detections(device, &slots, &rules)?))
    }
}

impl Gpu for AmongRegions<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Self::Output> {
        let Self { regions, rows, classes, rules } = self;
        let slots: Vec<usize> = regions.boxes.iter().map(|boxes| boxes.len() * classes).collect();
        let count = rows * classes;
        if count == 0 || rules.per_image == 0 {
            return Ok(Some(vec![Vec::new(); regions.boxes.len()]));
        }
        let (logits, deltas) = (regions.logits.contiguous()?, regions.deltas.contiguous()?);
        let moments = Fresh::<f32>::new(device, 2 * rows)?;
        let arguments = arguments![floats(&logits)?, moments.address(), int(rows)?, int(classes + 1)?];
        launch(device, Family::Suppression, "moments_of_logits", blocks(rows)?, [256, 1], arguments)?;

        let of_image = |(boxes, &(height, width)): (&Vec<Corners>, &(usize, usize))| {
            let (height, width) = (height as f32, width as f32);
            boxes.iter().map(move |&corners| Region { corners, height, width }).collect::<Vec<_>>()
        };
        let table: Vec<Region> = regions.boxes.iter().zip(regions.sizes).flat_map(of_image).collect();
        let limits =
            Limits { score: rules.score, side: rules.side, log_ratio: rules.log_ratio.unwrap_or_default() };
        let (table, limits) = (Table::of_structs(device, &table)?, Table::of_structs(device, &[limits])?);
        let weights = Table::of_floats(device, &regions.weights)?;
        let boxes = Boxes::new(device, count)?;
        let arguments = arguments![
            table.address(),
            floats(&logits)?,
            moments.address(),
            floats(&deltas)?,
            weights.address(),
            boxes.corners.address(),
            boxes.scores.address(),
            boxes.labels.address(),
            count as i64,
            int(classes)?,
            limits.address()
        ];
        launch(device, Family::Suppression, "boxes_of_regions", blocks(count)?, [256, 1], arguments)?;
        Ok(Some(boxes.detections(device, &slots, &rules)?))
    }
}

impl Boxes {
    /// The detections of images of so many slots each.
    fn detections(
        &self,
        device: &CudaDevice,
        slots: &[usize],
        rules: &DetectionRules,
    ) -> Result<Vec<Vec<Found>>> {
        let mut spans = Vec::with_capacity(slots.len());
        let mut first = 0;
        for &count in slots {
            spans.push(Span { first: first as i64, count: int(count)?, padding: 0 });
            first += count;
        }
        let images = spans.len();
        let limit = rules.per_image.min(slots.iter().copied().max().unwrap_or(0));
        let (order, out) = (
            Fresh::<i64>::new(device, images * MOST)?,
            Fresh::<f32>::new(device, images * limit * OF_DETECTION)?,
        );
        let spans = Table::of_structs(device, &spans)?;
        let arguments = arguments![
            spans.address(),
            self.corners.address(),
            self.scores.address(),
            self.labels.address(),
            order.address(),
            out.address(),
            int(limit)?,
            rules.iou
        ];
        launch(device, Family::Suppression, "detections", [int(images)? as u32, 1, 1], [1024, 1], arguments)?;
        let found = on_host(&out.tensor(images * limit * OF_DETECTION, device))?;
        let found = elements(&found)?;
        Ok(found.chunks_exact(limit * OF_DETECTION).map(found_of).collect())
    }
}

/// The detections of an image; places behind the last one have a score below 0.
fn found_of(slots: &[f32]) -> Vec<Found> {
    let (slots, _) = slots.as_chunks::<OF_DETECTION>();
    let kept = slots.iter().take_while(|slot| slot[4] >= 0.0);
    kept.map(|&[left, top, right, bottom, score, label]| Found {
        corners: [left, top, right, bottom],
        score,
        label: label.to_bits(),
    })
    .collect()
}
