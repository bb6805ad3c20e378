//! RetinaNet (Lin et al. 2017, arXiv 1708.02002), as in torchvision.

use ckd_kernels::Value;
use ckd_kernels::boxes::{AnchorGrid, AnchorOutputs, Detections as Among, detections_of_anchors};
use ckd_kernels::elementwise::{relu, rows};
use ckd_kernels::linear::Activation::{Identity, Relu};
use ckd_kernels::losses::{FocalTargets, RowTarget, giou_loss, sigmoid_focal_loss, smooth_l1};
use ckd_settings::{Check, choices, section};
use rand::RngCore;

use crate::anchors::AnchorGenerator;
use crate::backbone::Trunk;
use crate::box_coder::{BoxCoder, RegionCoder};
use crate::boxes::Xyxy;
use crate::dense::{anchors_per_cell, by_level, first_convs, flat, per_anchor, segments};
use crate::detector::{Detect, DetectorConfig, HeadMaps, no_such_regions};
use crate::fpn::{ExtraLevels, Fpn, P6From};
use crate::images::{Images, Target};
use crate::init::Init;
use crate::matcher::{self, Match, Matcher};
use crate::nn::{Conv2d, ConvBlock, HeadNorm, MOST_HEAD_CONVS, Mode};
use crate::param::{Builder, ParamStore};
use crate::postprocess::{Clip, Detections, logit_floor};
use crate::regions::{Regions, Regression};
use crate::row_divisors::RowDivisors;
use crate::taps::Level;
use crate::{Error, Losses, Result};

choices! {
    /// Regression loss of the boxes.
    pub enum BoxLoss {
        /// The absolute differences of the deltas.
        L1 = "l1",
        /// Generalised IoU of the boxes (Rezatofighi et al. 2019): torchvision's `_fpn_v2`.
        Giou = "giou",
    }
}

section! {
    /// The dense head of RetinaNet.
    pub struct RetinaSettings {
        /// An anchor with at least this IoU is an object.
        pub fg_iou: f64 = 0.5,
        /// An anchor with less than this IoU is background; between the two it is ignored.
        pub bg_iou: f64 = 0.4,
        /// Detections that score lower are dropped.
        pub score_threshold: f64 = 0.05,
        /// IoU of two detections of one class above which NMS drops the lower-scoring.
        pub nms_threshold: f64 = 0.5,
        /// The most detections an image may have.
        pub detections_per_image: usize = 300,
        /// Highest-scoring candidates kept per level before NMS.
        pub topk_candidates: usize = 1000,
        /// The focal loss's weight of objects against background.
        pub focal_alpha: f64 = 0.25,
        /// The focal loss's focus on hard examples.
        pub focal_gamma: f64 = 2.0,
        /// 3x3 convolutions before the output of each of the two heads.
        pub head_convs: usize = 4,
        /// The normalisation layers of these convolutions. torchvision's `_fpn_v2`: "gn".
        pub head_norm: HeadNorm = HeadNorm::None,
        /// Input of level p6.
        pub p6_from: P6From = P6From::P5,
        /// Regression loss of the boxes.
        pub box_loss: BoxLoss = BoxLoss::L1,
        /// With box_loss = "l1": differences of deltas below it count squared (smooth L1; Detectron2: 0.1).
        pub smooth_l1_beta: f64 = 0.0,
        /// Time of clipping detections to the image: before or after NMS.
        pub clip: Clip = Clip::BeforeNms,
    }
}

impl RetinaSettings {
    fn check(&self, check: &mut Check<'_>) {
        check.at_least_one("detections_per_image", self.detections_per_image);
        check.at_least_one("topk_candidates", self.topk_candidates);
        check.at_most("head_convs", self.head_convs, MOST_HEAD_CONVS);
        matcher::check_ious(check, self.fg_iou, self.bg_iou);
        check.fraction("nms_threshold", self.nms_threshold);
        check.fraction("score_threshold", self.score_threshold);
        check.fraction("focal_alpha", self.focal_alpha);
        check.not_negative("focal_gamma", self.focal_gamma);
        check.not_negative("smooth_l1_beta", self.smooth_l1_beta);
        check.that(
            self.smooth_l1_beta == 0.0 || self.box_loss == BoxLoss::L1,
            "smooth_l1_beta",
            "is given, but box_loss = \"giou\" has no deltas",
            "leave it out, or set box_loss = \"l1\"",
        );
    }
}

/// The network.
#[derive(Debug)]
pub struct RetinaNet {
    body: Trunk,
    fpn: Fpn,
    classification: Head,
    regression: Head,
    matcher: Matcher,
    levels: Vec<Level>,
    anchors: AnchorGenerator,
    config: DetectorConfig,
    params: ParamStore,
}

