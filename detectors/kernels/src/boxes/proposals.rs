//! Proposals: the best anchors of each level as boxes, suppressed level by level.

use crate::dispatch::{self, Host};
use crate::ranking::{Best, best};
use crate::{Error, Result};

use super::{AnchorOutputs, Corners};

/// Rules of a selection of proposals.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProposalRules {
    /// Anchors of each level that are decoded, by logit.
    pub per_level: usize,
    /// Boxes of an image that are kept, by score.
    pub per_image: usize,
    /// IoU above which the lower-scored of two boxes of a level goes.
    pub iou: f32,
    /// Lowest score, the sigmoid of the logit.
    pub score: f32,
    /// Shortest side of a clipped box in pixels.
    pub side: f32,
    /// The largest logarithm of a ratio of sides.
    pub log_ratio: f32,
}

/// Proposals, as far as they are made where the tensors lie.
#[derive(Debug, Clone, PartialEq)]
pub enum Proposals {
    /// The best anchors of each segment, still to be decoded and suppressed.
    Anchors(Vec<Best>),
    /// The boxes of each image by descending score.
    Boxes(Vec<Vec<Corners>>),
}

/// Proposals among the anchors of images.
///
/// The numbers of boxes are deltas of Girshick et al. 2014 with weights of 1. Up to 2,048 anchors of a level, and as many
/// boxes of an image, are made into boxes on a GPU.
///
/// # Shapes
/// One logit an anchor.
///
/// # Errors
/// If shapes do not fit.
pub fn proposals(outputs: AnchorOutputs<'_>, rules: ProposalRules) -> Result<Proposals> {
    match outputs.columns()? {
        1 => dispatch::run(outputs.values, Proposing { outputs, rules }),
        columns => Err(Error::invalid("proposals", format!("one logit an anchor expected, got {columns}"))),
    }
}

/// Outputs of a head, and what its proposals are made by.
pub(super) struct Proposing<'a> {
    pub(super) outputs: AnchorOutputs<'a>,
    pub(super) rules: ProposalRules,
}

impl Proposing<'_> {
    /// The best anchors, wherever the tensors lie.
    pub(super) fn anchors(&self) -> Result<Proposals> {
        let AnchorOutputs { values, rows, segments, .. } = self.outputs;
        best(values, rows, segments, self.rules.per_level, f32::NEG_INFINITY).map(Proposals::Anchors)
    }
}

impl Host for Proposing<'_> {
    type Output = Proposals;

    fn on_host(self) -> Result<Proposals> {
        self.anchors()
    }
}
