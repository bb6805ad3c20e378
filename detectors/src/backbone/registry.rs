//! Every trunk by its name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use ckd_settings::{Diagnostic, Node, Read, unknown_word};

use super::BackboneConfig;
use super::mobilenet_v1::mobilenet_v1;
use super::mobilenet_v2::mobilenet_v2;
use super::mobilenet_v3::mobilenet_v3_large;
use super::plan::Plan;
use super::resnet::{Blocks, resnet};
use crate::nn::BatchNormRule;
use crate::taps::Level;
use crate::{Error, Result};

/// A trunk of fixed structure: a row of the registry.
#[derive(Clone, Copy)]
pub struct Backbone(&'static Row);

struct Row {
    /// Word of the configuration.
    name: &'static str,
    /// Channels of the published network's first layer.
    stem_channels: usize,
    /// Whether it is made of blocks of 1x1, 3x3, 1x1.
    bottlenecks: bool,
    /// Whether its stages are equal residual blocks.
    residual: bool,
    /// File of ImageNet weights at <https://download.pytorch.org/models/>.
    published: Option<&'static str>,
    /// Layers of a classifier with this trunk.
    classifier: ClassifierLayers,
    /// Levels that the maps are for.
    levels: &'static [Level],
    plan: fn(&BackboneConfig) -> Result<Plan>,
}

/// C2 to C5, at strides 4 to 32.
const C2_TO_C5: &[Level] = &[Level(2), Level(3), Level(4), Level(5)];

/// Names in a published classifier.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassifierLayers {
    /// Layer that holds the trunk; empty: there is none around it.
    pub trunk: &'static str,
    /// Linear layer between the pooling and the last one.
    pub hidden: Option<HiddenLayer>,
    /// Last linear layer.
    pub head: &'static str,
    /// Standard deviation that weights of linear layers begin with, and no bias; `None`: PyTorch's defaults.
    pub head_deviation: Option<f64>,
    /// Epsilon and momentum of the batch norms.
    pub batch_norm: BatchNormRule,
}

/// A linear layer of a classifier, with a hard swish behind it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HiddenLayer {
    /// Name of the layer.
    pub name: &'static str,
    /// Outputs in the published network.
    pub width: usize,
}

impl ClassifierLayers {
    const RESNET: Self = Self {
        trunk: "",
        hidden: None,
        head: "fc",
        head_deviation: None,
        batch_norm: BatchNormRule::PYTORCH,
    };
}

const RESNET: Row = Row {
    name: "",
    stem_channels: 64,
    bottlenecks: true,
    residual: true,
    published: None,
    classifier: ClassifierLayers::RESNET,
    levels: C2_TO_C5,
    plan: |_| Ok(Plan::default()),
};

