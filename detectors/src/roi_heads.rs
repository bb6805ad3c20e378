//! The second stage of Faster R-CNN (Girshick 2015, Lin et al. 2017), as in torchvision: each proposal's
//! features are pooled from one pyramid level, classified, and its box refined per class.

use ckd_kernels::Value;
use ckd_kernels::boxes::{Regions, detections_of_regions};
use ckd_kernels::elementwise::{reshape, rows};
use ckd_kernels::linear::Activation::{Identity, Relu};
use ckd_kernels::losses::{smooth_l1, softmax_cross_entropy};
use ckd_kernels::memory::numbers;
use ckd_kernels::roi_align::{Alignment, Sampling, multi_level_roi_align};
use ckd_settings::{Check, choices, section};
use rand::Rng;

use crate::box_coder::{BoxCoder, RegionCoder};
use crate::boxes::Xyxy;
use crate::images::{Images, Target};
use crate::init::Init;
use crate::level_mapper::LevelMapper;
use crate::matcher::{self, Match, Matcher};
use crate::nn::{ConvBlock, HeadNorm, Linear, Mode};
use crate::param::Builder;
use crate::postprocess::Detections;
use crate::regions::Regression;
use crate::row_divisors::RowDivisors;
use crate::sampler::sample;
use crate::{Error, Result};

choices! {
    /// The layers between a pooled region and its class.
    pub enum RoiHead {
        /// Two fully connected layers (Lin et al. 2017a): torchvision's `TwoMLPHead`.
        TwoFc = "two_fc",
        /// Four 3x3 convolutions as wide as the FPN, each with roi.head_norm, and one fully connected layer (Wu and
        /// He 2018): torchvision's `_fpn_v2`.
        FourConvFc = "four_conv_fc",
    }
}

choices! {
    /// Sample positions of RoIAlign.
    pub enum RoiAlign {
        /// Without the half-pixel shift: torchvision's detectors.
        Legacy = "legacy",
        /// With the half-pixel shift: Detectron2's `ROIAlignV2`.
        Aligned = "aligned",
    }
}

section! {
    /// The box head of Faster R-CNN.
    pub struct RoiConfig {
        /// Proposals per image that the loss is taken over.
        pub batch_per_image: usize = 512,
        /// The largest part of them that may be objects.
        pub positive_fraction: f64 = 0.25,
        /// A proposal with at least this IoU is an object.
        pub fg_iou: f64 = 0.5,
        /// A proposal with less than this IoU is background.
        pub bg_iou: f64 = 0.5,
        /// Detections that score lower are dropped.
        pub score_threshold: f64 = 0.05,
        /// IoU of two detections of one class above which NMS drops the lower-scoring.
        pub nms_threshold: f64 = 0.5,
        /// The most detections an image may have.
        pub detections_per_image: usize = 100,
        /// RoIAlign's output is this many cells high and wide.
        pub pool_size: usize = 7,
        /// RoIAlign's samples per cell and direction; 0 adapts it to the size of the RoI.
        pub sampling_ratio: usize = 2,
        /// Sample positions of RoIAlign.
        pub align: RoiAlign = RoiAlign::Legacy,
        /// The layers between a pooled region and its class.
        pub head: RoiHead = RoiHead::TwoFc,
        /// The normalisation layers of head = "four_conv_fc".
        pub head_norm: HeadNorm = HeadNorm::Bn,
        /// Width of the fully connected layers; a network may override it.
        pub head_width: usize = 1024,
        /// Smooth L1's beta: differences of deltas below it count squared; 0: L1, as in Detectron2.
        pub smooth_l1_beta: f64 = 1.0 / 9.0,
    }
}

