//! FCOS, a one-stage detector without anchors (Tian et al. 2020, arXiv 2006.09214), as in torchvision.
//!
//! Each cell of the pyramid is a point that names the classes around it, the distances to the four sides of its box,
//! and how central it is there. In torchvision's form, and here, a point is the centre of one square anchor.

mod points;
mod postprocess;

use ckd_kernels::Value;
use ckd_kernels::boxes::{AnchorGrid, AnchorOutputs, Detections as Among, detections_of_anchors};
use ckd_kernels::elementwise::{relu, rows};
use ckd_kernels::linear::Activation::{Identity, Relu};
use ckd_kernels::losses::{FocalTargets, RowTarget, bce_with_logits, giou_loss, sigmoid_focal_loss};
use ckd_kernels::ranking::joint_scores;
use ckd_settings::{Check, section};
use rand::RngCore;

use crate::anchors::AnchorGenerator;
use crate::backbone::Trunk;
use crate::box_coder::{PointCoder, RegionCoder};
use crate::boxes::Xyxy;
use crate::dense::{anchors_per_cell, by_level, first_convs, flat, per_anchor, segments};
use crate::detector::{Detect, DetectorConfig, HeadMaps, no_such_regions};
use crate::fpn::{ExtraLevels, Fpn, P6From};
use crate::images::{Images, Target};
use crate::init::Init;
use crate::matcher::Match;
use crate::nn::{Conv2d, GroupNorm, MOST_HEAD_CONVS, Mode};
use crate::param::{Builder, ParamStore};
use crate::postprocess::Detections;
use crate::regions::{Regions, Regression};
use crate::row_divisors::RowDivisors;
use crate::taps::Level;
use crate::{Error, Losses, Result};

pub use postprocess::PointLevel;

section! {
    /// The dense head of FCOS.
    pub struct FcosSettings {
        /// A point may be an object's if it lies within so many strides of the middle of its box, along both axes.
        pub center_sampling_radius: f64 = 1.5,
        /// Detections that score lower are dropped; the score is the square root of class probability times
        /// centerness.
        pub score_threshold: f64 = 0.2,
        /// IoU of two detections of one class above which NMS drops the lower-scoring.
        pub nms_threshold: f64 = 0.6,
        /// The most detections an image may have.
        pub detections_per_image: usize = 100,
        /// Highest-scoring candidates kept per level before NMS.
        pub topk_candidates: usize = 1000,
        /// The focal loss's weight of objects against background.
        pub focal_alpha: f64 = 0.25,
        /// The focal loss's focus on hard examples.
        pub focal_gamma: f64 = 2.0,
        /// 3x3 convolutions before the outputs of each of the two heads, each followed by a group norm.
        pub head_convs: usize = 4,
        /// Input of level p6.
        pub p6_from: P6From = P6From::P5,
    }
}

impl FcosSettings {
    fn check(&self, check: &mut Check<'_>) {
        check.positive("center_sampling_radius", self.center_sampling_radius);
        check.at_least_one("detections_per_image", self.detections_per_image);
        check.at_least_one("topk_candidates", self.topk_candidates);
        check.at_most("head_convs", self.head_convs, MOST_HEAD_CONVS);
        check.fraction("nms_threshold", self.nms_threshold);
        check.fraction("score_threshold", self.score_threshold);
        check.fraction("focal_alpha", self.focal_alpha);
        check.not_negative("focal_gamma", self.focal_gamma);
    }
}

/// FCOS network.
#[derive(Debug)]
pub struct Fcos {
    body: Trunk,
    fpn: Fpn,
    classification: Tower,
    class_logits: Conv2d,
    regression: Tower,
    distances: Conv2d,
    centerness: Conv2d,
    levels: Vec<Level>,
    anchors: AnchorGenerator,
    config: DetectorConfig,
    params: ParamStore,
}

/// Convolutions before the outputs of a head, each followed by a group norm.
#[derive(Debug)]
struct Tower(Vec<(Conv2d, GroupNorm)>);

