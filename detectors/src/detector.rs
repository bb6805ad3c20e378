//! Detectors of every architecture behind one trait.

use std::fmt::Debug;
use std::ops::Deref;

use ckd_kernels::Value;
use ckd_kernels::graph::untracked;
use rand::RngCore;

use crate::backbone::BackboneConfig;
use crate::boxes::Xyxy;
use crate::faster_rcnn::FasterRcnn;
use crate::fcos::Fcos;
use crate::images::{Images, Normalization, Target};
use crate::nn::{HeadNorm, Mode};
use crate::param::{Builder, ParamStore};
use crate::postprocess::Detections;
use crate::pyramid::Pyramid;
use crate::regions::Regions;
use crate::retinanet::RetinaNet;
use crate::roi_heads::RoiOutput;
use crate::settings::{Architecture, DetectorSettings};
use crate::taps::Level;
use crate::{Error, Losses, Result};

/// A network that finds objects in images.
pub trait Detect: Debug + Send + Sync {
    /// Parameters, under torchvision's names.
    fn params(&self) -> &ParamStore;

    /// Levels of the feature pyramid, fine to coarse.
    fn levels(&self) -> &[Level];

    /// Feature pyramid: one map for each of [`levels`](Self::levels).
    ///
    /// # Shapes
    /// Maps (N, C, Hl, Wl).
    ///
    /// # Errors
    /// If the images are smaller than the network can see.
    fn pyramid(&self, images: &Images, mode: Mode) -> Result<Vec<Value>>;

    /// Detection losses of `pyramid`, and the regions whose classification was trained.
    ///
    /// # Errors
    /// If the pyramid or the targets are not those of `images`, or a label is no class.
    fn train(
        &self,
        images: &Images,
        pyramid: &[Value],
        targets: &[Target],
        random: &mut dyn RngCore,
    ) -> Result<(Losses, Regions)>;

    /// Class logits at `regions`, which may be another detector's.
    ///
    /// # Shapes
    /// Those of [`Regions::logits`].
    ///
    /// # Errors
    /// If detectors of this architecture have no such regions.
    fn logits_at(&self, pyramid: &[Value], regions: &Regions) -> Result<Value>;

    /// Class logits of every anchor, or point, for which nothing need be known of the regions; `None` for detectors of two stages.
    ///
    /// # Shapes
    /// (N·A, K).
    ///
    /// # Errors
    /// If the pyramid is not this network's.
    fn dense_logits(&self, _pyramid: &[Value]) -> Result<Option<Value>> {
        Ok(None)
    }

    /// Box deltas at `regions`, which may be another detector's; of points, distances.
    ///
    /// # Shapes
    /// Rows as in [`Regression::deltas`](crate::regions::Regression::deltas).
    ///
    /// # Errors
    /// If detectors of this architecture have no such regions.
    fn deltas_at(&self, pyramid: &[Value], regions: &Regions) -> Result<Value>;

    /// Maps inside the dense heads: behind the first `convs` convolutions, before the last one's ReLU.
    ///
    /// # Errors
    /// If detectors of this architecture have no such heads, or the heads fewer convolutions.
    fn head_maps(&self, _pyramid: &[Value], _convs: usize) -> Result<HeadMaps> {
        Err(no_dense_heads())
    }

    /// Class logits and box deltas (of points, distances) that the rest of the dense heads makes of maps in place of its own
    /// [`head_maps`](Self::head_maps).
    ///
    /// # Shapes
    /// (N·A, K) and (N·A, 4).
    ///
    /// # Errors
    /// If detectors of this architecture have no such heads, or the maps do not fit.
    fn head_outputs(&self, _maps: &HeadMaps, _convs: usize) -> Result<(Value, Value)> {
        Err(no_dense_heads())
    }

    /// Detections per image, best first, in pixels of the padded images.
    ///
    /// # Errors
    /// If the images are smaller than the network can see.
    fn detect(&self, images: &Images) -> Result<Vec<Detections>>;

