//! Which network a file's tensors are of: told from their names and shapes, and by the conventions of whoever wrote it.

use ckd_detectors::classifier::Architecture;
use ckd_detectors::names::{ChannelOrder, Scheme};
use toml::Value;

use super::nearest::{below_prefixes, nearest};
use super::python_config::{MEAN, PythonConfig, STD};
use super::state_dict::Remarks;
use super::structure::{Family, Structure, Trunk};
use super::{ModelCard, WeightsFile};

/// The network that a file's tensors are of.
#[derive(Debug, Clone)]
pub struct Recognised {
    /// Name for `weights import --arch`: `faster_rcnn_resnet50_fpn`, `resnet18`, `wrn_40_2`.
    pub name: String,
    /// Task of the network.
    pub kind: Kind,
    /// Keys of a configuration whose student it is, with their values, where they are not the defaults.
    pub settings: Vec<(&'static str, Value)>,
    /// Assumptions about what the file cannot say.
    pub assumed: Vec<String>,
    /// Why its detections here would not be those it was trained for, if they would not.
    pub differs: Option<&'static str>,
}

/// Task of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Detector of this many classes; torchvision's COCO detectors have slots for 90 or 91, most in use.
    Detector {
        /// Foreground classes.
        classes: usize,
    },
    /// A trunk, with or without a classifier or a pyramid behind it.
    Backbone,
    /// A whole classifier of small images.
    Classifier {
        /// The network.
        architecture: Architecture,
        /// Outputs.
        classes: usize,
    },
    /// A classifier of small images without its last layer, as `task = "pretrain"` writes it.
    Body {
        /// The network.
        architecture: Architecture,
    },
}

/// Faster R-CNN on MobileNetV3-Large, and the one for small images, which has the same tensors.
const MOBILE: &str = "faster_rcnn_mobilenet_v3_large_fpn";
const MOBILE_320: &str = "faster_rcnn_mobilenet_v3_large_320_fpn";

/// A name as it is compared: torchvision writes `fasterrcnn`.
fn plain(name: &str) -> String {
    name.to_lowercase().replace("fasterrcnn", "faster_rcnn")
}

impl Recognised {
    /// The network that the tensors of `file` are of.
    ///
    /// # Errors
    /// Says what is not known about them.
    pub fn of(file: &WeightsFile) -> Result<Self, String> {
        let structure = Structure::of(file).map_err(|reason| {
            let found = below_prefixes(&file.tensors).or_else(|| nearest(&file.tensors));
            found.map_or(reason.clone(), |found| format!("{reason}; {found}"))
        })?;
        let kind = match (&structure.family, structure.trunk) {
            (_, Trunk::Classifier { architecture, classes }) => Kind::Classifier { architecture, classes },
            (_, Trunk::Body { architecture }) => Kind::Body { architecture },
            (
                Family::FasterRcnn { classes, .. }
                | Family::RetinaNet { classes, .. }
                | Family::Fcos { classes, .. },
                _,
            ) => Kind::Detector { classes: *classes },
            (Family::None, _) => Kind::Backbone,
        };
        let mut recognised = Self {
            name: structure.name(),
            kind,
            settings: structure.settings(),
            assumed: Vec::new(),
            differs: None,
        };
        match file.names.scheme {
            Scheme::Torchvision | Scheme::FlatMobileNet => recognised.as_torchvision(file, &structure),
            Scheme::Detectron2 | Scheme::Caffe2 => recognised.as_detectron2(file, &structure),
            Scheme::MmDetection => recognised.as_mmdetection(file, &structure),
        }
        // torchvision's files have the name of the network and the first digits of their SHA-256.
        let file_name = file.path.file_stem().unwrap_or_default().to_string_lossy();
        Ok(recognised.called(file_name.split('-').next().unwrap_or_default()))
    }

    fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.settings.push((key, value.into()));
    }

    /// The network under torchvision's name `wanted`, where another network has the same tensors: a Faster
    /// R-CNN on MobileNetV3-Large is taken for the one that sees images of 800 pixels, unless the one of 320
    /// is asked for.
    #[must_use]
    pub fn called(mut self, wanted: &str) -> Self {
        if self.name == MOBILE && plain(wanted) == MOBILE_320 {
            MOBILE_320.clone_into(&mut self.name);
            self.set("input.short_side_px", vec![320_i64]);
            self.set("input.long_side_px", 640_i64);
            self.set("detector.rpn.pre_nms_top_n_test", 150_i64);
            self.set("detector.rpn.post_nms_top_n_test", 150_i64);
        }
        self
    }

    /// Whether it is called so here, in torchvision or in RepDistiller.
    pub fn is_called(&self, name: &str) -> bool {
        let alias = match self.name.as_str() {
            "cifar_resnet50" => "ResNet50".to_owned(),
            "cifar_mobilenet_v2" => "MobileNetV2".to_owned(),
            "shufflenet_v1" => "ShuffleV1".to_owned(),
            "shufflenet_v2" => "ShuffleV2".to_owned(),
            name => name.strip_suffix("_a").map(|of_paper| format!("cifar_{of_paper}")).unwrap_or_default(),
        };
        plain(name) == plain(&self.name) || name == alias
    }

    fn as_torchvision(&mut self, file: &WeightsFile, structure: &Structure) {
        if self.name == MOBILE {
            self.set("detector.rpn.score_threshold", 0.05);
        }
        if matches!(self.kind, Kind::Detector { .. }) {
            self.assumed.push("torchvision's anchors, RoIAlign, normalisation and resizing".to_owned());
            if structure.has_frozen_norms() && file.trained_epsilon.is_none() && ModelCard::of(file).is_err()
            {
                self.assumed.push(
                    "frozen batch norms with epsilon 1e-5, as torchvision builds them (--batch-norm-eps names another)"
                        .to_owned(),
                );
            }
        }
    }

    fn as_detectron2(&mut self, file: &WeightsFile, structure: &Structure) {
        let of_torchvision = file.names.order == ChannelOrder::Rgb;
        if structure.has_bottlenecks() {
            let stride_in = if of_torchvision { "3x3" } else { "1x1" };
            self.set("student.stride_in", stride_in);
            self.assumed.push(format!(
                "RESNETS.STRIDE_IN_1X1 is {}, as Detectron2 has it for weights of {}",
                if of_torchvision { "False" } else { "True" },
                if of_torchvision { "torchvision" } else { "MSRA" }
            ));
        }
        let Remarks { pixel_mean, pixel_std, .. } = file.remarks;
        let in_order = |values: [f32; 3]| {
            let [first, second, third] = values.map(f64::from);
            if of_torchvision { [first, second, third] } else { [third, second, first] }
        };
        if pixel_mean.is_none() {
            self.assumed.push("Detectron2's MODEL.PIXEL_MEAN and PIXEL_STD".to_owned());
        }
        let default_std = if of_torchvision { STD } else { [1.0; 3] };
        self.normalize(pixel_mean.map_or(MEAN, in_order), pixel_std.map_or(default_std, in_order));
        self.set("input.resize", "pil_bilinear");
        self.set("detector.anchor_corners", "exact");
        match structure.family {
            Family::FasterRcnn { .. } => {
                self.set("detector.rpn.min_size", 0.0);
                self.set("detector.roi.align", "aligned");
                self.set("detector.roi.sampling_ratio", 0);
            }
            Family::RetinaNet { .. } => {
                self.set("detector.retina.clip", "after_nms");
                self.set("detector.retina.detections_per_image", 100);
            }
            Family::Fcos { .. } | Family::None => {}
        }
    }

    fn as_mmdetection(&mut self, file: &WeightsFile, structure: &Structure) {
        let config = PythonConfig::of(&file.remarks);
        if structure.has_bottlenecks() && config.is_caffe_style() {
            self.set("student.stride_in", "1x1");
        }
        if !config.is_known() {
            self.assumed
                .push("MMDetection's style \"pytorch\": stride in the 3x3, RGB, ImageNet's mean".to_owned());
        }
        let (mean, std) = config.normalization();
        self.normalize(mean, std);
        self.set("detector.anchor_corners", "exact");
        match structure.family {
            Family::FasterRcnn { .. } => {
                self.set("detector.rpn.min_size", 0.0);
                self.set("detector.roi.align", "aligned");
                self.set("detector.roi.sampling_ratio", 0);
                self.assumed.push(
                    "sizes rounded down, where MMDetection's resizing rounds to the nearest".to_owned(),
                );
            }
            Family::RetinaNet { .. } => {
                self.set("detector.retina.detections_per_image", 100);
                if !config.says("relu_before_extra_convs=True") {
                    self.differs = Some(
                        "MMDetection's RetinaNet makes level p7 of p6 without the ReLU that ours, torchvision's and \
                         Detectron2's have between them; --partial backbone takes its trunk",
                    );
                }
            }
            Family::Fcos { .. } | Family::None => {}
        }
    }

    /// From pixels of 0 to 255 to ours of 0 to 1.
    fn normalize(&mut self, mean: [f64; 3], std: [f64; 3]) {
        // As f32, like the configuration's: their shortest decimals.
        let in_our_units = |values: [f64; 3]| {
            let unit =
                |value: f64| ((value / 255.0) as f32).to_string().parse::<f64>().unwrap_or(value / 255.0);
            Value::Array(values.map(|value| Value::Float(unit(value))).to_vec())
        };
        self.settings.push(("normalization.mean", in_our_units(mean)));
        self.settings.push(("normalization.std", in_our_units(std)));
    }
}
