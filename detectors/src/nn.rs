//! Layers: convolutions with their norm, and linear layers.

use std::sync::Arc;

use candle_core::Tensor;
use ckd_kernels::channels::scale_channels;
use ckd_kernels::eight_bits::{Conv2dInt8, Grid, Map};
use ckd_kernels::elementwise::hard_sigmoid;
use ckd_kernels::graph::is_again;
use ckd_kernels::linear::Activation;
use ckd_kernels::norm::{NormEpilogue, batch_norm_train, group_norm};
use ckd_kernels::pool::adaptive_avg_pool2d;
use ckd_kernels::{Conv2dConfig, Epilogue, Value, conv2d, linear};
use ckd_settings::choices;

use crate::Result;
use crate::backbone::BackboneConfig;
use crate::backbone::plan::{ConvNormPlan, SqueezePlan};
use crate::eight_bits::{LayerInput, pays};
use crate::init::Init;
use crate::param::Builder;

/// Whether a forward pass trains (batch statistics, gradients) or applies the network as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Batch norms use and track the batch's statistics.
    Train,
    /// Batch norms use their running statistics and are folded into the convolutions.
    Inference,
}

choices! {
    /// The normalisation layers of a trunk.
    pub enum NormKind {
        /// Batch norm whose statistics and parameters stay as loaded; for pretrained weights.
        FrozenBn = "frozen_bn",
        /// Batch norm that trains; for training from scratch with enough images a batch.
        Bn = "bn",
        /// Group norm of 32 groups; for training from scratch with few images a batch.
        Gn = "gn",
    }
}

choices! {
    /// The normalisation layers of a pyramid or a head: each follows a convolution, which then has no bias.
    pub enum HeadNorm {
        /// None: convolutions with a bias.
        None = "none",
        /// Batch norm whose statistics and parameters stay as loaded.
        FrozenBn = "frozen_bn",
        /// Batch norm that trains.
        Bn = "bn",
        /// Group norm of 32 groups.
        Gn = "gn",
    }
}

impl HeadNorm {
    /// Norm behind each convolution, if there is one.
    pub fn kind(self) -> Option<NormKind> {
        match self {
            Self::None => None,
            Self::FrozenBn => Some(NormKind::FrozenBn),
            Self::Bn => Some(NormKind::Bn),
            Self::Gn => Some(NormKind::Gn),
        }
    }
}

/// Epsilon of batch norms, unless a network has another: PyTorch's.
pub const EPSILON: f64 = 1e-5;
/// Momentum of batch norms, unless a network has another: PyTorch's.
pub(crate) const MOMENTUM: f64 = 0.1;

/// Convolutions that a head may have: a configuration that comes with a file of weights is not believed beyond it.
pub(crate) const MOST_HEAD_CONVS: u64 = 64;

/// Numbers of a batch norm that no tensor shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNormRule {
    /// Added to the variance.
    pub epsilon: f64,
    /// The batch's share of a running statistic.
    pub momentum: f64,
}

impl BatchNormRule {
    /// PyTorch's defaults.
    pub const PYTORCH: Self = Self { epsilon: EPSILON, momentum: MOMENTUM };
}

/// A convolution with a bias.
#[derive(Debug, Clone)]
pub struct Conv2d {
    weight: Value,
    bias: Value,
    config: Conv2dConfig,
    input: Arc<LayerInput>,
}

impl Conv2d {
    /// `weight` (`outputs`, `inputs`, `kernel`, `kernel`) and `bias` in `builder`'s layer; padding keeps the size at stride 1.
    pub fn new(
        builder: &Builder,
        (inputs, outputs, kernel, stride): (usize, usize, usize, usize),
        weight: Init,
        bias: Init,
    ) -> Result<Self> {
        let config = Conv2dConfig::new(stride, kernel / 2);
        let weight = builder.weight("weight", &[outputs, inputs, kernel, kernel], weight)?;
        let bias = builder.weight("bias", &[outputs], bias)?;
        let input = builder.input(pays(weight.tensor(), config));
        Ok(Self { weight, bias, config, input })
    }

