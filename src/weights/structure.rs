//! The parts of a network that the names and shapes of its tensors show.

use std::collections::BTreeMap;

use candle_core::Tensor;
use ckd_detectors::backbone::{Backbone, Recognised};
use ckd_detectors::classifier::Architecture;
use toml::Value;

use super::WeightsFile;

/// The parts of a network.
#[derive(Debug)]
pub(super) struct Structure {
    pub(super) trunk: Trunk,
    pub(super) family: Family,
    /// The norm of the trunk.
    norm: &'static str,
    /// Width of the pyramid, and its norm.
    pyramid: Option<(usize, Option<&'static str>)>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Trunk {
    /// A detector's trunk, or an ImageNet classifier's.
    Backbone { backbone: Backbone, stem_channels: usize },
    /// A whole classifier of small images.
    Classifier { architecture: Architecture, classes: usize },
    /// One without its last layer.
    Body { architecture: Architecture },
}

#[derive(Debug)]
pub(super) enum Family {
    FasterRcnn { classes: usize, rpn_convs: usize, head: BoxHead },
    RetinaNet { classes: usize, convs: usize, norm: Option<&'static str>, p6_from: &'static str },
    Fcos { classes: usize, convs: usize, p6_from: &'static str },
    None,
}

#[derive(Debug)]
pub(super) enum BoxHead {
    TwoFc { width: usize, pool_size: usize },
    FourConvFc { width: usize, pool_size: usize, norm: &'static str },
}

/// The tensors of a file, looked up by name.
struct Tensors<'a> {
    by_name: &'a BTreeMap<String, Tensor>,
    /// Names of counters, which only a norm that trains has.
    counts_batches: bool,
}

impl Structure {
    /// # Errors
    /// Says what is not known about the tensors.
    pub(super) fn of(file: &WeightsFile) -> Result<Self, String> {
        let tensors = Tensors {
            by_name: &file.tensors,
            counts_batches: file.entries.keys().any(|name| name.ends_with("num_batches_tracked")),
        };
        let in_detector = file.tensors.keys().any(|name| name.starts_with("backbone.body."));
        let body = if in_detector { "backbone.body." } else { "" };
        let shape = |name: &str| tensors.by_name.get(name).map(|tensor| tensor.dims().to_vec());
        let small = match Architecture::of_small_images(shape) {
            Ok(found) => found.map(|(architecture, classes)| Trunk::Classifier { architecture, classes }),
            Err(error) => match Architecture::of_small_body(&tensors.shapes("")) {
                Some(architecture) => Some(Trunk::Body { architecture }),
                None => return Err(reason(error)),
            },
        };
        let (trunk, first_norm) = match small {
            Some(small) => (small, "bn1".to_owned()),
            None => tensors.trunk(body)?,
        };
        let pyramid = tensors.size("backbone.fpn.inner_blocks.0.0.weight", 0);
        let family = match pyramid {
            None => Family::None,
            Some(width) => tensors.family(width)?,
        };
        Ok(Self {
            trunk,
            family,
            norm: tensors.norm(&first_norm).unwrap_or("frozen_bn"),
            pyramid: pyramid.map(|width| (width, tensors.norm("backbone.fpn.inner_blocks.0.1"))),
        })
    }

    pub(super) fn has_bottlenecks(&self) -> bool {
        matches!(self.trunk, Trunk::Backbone { backbone, .. } if backbone.has_bottlenecks())
    }

    pub(super) fn has_frozen_norms(&self) -> bool {
        self.norm == "frozen_bn"
    }

    /// torchvision's name for it, or one made the same way.
    pub(super) fn name(&self) -> String {
        let trunk = match self.trunk {
            Trunk::Backbone { backbone, .. } => backbone.name().to_owned(),
            Trunk::Classifier { architecture, .. } | Trunk::Body { architecture } => {
                architecture.name().to_owned()
            }
        };
        let version = |is_v2: bool| if is_v2 { "_v2" } else { "" };
        match &self.family {
            Family::FasterRcnn { head, .. } => {
                format!("faster_rcnn_{trunk}_fpn{}", version(matches!(head, BoxHead::FourConvFc { .. })))
            }
            Family::RetinaNet { norm, .. } => format!("retinanet_{trunk}_fpn{}", version(norm.is_some())),
            Family::Fcos { .. } => format!("fcos_{trunk}_fpn"),
            Family::None => trunk,
        }
    }

