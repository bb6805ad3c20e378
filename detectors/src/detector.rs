//! Either detector behind one type.

use ckd_kernels::Value;
use ckd_kernels::graph::untracked;

use crate::Result;
use crate::faster_rcnn::{FasterRcnn, FasterRcnnConfig};
use crate::images::Images;
use crate::nn::Mode;
use crate::param::{Builder, ParamStore};
use crate::postprocess::Detections;
use crate::retinanet::{RetinaNet, RetinaNetConfig};
use crate::taps::Level;

/// Settings of either detector.
#[derive(Debug, Clone)]
pub enum DetectorConfig {
    /// Two stages.
    FasterRcnn(FasterRcnnConfig),
    /// One stage.
    RetinaNet(RetinaNetConfig),
}

/// Either detector.
#[derive(Debug)]
pub enum Detector {
    /// Two stages.
    FasterRcnn(Box<FasterRcnn>),
    /// One stage.
    RetinaNet(Box<RetinaNet>),
}

impl Detector {
    /// Builds the network with `builder`.
    pub fn new(builder: Builder, config: &DetectorConfig) -> Result<Self> {
        Ok(match config {
            DetectorConfig::FasterRcnn(config) => {
                Self::FasterRcnn(Box::new(FasterRcnn::new(builder, config)?))
            }
            DetectorConfig::RetinaNet(config) => Self::RetinaNet(Box::new(RetinaNet::new(builder, config)?)),
        })
    }

    /// Its parameters.
    pub fn params(&self) -> &ParamStore {
        match self {
            Self::FasterRcnn(detector) => detector.params(),
            Self::RetinaNet(detector) => detector.params(),
        }
    }

    /// The pyramid's levels, fine to coarse.
    pub fn levels(&self) -> &'static [Level] {
        match self {
            Self::FasterRcnn(_) => &FasterRcnn::LEVELS,
            Self::RetinaNet(_) => &RetinaNet::LEVELS,
        }
    }

    /// The pyramid's maps, one for each of [`levels`](Self::levels).
    pub fn pyramid(&self, images: &Images, mode: Mode) -> Result<Vec<Value>> {
        match self {
            Self::FasterRcnn(detector) => detector.pyramid(images, mode),
            Self::RetinaNet(detector) => detector.pyramid(images, mode),
        }
    }

    /// Detections per image, best first, in pixels of the padded images.
    pub fn detect(&self, images: &Images) -> Result<Vec<Detections>> {
        untracked(|| match self {
            Self::FasterRcnn(detector) => detector.detect(images),
            Self::RetinaNet(detector) => detector.detect(images),
        })
    }
}