impl RoiConfig {
    fn check(&self, check: &mut Check<'_>) {
        for (key, count) in [
            ("batch_per_image", self.batch_per_image),
            ("detections_per_image", self.detections_per_image),
            ("pool_size", self.pool_size),
            ("head_width", self.head_width),
        ] {
            check.at_least_one(key, count);
        }
        check.at_most("pool_size", self.pool_size, 64);
        matcher::check_ious(check, self.fg_iou, self.bg_iou);
        check.fraction("nms_threshold", self.nms_threshold);
        check.fraction("positive_fraction", self.positive_fraction);
        check.fraction("score_threshold", self.score_threshold);
        check.not_negative("smooth_l1_beta", self.smooth_l1_beta);
    }

    fn sampling(&self) -> Sampling {
        match self.sampling_ratio {
            0 => Sampling::Adaptive,
            ratio => Sampling::Fixed(ratio),
        }
    }

    fn alignment(&self) -> Alignment {
        match self.align {
            RoiAlign::Legacy => Alignment::Legacy,
            RoiAlign::Aligned => Alignment::HalfPixel,
        }
    }
}

/// The regions whose logits a training step compares with the truth.
#[derive(Debug, Clone)]
pub struct RoiSamples {
    /// Boxes per image.
    pub boxes: Vec<Vec<Xyxy>>,
    /// Per box, over all images: 0 for background, class + 1 otherwise.
    pub labels: Vec<u32>,
    /// Per positive: its row over all images, and the deltas to its truth.
    positives: Vec<(u32, [f32; 4])>,
    /// Weight of each box.
    weights: Vec<f64>,
}

impl RoiSamples {
    /// Box regression of the regions, of which a detector's `deltas` (R, 4 (K + 1)) are.
    pub(crate) fn regression(&self, deltas: Value) -> Regression {
        Regression {
            deltas,
            truths: self.positives.clone(),
            references: self.boxes.concat(),
            coder: RegionCoder::Deltas(CODER),
            divisor: self.labels.len().max(1) as f64,
        }
    }
}

/// The box head with its predictors.
#[derive(Debug)]
pub struct RoiHeads {
    hidden: Hidden,
    score: Linear,
    deltas: Linear,
    classes: usize,
    scales: Vec<f32>,
    mapper: LevelMapper,
    matcher: Matcher,
    config: RoiConfig,
}

#[derive(Debug)]
enum Hidden {
    TwoFc { fc6: Linear, fc7: Linear },
    FourConvFc { convs: Vec<ConvBlock>, fc: Linear },
}

/// Outputs of the RoI heads, one row for each region.
#[derive(Debug)]
pub struct RoiOutput {
    /// Class logits (R, K + 1), background first.
    pub logits: Value,
    /// Box deltas (R, 4 (K + 1)).
    pub deltas: Value,
}

const CODER: BoxCoder = BoxCoder::PROPOSALS;

impl RoiHeads {
    /// `box_head` and `box_predictor` in `builder`'s layer, for (channels of the maps, foreground classes) and maps of
    /// these strides to pool from.
    ///
    /// # Errors
    /// If there is no class, or a size is 0.
    pub fn new(
        builder: &Builder,
        (channels, classes): (usize, usize),
        strides: &[usize],
        config: &RoiConfig,
    ) -> Result<Self> {
        let sizes =
            [("classes", classes), ("pool_size", config.pool_size), ("head_width", config.head_width)];
        Error::unless_positive("box head", &sizes)?;
        let predictor = builder.within("box_predictor");
        Ok(Self {
            hidden: Hidden::new(&builder.within("box_head"), channels, config)?,
            score: Linear::new(&predictor.within("cls_score"), config.head_width, classes + 1)?,
            deltas: Linear::new(&predictor.within("bbox_pred"), config.head_width, 4 * (classes + 1))?,
            classes,
            scales: strides.iter().map(|&stride| 1.0 / stride as f32).collect(),
            mapper: LevelMapper::over(strides),
            matcher: Matcher::new(config.fg_iou, config.bg_iou)?,
            config: config.clone(),
        })
    }

