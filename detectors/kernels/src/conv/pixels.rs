//! Products of rows and weights: linear layers are 1x1 convolutions of a column of pixels.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use super::config::Conv2dConfig;
use super::geometry::Geometry;
use super::sweep::{Sweep, in_precision};
use crate::Precision;
use crate::memory::written;
use crate::microkernel::{COLUMNS, Finish};
use crate::panels::Panels;

/// Sizes of a product: m rows of i numbers, to o numbers.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) m: usize,
    pub(crate) i: usize,
    pub(crate) o: usize,
    pub(crate) precision: Precision,
}

/// Floats of weights that meet all rows before the next ones are packed: they stay in the L3 cache.
const SLICE: usize = 2 << 20;

fn geometry(Sizes { m, i, o, precision }: Sizes) -> Geometry {
    let config = Conv2dConfig::default();
    Geometry { config, n: 1, h: m, w: 1, c: i, oh: m, ow: 1, k: o, r: 1, s: 1, precision }
}

/// x (m, i) times the transpose of `weight` (o, i), with `finish`'s shift and activation.
pub(crate) fn product(size: Sizes, x: &[f32], weight: &[f32], finish: Finish) -> Vec<f32> {
    let Sizes { i, .. } = size;
    in_slices(size, |outputs| {
        let weight = &weight[outputs.start * i..outputs.end * i];
        let panels = Panels::of_transposed(weight, (i, outputs.len()), None);
        let finish = Finish { shift: finish.shift.map(|shift| &shift[outputs]), ..finish };
        multiply(size, x, panels, finish)
    })
}

/// g (m, o) times `weight` (o, i).
pub(crate) fn input_gradient(size: Sizes, g: &[f32], weight: &[f32]) -> Vec<f32> {
    let size = Sizes { i: size.o, o: size.i, ..size };
    in_slices(size, |outputs| {
        let start = |row: usize| row * size.o + outputs.start;
        let panels = Panels::of_rows(weight, (size.i, outputs.len()), start, |_| 1.0);
        multiply(size, g, panels, Finish::default())
    })
}

/// The transpose of g (m, o) times x (m, i).
pub(crate) fn weight_gradient(size: Sizes, x: &[f32], g: &[f32]) -> Vec<f32> {
    super::weight_gradient::sums(&geometry(size), x, g)
}

/// The result (m, o) of which `multiply` makes some outputs at a time.
fn in_slices(Sizes { m, i, o, .. }: Sizes, multiply: impl Fn(Range<usize>) -> Vec<f32>) -> Vec<f32> {
    let width = (SLICE / i.max(1)).next_multiple_of(COLUMNS);
    if o <= width || m == 0 {
        return multiply(0..o);
    }
    let write = |out: &mut [MaybeUninit<f32>]| {
        for first in (0..o).step_by(width) {
            let outputs = first..o.min(first + width);
            let part = multiply(outputs.clone());
            let rows = out.par_chunks_mut(o).zip(part.par_chunks(outputs.len())).with_min_len(16);
            rows.for_each(|(row, part)| {
                row[outputs.clone()].write_copy_of_slice(part);
            });
        }
    };
    // SAFETY: the slices are all outputs of all rows.
    unsafe { written(m * o, write) }
}

/// All rows times `panels`.
fn multiply(size: Sizes, rows: &[f32], panels: Panels, finish: Finish) -> Vec<f32> {
    let geometry = geometry(Sizes { o: panels.columns, ..size });
    let phases = [geometry.forward_phase()];
    let (precision, panels) = in_precision(size.precision, size.i, vec![panels]);
    let sweep = Sweep {
        precision,
        source: geometry.input_map(rows),
        result: (geometry.oh, geometry.ow, geometry.k),
        stride: [1, 1],
        step: [1, 1],
        phases: &phases,
        panels: &panels,
        groups: 1,
        finish,
    };
    // SAFETY: a sweep writes every number.
    unsafe { written(size.m * geometry.k, |out| sweep.run(out)) }
}
