//! The names that other programs give the tensors of the same networks, and what those tensors mean there.
//!
//! | scheme | whose files | what differs, beside names |
//! |---|---|---|
//! | [`Scheme::Torchvision`] | torchvision's, ours, most CIFAR networks | nothing; names of older versions are understood |
//! | [`Scheme::FlatMobileNet`] | MobileNetV2 as its first PyTorch versions had it | nothing |
//! | [`Scheme::Detectron2`], [`Scheme::Caffe2`] | Detectron2's models; the ImageNet weights they began with | colours, background, anchors |
//! | [`Scheme::MmDetection`] | MMDetection's checkpoints | background; colours of its "caffe" style |
//!
//! Detectron2 and MMDetection count the background as the last class and have no box for it; torchvision has it
//! first, with a box that nothing reads (zeros here). Detectron2 orders a cell's anchors by size, then by
//! aspect ratio; torchvision and MMDetection the other way round. A network of BGR images becomes one of RGB
//! images by turning round the input channels of its first convolution.

mod detectron2;
mod mmdetection;
mod torchvision;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use crate::{Error, Result};

/// Naming scheme of a weights file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// torchvision's, of any version: also those of this program.
    Torchvision,
    /// MobileNetV2 whose blocks are one flat sequence (`features.2.conv.6.weight`).
    FlatMobileNet,
    /// Detectron2's.
    Detectron2,
    /// Caffe2's, of a backbone (`res2_0_branch2a_w`).
    Caffe2,
    /// MMDetection's.
    MmDetection,
}

/// The order of an image's colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelOrder {
    /// Red first.
    Rgb,
    /// Blue first.
    Bgr,
}

/// Result of renaming the tensors of a file.
#[derive(Debug, Clone)]
pub struct Renaming {
    /// Naming scheme of the file.
    pub scheme: Scheme,
    /// The colours that the network was trained with; its weights are those for RGB now.
    pub order: ChannelOrder,
    /// The former names of the tensors that are called otherwise now.
    pub origins: BTreeMap<String, String>,
    /// Former names of tensors that no network of ours has, and none misses.
    pub unused: Vec<String>,
}

/// Name of a tensor in this program.
enum Ours {
    Is(String),
    /// A constant, a counter, a head for ImageNet: not needed.
    Unused,
    Unknown,
}

impl std::fmt::Display for Scheme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Torchvision => "torchvision",
            Self::FlatMobileNet => "an early MobileNetV2",
            Self::Detectron2 => "Detectron2",
            Self::Caffe2 => "Caffe2",
            Self::MmDetection => "MMDetection",
        })
    }
}