    /// Keys of a configuration whose student it is.
    pub(super) fn settings(&self) -> Vec<(&'static str, Value)> {
        let count = |count: usize| Value::Integer(count as i64);
        let mut settings: Vec<(&'static str, Value)> = Vec::new();
        let Trunk::Backbone { backbone, stem_channels } = self.trunk else { return settings };
        settings.push(("student.backbone", backbone.name().into()));
        if stem_channels != backbone.stem_channels() {
            settings.push(("student.width", count(stem_channels)));
        }
        settings.push(("student.norm", self.norm.into()));
        if let Some((width, norm)) = self.pyramid {
            settings.push(("detector.fpn_channels", count(width)));
            settings.extend(norm.map(|norm| ("student.fpn_norm", norm.into())));
        }
        match self.family {
            Family::FasterRcnn { rpn_convs, ref head, .. } => {
                settings.push(("detector.architecture", "faster_rcnn".into()));
                settings.push(("detector.rpn.head_convs", count(rpn_convs)));
                let (width, pool_size) = match *head {
                    BoxHead::TwoFc { width, pool_size } => (width, pool_size),
                    BoxHead::FourConvFc { width, pool_size, norm } => {
                        settings.push(("detector.roi.head", "four_conv_fc".into()));
                        settings.push(("detector.roi.head_norm", norm.into()));
                        (width, pool_size)
                    }
                };
                settings.push(("detector.roi.head_width", count(width)));
                settings.push(("detector.roi.pool_size", count(pool_size)));
            }
            Family::RetinaNet { convs, norm, p6_from, .. } => {
                settings.push(("detector.architecture", "retinanet".into()));
                settings.push(("detector.retina.head_convs", count(convs)));
                settings.push(("detector.retina.p6_from", p6_from.into()));
                if let Some(norm) = norm {
                    settings.push(("detector.retina.head_norm", norm.into()));
                    settings.push(("detector.retina.box_loss", "giou".into()));
                }
            }
            Family::Fcos { convs, p6_from, .. } => {
                settings.push(("detector.architecture", "fcos".into()));
                settings.push(("detector.fcos.head_convs", count(convs)));
                settings.push(("detector.fcos.p6_from", p6_from.into()));
            }
            // Any detector can begin with it.
            Family::None => settings.push(("detector.architecture", "faster_rcnn".into())),
        }
        settings
    }
}

/// Fault of a network, in words.
fn reason(error: ckd_detectors::Error) -> String {
    match error {
        ckd_detectors::Error::Invalid { reason, .. } => reason,
        other => other.to_string(),
    }
}

impl Tensors<'_> {
    fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    fn size(&self, name: &str, dimension: usize) -> Option<usize> {
        self.by_name.get(name)?.dims().get(dimension).copied()
    }

    /// Number of consecutive names `name(0)`, `name(1)`, ... that exist.
    fn count(&self, name: impl Fn(usize) -> String) -> usize {
        (0..).take_while(|&at| self.has(&name(at))).count()
    }

    /// The norm in the layer `layer`, if it is one.
    fn norm(&self, layer: &str) -> Option<&'static str> {
        if !self.has(&format!("{layer}.weight")) {
            return None;
        }
        Some(match self.has(&format!("{layer}.running_mean")) {
            false => "gn",
            true if self.counts_batches => "bn",
            true => "frozen_bn",
        })
    }

    /// Shapes of the tensors whose names begin with `prefix`, by the rest of their names.
    fn shapes(&self, prefix: &str) -> BTreeMap<String, Vec<usize>> {
        let of_one = |(name, tensor): (&String, &Tensor)| {
            Some((name.strip_prefix(prefix)?.to_owned(), tensor.dims().to_vec()))
        };
        self.by_name.iter().filter_map(of_one).collect()
    }

