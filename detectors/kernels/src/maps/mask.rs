//! Maps some of whose cells are dropped.

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;

use crate::dispatch::{self, Host};
use crate::memory::{CHUNK, elements, from_channels_last, nhwc, written_in_chunks};
use crate::{Error, Result, Value};

/// Product of a map and a mask of its cells, which all channels share.
///
/// # Shapes
/// `x` (N, C, H, W), `mask` (N, 1, H, W); as `x`.
///
/// # Errors
/// A mask of another shape.
pub fn masked_cells(x: &Value, mask: &Tensor) -> Result<Value> {
    let (n, c, h, w) = x.tensor().dims4()?;
    if mask.dims() != [n, 1, h, w] {
        return Err(Error::invalid(
            "masked_cells",
            format!("mask {:?} for maps {:?}", mask.dims(), x.dims()),
        ));
    }
    let mask = nhwc(mask)?;
    let out = dispatch::run(x.tensor(), Masked { x: &nhwc(x.tensor())?, mask: &mask, c })?;
    Ok(Value::operation(&[x], out, move |g| {
        Ok(vec![Some(dispatch::run(g, Masked { x: &nhwc(g)?, mask: &mask, c })?)])
    }))
}

/// A map (N, H, W, `c`) and a factor for each cell (N, H, W, 1).
struct Masked<'a> {
    x: &'a Tensor,
    mask: &'a Tensor,
    c: usize,
}

impl Host for Masked<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let c = self.c.max(1);
        let (x, mask) = (elements(self.x)?, elements(self.mask)?);
        let cells_a_task = CHUNK.div_ceil(c);
        let out = written_in_chunks(x.len(), cells_a_task * c, |task, out| {
            let first = task * cells_a_task;
            for cell in first..first + out.len() / c {
                out.extend(x[cell * c..][..c].iter().map(|x| x * mask[cell]));
            }
        });
        from_channels_last(out, self.x.dims4()?, self.x)
    }
}