impl Scheme {
    /// The scheme of these names.
    pub fn of<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let of_one = |name: &str| {
            let begins = |starts: &[&str]| starts.iter().any(|start| name.starts_with(start));
            if begins(&["backbone.bottom_up.", "res2.0.conv1."]) {
                Some(Self::Detectron2)
            } else if begins(&["res2_0_branch2a_"]) {
                Some(Self::Caffe2)
            } else if begins(&["backbone.layer1.", "neck.lateral_convs.", "rpn_head."]) {
                Some(Self::MmDetection)
            } else if name == "features.2.conv.6.weight" {
                Some(Self::FlatMobileNet)
            } else {
                None
            }
        };
        names.into_iter().find_map(of_one).unwrap_or(Self::Torchvision)
    }

    /// The tensors under torchvision's names and with its meaning; those that have no name there keep their own.
    ///
    /// # Shapes
    /// Those of the file, but for a row for the background in `bbox_pred`.
    ///
    /// # Errors
    /// If two tensors end up with one name.
    pub fn rename(
        self,
        order: ChannelOrder,
        tensors: BTreeMap<String, Tensor>,
    ) -> Result<(Renaming, BTreeMap<String, Tensor>)> {
        let mut renaming = Renaming { scheme: self, order, origins: BTreeMap::new(), unused: Vec::new() };
        let known: Vec<String> = tensors.keys().cloned().collect();
        let mut renamed = BTreeMap::new();
        for (name, tensor) in tensors {
            let ours = match self {
                Self::Torchvision => torchvision::ours(&name, &known),
                Self::FlatMobileNet => torchvision::ours_of_flat_mobilenet(&name),
                Self::Detectron2 => detectron2::ours(&name, &known),
                Self::Caffe2 => match detectron2::of_caffe2(&name) {
                    Some(name) => detectron2::ours(&name, &known),
                    None => Ours::Unused,
                },
                Self::MmDetection => mmdetection::ours(&name, &known),
            };
            let ours = match ours {
                // The bias of a convolution before a norm: Caffe2 writes it as zeros.
                Ours::Is(ours) if ours == "conv1.bias" && is_zero(&tensor)? => {
                    renaming.unused.push(name);
                    continue;
                }
                Ours::Is(ours) => ours,
                Ours::Unused => {
                    renaming.unused.push(name);
                    continue;
                }
                Ours::Unknown => name.clone(),
            };
            if renamed.contains_key(&ours) {
                let reason = format!("{name} and another tensor are both {ours} here");
                return Err(Error::Invalid { part: "names", reason });
            }
            let tensor = self.with_our_meaning(&ours, order, tensor)?;
            renamed.insert(ours.clone(), tensor);
            if ours != name {
                renaming.origins.insert(ours, name);
            }
        }
        if matches!(self, Self::Detectron2 | Self::Caffe2) {
            turn_anchors(&mut renamed)?;
            complete_norms(&mut renamed)?;
        }
        Ok((renaming, renamed))
    }

    fn with_our_meaning(self, ours: &str, order: ChannelOrder, tensor: Tensor) -> Result<Tensor> {
        let is_first = matches!(ours, "conv1.weight" | "backbone.body.conv1.weight");
        if is_first && order == ChannelOrder::Bgr && tensor.rank() == 4 && tensor.dims()[1] == 3 {
            return Ok(tensor.index_select(&Tensor::new(&[2_u32, 1, 0], &Device::Cpu)?, 1)?);
        }
        if !matches!(self, Self::Detectron2 | Self::MmDetection) {
            return Ok(tensor);
        }
        let rows = tensor.dims().first().copied().unwrap_or(0);
        match ours {
            "roi_heads.box_predictor.cls_score.weight" | "roi_heads.box_predictor.cls_score.bias"
                if rows > 0 =>
            {
                let (classes, background) = (tensor.narrow(0, 0, rows - 1)?, tensor.narrow(0, rows - 1, 1)?);
                Ok(Tensor::cat(&[background, classes], 0)?)
            }
            "roi_heads.box_predictor.bbox_pred.weight" | "roi_heads.box_predictor.bbox_pred.bias"
                if rows > 0 =>
            {
                let mut shape = tensor.dims().to_vec();
                shape[0] = 4;
                Ok(Tensor::cat(&[Tensor::zeros(shape, DType::F32, &Device::Cpu)?, tensor], 0)?)
            }
            _ => Ok(tensor),
        }
    }
}

fn is_zero(tensor: &Tensor) -> Result<bool> {
    Ok(tensor.flatten_all()?.to_vec1::<f32>()?.iter().all(|value| *value == 0.0))
}

/// RetinaNet's outputs from (size, aspect ratio) to (aspect ratio, size): three of each, as everybody has them.
fn turn_anchors(tensors: &mut BTreeMap<String, Tensor>) -> Result<()> {
    const EACH: usize = 3;
    let boxes = tensors.get("head.regression_head.bbox_reg.bias").map(|bias| bias.elem_count());
    if boxes != Some(4 * EACH * EACH) {
        return Ok(());
    }
    let from: Vec<u32> = (0..EACH * EACH).map(|at| (at % EACH * EACH + at / EACH) as u32).collect();
    let from = Tensor::new(from, &Device::Cpu)?;
    for (name, tensor) in tensors.iter_mut() {
        let is_output = name.starts_with("head.regression_head.bbox_reg.")
            || name.starts_with("head.classification_head.cls_logits.");
        let rows = tensor.dims().first().copied().unwrap_or(0);
        if is_output && rows.is_multiple_of(EACH * EACH) && rows > 0 {
            let shape = tensor.dims().to_vec();
            let by_anchor = tensor.reshape((EACH * EACH, tensor.elem_count() / (EACH * EACH)))?;
            *tensor = by_anchor.index_select(&from, 0)?.reshape(shape)?;
        }
    }
    Ok(())
}

