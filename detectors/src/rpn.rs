//! Region proposal network (Ren et al. 2015, arXiv 1506.01497), as in torchvision.

mod samples;

use ckd_kernels::Value;
use ckd_kernels::boxes::{AnchorGrid, AnchorOutputs, Proposals, proposals};
use ckd_kernels::elementwise::rows;
use ckd_kernels::graph::untracked;
use ckd_kernels::linear::Activation::{Identity, Relu};
use ckd_settings::{Check, section};
use rand::Rng;

use self::samples::{Cells, Samples};

use crate::Result;
use crate::anchors::AnchorGenerator;
use crate::box_coder::BoxCoder;
use crate::boxes::Xyxy;
use crate::dense::{anchors_per_cell, by_level, flat, per_anchor, segments};
use crate::images::{Images, Target};
use crate::init::Init;
use crate::matcher::{self, Matcher};
use crate::nn::{Conv2d, MOST_HEAD_CONVS};
use crate::param::Builder;
use crate::proposals::ProposalFilter;

section! {
    /// The region proposal network of Faster R-CNN.
    pub struct RpnConfig {
        /// Highest-scoring anchors kept per level before NMS, in training.
        pub pre_nms_top_n_train: usize = 2000,
        /// Highest-scoring anchors kept per level before NMS, at inference.
        pub pre_nms_top_n_test: usize = 1000,
        /// Proposals kept per image after NMS, in training.
        pub post_nms_top_n_train: usize = 2000,
        /// Proposals kept per image after NMS, at inference.
        pub post_nms_top_n_test: usize = 1000,
        /// IoU of two proposals above which NMS drops the lower-scoring.
        pub nms_threshold: f64 = 0.7,
        /// An anchor with at least this IoU is an object.
        pub fg_iou: f64 = 0.7,
        /// An anchor with less than this IoU is background; between the two it is ignored.
        pub bg_iou: f64 = 0.3,
        /// Anchors per image that the loss is taken over.
        pub batch_per_image: usize = 256,
        /// The largest part of them that may be objects.
        pub positive_fraction: f64 = 0.5,
        /// Proposals with a shorter side, in pixels, are dropped.
        pub min_size: f64 = 1e-3,
        /// Proposals with a lower objectness (after the sigmoid) are dropped.
        pub score_threshold: f64 = 0.0,
        /// 3x3 convolutions before the outputs. torchvision's `_fpn_v2`: 2.
        pub head_convs: usize = 1,
        /// Smooth L1's beta: differences of deltas below it count squared; 0: L1, as in Detectron2.
        pub smooth_l1_beta: f64 = 1.0 / 9.0,
    }
}

impl RpnConfig {
    fn check(&self, check: &mut Check<'_>) {
        for (key, count) in [
            ("pre_nms_top_n_train", self.pre_nms_top_n_train),
            ("pre_nms_top_n_test", self.pre_nms_top_n_test),
            ("post_nms_top_n_train", self.post_nms_top_n_train),
            ("post_nms_top_n_test", self.post_nms_top_n_test),
            ("batch_per_image", self.batch_per_image),
            ("head_convs", self.head_convs),
        ] {
            check.at_least_one(key, count);
        }
        check.at_most("head_convs", self.head_convs, MOST_HEAD_CONVS);
        matcher::check_ious(check, self.fg_iou, self.bg_iou);
        check.fraction("nms_threshold", self.nms_threshold);
        check.fraction("positive_fraction", self.positive_fraction);
        check.fraction("score_threshold", self.score_threshold);
        check.not_negative("min_size", self.min_size);
        check.not_negative("smooth_l1_beta", self.smooth_l1_beta);
        // Boxes are f32.
        check.that(
            (self.min_size as f32).is_finite(),
            "min_size",
            format!("is {:e}, more than any side", self.min_size),
            "give a side in pixels",
        );
    }

    /// Selection of proposals in training.
    pub fn in_training(&self) -> ProposalFilter {
        self.filter(self.pre_nms_top_n_train, self.post_nms_top_n_train)
    }

    /// Selection of proposals at inference.
    pub fn at_inference(&self) -> ProposalFilter {
        self.filter(self.pre_nms_top_n_test, self.post_nms_top_n_test)
    }

    fn filter(&self, pre_nms_top_n: usize, post_nms_top_n: usize) -> ProposalFilter {
        let &Self { nms_threshold, score_threshold, min_size, .. } = self;
        ProposalFilter { pre_nms_top_n, post_nms_top_n, nms_threshold, score_threshold, min_size }
    }
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

/// Outputs of the head for every anchor, (N·A) by image, level, row, column, anchor.
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
    /// The anchors of each level as a grid.
    pub grids: Vec<AnchorGrid>,
}

