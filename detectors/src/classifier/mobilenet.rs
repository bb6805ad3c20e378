//! MobileNets for ImageNet: V1 (Howard et al. 2017, arXiv 1704.04861) and V2 (Sandler et al. 2018, arXiv 1801.04381).
//!
//! V1 has the names of the weights that distillation papers use (OFD, ReviewKD, mdistiller): `model.0.0.weight` to
//! `fc.bias`; `stage1` to `stage4` are the maps at strides 4 to 32 before each next halving. V2 is torchvision's, without
//! its dropout.

use ckd_kernels::Value;

use super::{Network, taps};
use crate::backbone::{MobileNetV1, MobileNetV1Config, MobileNetV2, MobileNetV2Config};
use crate::init::Init;
use crate::nn::{Linear, Mode, NormKind};
use crate::param::{Builder, ParamStore};
use crate::taps::Taps;
use crate::{Error, Result};

/// MobileNetV1 of width 1.
#[derive(Debug)]
pub struct MobileNetV1Classifier {
    model: MobileNetV1,
    fc: Linear,
    params: ParamStore,
}

impl MobileNetV1Classifier {
    /// Builds the network: `model.0.0.weight`, `model.1.0.weight` to `fc.bias`.
    ///
    /// # Errors
    /// If there are no classes.
    pub fn new(builder: Builder, classes: usize) -> Result<Self> {
        Error::unless_positive("classifier", &[("classes", classes)])?;
        let config = MobileNetV1Config { width_multiplier: 1.0, norm: NormKind::Bn, freeze_at: 0 };
        let model = MobileNetV1::new(&builder.within("model"), config)?;
        let fc = Linear::new(&builder.within("fc"), model.channels()[3], classes)?;
        Ok(Self { model, fc, params: builder.finish() })
    }
}

impl Network for MobileNetV1Classifier {
    fn params(&self) -> &ParamStore {
        &self.params
    }

    fn head(&self) -> &Linear {
        &self.fc
    }

    fn forward(&self, x: &Value, mode: Mode) -> Result<Taps> {
        let maps = self.model.forward(x, mode)?;
        let last = maps.last().expect("a trunk has stages").clone();
        taps(maps, &last, &self.fc)
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
