//! Kernel alignment of feature maps, patch by patch (RCKA's form for detection, called PCKA;
//! Zhou et al., arXiv 2401.11824).
//!
//! A map is resized (bilinear) up to a multiple of the patch's side and cut into n patches. Channel c of
//! a batch becomes the matrix X_c (n, N patch²): a row is a position of the grid, a column an image and a
//! pixel of the patch. The loss is the mean over channels of 1 - ka(X_c of the teacher, X_c of the
//! student); between columns it takes the transposes. The authors minimise -ka: the gradient is the same.
//!
//! Channels run in parallel, each on one thread; besides the gradient a thread holds the matrices of a
//! few channels only.

use std::ops::Range;

use candle_core::Tensor;
use ckd_detectors::taps::{Level, Tap, Taps};
use ckd_kernels::Value;
use ckd_kernels::linear::product_on_this_thread;
use ckd_kernels::memory::{channels_last, elements, from_channels_last};
use ckd_kernels::resize::resize_bilinear;
use rayon::prelude::*;

use super::ka::{Aligned, Kernel, Wanted, align};
use super::{DistillError, Distiller, Term, at_tap, nothing, scalar_of};

const NAME: &str = "rcka";

/// Channels that a task cuts at once: neighbours in memory.
const CHANNELS_A_TASK: usize = 8;

/// What is compared with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchRows {
    /// Patches: which places of the grid look alike (the authors' intra term).
    Patches,
    /// Columns, an image and a pixel of the patch each (their inter term).
    Pixels,
}

/// RCKA on pyramid levels.
///
/// A level of a single patch has nothing to align; its terms are 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Rcka {
    /// The levels.
    pub levels: Vec<Level>,
    /// The weight of the term between patches (10 in the authors' detectors).
    pub weight: f64,
    /// The weight of the term between pixels (10 for their two-stage detectors); 0 leaves it out.
    pub weight_inter: f64,
    /// The side of a patch in cells (16 there).
    pub patch: usize,
    /// How rows are compared.
    pub kernel: Kernel,
}

impl Distiller for Rcka {
    fn name(&self) -> &str {
        NAME
    }

    fn taps(&self) -> Vec<Tap> {
        self.levels.iter().map(|level| Tap::Fpn(*level)).collect()
    }

    fn terms(&self, teacher: &Taps, student: &Taps) -> Result<Vec<Term>, DistillError> {
        let mut terms = Vec::new();
        for tap in self.taps() {
            let (teacher, student) = at_tap(tap, teacher, student)?;
            let (teacher, student) =
                whole_patches(teacher, student, self.patch).map_err(|error| error.at(tap))?;
            let kinds =
                [("intra", PatchRows::Patches, self.weight), ("inter", PatchRows::Pixels, self.weight_inter)];
            for (kind, rows, weight) in
                kinds.into_iter().filter(|&(kind, _, weight)| kind == "intra" || weight != 0.0)
            {
                let value = patch_cka(&teacher, &student, rows, self.patch, self.kernel)
                    .map_err(|error| error.at(tap))?;
                terms.push(Term { name: format!("{NAME}/{tap}/{kind}"), value, weight });
            }
        }
        Ok(terms)
    }
}

/// The mean over channels of 1 - ka of two feature maps, patch by patch.
///
/// 0 if the map is a single patch or empty. A channel that is zero in either map counts 1, without a gradient.
///
/// # Shapes
/// `teacher` and `student` (N, C, H, W); a scalar in [0, 1].
///
/// # Errors
/// Shapes that differ or are not maps; patches without pixels.
pub fn patch_cka(
    teacher: &Tensor,
    student: &Value,
    rows: PatchRows,
    patch: usize,
    kernel: Kernel,
) -> Result<Value, DistillError> {
    let (teacher, student) = whole_patches(teacher, student, patch)?;
    let (images, channels, height, width) = student.tensor().dims4()?;
    let grid = Grid::new(images, (height, width), channels, patch, rows);
    if student.tensor().elem_count() == 0 || grid.patches == 1 {
        return nothing(&student);
    }
    let (teacher, host) = (channels_last(&teacher)?, channels_last(student.tensor())?);
    let (teacher, map) = (elements(&teacher)?, elements(&host)?);
    let wanted = if student.is_tracked() { Wanted::ValueAndGradient } else { Wanted::Value };
    let share = -(channels as f64).recip() as f32;

    let aligned = |x: Vec<f32>, y: Vec<f32>| {
        let (n, p) = grid.matrix();
        align(x, y, (n, p, p), kernel, wanted, product_on_this_thread)
    };
    // One plane (N, H, W) of the gradient a channel, so that every task owns what it writes.
    let pixels = images * height * width;
    let mut planes = vec![0f32; if student.is_tracked() { channels * pixels } else { 0 }];
    let first_channels: Vec<usize> = (0..channels).step_by(CHANNELS_A_TASK).collect();
    let task = |first: usize, planes: &mut [f32]| -> Vec<f64> {
        let group = first..(first + CHANNELS_A_TASK).min(channels);
        let cuts = grid.cut(&teacher, group.clone()).into_iter().zip(grid.cut(&map, group));
        let align_channel = |(i, (x, y))| {
            let Aligned { value, gradient } = aligned(x, y);
            if let Some(gradient) = gradient {
                grid.paste(&gradient, share, &mut planes[i * pixels..][..pixels]);
            }
            value
        };
        cuts.enumerate().map(align_channel).collect()
    };
    let values: Vec<Vec<f64>> = if student.is_tracked() {
        let planes = planes.par_chunks_mut(CHANNELS_A_TASK * pixels);
        first_channels.par_iter().zip(planes).map(|(&first, planes)| task(first, planes)).collect()
    } else {
        first_channels.par_iter().map(|&first| task(first, &mut [])).collect()
    };

    let loss = 1.0 - values.iter().flatten().sum::<f64>() / channels as f64;
    if !student.is_tracked() {
        return scalar_of(&student, loss, None);
    }
    let gradient = interleave(&planes, channels);
    drop(planes);
    let gradient = from_channels_last(gradient, (images, height, width, channels), student.tensor())?;
    scalar_of(&student, loss, Some(gradient))
}

