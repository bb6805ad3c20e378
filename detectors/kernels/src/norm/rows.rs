//! The passes over memory that every norm is made of: sums per channel, the forward line, the backward line.
//!
//! The inner loops run over channels, which are contiguous; tasks are chunks of a fixed number of rows.

use rayon::prelude::*;

use crate::elementwise::CHUNK;
use crate::linear::Activation;

/// A channels-last buffer: `sections` times `rows` rows of `c` channels; tables have one entry per section and channel.
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

/// What came out of the activation that followed a norm.
#[derive(Clone, Copy)]
pub(super) struct Activated<'a> {
    pub(super) y: &'a [f32],
    pub(super) activation: Activation,
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

    /// The table of `section`, repeated for rows taken together.
    fn wide(&self, table: &[f32], section: usize) -> Vec<f32> {
        table[section * self.c..][..self.c].repeat(self.together())
    }

    /// Elements of the chunks that sections are cut into: whole rows, a whole number of times taken together.
    fn chunk(&self) -> usize {
        let wide = (self.c * self.together()).max(1);
        (CHUNK / wide).max(1) * wide
    }

    fn section_len(&self) -> usize {
        self.rows * self.c
    }

    /// activation((x - mean) factor + bias + residual).
    pub(super) fn forward(
        &self,
        x: &[f32],
        line: &ForwardLine,
        residual: Option<&[f32]>,
        activation: Activation,
    ) -> Vec<f32> {
        let mut out = vec![0f32; x.len()];
        if out.is_empty() {
            return out;
        }
        let work: Vec<_> = out.chunks_mut(self.section_len()).enumerate().collect();
        work.into_par_iter().for_each(|(section, out)| {
            let start = section * self.section_len();
            let mean = self.wide(line.mean, section);
            let factor = self.wide(line.factor, section);
            let bias = self.wide(line.bias, section);
            let width = mean.len();
            out.par_chunks_mut(self.chunk()).enumerate().for_each(|(index, out)| {
                let start = start + index * self.chunk();
                let x = &x[start..][..out.len()];
                for (out, x) in out.chunks_mut(width).zip(x.chunks(width)) {
                    let tables = mean.iter().zip(&factor).zip(&bias);
                    for ((out, x), ((mean, factor), bias)) in out.iter_mut().zip(x).zip(tables) {
                        *out = (x - mean) * factor + bias;
                    }
                }
                if let Some(residual) = residual {
                    out.iter_mut().zip(&residual[start..]).for_each(|(out, residual)| *out += residual);
                }
                activation.apply(out);
            });
        });
        out
    }

    /// a g + b (x - mean) + d, where g counts as 0 if the activation that followed was flat; without `x`, a g.
    /// Second result, on demand: g after that mask.
    pub(super) fn backward(
        &self,
        g: &[f32],
        x: Option<&[f32]>,
        y: Option<Activated>,
        line: &BackwardLine,
        keep_masked: bool,
    ) -> (Vec<f32>, Option<Vec<f32>>) {
        let mut out = vec![0f32; g.len()];
        let mut masked = vec![0f32; if keep_masked { g.len() } else { 0 }];
        if out.is_empty() {
            return (out, keep_masked.then_some(masked));
        }
        let len = self.section_len();
        let mut masked_sections: Vec<&mut [f32]> = masked.chunks_mut(len).collect();
        masked_sections.resize_with(self.sections, Default::default);
        let work: Vec<_> = out.chunks_mut(len).zip(masked_sections).enumerate().collect();
        work.into_par_iter().for_each(|(section, (out, masked))| {
            let first = section * len;
            let (a, b) = (self.wide(line.a, section), self.wide(line.b, section));
            let (d, mean) = (self.wide(line.d, section), self.wide(line.mean, section));
            let width = a.len();
            let mut masked: Vec<&mut [f32]> = masked.chunks_mut(self.chunk()).collect();
            masked.resize_with(len.div_ceil(self.chunk()), Default::default);
            out.par_chunks_mut(self.chunk()).zip(masked).enumerate().for_each(|(index, (out, masked))| {
                let start = first + index * self.chunk();
                let g = &g[start..][..out.len()];
                match y {
                    Some(Activated { y, activation }) => activation.through(g, &y[start..][..out.len()], out),
                    None => out.copy_from_slice(g),
                }
                masked.copy_from_slice(&out[..masked.len()]);
                let Some(x) = x else {
                    for out in out.chunks_mut(width) {
                        out.iter_mut().zip(&a).for_each(|(out, a)| *out *= a);
                    }
                    return;
                };
                let x = &x[start..][..out.len()];
                for (out, x) in out.chunks_mut(width).zip(x.chunks(width)) {
                    let tables = a.iter().zip(&b).zip(&d).zip(&mean);
                    for ((out, x), (((a, b), d), mean)) in out.iter_mut().zip(x).zip(tables) {
                        *out = a * *out + d + b * (x - mean);
                    }
                }
            });
        });
        (out, keep_masked.then_some(masked))
    }

    /// Σ x and Σ x² per section and channel.
    pub(super) fn value_sums(&self, x: &[f32]) -> (Vec<f64>, Vec<f64>) {
        self.sums(|_, start, len, first, second| {
            let width = first.len();
            for x in x[start..][..len].chunks(width) {
                for ((first, second), x) in first.iter_mut().zip(&mut *second).zip(x) {
                    let x = f64::from(*x);
                    *first += x;
                    *second += x * x;
                }
            }
        })
    }

    pub(super) fn gradient_sums(
        &self,
        g: &[f32],
        x: &[f32],
        y: Option<Activated>,
        mean: &[f32],
    ) -> GradientSums {
        let (of_gradients, of_products) = self.sums(|section, start, len, first, second| {
            let width = first.len();
            let mean = self.wide(mean, section);
            let (g, x) = (&g[start..][..len], &x[start..][..len]);
            let mut add = |g: &[f32], x: &[f32]| {
                let sums = first.iter_mut().zip(&mut *second);
                for (((first, second), (g, x)), mean) in sums.zip(g.iter().zip(x)).zip(&mean) {
                    *first += f64::from(*g);
                    *second += f64::from(g * (x - mean));
                }
            };
            let Some(Activated { y, activation }) = y else {
                g.chunks(width).zip(x.chunks(width)).for_each(|(g, x)| add(g, x));
                return;
            };
            let mut masked = vec![0f32; width];
            for ((g, x), y) in g.chunks(width).zip(x.chunks(width)).zip(y[start..][..len].chunks(width)) {
                let masked = &mut masked[..g.len()];
                activation.through(g, y, masked);
                add(masked, x);
            }
        });
        GradientSums { of_gradients, of_products }
    }

    /// Two sums per section and channel. `add(section, start, len, first, second)` adds the elements start..start + len
    /// to wide accumulators; chunks are added up in order.
    fn sums(&self, add: impl Fn(usize, usize, usize, &mut [f64], &mut [f64]) + Sync) -> (Vec<f64>, Vec<f64>) {
        let &Self { sections, c, .. } = self;
        let (len, chunk) = (self.section_len(), self.chunk());
        let chunks = len.div_ceil(chunk);
        let partial: Vec<Vec<f64>> = (0..sections * chunks)
            .into_par_iter()
            .map(|index| {
                let (section, start) = (index / chunks, index % chunks * chunk);
                let width = c * self.together();
                let mut wide = vec![0f64; 2 * width];
                let (first, second) = wide.split_at_mut(width);
                add(section, section * len + start, chunk.min(len - start), first, second);
                let mut sums = vec![0f64; 2 * c];
                for (half, wide) in sums.chunks_exact_mut(c).zip([first, second]) {
                    for wide in wide.chunks_exact(c) {
                        half.iter_mut().zip(wide).for_each(|(sum, wide)| *sum += *wide);
                    }
                }
                sums
            })
            .collect();
        let (mut first, mut second) = (vec![0f64; sections * c], vec![0f64; sections * c]);
        for (index, partial) in partial.iter().enumerate() {
            let at = index / chunks * c;
            first[at..at + c].iter_mut().zip(&partial[..c]).for_each(|(sum, part)| *sum += part);
            second[at..at + c].iter_mut().zip(&partial[c..]).for_each(|(sum, part)| *sum += part);
        }
        (first, second)
    }
}
