//! Every classifier by its name.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ckd_settings::{Diagnostic, Node, Read, unknown_word};

use super::imagenet::TrunkTail;
use super::{
    Behind, CifarBottleneckConfig, CifarResNetConfig, Network, ShortcutOption, Tail, TrunkClassifier,
    TrunkClassifierConfig, Vgg, VggConfig, WideResNetConfig, cifar_bottleneck, cifar_mobilenet_v2,
    cifar_resnet, shufflenet_v1, shufflenet_v2, wide_resnet,
};
use crate::backbone::{Backbone, BackboneConfig};
use crate::nn::NormKind;
use crate::param::{Builder, Param};
use crate::{Error, Result};

/// A classifier of fixed structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Architecture {
    name: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    CifarResNet {
        depth: usize,
        widths: [usize; 4],
        shortcut: ShortcutOption,
    },
    CifarBottleneck(CifarBottleneckConfig),
    WideResNet {
        depth: usize,
        widen: usize,
    },
    Vgg([usize; 5]),
    CifarMobileNetV2,
    ShuffleNetV1,
    ShuffleNetV2,
    /// The [`Backbone`] of the same name.
    Trunk,
}

const fn cifar(name: &'static str, depth: usize, widths: [usize; 4]) -> Architecture {
    Architecture { name, kind: Kind::CifarResNet { depth, widths, shortcut: ShortcutOption::B } }
}

const fn option_a(name: &'static str, depth: usize) -> Architecture {
    let widths = CifarResNetConfig::WIDTHS;
    Architecture { name, kind: Kind::CifarResNet { depth, widths, shortcut: ShortcutOption::A } }
}

const fn wide(name: &'static str, depth: usize, widen: usize) -> Architecture {
    Architecture { name, kind: Kind::WideResNet { depth, widen } }
}

const fn other(name: &'static str, kind: Kind) -> Architecture {
    Architecture { name, kind }
}

impl Architecture {
    /// All architectures: for 32x32 pixels first, then for ImageNet.
    pub const ALL: &[Self] = &[
        cifar("resnet8", 8, CifarResNetConfig::WIDTHS),
        cifar("resnet14", 14, CifarResNetConfig::WIDTHS),
        cifar("resnet20", 20, CifarResNetConfig::WIDTHS),
        cifar("resnet32", 32, CifarResNetConfig::WIDTHS),
        cifar("resnet44", 44, CifarResNetConfig::WIDTHS),
        cifar("resnet56", 56, CifarResNetConfig::WIDTHS),
        cifar("resnet110", 110, CifarResNetConfig::WIDTHS),
        cifar("resnet8x4", 8, CifarResNetConfig::WIDTHS_X4),
        cifar("resnet32x4", 32, CifarResNetConfig::WIDTHS_X4),
        option_a("resnet8_a", 8),
        option_a("resnet20_a", 20),
        option_a("resnet32_a", 32),
        option_a("resnet44_a", 44),
        option_a("resnet56_a", 56),
        option_a("resnet110_a", 110),
        other("resnet110_bottleneck", Kind::CifarBottleneck(CifarBottleneckConfig::RESNET110)),
        other("cifar_resnet50", Kind::CifarBottleneck(CifarBottleneckConfig::RESNET50)),
        wide("wrn_16_1", 16, 1),
        wide("wrn_16_2", 16, 2),
        wide("wrn_40_1", 40, 1),
        wide("wrn_40_2", 40, 2),
        other("vgg8", Kind::Vgg(VggConfig::VGG8)),
        other("vgg11", Kind::Vgg(VggConfig::VGG11)),
        other("vgg13", Kind::Vgg(VggConfig::VGG13)),
        other("vgg16", Kind::Vgg(VggConfig::VGG16)),
        other("vgg19", Kind::Vgg(VggConfig::VGG19)),
        other("cifar_mobilenet_v2", Kind::CifarMobileNetV2),
        other("shufflenet_v1", Kind::ShuffleNetV1),
        other("shufflenet_v2", Kind::ShuffleNetV2),
        other("resnet18", Kind::Trunk),
        other("resnet34", Kind::Trunk),
        other("resnet50", Kind::Trunk),
        other("resnet101", Kind::Trunk),
        other("resnet152", Kind::Trunk),
        other("resnext50_32x4d", Kind::Trunk),
        other("resnext101_32x8d", Kind::Trunk),
        other("resnext101_64x4d", Kind::Trunk),
        other("mobilenet_v1", Kind::Trunk),
        other("mobilenet_v2", Kind::Trunk),
        other("mobilenet_v3_large", Kind::Trunk),
    ];

