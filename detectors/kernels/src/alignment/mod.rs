//! Kernel alignment of two matrices with the same rows (RCKA; Zhou et al., arXiv 2401.11824).
//!
//! With K = X Xᵀ and L = Y Yᵀ, the similarities of the rows among themselves:
//!
//! ```text
//! ka(X, Y) = <K, L> / (|K| |L|)                     Frobenius; in [0, 1], 1 for Y = c X U, U orthogonal
//! dka/dL   = (K - ka (|K| / |L|) L) / (|K| |L|)     and dL = dY Yᵀ + Y dYᵀ
//! ```
//!
//! X and Y may differ in width, so no projection is learned. On the host two forms cost differently: through the
//! N x N matrices K and L, or through <K, L> = |Xᵀ Y|² and its like; the cheaper one is taken. A GPU goes through
//! K and L, of all channels of a map at once.

#[cfg(feature = "cuda")]
mod gpu;
mod matrices;
mod patches;

use candle_core::Tensor;

pub use self::patches::{PatchRows, patch_misalignment};

use self::matrices::{Aligned, align};
use crate::dispatch::{self, Host};
use crate::linear::product;
use crate::losses::{Sum, recorded_sum};
use crate::memory::{elements, from_elements, on_host};
use crate::{Error, Result, Value};

/// Kernel of two rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// Column means are removed first (centred kernel alignment, CKA). The authors' code does not.
    pub center: bool,
    /// Effect of the length of a row.
    pub row_norm: RowNorm,
}

/// Effect of the length of a row on the similarities of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowNorm {
    /// K_ij = x_i·x_j.
    Off,
    /// K_ij = x_i·x_j / |x_i|, not symmetric (the authors' choice for logits).
    Rows,
    /// K_ij = x_i·x_j / (|x_i| |x_j|): the cosine.
    Cosine,
}

/// The kernel alignment of a teacher's rows `x` with a student's rows `y`.
///
/// # Shapes
/// `x` (N, P), `y` (N, Q); a scalar in [0, 1].
///
/// # Errors
/// Other ranks, or different numbers of rows.
pub fn alignment(x: &Tensor, y: &Value, kernel: Kernel) -> Result<Value> {
    aligned(x, y, kernel, Sense { offset: 0.0, sign: 1.0 })
}

/// 1 - [`alignment`]: what alignment lacks. Without numbers there is nothing to align, and it is 0.
///
/// # Shapes
/// `x` (N, P), `y` (N, Q); a scalar.
///
/// # Errors
/// Other ranks, or different numbers of rows.
pub fn misalignment(x: &Tensor, y: &Value, kernel: Kernel) -> Result<Value> {
    match y.tensor().elem_count() {
        0 => zero(y),
        _ => aligned(x, y, kernel, Sense::LACK),
    }
}

fn aligned(x: &Tensor, y: &Value, kernel: Kernel, sense: Sense) -> Result<Value> {
    let (&[n, p], &[rows, q]) = (x.dims(), y.dims()) else {
        let reason = format!("matrices expected, got {:?} and {:?}", x.dims(), y.dims());
        return Err(Error::invalid("ka", reason));
    };
    if n != rows {
        let reason = format!("teacher {:?} and student {:?} need the same rows", x.dims(), y.dims());
        return Err(Error::invalid("ka", reason));
    }
    let matrices = Matrices { x, y: y.tensor(), sizes: (n, p, q), kernel, sense, wanted: Wanted::of(y) };
    Ok(recorded_sum(y, dispatch::run(y.tensor(), matrices)?))
}

/// The constant 0, whose gradient is 0.
fn zero(y: &Value) -> Result<Value> {
    let gradient = y.tensor().zeros_like()?;
    let loss = from_elements(vec![0.0], (), y.tensor())?;
    Ok(recorded_sum(y, Sum { loss, gradient: Some(gradient) }))
}

/// `offset` + `sign` · alignment.
#[derive(Debug, Clone, Copy)]
struct Sense {
    offset: f64,
    sign: f64,
}

impl Sense {
    /// 1 - alignment.
    const LACK: Self = Self { offset: 1.0, sign: -1.0 };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Value,
    ValueAndGradient,
}

impl Wanted {
    fn of(y: &Value) -> Self {
        if y.is_tracked() { Self::ValueAndGradient } else { Self::Value }
    }
}

/// Matrices (n, p) and (n, q).
struct Matrices<'a> {
    x: &'a Tensor,
    y: &'a Tensor,
    sizes: (usize, usize, usize),
    kernel: Kernel,
    sense: Sense,
    wanted: Wanted,
}

impl Host for Matrices<'_> {
    type Output = Sum;

    fn on_host(self) -> Result<Sum> {
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
        Ok(Sum { loss: from_elements(vec![loss], (), self.y)?, gradient: gradient.transpose()? })
    }
}