#[derive(Debug)]
struct Head {
    hidden: Vec<ConvBlock>,
    last: Conv2d,
}

/// Outputs of the heads for every anchor, (N·A) by image, level, row, column, anchor.
#[derive(Debug)]
pub struct RetinaOutput {
    /// Class logits (N·A, K).
    pub logits: Value,
    /// Box deltas (N·A, 4).
    pub deltas: Value,
    /// The anchors of one image (A).
    pub anchors: Vec<Xyxy>,
    /// Number of anchors on each level.
    pub per_level: Vec<usize>,
    /// Anchors of each level as a grid.
    pub grids: Vec<AnchorGrid>,
}

/// Result of a training forward pass.
#[derive(Debug)]
pub struct AnchorPass {
    /// The two detection losses.
    pub losses: Losses,
    /// Class logits (N·A, K).
    pub logits: Value,
    /// Rows of the logits that the matcher marked positive, ascending, per image.
    pub positives: Vec<Vec<u32>>,
    /// Rows of the logits between the matcher's thresholds, or in ignored boxes, ascending.
    pub ignored: Vec<u32>,
    /// Box regression of the anchors.
    pub regression: Regression,
}

const CODER: BoxCoder = BoxCoder::ANCHORS;

/// The foreground probability that the head starts from (paper, section 4.1).
const PRIOR: f64 = 0.01;

impl RetinaNet {
    /// Builds the network with `builder`.
    ///
    /// # Errors
    /// If there is no class, a size is 0, or thresholds or anchors do not fit.
    pub fn new(builder: Builder, config: &DetectorConfig) -> Result<Self> {
        Error::unless_positive("head", &[("classes", config.classes)])?;
        let backbone = builder.within("backbone");
        let body = Trunk::new(&backbone.within("body"), &config.backbone)?;
        let (width, settings) = (config.settings.fpn_channels, &config.settings.retina);
        let extra = ExtraLevels::P6P7(settings.p6_from);
        let inputs = &body.channels()[1..];
        let fpn = Fpn::new(&backbone.within("fpn"), inputs, width, config.fpn_norm, extra)?;
        let pyramid = config.pyramid()?;
        let anchors = config.settings.anchors(&pyramid)?;
        let per_cell = anchors_per_cell(&anchors)?;
        let head = |name: &str, last: &str, outputs, bias| {
            let shape = (width, outputs, settings.head_convs);
            Head::new(&builder.within("head").within(name), shape, settings.head_norm, last, bias)
        };
        let prior_bias = Init::Constant(-((1.0 - PRIOR) / PRIOR).ln() as f32);
        let classification =
            head("classification_head", "cls_logits", per_cell * config.classes, prior_bias)?;
        let regression = head("regression_head", "bbox_reg", per_cell * 4, Init::Constant(0.0))?;
        let matcher = Matcher::new(settings.fg_iou, settings.bg_iou)?.with_low_quality_matches();
        Ok(Self {
            body,
            fpn,
            classification,
            regression,
            matcher,
            levels: pyramid.levels().to_vec(),
            anchors,
            config: config.clone(),
            params: builder.finish(),
        })
    }

    /// Parameters of the detector.
    pub fn params(&self) -> &ParamStore {
        &self.params
    }

    /// The pyramid P3 to P7.
    pub fn pyramid(&self, images: &Images, mode: Mode) -> Result<Vec<Value>> {
        let input = images.normalized(&self.config.normalization)?;
        let maps = self.body.forward(&input, mode)?;
        self.fpn.forward(maps.into_iter().skip(1).collect(), mode)
    }

    /// Class logits (N·A, K) of every anchor.
    pub fn anchor_logits(&self, pyramid: &[Value]) -> Result<Value> {
        flat(&self.classification.forward(pyramid, self.config.classes, Mode::Inference)?)
    }

    /// Runs both heads on every level.
    ///
    /// # Errors
    /// If the pyramid is not that of `images`.
    pub fn forward(&self, images: &Images, pyramid: &[Value], mode: Mode) -> Result<RetinaOutput> {
        images.check_pyramid(pyramid)?;
        let sizes: Vec<(usize, usize)> =
            pyramid.iter().map(|level| (level.dims()[2], level.dims()[3])).collect();
        // The levels' own are gone before the other head's maps are kept.
        let (per_level, logits) = {
            let levels = self.classification.forward(pyramid, self.config.classes, mode)?;
            (levels.iter().map(|level| level.dims()[1]).collect(), flat(&levels)?)
        };
        Ok(RetinaOutput {
            per_level,
            logits,
            deltas: flat(&self.regression.forward(pyramid, 4, mode)?)?,
            anchors: self.anchors.generate(images.padded_size()?, &sizes)?,
            grids: self.anchors.grids(images.padded_size()?, &sizes)?,
        })
    }

