//! The passes over memory that every norm is made of: sums per channel, the forward line, the backward line.
//!
//! The inner loops run over channels, which are contiguous; tasks are chunks of a fixed number of rows.

use std::ops::Range;

use rayon::prelude::*;

use crate::activation::{Activation, SIX, rectified};
use crate::memory::{CHUNK, Place, both_written, written_in_chunks};
use crate::simd::for_each_level;

/// A channels-last buffer: `sections` times `rows` rows of `c` channels; tables have one entry per section
/// and channel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    pub(super) sections: usize,
    pub(super) rows: usize,
    pub(super) c: usize,
}

pub(super) struct ForwardLine<'a> {
    pub(super) mean: &'a [f32],
    pub(super) factor: &'a [f32],
    pub(super) bias: &'a [f32],
}

pub(super) struct BackwardLine<'a> {
    pub(super) a: &'a [f32],
    pub(super) b: &'a [f32],
    pub(super) d: &'a [f32],
    pub(super) mean: &'a [f32],
}

/// Per section and channel: Σ g and Σ g (x - mean).
pub(super) struct GradientSums {
    pub(super) of_gradients: Vec<f64>,
    pub(super) of_products: Vec<f64>,
}

/// Inner loops run over at least about this many elements: narrow rows are taken several at a time.
const WIDE: usize = 64;

impl Rows {
    /// Rows that an inner loop takes at a time.
    fn together(&self) -> usize {
        (WIDE / self.c.max(1)).max(1)
    }

    /// A table with the entries of each section repeated, for rows taken together.
    pub(super) fn wide(&self, table: &[f32]) -> Vec<f32> {
        let mut wide = Vec::with_capacity(table.len() * self.together());
        for section in table.chunks(self.c.max(1)) {
            (0..self.together()).for_each(|_| wide.extend_from_slice(section));
        }
        wide
    }

    /// Rows that a task takes: a whole number of times those taken together.
    fn rows_a_task(&self) -> usize {
        (CHUNK / (self.c * self.together()).max(1)).max(1) * self.together()
    }

    /// The sections that `count` rows from row `first` on (of all sections) lie in, and which elements there.
    fn pieces(&self, first: usize, count: usize) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
        let &Self { rows, c, .. } = self;
        let sections = first / rows.max(1)..(first + count).div_ceil(rows.max(1));
        sections.map(move |section| {
            let ours = first.max(section * rows)..(first + count).min((section + 1) * rows);
            (section, ours.start * c..ours.end * c)
        })
    }

    /// activation((x - mean) factor + bias + residual).
    pub(super) fn forward(
        &self,
        x: &[f32],
        line: &ForwardLine,
        residual: Option<&[f32]>,
        activation: Activation,
    ) -> Vec<f32> {
        let (mean, factor, bias) = (self.wide(line.mean), self.wide(line.factor), self.wide(line.bias));
        let (width, rows_a_task) = (self.c * self.together(), self.rows_a_task());
        written_in_chunks(x.len(), rows_a_task * self.c, |task, out| {
            for (section, range) in self.pieces(task * rows_a_task, out.len() / self.c) {
                let at = section * width..(section + 1) * width;
                let tables = (&mean[at.clone()], &factor[at.clone()], &bias[at]);
                let (x, residual) = (&x[range.clone()], residual.map(|residual| &residual[range]));
                forward_rows(out, x, tables, residual, activation);
            }
        })
    }

    /// a g + b (x - mean) + d, where g counts as 0 if the activation that followed was flat; without `x`, a g
    /// of no mask. Second result, on demand: g after a mask by results.
    pub(super) fn backward(
        &self,
        g: &[f32],
        x: Option<&[f32]>,
        mask: Option<Mask>,
        line: &BackwardLine,
        keep_masked: bool,
    ) -> (Vec<f32>, Option<Vec<f32>>) {
        let (a, b, d, mean) = (self.wide(line.a), self.wide(line.b), self.wide(line.d), self.wide(line.mean));
        let width = self.c * self.together();
        let widths = (self.c, if keep_masked { self.c } else { 0 });
        let rows = g.len().checked_div(self.c).unwrap_or(0);
        let (out, masked) = both_written(rows, widths, self.rows_a_task(), |first, out, masked| {
            for (section, range) in self.pieces(first, out.len() / self.c) {
                let at = section * width..(section + 1) * width;
                let tables = (&a[at.clone()], &b[at.clone()], &d[at.clone()], &mean[at.clone()]);
                let (x, mask) = (x.map(|x| &x[range.clone()]), mask.map(|mask| mask.part(&range, &at)));
                let g = &g[range];
                backward_rows(out, masked, g, x, mask, tables);
            }
        });
        (out, keep_masked.then_some(masked))
    }

    /// Σ x and Σ x² per section and channel.
    pub(super) fn value_sums(&self, x: &[f32]) -> (Vec<f64>, Vec<f64>) {
        self.sums(|_, range, sums| add_values(&x[range], sums))
    }

    pub(super) fn gradient_sums(
        &self,
        g: &[f32],
        x: &[f32],
        mask: Option<Mask>,
        mean: &[f32],
    ) -> GradientSums {
        let mean = self.wide(mean);
        let (of_gradients, of_products) = self.sums(|section, range, sums| {
            let at = section * sums.0.len()..(section + 1) * sums.0.len();
            let (mean, mask) = (&mean[at.clone()], mask.map(|mask| mask.part(&range, &at)));
            let (g, x) = (&g[range.clone()], &x[range]);
            add_gradients(g, x, mask, mean, sums);
        });
        GradientSums { of_gradients, of_products }
    }

    /// Two sums per section and channel. `add(section, range, sums)` adds the elements of a range to wide
    /// accumulators; tasks are added up in order.
    fn sums(
        &self,
        add: impl Fn(usize, Range<usize>, (&mut [f64], &mut [f64])) + Sync,
    ) -> (Vec<f64>, Vec<f64>) {
        let &Self { sections, rows, c } = self;
        let rows_a_task = self.rows_a_task();
        let tasks = if c == 0 { 0 } else { rows.div_ceil(rows_a_task) };
        let partial: Vec<Vec<f64>> = (0..sections * tasks)
            .into_par_iter()
            .map(|index| {
                let (section, first) = (index / tasks, index % tasks * rows_a_task);
                let count = rows_a_task.min(rows - first);
                let width = c * self.together();
                let mut wide = vec![0f64; 2 * width];
                let start = (section * rows + first) * c;
                add(section, start..start + count * c, wide.split_at_mut(width));
                let mut sums = vec![0f64; 2 * c];
                for (half, wide) in sums.chunks_exact_mut(c).zip(wide.chunks_exact(width)) {
                    for wide in wide.chunks_exact(c) {
                        half.iter_mut().zip(wide).for_each(|(sum, wide)| *sum += *wide);
                    }
                }
                sums
            })
            .collect();
        let (mut first, mut second) = (vec![0f64; sections * c], vec![0f64; sections * c]);
        for (index, partial) in partial.iter().enumerate() {
            let at = index / tasks * c;
            first[at..at + c].iter_mut().zip(&partial[..c]).for_each(|(sum, part)| *sum += part);
            second[at..at + c].iter_mut().zip(&partial[c..]).for_each(|(sum, part)| *sum += part);
        }
        (first, second)
    }
}