/// Both maps, resized up to whole patches if they are not.
fn whole_patches(teacher: &Tensor, student: &Value, patch: usize) -> Result<(Tensor, Value), DistillError> {
    let (&[n, c, h, w], &[teacher_n, teacher_c, teacher_h, teacher_w]) = (student.dims(), teacher.dims())
    else {
        let reason = format!(
            "maps (N, C, H, W) expected, got teacher {:?} and student {:?}",
            teacher.dims(),
            student.dims()
        );
        return Err(DistillError::invalid(NAME, reason));
    };
    let shapes = || format!("teacher {:?}, student {:?}", teacher.dims(), student.dims());
    if teacher_c != c {
        let reason =
            format!("both maps need the same channels: {}; give both pyramids the same width", shapes());
        return Err(DistillError::invalid(NAME, reason));
    }
    if (teacher_n, teacher_h, teacher_w) != (n, h, w) {
        let reason = format!("both maps need the same images and sizes: {}", shapes());
        return Err(DistillError::invalid(NAME, reason));
    }
    if patch == 0 {
        return Err(DistillError::invalid(NAME, "a patch needs at least one cell"));
    }
    let size = (h.next_multiple_of(patch), w.next_multiple_of(patch));
    if size == (h, w) || student.tensor().elem_count() == 0 {
        return Ok((teacher.clone(), student.clone()));
    }
    let teacher = resize_bilinear(&Value::constant(teacher.clone()), size)?;
    Ok((teacher.tensor().clone(), resize_bilinear(student, size)?))
}

/// Where the cells of a batch of maps lie in the matrix of one channel.
///
/// A cell's place is the sum of what its image, its row and its column contribute.
struct Grid {
    images: usize,
    channels: usize,
    patches: usize,
    columns: usize,
    rows: PatchRows,
    image_stride: usize,
    by_y: Vec<usize>,
    by_x: Vec<usize>,
}

impl Grid {
    fn new(
        images: usize,
        (height, width): (usize, usize),
        channels: usize,
        patch: usize,
        rows: PatchRows,
    ) -> Self {
        let (down, across) = (height / patch, width / patch);
        let (patches, columns) = (down * across, images * patch * patch);
        let (patch_stride, pixel_stride) = match rows {
            PatchRows::Patches => (columns, 1),
            PatchRows::Pixels => (1, patches),
        };
        let places = |len: usize, patch_step: usize, pixel_step: usize| {
            (0..len).map(|i| i / patch * patch_step + i % patch * pixel_step).collect()
        };
        Self {
            images,
            channels,
            patches,
            columns,
            rows,
            image_stride: patch * patch * pixel_stride,
            by_y: places(height, across * patch_stride, patch * pixel_stride),
            by_x: places(width, patch_stride, pixel_stride),
        }
    }

    /// Rows and columns of a channel's matrix.
    fn matrix(&self) -> (usize, usize) {
        match self.rows {
            PatchRows::Patches => (self.patches, self.columns),
            PatchRows::Pixels => (self.columns, self.patches),
        }
    }

    /// Calls `f` with every cell of (N, H, W) and its place.
    fn each_cell(&self, mut f: impl FnMut(usize, usize)) {
        let mut cell = 0;
        for image in 0..self.images {
            for y in &self.by_y {
                let start = image * self.image_stride + y;
                for x in &self.by_x {
                    f(cell, start + x);
                    cell += 1;
                }
            }
        }
    }

    /// The matrices of some channels of an (N, H, W, C) map.
    fn cut(&self, map: &[f32], channels: Range<usize>) -> Vec<Vec<f32>> {
        let mut matrices = vec![vec![0f32; self.patches * self.columns]; channels.len()];
        self.each_cell(|cell, place| {
            let values = &map[cell * self.channels..][channels.clone()];
            for (matrix, value) in matrices.iter_mut().zip(values) {
                matrix[place] = *value;
            }
        });
        matrices
    }

    /// `factor` times a matrix, back as a plane (N, H, W).
    fn paste(&self, matrix: &[f32], factor: f32, plane: &mut [f32]) {
        self.each_cell(|cell, place| plane[cell] = factor * matrix[place]);
    }
}

/// Planes (C, cells) as (cells, C).
fn interleave(planes: &[f32], channels: usize) -> Vec<f32> {
    const CELLS_A_TASK: usize = 64;
    let cells = planes.len() / channels;
    let mut out = vec![0f32; planes.len()];
    out.par_chunks_mut(CELLS_A_TASK * channels).enumerate().for_each(|(task, out)| {
        let first = task * CELLS_A_TASK;
        let count = out.len() / channels;
        for channel in 0..channels {
            let plane = &planes[channel * cells + first..][..count];
            out[channel..].iter_mut().step_by(channels).zip(plane).for_each(|(out, value)| *out = *value);
        }
    });
    out
}