    /// The detection losses of `pyramid`.
    ///
    /// # Errors
    /// If the pyramid or the targets are not those of `images`, or a label is no class.
    pub fn train(&self, images: &Images, pyramid: &[Value], targets: &[Target]) -> Result<AnchorPass> {
        images.check_targets(targets, self.config.classes)?;
        let settings = &self.config.settings.retina;
        let output = self.forward(images, pyramid, Mode::Train)?;
        let count = output.anchors.len();
        let mut classes = Vec::with_capacity(count * targets.len());
        // Of each positive: its row, its anchor and its true box.
        let (mut chosen, mut anchors, mut truths) = (Vec::new(), Vec::new(), Vec::new());
        let mut positives = Vec::with_capacity(targets.len());
        // Both losses are means over the images of sums over an image, divided by its number of positives.
        let (mut per_anchor, mut per_positive) = (RowDivisors::default(), RowDivisors::default());
        for (image, target) in targets.iter().enumerate() {
            let matches = self.matcher.match_boxes(&target.boxes, &target.ignored, &output.anchors);
            let (mut rows_of, mut weights) = (Vec::new(), Vec::new());
            classes.extend(matches.iter().enumerate().map(|(anchor, matched)| match *matched {
                Match::Gt(truth) => {
                    rows_of.push((image * count + anchor) as u32);
                    weights.push((anchor, target.weight(truth)));
                    anchors.push(output.anchors[anchor]);
                    truths.push(target.boxes[truth as usize]);
                    RowTarget::Class(target.labels[truth as usize])
                }
                Match::Background => RowTarget::Background,
                Match::Between => RowTarget::Ignored,
            }));
            let divisor = (rows_of.len().max(1) * targets.len()) as f64;
            per_positive.extend_weighted(divisor, weights.iter().map(|(_, weight)| *weight));
            per_anchor.extend(count, divisor, weights, target.background.into());
            chosen.extend_from_slice(&rows_of);
            positives.push(rows_of);
        }
        let (alpha, gamma) = (settings.focal_alpha, settings.focal_gamma);
        let class_targets = FocalTargets::Rows(&classes);
        let per_anchor = per_anchor.divisor();
        let classification = sigmoid_focal_loss(&output.logits, class_targets, alpha, gamma, per_anchor)?;
        let (deltas, per_positive) = (rows(&output.deltas, &chosen)?, per_positive.divisor());
        let regression = match settings.box_loss {
            BoxLoss::L1 => {
                let encode = |(truth, anchor)| CODER.encode(truth, anchor);
                let wanted: Vec<[f32; 4]> = truths.iter().zip(&anchors).map(encode).collect();
                smooth_l1(&deltas, &wanted, settings.smooth_l1_beta, per_positive)?
            }
            BoxLoss::Giou => giou_loss(&CODER.decode_rows(&deltas, &anchors)?, &truths, per_positive)?,
        };
        let losses = vec![("classification", classification), ("bbox_regression", regression)];
        let encode = |(truth, anchor)| CODER.encode(truth, anchor);
        let regression = Regression {
            deltas: output.deltas,
            truths: chosen.into_iter().zip(truths.iter().zip(&anchors).map(encode)).collect(),
            references: output.anchors,
            coder: RegionCoder::Deltas(CODER),
            // The loss has a divisor for each image: here their sum stands for them.
            divisor: positives.iter().map(|rows| rows.len().max(1)).sum::<usize>().max(1) as f64,
        };
        let is_ignored = |(_, target): &(u32, &RowTarget)| **target == RowTarget::Ignored;
        let ignored = (0..).zip(&classes).filter(is_ignored).map(|(row, _)| row).collect();
        Ok(AnchorPass { losses, logits: output.logits, positives, ignored, regression })
    }

    /// Detections in pixels of the padded images.
    pub fn detect(&self, images: &Images) -> Result<Vec<Detections>> {
        let mode = Mode::Inference;
        let output = self.forward(images, &self.pyramid(images, mode)?, mode)?;
        self.detections(&output, images)
    }