    /// # Shapes
    /// (N, inputs, H, W) to (N, outputs, H', W').
    pub fn forward(&self, x: &Value, activation: Activation) -> Result<Value> {
        self.input.look(x)?;
        let make = |grid| {
            let (weight, bias) = (self.weight.tensor(), self.bias.tensor());
            Ok(Conv2dInt8::new(weight, None, Some(bias), self.config, grid)?)
        };
        match self.input.layer(make)? {
            Some(layer) if !x.is_tracked() => rounded(layer, x, None, activation),
            _ => self.convolve(x, self.config, activation),
        }
    }

    /// Applies the convolution at the centres of windows as large as the kernel.
    ///
    /// # Shapes
    /// (P, inputs, kernel, kernel) to (P, outputs, 1, 1).
    pub fn forward_windows(&self, windows: &Value, activation: Activation) -> Result<Value> {
        self.convolve(windows, Conv2dConfig { padding: [0, 0], ..self.config }, activation)
    }

    fn convolve(&self, x: &Value, config: Conv2dConfig, activation: Activation) -> Result<Value> {
        let epilogue = Epilogue { shift: Some(&self.bias), activation, ..Epilogue::default() };
        Ok(conv2d(x, &self.weight, config, epilogue)?)
    }
}

/// activation(layer(x) + residual), in f32 on both sides.
fn rounded(layer: &Conv2dInt8, x: &Value, residual: Option<&Value>, activation: Activation) -> Result<Value> {
    let real = |value: &Value| Map::Real(value.tensor().clone());
    let map = layer.forward(&real(x), residual.map(real).as_ref(), activation, None)?;
    Ok(Value::constant(map.to_real()?))
}

/// A convolution without bias, followed by a norm.
#[derive(Debug, Clone)]
pub struct ConvNorm {
    weight: Value,
    config: Conv2dConfig,
    norm: Norm,
    input: Arc<LayerInput>,
}

#[derive(Debug, Clone)]
enum Norm {
    Batch { weight: Value, bias: Value, mean: Tensor, var: Tensor, tracks: bool, rule: BatchNormRule },
    Group { weight: Value, bias: Value, groups: usize },
}

impl ConvNorm {
    /// The convolution called `conv` and the norm called `norm` in `builder`'s layer.
    pub fn new(
        builder: &Builder,
        (conv, norm): (&str, &str),
        (inputs, outputs, kernel, stride): (usize, usize, usize, usize),
        kind: NormKind,
    ) -> Result<Self> {
        Self::with_init(
            builder,
            (conv, norm),
            (inputs, outputs, kernel, stride),
            Init::KaimingNormalFanOut,
            kind,
        )
    }

    /// Builds the layer with `weight` as the convolution's initial values.
    pub fn with_init(
        builder: &Builder,
        (conv, norm): (&str, &str),
        (inputs, outputs, kernel, stride): (usize, usize, usize, usize),
        weight: Init,
        kind: NormKind,
    ) -> Result<Self> {
        let config = Conv2dConfig::new(stride, kernel / 2);
        let norms = (kind, BatchNormRule::PYTORCH);
        Self::build(builder, (conv, norm), [outputs, inputs, kernel, kernel], config, weight, norms)
    }

    /// The convolution and the norm of a trunk's plan.
    pub(crate) fn of_plan(builder: &Builder, plan: &ConvNormPlan, trunk: &BackboneConfig) -> Result<Self> {
        let ConvNormPlan { names, shape, stride, groups, .. } = plan;
        let config = Conv2dConfig { groups: *groups, ..Conv2dConfig::new(*stride, shape[2] / 2) };
        let norms = (trunk.norm, trunk.batch_norm);
        Self::build(builder, (&names.0, &names.1), *shape, config, Init::KaimingNormalFanOut, norms)
    }

    /// Builds a depthwise layer: each of `channels` is convolved on its own.
    pub fn depthwise(
        builder: &Builder,
        (conv, norm): (&str, &str),
        (channels, kernel, stride): (usize, usize, usize),
        kind: NormKind,
    ) -> Result<Self> {
        let config = Conv2dConfig { groups: channels, ..Conv2dConfig::new(stride, kernel / 2) };
        let (weight, norms) = (Init::KaimingNormalFanOut, (kind, BatchNormRule::PYTORCH));
        Self::build(builder, (conv, norm), [channels, 1, kernel, kernel], config, weight, norms)
    }

