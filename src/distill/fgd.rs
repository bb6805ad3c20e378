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

use std::collections::BTreeMap;

use candle_core::Tensor;
use ckd_detectors::boxes::Xyxy;
use ckd_detectors::param::Builder;
use ckd_kernels::Value;
use ckd_kernels::maps::{self, Weights, attention_weights, squared_difference};
use ckd_kernels::memory::from_elements;
use ckd_settings::{Check, section};

use super::context::{ContextBlock, context_difference};
use super::distiller::{DistillError, Distiller, width_at};
use super::maps::paired;
use super::method::{Method, MethodSetting};
use super::on_maps::{Level, OnMaps};
use super::place::Maps;
use super::scalar::nothing;

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
        let mut maps = OnMaps::new(NAME, &self.place)?.adapted(setting, &builder)?;
        let temperature = self.temperature.into();
        for (kind, weight, inside) in
            [("foreground", self.weight, true), ("background", self.weight_background, false)]
        {
            if weight != 0.0 {
                maps = maps.kind(kind, weight, move |&Level { teacher, student, lesson, .. }| {
                    let (n, _, h, w) = paired(NAME, teacher, student)?;
                    let sizes = vec![lesson.image_size; n];
                    let (foreground, background) = box_masks(lesson.boxes, &sizes, (h, w))?;
                    let mask = if inside { foreground } else { background };
                    focal_difference(teacher, student, &mask, temperature)
                });
            }
        }
        if self.weight_attention != 0.0 {
            maps = maps.kind("attention", self.weight_attention, move |level| {
                attention_difference(level.teacher, level.student, temperature)
            });
        }
        if self.weight_context != 0.0 {
            let mut blocks = BTreeMap::new();
            for &tap in maps.at() {
                let width = width_at(&setting.widths, tap)?.teacher;
                let block = |side: &str| ContextBlock::new(&builder.within(tap).within(side), width);
                blocks.insert(tap, [block("student")?, block("teacher")?]);
            }
            maps = maps.kind("context", self.weight_context, move |level| {
                context_difference(level.teacher, level.student, &blocks[&level.tap])
            });
        }
        Ok(Box::new(maps.training(builder)))
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
    let mask = from_elements(mask.to_vec(), (n, h, w), student.tensor())?;
    let (cells, channels) = attention_weights(teacher, &mask, temperature)?;
    let weights = Weights { cells: Some(cells), channels: Some(channels) };
    Ok(squared_difference(teacher, student, weights, n as f64)?)
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
    paired(NAME, teacher, student)?;
    Ok(maps::attention_difference(teacher, student, temperature)?)
}
