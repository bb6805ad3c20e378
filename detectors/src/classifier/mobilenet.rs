//! MobileNets for ImageNet: V1 (Howard et al. 2017, arXiv 1704.04861) and V2 (Sandler et al. 2018, arXiv 1801.04381).
//!
//! V1 has the names of the weights that distillation papers use (OFD, ReviewKD, mdistiller): `model.0.0.weight` to
//! `fc.bias`; `stage1` to `stage4` are the maps at strides 4 to 32 before each next halving. V2 is torchvision's, without
//! its dropout.

use ckd_kernels::Value;
use ckd_kernels::linear::Activation::Relu;

use super::layers::{ConvBn, ConvShape};
use super::{Network, taps};
use crate::backbone::{MobileNetV2, MobileNetV2Config};
use crate::init::Init;
use crate::nn::{Linear, Mode, NormKind};
use crate::param::{Builder, ParamStore};
use crate::taps::Taps;
use crate::{Error, Result};

/// Channels and stride of each pair of a depthwise and a 1x1 convolution.
const PAIRS: [(usize, usize); 13] = [
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
];
/// The pairs whose maps are taps, counted from 1.
const TAPPED: [usize; 4] = [3, 5, 11, 13];

/// MobileNetV1 of width 1.
#[derive(Debug)]
pub struct MobileNetV1 {
    stem: ConvBn,
    pairs: Vec<[ConvBn; 2]>,
    fc: Linear,
    params: ParamStore,
}

impl MobileNetV1 {
    /// Builds the network: `model.0.0.weight`, `model.1.0.weight` to `fc.bias`.
    ///
    /// # Errors
    /// If there are no classes.
    pub fn new(builder: Builder, classes: usize) -> Result<Self> {
        Error::unless_positive("classifier", &[("classes", classes)])?;
        let init = Init::TorchDefault;
        let layer = |index: usize| builder.within("model").within(index);
        let mut inputs = 32;
        let stem = ConvBn::new(&layer(0), ("0", "1"), ConvShape::dense(3, inputs, 3, 2), init)?;
        let mut pairs = Vec::new();
        for (index, (outputs, stride)) in (1..).zip(PAIRS) {
            let filter =
                ConvBn::new(&layer(index), ("0", "1"), ConvShape::depthwise(inputs, 3, stride), init)?;
            let mix = ConvBn::new(&layer(index), ("3", "4"), ConvShape::dense(inputs, outputs, 1, 1), init)?;
            pairs.push([filter, mix]);
            inputs = outputs;
        }
        let fc = Linear::new(&builder.within("fc"), inputs, classes)?;
        Ok(Self { stem, pairs, fc, params: builder.finish() })
    }
}

impl Network for MobileNetV1 {
    fn params(&self) -> &ParamStore {
        &self.params
    }

    fn head(&self) -> &Linear {
        &self.fc
    }

    fn forward(&self, x: &Value, mode: Mode) -> Result<Taps> {
        let mut x = self.stem.forward(x, mode, None, Relu)?;
        let mut maps = Vec::with_capacity(TAPPED.len());
        for (index, [filter, mix]) in (1..).zip(&self.pairs) {
            x = mix.forward(&filter.forward(&x, mode, None, Relu)?, mode, None, Relu)?;
            if TAPPED.contains(&index) {
                maps.push(x.clone());
            }
        }
        taps(maps, &x, &self.fc)
    }
}

/// torchvision's `mobilenet_v2`.
#[derive(Debug)]
pub struct MobileNetV2Classifier {
    features: MobileNetV2,
    classifier: Linear,
    params: ParamStore,
}

impl MobileNetV2Classifier {
    /// Builds the network: `features.0.0.weight` to `classifier.1.bias`.
    ///
    /// # Errors
    /// If there are no classes.
    pub fn new(builder: Builder, classes: usize) -> Result<Self> {
        Error::unless_positive("classifier", &[("classes", classes)])?;
        let config = MobileNetV2Config { width_multiplier: 1.0, norm: NormKind::Bn, freeze_at: 0 };
        let features = MobileNetV2::new(&builder.within("features"), config)?;
        let within = builder.within("classifier").within(1);
        let shape = (features.channels()[3], classes);
        let classifier = Linear::with_init(&within, shape, Init::Normal(0.01), Init::Constant(0.0))?;
        Ok(Self { features, classifier, params: builder.finish() })
    }
}

impl Network for MobileNetV2Classifier {
    fn params(&self) -> &ParamStore {
        &self.params
    }

    fn head(&self) -> &Linear {
        &self.classifier
    }

    fn forward(&self, x: &Value, mode: Mode) -> Result<Taps> {
        let maps = self.features.forward(x, mode)?;
        let last = maps.last().expect("a trunk has stages").clone();
        taps(maps, &last, &self.classifier)
    }
}
