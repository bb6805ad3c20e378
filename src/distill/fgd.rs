//! Focal and global distillation (FGD; Yang et al., CVPR 2022, arXiv 2111.11837).
//!
//! With S = HW softmax(mean_c |f| / T) over the cells and C = C softmax(mean_hw |f| / T) over the channels of
//! a map, and B images:
//!
//! ```text
//! foreground, background = Σ (s - t)² S_t C_t mask / B          attention = (|C_s - C_t|_1 + |S_s - S_t|_1) / B
//! context = Σ (s + block_s(s) - t - block_t(t))² / B            block: a trained global-context block on each side
//! ```
//!
//! The foreground mask is 1 / area inside each box (the smaller box wins), the background's 1 / its number of
//! cells. Boxes are scaled by the size of the padded images, which the maps cover; the authors' code scales
//! by each image's own.

use candle_core::Tensor;
use ckd_detectors::boxes::Xyxy;
use ckd_detectors::param::{Builder, ParamStore};
use ckd_detectors::taps::Tap;
use ckd_kernels::Value;
use ckd_kernels::memory::{channels_last, elements, from_channels_last};
use ckd_settings::{Check, section};
use rayon::prelude::*;

use super::context::{ContextBlock, context_difference};
use super::distiller::{DistillError, Distiller, Lesson, Term, at_tap, width_at};
use super::layers::Adapters;
use super::maps::{Weights, paired, squared_difference};
use super::method::{Method, MethodSetting};
use super::place::Maps;
use super::rows::softmax;
use super::scalar::{nothing, scalar_of};

const NAME: &str = "fgd";

section! {
    /// Focal and global distillation: squared differences inside the boxes and outside, weighted by the
    /// teacher's attention (focal), the attentions, and the maps with their context through trained blocks
    /// (global). Published: as below for Faster R-CNN; 1e-3, 5e-4, 5e-4, 5e-6 for RetinaNet.
    pub struct Fgd with place: Maps {
        /// Weight of the differences inside boxes.
        pub weight: f32 = 5e-5,
        /// Weight of those outside.
        pub weight_background: f32 = 2.5e-5,
        /// Weight of the attentions.
        pub weight_attention: f32 = 5e-5,
        /// Weight of the maps with context; 0 leaves the trained blocks out.
        pub weight_context: f32 = 5e-7,
        /// Divides mean activations before the attention's softmax.
        pub temperature: f32 = 0.5,
    }
}

impl Fgd {
    fn check(&self, check: &mut Check<'_>) {
        check.positive("temperature", self.temperature.into());
    }
}

impl Method for Fgd {
    const WORD: &'static str = NAME;
    const PAPER: &'static str = "Yang et al., CVPR 2022, arXiv 2111.11837";

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![
            ("weight", self.weight),
            ("weight_background", self.weight_background),
            ("weight_attention", self.weight_attention),
            ("weight_context", self.weight_context),
        ]
    }

    fn build(
        &self,
        setting: &MethodSetting<'_>,
        builder: Builder,
    ) -> Result<Box<dyn Distiller>, DistillError> {
        let (at, widths) = (self.place.taps()?, &setting.widths);
        let adapters = Adapters::layers(&at, widths, &builder)?;
        let mut blocks = Vec::new();
        if self.weight_context != 0.0 {
            for &tap in &at {
                let width = width_at(widths, tap)?.teacher;
                let block = |side: &str| ContextBlock::new(&builder.within(tap).within(side), width);
                blocks.push([block("student")?, block("teacher")?]);
            }
        }
        Ok(Box::new(FocalAndGlobal { keys: self.clone(), at, adapters, blocks, params: builder.finish() }))
    }
}

/// FGD on pyramid levels: adapters where the widths differ, and context blocks if they count.
#[derive(Debug)]
struct FocalAndGlobal {
    keys: Fgd,
    at: Vec<Tap>,
    adapters: Adapters,
    blocks: Vec<[ContextBlock; 2]>,
    params: ParamStore,
}

impl Distiller for FocalAndGlobal {
    fn name(&self) -> &str {
        NAME
    }

    fn taps(&self) -> Vec<Tap> {
        self.at.clone()
    }