static ROWS: [Row; 11] = [
    Row {
        name: "resnet18",
        bottlenecks: false,
        published: Some("resnet18-f37072fd.pth"),
        plan: |config| resnet(config, Blocks::Basic([2, 2, 2, 2])),
        ..RESNET
    },
    Row {
        name: "resnet34",
        bottlenecks: false,
        published: Some("resnet34-b627a593.pth"),
        plan: |config| resnet(config, Blocks::Basic([3, 4, 6, 3])),
        ..RESNET
    },
    Row {
        name: "resnet50",
        published: Some("resnet50-0676ba61.pth"),
        plan: |config| resnet(config, Blocks::Bottleneck([3, 4, 6, 3])),
        ..RESNET
    },
    Row {
        name: "resnet101",
        published: Some("resnet101-63fe2227.pth"),
        plan: |config| resnet(config, Blocks::Bottleneck([3, 4, 23, 3])),
        ..RESNET
    },
    Row {
        name: "resnet152",
        published: Some("resnet152-394f9c45.pth"),
        plan: |config| resnet(config, Blocks::Bottleneck([3, 8, 36, 3])),
        ..RESNET
    },
    Row {
        name: "resnext50_32x4d",
        published: Some("resnext50_32x4d-7cdf4587.pth"),
        plan: |config| resnet(config, Blocks::Grouped { counts: [3, 4, 6, 3], groups: 32, group_width: 4 }),
        ..RESNET
    },
    Row {
        name: "resnext101_32x8d",
        published: Some("resnext101_32x8d-8ba56ff5.pth"),
        plan: |config| resnet(config, Blocks::Grouped { counts: [3, 4, 23, 3], groups: 32, group_width: 8 }),
        ..RESNET
    },
    Row {
        name: "resnext101_64x4d",
        published: Some("resnext101_64x4d-173b62eb.pth"),
        plan: |config| resnet(config, Blocks::Grouped { counts: [3, 4, 23, 3], groups: 64, group_width: 4 }),
        ..RESNET
    },
    Row {
        name: "mobilenet_v1",
        stem_channels: 32,
        bottlenecks: false,
        residual: false,
        published: None,
        classifier: ClassifierLayers { trunk: "model", ..ClassifierLayers::RESNET },
        levels: C2_TO_C5,
        plan: mobilenet_v1,
    },
    Row {
        name: "mobilenet_v2",
        stem_channels: 32,
        bottlenecks: false,
        residual: false,
        published: Some("mobilenet_v2-b0353104.pth"),
        classifier: ClassifierLayers {
            trunk: "features",
            head: "classifier.1",
            head_deviation: Some(0.01),
            ..ClassifierLayers::RESNET
        },
        levels: C2_TO_C5,
        plan: mobilenet_v2,
    },
    Row {
        name: "mobilenet_v3_large",
        stem_channels: 16,
        bottlenecks: false,
        residual: false,
        published: Some("mobilenet_v3_large-8738ca79.pth"),
        classifier: ClassifierLayers {
            trunk: "features",
            hidden: Some(HiddenLayer { name: "classifier.0", width: 1280 }),
            head: "classifier.3",
            head_deviation: Some(0.01),
            batch_norm: BatchNormRule { epsilon: 0.001, momentum: 0.01 },
        },
        levels: C2_TO_C5,
        plan: mobilenet_v3_large,
    },
];

/// Channels that a network adds at most where it rounds them.
const ROUNDING: usize = 8;

/// A trunk told by its tensors.
#[derive(Debug, Clone)]
pub struct Recognised {
    /// The network.
    pub backbone: Backbone,
    /// Channels of its first layer.
    pub stem_channels: usize,
    /// Prefix of the names of its tensors.
    pub prefix: String,
    /// Name of its first norm.
    pub first_norm: String,
}

impl Backbone {
    /// ResNet-18.
    pub const RESNET18: Self = Self(&ROWS[0]);
    /// ResNet-50.
    pub const RESNET50: Self = Self(&ROWS[2]);

    /// Iterates over all registered backbones.
    pub fn all() -> impl Iterator<Item = Self> + Clone {
        ROWS.iter().map(Self)
    }

    /// Word that stands for it in a configuration; torchvision's name, where it has the network.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Channels of the published network's first layer.
    pub fn stem_channels(self) -> usize {
        self.0.stem_channels
    }

    /// Whether it is made of blocks of 1x1, 3x3, 1x1, of which one or the other can halve the resolution.
    pub fn has_bottlenecks(self) -> bool {
        self.0.bottlenecks
    }

    /// Whether its stages are equal residual blocks: such stages can be computed again on the way back, and be branches.
    pub fn is_residual(self) -> bool {
        self.0.residual
    }