    /// Detections among the anchors of `images`, in pixels of the padded images.
    ///
    /// # Errors
    /// If the outputs are not those of `images`.
    pub fn detections(&self, output: &RetinaOutput, images: &Images) -> Result<Vec<Detections>> {
        let (settings, sizes) = (&self.config.settings.retina, &images.sizes);
        let segments = segments(&output.per_level, sizes.len());
        let (values, rows) = (output.logits.tensor(), output.deltas.tensor());
        let outputs = AnchorOutputs { values, rows, segments: &segments, grids: &output.grids, sizes };
        let choice = (settings.topk_candidates, logit_floor(settings.score_threshold));
        match detections_of_anchors(outputs, choice, settings.rules())? {
            Among::Boxes(found) => {
                let seen = |(found, &size): (&Vec<_>, &_)| settings.seen(Detections::of(found), size);
                Ok(found.iter().zip(sizes).map(seen).collect())
            }
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

impl Detect for RetinaNet {
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
        let AnchorPass { losses, logits, positives, ignored, regression } =
            self.train(images, pyramid, targets)?;
        Ok((losses, Regions::Anchors { logits, positives, ignored, regression }))
    }

    fn logits_at(&self, pyramid: &[Value], regions: &Regions) -> Result<Value> {
        match regions {
            Regions::Anchors { .. } => self.anchor_logits(pyramid),
            Regions::Rois { .. } => Err(no_such_regions(regions)),
        }
    }

    fn dense_logits(&self, pyramid: &[Value]) -> Result<Option<Value>> {
        self.anchor_logits(pyramid).map(Some)
    }

    fn deltas_at(&self, pyramid: &[Value], regions: &Regions) -> Result<Value> {
        match regions {
            Regions::Anchors { .. } => flat(&self.regression.forward(pyramid, 4, Mode::Inference)?),
            Regions::Rois { .. } => Err(no_such_regions(regions)),
        }
    }

    fn head_maps(&self, pyramid: &[Value], convs: usize) -> Result<HeadMaps> {
        let of = |head: &Head| pyramid.iter().map(|level| head.before(level, convs)).collect::<Result<_>>();
        Ok(HeadMaps { classification: of(&self.classification)?, regression: of(&self.regression)? })
    }

    fn head_outputs(&self, maps: &HeadMaps, convs: usize) -> Result<(Value, Value)> {
        let of = |head: &Head, maps: &[Value], width: usize| {
            flat(&maps.iter().map(|map| head.behind(map, convs, width)).collect::<Result<Vec<_>>>()?)
        };
        let logits = of(&self.classification, &maps.classification, self.config.classes)?;
        Ok((logits, of(&self.regression, &maps.regression, 4)?))
    }

    fn detect(&self, images: &Images) -> Result<Vec<Detections>> {
        self.detect(images)
    }

    fn raw_outputs(&self, images: &Images, pyramid: &[Value]) -> Result<Vec<(String, Value)>> {
        let output = self.forward(images, pyramid, Mode::Inference)?;
        Ok(vec![("logits".to_owned(), output.logits), ("deltas".to_owned(), output.deltas)])
    }
}

impl Head {
    fn new(
        builder: &Builder,
        (width, outputs, convs): (usize, usize, usize),
        norm: HeadNorm,
        last: &str,
        last_bias: Init,
    ) -> Result<Self> {
        let weight = Init::Normal(0.01);
        let hidden = (0..convs)
            .map(|i| ConvBlock::new(&builder.within("conv").within(i), (width, width, 3, 1), weight, norm))
            .collect::<Result<_>>()?;
        Ok(Self {
            hidden,
            last: Conv2d::new(&builder.within(last), (width, outputs, 3, 1), weight, last_bias)?,
        })
    }

    /// Result of the first `convs` convolutions of a level, before the last one's ReLU; the level itself of none.
    fn before(&self, level: &Value, convs: usize) -> Result<Value> {
        let Some((last, others)) = self.first(convs)?.split_last() else { return Ok(level.clone()) };
        let mut x = level.clone();
        for conv in others {
            x = conv.forward(&x, Mode::Inference, Relu)?;
        }
        last.forward(&x, Mode::Inference, Identity)
    }

    /// (N, H·W·A, width) of a map that stands for the result of [`before`](Self::before).
    fn behind(&self, map: &Value, convs: usize, width: usize) -> Result<Value> {
        let done = self.first(convs)?.len();
        let mut x = if done > 0 { relu(map)? } else { map.clone() };
        for conv in &self.hidden[done..] {
            x = conv.forward(&x, Mode::Inference, Relu)?;
        }
        per_anchor(&self.last.forward(&x, Identity)?, width)
    }

    fn first(&self, convs: usize) -> Result<&[ConvBlock]> {
        first_convs(&self.hidden, convs)
    }

    /// Returns a (N, H·W·A, width) value for each level.
    fn forward(&self, pyramid: &[Value], width: usize, mode: Mode) -> Result<Vec<Value>> {
        pyramid
            .iter()
            .map(|level| {
                let mut x = level.clone();
                for conv in &self.hidden {
                    x = conv.forward(&x, mode, Relu)?;
                }
                per_anchor(&self.last.forward(&x, Identity)?, width)
            })
            .collect()
    }
}