    /// The trunk in the layer `body`, and its first norm.
    fn trunk(&self, body: &str) -> Result<(Trunk, String), String> {
        let found = Backbone::recognise(&self.shapes(body)).map_err(reason)?;
        if let Some(found) = found {
            let Recognised { backbone, stem_channels, first_norm, .. } = found;
            return Ok((Trunk::Backbone { backbone, stem_channels }, format!("{body}{first_norm}")));
        }
        if self.has(&format!("{body}conv1.weight")) {
            return Err(self.unknown_resnet(body));
        }
        let some: Vec<&str> = self.by_name.keys().take(3).map(String::as_str).collect();
        Err(format!(
            "its {} tensors ({}, ...) are of no network that is known here: ResNets, MobileNets, the detectors built on \
             them, and RepDistiller's networks for 32x32 pixels",
            self.by_name.len(),
            some.join(", ")
        ))
    }

    fn unknown_resnet(&self, body: &str) -> String {
        let count = |stage| self.count(|block| format!("{body}layer{stage}.{block}.conv1.weight"));
        let blocks = [1, 2, 3, 4].map(count);
        let bottlenecks = self.has(&format!("{body}layer1.0.conv3.weight"));
        let known = Backbone::all().filter(|backbone| backbone.is_residual()).map(Backbone::name);
        format!(
            "it is a ResNet with {blocks:?} blocks{}, which is none of {}",
            if bottlenecks { " of three convolutions" } else { "" },
            known.collect::<Vec<_>>().join(", ")
        )
    }

    fn family(&self, pyramid: usize) -> Result<Family, String> {
        if let Some(rows) = self.size("roi_heads.box_predictor.cls_score.weight", 0) {
            let pool = |inputs: Option<usize>| {
                let cells = inputs.unwrap_or(0) / pyramid.max(1);
                cells.isqrt().max(1)
            };
            let in_head = |name: &str| format!("roi_heads.box_head.{name}");
            let head = match self.size(&in_head("5.weight"), 0) {
                Some(width) => BoxHead::FourConvFc {
                    width,
                    pool_size: pool(self.size(&in_head("5.weight"), 1)),
                    norm: self.norm(&in_head("0.1")).unwrap_or("none"),
                },
                None => BoxHead::TwoFc {
                    width: self.size(&in_head("fc6.weight"), 0).unwrap_or(1024),
                    pool_size: pool(self.size(&in_head("fc6.weight"), 1)),
                },
            };
            let rpn_convs = self.count(|at| format!("rpn.head.conv.{at}.0.weight")).max(1);
            return Ok(Family::FasterRcnn { classes: rows.saturating_sub(1), rpn_convs, head });
        }
        let (logits, deltas) = (
            self.size("head.classification_head.cls_logits.weight", 0),
            self.size("head.regression_head.bbox_reg.weight", 0),
        );
        let (Some(logits), Some(deltas)) = (logits, deltas) else { return Ok(Family::None) };
        let p6_from = match self.size("backbone.fpn.extra_blocks.p6.weight", 1) {
            Some(inputs) if inputs != pyramid => "c5",
            _ => "p5",
        };
        if self.has("head.regression_head.bbox_ctrness.weight") {
            let convs = self.count(|at| format!("head.classification_head.conv.{}.weight", 3 * at));
            return Ok(Family::Fcos { classes: logits, convs, p6_from });
        }
        let anchors = deltas / 4;
        if anchors == 0 || logits % anchors != 0 {
            return Err(format!(
                "it is a RetinaNet with {deltas} box outputs and {logits} class outputs a cell, which fit no number of \
                 anchors"
            ));
        }
        Ok(Family::RetinaNet {
            classes: logits / anchors,
            convs: self.count(|at| format!("head.classification_head.conv.{at}.0.weight")).max(1),
            norm: self.norm("head.classification_head.conv.0.1"),
            p6_from,
        })
    }
}
