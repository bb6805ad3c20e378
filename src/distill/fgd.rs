//! Focal and global distillation (FGD; Yang et al., CVPR 2022, arXiv 2111.11837).
//!
//! With S = HW softmax(mean_c |f| / T) over the cells and C = C softmax(mean_hw |f| / T) over the channels of a map, and B
//! images:
//!
//! ```text
//! foreground, background = Σ (s - t)² S_t C_t mask / B          attention = (|C_s - C_t|_1 + |S_s - S_t|_1) / B
//! context = Σ (s + block_s(s) - t - block_t(t))² / B            block: a trained global-context block on each side
//! ```
//!
//! The foreground mask is 1 / area inside each box (the smaller box wins), the background's 1 / its number of cells.
//! Boxes are scaled by the size of the padded images, which the maps cover; the authors' code scales by each image's own.

use std::collections::BTreeMap;

use candle_core::Tensor;
use ckd_detectors::boxes::Xyxy;
use ckd_detectors::init::Init;
use ckd_detectors::nn::Conv2d;
use ckd_detectors::param::{Builder, ParamStore};
use ckd_detectors::taps::Tap;
use ckd_kernels::Value;
use ckd_kernels::elementwise::{add, reshape, scale};
use ckd_kernels::linear::{Activation, linear};
use ckd_kernels::memory::{channels_last, elements, from_channels_last, from_elements, on_host};
use ckd_kernels::norm::group_norm;
use ckd_kernels::reduce::dot;
use rayon::prelude::*;

use super::layers::{Adapters, aligned};
use super::maps::{Weights, add_to_channels, paired, squared_difference};
use super::rows::softmax;
use super::{
    DistillError, Distiller, Lesson, Term, Widths, at_tap, expect_positive, nothing, scalar_of, width_at,
};

const NAME: &str = "fgd";

/// The weights of FGD's terms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FgdWeights {
    /// Of the differences inside boxes.
    pub foreground: f64,
    /// Of those outside.
    pub background: f64,
    /// Of the attentions.
    pub attention: f64,
    /// Of the maps with context.
    pub context: f64,
}

/// FGD on pyramid levels, with its trained blocks.
#[derive(Debug)]
pub struct Fgd {
    at: Vec<Tap>,
    weights: FgdWeights,
    temperature: f64,
    adapters: BTreeMap<Tap, Conv2d>,
    blocks: Vec<[ContextBlock; 2]>,
    params: ParamStore,
}

impl Fgd {
    /// FGD at the maps `at`; `builder` makes the context blocks (if they count) and adapters where the widths differ.
    ///
    /// # Errors
    /// A tap whose width is not known; a temperature that is not positive.
    pub fn new(
        at: Vec<Tap>,
        weights: FgdWeights,
        temperature: f64,
        widths: &Widths,
        builder: Builder,
    ) -> Result<Self, DistillError> {
        expect_positive(NAME, "temperature", temperature)?;
        let adapters = Adapters::layers(&at, widths, &builder)?;
        let mut blocks = Vec::new();
        if weights.context != 0.0 {
            for &tap in &at {
                let width = width_at(widths, tap)?.teacher;
                let block = |side: &str| ContextBlock::new(&builder.within(tap).within(side), width);
                blocks.push([block("student")?, block("teacher")?]);
            }
        }
        Ok(Self { at, weights, temperature, adapters, blocks, params: builder.finish() })
    }
}

impl Distiller for Fgd {
    fn name(&self) -> &str {
        NAME
    }

    fn taps(&self) -> Vec<Tap> {
        self.at.clone()
    }

