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
mod kernel;
mod matrices;
mod patches;

use candle_core::Tensor;

pub use self::kernel::{Kernel, RowNorm};
pub use self::patches::{PatchRows, patch_misalignment};

use self::kernel::{Sense, Wanted};
use self::matrices::Matrices;
use crate::scalar::{nothing, with_gradients};
use crate::{Error, Result, Value, dispatch};

/// The kernel alignment of rows `x`, which have no gradient, with rows `y`.
///
/// # Shapes
/// `x` (N, P), `y` (N, Q); a scalar in [0, 1].
///
/// # Errors
/// Other ranks, or different numbers of rows.
pub fn alignment(x: &Tensor, y: &Value, kernel: Kernel) -> Result<Value> {
    aligned(x, y, kernel, Sense::PLAIN)
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
        0 => nothing(y),
        _ => aligned(x, y, kernel, Sense::LACK),
    }
}

fn aligned(x: &Tensor, y: &Value, kernel: Kernel, sense: Sense) -> Result<Value> {
    let (&[n, p], &[rows, q]) = (x.dims(), y.dims()) else {
        let reason = format!("matrices expected, got {:?} and {:?}", x.dims(), y.dims());
        return Err(Error::invalid("ka", reason));
    };
    if n != rows {
        let reason = format!("{:?} and {:?} need the same rows", x.dims(), y.dims());
        return Err(Error::invalid("ka", reason));
    }
    let matrices = Matrices { x, y: y.tensor(), sizes: (n, p, q), kernel, sense, wanted: Wanted::of(y) };
    let (value, gradient) = dispatch::run(y.tensor(), matrices)?;
    Ok(with_gradients(&[y], value, vec![gradient]))
}