    /// Logits and deltas of `boxes` (per image), pooled from the levels that are made of a map each.
    pub fn forward(&self, levels: &[Value], boxes: &[Vec<Xyxy>], mode: Mode) -> Result<RoiOutput> {
        let mut rois = Vec::with_capacity(boxes.iter().map(Vec::len).sum());
        let mut level_of = Vec::with_capacity(rois.capacity());
        for (image, boxes) in boxes.iter().enumerate() {
            for b in boxes {
                rois.push([image as f32, b[0], b[1], b[2], b[3]]);
                level_of.push(self.mapper.level(b));
            }
        }
        let levels: Vec<&Value> = levels.iter().take(self.scales.len()).collect();
        let size = self.config.pool_size;
        let pooled = multi_level_roi_align(
            &levels,
            &self.scales[..levels.len()],
            &rois,
            &level_of,
            (size, size),
            self.config.sampling(),
            self.config.alignment(),
        )?;
        let hidden = self.hidden.forward(&pooled, mode)?;
        Ok(RoiOutput {
            logits: self.score.forward(&hidden, Identity)?,
            deltas: self.deltas.forward(&hidden, Identity)?,
        })
    }

    /// Boxes that the head makes of `boxes` per image, each as of the class in `labels` (0..K), over all images.
    ///
    /// # Errors
    /// If there are not as many labels as boxes, or one is no class.
    pub fn refined(&self, pyramid: &[Value], boxes: &[Vec<Xyxy>], labels: &[u32]) -> Result<Vec<Xyxy>> {
        let count = boxes.iter().map(Vec::len).sum::<usize>();
        if count != labels.len() || labels.iter().any(|&label| label as usize >= self.classes) {
            let reason = format!("{} labels of {} classes for {count} boxes", labels.len(), self.classes);
            return Err(Error::Invalid { part: "box head", reason });
        }
        let deltas = numbers(self.forward(pyramid, boxes, Mode::Inference)?.deltas.tensor())?;
        let (deltas, _) = deltas.as_chunks::<4>();
        let columns = self.classes + 1;
        let rows = deltas.chunks_exact(columns).zip(labels).zip(boxes.iter().flatten());
        Ok(rows.map(|((row, &label), own)| CODER.decode(&row[label as usize + 1], own)).collect())
    }

    /// Chooses, among the proposals and the true boxes themselves, the regions to learn from.
    pub fn sample(
        &self,
        proposals: Vec<Vec<Xyxy>>,
        targets: &[Target],
        random: &mut impl Rng,
    ) -> Result<RoiSamples> {
        let &RoiConfig { batch_per_image: per_image, positive_fraction, .. } = &self.config;
        let mut samples =
            RoiSamples { boxes: Vec::new(), labels: Vec::new(), positives: Vec::new(), weights: Vec::new() };
        for (mut candidates, target) in proposals.into_iter().zip(targets) {
            candidates.extend_from_slice(&target.boxes);
            let matches = self.matcher.match_boxes(&target.boxes, &target.ignored, &candidates);
            let drawn = sample(&matches, per_image, positive_fraction, random)?;
            let mut chosen = [drawn.positives, drawn.negatives].concat();
            chosen.sort_unstable();
            let mut boxes = Vec::with_capacity(chosen.len());
            for index in chosen {
                let candidate = candidates[index];
                samples.weights.push(match matches[index] {
                    Match::Gt(truth) => target.weight(truth),
                    Match::Background | Match::Between => target.background.into(),
                });
                samples.labels.push(match matches[index] {
                    Match::Gt(truth) => {
                        let truth = truth as usize;
                        let deltas = CODER.encode(&target.boxes[truth], &candidate);
                        samples.positives.push((samples.labels.len() as u32, deltas));
                        target.labels[truth] + 1
                    }
                    Match::Background | Match::Between => 0,
                });
                boxes.push(candidate);
            }
            samples.boxes.push(boxes);
        }
        Ok(samples)
    }

