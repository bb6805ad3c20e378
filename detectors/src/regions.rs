//! Regions that a detector's classification was trained on in one step, with its logits there.

use ckd_kernels::Value;

use crate::boxes::Xyxy;
use crate::taps::Tap;

/// Regions of one training step and the class logits of the detector that was trained there.
#[derive(Debug, Clone)]
pub enum Regions {
    /// Sampled proposals of a two-stage detector.
    Rois {
        /// Boxes per image.
        boxes: Vec<Vec<Xyxy>>,
        /// Class per box, over all images: 0 for background, class + 1 otherwise.
        labels: Vec<u32>,
        /// Class logits (R, K + 1), background first.
        logits: Value,
    },
    /// All anchors, or points, of a one-stage detector.
    Anchors {
        /// Class logits (N·A, K).
        logits: Value,
        /// Rows of the logits that were matched with a true box, ascending, per image.
        positives: Vec<Vec<u32>>,
    },
}

impl Regions {
    /// Tap of the logits.
    pub fn tap(&self) -> Tap {
        match self {
            Self::Rois { .. } => Tap::RoiLogits,
            Self::Anchors { .. } => Tap::AnchorLogits,
        }
    }

    /// Logits of the detector that was trained here.
    ///
    /// # Shapes
    /// (R, K + 1) of proposals, (N·A, K) of anchors.
    pub fn logits(&self) -> &Value {
        let (Self::Rois { logits, .. } | Self::Anchors { logits, .. }) = self;
        logits
    }

    /// True class of each region; empty where a region may have none or several.
    pub fn labels(&self) -> &[u32] {
        match self {
            Self::Rois { labels, .. } => labels,
            Self::Anchors { .. } => &[],
        }
    }
}
