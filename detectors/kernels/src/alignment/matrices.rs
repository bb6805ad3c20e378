//! Alignment of two matrices on the host.

use candle_core::Tensor;

use super::kernel::{Kernel, RowNorm, Sense, Wanted};
use crate::Result;
use crate::dispatch::Host;
use crate::linear::{Accumulate, Form, product};
use crate::memory::{elements, from_elements, on_host};
use crate::reduce::dot;
use crate::unit_rows::UnitRows;

/// Added to (|K| |L|)²: matrices of zeros have alignment 0.
pub(super) const EPS: f64 = 1e-12;

/// Matrices (n, p) and (n, q): a value, and the derivatives by the second if they are wanted.
pub(super) struct Matrices<'a> {
    pub(super) x: &'a Tensor,
    pub(super) y: &'a Tensor,
    pub(super) sizes: (usize, usize, usize),
    pub(super) kernel: Kernel,
    pub(super) sense: Sense,
    pub(super) wanted: Wanted,
}

impl Host for Matrices<'_> {
    type Output = (Tensor, Option<Tensor>);

    fn on_host(self) -> Result<(Tensor, Option<Tensor>)> {
        let Self { sizes, kernel, sense, wanted, .. } = self;
        let (x, y) = (on_host(self.x)?, on_host(self.y)?);
        let (x, y) = (elements(&x)?.to_vec(), elements(&y)?.to_vec());
        let Aligned { value, gradient } = align(x, y, sizes, kernel, wanted, product);
        let gradient = gradient.map(|mut gradient| {
            if sense.sign != 1.0 {
                gradient.iter_mut().for_each(|g| *g = (f64::from(*g) * sense.sign) as f32);
            }
            from_elements(gradient, self.y.shape(), self.y)
        });
        let loss = (sense.offset + sense.sign * value) as f32;
        Ok((from_elements(vec![loss], (), self.y)?, gradient.transpose()?))
    }
}

/// A kernel alignment and, if wanted, its derivatives by `y`.
pub(super) struct Aligned {
    pub(super) value: f64,
    pub(super) gradient: Option<Vec<f32>>,
}

/// [`product`], or its twin for one thread.
pub(super) type Multiply = fn(&mut [f32], (usize, usize, usize), &[f32], Form, &[f32], Form, Accumulate);

/// The alignment of `x` (n x p) and `y` (n x q).
pub(super) fn align(
    mut x: Vec<f32>,
    mut y: Vec<f32>,
    (n, p, q): (usize, usize, usize),
    kernel: Kernel,
    wanted: Wanted,
    multiply: Multiply,
) -> Aligned {
    if kernel.center {
        center_columns(&mut x, p);
        center_columns(&mut y, q);
    }
    let units = (kernel.row_norm != RowNorm::Off).then(|| (UnitRows::of(&x, p), UnitRows::of(&y, q)));
    let (x_sides, y_sides) = match (&units, kernel.row_norm) {
        (Some((ux, uy)), RowNorm::Rows) => (Sides::Two(&ux.values, &x), Sides::Two(&uy.values, &y)),
        (Some((ux, uy)), _) => (Sides::One(&ux.values), Sides::One(&uy.values)),
        (None, _) => (Sides::One(&x), Sides::One(&y)),
    };
    let pair = Pair { x: x_sides, y: y_sides, n, p, q, wanted, multiply };
    let through_rows = n * (p + 2 * q);
    let through_columns = p * p + 2 * p * q + 2 * q * q;
    let (value, derivatives) =
        if through_rows <= through_columns { pair.through_rows() } else { pair.through_columns() };

    let gradient = derivatives.map(|Derivatives { mut left, right }| {
        if let Some((_, unit_y)) = &units {
            unit_y.pull_back(&mut left);
        }
        if let Some(right) = right {
            left.iter_mut().zip(right).for_each(|(left, right)| *left += right);
        }
        if kernel.center {
            center_columns(&mut left, q);
        }
        left
    });
    Aligned { value, gradient }
}