    fn build(
        builder: &Builder,
        (conv, norm): (&str, &str),
        shape: [usize; 4],
        config: Conv2dConfig,
        weight: Init,
        (kind, rule): (NormKind, BatchNormRule),
    ) -> Result<Self> {
        let outputs = shape[0];
        let weight = builder.within(conv).weight("weight", &shape, weight)?;
        let input = builder.within(conv).input(pays(weight.tensor(), config));
        let frozen = builder.is_frozen() || kind == NormKind::FrozenBn;
        let within = if frozen { builder.within(norm).frozen() } else { builder.within(norm) };
        let norm_weight = within.weight("weight", &[outputs], Init::Constant(1.0))?;
        let bias = within.weight("bias", &[outputs], Init::Constant(0.0))?;
        let norm = match kind {
            NormKind::Gn => Norm::Group { weight: norm_weight, bias, groups: groups_of(outputs) },
            NormKind::FrozenBn | NormKind::Bn => Norm::Batch {
                weight: norm_weight,
                bias,
                mean: within.buffer("running_mean", &[outputs], Init::Constant(0.0))?,
                var: within.buffer("running_var", &[outputs], Init::Constant(1.0))?,
                tracks: !frozen,
                rule,
            },
        };
        Ok(Self { weight, config, norm, input })
    }

    /// Weights of the layer.
    pub fn weights(&self) -> [&Value; 3] {
        match &self.norm {
            Norm::Batch { weight, bias, .. } | Norm::Group { weight, bias, .. } => {
                [&self.weight, weight, bias]
            }
        }
    }

    /// activation(norm(conv(x)) + residual).
    ///
    /// # Shapes
    /// (N, inputs, H, W) to (N, outputs, H', W'); `residual` of the result's shape.
    pub fn forward(
        &self,
        x: &Value,
        mode: Mode,
        residual: Option<&Value>,
        activation: Activation,
    ) -> Result<Value> {
        self.input.look(x)?;
        match &self.norm {
            Norm::Batch { weight, bias, mean, var, tracks, rule } if mode == Mode::Train && *tracks => {
                let y = conv2d(x, &self.weight, self.config, Epilogue::default())?;
                let epilogue = NormEpilogue { residual, activation };
                let (y, statistics) = batch_norm_train(&y, weight, bias, rule.epsilon, epilogue)?;
                if !is_again() {
                    statistics.fold_into(mean, var, rule.momentum)?;
                }
                Ok(y)
            }
            Norm::Batch { .. } | Norm::Group { .. } if !x.is_tracked() && self.grid().is_some() => {
                self.forward_rounded(x, residual, activation)
            }
            Norm::Batch { weight, bias, mean, var, rule, .. } => {
                let (scale, shift) = folded(weight, bias, (mean, var), *rule)?;
                let (scale, shift) = (Some(&scale), Value::constant(shift));
                let epilogue = Epilogue { scale, shift: Some(&shift), residual, activation };
                Ok(conv2d(x, &self.weight, self.config, epilogue)?)
            }
            Norm::Group { weight, bias, groups } => {
                let y = conv2d(x, &self.weight, self.config, Epilogue::default())?;
                group_normed(&y, (weight, bias, *groups), residual, activation)
            }
        }
    }

    /// Grid that the layer's input is rounded to, if it computes in 8 bits.
    pub(crate) fn grid(&self) -> Option<Grid> {
        self.input.grid()
    }

    /// The layer in 8 bits, its batch norm folded in; `None` if it computes in f32.
    fn in_8_bits(&self) -> Result<Option<&Conv2dInt8>> {
        self.input.layer(|grid| {
            let folded = match &self.norm {
                Norm::Batch { weight, bias, mean, var, rule, .. } => {
                    Some(folded(weight, bias, (mean, var), *rule)?)
                }
                Norm::Group { .. } => None,
            };
            let (scale, shift) = folded.unzip();
            Ok(Conv2dInt8::new(self.weight.tensor(), scale.as_ref(), shift.as_ref(), self.config, grid)?)
        })
    }

    /// [`forward`](Self::forward) in 8 bits, in f32 on both sides.
    fn forward_rounded(&self, x: &Value, residual: Option<&Value>, activation: Activation) -> Result<Value> {
        let Some(layer) = self.in_8_bits()? else { unreachable!("the layer has a grid") };
        match &self.norm {
            Norm::Batch { .. } => rounded(layer, x, residual, activation),
            Norm::Group { weight, bias, groups } => {
                let y = rounded(layer, x, None, Activation::Identity)?;
                group_normed(&y, (weight, bias, *groups), residual, activation)
            }
        }
    }