/// Outputs of the heads at every point, (N·A) in the order of the images, levels, rows, columns.
#[derive(Debug)]
pub struct PointOutput {
    /// Class logits (N·A, K).
    pub logits: Value,
    /// Left, top, right, bottom distances (N·A, 4), at least 0, in sides of the anchor.
    pub distances: Value,
    /// Logits of the centerness (N·A, 1).
    pub centerness: Value,
    /// Anchors of one image (A).
    pub anchors: Vec<Xyxy>,
    /// Number of anchors on each level.
    pub per_level: Vec<usize>,
    /// Anchors of each level as a grid.
    pub grids: Vec<AnchorGrid>,
}

/// Training forward pass over points.
#[derive(Debug)]
pub struct PointPass {
    /// The three detection losses.
    pub losses: Losses,
    /// Class logits (N·A, K).
    pub logits: Value,
    /// Rows of the logits whose points are positive, ascending, per image.
    pub positives: Vec<Vec<u32>>,
    /// Rows of the logits whose anchors lie in ignored boxes, ascending.
    pub ignored: Vec<u32>,
    /// Box regression of the points.
    pub regression: Regression,
}

/// Foreground probability that the head starts from.
const PRIOR: f64 = 0.01;

impl Fcos {
    /// Builds the network with `builder`.
    ///
    /// # Errors
    /// If there is no class, a size is 0, or there is more than one anchor a cell.
    pub fn new(builder: Builder, config: &DetectorConfig) -> Result<Self> {
        Error::unless_positive("head", &[("classes", config.classes)])?;
        let backbone = builder.within("backbone");
        let body = Trunk::new(&backbone.within("body"), &config.backbone)?;
        let (width, settings) = (config.settings.fpn_channels, &config.settings.fcos);
        let extra = ExtraLevels::P6P7(settings.p6_from);
        let inputs = &body.channels()[1..];
        let fpn = Fpn::new(&backbone.within("fpn"), inputs, width, config.fpn_norm, extra)?;
        let pyramid = config.pyramid()?;
        let anchors = config.settings.anchors(&pyramid)?;
        if anchors_per_cell(&anchors)? != 1 {
            let reason = "FCOS has one point a cell: give one anchor size a level".to_owned();
            return Err(Error::Invalid { part: "anchors", reason });
        }
        let head = builder.within("head");
        let (classes, boxes) = (head.within("classification_head"), head.within("regression_head"));
        let output = |builder: &Builder, name: &str, outputs, bias| {
            Conv2d::new(
                &builder.within(name),
                (width, outputs, 3, 1),
                Init::Normal(0.01),
                Init::Constant(bias),
            )
        };
        let prior_bias = -((1.0 - PRIOR) / PRIOR).ln() as f32;
        Ok(Self {
            classification: Tower::new(&classes, width, settings.head_convs)?,
            class_logits: output(&classes, "cls_logits", config.classes, prior_bias)?,
            regression: Tower::new(&boxes, width, settings.head_convs)?,
            distances: output(&boxes, "bbox_reg", 4, 0.0)?,
            centerness: output(&boxes, "bbox_ctrness", 1, 0.0)?,
            body,
            fpn,
            levels: pyramid.levels().to_vec(),
            anchors,
            config: config.clone(),
            params: builder.finish(),
        })
    }

    /// Parameters, under torchvision's names.
    pub fn params(&self) -> &ParamStore {
        &self.params
    }

    /// Feature pyramid P3 to P7.
    ///
    /// # Errors
    /// If the images are smaller than the network can see.
    pub fn pyramid(&self, images: &Images, mode: Mode) -> Result<Vec<Value>> {
        let input = images.normalized(&self.config.normalization)?;
        let maps = self.body.forward(&input, mode)?;
        self.fpn.forward(maps.into_iter().skip(1).collect(), mode)
    }

