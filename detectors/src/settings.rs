//! The table `[detector]` of a configuration: architecture, pyramid, anchors and heads.

use std::fmt::Display;

use ckd_settings::{Check, choices, section};

use crate::Result;
use crate::anchors::{AnchorCorners, AnchorGenerator};
use crate::backbone::Plan;
use crate::boxes::GeometryError;
use crate::fcos::FcosSettings;
use crate::nn::HeadNorm;
use crate::pyramid::Pyramid;
use crate::retinanet::RetinaSettings;
use crate::roi_heads::RoiConfig;
use crate::rpn::RpnConfig;
use crate::taps::Tap;

choices! {
    /// A family of detectors.
    pub enum Architecture {
        /// Two stages over an FPN with levels p2 to p6, or p5 to p7 on a mobilenet_v3_large (Ren et al. 2015,
        /// Lin et al. 2017a).
        FasterRcnn = "faster_rcnn",
        /// One-stage detector over an FPN with levels p3 to p7 (Lin et al. 2017b).
        RetinaNet = "retinanet",
        /// One-stage detector without anchors over an FPN with levels p3 to p7 (Tian et al. 2020).
        Fcos = "fcos",
    }
}

impl Architecture {
    /// Feature pyramid over the maps of a trunk.
    pub fn pyramid(self, trunk: &Plan) -> Pyramid {
        match self {
            Self::FasterRcnn => Pyramid::over(&trunk.pyramid_strides(), 1),
            Self::RetinaNet | Self::Fcos => Pyramid::over(trunk.strides().get(1..).unwrap_or_default(), 2),
        }
    }

    /// Tap of the class logits.
    pub fn logits(self) -> Tap {
        match self {
            Self::FasterRcnn => Tap::RoiLogits,
            Self::RetinaNet | Self::Fcos => Tap::AnchorLogits,
        }
    }
}

section! {
    /// The kind of detector, shared by teacher and student.
    pub struct DetectorSettings {
        /// The family.
        pub architecture: Architecture,
        /// Channels of every FPN level; a network may override it.
        pub fpn_channels: usize = 256,
        /// Anchor sizes (square root of the area) in pixels, one array a level. Default: torchvision's, 32 to
        /// 512 for Faster R-CNN (one a level; on a mobilenet_v3_large all five on each level), 32 to 813 in
        /// three octave steps a level for RetinaNet, the strides 8 to 128 for FCOS, whose points are the
        /// middles of square anchors.
        pub anchor_sizes: Option<Vec<Vec<f64>>>,
        /// Placement of anchors on the image.
        pub anchor_corners: AnchorCorners = AnchorCorners::Rounded,
        /// Anchor height over width (FCOS: always 1).
        pub aspect_ratios: Vec<f64> = vec![0.5, 1.0, 2.0],
        /// The region proposal network (Faster R-CNN).
        pub rpn: RpnConfig = RpnConfig::default(),
        /// The box head (Faster R-CNN).
        pub roi: RoiConfig = RoiConfig::default(),
        /// The dense head (RetinaNet).
        pub retina: RetinaSettings = RetinaSettings::default(),
        /// The dense head (FCOS).
        pub fcos: FcosSettings = FcosSettings::default(),
    }
}

