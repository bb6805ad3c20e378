//! The tables of a norm: one number a channel.

use candle_core::Tensor;

use crate::memory::{elements, on_host};
use crate::{Error, Result, Value};

/// The sizes (N, C, H, W) of a norm's input.
pub(super) fn dims(name: &'static str, x: &Value) -> Result<(usize, usize, usize, usize)> {
    x.tensor().dims4().map_err(|_| Error::invalid(name, format!("x {:?} is not NCHW", x.dims())))
}

/// Fails unless `table` has `c` channels.
pub(super) fn check_table(name: &'static str, what: &str, table: &Value, c: usize) -> Result<()> {
    if table.dims() != [c] {
        return Err(Error::invalid(name, format!("{what} {:?}, {c} channels", table.dims())));
    }
    Ok(())
}

/// A copy of the numbers of a table on the host.
pub(super) fn to_vec(table: &Tensor) -> Result<Vec<f32>> {
    let host = on_host(table)?;
    Ok(elements(&host)?.to_vec())
}