    /// Named outputs before any selection: an exported graph without post-processing gives the same.
    ///
    /// # Errors
    /// If the pyramid is not that of `images`.
    fn raw_outputs(&self, images: &Images, pyramid: &[Value]) -> Result<Vec<(String, Value)>>;

    /// Boxes that the second stage makes of `boxes` per image, each as of the class in `labels` (0..K), over all images.
    ///
    /// # Errors
    /// If detectors of this architecture have no second stage; if there are not as many labels as boxes, or one is no class.
    fn refined(&self, _pyramid: &[Value], _boxes: &[Vec<Xyxy>], _labels: &[u32]) -> Result<Vec<Xyxy>> {
        let reason = "this detector has no second stage that could refine boxes".to_owned();
        Err(Error::Invalid { part: "box head", reason })
    }

    /// Outputs of the second stage at the regions that the first one proposes in inference; `None` for detectors of one
    /// stage.
    ///
    /// # Errors
    /// If the pyramid is not that of `images`.
    fn second_stage(&self, _images: &Images, _pyramid: &[Value]) -> Result<Option<SecondStage>> {
        Ok(None)
    }
}

/// Regions of a batch, and what the second stage says of them.
#[derive(Debug)]
pub struct SecondStage {
    /// Boxes per image, in pixels of the padded images.
    pub proposals: Vec<Vec<Xyxy>>,
    /// A row for each of them.
    pub output: RoiOutput,
}

/// Maps inside the two dense heads of a detector, one for each level.
#[derive(Debug, Clone)]
pub struct HeadMaps {
    /// Maps of the classification head.
    pub classification: Vec<Value>,
    /// Maps of the regression head.
    pub regression: Vec<Value>,
}

/// All that a detector is built from.
#[derive(Debug, Clone)]
pub struct DetectorConfig {
    /// Trunk.
    pub backbone: BackboneConfig,
    /// Norms of the pyramid.
    pub fpn_norm: HeadNorm,
    /// Foreground classes.
    pub classes: usize,
    /// Scale of the input.
    pub normalization: Normalization,
    /// Architecture, pyramid, anchors and heads.
    pub settings: DetectorSettings,
}

impl DetectorConfig {
    /// Feature pyramid over the maps of the trunk.
    ///
    /// # Errors
    /// If the trunk's width is nothing.
    pub fn pyramid(&self) -> Result<Pyramid> {
        Ok(self.settings.architecture.pyramid(&self.backbone.plan()?))
    }
}

/// A detector of any architecture.
#[derive(Debug)]
pub struct Detector(Box<dyn Detect>);

impl Detector {
    /// Builds the network with `builder`.
    ///
    /// # Errors
    /// Settings that do not fit.
    pub fn new(builder: Builder, config: &DetectorConfig) -> Result<Self> {
        Ok(Self(match config.settings.architecture {
            Architecture::FasterRcnn => Box::new(FasterRcnn::new(builder, config)?),
            Architecture::RetinaNet => Box::new(RetinaNet::new(builder, config)?),
            Architecture::Fcos => Box::new(Fcos::new(builder, config)?),
        }))
    }

    /// Detections per image, best first, in pixels of the padded images; records no graph.
    ///
    /// # Errors
    /// If the images are smaller than the network can see.
    pub fn detect(&self, images: &Images) -> Result<Vec<Detections>> {
        untracked(|| self.0.detect(images))
    }
}

impl Deref for Detector {
    type Target = dyn Detect;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

fn no_dense_heads() -> Error {
    let reason =
        "this detector has no dense heads of anchors that another network's could stand in for".to_owned();
    Error::Invalid { part: "head", reason }
}

/// The error of regions that an architecture does not have.
pub(crate) fn no_such_regions(regions: &Regions) -> Error {
    let reason = format!("this detector has no {}: it is of another kind", regions.tap());
    Error::Invalid { part: "regions", reason }
}