    /// Class logits of every point.
    ///
    /// # Shapes
    /// A pyramid of maps (N, C, Hl, Wl); (N·A, K).
    ///
    /// # Errors
    /// If the maps are not as wide as the pyramid.
    pub fn point_logits(&self, pyramid: &[Value]) -> Result<Value> {
        self.logits_behind(pyramid, 0)
    }

    /// Class logits (N·A, K) that the head makes of maps behind its first `convs` convolutions.
    fn logits_behind(&self, maps: &[Value], convs: usize) -> Result<Value> {
        let of_level = |map| {
            let hidden = self.classification.behind(map, convs)?;
            per_anchor(&self.class_logits.forward(&hidden, Identity)?, self.config.classes)
        };
        flat(&maps.iter().map(of_level).collect::<Result<Vec<_>>>()?)
    }

    /// Distances (N·A, 4) that the head makes of maps behind its first `convs` convolutions.
    fn distances_behind(&self, maps: &[Value], convs: usize) -> Result<Value> {
        let of_level =
            |map| per_anchor(&self.distances.forward(&self.regression.behind(map, convs)?, Relu)?, 4);
        flat(&maps.iter().map(of_level).collect::<Result<Vec<_>>>()?)
    }

    /// Outputs of both heads on every level.
    ///
    /// # Errors
    /// If the pyramid is not that of `images`.
    pub fn forward(&self, images: &Images, pyramid: &[Value]) -> Result<PointOutput> {
        images.check_pyramid(pyramid)?;
        let (mut distances, mut centerness) = (Vec::new(), Vec::new());
        for level in pyramid {
            let hidden = self.regression.behind(level, 0)?;
            distances.push(per_anchor(&self.distances.forward(&hidden, Relu)?, 4)?);
            centerness.push(per_anchor(&self.centerness.forward(&hidden, Identity)?, 1)?);
        }
        let sizes: Vec<_> = pyramid.iter().map(|level| (level.dims()[2], level.dims()[3])).collect();
        Ok(PointOutput {
            per_level: sizes.iter().map(|(h, w)| h * w).collect(),
            logits: self.point_logits(pyramid)?,
            distances: flat(&distances)?,
            centerness: flat(&centerness)?,
            anchors: self.anchors.generate(images.padded_size()?, &sizes)?,
            grids: self.anchors.grids(images.padded_size()?, &sizes)?,
        })
    }