    fn terms(&self, lesson: &Lesson<'_>) -> Result<Vec<Term>, DistillError> {
        let Fgd { weight, weight_background, weight_attention, weight_context, temperature, .. } = self.keys;
        let temperature = temperature.into();
        let mut terms = Vec::new();
        for (index, &tap) in self.at.iter().enumerate() {
            let (teacher, student) = at_tap(tap, lesson)?;
            let mut level = || -> Result<(), DistillError> {
                let student = self.adapters.forward(tap, student)?;
                let (n, _, h, w) = paired(NAME, teacher, &student)?;
                let sizes = vec![lesson.image_size; n];
                let (foreground, background) = box_masks(lesson.boxes, &sizes, (h, w))?;
                let mut push = |kind: &str, weight: f32, value: &dyn Fn() -> Result<Value, DistillError>| {
                    if weight != 0.0 {
                        let name = format!("{NAME}/{tap}/{kind}");
                        terms.push(Term { name, value: value()?, weight: weight.into() });
                    }
                    Ok::<_, DistillError>(())
                };
                let focal = |mask: &[f32]| focal_difference(teacher, &student, mask, temperature);
                push("foreground", weight, &|| focal(&foreground))?;
                push("background", weight_background, &|| focal(&background))?;
                push("attention", weight_attention, &|| {
                    attention_difference(teacher, &student, temperature)
                })?;
                push("context", weight_context, &|| {
                    context_difference(teacher, &student, &self.blocks[index])
                })
            };
            level().map_err(|error| error.at(tap))?;
        }
        Ok(terms)
    }

    fn params(&self) -> Option<&ParamStore> {
        Some(&self.params)
    }
}

/// The masks of foreground and background (N·H·W each) of maps of `size` over images of `image_sizes`
/// (height, width).
///
/// A box covers the cells from floor to ceiling of its scaled edges, both included; its value is 1 / their
/// number before they are clipped to the map.
///
/// # Errors
/// Boxes of another number of images.
pub fn box_masks(
    boxes: &[Vec<Xyxy>],
    image_sizes: &[(usize, usize)],
    (h, w): (usize, usize),
) -> Result<(Vec<f32>, Vec<f32>), DistillError> {
    if boxes.len() != image_sizes.len() {
        let reason = format!("boxes of {} images for maps of {}", boxes.len(), image_sizes.len());
        return Err(DistillError::invalid(NAME, reason));
    }
    let (mut foreground, mut background) = (Vec::new(), Vec::new());
    for (boxes, &(height, width)) in boxes.iter().zip(image_sizes) {
        let mut mask = vec![0f32; h * w];
        for &[x0, y0, x1, y1] in boxes {
            let edges = |low: f32, high: f32, image: usize, cells: usize| {
                let scaled = |edge: f32| edge / image.max(1) as f32 * cells as f32;
                (scaled(low).floor(), scaled(high).ceil())
            };
            let ((left, right), (top, bottom)) = (edges(x0, x1, width, w), edges(y0, y1, height, h));
            let value = 1.0 / ((bottom + 1.0 - top) * (right + 1.0 - left));
            let clipped = |low: f32, high: f32, cells: usize| {
                // Saturating: a box outside, or of NaN, covers nothing.
                low.max(0.0) as usize..((high + 1.0).max(0.0) as usize).min(cells)
            };
            for y in clipped(top, bottom, h) {
                for x in clipped(left, right, w) {
                    let cell = &mut mask[y * w + x];
                    *cell = cell.max(value);
                }
            }
        }
        let outside = mask.iter().filter(|&&value| value == 0.0).count().max(1);
        let share = 1.0 / outside as f32;
        background.extend(mask.iter().map(|&value| if value == 0.0 { share } else { 0.0 }));
        foreground.extend(mask);
    }
    Ok((foreground, background))
}

/// Σ (s - t)² S_t C_t `mask` / B.
///
/// # Shapes
/// `teacher` and `student` (N, C, H, W), `mask` N·H·W; a scalar.
///
/// # Errors
/// Shapes that do not fit.
pub fn focal_difference(
    teacher: &Tensor,
    student: &Value,
    mask: &[f32],
    temperature: f64,
) -> Result<Value, DistillError> {
    let (n, _, h, w) = paired(NAME, teacher, student)?;
    if mask.len() != n * h * w {
        let reason = format!("{} cells of a mask for maps {:?}", mask.len(), student.dims());
        return Err(DistillError::invalid(NAME, reason));
    }
    if student.tensor().elem_count() == 0 {
        return nothing(student);
    }
    let attention = Attention::of(teacher, temperature)?;
    let cells = attention.cells.iter().zip(mask).map(|(s, mask)| (s * f64::from(*mask)) as f32).collect();
    let channels = attention.channels.iter().map(|c| *c as f32).collect();
    let weights = Weights { cells: Some(cells), channels: Some(channels) };
    squared_difference(NAME, teacher, student, weights, n as f64)
}

