//! Rows without their mean, and rows of unit deviation.
//!
//! ```text
//! centred       y = x - mean x
//! standardised  y = (x - mean x) / (eps + max(std x, floor))        std with n - 1
//! gradient      (g - mean g) / d - (y·g) (x - mean x) / (d (n - 1) std)        d the divisor; the second part only above the floor
//! ```

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;

use crate::dispatch::{self, Host};
use crate::memory::{CHUNK, elements, from_elements, on_host, written_in_chunks};
use crate::reduce::{dot, sum};
use crate::simd::for_each_level;
use crate::{Error, Result, Value};

/// Divisor of rows that had their mean subtracted.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Divisor {
    /// 1.
    One,
    /// `eps` + the standard deviation (n - 1), which counts as `floor` where it is smaller.
    Deviation { eps: f64, floor: f64 },
}

/// Centres rows: x - mean x.
///
/// # Shapes
/// `x` (M, D) to the same.
///
/// # Errors
/// A rank other than 2.
pub fn center_rows(x: &Value) -> Result<Value> {
    moved("center_rows", x, Divisor::One)
}

/// Standardises rows (z-score): (x - mean x) / (`eps` + std x), the deviation with n - 1 (Sun et al. 2024, arXiv 2403.01427).
///
/// A deviation below `floor` counts as `floor`: the gradient grows with its inverse. A row of one number, or of equal
/// ones, becomes 0.
///
/// # Shapes
/// `x` (M, D) to the same.
///
/// # Errors
/// A rank other than 2; an `eps` that is not positive; a negative `floor`.
pub fn standardize_rows(x: &Value, eps: f64, floor: f64) -> Result<Value> {
    const NAME: &str = "standardize_rows";
    if !(eps > 0.0 && eps.is_finite() && floor >= 0.0 && floor.is_finite()) {
        return Err(Error::invalid(NAME, format!("eps {eps} and floor {floor}; above 0, and not below 0")));
    }
    moved(NAME, x, Divisor::Deviation { eps, floor })
}

fn moved(name: &'static str, x: &Value, divisor: Divisor) -> Result<Value> {
    let &[_, width] = x.dims() else {
        return Err(Error::invalid(name, format!("(M, D) expected, got {:?}", x.dims())));
    };
    let saved = x.tensor().clone();
    let out = dispatch::run(&saved, Standardized { x: &saved, width, divisor })?;
    Ok(Value::operation(&[x], out, move |g| {
        Ok(vec![Some(dispatch::run(g, StandardizedGradient { g, x: &saved, width, divisor })?)])
    }))
}

/// Rows of `width` numbers.
struct Standardized<'a> {
    x: &'a Tensor,
    width: usize,
    divisor: Divisor,
}

impl Host for Standardized<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { x: like, width, divisor } = self;
        let host = on_host(like)?;
        let x = elements(&host)?;
        let out = by_rows(x.len(), width, |row, out| {
            let x = &x[row * width..][..width];
            let row = Row::of(x, divisor);
            affine(out, x, row.mean, row.divisor.recip());
        });
        from_elements(out, like.shape(), like)
    }
}

/// The gradient of standardised rows, and the rows that they were made of.
struct StandardizedGradient<'a> {
    g: &'a Tensor,
    x: &'a Tensor,
    width: usize,
    divisor: Divisor,
}

impl Host for StandardizedGradient<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { g: like, x, width, divisor } = self;
        let (saved, host) = (on_host(x)?, on_host(like)?);
        let (saved, g) = (elements(&saved)?, elements(&host)?);
        let out = by_rows(saved.len(), width, |row, out| {
            let (x, g) = (&saved[row * width..][..width], &g[row * width..][..width]);
            let row = Row::of(x, divisor);
            let mean = sum(g) / width as f64;
            // Σ (x - mean) g, over what each deviation moves the divisor by.
            let along = (dot(x, g) - row.mean * mean * width as f64) * row.slope;
            combined(out, (g, x), (mean, row.mean), (row.divisor.recip(), along));
        });
        from_elements(out, x.shape(), like)
    }
}

/// Mean and divisor that standardise a row.
struct Row {
    mean: f64,
    divisor: f64,
    /// The factor of ((x - mean)·g) (x - mean) in the gradient.
    slope: f64,
}

impl Row {
    fn of(x: &[f32], divisor: Divisor) -> Self {
        let mean = sum(x) / x.len() as f64;
        match divisor {
            Divisor::One => Self { mean, divisor: 1.0, slope: 0.0 },
            Divisor::Deviation { eps, floor } => {
                let degrees = x.len().saturating_sub(1).max(1) as f64;
                let deviation = (squares_about(x, mean) / degrees).sqrt();
                // Not `max`, which would hide a NaN.
                let divisor = eps + if deviation < floor { floor } else { deviation };
                let moves = deviation > floor && deviation > 0.0;
                let slope = if moves { (divisor * divisor * degrees * deviation).recip() } else { 0.0 };
                Self { mean, divisor, slope }
            }
        }
    }
}

for_each_level! {
    /// Σ (x - mean)².
    fn squares_about(x: &[f32], mean: f64) -> f64 {
        x.iter().map(|x| (f64::from(*x) - mean) * (f64::from(*x) - mean)).sum()
    }

    /// (x - mean) factor.
    fn affine(out: &mut [f32], x: &[f32], mean: f64, factor: f64) {
        out.iter_mut().zip(x).for_each(|(out, x)| *out = ((f64::from(*x) - mean) * factor) as f32);
    }

    /// (g - its mean) factor - along (x - its mean), of `pair` (g, x).
    fn combined(out: &mut [f32], pair: (&[f32], &[f32]), means: (f64, f64), factors: (f64, f64)) {
        for (out, (g, x)) in out.iter_mut().zip(pair.0.iter().zip(pair.1)) {
            *out = ((f64::from(*g) - means.0) * factors.0 - factors.1 * (f64::from(*x) - means.1)) as f32;
        }
    }
}

/// `len` numbers, written row by row in parallel; rows have `width` elements.
fn by_rows(len: usize, width: usize, write: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let width = width.max(1);
    let rows_a_task = CHUNK.div_ceil(width);
    written_in_chunks(len, rows_a_task * width, |task, out| {
        for (row, out) in out.zeros().chunks_exact_mut(width).enumerate() {
            write(task * rows_a_task + row, out);
        }
    })
}
