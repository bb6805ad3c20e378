//! Group norm.

use super::measured::{Grouping, NormEpilogue, normalize};
use super::rows::Rows;
use super::tables::dims;
use crate::activation::Activation;
use crate::{Error, Result, Value};

/// Group norm (Wu and He 2018, arXiv 1803.08494): an image's channels are normalised in `groups` groups of
/// neighbours.
///
/// # Shapes
/// `x` (N, C, H, W), `weight`, `bias` (C) to `x`'s shape; `groups` divides C.
///
/// # Errors
/// If shapes do not fit.
pub fn group_norm(
    x: &Value,
    weight: &Value,
    bias: &Value,
    groups: usize,
    eps: f64,
    activation: Activation,
) -> Result<Value> {
    let (n, c, h, w) = dims("group_norm", x)?;
    if groups == 0 || c == 0 || c % groups != 0 {
        return Err(Error::invalid("group_norm", format!("{c} channels in {groups} groups")));
    }
    let grouping =
        Grouping { rows: Rows { sections: n, rows: h * w, c }, group: c / groups, is_shared: false };
    let epilogue = NormEpilogue { residual: None, activation };
    Ok(normalize("group_norm", x, weight, bias, eps, grouping, epilogue)?.0)
}
