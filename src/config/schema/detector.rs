//! The detector: anchors, matching, sampling and what is kept at inference.

use ckd_settings::{Check, choices, section};

use crate::distill::{MapsAt, Offer, RowsAt};

choices! {
    /// A family of detectors.
    pub enum Architecture {
        /// Two stages over an FPN with levels p2 to p6 (Ren et al. 2015, Lin et al. 2017a).
        FasterRcnn = "faster_rcnn",
        /// One stage over an FPN with levels p3 to p7 (Lin et al. 2017b).
        RetinaNet = "retinanet",
    }
}

impl Architecture {
    /// The levels of its feature pyramid, finest first.
    pub fn levels(self) -> &'static [&'static str] {
        match self {
            Self::FasterRcnn => &["p2", "p3", "p4", "p5", "p6"],
            Self::RetinaNet => &["p3", "p4", "p5", "p6", "p7"],
        }
    }
}

choices! {
    /// The normalisation layers of a pyramid or a head: each follows a convolution, which then has no bias.
    pub enum HeadNorm {
        /// None: convolutions with a bias.
        None = "none",
        /// Batch norm whose statistics and parameters stay as loaded.
        FrozenBn = "frozen_bn",
        /// Batch norm that trains.
        Bn = "bn",
        /// Group norm of 32 groups.
        Gn = "gn",
    }
}

choices! {
    /// How anchors lie on the image.
    pub enum AnchorCorners {
        /// torchvision's: corners in whole pixels, RetinaNet's default sizes too; a level's stride is the
        /// padded image's size over the map's, rounded down.
        Rounded = "rounded",
        /// Detectron2's and MMDetection's: sizes and corners as they come out; a level's stride is 4, 8, 16, ...
        Exact = "exact",
    }
}

section! {
    /// The kind of detector, shared by teacher and student.
    pub struct Detector {
        /// The family.
        pub architecture: Architecture,
        /// Channels of every FPN level; a network may override it.
        pub fpn_channels: usize = 256,
        /// Anchor sizes (square root of the area) in pixels, one array a level. Default: torchvision's,
        /// 32 to 512 for Faster R-CNN, 32 to 813 in three octave steps a level for RetinaNet.
        pub anchor_sizes: Option<Vec<Vec<f32>>>,
        /// How anchors lie on the image.
        pub anchor_corners: AnchorCorners = AnchorCorners::Rounded,
        /// Anchor height over width.
        pub aspect_ratios: Vec<f32> = vec![0.5, 1.0, 2.0],
        /// The region proposal network (Faster R-CNN).
        pub rpn: Rpn = Rpn::default(),
        /// The box head (Faster R-CNN).
        pub roi: Roi = Roi::default(),
        /// The dense head (RetinaNet).
        pub retina: Retina = Retina::default(),
    }
}

impl Detector {
    /// Rows and maps that a pair of such detectors offers to methods of distillation.
    pub fn offer(&self) -> Offer {
        let rows = match self.architecture {
            Architecture::FasterRcnn => RowsAt::RoiLogits,
            Architecture::RetinaNet => RowsAt::AnchorLogits,
        };
        let levels = self.architecture.levels().to_vec();
        Offer { networks: self.architecture.to_string(), rows: vec![rows], maps: MapsAt::Fpn, levels }
    }

    fn check(&self, check: &mut Check<'_>) {
        check.at_least_one("fpn_channels", self.fpn_channels);
        if let Some(sizes) = &self.anchor_sizes {
            let levels = self.architecture.levels();
            check.that(
                sizes.len() == levels.len(),
                "anchor_sizes",
                format!("has {} levels, {} has {}", sizes.len(), self.architecture, levels.len()),
                format!("give one array for each of {}", levels.join(", ")),
            );
            let even = sizes.iter().all(|level| !level.is_empty() && level.len() == sizes[0].len());
            check.that(
                even,
                "anchor_sizes",
                "differs in the number of sizes between levels",
                "one head serves all levels: give every level as many sizes",
            );
            let positive = sizes.iter().flatten().all(|size| *size > 0.0);
            check.that(positive, "anchor_sizes", "has a size of 0 or less", "sizes are in pixels");
        }
        let ratios = &self.aspect_ratios;
        check.that(
            !ratios.is_empty() && ratios.iter().all(|ratio| *ratio > 0.0),
            "aspect_ratios",
            "needs at least one number, all above 0",
            "torchvision's are [0.5, 1.0, 2.0]",
        );
    }
}