    fn terms(&self, lesson: &Lesson<'_>) -> Result<Vec<Term>, DistillError> {
        let mut terms = Vec::new();
        for (index, &tap) in self.at.iter().enumerate() {
            let (teacher, student) = at_tap(tap, lesson)?;
            let mut level = || -> Result<(), DistillError> {
                let student = aligned(&self.adapters, tap, student)?;
                let (n, _, h, w) = paired(NAME, teacher, &student)?;
                let sizes = vec![lesson.image_size; n];
                let (foreground, background) = box_masks(lesson.boxes, &sizes, (h, w))?;
                let weights = self.weights;
                let mut push = |kind: &str, weight: f64, value: &dyn Fn() -> Result<Value, DistillError>| {
                    if weight != 0.0 {
                        terms.push(Term { name: format!("{NAME}/{tap}/{kind}"), value: value()?, weight });
                    }
                    Ok::<_, DistillError>(())
                };
                let focal = |mask: &[f32]| focal_difference(teacher, &student, mask, self.temperature);
                push("foreground", weights.foreground, &|| focal(&foreground))?;
                push("background", weights.background, &|| focal(&background))?;
                push("attention", weights.attention, &|| {
                    attention_difference(teacher, &student, self.temperature)
                })?;
                push("context", weights.context, &|| {
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

/// The masks of foreground and background (N·H·W each) of maps of `size` over images of `image_sizes` (height, width).
///
/// A box covers the cells from floor to ceiling of its scaled edges, both included; its value is 1 / their number before
/// they are clipped to the map.
///
/// # Errors
/// If boxes and images are not equally many.
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

/// A global-context block (Cao et al., arXiv 1904.11492): what a trained attention sees of a whole map, transformed.
#[derive(Debug)]
struct ContextBlock {
    attention: Conv2d,
    reduce: (Value, Value),
    norm: (Value, Value),
    expand: (Value, Value),
}

impl ContextBlock {
    /// `attention`, `reduce`, `norm` and `expand` in `builder`'s layer. The last starts at 0, and so does the context.
    fn new(builder: &Builder, width: usize) -> Result<Self, DistillError> {
        let narrow = (width / 2).max(1);
        let zero = Init::Constant(0.0);
        let both = |layer: &str, shape: &[usize], weight: Init, bias: Init, outputs: usize| {
            let builder = builder.within(layer);
            Ok::<_, DistillError>((
                builder.weight("weight", shape, weight)?,
                builder.weight("bias", &[outputs], bias)?,
            ))
        };
        let fan_in = width.max(1) as f64;
        let start = Init::Normal((2.0 / fan_in).sqrt());
        let bias = Init::Uniform(1.0 / fan_in.sqrt());
        Ok(Self {
            attention: Conv2d::new(&builder.within("attention"), (width, 1, 1, 1), start, zero)?,
            reduce: both("reduce", &[narrow, width], Init::TorchDefault, bias, narrow)?,
            norm: both("norm", &[narrow], Init::Constant(1.0), zero, narrow)?,
            expand: both("expand", &[width, narrow], zero, zero, width)?,
        })
    }

    /// (N, C, H, W) to (N, C).
    fn forward(&self, map: &Value) -> Result<Value, DistillError> {
        let seen = attended(map, &self.attention.forward(map, Activation::Identity)?)?;
        let x = linear(&seen, &self.reduce.0, Some(&self.reduce.1), Activation::Identity)?;
        let &[n, narrow] = x.dims() else {
            return Err(DistillError::invalid(NAME, format!("(N, C) expected, got {:?}", x.dims())));
        };
        // A layer norm over the channels of one cell is a group norm of one group.
        let cells = reshape(&x, &[n, narrow, 1, 1])?;
        let x = group_norm(&cells, &self.norm.0, &self.norm.1, 1, 1e-5, Activation::Relu)?;
        let x = reshape(&x, &[n, narrow])?;
        Ok(linear(&x, &self.expand.0, Some(&self.expand.1), Activation::Identity)?)
    }
}

/// Σ (s + block_s(s) - t - block_t(t))² / B.
fn context_difference(
    teacher: &Tensor,
    student: &Value,
    [own, theirs]: &[ContextBlock; 2],
) -> Result<Value, DistillError> {
    let images = student.dims().first().copied().unwrap_or(0);
    if student.tensor().elem_count() == 0 {
        return nothing(student);
    }
    let of_teacher = theirs.forward(&Value::constant(teacher.clone()))?;
    let difference = add(&own.forward(student)?, &scale(&of_teacher, -1.0)?)?;
    let shifted = add_to_channels(student, &difference)?;
    squared_difference(NAME, teacher, &shifted, Weights::default(), images as f64)
}

/// Σ_cells softmax(`logits`) map.
///
/// # Shapes
/// `map` (N, C, H, W), `logits` (N, 1, H, W); (N, C).
fn attended(map: &Value, logits: &Value) -> Result<Value, DistillError> {
    let (n, c, h, w) = map.tensor().dims4()?;
    let cells = h * w;
    let (map_host, logits_host) = (channels_last(map.tensor())?, channels_last(logits.tensor())?);
    let shares: Vec<f64> =
        elements(&logits_host)?.chunks_exact(cells).flat_map(|logits| softmax(logits, 1.0).0).collect();
    let mut seen = vec![0f64; n * c];
    {
        let x = elements(&map_host)?;
        for (cell, (x, share)) in x.chunks_exact(c).zip(&shares).enumerate() {
            let seen = &mut seen[cell / cells * c..][..c];
            seen.iter_mut().zip(x).for_each(|(sum, x)| *sum += share * f64::from(*x));
        }
    }
    let seen: Vec<f32> = seen.into_iter().map(|x| x as f32).collect();
    let out = from_elements(seen.clone(), (n, c), map.tensor())?;
    Ok(Value::operation(&[map, logits], out, move |g| {
        let g_host = on_host(g)?;
        let (g, x) = (elements(&g_host)?, elements(&map_host)?);
        let (g, x): (&[f32], &[f32]) = (&g, &x);
        let of_image = |cell: usize| cell / cells * c..(cell / cells + 1) * c;
        let mut by_map = vec![0f32; x.len()];
        by_map.par_chunks_exact_mut(c).enumerate().for_each(|(cell, out)| {
            let g = &g[of_image(cell)];
            out.iter_mut().zip(g).for_each(|(out, g)| *out = (shares[cell] * f64::from(*g)) as f32);
        });
        let by_logit = |(cell, x): (usize, &[f32])| {
            let (g, seen) = (&g[of_image(cell)], &seen[of_image(cell)]);
            (shares[cell] * (dot(g, x) - dot(g, seen))) as f32
        };
        let by_logits: Vec<f32> = x.par_chunks_exact(c).enumerate().map(by_logit).collect();
        Ok(vec![
            Some(from_channels_last(by_map, (n, h, w, c), &g_host)?),
            Some(from_channels_last(by_logits, (n, h, w, 1), &g_host)?),
        ])
    }))
}