    /// [`forward`](Self::forward) between maps of which some are in 8 bits; the result is in steps of `output` where
    /// that is possible.
    ///
    /// # Errors
    /// If the layer does not compute in 8 bits, or a map in steps is not on its grid.
    pub(crate) fn forward_map(
        &self,
        x: &Map,
        residual: Option<&Map>,
        activation: Activation,
        output: Option<Grid>,
    ) -> Result<Map> {
        match (&self.norm, self.in_8_bits()?) {
            (Norm::Batch { .. }, Some(layer)) => Ok(layer.forward(x, residual, activation, output)?),
            _ => {
                let value = |map: &Map| -> Result<Value> { Ok(Value::constant(map.to_real()?)) };
                let residual = residual.map(value).transpose()?;
                let y = self.forward(&value(x)?, Mode::Inference, residual.as_ref(), activation)?;
                Ok(Map::Real(y.tensor().clone()))
            }
        }
    }
}

/// Scale and shift (K) of a batch norm with its running statistics.
fn folded(
    weight: &Value,
    bias: &Value,
    (mean, var): (&Tensor, &Tensor),
    rule: BatchNormRule,
) -> Result<(Tensor, Tensor)> {
    let scale = (weight.tensor() / (var + rule.epsilon)?.sqrt()?)?;
    let shift = (bias.tensor() - (mean * &scale)?)?;
    Ok((scale, shift))
}

/// activation(group norm(y) + residual).
fn group_normed(
    y: &Value,
    (weight, bias, groups): (&Value, &Value, usize),
    residual: Option<&Value>,
    activation: Activation,
) -> Result<Value> {
    let Some(residual) = residual else {
        return Ok(group_norm(y, weight, bias, groups, EPSILON, activation)?);
    };
    let y = group_norm(y, weight, bias, groups, EPSILON, Activation::Identity)?;
    let sum = ckd_kernels::elementwise::add(&y, residual)?;
    Ok(match activation {
        Activation::Identity => sum,
        Activation::Relu => ckd_kernels::elementwise::relu(&sum)?,
        Activation::Relu6 => ckd_kernels::elementwise::relu6(&sum)?,
    })
}

/// Squeeze-and-excitation (Hu et al. 2018, arXiv 1709.01507) with a hard sigmoid (Howard et al. 2019): each
/// channel of an image times a number from 0 to 1, which two 1x1 convolutions make of the mean over the
/// image's map.
#[derive(Debug, Clone)]
pub struct SqueezeExcitation {
    squeeze: Conv2d,
    excite: Conv2d,
}

impl SqueezeExcitation {
    /// The layer of a trunk's plan: `fc1` and `fc2` below its name.
    pub(crate) fn of_plan(builder: &Builder, plan: &SqueezePlan) -> Result<Self> {
        let SqueezePlan { name, channels, squeezed } = plan;
        let within = builder.within(name);
        let conv = |name: &str, inputs, outputs| {
            let shape = (inputs, outputs, 1, 1);
            Conv2d::new(&within.within(name), shape, Init::KaimingNormalFanOut, Init::Constant(0.0))
        };
        Ok(Self { squeeze: conv("fc1", *channels, *squeezed)?, excite: conv("fc2", *squeezed, *channels)? })
    }

    /// Weights and biases of both layers.
    pub fn weights(&self) -> [&Value; 4] {
        [&self.squeeze.weight, &self.squeeze.bias, &self.excite.weight, &self.excite.bias]
    }

    /// x · hard sigmoid(excite(relu(squeeze(mean(x))))).
    ///
    /// # Shapes
    /// (N, channels, H, W) to the same.
    ///
    /// # Errors
    /// If the map has no pixels or another number of channels.
    pub fn forward(&self, x: &Value) -> Result<Value> {
        let squeezed = self.squeeze.forward(&adaptive_avg_pool2d(x, (1, 1))?, Activation::Relu)?;
        let factors = hard_sigmoid(&self.excite.forward(&squeezed, Activation::Identity)?)?;
        Ok(scale_channels(x, &factors)?)
    }
}

/// A convolution of a head or a pyramid, with a bias or a norm: torchvision's `Conv2dNormActivation`.
#[derive(Debug, Clone)]
pub enum ConvBlock {
    /// With a bias.
    Biased(Conv2d),
    /// With a norm instead.
    Normed(ConvNorm),
}

