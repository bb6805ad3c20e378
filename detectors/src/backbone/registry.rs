//! Every trunk by its name.

use std::fmt;
use std::str::FromStr;

use ckd_settings::{Diagnostic, Node, Read, unknown_word};

use super::BackboneConfig;
use super::mobilenet_v1::mobilenet_v1;
use super::mobilenet_v2::mobilenet_v2;
use super::plan::{ConvNormPlan, Plan};
use super::resnet::{Blocks, resnet};
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
    /// Linear layer behind the pooling.
    pub head: &'static str,
    /// Standard deviation that its weights begin with, and no bias; `None`: PyTorch's defaults.
    pub head_deviation: Option<f64>,
}

impl ClassifierLayers {
    const RESNET: Self = Self { trunk: "", head: "fc", head_deviation: None };
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

static ROWS: [Row; 10] = [
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
        classifier: ClassifierLayers { trunk: "features", head: "classifier.1", head_deviation: Some(0.01) },
        levels: C2_TO_C5,
        plan: mobilenet_v2,
    },
];

/// A trunk told by its tensors.
#[derive(Debug, Clone)]
pub struct Recognised {
    /// The network.
    pub backbone: Backbone,
    /// Channels of its first layer.
    pub stem_channels: usize,
    /// What its tensors' names begin with.
    pub prefix: String,
    /// Name of its first norm.
    pub first_norm: String,
}

impl Backbone {
    /// ResNet-18.
    pub const RESNET18: Self = Self(&ROWS[0]);
    /// ResNet-50.
    pub const RESNET50: Self = Self(&ROWS[2]);

    /// All of them.
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

    /// The largest trunk whose convolutions have these names and shapes, alone or in its classifier; there may be
    /// further tensors.
    pub fn recognise(shape: impl Fn(&str) -> Option<Vec<usize>>) -> Option<Recognised> {
        let fitting = Self::all().flat_map(|backbone| {
            let prefixes = [String::new(), format!("{}.", backbone.classifier().trunk)];
            prefixes.map(|prefix| Recognised::of(backbone, &prefix, &shape))
        });
        fitting.flatten().max_by_key(|(_, convolutions)| *convolutions).map(|(recognised, _)| recognised)
    }
}

impl Recognised {
    /// `backbone` in the layer called `prefix`, with its number of convolutions, if all are there.
    fn of(
        backbone: Backbone,
        prefix: &str,
        shape: impl Fn(&str) -> Option<Vec<usize>>,
    ) -> Option<(Self, usize)> {
        let shape = |name: &str| shape(&format!("{prefix}{name}.weight"));
        let published = BackboneConfig::new(backbone);
        let (conv, norm) = published.plan().ok()?.convolutions().next()?.names.clone();
        let stem_channels = *shape(&conv)?.first()?;
        let plan = published.with_stem_channels(stem_channels).plan().ok()?;
        let fits = |conv: &ConvNormPlan| shape(&conv.names.0).is_some_and(|own| own == conv.shape);
        let first_norm = format!("{prefix}{norm}");
        let recognised = Self { backbone, stem_channels, prefix: prefix.to_owned(), first_norm };
        plan.convolutions().all(fits).then_some((recognised, plan.convolutions().count()))
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
