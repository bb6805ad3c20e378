//! Detections: the best classes of anchors or regions as boxes, suppressed class by class.

use candle_core::Tensor;

use crate::dispatch::{self, Host};
use crate::ranking::{Best, best};
use crate::{Error, Result};

use super::{AnchorOutputs, Corners};

/// A detection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// Its box.
    pub corners: Corners,
    /// Its score.
    pub score: f32,
    /// Column of its class, background left out.
    pub label: u32,
}

/// Rules of a selection of detections.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DetectionRules {
    /// Detections of an image that are kept, by score.
    pub per_image: usize,
    /// IoU above which the lower-scored of two boxes of a class goes.
    pub iou: f32,
    /// Lowest score.
    pub score: f32,
    /// Shortest side of a box in pixels; minus infinity for boxes of any sides.
    pub side: f32,
    /// Whether boxes are clipped to the image before they meet.
    pub clips: bool,
    /// The largest logarithm of a ratio of sides; `None` where a value is the score itself, and the four numbers of an anchor
    /// are the distances of the sides from its centre, in sides of the anchor (Tian et al. 2020).
    pub log_ratio: Option<f32>,
}

/// Detections among anchors, as far as they are made where the tensors lie.
#[derive(Debug, Clone, PartialEq)]
pub enum Detections {
    /// The best classes of anchors of each segment, still to be decoded and suppressed.
    Anchors(Vec<Best>),
    /// The detections of each image by descending score.
    Boxes(Vec<Vec<Found>>),
}

/// Detections among the anchors of images: the `per_level` highest values of each level that are at least `floor`.
///
/// A value is a logit, of which the score is the sigmoid, and the numbers of boxes are deltas of weights 1; or as `rules` have
/// it. Up to 2,048 values of a level are made into boxes on a GPU.
///
/// # Errors
/// If shapes do not fit.
pub fn detections_of_anchors(
    outputs: AnchorOutputs<'_>,
    (per_level, floor): (usize, f32),
    rules: DetectionRules,
) -> Result<Detections> {
    let columns = outputs.columns()?;
    dispatch::run(outputs.values, AmongAnchors { outputs, columns, per_level, floor, rules })
}

/// Outputs of a dense head, and what its detections are made by.
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "the host hands its anchors over as they are"))]
pub(super) struct AmongAnchors<'a> {
    pub(super) outputs: AnchorOutputs<'a>,
    pub(super) columns: usize,
    pub(super) per_level: usize,
    pub(super) floor: f32,
    pub(super) rules: DetectionRules,
}

impl AmongAnchors<'_> {
    /// The best anchors, wherever the tensors lie.
    pub(super) fn anchors(&self) -> Result<Detections> {
        let AnchorOutputs { values, rows, segments, .. } = self.outputs;
        best(values, rows, segments, self.per_level, self.floor).map(Detections::Anchors)
    }
}

impl Host for AmongAnchors<'_> {
    type Output = Detections;

    fn on_host(self) -> Result<Detections> {
        self.anchors()
    }
}

/// Outputs of a head for regions of images.
///
/// # Shapes
/// `logits` (R, K + 1) with the background in column 0, `deltas` (R, 4 (K + 1)); R boxes, image by image.
#[derive(Debug, Clone, Copy)]
pub struct Regions<'a> {
    /// Logits of each region's classes.
    pub logits: &'a Tensor,
    /// Deltas of each region's box for each class.
    pub deltas: &'a Tensor,
    /// Weights of the deltas, by which they are divided.
    pub weights: [f32; 4],
    /// Regions of each image.
    pub boxes: &'a [Vec<Corners>],
    /// (height, width) of the images.
    pub sizes: &'a [(usize, usize)],
}

/// The detections of each image among its regions, by descending score; `None` on the host, where they are the caller's.
///
/// The score of a class is its softmax probability.
///
/// # Errors
/// If shapes do not fit.
pub fn detections_of_regions(regions: Regions<'_>, rules: DetectionRules) -> Result<Option<Vec<Vec<Found>>>> {
    let Regions { logits, deltas, boxes, sizes, .. } = regions;
    let rows: usize = boxes.iter().map(Vec::len).sum();
    let columns = logits.dims().last().copied().unwrap_or(0);
    let fits = logits.dims() == [rows, columns] && deltas.dims() == [rows, 4 * columns];
    if !fits || boxes.len() != sizes.len() || columns == 0 {
        let (logits, deltas, images) = (logits.dims(), deltas.dims(), sizes.len());
        let reason = format!("{rows} regions of {images} images, logits {logits:?}, deltas {deltas:?}");
        return Err(Error::invalid("detections_of_regions", reason));
    }
    dispatch::run(logits, AmongRegions { regions, rows, classes: columns - 1, rules })
}

/// Outputs of a second stage, and what its detections are made by.
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "on the host they are the caller's"))]
pub(super) struct AmongRegions<'a> {
    pub(super) regions: Regions<'a>,
    pub(super) rows: usize,
    pub(super) classes: usize,
    pub(super) rules: DetectionRules,
}

impl Host for AmongRegions<'_> {
    type Output = Option<Vec<Vec<Found>>>;

    fn on_host(self) -> Result<Self::Output> {
        Ok(None)
    }
}
