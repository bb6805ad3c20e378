//! Squared differences of feature maps, each cell and channel with a weight of its own.

use candle_core::Tensor;
use ckd_kernels::Value;
use ckd_kernels::memory::{channels_last, elements, from_channels_last, from_elements, on_host};
use ckd_kernels::pool::adaptive_avg_pool2d;
use ckd_kernels::reduce::dot;
use rayon::prelude::*;

use super::distiller::DistillError;
use super::scalar::nothing;

/// Extents of both maps, which must agree.
///
/// # Shapes
/// `teacher` and `student` (N, C, H, W).
pub(super) fn paired(
    method: &'static str,
    teacher: &Tensor,
    student: &Value,
) -> Result<(usize, usize, usize, usize), DistillError> {
    match *student.dims() {
        [n, c, h, w] if teacher.dims() == student.dims() => Ok((n, c, h, w)),
        _ => Err(DistillError::invalid(
            method,
            format!(
                "maps (N, C, H, W) of one shape expected, got teacher {:?} and student {:?}",
                teacher.dims(),
                student.dims()
            ),
        )),
    }
}

/// Both maps at the smaller height and width: the larger is averaged over cells.
///
/// # Shapes
/// `teacher` (N, C', H', W'), `student` (N, C, H, W); (N, C', h, w) and (N, C, h, w).
pub(super) fn at_equal_sizes(
    method: &'static str,
    teacher: &Tensor,
    student: &Value,
) -> Result<(Tensor, Value), DistillError> {
    let (&[_, _, th, tw], &[_, _, h, w]) = (teacher.dims(), student.dims()) else {
        let reason = format!("maps (N, C, H, W) expected, got {:?} and {:?}", teacher.dims(), student.dims());
        return Err(DistillError::invalid(method, reason));
    };
    let size = (h.min(th), w.min(tw));
    let fitted = |map: &Value, own: (usize, usize)| match own == size {
        true => Ok(map.clone()),
        false => adaptive_avg_pool2d(map, size),
    };
    let teacher = fitted(&Value::constant(teacher.clone()), (th, tw))?;
    Ok((teacher.tensor().clone(), fitted(student, (h, w))?))
}

/// Weights of a squared difference; none: 1.
#[derive(Debug, Clone, Default)]
pub(super) struct Weights {
    /// Weight for each cell of each image (N·H·W).
    pub(super) cells: Option<Vec<f32>>,
    /// Weight for each channel of each image (N·C).
    pub(super) channels: Option<Vec<f32>>,
}

/// The mean of (student - teacher)² over all elements; 0 without any.
///
/// # Shapes
/// (N, C, H, W), both; a scalar.
///
/// # Errors
/// Shapes that differ.
pub fn mean_squared_difference(teacher: &Tensor, student: &Value) -> Result<Value, DistillError> {
    let count = student.tensor().elem_count();
    squared_difference("mean_squared_difference", teacher, student, Weights::default(), count as f64)
}

/// Σ weight (student - teacher)² / `divisor`; 0 without elements.
///
/// # Shapes
/// `teacher` and `student` (N, C, H, W); a scalar.
pub(super) fn squared_difference(
    method: &'static str,
    teacher: &Tensor,
    student: &Value,
    weights: Weights,
    divisor: f64,
) -> Result<Value, DistillError> {
    let (n, c, h, w) = paired(method, teacher, student)?;
    if n * c * h * w == 0 {
        return nothing(student);
    }
    let (t, s) = (channels_last(teacher)?, channels_last(student.tensor())?);
    let line = Line { c, w, cells_of_image: h * w, weights };
    let total: f64 = {
        let (t, s) = (elements(&t)?, elements(&s)?);
        let rows = t.par_chunks_exact(w * c).zip(s.par_chunks_exact(w * c)).enumerate();
        let losses: Vec<f64> = rows.map(|(row, (t, s))| line.loss(row, t, s)).collect();
        losses.iter().sum()
    };
    let loss = Tensor::new((total / divisor) as f32, student.tensor().device())?;
    // The maps are there anyway: the gradient is made of them when it is asked for.
    Ok(Value::operation(&[student], loss, move |incoming| {
        let factor = 2.0 * f64::from(incoming.reshape(())?.to_scalar::<f32>()?) / divisor;
        let mut gradient = vec![0f32; n * c * h * w];
        {
            let (t, s) = (elements(&t)?, elements(&s)?);
            let rows = t.par_chunks_exact(w * c).zip(s.par_chunks_exact(w * c)).enumerate();
            gradient
                .par_chunks_exact_mut(w * c)
                .zip(rows)
                .for_each(|(gradient, (row, (t, s)))| line.gradient(row, t, s, factor as f32, gradient));
        }
        Ok(vec![Some(from_channels_last(gradient, (n, h, w, c), incoming)?)])
    }))
}