    /// The losses `loss_classifier` and `loss_box_reg`.
    pub fn losses(&self, output: &RoiOutput, samples: &RoiSamples) -> Result<[(&'static str, Value); 2]> {
        let divisor = samples.labels.len().max(1) as f64;
        let (mut per_row, mut per_positive) = (RowDivisors::default(), RowDivisors::default());
        per_row.extend_weighted(divisor, samples.weights.iter().copied());
        let positives = samples.positives.iter();
        per_positive.extend_weighted(divisor, positives.map(|&(row, _)| samples.weights[row as usize]));
        let classifier = softmax_cross_entropy(&output.logits, &samples.labels, per_row.divisor())?;
        let columns = self.classes + 1;
        let per_class = reshape(&output.deltas, &[samples.labels.len() * columns, 4])?;
        let (chosen, regression): (Vec<u32>, Vec<[f32; 4]>) = samples
            .positives
            .iter()
            .map(|&(row, deltas)| (row * columns as u32 + samples.labels[row as usize], deltas))
            .unzip();
        let beta = self.config.smooth_l1_beta;
        let boxes = smooth_l1(&rows(&per_class, &chosen)?, &regression, beta, per_positive.divisor())?;
        Ok([("loss_classifier", classifier), ("loss_box_reg", boxes)])
    }

    /// Detections per image among `boxes`.
    pub fn detections(
        &self,
        output: &RoiOutput,
        boxes: &[Vec<Xyxy>],
        images: &Images,
    ) -> Result<Vec<Detections>> {
        let (logits, deltas) = (output.logits.tensor(), output.deltas.tensor());
        let regions = Regions { logits, deltas, weights: CODER.weights(), boxes, sizes: &images.sizes };
        if let Some(found) = detections_of_regions(regions, self.config.rules())? {
            return Ok(found.iter().map(|found| Detections::of(found)).collect());
        }
        let columns = self.classes + 1;
        let logits = numbers(output.logits.tensor())?;
        let deltas = numbers(output.deltas.tensor())?;
        let mut first = 0;
        boxes
            .iter()
            .zip(&images.sizes)
            .map(|(boxes, &size)| {
                let (rows, from) = (boxes.len(), first);
                first += rows;
                let logits = &logits[from * columns..][..rows * columns];
                let deltas = &deltas[4 * from * columns..][..4 * rows * columns];
                Ok(self.config.detect(logits, deltas, boxes, &CODER, size)?)
            })
            .collect()
    }
}

impl Hidden {
    fn new(builder: &Builder, channels: usize, config: &RoiConfig) -> Result<Self> {
        let pooled = channels * config.pool_size * config.pool_size;
        Ok(match config.head {
            RoiHead::TwoFc => Self::TwoFc {
                fc6: Linear::new(&builder.within("fc6"), pooled, config.head_width)?,
                fc7: Linear::new(&builder.within("fc7"), config.head_width, config.head_width)?,
            },
            RoiHead::FourConvFc => Self::FourConvFc {
                convs: (0..4)
                    .map(|i| {
                        let shape = (channels, channels, 3, 1);
                        ConvBlock::new(&builder.within(i), shape, Init::KaimingNormalFanOut, config.head_norm)
                    })
                    .collect::<Result<_>>()?,
                // Layer 4 flattens.
                fc: Linear::new(&builder.within(5), pooled, config.head_width)?,
            },
        })
    }

    /// (R, C, S, S) to (R, hidden).
    fn forward(&self, pooled: &Value, mode: Mode) -> Result<Value> {
        let flat = |x: &Value| reshape(x, &[x.dims()[0], x.dims()[1..].iter().product()]);
        match self {
            Self::TwoFc { fc6, fc7 } => fc7.forward(&fc6.forward(&flat(pooled)?, Relu)?, Relu),
            Self::FourConvFc { convs, fc } => {
                let mut x = pooled.clone();
                for conv in convs {
                    x = conv.forward(&x, mode, Relu)?;
                }
                fc.forward(&flat(&x)?, Relu)
            }
        }
    }
}