section! {
    /// The region proposal network of Faster R-CNN.
    pub struct Rpn {
        /// Highest-scoring anchors kept per level before NMS, in training.
        pub pre_nms_top_n_train: usize = 2000,
        /// The same at inference.
        pub pre_nms_top_n_test: usize = 1000,
        /// Proposals kept per image after NMS, in training.
        pub post_nms_top_n_train: usize = 2000,
        /// The same at inference.
        pub post_nms_top_n_test: usize = 1000,
        /// Of two proposals that overlap by more than this IoU the lower-scoring goes.
        pub nms_threshold: f32 = 0.7,
        /// An anchor with at least this IoU is an object.
        pub fg_iou: f32 = 0.7,
        /// An anchor with less than this IoU is background; between the two it is ignored.
        pub bg_iou: f32 = 0.3,
        /// Anchors per image that the loss is taken over.
        pub batch_per_image: usize = 256,
        /// The largest part of them that may be objects.
        pub positive_fraction: f32 = 0.5,
        /// Proposals with a shorter side, in pixels, are dropped.
        pub min_size: f32 = 1e-3,
        /// Proposals with a lower objectness (after the sigmoid) are dropped.
        pub score_threshold: f32 = 0.0,
        /// 3x3 convolutions before the outputs. torchvision's `_fpn_v2`: 2.
        pub head_convs: usize = 1,
    }
}

impl Rpn {
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
        iou_pair(check, self.fg_iou, self.bg_iou);
        check.fraction("nms_threshold", self.nms_threshold.into());
        check.fraction("positive_fraction", self.positive_fraction.into());
        check.fraction("score_threshold", self.score_threshold.into());
        check.not_negative("min_size", self.min_size.into());
    }
}

choices! {
    /// The layers between a pooled region and its class.
    pub enum RoiHead {
        /// Two fully connected layers.
        TwoFc = "two_fc",
        /// Four 3x3 convolutions as wide as the FPN, each with roi.head_norm, and one fully connected layer:
        /// torchvision's `_fpn_v2`.
        FourConvFc = "four_conv_fc",
    }
}

choices! {
    /// Where RoIAlign takes its samples.
    pub enum RoiAlign {
        /// Without the half-pixel shift: torchvision's detectors.
        Legacy = "legacy",
        /// With the half-pixel shift: Detectron2's `ROIAlignV2`.
        Aligned = "aligned",
    }
}

section! {
    /// The box head of Faster R-CNN.
    pub struct Roi {
        /// Proposals per image that the loss is taken over.
        pub batch_per_image: usize = 512,
        /// The largest part of them that may be objects.
        pub positive_fraction: f32 = 0.25,
        /// A proposal with at least this IoU is an object.
        pub fg_iou: f32 = 0.5,
        /// A proposal with less than this IoU is background.
        pub bg_iou: f32 = 0.5,
        /// Detections that score lower are dropped.
        pub score_threshold: f32 = 0.05,
        /// Of two detections of one class that overlap by more than this IoU the lower-scoring goes.
        pub nms_threshold: f32 = 0.5,
        /// The most detections an image may have.
        pub detections_per_image: usize = 100,
        /// RoIAlign's output is this many cells high and wide.
        pub pool_size: usize = 7,
        /// RoIAlign's samples per cell and direction; 0 adapts it to the size of the RoI.
        pub sampling_ratio: usize = 2,
        /// Where RoIAlign takes its samples.
        pub align: RoiAlign = RoiAlign::Legacy,
        /// The layers between a pooled region and its class.
        pub head: RoiHead = RoiHead::TwoFc,
        /// The normalisation layers of head = "four_conv_fc".
        pub head_norm: HeadNorm = HeadNorm::Bn,
        /// Width of the fully connected layers; a network may override it.
        pub head_width: usize = 1024,
    }
}