/// The factors of a kernel matrix: K = left rightᵀ.
#[derive(Clone, Copy)]
enum Sides<'a> {
    /// Both are the same.
    One(&'a [f32]),
    Two(&'a [f32], &'a [f32]),
}

impl<'a> Sides<'a> {
    fn left(self) -> &'a [f32] {
        let (Self::One(left) | Self::Two(left, _)) = self;
        left
    }

    fn right(self) -> &'a [f32] {
        let (Self::One(right) | Self::Two(_, right)) = self;
        right
    }
}

/// Derivatives by the factors of L; if there is one factor, all in `left`.
struct Derivatives {
    left: Vec<f32>,
    right: Option<Vec<f32>>,
}

struct Pair<'a> {
    x: Sides<'a>,
    y: Sides<'a>,
    n: usize,
    p: usize,
    q: usize,
    wanted: Wanted,
    multiply: Multiply,
}

impl Pair<'_> {
    fn through_rows(&self) -> (f64, Option<Derivatives>) {
        let &Self { x, y, n, p, q, multiply, .. } = self;
        let gram = |sides: Sides<'_>, width| {
            let mut out = vec![0f32; n * n];
            let (left, right) = (sides.left(), sides.right());
            multiply(
                &mut out,
                (n, n, width),
                left,
                Form::Plain,
                right,
                Form::Transposed,
                Accumulate::Replace,
            );
            out
        };
        let (mut k, l) = (gram(x, p), gram(y, q));
        let ratio = Ratio::of(dot(&k, &l), dot(&k, &k), dot(&l, &l));
        if self.wanted == Wanted::Value {
            return (ratio.value, None);
        }
        // k becomes dka/dL.
        let twice = self.twice();
        for (k, l) in k.iter_mut().zip(&l) {
            *k = (twice * (ratio.by_cross * f64::from(*k) + ratio.by_own * f64::from(*l))) as f32;
        }
        let along = |form, factor: &[f32]| {
            let mut out = vec![0f32; n * q];
            multiply(&mut out, (n, q, n), &k, form, factor, Form::Plain, Accumulate::Replace);
            out
        };
        let right = match y {
            Sides::One(_) => None,
            Sides::Two(left, _) => Some(along(Form::Transposed, left)),
        };
        (ratio.value, Some(Derivatives { left: along(Form::Plain, y.right()), right }))
    }

    fn through_columns(&self) -> (f64, Option<Derivatives>) {
        let &Self { x, y, n, p, q, multiply, .. } = self;
        let (cross, own_x, own_y) =
            (self.columns(x, p, y, q), self.columns(x, p, x, p), self.columns(y, q, y, q));
        let ratio = Ratio::of(cross.norm(), own_x.norm(), own_y.norm());
        if self.wanted == Wanted::Value {
            return (ratio.value, None);
        }
        let twice = self.twice();
        // a X M + b Y S, for M = Xᵀ Y and S = Yᵀ Y of the other sides.
        let along = |x: &[f32], m: &[f32], y: &[f32], s: &[f32]| {
            let scaled = |matrix: &[f32], factor: f64| -> Vec<f32> {
                matrix.iter().map(|value| (twice * factor * f64::from(*value)) as f32).collect()
            };
            let mut out = vec![0f32; n * q];
            let m = scaled(m, ratio.by_cross);
            multiply(&mut out, (n, q, p), x, Form::Plain, &m, Form::Plain, Accumulate::Replace);
            let s = scaled(s, ratio.by_own);
            multiply(&mut out, (n, q, q), y, Form::Plain, &s, Form::Plain, Accumulate::Add);
            out
        };
        let right = match (&cross.left, &own_y.left) {
            (Some(m), Some(s)) => Some(along(x.right(), m, y.right(), s)),
            _ => None,
        };
        let left = along(x.left(), &cross.right, y.left(), &own_y.right);
        (ratio.value, Some(Derivatives { left, right }))
    }

    /// Aᵀ B of both sides.
    fn columns(&self, a: Sides<'_>, a_width: usize, b: Sides<'_>, b_width: usize) -> Columns {
        let of = |a: &[f32], b: &[f32]| {
            let mut out = vec![0f32; a_width * b_width];
            let sizes = (a_width, b_width, self.n);
            (self.multiply)(&mut out, sizes, a, Form::Transposed, b, Form::Plain, Accumulate::Replace);
            out
        };
        let left = match (a, b) {
            (Sides::Two(a, _), Sides::Two(b, _)) => Some(of(a, b)),
            _ => None,
        };
        Columns { left, right: of(a.right(), b.right()) }
    }

    /// A factor that is both sides of L gets the derivative twice.
    fn twice(&self) -> f64 {
        match self.y {
            Sides::One(_) => 2.0,
            Sides::Two(..) => 1.0,
        }
    }
}

