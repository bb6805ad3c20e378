//! A stem, blocks in stages, and a linear layer on the mean of the last map: what most of the networks here are.

use std::fmt::Debug;

use ckd_kernels::Value;
use ckd_kernels::elementwise::relu;
use ckd_kernels::linear::Activation::Relu;

use super::layers::{BatchNorm, Conv, ConvBn};
use super::{Network, Tail, taps};
use crate::Result;
use crate::nn::{ConvNorm, Linear, Mode};
use crate::param::{Builder, ParamStore};
use crate::taps::{Tap, Taps};

/// From a map to a map.
pub(super) trait Block: Debug {
    /// (N, C, H, W) to (N, C', H', W').
    fn forward(&self, x: &Value, mode: Mode) -> Result<Value>;

    /// The result at inference without the ReLU that ends the block; `None` if none does.
    fn before_relu(&self, _x: &Value) -> Result<Option<Value>> {
        Ok(None)
    }

    /// `x` behind the norm that begins the block, at inference and before its ReLU; `None` if none does.
    fn normed(&self, _x: &Value) -> Result<Option<Value>> {
        Ok(None)
    }
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

impl Stages {
    /// Taps at inference, with the stages' maps before their last ReLU where the blocks have one.
    fn with_preactivations(&self, x: &Value) -> Result<Taps> {
        let mut x = x.clone();
        let mut maps = Vec::with_capacity(self.stages.len());
        let mut before = Vec::new();
        for (number, stage) in (1..).zip(&self.stages) {
            for (place, block) in (1..).zip(stage) {
                let ending = if place == stage.len() { block.before_relu(&x)? } else { None };
                x = match &ending {
                    Some(map) => relu(map)?,
                    None => block.forward(&x, Mode::Inference)?,
                };
                before.extend(ending.map(|map| (number, map)));
            }
            maps.push(x.clone());
        }
        let behind = self.stages.iter().skip(1).map(|stage| stage.first()).chain([self.last.as_ref()]);
        for ((number, map), behind) in (1..).zip(&maps).zip(behind) {
            let normed = behind.map(|block| block.normed(map)).transpose()?.flatten();
            before.extend(normed.map(|map| (number, map)));
        }
        if let Some(last) = &self.last {
            x = last.forward(&x, Mode::Inference)?;
        }
        let mut found = taps(maps, &x, &self.linear)?;
        before.into_iter().for_each(|(number, map)| found.insert(Tap::PreActivation(number), map));
        Ok(found)
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

    fn with_preactivations(&self, x: &Value) -> Result<Taps> {
        self.tail.with_preactivations(&self.stem.forward(x, Mode::Inference)?)
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

    fn normed(&self, x: &Value) -> Result<Option<Value>> {
        self.frozen(x).map(Some)
    }
}
