//! Regions that a detector's classification was trained on in one step, with its logits there.

use ckd_kernels::Value;

use crate::box_coder::RegionCoder;
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
        /// Box regression of the proposals.
        regression: Regression,
    },
    /// All anchors, or points, of a one-stage detector.
    Anchors {
        /// Class logits (N·A, K).
        logits: Value,
        /// Rows of the logits that were matched with a true box, ascending, per image.
        positives: Vec<Vec<u32>>,
        /// Rows of the logits that count neither as objects nor as background, ascending.
        ignored: Vec<u32>,
        /// Box regression of the anchors, or points.
        regression: Regression,
    },
}

/// Box regression of regions: deltas, and what they are deltas to. Of points they are distances.
#[derive(Debug, Clone)]
pub struct Regression {
    /// Deltas (R, 4 (K + 1)) of proposals by class, (N·A, 4) of anchors.
    pub deltas: Value,
    /// Of each region that is an object's: its row, and the deltas to the true box, in order of the rows.
    pub truths: Vec<(u32, [f32; 4])>,
    /// The proposals of all images; the anchors of one image.
    pub references: Vec<Xyxy>,
    /// Coder of the deltas.
    pub coder: RegionCoder,
    /// Divisor of the detector's own box loss, as one number for the batch.
    pub divisor: f64,
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

    /// Box regression.
    pub fn regression(&self) -> &Regression {
        let (Self::Rois { regression, .. } | Self::Anchors { regression, .. }) = self;
        regression
    }

    /// Tap of the deltas.
    pub fn box_tap(&self) -> Tap {
        match self {
            Self::Rois { .. } => Tap::RoiBoxes,
            Self::Anchors { .. } => Tap::AnchorBoxes,
        }
    }

    /// True class of each region; empty where a region may have none or several.
    pub fn labels(&self) -> &[u32] {
        match self {
            Self::Rois { labels, .. } => labels,
            Self::Anchors { .. } => &[],
        }
    }
}