/// Norms whose statistics were folded into their weights have mean 0 and variance 1.
fn complete_norms(tensors: &mut BTreeMap<String, Tensor>) -> Result<()> {
    let is_norm = |layer: &str| {
        let (before, last) = layer.rsplit_once('.').unwrap_or(("", layer));
        last.strip_prefix("bn").is_some_and(|number| number.parse::<u32>().is_ok())
            || (last == "1" && before.ends_with("downsample"))
    };
    let mut missing = Vec::new();
    for (name, weight) in tensors.iter() {
        if let Some(layer) = name.strip_suffix(".weight").filter(|layer| is_norm(layer))
            && !tensors.contains_key(&format!("{layer}.running_var"))
            && !tensors.contains_key(&format!("{layer}.running_mean"))
        {
            missing.push((format!("{layer}.running_mean"), weight.zeros_like()?));
            missing.push((format!("{layer}.running_var"), weight.ones_like()?));
        }
    }
    tensors.extend(missing);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(shape: &[usize]) -> Tensor {
        let count = shape.iter().product::<usize>() as u32;
        let values: Vec<f32> = (0..count).map(|value| value as f32).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).expect("as many numbers as the shape has")
    }

    fn renamed(scheme: Scheme, order: ChannelOrder, name: &str, shape: &[usize]) -> (String, Vec<f32>) {
        let tensors = BTreeMap::from([(name.to_owned(), ramp(shape))]);
        let (_, tensors) = scheme.rename(order, tensors).expect("renamed");
        let (name, tensor) = tensors.into_iter().next().expect("one tensor");
        (name, tensor.flatten_all().and_then(|tensor| tensor.to_vec1()).expect("f32"))
    }

    #[test]
    fn the_background_comes_first_and_has_a_box_of_zeros() {
        for (scheme, name) in [
            (Scheme::Detectron2, "roi_heads.box_predictor.cls_score.bias"),
            (Scheme::MmDetection, "roi_head.bbox_head.fc_cls.bias"),
        ] {
            let (name, values) = renamed(scheme, ChannelOrder::Rgb, name, &[4]);
            assert_eq!(name, "roi_heads.box_predictor.cls_score.bias");
            assert_eq!(values, [3.0, 0.0, 1.0, 2.0]);
        }
        let (name, values) =
            renamed(Scheme::MmDetection, ChannelOrder::Rgb, "roi_head.bbox_head.fc_reg.weight", &[8, 1]);
        assert_eq!(name, "roi_heads.box_predictor.bbox_pred.weight");
        assert_eq!(values, [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        let (_, values) =
            renamed(Scheme::Torchvision, ChannelOrder::Rgb, "roi_heads.box_predictor.cls_score.bias", &[4]);
        assert_eq!(values, [0.0, 1.0, 2.0, 3.0]);
    }

    #[test]
    fn a_network_of_bgr_images_becomes_one_of_rgb_images() {
        let first = "backbone.bottom_up.stem.conv1.weight";
        let (name, values) = renamed(Scheme::Detectron2, ChannelOrder::Bgr, first, &[1, 3, 1, 2]);
        assert_eq!(
            (name.as_str(), values),
            ("backbone.body.conv1.weight", vec![4.0, 5.0, 2.0, 3.0, 0.0, 1.0])
        );
        let (_, values) = renamed(Scheme::Detectron2, ChannelOrder::Rgb, first, &[1, 3, 1, 2]);
        assert_eq!(values, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        // A convolution further in has three input channels by chance.
        let (_, values) = renamed(
            Scheme::Detectron2,
            ChannelOrder::Bgr,
            "backbone.bottom_up.res2.0.conv1.weight",
            &[1, 3, 1, 1],
        );
        assert_eq!(values, [0.0, 1.0, 2.0]);
    }

    #[test]
    fn detectron2s_anchors_go_by_size_and_ours_by_aspect_ratio() {
        let names = ["head.cls_score.bias", "head.bbox_pred.bias"];
        let tensors =
            BTreeMap::from([(names[0].to_owned(), ramp(&[18])), (names[1].to_owned(), ramp(&[36]))]);
        let (_, tensors) = Scheme::Detectron2.rename(ChannelOrder::Bgr, tensors).expect("renamed");
        let logits: Vec<f32> = tensors["head.classification_head.cls_logits.bias"].to_vec1().expect("f32");
        // Two classes; anchors (size, ratio) = 00 01 02 10 11 12 20 21 22 come as 00 10 20 01 11 21 02 12 22.
        let anchors: Vec<f32> = logits.chunks(2).map(|pair| pair[0] / 2.0).collect();
        assert_eq!(anchors, [0.0, 3.0, 6.0, 1.0, 4.0, 7.0, 2.0, 5.0, 8.0]);
        assert!(logits.chunks(2).all(|pair| pair[1] == pair[0] + 1.0));
        let deltas: Vec<f32> = tensors["head.regression_head.bbox_reg.bias"].to_vec1().expect("f32");
        assert_eq!(deltas[..8], [0.0, 1.0, 2.0, 3.0, 12.0, 13.0, 14.0, 15.0]);
    }

    #[test]
    fn caffe2s_folded_norms_get_mean_0_and_variance_1() {
        let tensors =
            ["res_conv1_bn_s", "res2_0_branch2a_bn_s", "res2_0_branch1_bn_s", "conv1_w", "fc1000_w"]
                .map(|name| (name.to_owned(), ramp(&[2])));
        let (renaming, tensors) =
            Scheme::Caffe2.rename(ChannelOrder::Bgr, BTreeMap::from(tensors)).expect("renamed");
        let names: Vec<&str> = tensors.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "bn1.running_mean",
                "bn1.running_var",
                "bn1.weight",
                "conv1.weight",
                "layer1.0.bn1.running_mean",
                "layer1.0.bn1.running_var",
                "layer1.0.bn1.weight",
                "layer1.0.downsample.1.running_mean",
                "layer1.0.downsample.1.running_var",
                "layer1.0.downsample.1.weight",
            ]
        );
        assert_eq!(renaming.unused, ["fc1000_w"]);
        assert_eq!(tensors["bn1.running_var"].to_vec1::<f32>().expect("f32"), [1.0, 1.0]);
    }

    #[test]
    fn two_tensors_never_become_one() {
        let twice =
            ["rpn.head.conv.weight", "rpn.head.conv.0.0.weight"].map(|name| (name.to_owned(), ramp(&[1])));
        let error = Scheme::Torchvision.rename(ChannelOrder::Rgb, BTreeMap::from(twice)).unwrap_err();
        assert!(error.to_string().contains("rpn.head.conv.0.0.weight"), "{error}");
    }

    #[test]
    fn a_scheme_is_told_by_its_names() {
        let of = |names: &[&str]| Scheme::of(names.iter().copied());
        assert_eq!(of(&["backbone.body.conv1.weight"]), Scheme::Torchvision);
        assert_eq!(of(&["conv1.weight", "layer1.0.conv1.weight"]), Scheme::Torchvision);
        assert_eq!(of(&["anchor", "backbone.bottom_up.stem.conv1.weight"]), Scheme::Detectron2);
        assert_eq!(of(&["stem.conv1.weight", "res2.0.conv1.weight"]), Scheme::Detectron2);
        assert_eq!(of(&["conv1_w", "res2_0_branch2a_w"]), Scheme::Caffe2);
        assert_eq!(of(&["backbone.conv1.weight", "neck.lateral_convs.0.conv.bias"]), Scheme::MmDetection);
        assert_eq!(of(&["features.0.0.weight", "features.2.conv.6.weight"]), Scheme::FlatMobileNet);
        assert_eq!(of(&[]), Scheme::Torchvision);
    }
}
