//! Region proposal network (Ren et al. 2015, arXiv 1506.01497), as in torchvision.

use ckd_kernels::Value;
use ckd_kernels::elementwise::{concatenate, permute, reshape, rows};
use ckd_kernels::linear::Activation::{Identity, Relu};
use ckd_kernels::losses::{bce_with_logits, smooth_l1};
use rand::Rng;

use crate::anchors::AnchorGenerator;
use crate::box_coder::BoxCoder;
use crate::boxes::Xyxy;
use crate::images::{Images, Target};
use crate::init::Init;
use crate::matcher::{Match, Matcher};
use crate::nn::Conv2d;
use crate::param::Builder;
use crate::proposals::ProposalFilter;
use crate::sampler::{SampleSize, sample};
use crate::{Error, Result};

/// Settings of the proposal network; torchvision's defaults.
#[derive(Debug, Clone, Copy)]
pub struct RpnConfig {
    /// Selection in training.
    pub train: ProposalFilter,
    /// Selection in inference.
    pub inference: ProposalFilter,
    /// Anchors with at least this IoU are positive.
    pub fg_iou: f64,
    /// Anchors with a smaller IoU are negative.
    pub bg_iou: f64,
    /// How many anchors the loss sees.
    pub sample: SampleSize,
    /// Hidden 3x3 convolutions of the head: 1, or 2 in torchvision's `fasterrcnn_resnet50_fpn_v2`.
    pub head_convs: usize,
}

/// The proposal head and the geometry around it.
#[derive(Debug)]
pub struct Rpn {
    hidden: Vec<Conv2d>,
    objectness: Conv2d,
    deltas: Conv2d,
    anchors: AnchorGenerator,
    matcher: Matcher,
    config: RpnConfig,
}

/// What the head says of every anchor, (N·A) in the order of the images, levels, rows, columns, anchors.
#[derive(Debug)]
pub struct RpnOutput {
    /// Logits (N·A, 1).
    pub objectness: Value,
    /// Box deltas (N·A, 4).
    pub deltas: Value,
    /// The anchors of one image (A).
    pub anchors: Vec<Xyxy>,
    /// Number of anchors on each level.
    pub per_level: Vec<usize>,
}

const CODER: BoxCoder = BoxCoder::ANCHORS;

impl Rpn {
    /// The head called `head` in `builder`'s layer, over maps of `channels` channels.
    pub fn new(
        builder: &Builder,
        channels: usize,
        anchors: AnchorGenerator,
        config: RpnConfig,
    ) -> Result<Self> {
        let head = builder.within("head");
        let conv = |name: &str, outputs, kernel| {
            Conv2d::new(
                &head.within(name),
                (channels, outputs, kernel, 1),
                Init::Normal(0.01),
                Init::Constant(0.0),
            )
        };
        let per_cell = anchors_per_cell(&anchors)?;
        Ok(Self {
            hidden: (0..config.head_convs)
                .map(|i| conv(&format!("conv.{i}.0"), channels, 3))
                .collect::<Result<_>>()?,
            objectness: conv("cls_logits", per_cell, 1)?,
            deltas: conv("bbox_pred", 4 * per_cell, 1)?,
            matcher: Matcher::new(config.fg_iou, config.bg_iou)?.with_low_quality_matches(),
            anchors,
            config,
        })
    }

    /// Runs the head on every level.
    ///
    /// # Errors
    /// If the levels are not those of `images`, or not as many as the anchors have.
    pub fn forward(&self, images: &Images, levels: &[Value]) -> Result<RpnOutput> {
        images.check_pyramid(levels)?;
        let mut objectness = Vec::with_capacity(levels.len());
        let mut deltas = Vec::with_capacity(levels.len());
        let mut sizes = Vec::with_capacity(levels.len());
        for level in levels {
            let mut hidden = level.clone();
            for conv in &self.hidden {
                hidden = conv.forward(&hidden, Relu)?;
            }
            objectness.push(per_anchor(&self.objectness.forward(&hidden, Identity)?, 1)?);
            deltas.push(per_anchor(&self.deltas.forward(&hidden, Identity)?, 4)?);
            sizes.push((level.dims()[2], level.dims()[3]));
        }
        let per_level = objectness.iter().map(|level| level.dims()[1]).collect();
        let flat = |levels: &[Value], width| -> Result<Value> {
            let all = concatenate(levels, 1)?;
            let count = all.dims()[0] * all.dims()[1];
            Ok(reshape(&all, &[count, width])?)
        };
        Ok(RpnOutput {
            objectness: flat(&objectness, 1)?,
            deltas: flat(&deltas, 4)?,
            anchors: self.anchors.generate(images.padded_size()?, &sizes)?,
            per_level,
        })
    }

