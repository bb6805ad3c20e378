//! The second stage of Faster R-CNN (Girshick 2015, Lin et al. 2017), as in torchvision: each proposal's
//! features are pooled from one pyramid level, classified, and its box refined per class.

use ckd_kernels::Value;
use ckd_kernels::elementwise::{reshape, rows};
use ckd_kernels::linear::Activation::{Identity, Relu};
use ckd_kernels::losses::{smooth_l1, softmax_cross_entropy};
use ckd_kernels::roi_align::{Alignment, Sampling, multi_level_roi_align};
use rand::Rng;

use crate::box_coder::BoxCoder;
use crate::boxes::Xyxy;
use crate::images::{Images, Target};
use crate::init::Init;
use crate::level_mapper::LevelMapper;
use crate::matcher::{Match, Matcher};
use crate::nn::{ConvBlock, HeadNorm, Linear, Mode};
use crate::param::Builder;
use crate::postprocess::{Detections, RoiPostprocess};
use crate::sampler::{SampleSize, sample};
use crate::{Error, Result};

/// Settings of the box head; torchvision's defaults.
#[derive(Debug, Clone, Copy)]
pub struct RoiConfig {
    /// Proposals with at least this IoU are positive.
    pub fg_iou: f64,
    /// Proposals with a smaller IoU are background.
    pub bg_iou: f64,
    /// How many proposals the loss sees.
    pub sample: SampleSize,
    /// Side of the pooled map.
    pub pool_size: usize,
    /// Sampling points per bin.
    pub sampling: Sampling,
    /// Pixel convention of the pooling.
    pub alignment: Alignment,
    /// The layers between a pooled region and its class.
    pub head: BoxHead,
    /// Width of the fully connected hidden layers.
    pub hidden: usize,
    /// From logits to detections.
    pub postprocess: RoiPostprocess,
}

/// Which layers follow the pooling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoxHead {
    /// Two fully connected ones (Lin et al. 2017a): torchvision's `TwoMLPHead`.
    TwoFc,
    /// Four 3x3 convolutions as wide as the pyramid, each with this norm, and a fully connected one (Wu and He
    /// 2018): torchvision's `FastRCNNConvFCHead`, as `fasterrcnn_resnet50_fpn_v2` has it.
    FourConvFc(HeadNorm),
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
}

/// The box head with its predictors.
#[derive(Debug)]
pub struct RoiHeads {
    hidden: Hidden,
    score: Linear,
    deltas: Linear,
    classes: usize,
    matcher: Matcher,
    config: RoiConfig,
}

#[derive(Debug)]
enum Hidden {
    TwoFc { fc6: Linear, fc7: Linear },
    FourConvFc { convs: Vec<ConvBlock>, fc: Linear },
}

/// One row per region.
#[derive(Debug)]
pub struct RoiOutput {
    /// Class logits (R, K + 1), background first.
    pub logits: Value,
    /// Box deltas (R, 4 (K + 1)).
    pub deltas: Value,
}

const CODER: BoxCoder = BoxCoder::PROPOSALS;

impl RoiHeads {
    /// `box_head` and `box_predictor` in `builder`'s layer, for `classes` foreground classes.
    ///
    /// # Errors
    /// If there is no class, or a size is 0.
    pub fn new(builder: &Builder, channels: usize, classes: usize, config: RoiConfig) -> Result<Self> {
        let sizes = [("classes", classes), ("pool_size", config.pool_size), ("hidden", config.hidden)];
        Error::unless_positive("box head", &sizes)?;
        let predictor = builder.within("box_predictor");
        Ok(Self {
            hidden: Hidden::new(&builder.within("box_head"), channels, &config)?,
            score: Linear::new(&predictor.within("cls_score"), config.hidden, classes + 1)?,
            deltas: Linear::new(&predictor.within("bbox_pred"), config.hidden, 4 * (classes + 1))?,
            classes,
            matcher: Matcher::new(config.fg_iou, config.bg_iou)?,
            config,
        })
    }