    /// Detection losses of `pyramid`: sums over all points of the batch, divided by its number of positives.
    ///
    /// # Errors
    /// If the pyramid or the targets are not those of `images`, or a label is no class.
    pub fn train(&self, images: &Images, pyramid: &[Value], targets: &[Target]) -> Result<PointPass> {
        images.check_targets(targets, self.config.classes)?;
        let settings = &self.config.settings.fcos;
        let output = self.forward(images, pyramid)?;
        let count = output.anchors.len();
        let mut classes = Vec::with_capacity(count * targets.len());
        // Of each positive: its row, its anchor, its true box and its centerness there.
        let (mut chosen, mut anchors, mut truths, mut central) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut positives = Vec::with_capacity(targets.len());
        // Of each image its positives' places with their weights, and the weight of its background.
        let mut weighed: Vec<(Vec<(usize, f64)>, f64)> = Vec::new();
        for target in targets {
            let points = (output.anchors.as_slice(), output.per_level.as_slice());
            let radius = settings.center_sampling_radius;
            let matches = points::match_points(&target.boxes, &target.ignored, points, radius);
            let (mut rows_of, mut weights) = (Vec::new(), Vec::new());
            for (place, (anchor, matched)) in output.anchors.iter().zip(&matches).enumerate() {
                classes.push(match *matched {
                    Match::Gt(truth) => {
                        let own = target.boxes[truth as usize];
                        rows_of.push(classes.len() as u32);
                        weights.push((place, target.weight(truth)));
                        anchors.push(*anchor);
                        truths.push(own);
                        central.push(points::centerness(&own, anchor));
                        RowTarget::Class(target.labels[truth as usize])
                    }
                    Match::Background => RowTarget::Background,
                    Match::Between => RowTarget::Ignored,
                });
            }
            chosen.extend_from_slice(&rows_of);
            positives.push(rows_of);
            weighed.push((weights, target.background.into()));
        }
        let divisor = chosen.len().max(1) as f64;
        let (mut per_point, mut per_positive) = (RowDivisors::default(), RowDivisors::default());
        for (weights, background) in weighed {
            per_positive.extend_weighted(divisor, weights.iter().map(|(_, weight)| *weight));
            per_point.extend(count, divisor, weights, background);
        }
        let (per_point, per_positive) = (per_point.divisor(), per_positive.divisor());
        let (alpha, gamma) = (settings.focal_alpha, settings.focal_gamma);
        let class_targets = FocalTargets::Rows(&classes);
        let classification = sigmoid_focal_loss(&output.logits, class_targets, alpha, gamma, per_point)?;
        let boxes = PointCoder.decode_rows(&rows(&output.distances, &chosen)?, &anchors)?;
        let regression = giou_loss(&boxes, &truths, per_positive)?;
        let centerness = bce_with_logits(&rows(&output.centerness, &chosen)?, &central, per_positive)?;
        let losses = vec![
            ("classification", classification),
            ("bbox_regression", regression),
            ("bbox_ctrness", centerness),
        ];
        let encode = |(truth, anchor)| PointCoder.encode(truth, anchor);
        let regression = Regression {
            deltas: output.distances,
            truths: chosen.into_iter().zip(truths.iter().zip(&anchors).map(encode)).collect(),
            references: output.anchors,
            coder: RegionCoder::Distances,
            divisor,
        };
        let is_ignored = |(_, target): &(u32, &RowTarget)| **target == RowTarget::Ignored;
        let ignored = (0..).zip(&classes).filter(is_ignored).map(|(row, _)| row).collect();
        Ok(PointPass { losses, logits: output.logits, positives, ignored, regression })
    }

    /// Detections per image, best first, in pixels of the padded images.
    ///
    /// # Errors
    /// If the images are smaller than the network can see.
    pub fn detect(&self, images: &Images) -> Result<Vec<Detections>> {
        let output = self.forward(images, &self.pyramid(images, Mode::Inference)?)?;
        self.detections(&output, images)
    }

    /// Detections among the points of `images`, best first, in pixels of the padded images.
    ///
    /// # Errors
    /// If the outputs are not those of `images`.
    pub fn detections(&self, output: &PointOutput, images: &Images) -> Result<Vec<Detections>> {
        let (settings, sizes) = (&self.config.settings.fcos, &images.sizes);
        let (logit_floor, score_floor) = settings.floors();
        let scores = joint_scores(output.logits.tensor(), output.centerness.tensor(), logit_floor)?;
        let (segments, grids) = (segments(&output.per_level, sizes.len()), &output.grids);
        let (values, rows) = (&scores, output.distances.tensor());
        let outputs = AnchorOutputs { values, rows, segments: &segments, grids, sizes };
        let choice = (settings.topk_candidates, score_floor);
        match detections_of_anchors(outputs, choice, settings.rules())? {
            Among::Boxes(found) => Ok(found.iter().map(|found| Detections::of(found)).collect()),
            Among::Anchors(best) => best
                .chunks_exact(output.per_level.len().max(1))
                .zip(sizes)
                .map(|(best, &size)| {
                    let best = by_level(best, &output.anchors, &output.per_level);
                    Ok(settings.among(best, self.config.classes, size)?)
                })
                .collect(),
        }
    }
}

impl Detect for Fcos {
    fn params(&self) -> &ParamStore {
        self.params()
    }

    fn levels(&self) -> &[Level] {
        &self.levels
    }

    fn pyramid(&self, images: &Images, mode: Mode) -> Result<Vec<Value>> {
        self.pyramid(images, mode)
    }