/// Where the activation that followed a norm was flat.
#[derive(Clone, Copy)]
pub(super) struct Mask<'a> {
    pub(super) activation: Activation,
    pub(super) by: By<'a>,
}

/// Origin of the activation's results.
#[derive(Clone, Copy)]
pub(super) enum By<'a> {
    /// The results themselves.
    Result(&'a [f32]),
    /// The norm's input, which the backward pass reads anyway: (x - mean) factor + bias, of [wide](Rows::wide) tables.
    Input { factor: &'a [f32], bias: &'a [f32] },
}

impl Mask<'_> {
    /// The mask of the elements `range`, whose tables are `at`.
    fn part(self, range: &Range<usize>, at: &Range<usize>) -> Self {
        let by = match self.by {
            By::Result(y) => By::Result(&y[range.clone()]),
            By::Input { factor, bias } => By::Input { factor: &factor[at.clone()], bias: &bias[at.clone()] },
        };
        Self { by, ..self }
    }
}

/// Value from which an activation that is flat below 0 is flat again.
#[inline(always)]
fn ceiling(activation: Activation) -> f32 {
    if activation == Activation::Relu6 { SIX } else { f32::INFINITY }
}

#[inline(always)]
fn limited(y: f32, ceiling: f32) -> f32 {
    let y = rectified(y);
    if y > ceiling { ceiling } else { y }
}

/// The gradient `g` where the result was `y`; NaN lets it through.
#[inline(always)]
fn through(g: f32, y: f32, ceiling: f32) -> f32 {
    if y <= 0.0 || y >= ceiling { 0.0 } else { g }
}

