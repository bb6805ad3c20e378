//! Layers that the classifiers share: convolutions with any bias, grouping and initial values, and batch norms that
//! stand before their convolution.

use candle_core::Tensor;
use ckd_kernels::elementwise::relu;
use ckd_kernels::graph::is_again;
use ckd_kernels::linear::Activation;
use ckd_kernels::norm::{NormEpilogue, batch_norm_train, frozen_batch_norm};
use ckd_kernels::{Conv2dConfig, Epilogue, Value, conv2d};

use crate::Result;
use crate::init::Init;
use crate::nn::{EPSILON, MOMENTUM, Mode};
use crate::param::Builder;

/// A convolution's shape; padding keeps the size at stride 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConvShape {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) groups: usize,
}

impl ConvShape {
    pub(super) fn dense(inputs: usize, outputs: usize, kernel: usize, stride: usize) -> Self {
        Self { inputs, outputs, kernel, stride, groups: 1 }
    }

    pub(super) fn depthwise(channels: usize, kernel: usize, stride: usize) -> Self {
        Self { inputs: channels, outputs: channels, kernel, stride, groups: channels }
    }

    pub(super) fn grouped(self, groups: usize) -> Self {
        Self { groups, ..self }
    }
}

/// A convolution without a norm of its own.
#[derive(Debug)]
pub(super) struct Conv {
    weight: Value,
    bias: Option<Value>,
    config: Conv2dConfig,
}

impl Conv {
    /// `weight` in `builder`'s layer.
    pub(super) fn new(builder: &Builder, shape: ConvShape, init: Init) -> Result<Self> {
        let ConvShape { inputs, outputs, kernel, stride, groups } = shape;
        let weight = builder.weight("weight", &[outputs, inputs / groups, kernel, kernel], init)?;
        let config = Conv2dConfig { groups, ..Conv2dConfig::new(stride, kernel / 2) };
        Ok(Self { weight, bias: None, config })
    }

    /// With a `bias` of 0 to begin with.
    pub(super) fn with_bias(self, builder: &Builder) -> Result<Self> {
        let bias = builder.weight("bias", &[self.weight.dims()[0]], Init::Constant(0.0))?;
        Ok(Self { bias: Some(bias), ..self })
    }

    /// conv(x) + residual.
    pub(super) fn forward(&self, x: &Value, residual: Option<&Value>) -> Result<Value> {
        let epilogue = Epilogue { shift: self.bias.as_ref(), residual, ..Epilogue::default() };
        Ok(conv2d(x, &self.weight, self.config, epilogue)?)
    }
}

/// A batch norm.
#[derive(Debug)]
pub(super) struct BatchNorm {
    weight: Value,
    bias: Value,
    mean: Tensor,
    var: Tensor,
    tracks: bool,
}

impl BatchNorm {
    /// `weight`, `bias`, `running_mean` and `running_var` in `builder`'s layer.
    pub(super) fn new(builder: &Builder, channels: usize) -> Result<Self> {
        Ok(Self {
            weight: builder.weight("weight", &[channels], Init::Constant(1.0))?,
            bias: builder.weight("bias", &[channels], Init::Constant(0.0))?,
            mean: builder.buffer("running_mean", &[channels], Init::Constant(0.0))?,
            var: builder.buffer("running_var", &[channels], Init::Constant(1.0))?,
            tracks: !builder.is_frozen(),
        })
    }

    fn uses_batch(&self, mode: Mode) -> bool {
        self.tracks && mode == Mode::Train
    }

    /// activation(norm(x) + residual) with the statistics of the batch, which it tracks.
    fn train(&self, x: &Value, residual: Option<&Value>, activation: Activation) -> Result<Value> {
        let epilogue = NormEpilogue { residual, activation };
        let (y, statistics) = batch_norm_train(x, &self.weight, &self.bias, EPSILON, epilogue)?;
        if !is_again() {
            statistics.fold_into(&self.mean, &self.var, MOMENTUM)?;
        }
        Ok(y)
    }

    /// relu(norm(x)), for a norm that follows no convolution.
    pub(super) fn forward_relu(&self, x: &Value, mode: Mode) -> Result<Value> {
        if self.uses_batch(mode) {
            return self.train(x, None, Activation::Relu);
        }
        Ok(relu(&self.frozen(x)?)?)
    }

    /// norm(x) by its running statistics.
    pub(super) fn frozen(&self, x: &Value) -> Result<Value> {
        let [mean, var] = [&self.mean, &self.var].map(|table| Value::constant(table.clone()));
        Ok(frozen_batch_norm(x, &self.weight, &self.bias, &mean, &var, EPSILON)?)
    }
}

/// A convolution followed by a batch norm.
#[derive(Debug)]
pub(super) struct ConvBn {
    conv: Conv,
    norm: BatchNorm,
}

impl ConvBn {
    /// The convolution called `conv` and the norm called `norm` in `builder`'s layer.
    pub(super) fn new(
        builder: &Builder,
        (conv, norm): (&str, &str),
        shape: ConvShape,
        init: Init,
    ) -> Result<Self> {
        Ok(Self {
            conv: Conv::new(&builder.within(conv), shape, init)?,
            norm: BatchNorm::new(&builder.within(norm), shape.outputs)?,
        })
    }

    /// Adds a bias to the convolution called `conv`.
    pub(super) fn with_bias(self, builder: &Builder, conv: &str) -> Result<Self> {
        Ok(Self { conv: self.conv.with_bias(&builder.within(conv))?, norm: self.norm })
    }

    /// activation(norm(conv(x)) + residual).
    pub(super) fn forward(
        &self,
        x: &Value,
        mode: Mode,
        residual: Option<&Value>,
        activation: Activation,
    ) -> Result<Value> {
        let Self { conv, norm } = self;
        if norm.uses_batch(mode) {
            return norm.train(&conv.forward(x, None)?, residual, activation);
        }
        let scale = (norm.weight.tensor() / (&norm.var + EPSILON)?.sqrt()?)?;
        let mean = match &conv.bias {
            Some(bias) => (&norm.mean - bias.tensor())?,
            None => norm.mean.clone(),
        };
        let shift = Value::constant((norm.bias.tensor() - (mean * &scale)?)?);
        let epilogue = Epilogue { scale: Some(&scale), shift: Some(&shift), residual, activation };
        Ok(conv2d(x, &conv.weight, conv.config, epilogue)?)
    }
}