    /// Logits and deltas of `boxes` (per image), pooled from the levels P2 to P5.
    pub fn forward(&self, levels: &[Value], boxes: &[Vec<Xyxy>], mode: Mode) -> Result<RoiOutput> {
        let mut rois = Vec::with_capacity(boxes.iter().map(Vec::len).sum());
        let mut level_of = Vec::with_capacity(rois.capacity());
        for (image, boxes) in boxes.iter().enumerate() {
            for b in boxes {
                rois.push([image as f32, b[0], b[1], b[2], b[3]]);
                level_of.push(LevelMapper::P2_TO_P5.level(b));
            }
        }
        let levels: Vec<&Value> = levels.iter().take(4).collect();
        let scales = [1.0 / 4.0, 1.0 / 8.0, 1.0 / 16.0, 1.0 / 32.0];
        let size = self.config.pool_size;
        let pooled = multi_level_roi_align(
            &levels,
            &scales[..levels.len()],
            &rois,
            &level_of,
            (size, size),
            self.config.sampling,
            self.config.alignment,
        )?;
        let hidden = self.hidden.forward(&pooled, mode)?;
        Ok(RoiOutput {
            logits: self.score.forward(&hidden, Identity)?,
            deltas: self.deltas.forward(&hidden, Identity)?,
        })
    }

    /// Chooses, among the proposals and the true boxes themselves, the regions to learn from.
    pub fn sample(
        &self,
        proposals: Vec<Vec<Xyxy>>,
        targets: &[Target],
        random: &mut impl Rng,
    ) -> Result<RoiSamples> {
        let SampleSize { per_image, positive_fraction } = self.config.sample;
        let mut samples = RoiSamples { boxes: Vec::new(), labels: Vec::new(), positives: Vec::new() };
        for (mut candidates, target) in proposals.into_iter().zip(targets) {
            candidates.extend_from_slice(&target.boxes);
            let matches = self.matcher.match_boxes(&target.boxes, &target.ignored, &candidates);
            let drawn = sample(&matches, per_image, positive_fraction, random)?;
            let mut chosen = [drawn.positives, drawn.negatives].concat();
            chosen.sort_unstable();
            let mut boxes = Vec::with_capacity(chosen.len());
            for index in chosen {
                let candidate = candidates[index];
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
        let classifier = softmax_cross_entropy(&output.logits, &samples.labels, divisor)?;
        let columns = self.classes + 1;
        let per_class = reshape(&output.deltas, &[samples.labels.len() * columns, 4])?;
        let (chosen, regression): (Vec<u32>, Vec<[f32; 4]>) = samples
            .positives
            .iter()
            .map(|&(row, deltas)| (row * columns as u32 + samples.labels[row as usize], deltas))
            .unzip();
        let boxes = smooth_l1(&rows(&per_class, &chosen)?, &regression, 1.0 / 9.0, divisor)?;
        Ok([("loss_classifier", classifier), ("loss_box_reg", boxes)])
    }

    /// Detections per image among `boxes`.
    pub fn detections(
        &self,
        output: &RoiOutput,
        boxes: &[Vec<Xyxy>],
        images: &Images,
    ) -> Result<Vec<Detections>> {
        let columns = self.classes + 1;
        let logits = output.logits.tensor().flatten_all()?.to_vec1::<f32>()?;
        let deltas = output.deltas.tensor().flatten_all()?.to_vec1::<f32>()?;
        let mut first = 0;
        boxes
            .iter()
            .zip(&images.sizes)
            .map(|(boxes, &size)| {
                let (rows, from) = (boxes.len(), first);
                first += rows;
                let logits = &logits[from * columns..][..rows * columns];
                let deltas = &deltas[4 * from * columns..][..4 * rows * columns];
                Ok(self.config.postprocess.detect(logits, deltas, boxes, &CODER, size)?)
            })
            .collect()
    }
}

impl Hidden {
    fn new(builder: &Builder, channels: usize, config: &RoiConfig) -> Result<Self> {
        let pooled = channels * config.pool_size * config.pool_size;
        Ok(match config.head {
            BoxHead::TwoFc => Self::TwoFc {
                fc6: Linear::new(&builder.within("fc6"), pooled, config.hidden)?,
                fc7: Linear::new(&builder.within("fc7"), config.hidden, config.hidden)?,
            },
            BoxHead::FourConvFc(norm) => Self::FourConvFc {
                convs: (0..4)
                    .map(|i| {
                        let shape = (channels, channels, 3, 1);
                        ConvBlock::new(&builder.within(i), shape, Init::KaimingNormalFanOut, norm)
                    })
                    .collect::<Result<_>>()?,
                // Layer 4 flattens.
                fc: Linear::new(&builder.within(5), pooled, config.hidden)?,
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