impl Roi {
    fn check(&self, check: &mut Check<'_>) {
        for (key, count) in [
            ("batch_per_image", self.batch_per_image),
            ("detections_per_image", self.detections_per_image),
            ("pool_size", self.pool_size),
            ("head_width", self.head_width),
        ] {
            check.at_least_one(key, count);
        }
        iou_pair(check, self.fg_iou, self.bg_iou);
        check.fraction("nms_threshold", self.nms_threshold.into());
        check.fraction("positive_fraction", self.positive_fraction.into());
        check.fraction("score_threshold", self.score_threshold.into());
    }
}

choices! {
    /// What RetinaNet's level p6 is made of.
    pub enum P6From {
        /// The pyramid's level p5.
        P5 = "p5",
        /// The backbone's last map: torchvision's `_fpn_v2`, Detectron2's `res5`.
        C5 = "c5",
    }
}

choices! {
    /// How far a box is from the truth.
    pub enum BoxLoss {
        /// The absolute differences of the deltas.
        L1 = "l1",
        /// Generalised IoU of the boxes (Rezatofighi et al. 2019): torchvision's `_fpn_v2`.
        Giou = "giou",
    }
}

choices! {
    /// When detections are clipped to the image.
    pub enum Clip {
        /// As soon as they are decoded: torchvision.
        BeforeNms = "before_nms",
        /// Those that are left at the end: Detectron2.
        AfterNms = "after_nms",
    }
}

section! {
    /// The dense head of RetinaNet.
    pub struct Retina {
        /// An anchor with at least this IoU is an object.
        pub fg_iou: f32 = 0.5,
        /// An anchor with less than this IoU is background; between the two it is ignored.
        pub bg_iou: f32 = 0.4,
        /// Detections that score lower are dropped.
        pub score_threshold: f32 = 0.05,
        /// Of two detections of one class that overlap by more than this IoU the lower-scoring goes.
        pub nms_threshold: f32 = 0.5,
        /// The most detections an image may have.
        pub detections_per_image: usize = 300,
        /// Highest-scoring candidates kept per level before NMS.
        pub topk_candidates: usize = 1000,
        /// The focal loss's weight of objects against background.
        pub focal_alpha: f32 = 0.25,
        /// The focal loss's focus on hard examples.
        pub focal_gamma: f32 = 2.0,
        /// 3x3 convolutions before the output of each of the two heads.
        pub head_convs: usize = 4,
        /// The normalisation layers of these convolutions. torchvision's `_fpn_v2`: "gn".
        pub head_norm: HeadNorm = HeadNorm::None,
        /// What level p6 is made of.
        pub p6_from: P6From = P6From::P5,
        /// How far a box is from the truth.
        pub box_loss: BoxLoss = BoxLoss::L1,
        /// When detections are clipped to the image.
        pub clip: Clip = Clip::BeforeNms,
    }
}

impl Retina {
    fn check(&self, check: &mut Check<'_>) {
        check.at_least_one("detections_per_image", self.detections_per_image);
        check.at_least_one("topk_candidates", self.topk_candidates);
        iou_pair(check, self.fg_iou, self.bg_iou);
        check.fraction("nms_threshold", self.nms_threshold.into());
        check.fraction("score_threshold", self.score_threshold.into());
        check.fraction("focal_alpha", self.focal_alpha.into());
        check.not_negative("focal_gamma", self.focal_gamma.into());
    }
}

fn iou_pair(check: &mut Check<'_>, fg: f32, bg: f32) {
    check.fraction("fg_iou", fg.into());
    check.fraction("bg_iou", bg.into());
    let message = format!("is above fg_iou: {bg} > {fg}");
    check.that(bg <= fg, "bg_iou", message, "background must overlap less than objects do");
}