for_each_level! {
    fn forward_rows(
        out: &mut Place<f32>,
        x: &[f32],
        tables: (&[f32], &[f32], &[f32]),
        residual: Option<&[f32]>,
        activation: Activation,
    ) {
        let (mean, factor, bias) = tables;
        let width = mean.len();
        let on_line = |(x, ((mean, factor), bias)): (&f32, ((&f32, &f32), &f32))| (x - mean) * factor + bias;
        let tables = || mean.iter().zip(factor).zip(bias);
        let ceiling = ceiling(activation);
        match (residual, activation) {
            (None, Activation::Identity) => {
                x.chunks(width).for_each(|x| out.extend(x.iter().zip(tables()).map(on_line)));
            }
            (None, Activation::Relu | Activation::Relu6) => {
                for x in x.chunks(width) {
                    out.extend(x.iter().zip(tables()).map(on_line).map(|y| limited(y, ceiling)));
                }
            }
            (Some(residual), Activation::Identity) => {
                for (x, residual) in x.chunks(width).zip(residual.chunks(width)) {
                    out.extend(
                        x.iter().zip(tables()).map(on_line).zip(residual).map(|(y, residual)| y + residual),
                    );
                }
            }
            (Some(residual), Activation::Relu | Activation::Relu6) => {
                for (x, residual) in x.chunks(width).zip(residual.chunks(width)) {
                    out.extend(
                        x.iter()
                            .zip(tables())
                            .map(on_line)
                            .zip(residual)
                            .map(|(y, residual)| limited(y + residual, ceiling)),
                    );
                }
            }
        }
    }

    fn backward_rows(
        out: &mut Place<f32>,
        masked: &mut Place<f32>,
        g: &[f32],
        x: Option<&[f32]>,
        mask: Option<Mask>,
        tables: (&[f32], &[f32], &[f32], &[f32]),
    ) {
        let (a, b, d, mean) = tables;
        let width = a.len();
        let tables = || a.iter().zip(b).zip(d).zip(mean);
        let ceiling = mask.map_or(f32::INFINITY, |mask| ceiling(mask.activation));
        let by = mask.map(|mask| mask.by);
        let through = |(g, y): (&f32, &f32)| through(*g, *y, ceiling);
        match (x, by) {
            (None, _) => g.chunks(width).for_each(|g| out.extend(g.iter().zip(a).map(|(g, a)| g * a))),
            (Some(x), None) => {
                for (g, x) in g.chunks(width).zip(x.chunks(width)) {
                    let terms = g.iter().zip(x).zip(tables());
                    out.extend(terms.map(|((g, x), (((a, b), d), mean))| a * g + d + b * (x - mean)));
                }
            }
            (Some(x), Some(By::Input { factor, bias })) => {
                for (g, x) in g.chunks(width).zip(x.chunks(width)) {
                    let terms = g.iter().zip(x).zip(tables()).zip(factor.iter().zip(bias));
                    out.extend(terms.map(|(((g, x), (((a, b), d), mean)), (factor, bias))| {
                        let centred = x - mean;
                        a * through((g, &(centred * factor + bias))) + d + b * centred
                    }));
                }
            }
            (Some(x), Some(By::Result(y))) => {
                for ((g, x), y) in g.chunks(width).zip(x.chunks(width)).zip(y.chunks(width)) {
                    let terms = g.iter().zip(y).map(through).zip(x).zip(tables());
                    out.extend(terms.map(|((g, x), (((a, b), d), mean))| a * g + d + b * (x - mean)));
                    masked.extend(g.iter().zip(y).map(through));
                }
            }
        }
    }

    fn add_values(x: &[f32], both: (&mut [f64], &mut [f64])) {
        let (sums, squares) = both;
        for x in x.chunks(sums.len()) {
            for ((sum, square), x) in sums.iter_mut().zip(&mut *squares).zip(x) {
                let x = f64::from(*x);
                *sum += x;
                *square += x * x;
            }
        }
    }

    fn add_gradients(
        g: &[f32],
        x: &[f32],
        mask: Option<Mask>,
        mean: &[f32],
        both: (&mut [f64], &mut [f64]),
    ) {
        let (sums, products) = both;
        let width = sums.len();
        let ceiling = mask.map_or(f32::INFINITY, |mask| ceiling(mask.activation));
        match mask.map(|mask| mask.by) {
            None => {
                for (g, x) in g.chunks(width).zip(x.chunks(width)) {
                    let sums = sums.iter_mut().zip(&mut *products).zip(mean);
                    for (((sum, product), mean), (g, x)) in sums.zip(g.iter().zip(x)) {
                        *sum += f64::from(*g);
                        *product += f64::from(g * (x - mean));
                    }
                }
            }
            Some(By::Input { factor, bias }) => {
                for (g, x) in g.chunks(width).zip(x.chunks(width)) {
                    let sums = sums.iter_mut().zip(&mut *products).zip(mean.iter().zip(factor).zip(bias));
                    for (((sum, product), ((mean, factor), bias)), (g, x)) in sums.zip(g.iter().zip(x)) {
                        let centred = x - mean;
                        let g = through(*g, centred * factor + bias, ceiling);
                        *sum += f64::from(g);
                        *product += f64::from(g * centred);
                    }
                }
            }
            Some(By::Result(y)) => {
                for ((g, x), y) in g.chunks(width).zip(x.chunks(width)).zip(y.chunks(width)) {
                    let sums = sums.iter_mut().zip(&mut *products).zip(mean);
                    for (((sum, product), mean), ((g, x), y)) in sums.zip(g.iter().zip(x).zip(y)) {
                        let g = through(*g, *y, ceiling);
                        *sum += f64::from(g);
                        *product += f64::from(g * (x - mean));
                    }
                }
            }
        }
    }
}