    fn train(
        &self,
        images: &Images,
        pyramid: &[Value],
        targets: &[Target],
        _random: &mut dyn RngCore,
    ) -> Result<(Losses, Regions)> {
        let PointPass { losses, logits, positives, ignored, regression } =
            self.train(images, pyramid, targets)?;
        Ok((losses, Regions::Anchors { logits, positives, ignored, regression }))
    }

    fn logits_at(&self, pyramid: &[Value], regions: &Regions) -> Result<Value> {
        match regions {
            Regions::Anchors { .. } => self.point_logits(pyramid),
            Regions::Rois { .. } => Err(no_such_regions(regions)),
        }
    }

    fn dense_logits(&self, pyramid: &[Value]) -> Result<Option<Value>> {
        self.point_logits(pyramid).map(Some)
    }

    /// Distances from the points.
    fn deltas_at(&self, pyramid: &[Value], regions: &Regions) -> Result<Value> {
        match regions {
            Regions::Anchors { .. } => self.distances_behind(pyramid, 0),
            Regions::Rois { .. } => Err(no_such_regions(regions)),
        }
    }

    fn head_maps(&self, pyramid: &[Value], convs: usize) -> Result<HeadMaps> {
        let of =
            |tower: &Tower| pyramid.iter().map(|level| tower.before(level, convs)).collect::<Result<_>>();
        Ok(HeadMaps { classification: of(&self.classification)?, regression: of(&self.regression)? })
    }

    fn head_outputs(&self, maps: &HeadMaps, convs: usize) -> Result<(Value, Value)> {
        let logits = self.logits_behind(&maps.classification, convs)?;
        Ok((logits, self.distances_behind(&maps.regression, convs)?))
    }

    fn detect(&self, images: &Images) -> Result<Vec<Detections>> {
        self.detect(images)
    }

    fn raw_outputs(&self, images: &Images, pyramid: &[Value]) -> Result<Vec<(String, Value)>> {
        let PointOutput { logits, distances, centerness, .. } = self.forward(images, pyramid)?;
        let named = [("logits", logits), ("distances", distances), ("centerness", centerness)];
        Ok(named.map(|(name, value)| (name.to_owned(), value)).into())
    }
}

impl Tower {
    /// Layers `conv.0`, `conv.1` (norm), `conv.3`, `conv.4`, ...: every third of torchvision's is a ReLU.
    fn new(builder: &Builder, width: usize, convs: usize) -> Result<Self> {
        let builder = builder.within("conv");
        let layer = |i: usize| {
            let (weight, bias) = (Init::Normal(0.01), Init::Constant(0.0));
            let conv = Conv2d::new(&builder.within(3 * i), (width, width, 3, 1), weight, bias)?;
            Ok((conv, GroupNorm::new(&builder.within(3 * i + 1), width)?))
        };
        Ok(Self((0..convs).map(layer).collect::<Result<_>>()?))
    }

    /// Result of the first `convs` layers for a level, before the last one's ReLU; the level itself of none.
    fn before(&self, level: &Value, convs: usize) -> Result<Value> {
        let mut x = level.clone();
        for (i, (conv, norm)) in self.first(convs)?.iter().enumerate() {
            let activation = if i + 1 < convs { Relu } else { Identity };
            x = norm.forward(&conv.forward(&x, Identity)?, activation)?;
        }
        Ok(x)
    }

    /// Result of all layers for a map that stands for that of [`before`](Self::before).
    fn behind(&self, map: &Value, convs: usize) -> Result<Value> {
        let done = self.first(convs)?.len();
        let mut x = if done > 0 { relu(map)? } else { map.clone() };
        for (conv, norm) in &self.0[done..] {
            x = norm.forward(&conv.forward(&x, Identity)?, Relu)?;
        }
        Ok(x)
    }

    fn first(&self, convs: usize) -> Result<&[(Conv2d, GroupNorm)]> {
        first_convs(&self.0, convs)
    }
}