/// (|C_s - C_t|_1 + |S_s - S_t|_1) / B.
///
/// # Shapes
/// `teacher` and `student` (N, C, H, W); a scalar.
///
/// # Errors
/// Shapes that differ or are no maps.
pub fn attention_difference(
    teacher: &Tensor,
    student: &Value,
    temperature: f64,
) -> Result<Value, DistillError> {
    let (n, c, h, w) = paired(NAME, teacher, student)?;
    if student.tensor().elem_count() == 0 {
        return nothing(student);
    }
    let (t, s) = (Attention::of(teacher, temperature)?, Attention::of(student.tensor(), temperature)?);
    // The L1 distance of one image's attentions, and its derivatives by the means they are made of.
    let distance = |s: &[f64], t: &[f64]| -> (f64, Vec<f64>) {
        let count = s.len() as f64;
        let sign = |s: f64, t: f64| if s == t { 0.0 } else { (s - t).signum() };
        let along: f64 = s.iter().zip(t).map(|(&s, &t)| sign(s, t) * s).sum::<f64>() / count;
        let by_mean = s.iter().zip(t).map(|(&s, &t)| s * (sign(s, t) - along) / (temperature * n as f64));
        (s.iter().zip(t).map(|(s, t)| (s - t).abs()).sum::<f64>() / n as f64, by_mean.collect())
    };
    let all = |s: &[f64], t: &[f64], len: usize| {
        let parts = s.chunks_exact(len).zip(t.chunks_exact(len)).map(|(s, t)| distance(s, t));
        parts.fold((0.0, Vec::new()), |(loss, mut all), (part, by_mean)| {
            all.extend(by_mean);
            (loss + part, all)
        })
    };
    let (cells_loss, by_cells) = all(&s.cells, &t.cells, h * w);
    let (channels_loss, by_channels) = all(&s.channels, &t.channels, c);
    let loss = cells_loss + channels_loss;
    if !student.is_tracked() {
        return scalar_of(student, loss, None);
    }
    let host = channels_last(student.tensor())?;
    let mut gradient = elements(&host)?.to_vec();
    gradient.par_chunks_exact_mut(c).enumerate().for_each(|(cell, values)| {
        let by_cell = by_cells[cell] / c as f64;
        let by_channels = &by_channels[cell / (h * w) * c..][..c];
        for (x, by_channel) in values.iter_mut().zip(by_channels) {
            let slope = by_cell + by_channel / (h * w) as f64;
            *x = if *x == 0.0 { 0.0 } else { (slope * f64::from(x.signum())) as f32 };
        }
    });
    let gradient = from_channels_last(gradient, (n, h, w, c), student.tensor())?;
    scalar_of(student, loss, Some(gradient))
}

/// S (N·H·W) and C (N·C) of a map.
struct Attention {
    cells: Vec<f64>,
    channels: Vec<f64>,
}

impl Attention {
    fn of(map: &Tensor, temperature: f64) -> Result<Self, DistillError> {
        // Pieces of fixed size, added in order.
        const PIECE: usize = 1024;
        let (n, c, h, w) = map.dims4()?;
        let cells = h * w;
        let host = channels_last(map)?;
        let values = elements(&host)?;
        let values: &[f32] = &values;
        let pieces = cells.div_ceil(PIECE);
        let sums = |index: usize| {
            let (image, first) = (index / pieces, index % pieces * PIECE);
            let count = PIECE.min(cells - first);
            let (mut by_cell, mut by_channel) = (Vec::with_capacity(count), vec![0f64; c]);
            for x in values[(image * cells + first) * c..][..count * c].chunks_exact(c) {
                let mut sum = 0.0;
                for (x, by_channel) in x.iter().zip(&mut by_channel) {
                    let size = f64::from(x.abs());
                    sum += size;
                    *by_channel += size;
                }
                by_cell.push((sum / c as f64) as f32);
            }
            (by_cell, by_channel)
        };
        let parts: Vec<(Vec<f32>, Vec<f64>)> = (0..n * pieces).into_par_iter().map(sums).collect();
        let softened = |means: &[f32]| {
            let count = means.len() as f64;
            softmax(means, temperature).0.into_iter().map(move |p| p * count)
        };
        let mut attention =
            Self { cells: Vec::with_capacity(n * cells), channels: Vec::with_capacity(n * c) };
        for image in parts.chunks_exact(pieces.max(1)) {
            let by_cell: Vec<f32> = image.iter().flat_map(|(by_cell, _)| by_cell).copied().collect();
            let by_channel: Vec<f32> = (0..c)
                .map(|channel| image.iter().map(|(_, sums)| sums[channel]).sum::<f64>() / cells as f64)
                .map(|mean| mean as f32)
                .collect();
            attention.cells.extend(softened(&by_cell));
            attention.channels.extend(softened(&by_channel));
        }
        Ok(attention)
    }
}