impl ConvBlock {
    /// The convolution called `0` in `builder`'s layer; its bias begins at 0, its norm is called `1`.
    pub fn new(
        builder: &Builder,
        shape: (usize, usize, usize, usize),
        weight: Init,
        norm: HeadNorm,
    ) -> Result<Self> {
        Ok(match norm.kind() {
            None => Self::Biased(Conv2d::new(&builder.within(0), shape, weight, Init::Constant(0.0))?),
            Some(kind) => Self::Normed(ConvNorm::with_init(builder, ("0", "1"), shape, weight, kind)?),
        })
    }

    /// activation(norm(conv(x))).
    ///
    /// # Shapes
    /// (N, inputs, H, W) to (N, outputs, H', W').
    pub fn forward(&self, x: &Value, mode: Mode, activation: Activation) -> Result<Value> {
        match self {
            Self::Biased(conv) => conv.forward(x, activation),
            Self::Normed(conv) => conv.forward(x, mode, None, activation),
        }
    }
}

/// Group norm of 32 groups or fewer (Wu and He 2018).
#[derive(Debug, Clone)]
pub struct GroupNorm {
    weight: Value,
    bias: Value,
    groups: usize,
}

impl GroupNorm {
    /// `weight` (`channels`) of ones and `bias` (`channels`) of zeros in `builder`'s layer.
    ///
    /// # Errors
    /// If a parameter of the name exists.
    pub fn new(builder: &Builder, channels: usize) -> Result<Self> {
        Ok(Self {
            weight: builder.weight("weight", &[channels], Init::Constant(1.0))?,
            bias: builder.weight("bias", &[channels], Init::Constant(0.0))?,
            groups: groups_of(channels),
        })
    }

    /// activation(norm(x)).
    ///
    /// # Shapes
    /// (N, channels, H, W) to the same.
    ///
    /// # Errors
    /// If `x` has another number of channels.
    pub fn forward(&self, x: &Value, activation: Activation) -> Result<Value> {
        Ok(group_norm(x, &self.weight, &self.bias, self.groups, EPSILON, activation)?)
    }
}

/// The most groups, up to 32, that divide `channels`.
pub fn groups_of(channels: usize) -> usize {
    (1..=32.min(channels)).rev().find(|groups| channels.is_multiple_of(*groups)).unwrap_or(1)
}

/// A fully connected layer.
#[derive(Debug)]
pub struct Linear {
    prefix: String,
    weight: Value,
    bias: Value,
    input: Arc<LayerInput>,
}

impl Linear {
    /// `weight` (`outputs`, `inputs`) and `bias` in `builder`'s layer, with PyTorch's default initial values.
    pub fn new(builder: &Builder, inputs: usize, outputs: usize) -> Result<Self> {
        let bias = Init::Uniform(1.0 / (inputs.max(1) as f64).sqrt());
        Self::with_init(builder, (inputs, outputs), Init::TorchDefault, bias)
    }

    /// Builds the layer for (inputs, outputs), with other initial values than [`new`](Self::new).
    pub fn with_init(
        builder: &Builder,
        (inputs, outputs): (usize, usize),
        weight: Init,
        bias: Init,
    ) -> Result<Self> {
        Ok(Self {
            prefix: builder.prefix().to_owned(),
            weight: builder.weight("weight", &[outputs, inputs], weight)?,
            bias: builder.weight("bias", &[outputs], bias)?,
            input: builder.input(true),
        })
    }

    /// The name of the layer: its parameters are `weight` and `bias` below it.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// # Shapes
    /// (M, inputs) to (M, outputs).
    pub fn forward(&self, x: &Value, activation: Activation) -> Result<Value> {
        self.input.look(x)?;
        let make = |grid| {
            let (outputs, inputs) = self.weight.tensor().dims2()?;
            let kernel = self.weight.tensor().reshape((outputs, inputs, 1, 1))?;
            Ok(Conv2dInt8::new(&kernel, None, Some(self.bias.tensor()), Conv2dConfig::default(), grid)?)
        };
        match self.input.layer(make)? {
            Some(layer) if !x.is_tracked() => {
                Ok(Value::constant(layer.forward_rows(x.tensor(), activation)?))
            }
            _ => Ok(linear(x, &self.weight, Some(&self.bias), activation)?),
        }
    }
}