/// The anchors of an image, and where they lie.
struct Grid {
    anchors: Vec<Xyxy>,
    /// (h, w) of the levels.
    sizes: Vec<(usize, usize)>,
    per_level: Vec<usize>,
    grids: Vec<AnchorGrid>,
}

const CODER: BoxCoder = BoxCoder::ANCHORS;

impl Rpn {
    /// The head called `head` in `builder`'s layer, over maps of `channels` channels.
    pub fn new(
        builder: &Builder,
        channels: usize,
        anchors: AnchorGenerator,
        config: &RpnConfig,
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
            config: config.clone(),
        })
    }

    /// Runs the head on every level.
    ///
    /// # Errors
    /// If the levels are not those of `images`, or not as many as the anchors have.
    pub fn forward(&self, images: &Images, levels: &[Value]) -> Result<RpnOutput> {
        let grid = self.grid(images, levels)?;
        self.everywhere(levels, grid)
    }

    fn grid(&self, images: &Images, levels: &[Value]) -> Result<Grid> {
        images.check_pyramid(levels)?;
        let sizes: Vec<_> = levels.iter().map(|level| (level.dims()[2], level.dims()[3])).collect();
        let anchors = self.anchors.generate(images.padded_size()?, &sizes)?;
        let grids = self.anchors.grids(images.padded_size()?, &sizes)?;
        let per_cell = anchors_per_cell(&self.anchors)?;
        let per_level = sizes.iter().map(|(h, w)| h * w * per_cell).collect();
        Ok(Grid { anchors, sizes, per_level, grids })
    }

    fn everywhere(&self, levels: &[Value], grid: Grid) -> Result<RpnOutput> {
        let mut objectness = Vec::with_capacity(levels.len());
        let mut deltas = Vec::with_capacity(levels.len());
        for level in levels {
            let mut hidden = level.clone();
            for conv in &self.hidden {
                hidden = conv.forward(&hidden, Relu)?;
            }
            objectness.push(per_anchor(&self.objectness.forward(&hidden, Identity)?, 1)?);
            deltas.push(per_anchor(&self.deltas.forward(&hidden, Identity)?, 4)?);
        }
        Ok(RpnOutput {
            objectness: flat(&objectness)?,
            deltas: flat(&deltas)?,
            anchors: grid.anchors,
            per_level: grid.per_level,
            grids: grid.grids,
        })
    }

    /// The regions worth a second look, per image, best first.
    pub fn proposals(
        &self,
        output: &RpnOutput,
        images: &Images,
        selection: &ProposalFilter,
    ) -> Result<Vec<Vec<Xyxy>>> {
        let segments = segments(&output.per_level, images.sizes.len());
        let (values, rows, sizes) = (output.objectness.tensor(), output.deltas.tensor(), &images.sizes);
        let outputs = AnchorOutputs { values, rows, segments: &segments, grids: &output.grids, sizes };
        let best = match proposals(outputs, selection.rules())? {
            Proposals::Boxes(boxes) => return Ok(boxes),
            Proposals::Anchors(best) => best,
        };
        best.chunks_exact(output.per_level.len().max(1))
            .zip(sizes)
            .map(|(best, &size)| {
                let best = by_level(best, &output.anchors, &output.per_level);
                Ok(selection.among(best, size)?.boxes)
            })
            .collect()
    }

    /// Settings of the proposal network.
    pub fn config(&self) -> &RpnConfig {
        &self.config
    }

    /// The losses `loss_objectness` and `loss_rpn_box_reg`, and what the head says of every anchor, without a gradient
    /// where the losses do not need it.
    pub fn train(
        &self,
        images: &Images,
        levels: &[Value],
        targets: &[Target],
        random: &mut impl Rng,
    ) -> Result<([(&'static str, Value); 2], RpnOutput)> {
        let grid = self.grid(images, levels)?;
        let samples = Samples::draw((&self.matcher, &self.config), &grid.anchors, targets, random)?;
        let cells = Cells::of(&samples.anchors, &grid, anchors_per_cell(&self.anchors)?);
        let beta = self.config.smooth_l1_beta;
        // With a second 3x3 convolution, a window would have to end where the map does.
        if self.hidden.len() == 1 && cells.are_few(&grid, images.sizes.len()) {
            let output = untracked(|| self.everywhere(levels, grid))?;
            let (objectness, deltas) = self.at(&cells, levels)?;
            return Ok((samples.losses(&objectness, &deltas, beta)?, output));
        }
        let output = self.everywhere(levels, grid)?;
        let objectness = rows(&output.objectness, &samples.anchors)?;
        let deltas = rows(&output.deltas, &samples.anchors)?;
        Ok((samples.losses(&objectness, &deltas, beta)?, output))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use ckd_kernels::elementwise::weighted_sum;
    use ckd_kernels::graph::Gradients;

    use super::*;

    /// Sampled cells at corners, edges and side by side, two of one cell, in two images and on two of three levels.
    #[test]
    fn the_head_at_few_cells_has_the_losses_and_gradients_of_whole_maps() {
        let (width, images) = (6, 2);
        let sizes = vec![(9, 7), (5, 4), (1, 1)];
        let boxes = |count| vec![[0.0, 0.0, 8.0, 8.0]; count];
        let per_level: Vec<usize> = sizes.iter().map(|(h, w)| h * w * 3).collect();
        let count: usize = per_level.iter().sum();
        let grid = || Grid {
            anchors: boxes(count),
            sizes: sizes.clone(),
            per_level: per_level.clone(),
            grids: Vec::new(),
        };
        let builder = Builder::new(3, &Device::Cpu);
        let rpn = Rpn::new(&builder, width, three_anchors(), &config()).expect("a head");
        let levels: Vec<Value> =
            (0..).zip(&sizes).map(|(level, &size)| map(level, (images, width), size)).collect();
        let anchors: Vec<u32> = [0, 1, 20, 100, 188, 189, 200, 248, count, count + 4, 2 * count - 4]
            .map(|anchor| anchor as u32)
            .to_vec();
        let cells = Cells::of(&anchors, &grid(), 3);
        assert!(cells.are_few(&grid(), images));

        let few = rpn.at(&cells, &levels).expect("windows");
        let all = rpn.everywhere(&levels, grid()).expect("maps");
        let all = [&all.objectness, &all.deltas].map(|all| rows(all, &anchors).expect("rows"));
        let (few, all) = (gradients(&few.0, &few.1), gradients(&all[0], &all[1]));
        assert_eq!(few.keys().collect::<Vec<_>>(), all.keys().collect::<Vec<_>>());
        for (name, gradient) in &all {
            let [few, all] = [&few[name], gradient].map(numbers);
            let largest = all.iter().fold(0f32, |largest, value| largest.max(value.abs()));
            assert!(largest > 1e-4, "{name}");
            for (few, all) in few.iter().zip(&all) {
                assert!((few - all).abs() <= 1e-5 * largest, "{name}: {few} {all}");
            }
        }
    }

    /// Gradients of a sum that tells all numbers apart, and the numbers themselves.
    fn gradients(objectness: &Value, deltas: &Value) -> Gradients {
        let apart = |value: &Value| {
            let weights: Vec<f32> = (0..value.tensor().elem_count()).map(|i| 1.0 + (i % 7) as f32).collect();
            let weights = Tensor::from_vec(weights, value.dims(), &Device::Cpu).expect("weights");
            Value::from_candle(&[value], |t| (&t[0] * &weights)?.sum_all()).expect("a sum")
        };
        let sum = weighted_sum(&[(&apart(objectness), 1.0), (&apart(deltas), 0.5)]).expect("a sum");
        let mut gradients = sum.backward().expect("a walk back");
        gradients.insert("objectness".into(), objectness.tensor().clone());
        gradients.insert("deltas".into(), deltas.tensor().clone());
        gradients
    }

    fn numbers(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().and_then(|flat| flat.to_vec1()).expect("numbers")
    }

    fn map(level: usize, (n, c): (usize, usize), (h, w): (usize, usize)) -> Value {
        let wave = |i: usize| ((i * 37 + level * 11) % 101) as f32 / 50.0 - 1.0;
        let values: Vec<f32> = (0..n * c * h * w).map(wave).collect();
        // The smallest level is not sampled: it has no gradient either way.
        let tensor = Tensor::from_vec(values, (n, c, h, w), &Device::Cpu).expect("a map");
        match h {
            1 => Value::constant(tensor),
            _ => Value::leaf(format!("level{level}"), tensor),
        }
    }

    fn three_anchors() -> AnchorGenerator {
        AnchorGenerator::new(&[vec![8.0], vec![16.0], vec![32.0]], &[0.5, 1.0, 2.0]).expect("anchors")
    }

    fn config() -> RpnConfig {
        RpnConfig {
            pre_nms_top_n_train: 10,
            pre_nms_top_n_test: 10,
            post_nms_top_n_train: 10,
            post_nms_top_n_test: 10,
            batch_per_image: 16,
            ..RpnConfig::default()
        }
    }
}