/// Aᵀ B of the left sides (if they differ from the right ones) and of the right sides.
struct Columns {
    left: Option<Vec<f32>>,
    right: Vec<f32>,
}

impl Columns {
    /// <K, L> of the kernel matrices of A and B.
    fn norm(&self) -> f64 {
        dot(self.left.as_ref().unwrap_or(&self.right), &self.right)
    }
}

/// ka = <K, L> / sqrt(<K, K> <L, L>), and dka/dL = `by_cross` K + `by_own` L.
pub(super) struct Ratio {
    pub(super) value: f64,
    pub(super) by_cross: f64,
    pub(super) by_own: f64,
}

impl Ratio {
    pub(super) fn of(cross: f64, own_x: f64, own_y: f64) -> Self {
        let size = (own_x * own_y + EPS).sqrt();
        let value = cross / size;
        Self { value, by_cross: size.recip(), by_own: -value * (own_x / size) / size }
    }
}

pub(super) fn center_columns(rows: &mut [f32], width: usize) {
    let width = width.max(1);
    let count = rows.len() / width;
    let mut means = vec![0f64; width];
    for row in rows.chunks_exact(width) {
        means.iter_mut().zip(row).for_each(|(mean, x)| *mean += f64::from(*x));
    }
    means.iter_mut().for_each(|mean| *mean /= count.max(1) as f64);
    for row in rows.chunks_exact_mut(width) {
        row.iter_mut().zip(&means).for_each(|(x, mean)| *x = (f64::from(*x) - mean) as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, count: usize) -> Vec<f32> {
        // Any well spread numbers: fractions of multiples of the golden ratio.
        (1..=count as u64)
            .map(|i| {
                ((i * 2 + seed) as f64 * 0.618_033_988_749_895).fract() as f32 - 0.5 + (i % 3) as f32 * 0.1
            })
            .collect()
    }

    #[test]
    fn both_forms_give_the_same_alignment_and_gradient() {
        for row_norm in [RowNorm::Off, RowNorm::Rows, RowNorm::Cosine] {
            let (n, p, q) = (7, 5, 6);
            let (x, y) = (noise(1, n * p), noise(8, n * q));
            let (ux, uy) = (UnitRows::of(&x, p), UnitRows::of(&y, q));
            let (x, y) = match row_norm {
                RowNorm::Off => (Sides::One(&x), Sides::One(&y)),
                RowNorm::Rows => (Sides::Two(&ux.values, &x), Sides::Two(&uy.values, &y)),
                RowNorm::Cosine => (Sides::One(&ux.values), Sides::One(&uy.values)),
            };
            let pair = Pair { x, y, n, p, q, wanted: Wanted::ValueAndGradient, multiply: product };
            let (by_rows, by_columns) = (pair.through_rows(), pair.through_columns());
            assert!((by_rows.0 - by_columns.0).abs() < 1e-6, "{row_norm:?}");
            let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
            let (a, b) = (by_rows.1.unwrap(), by_columns.1.unwrap());
            assert!(close(&a.left, &b.left), "{row_norm:?}: {:?} {:?}", a.left, b.left);
            assert_eq!(a.right.is_some(), row_norm == RowNorm::Rows);
            assert!(close(&a.right.unwrap_or_default(), &b.right.unwrap_or_default()), "{row_norm:?}");
        }
    }
}