    /// File of ImageNet weights at <https://download.pytorch.org/models/>.
    pub fn published(self) -> Option<&'static str> {
        self.0.published
    }

    /// Names in a published classifier with this trunk.
    pub fn classifier(self) -> ClassifierLayers {
        self.0.classifier
    }

    /// Levels of the trunk's maps, fine to coarse.
    pub fn levels(self) -> &'static [Level] {
        self.0.levels
    }

    pub(super) fn plan(self, config: &BackboneConfig) -> Result<Plan> {
        (self.0.plan)(config)
    }

    /// The largest trunk whose convolutions are among tensors of these names and shapes, alone or in its
    /// classifier;
    /// `None`: there is none. Linear layers and norms may be there beyond it.
    ///
    /// # Errors
    /// If convolutions are left over: it is a larger network than any that is known here.
    pub fn recognise(shapes: &BTreeMap<String, Vec<usize>>) -> Result<Option<Recognised>> {
        let fitting = Self::all().flat_map(|backbone| {
            let prefixes = [String::new(), format!("{}.", backbone.classifier().trunk)];
            prefixes.map(|prefix| Recognised::of(backbone, &prefix, shapes))
        });
        let Some((found, plan)) = fitting.flatten().max_by_key(|(_, plan)| plan.kernels().count()) else {
            return Ok(None);
        };
        let known: BTreeSet<String> =
            plan.kernels().map(|(name, _)| format!("{}{name}", found.prefix)).collect();
        let is_over = |(name, shape): &(&String, &Vec<usize>)| {
            shape.len() == 4 && name.starts_with(&found.prefix) && !known.contains(*name)
        };
        match shapes.iter().find(is_over) {
            None => Ok(Some(found)),
            Some((name, shape)) => {
                let reason = format!(
                    "it has all convolutions of {}, but {name} {shape:?} is left over; it is none of {}",
                    found.backbone,
                    Self::all().map(Self::name).collect::<Vec<_>>().join(", ")
                );
                Err(Error::Invalid { part: "backbone", reason })
            }
        }
    }
}

impl Recognised {
    /// `backbone` in the layer called `prefix`, with its plan, if all of its convolutions are there.
    fn of(backbone: Backbone, prefix: &str, shapes: &BTreeMap<String, Vec<usize>>) -> Option<(Self, Plan)> {
        let shape = |name: &str| shapes.get(&format!("{prefix}{name}"));
        let published = BackboneConfig::new(backbone);
        let (first, _) = published.plan().ok()?.kernels().next()?;
        let own = *shape(&first)?.first()?;
        // Networks that round their channels may be of another width than their first layer says.
        let widths = std::iter::once(own).chain((1..own + ROUNDING).filter(|width| *width != own));
        let mut fitting = widths.filter_map(|stem_channels| {
            let plan = published.with_stem_channels(stem_channels).plan().ok()?;
            let fits = |(name, kernel): (String, [usize; 4])| shape(&name).is_some_and(|own| *own == kernel);
            let all = plan.kernels().all(fits);
            all.then_some((stem_channels, plan))
        });
        let (stem_channels, plan) = fitting.next()?;
        let first_norm = format!("{prefix}{}", plan.first_norm()?);
        Some((Self { backbone, stem_channels, prefix: prefix.to_owned(), first_norm }, plan))
    }
}

impl PartialEq for Backbone {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Backbone {}

impl fmt::Debug for Backbone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Backbone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Backbone {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::all().find(|known| known.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Self::all().map(Self::name).collect();
            let reason = format!("{name:?} is none of {}", names.join(", "));
            Error::Invalid { part: "backbone", reason }
        })
    }
}

impl serde::Serialize for Backbone {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Read for Backbone {
    fn read(node: &Node, path: &str, findings: &mut Vec<Diagnostic>) -> Option<Self> {
        let word = String::read(node, path, findings)?;
        let known = word.parse().ok();
        if known.is_none() {
            findings.push(unknown_word(node, path, &word, Self::all().map(Self::name)));
        }
        known
    }

    fn takes() -> String {
        Self::all().map(|backbone| format!("\"{backbone}\"")).collect::<Vec<_>>().join(" or ")
    }
}
