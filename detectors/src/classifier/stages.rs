//! A stem, blocks in stages, and a linear layer on the mean of the last map: what most of the networks here are.

use std::fmt::Debug;

use ckd_kernels::Value;
use ckd_kernels::linear::Activation::Relu;

use super::layers::{BatchNorm, Conv, ConvBn};
use super::{Network, Tail, taps};
use crate::Result;
use crate::nn::{ConvNorm, Linear, Mode};
use crate::param::{Builder, ParamStore};
use crate::taps::Taps;

/// From a map to a map.
pub(super) trait Block: Debug {
    /// (N, C, H, W) to (N, C', H', W').
    fn forward(&self, x: &Value, mode: Mode) -> Result<Value>;
}

/// The blocks of a stage.
pub(super) type Stage = Vec<Box<dyn Block>>;

/// A classifier of blocks in stages.
#[derive(Debug)]
pub struct Staged {
    stem: Box<dyn Block>,
    tail: Stages,
    params: ParamStore,
}

/// The stages behind a map, whose maps are taps, what may follow the last of them, and the linear layer.
#[derive(Debug)]
pub(super) struct Stages {
    pub(super) stages: Vec<Stage>,
    pub(super) last: Option<Box<dyn Block>>,
    pub(super) linear: Linear,
}

impl Staged {
    /// The network of all that `builder` made.
    pub(super) fn new(builder: Builder, stem: impl Block + 'static, tail: Stages) -> Self {
        Self { stem: Box::new(stem), tail, params: builder.finish() }
    }
}

impl Network for Staged {
    fn params(&self) -> &ParamStore {
        &self.params
    }

    fn head(&self) -> &Linear {
        self.tail.head()
    }

    fn forward(&self, x: &Value, mode: Mode) -> Result<Taps> {
        self.tail.forward(&self.stem.forward(x, mode)?, mode)
    }
}

impl Tail for Stages {
    fn head(&self) -> &Linear {
        &self.linear
    }

    fn forward(&self, x: &Value, mode: Mode) -> Result<Taps> {
        let mut x = x.clone();
        let mut maps = Vec::with_capacity(self.stages.len());
        for stage in &self.stages {
            for block in stage {
                x = block.forward(&x, mode)?;
            }
            maps.push(x.clone());
        }
        if let Some(last) = &self.last {
            x = last.forward(&x, mode)?;
        }
        taps(maps, &x, &self.linear)
    }
}

/// relu(norm(conv(x))).
impl Block for ConvBn {
    fn forward(&self, x: &Value, mode: Mode) -> Result<Value> {
        self.forward(x, mode, None, Relu)
    }
}

/// relu(norm(conv(x))).
impl Block for ConvNorm {
    fn forward(&self, x: &Value, mode: Mode) -> Result<Value> {
        self.forward(x, mode, None, Relu)
    }
}

/// conv(x).
impl Block for Conv {
    fn forward(&self, x: &Value, _mode: Mode) -> Result<Value> {
        self.forward(x, None)
    }
}

/// relu(norm(x)).
impl Block for BatchNorm {
    fn forward(&self, x: &Value, mode: Mode) -> Result<Value> {
        self.forward_relu(x, mode)
    }
}