impl DetectorSettings {
    fn check(&self, check: &mut Check<'_>) {
        check.at_least_one("fpn_channels", self.fpn_channels);
        if let Some(sizes) = &self.anchor_sizes {
            let even = sizes.iter().all(|level| !level.is_empty() && level.len() == sizes[0].len());
            check.that(
                even,
                "anchor_sizes",
                "differs in the number of sizes between levels",
                "one head serves all levels: give every level as many sizes",
            );
            check.that(
                self.architecture != Architecture::Fcos || sizes.iter().all(|level| level.len() == 1),
                "anchor_sizes",
                "must have one size a level for fcos",
                "FCOS has one point a cell; a size is the stride of its level, like [[8], [16], ...]",
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

    /// Checks that there are anchor sizes for each level of the pyramid over `trunk`.
    pub fn check_levels(&self, trunk: &Plan, check: &mut Check<'_>) {
        let Some(sizes) = &self.anchor_sizes else { return };
        let pyramid = self.architecture.pyramid(trunk);
        let levels: Vec<String> = pyramid.levels().iter().map(ToString::to_string).collect();
        check.that(
            sizes.len() == levels.len(),
            "anchor_sizes",
            format!("has {} levels, {} has {}", sizes.len(), self.architecture, levels.len()),
            format!("give one array for each of {}", levels.join(", ")),
        );
    }

    /// Anchors of a pyramid.
    ///
    /// # Errors
    /// Sizes or ratios that cannot be, or sizes of another number of levels.
    pub fn anchors(&self, pyramid: &Pyramid) -> Result<AnchorGenerator> {
        let (strides, sizes) = (pyramid.strides(), self.sizes_of_anchors(pyramid));
        let ratios: Vec<f32> = match self.architecture {
            Architecture::Fcos => vec![1.0],
            _ => self.aspect_ratios.iter().map(|&ratio| ratio as f32).collect(),
        };
        GeometryError::check_length("levels of the anchor sizes", strides.len(), sizes.len())?;
        Ok(match self.anchor_corners {
            AnchorCorners::Rounded => AnchorGenerator::new(&sizes, &ratios)?,
            AnchorCorners::Exact => AnchorGenerator::exact(&sizes, &ratios, strides)?,
        })
    }

    /// Sizes of the anchors of each level in pixels: those that are given, or the published ones.
    pub fn sizes_of_anchors(&self, pyramid: &Pyramid) -> Vec<Vec<f32>> {
        match &self.anchor_sizes {
            Some(sizes) => {
                sizes.iter().map(|level| level.iter().map(|&size| size as f32).collect()).collect()
            }
            None => (0..pyramid.strides().len()).map(|place| self.default_sizes(place, pyramid)).collect(),
        }
    }

    /// Keys of this table that weights depend on, with their values as TOML writes them: what a network of the
    /// architecture is made of, and how its boxes are meant. Norms are not among them, for tensors show them.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let word = |word: &dyn Display| format!("\"{word}\"");
        let sizes = self.anchor_sizes.as_ref();
        let mut facts = vec![
            ("architecture", word(&self.architecture)),
            ("anchor_sizes", sizes.map_or("the default".to_owned(), |sizes| format!("{sizes:?}"))),
            ("anchor_corners", word(&self.anchor_corners)),
        ];
        match self.architecture {
            Architecture::FasterRcnn => facts.extend([
                ("aspect_ratios", format!("{:?}", self.aspect_ratios)),
                ("rpn.head_convs", self.rpn.head_convs.to_string()),
                ("roi.head", word(&self.roi.head)),
                ("roi.pool_size", self.roi.pool_size.to_string()),
                ("roi.sampling_ratio", self.roi.sampling_ratio.to_string()),
                ("roi.align", word(&self.roi.align)),
            ]),
            Architecture::RetinaNet => facts.extend([
                ("aspect_ratios", format!("{:?}", self.aspect_ratios)),
                ("retina.head_convs", self.retina.head_convs.to_string()),
                ("retina.p6_from", word(&self.retina.p6_from)),
            ]),
            Architecture::Fcos => facts.extend([
                ("fcos.head_convs", self.fcos.head_convs.to_string()),
                ("fcos.p6_from", word(&self.fcos.p6_from)),
            ]),
        }
        facts
    }

    /// Norms of the heads of this architecture, by the keys that choose them.
    pub fn head_norms(&self) -> Vec<(&'static str, HeadNorm)> {
        match self.architecture {
            Architecture::FasterRcnn => vec![("roi.head_norm", self.roi.head_norm)],
            Architecture::RetinaNet => vec![("retina.head_norm", self.retina.head_norm)],
            Architecture::Fcos => Vec::new(),
        }
    }

    /// Number of anchors at each cell of a pyramid, which share a head.
    pub fn anchors_per_cell(&self, pyramid: &Pyramid) -> usize {
        let given = self.anchor_sizes.as_ref().and_then(|sizes| sizes.first()).map(Vec::len);
        let sizes = || given.unwrap_or_else(|| self.default_sizes(0, pyramid).len());
        match self.architecture {
            Architecture::FasterRcnn | Architecture::RetinaNet => sizes() * self.aspect_ratios.len(),
            Architecture::Fcos => 1,
        }
    }

    /// Published anchor sizes of the level at `place`, counted from the finest: RetinaNet's are three steps of an octave,
    /// which torchvision rounds down; Faster R-CNN's are all on each level where levels share a stride.
    fn default_sizes(&self, place: usize, pyramid: &Pyramid) -> Vec<f32> {
        let base = f64::from(32 << place);
        let third = |third: u32| base * 2f64.powf(f64::from(third) / 3.0);
        match (self.architecture, self.anchor_corners) {
            (Architecture::FasterRcnn, _) if pyramid.halves() => vec![base as f32],
            (Architecture::FasterRcnn, _) => vec![32.0, 64.0, 128.0, 256.0, 512.0],
            (Architecture::RetinaNet, AnchorCorners::Rounded) => {
                (0..3).map(|step| third(step).floor() as f32).collect()
            }
            (Architecture::RetinaNet, AnchorCorners::Exact) => {
                (0..3).map(|step| third(step) as f32).collect()
            }
            (Architecture::Fcos, _) => vec![pyramid.strides()[place] as f32],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbone::{Backbone, BackboneConfig};

    fn of(architecture: Architecture) -> DetectorSettings {
        DetectorSettings::new(architecture)
    }

    #[test]
    fn default_anchors_are_torchvisions() {
        let (two, one) = (of(Architecture::FasterRcnn), of(Architecture::RetinaNet));
        let four = BackboneConfig::new(Backbone::RESNET50).plan().expect("a trunk");
        let anchors = |settings: &DetectorSettings| {
            settings.anchors(&settings.architecture.pyramid(&four)).expect("five levels")
        };
        assert_eq!(anchors(&two), AnchorGenerator::faster_rcnn_fpn());
        assert_eq!(anchors(&one), AnchorGenerator::retinanet());
        assert_eq!(anchors(&of(Architecture::Fcos)), AnchorGenerator::fcos());
        for architecture in Architecture::ALL {
            let per_cell = anchors(&of(*architecture)).per_location();
            let told = of(*architecture).anchors_per_cell(&architecture.pyramid(&four));
            assert_eq!(per_cell, [told; 5], "{architecture}");
        }
        let three = Pyramid::over(&[4, 8], 1);
        assert!(two.anchors(&three).is_ok(), "three levels have three sizes");
        let given = DetectorSettings { anchor_sizes: Some(vec![vec![8.0]; 5]), ..two };
        assert!(given.anchors(&three).is_err());
    }

    #[test]
    fn levels_of_one_stride_have_all_sizes_each() {
        let (settings, pyramid) = (of(Architecture::FasterRcnn), Pyramid::over(&[32, 32], 1));
        let sizes: [f32; 5] = [32.0, 64.0, 128.0, 256.0, 512.0];
        let all = AnchorGenerator::new(&[sizes; 3].map(Vec::from), &[0.5, 1.0, 2.0]).expect("sizes");
        assert_eq!(settings.anchors(&pyramid).expect("three levels"), all);
        assert_eq!(settings.anchors_per_cell(&pyramid), 15);
    }

    #[test]
    fn every_fact_is_a_key_of_the_table() {
        let mut keys = Vec::new();
        <DetectorSettings as ckd_settings::Section>::document_fields("", &mut keys);
        for architecture in Architecture::ALL {
            let settings = of(*architecture);
            let norms = settings.head_norms().into_iter().map(|(key, _)| key);
            for key in settings.facts().into_iter().map(|(key, _)| key).chain(norms) {
                assert!(keys.iter().any(|known| known.path == key), "{architecture}: {key}");
            }
        }
    }
}