/// The cells of one row of a map.
struct Line {
    c: usize,
    w: usize,
    cells_of_image: usize,
    weights: Weights,
}

impl Line {
    fn cell_weight(&self, cell: usize) -> f32 {
        self.weights.cells.as_ref().map_or(1.0, |cells| cells[cell])
    }

    fn channel_weights(&self, cell: usize) -> Option<&[f32]> {
        let image = cell / self.cells_of_image;
        self.weights.channels.as_ref().map(|channels| &channels[image * self.c..][..self.c])
    }

    fn loss(&self, row: usize, t: &[f32], s: &[f32]) -> f64 {
        let (mut difference, mut weighted) = (vec![0f32; self.c], vec![0f32; self.c]);
        let mut total = 0.0;
        for (x, (t, s)) in t.chunks_exact(self.c).zip(s.chunks_exact(self.c)).enumerate() {
            let cell = row * self.w + x;
            let weight = self.cell_weight(cell);
            // What is masked out does not count, whatever it is: a mask is no cure for NaN, the other terms
            // see it.
            if weight == 0.0 {
                continue;
            }
            difference.iter_mut().zip(s.iter().zip(t)).for_each(|(d, (s, t))| *d = s - t);
            let square = match self.channel_weights(cell) {
                None => dot(&difference, &difference),
                Some(channels) => {
                    let parts = difference.iter().zip(channels);
                    weighted.iter_mut().zip(parts).for_each(|(out, (d, c))| *out = d * c);
                    dot(&difference, &weighted)
                }
            };
            total += f64::from(weight) * square;
        }
        total
    }

    fn gradient(&self, row: usize, t: &[f32], s: &[f32], factor: f32, gradient: &mut [f32]) {
        let cells = t.chunks_exact(self.c).zip(s.chunks_exact(self.c)).zip(gradient.chunks_exact_mut(self.c));
        for (x, ((t, s), gradient)) in cells.enumerate() {
            let cell = row * self.w + x;
            let factor = factor * self.cell_weight(cell);
            if factor == 0.0 {
                continue;
            }
            let parts = gradient.iter_mut().zip(s.iter().zip(t));
            match self.channel_weights(cell) {
                None => parts.for_each(|(g, (s, t))| *g = factor * (s - t)),
                Some(channels) => {
                    parts.zip(channels).for_each(|((g, (s, t)), c)| *g = factor * c * (s - t));
                }
            }
        }
    }
}

/// `map` + `shift`, one number for each image and channel.
///
/// # Shapes
/// (N, C, H, W) and (N, C).
pub(super) fn add_to_channels(map: &Value, shift: &Value) -> Result<Value, DistillError> {
    let (n, c, h, w) = map.tensor().dims4()?;
    let (host, shifts) = (channels_last(map.tensor())?, on_host(shift.tensor())?);
    let mut out = vec![0f32; n * h * w * c];
    if !out.is_empty() {
        let (x, shifts) = (elements(&host)?, elements(&shifts)?);
        let (x, shifts): (&[f32], &[f32]) = (&x, &shifts);
        out.par_chunks_exact_mut(c).enumerate().for_each(|(cell, out)| {
            let shifts = &shifts[cell / (h * w) * c..][..c];
            let sums = x[cell * c..][..c].iter().zip(shifts).map(|(x, shift)| x + shift);
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum);
        });
    }
    let out = from_channels_last(out, (n, h, w, c), map.tensor())?;
    Ok(Value::operation(&[map, shift], out, move |g| {
        let host = channels_last(g)?;
        let sums = image_sums(&elements(&host)?, (n, c, h * w));
        let sums = sums.into_iter().map(|sum| sum as f32).collect();
        Ok(vec![Some(g.clone()), Some(from_elements(sums, (n, c), g)?)])
    }))
}

/// Sums over the cells of a map, of each image and channel.
///
/// # Shapes
/// `map` (N, H·W, C); N·C numbers.
pub(super) fn image_sums(map: &[f32], (n, c, cells): (usize, usize, usize)) -> Vec<f64> {
    // Pieces of fixed size, added in order: the sums do not depend on the number of threads.
    const PIECE: usize = 1024;
    let pieces = cells.div_ceil(PIECE).max(1);
    let sum = |index: usize| {
        let (image, first) = (index / pieces, index % pieces * PIECE);
        let count = PIECE.min(cells - first.min(cells));
        let mut sums = vec![0f64; c];
        for x in map[(image * cells + first) * c..][..count * c].chunks_exact(c.max(1)) {
            sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        sums
    };
    let parts: Vec<Vec<f64>> = (0..n * pieces).into_par_iter().map(sum).collect();
    let mut sums = vec![0f64; n * c];
    for (index, part) in parts.iter().enumerate() {
        let image = &mut sums[index / pieces * c..][..c];
        image.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    sums
}
