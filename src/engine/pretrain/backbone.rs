//! A backbone: a classifier without its last layer.

use std::collections::BTreeMap;

use ckd_detectors::classifier::{Architecture, Classifier, ClassifierConfig};
use ckd_detectors::images::{Images, Normalization};
use ckd_detectors::nn::Mode;
use ckd_detectors::param::{Builder, ParamStore};
use ckd_detectors::taps::{Tap, Taps};

use crate::engine::Result;
use crate::engine::classify::load_body;
use crate::weights::{WeightsError, WeightsFile};

/// The stages of a network, and the mean over the last one's map.
#[derive(Debug)]
pub struct Backbone {
    network: Classifier,
    params: ParamStore,
}

impl Backbone {
    /// Builds the network with `builder`.
    ///
    /// # Errors
    /// If the network cannot be built.
    pub fn new(builder: Builder, architecture: Architecture, normalization: Normalization) -> Result<Self> {
        // One class: the last layer is there, and left out.
        let network =
            Classifier::new(builder, &ClassifierConfig { architecture, classes: 1, normalization })?;
        let params = network.params().without(&format!("{}.", network.head_prefix()));
        Ok(Self { network, params })
    }

    /// Parameters, without those of the last layer.
    pub fn params(&self) -> &ParamStore {
        &self.params
    }

    /// The taps `stage1`, `stage2`, .., and `embedding`.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn forward(&self, images: &Images, mode: Mode) -> Result<Taps> {
        Ok(self.network.forward(images, mode)?)
    }

    /// The taps of a forward pass at inference and, where the network has them, the maps before the last ReLU of each stage.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn with_preactivations(&self, images: &Images) -> Result<Taps> {
        Ok(self.network.with_preactivations(images)?)
    }

    /// Shapes of the taps for one image of `size` (height, width).
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn tap_shapes(&self, size: (usize, usize)) -> Result<BTreeMap<Tap, Vec<usize>>> {
        Ok(self.network.tap_shapes(size)?)
    }

    /// Loads the weights of a classifier, of a backbone, or of the backbone of a detector.
    ///
    /// # Errors
    /// Lists every missing, unexpected and mis-shaped name.
    pub fn load(&self, file: &WeightsFile) -> std::result::Result<(), WeightsError> {
        load_body(&self.network, file)
    }
}
