//! Networks inside other candle programs: weights from a [`candle_nn::VarBuilder`], inference as
//! [`candle_nn::Module`].
//!
//! A forward pass here records no graph: gradients do not flow through it. Training uses
//! [`ckd_kernels::Value`]. Batch norms use their running statistics, so [`candle_nn::ModuleT`], which every
//! `Module` implements, gives the same for both values of `train`.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use candle_nn::{Module, VarBuilder};
//! use ckd_detectors::classifier::{Classifier, ClassifierConfig};
//! use ckd_detectors::param::Builder;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let architecture = "resnet8".parse()?;
//! let config = ClassifierConfig { architecture, classes: 10, normalization: Default::default() };
//! # let tensors = Classifier::new(Builder::new(0, &Device::Cpu), &config)?.params().snapshot()?;
//! let vars = VarBuilder::from_tensors(tensors.into_iter().collect(), DType::F32, &Device::Cpu);
//! let classifier = Classifier::from_vars(&config, &vars)?;
//! let images = Tensor::zeros((2, 3, 32, 32), DType::F32, &Device::Cpu)?;
//! assert_eq!(Module::forward(&classifier, &images)?.dims(), [2, 10]);
//! # Ok(())
//! # }
//! ```

use candle_core::{DType, Tensor};
use candle_nn::{Module, VarBuilder};
use ckd_kernels::Value;
use ckd_kernels::graph::untracked;

use crate::backbone::{self, BackboneConfig};
use crate::classifier::{Classifier, ClassifierConfig};
use crate::images::Images;
use crate::nn::Mode;
use crate::param::{Builder, ParamStore};
use crate::taps::Tap;
use crate::{Detector, DetectorConfig, Error, Result};

impl ParamStore {
    /// Sets every parameter to the tensor of its name in `vars`. Tensors that no parameter asks for are left
    /// alone.
    ///
    /// # Errors
    /// [`Error::MissingParameters`] if names are missing; tensors of another shape.
    pub fn load_vars(&self, vars: &VarBuilder<'_>) -> Result<()> {
        // A `VarMap` would make up what it lacks.
        let missing: Vec<String> = self
            .iter()
            .map(|(name, _)| name.to_string())
            .filter(|name| !vars.contains_tensor(name))
            .collect();
        if !missing.is_empty() {
            return Err(Error::MissingParameters { names: missing });
        }
        for (name, param) in self.iter() {
            self.set(name, &vars.get(param.value.dims(), name)?)?;
        }
        Ok(())
    }
}

impl Classifier {
    /// A frozen classifier with the weights of `vars`.
    ///
    /// # Errors
    /// Weights that are missing or of another shape.
    pub fn from_vars(config: &ClassifierConfig, vars: &VarBuilder<'_>) -> Result<Self> {
        let classifier = Self::new(Builder::new(0, vars.device()).frozen(), config)?;
        classifier.params().load_vars(vars)?;
        Ok(classifier)
    }
}

impl Module for Classifier {
    /// Logits of images.
    ///
    /// # Shapes
    /// (N, 3, H, W), RGB in 0..1 and not normalised, to (N, classes).
    fn forward(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        let images = all_of_one_size(images)?;
        let taps = untracked(|| Self::forward(self, &images, Mode::Inference)).map_err(wrapped)?;
        Ok(taps.require(Tap::Logits).map_err(candle_core::Error::wrap)?.tensor().clone())
    }
}

impl Detector {
    /// A frozen detector with the weights of `vars`.
    ///
    /// # Errors
    /// Weights that are missing or of another shape.
    pub fn from_vars(config: &DetectorConfig, vars: &VarBuilder<'_>) -> Result<Self> {
        let detector = Self::new(Builder::new(0, vars.device()).frozen(), config)?;
        detector.params().load_vars(vars)?;
        Ok(detector)
    }
}

impl Module for Detector {
    /// Detections in images, as rows of one tensor: image, x1, y1, x2, y2, score, class. Rows of an image are
    /// together, best first; there may be none.
    ///
    /// # Shapes
    /// (N, 3, H, W), RGB in 0..1 and not normalised, to (D, 7). Boxes are in pixels of the images.
    fn forward(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        let images = all_of_one_size(images)?;
        let found = self.detect(&images).map_err(wrapped)?;
        let mut rows = Vec::new();
        for (image, found) in found.iter().enumerate() {
            for (([x1, y1, x2, y2], &score), &class) in
                found.boxes.iter().zip(&found.scores).zip(&found.labels)
            {
                rows.extend([image as f32, *x1, *y1, *x2, *y2, score, class as f32]);
            }
        }
        let count = rows.len() / 7;
        Tensor::from_vec(rows, (count, 7), images.pixels.device())
    }
}

/// A trunk with weights of its own, for inference.
#[derive(Debug)]
pub struct Trunk {
    trunk: backbone::Trunk,
    params: ParamStore,
}

impl Trunk {
    /// The trunk with the weights of `vars`, whose names have no prefix: `vars.pp("backbone.body")` gives a
    /// detector's.
    ///
    /// # Errors
    /// Weights that are missing or of another shape.
    pub fn from_vars(config: BackboneConfig, vars: &VarBuilder<'_>) -> Result<Self> {
        let builder = Builder::new(0, vars.device()).frozen();
        let trunk = backbone::Trunk::new(&builder, &config)?;
        let params = builder.finish();
        params.load_vars(vars)?;
        Ok(Self { trunk, params })
    }

    /// All parameters.
    pub fn params(&self) -> &ParamStore {
        &self.params
    }

    /// The maps C2 to C5, at strides 4, 8, 16 and 32.
    ///
    /// # Shapes
    /// (N, 3, H, W), normalised, to four of (N, C, H', W').
    ///
    /// # Errors
    /// If the input has another shape.
    pub fn maps(&self, normalized: &Tensor) -> Result<Vec<Tensor>> {
        let x = Value::constant(channels_last(normalized)?);
        let maps = untracked(|| self.trunk.forward(&x, Mode::Inference))?;
        Ok(maps.iter().map(|map| map.tensor().clone()).collect())
    }
}

impl Module for Trunk {
    /// The map C5.
    ///
    /// # Shapes
    /// (N, 3, H, W), normalised, to (N, C, H', W').
    fn forward(&self, normalized: &Tensor) -> candle_core::Result<Tensor> {
        let last = self.maps(normalized).map_err(wrapped)?.pop();
        last.ok_or_else(|| candle_core::Error::Msg("the trunk gives no map".to_owned()))
    }
}

/// Images without padding.
fn all_of_one_size(pixels: &Tensor) -> candle_core::Result<Images> {
    let (images, _, height, width) = pixels.dims4()?;
    Ok(Images { pixels: channels_last(pixels)?, sizes: vec![(height, width); images] })
}

/// The tensor in f32, (N, C, H, W) in shape and (N, H, W, C) in memory.
fn channels_last(x: &Tensor) -> candle_core::Result<Tensor> {
    x.to_dtype(DType::F32)?.permute((0, 2, 3, 1))?.contiguous()?.permute((0, 3, 1, 2))
}

fn wrapped(error: Error) -> candle_core::Error {
    match error {
        Error::Candle(error) => error,
        error => candle_core::Error::wrap(error),
    }
}