    /// The regions worth a second look, per image, best first.
    pub fn proposals(
        &self,
        output: &RpnOutput,
        images: &Images,
        selection: &ProposalFilter,
    ) -> Result<Vec<Vec<Xyxy>>> {
        let count = output.anchors.len();
        let objectness = output.objectness.tensor().flatten_all()?.to_vec1::<f32>()?;
        let deltas = output.deltas.tensor().flatten_all()?.to_vec1::<f32>()?;
        images
            .sizes
            .iter()
            .enumerate()
            .map(|(image, &size)| {
                let logits = &objectness[image * count..][..count];
                let deltas = &deltas[4 * image * count..][..4 * count];
                Ok(selection.propose(logits, deltas, &output.anchors, &output.per_level, size)?.boxes)
            })
            .collect()
    }

    /// Selection settings in training.
    pub fn config(&self) -> &RpnConfig {
        &self.config
    }

    /// The losses `loss_objectness` and `loss_rpn_box_reg`.
    pub fn losses(
        &self,
        output: &RpnOutput,
        targets: &[Target],
        random: &mut impl Rng,
    ) -> Result<[(&'static str, Value); 2]> {
        let count = output.anchors.len();
        let (mut sampled, mut labels) = (Vec::new(), Vec::new());
        let (mut positives, mut regression) = (Vec::new(), Vec::new());
        for (image, target) in targets.iter().enumerate() {
            let matches = self.matcher.match_boxes(&target.boxes, &target.ignored, &output.anchors);
            let SampleSize { per_image, positive_fraction } = self.config.sample;
            let chosen = sample(&matches, per_image, positive_fraction, random)?;
            let flat = |anchor: usize| (image * count + anchor) as u32;
            for anchor in chosen.positives {
                let Match::Gt(truth) = matches[anchor] else { continue };
                sampled.push(flat(anchor));
                labels.push(1.0);
                positives.push(flat(anchor));
                regression.push(CODER.encode(&target.boxes[truth as usize], &output.anchors[anchor]));
            }
            for anchor in chosen.negatives {
                sampled.push(flat(anchor));
                labels.push(0.0);
            }
        }
        let divisor = sampled.len().max(1) as f64;
        let objectness = bce_with_logits(&rows(&output.objectness, &sampled)?, &labels, divisor)?;
        let boxes = smooth_l1(&rows(&output.deltas, &positives)?, &regression, 1.0 / 9.0, divisor)?;
        Ok([("loss_objectness", objectness), ("loss_rpn_box_reg", boxes)])
    }
}

/// Anchors at each cell: one number for all levels, since they share a head.
pub(crate) fn anchors_per_cell(anchors: &AnchorGenerator) -> Result<usize> {
    match anchors.per_location().as_slice() {
        [first, rest @ ..] if rest.iter().all(|count| count == first) => Ok(*first),
        counts => Err(Error::Invalid {
            part: "anchors",
            reason: format!(
                "levels that share a head need equally many sizes each; anchors per cell: {counts:?}"
            ),
        }),
    }
}

/// A head's map as one row per anchor.
///
/// # Shapes
/// (N, A·width, H, W) to (N, H·W·A, width); no element moves in channels-last memory.
pub(crate) fn per_anchor(map: &Value, width: usize) -> Result<Value> {
    let (n, channels, h, w) = map.tensor().dims4()?;
    Ok(reshape(&permute(map, &[0, 2, 3, 1])?, &[n, h * w * (channels / width), width])?)
}
