//! Batch norm in training, and the running statistics that it moves.

use candle_core::{Device, Tensor};

use super::measured::{Grouping, Moments, NormEpilogue, normalize};
use super::rows::Rows;
use super::shared::{are_over_parts, moves_statistics, summed};
use super::tables::dims;
use crate::deferred::{defer, exactly};
use crate::dispatch::{self, Host};
use crate::memory::{elements, from_elements, on_host};
use crate::{Error, Result, Value};

/// Mean and variance of a batch, per channel.
#[derive(Debug, Clone)]
pub struct BatchStatistics {
    /// Mean (C).
    pub mean: Tensor,
    /// Variance with n - 1 in the denominator (C); with n where a channel has one value only.
    pub unbiased_var: Tensor,
    /// Values per channel, N·H·W.
    pub values_per_channel: usize,
}

impl BatchStatistics {
    /// Moves the running mean and variance (C each) towards this batch, in place.
    ///
    /// An empty batch moves nothing. Where side effects are [collected](crate::deferred), this one waits.
    ///
    /// # Shapes
    /// Two tables (C).
    ///
    /// # Errors
    /// If the number of channels differs, or a table is not contiguous f32.
    pub fn fold_into(&self, running_mean: &Tensor, running_var: &Tensor, momentum: f64) -> Result<()> {
        // An empty batch leaves a trace, too: side effects of all passes are counted alike.
        let tensors = match self.values_per_channel {
            0 => Vec::new(),
            _ if !moves_statistics() => Vec::new(),
            _ => vec![self.mean.clone(), self.unbiased_var.clone()],
        };
        let (running_mean, running_var) = (running_mean.clone(), running_var.clone());
        defer(tensors, move |tensors| {
            if tensors.is_empty() {
                return Ok(());
            }
            let [mean, var] = exactly(tensors)?;
            update_running(&running_mean, mean, momentum)?;
            update_running(&running_var, var, momentum)
        })
    }
}

/// Moves a running statistic: running ← (1 - momentum) running + momentum batch.
///
/// Every tensor that shares the storage of `running` sees it.
///
/// # Shapes
/// Two of one shape.
///
/// # Errors
/// If the shapes differ, or `running` is not contiguous f32.
pub fn update_running(running: &Tensor, batch: &Tensor, momentum: f64) -> Result<()> {
    if running.dims() != batch.dims() {
        return Err(Error::invalid(
            "update_running",
            format!("running {:?}, batch {:?}", running.dims(), batch.dims()),
        ));
    }
    // Another process's statistics come as bytes.
    let batch = batch.to_device(running.device())?;
    dispatch::run(running, MoveTowards { running, batch: &batch, momentum })
}

/// The running table to be moved, and the table of the batch.
pub(super) struct MoveTowards<'a> {
    pub(super) running: &'a Tensor,
    pub(super) batch: &'a Tensor,
    pub(super) momentum: f64,
}

impl Host for MoveTowards<'_> {
    type Output = ();

    fn on_host(self) -> Result<()> {
        let Self { running, batch, momentum } = self;
        let moved: Vec<f32> = {
            let (old, new) = (on_host(running)?, on_host(batch)?);
            let (old, new) = (elements(&old)?, elements(&new)?);
            let moved =
                |(old, new): (&f32, &f32)| (1.0 - momentum) * f64::from(*old) + momentum * f64::from(*new);
            old.iter().zip(new.iter()).map(moved).map(|value| value as f32).collect()
        };
        if moved.is_empty() {
            return Ok(());
        }
        Ok(running.slice_set(&from_elements(moved, running.shape(), running)?, 0, 0)?)
    }
}

/// Training batch norm (Ioffe and Szegedy 2015, arXiv 1502.03167). Returns the statistics of the batch too.
///
/// The biased variance normalises. Inside [`over_parts`](super::over_parts) the statistics are those of all parts.
///
/// A channel with a single value normalises to its bias, with finite gradients. An empty batch gives an empty
/// result.
///
/// # Shapes
/// `x` (N, C, H, W), `weight`, `bias` (C) to `x`'s shape.
///
/// # Errors
/// If shapes do not fit.
pub fn batch_norm_train(
    x: &Value,
    weight: &Value,
    bias: &Value,
    eps: f64,
    fused: NormEpilogue,
) -> Result<(Value, BatchStatistics)> {
    let (n, c, h, w) = dims("batch_norm_train", x)?;
    let is_shared = are_over_parts();
    let grouping = Grouping { rows: Rows { sections: 1, rows: n * h * w, c }, group: 1, is_shared };
    let (out, moments) = normalize("batch_norm_train", x, weight, bias, eps, grouping, fused)?;
    let values = match is_shared {
        true => summed(vec![(n * h * w) as f64])?[0] as usize,
        false => n * h * w,
    };
    let statistics = dispatch::run(x.tensor(), Statistics { moments: &moments, values })?;
    Ok((out, statistics))
}

/// The moments of each channel of a batch with `values` values a channel.
pub(super) struct Statistics<'a> {
    pub(super) moments: &'a Tensor,
    pub(super) values: usize,
}

impl Host for Statistics<'_> {
    type Output = BatchStatistics;

    fn on_host(self) -> Result<BatchStatistics> {
        let Self { moments, values } = self;
        let unbiased = if values > 1 { values as f64 / (values - 1) as f64 } else { 1.0 };
        let moments = Moments::read(moments)?;
        let table = |numbers: Vec<f32>| Tensor::from_vec(numbers, moments.len(), &Device::Cpu);
        Ok(BatchStatistics {
            mean: table(moments.iter().map(|moments| moments.mean as f32).collect())?,
            unbiased_var: table(moments.iter().map(|moments| (moments.var * unbiased) as f32).collect())?,
            values_per_channel: values,
        })
    }
}