    /// Name of the architecture.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// The network for 32x32 pixels whose tensors have these shapes, and its number of classes; `None` if they are of
    /// another kind of network. A few tensors tell it: whether the others fit is seen when they are loaded.
    ///
    /// # Errors
    /// One of these kinds, but none of [`Architecture::ALL`].
    pub fn of_small_images(shape: impl Fn(&str) -> Option<Vec<usize>>) -> Result<Option<(Self, usize)>> {
        let size = |name: &str, dimension: usize| shape(name)?.get(dimension).copied();
        let count =
            |name: &dyn Fn(usize) -> String| (0..).take_while(|&at| shape(&name(at)).is_some()).count();
        let blocks = |stage: usize| count(&|block| format!("layer{stage}.{block}.conv1.weight"));
        let (kind, described, head) = if shape("block0.0.weight").is_some() {
            let convolutions: [usize; 5] =
                std::array::from_fn(|block| count(&|at| format!("block{block}.{}.weight", 3 * at)));
            (Kind::Vgg(convolutions), format!("a VGG with {convolutions:?} convolutions"), "classifier")
        } else if let Some(width) = size("block1.layer.0.conv1.weight", 0) {
            let depth = 6 * count(&|block| format!("block1.layer.{block}.conv1.weight")) + 4;
            let widen = width / 16;
            (Kind::WideResNet { depth, widen }, format!("a wide ResNet {depth}-{widen}"), "fc")
        } else if shape("blocks.0.0.conv.0.weight").is_some() {
            (Kind::CifarMobileNetV2, "a MobileNetV2".to_owned(), "classifier.0")
        } else if shape("layer1.0.conv5.weight").is_some() {
            (Kind::ShuffleNetV2, "a ShuffleNetV2".to_owned(), "linear")
        } else if size("layer1.0.conv2.weight", 1) == Some(1) {
            (Kind::ShuffleNetV1, "a ShuffleNet".to_owned(), "linear")
        } else if size("conv1.weight", 2) != Some(3) {
            return Ok(None);
        } else if shape("layer1.0.conv3.weight").is_some() {
            let counts: Vec<usize> = (1..).map(blocks).take_while(|count| *count > 0).collect();
            let known = [CifarBottleneckConfig::RESNET50, CifarBottleneckConfig::RESNET110];
            let Some(known) = known.into_iter().find(|known| known.blocks == counts) else {
                return unknown(&format!("a CIFAR ResNet with {counts:?} blocks of three convolutions"));
            };
            let described = format!("a CIFAR ResNet-{} of bottlenecks", known.depth());
            (Kind::CifarBottleneck(known), described, known.head)
        } else if blocks(4) > 0 {
            return Ok(None);
        } else {
            let depth = 6 * blocks(1) + 2;
            let widths =
                ["conv1.weight", "layer1.0.conv1.weight", "layer2.0.conv1.weight", "layer3.0.conv1.weight"]
                    .map(|name| size(name, 0).unwrap_or(0));
            let shortcut = match shape("layer2.0.downsample.0.weight") {
                Some(_) => ShortcutOption::B,
                None => ShortcutOption::A,
            };
            let described =
                format!("a CIFAR ResNet of {depth} layers with {widths:?} channels, option {shortcut:?}");
            (Kind::CifarResNet { depth, widths, shortcut }, described, shortcut.head())
        };
        let Some(known) = Self::ALL.iter().find(|known| known.kind == kind) else {
            return unknown(&described);
        };
        match size(&format!("{head}.weight"), 0) {
            Some(classes) => Ok(Some((*known, classes))),
            None => unknown(&format!("{described} without a last layer called {head}")),
        }
    }

    /// The network for 32x32 pixels whose tensors, without the last layer, are exactly those of these names and shapes.
    pub fn of_small_body(shapes: &BTreeMap<String, Vec<usize>>) -> Option<Self> {
        let small = Self::ALL.iter().filter(|known| known.kind != Kind::Trunk);
        small.copied().find(|known| {
            let Ok(network) = known.build(Builder::outline(), 1) else { return false };
            let body = network.params().without(&format!("{}.", network.head().prefix()));
            let fits = |(name, param): (&Arc<str>, &Param)| {
                shapes.get(&**name).is_some_and(|shape| shape == param.value.dims())
            };
            body.iter().count() == shapes.len() && body.iter().all(fits)
        })
    }

    /// Number of stages: the taps `stage1`, `stage2`, ...
    pub fn stages(self) -> usize {
        match self.kind {
            Kind::CifarResNet { .. } | Kind::WideResNet { .. } | Kind::ShuffleNetV1 | Kind::ShuffleNetV2 => 3,
            Kind::CifarBottleneck(config) => config.blocks.len(),
            Kind::Vgg(_) | Kind::CifarMobileNetV2 => 4,
            Kind::Trunk => self.trunk().levels().len(),
        }
    }

    /// Whether branches can be made of its stages: [`branch`](Self::branch).
    pub fn has_branches(self) -> bool {
        match self.kind {
            Kind::CifarResNet { .. }
            | Kind::CifarBottleneck(_)
            | Kind::WideResNet { .. }
            | Kind::ShuffleNetV1
            | Kind::ShuffleNetV2 => true,
            Kind::Trunk => self.trunk().is_residual(),
            Kind::Vgg(_) | Kind::CifarMobileNetV2 => false,
        }
    }

