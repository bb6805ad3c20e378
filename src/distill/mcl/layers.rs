//! Layer matching of L-MCL, a weight for each pair of layers and image, and the teacher that a network's
//! layers make together.

use ckd_kernels::Value;
use ckd_kernels::elementwise::sigmoid;
use ckd_kernels::normalize::l2_normalize_rows;
use ckd_kernels::relations::mixture;
use ckd_kernels::similarity::row_products;

use super::pair::NAME;
use crate::distill::distiller::DistillError;
use crate::distill::rows::paired;

/// Features shorter than this have no direction.
const SHORTEST: f64 = 1e-30;

/// L-MCL's weight of a pair of layers for each sample: the sigmoid of the cosine of its two (mapped)
/// features, always between 0.2689 and 0.7311.
///
/// # Shapes
/// `a` and `b` (B, D); (B).
///
/// # Errors
/// Shapes that differ.
pub fn layer_weights(a: &Value, b: &Value) -> Result<Value, DistillError> {
    paired(NAME, a.tensor(), b)?;
    let (a, b) = (l2_normalize_rows(a, SHORTEST)?, l2_normalize_rows(b, SHORTEST)?);
    Ok(sigmoid(&row_products(&a, &b)?)?)
}

/// L-MCL's aggregated logits of a network: Σ_l softmax(`a`)_l `logits`_l.
///
/// # Shapes
/// `logits` L matrices (B, C), `a` (B, L); (B, C).
///
/// # Errors
/// Shapes that do not fit.
pub fn aggregate(logits: &[Value], a: &Value) -> Result<Value, DistillError> {
    Ok(mixture(logits, a)?)
}
