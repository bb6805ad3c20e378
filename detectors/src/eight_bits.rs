//! Layers of a frozen network in 8 bits: where their inputs lie, and the layers rounded by that.
//!
//! A layer's input is watched while the network runs on some images
//! ([`ParamStore::watch_inputs`](crate::param::ParamStore::watch_inputs)); its range then decides the grid of 256 steps that
//! it is rounded to ([`ParamStore::compute_in_8_bits`](crate::param::ParamStore::compute_in_8_bits)).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use candle_core::Tensor;
use ckd_kernels::eight_bits::{Conv2dInt8, Grid, range_of};
use ckd_kernels::{Conv2dConfig, Value};

use crate::Result;

/// Least and largest number that went into each layer, by the layer's name.
pub type InputRanges = BTreeMap<String, (f32, f32)>;

/// Shortest sum of a convolution that is worth 8 bits.
const SHORTEST: usize = 32;

/// Whether a convolution with a weight of this `shape` (K, C/groups, R, S) is worth 8 bits. Depthwise layers and a trunk's first ones, whose
/// sums take fewer than 32 numbers, are not: they are bound by memory, and what they lose no later layer gives back.
pub fn is_worth(shape: &[usize]) -> bool {
    shape.iter().skip(1).product::<usize>() >= SHORTEST
}

/// Whether a convolution with `weight` (K, C/groups, R, S) is worth 8 bits, and can run so.
pub(crate) fn pays(weight: &Tensor, config: Conv2dConfig) -> bool {
    is_worth(weight.dims()) && Conv2dInt8::suits(weight, config)
}

/// Input of a layer: watched, or rounded.
#[derive(Debug, Default)]
pub(crate) struct LayerInput {
    watched: AtomicBool,
    seen: Mutex<Option<(f32, f32)>>,
    grid: OnceLock<Grid>,
    layer: OnceLock<Conv2dInt8>,
}

impl LayerInput {
    /// Begins or ends the watch; a new one forgets what was seen.
    pub(crate) fn watch(&self, on: bool) {
        if on {
            *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        self.watched.store(on, Ordering::Relaxed);
    }

    /// Range of what was seen.
    pub(crate) fn seen(&self) -> Option<(f32, f32)> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rounds the input from now on.
    pub(crate) fn round(&self, (low, high): (f32, f32)) {
        let _ = self.grid.set(Grid::of_range(low, high));
    }

    /// Grid of the input, if it is rounded.
    pub(crate) fn grid(&self) -> Option<Grid> {
        self.grid.get().copied()
    }

    /// Looks at `x`, if it is watched.
    pub(crate) fn look(&self, x: &Value) -> Result<()> {
        if self.watched.load(Ordering::Relaxed) {
            let (low, high) = range_of(x.tensor())?;
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let (least, most) = seen.unwrap_or((low, high));
            *seen = Some((least.min(low), most.max(high)));
        }
        Ok(())
    }

    /// The rounded layer, which `make` packs when it is asked for first; `None` if the layer computes in f32.
    pub(crate) fn layer(&self, make: impl FnOnce(Grid) -> Result<Conv2dInt8>) -> Result<Option<&Conv2dInt8>> {
        let Some(&grid) = self.grid.get() else { return Ok(None) };
        if self.layer.get().is_none() {
            let _ = self.layer.set(make(grid)?);
        }
        Ok(self.layer.get())
    }
}