    /// A branch on the map of a stage: the network's later stages and its linear layer, of their own weights, in
    /// `builder`'s layer.
    ///
    /// # Errors
    /// If the network has no such stage, or none behind it; if stages are to have no block; if there are no classes.
    pub fn branch(self, builder: &Builder, classes: usize, behind: Behind) -> Result<Box<dyn Tail>> {
        let refuse = |reason: String| Err(Error::Invalid { part: "branch", reason });
        Error::unless_positive("branch", &[("classes", classes), ("blocks", behind.blocks.unwrap_or(1))])?;
        if behind.stage == 0 || behind.stage >= self.stages() {
            return refuse(format!("{self} has no stages behind its stage {}", behind.stage));
        }
        Ok(match self.kind {
            Kind::CifarResNet { depth, widths, shortcut } => {
                let config = CifarResNetConfig { depth, widths, shortcut, classes };
                Box::new(cifar_resnet::tail(builder, config, behind)?)
            }
            Kind::CifarBottleneck(config) => {
                Box::new(cifar_bottleneck::tail(builder, config, classes, behind)?)
            }
            Kind::WideResNet { depth, widen } => {
                Box::new(wide_resnet::tail(builder, WideResNetConfig { depth, widen, classes }, behind)?)
            }
            Kind::ShuffleNetV1 => Box::new(shufflenet_v1::tail(builder, classes, behind)?),
            Kind::ShuffleNetV2 => Box::new(shufflenet_v2::tail(builder, classes, behind)?),
            Kind::Trunk if self.has_branches() => {
                Box::new(TrunkTail::new(builder, self.of_trunk(classes), behind)?)
            }
            Kind::Vgg(_) | Kind::CifarMobileNetV2 | Kind::Trunk => {
                return refuse(format!("{self} has no branches"));
            }
        })
    }

    /// Builds the network in `builder`.
    ///
    /// # Errors
    /// If there are no classes.
    pub fn build(self, builder: Builder, classes: usize) -> Result<Box<dyn Network>> {
        Ok(match self.kind {
            Kind::CifarResNet { depth, widths, shortcut } => Box::new(cifar_resnet::cifar_resnet(
                builder,
                CifarResNetConfig { depth, widths, shortcut, classes },
            )?),
            Kind::CifarBottleneck(config) => {
                Box::new(cifar_bottleneck::cifar_bottleneck(builder, config, classes)?)
            }
            Kind::WideResNet { depth, widen } => {
                Box::new(wide_resnet::wide_resnet(builder, WideResNetConfig { depth, widen, classes })?)
            }
            Kind::Vgg(convolutions) => Box::new(Vgg::new(builder, VggConfig { convolutions, classes })?),
            Kind::CifarMobileNetV2 => Box::new(cifar_mobilenet_v2(builder, classes)?),
            Kind::ShuffleNetV1 => Box::new(shufflenet_v1::shufflenet_v1(builder, classes)?),
            Kind::ShuffleNetV2 => Box::new(shufflenet_v2::shufflenet_v2(builder, classes)?),
            Kind::Trunk => Box::new(TrunkClassifier::new(builder, self.of_trunk(classes))?),
        })
    }

    fn trunk(self) -> Backbone {
        self.name.parse().expect("the registry of backbones has the same name")
    }

    fn of_trunk(self, classes: usize) -> TrunkClassifierConfig {
        let trunk = self.trunk();
        let batch_norm = trunk.classifier().batch_norm;
        let backbone = BackboneConfig { norm: NormKind::Bn, batch_norm, ..BackboneConfig::new(trunk) };
        TrunkClassifierConfig { backbone, classes }
    }
}

fn unknown<T>(described: &str) -> Result<T> {
    let names: Vec<&str> = Architecture::ALL.iter().map(|known| known.name).collect();
    let reason = format!("it is {described}, which is none of {}", names.join(", "));
    Err(Error::Invalid { part: "classifier", reason })
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Read for Architecture {
    fn read(node: &Node, path: &str, findings: &mut Vec<Diagnostic>) -> Option<Self> {
        let word = String::read(node, path, findings)?;
        let known = word.parse().ok();
        if known.is_none() {
            let words = Self::ALL.iter().map(|architecture| architecture.name());
            findings.push(unknown_word(node, path, &word, words));
        }
        known
    }

    fn takes() -> String {
        "the name of a classifier, for example \"resnet20\"".to_owned()
    }
}

impl FromStr for Architecture {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.iter().copied().find(|known| known.name == name).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|known| known.name).collect();
            let reason = format!("{name:?} is none of {}", names.join(", "));
            Error::Invalid { part: "classifier", reason }
        })
    }
}

impl serde::Serialize for Architecture {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}
