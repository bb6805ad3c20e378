//! The networks of a cohort, and what is trained beside them (METHODS of MCL and L-MCL, section 2a of the paper's code):
//!
//! ```text
//! MCL    u = unit( Linear(relu(Linear(f))) )                       of the pooled features f of the last stage
//! L-MCL  the same of every stage: a branch of a stage's map has the later stages again, so its f is as wide as the last
//!        a = Linear(relu(Linear(all f)))  (B, L)                   the shares of the stages in the aggregated teacher
//!        A f                                                       phi: what weights of pairs of stages compare
//! ```

use candle_core::{Device, Tensor};
use ckd_detectors::classifier::{Behind, Classifier, Tail};
use ckd_detectors::images::Images;
use ckd_detectors::init::Init;
use ckd_detectors::nn::{Linear, Mode};
use ckd_detectors::param::{Builder, ParamStore};
use ckd_detectors::taps::{Tap, Taps};
use ckd_kernels::Value;
use ckd_kernels::elementwise::concatenate;
use ckd_kernels::linear::Activation::{Identity, Relu};
use ckd_kernels::normalize::l2_normalize_rows;

use crate::config::CohortConfig;
use crate::data::Labelled;
use crate::distill::ByClass;
use crate::distill::mcl::{CohortMethod, aggregate};
use crate::engine::classify::student;
use crate::engine::task::Network;
use crate::engine::{EngineError, Result};

/// All networks, and what is trained beside them.
#[derive(Debug)]
pub struct Cohort {
    peers: Vec<Peer>,
    /// Branches and heads: what virtual updates move, beside the networks.
    heads: ParamStore,
    /// The aggregators.
    aggregators: ParamStore,
    /// phi.
    matching: ParamStore,
    memories: ParamStore,
    /// The training images that are remembered.
    by_class: Option<ByClass>,
}

/// A network and its own parts.
#[derive(Debug)]
pub struct Peer {
    classifier: Classifier,
    branches: Vec<Box<dyn Tail>>,
    /// Embedding heads, one for each layer, the network's own the last.
    embed: Vec<Mlp>,
    /// L-MCL's.
    stages: Option<Stages>,
    /// The embeddings of all training images, (n, D).
    memory: Option<Tensor>,
}

#[derive(Debug)]
struct Stages {
    aggregator: Mlp,
    /// Layer matching, one for each layer.
    matching: Vec<Linear>,
}

/// Two linear layers with a ReLU between them.
#[derive(Debug)]
struct Mlp([Linear; 2]);

/// Outputs of a layer of a network for a batch.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// Pooled features (B, D).
    pub(super) features: Value,
    /// (B, classes).
    pub(super) logits: Value,
    /// (B, width), unit rows.
    pub(super) embedding: Value,
}

impl Cohort {
    /// The cohort of `config` with random weights, for the training images `train`.
    ///
    /// # Errors
    /// If a network cannot be built.
    pub fn new(config: &CohortConfig, train: &Labelled, device: &Device) -> Result<Self> {
        let builder = |name: &str| Builder::new(config.run.seed, device).within(name);
        let makers = Makers {
            heads: builder("heads"),
            aggregators: builder("aggregate"),
            matching: builder("match"),
            memories: builder("memory"),
        };
        let peers = (0..config.peer.len())
            .map(|index| Peer::new(config, index, train, &makers, device))
            .collect::<Result<Vec<_>>>()?;
        let Makers { heads, aggregators, matching, memories } = makers;
        let (heads, aggregators) = (heads.finish(), aggregators.finish());
        let (matching, memories) = (matching.finish(), memories.finish());
        let by_class = config.cohort.bank.as_ref().map(|_| ByClass::new(train.labels.clone())).transpose()?;
        Ok(Self { peers, heads, aggregators, matching, memories, by_class })
    }

    /// The networks with their parts.
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// The networks as they are written.
    pub(super) fn networks(&self) -> Vec<Network<'_>> {
        let params = self.peers.iter().map(|peer| peer.classifier.params()).enumerate();
        params
            .map(|(index, params)| Network {
                folder: folder(index),
                prefix: format!("peer.{index}."),
                params,
            })
            .collect()
    }

    /// Parameters and memory banks that are kept beside the networks.
    pub(super) fn beside(&self) -> Vec<&ParamStore> {
        vec![&self.heads, &self.aggregators, &self.matching, &self.memories]
    }

    /// Parameters that L-MCL's virtual updates move: networks, branches and heads.
    pub(super) fn theta(&self) -> Vec<&ParamStore> {
        self.peers.iter().map(|peer| peer.classifier.params()).chain([&self.heads]).collect()
    }

    /// Parameters of the layer matching, which weighs the pairs of stages.
    pub(super) fn phi(&self) -> &ParamStore {
        &self.matching
    }

    /// The training images that are remembered.
    pub(super) fn by_class(&self) -> Option<&ByClass> {
        self.by_class.as_ref()
    }

    /// The embeddings of all training images by each network, (n, D), if they are remembered.
    pub(super) fn memories(&self) -> impl Iterator<Item = &Tensor> {
        self.peers.iter().filter_map(|peer| peer.memory.as_ref())
    }

    /// Outputs of every layer of every network for `images`; each network runs once.
    pub(super) fn layers(&self, images: &Images, mode: Mode) -> Result<Vec<Vec<Layer>>> {
        self.peers.iter().map(|peer| peer.layers(images, mode)).collect()
    }
}

/// Makes the parts of all networks.
struct Makers {
    heads: Builder,
    aggregators: Builder,
    matching: Builder,
    memories: Builder,
}

impl Peer {
    fn new(
        config: &CohortConfig,
        index: usize,
        train: &Labelled,
        makers: &Makers,
        device: &Device,
    ) -> Result<Self> {
        let (settings, classes) = (&config.cohort, train.classes.len());
        let network = config.peer[index].network;
        let own = Builder::new(config.run.seed, device).within("peer").within(index);
        let classifier = student(&config.alone(network), classes, own)?;
        let side = config.labelled.input.side_px as usize;
        let shapes = classifier.tap_shapes((side, side))?;
        let features = shapes.get(&Tap::Embedding).and_then(|shape| shape.last()).copied().unwrap_or(0);

        let heads = makers.heads.within(index);
        let behind = |stage| Behind { stage, blocks: settings.layers.branch_blocks };
        let branches: Vec<Box<dyn Tail>> = match settings.method {
            CohortMethod::Mcl => Vec::new(),
            CohortMethod::LMcl => (1..network.stages())
                .map(|stage| network.branch(&heads.within("branch").within(stage), classes, behind(stage)))
                .collect::<std::result::Result<_, _>>()?,
        };
        let layers = branches.len() + 1;
        let embed = (0..layers)
            .map(|layer| {
                let within = heads.within("embed").within(layer);
                Mlp::new(&within, (features, settings.width, settings.width))
            })
            .collect::<Result<_>>()?;
        let stages = match settings.method {
            CohortMethod::Mcl => None,
            CohortMethod::LMcl => {
                let matching = makers.matching.within(index);
                Some(Stages {
                    aggregator: Mlp::new(
                        &makers.aggregators.within(index),
                        (layers * features, features, layers),
                    )?,
                    matching: (0..layers)
                        .map(|layer| Linear::new(&matching.within(layer), features, settings.width))
                        .collect::<std::result::Result<_, _>>()?,
                })
            }
        };
        let memory = settings.bank.as_ref().map(|_| {
            let bound = Init::Uniform((3.0 / settings.width as f64).sqrt());
            makers.memories.within(index).buffer("rows", &[train.len(), settings.width], bound)
        });
        Ok(Self { classifier, branches, embed, stages, memory: memory.transpose()? })
    }

    /// The network.
    pub fn classifier(&self) -> &Classifier {
        &self.classifier
    }

    fn layers(&self, images: &Images, mode: Mode) -> Result<Vec<Layer>> {
        let whole = self.classifier.forward(images, mode)?;
        let mut layers = Vec::with_capacity(self.embed.len());
        for ((stage, branch), embed) in (1..).zip(&self.branches).zip(&self.embed) {
            let map = whole.require(Tap::Backbone(stage)).map_err(EngineError::missing_tap)?;
            layers.push(Layer::of(&branch.forward(map, mode)?, embed)?);
        }
        let last = self.embed.last().expect("a network has a last layer");
        layers.push(Layer::of(&whole, last)?);
        Ok(layers)
    }

    /// The logits of all layers in the shares that the aggregator gives them; `None` with MCL.
    pub(super) fn aggregated(&self, layers: &[Layer]) -> Result<Option<Value>> {
        let Some(stages) = &self.stages else { return Ok(None) };
        let features: Vec<Value> = layers.iter().map(|layer| layer.features.clone()).collect();
        let logits: Vec<Value> = layers.iter().map(|layer| layer.logits.clone()).collect();
        let shares = stages.aggregator.forward(&concatenate(&features, 1)?)?;
        Ok(Some(aggregate(&logits, &shares)?))
    }

    /// A f of every layer; empty with MCL.
    pub(super) fn matched(&self, layers: &[Layer]) -> Result<Vec<Value>> {
        let matching = self.stages.iter().flat_map(|stages| &stages.matching);
        matching.zip(layers).map(|(own, layer)| Ok(own.forward(&layer.features, Identity)?)).collect()
    }
}

impl Layer {
    fn of(taps: &Taps, embed: &Mlp) -> Result<Self> {
        let at = |tap| taps.require(tap).cloned().map_err(EngineError::missing_tap);
        let (features, logits) = (at(Tap::Embedding)?, at(Tap::Logits)?);
        let embedding = l2_normalize_rows(&embed.forward(&features)?, 1e-12)?;
        Ok(Self { features, logits, embedding })
    }
}

impl Mlp {
    fn new(builder: &Builder, (inputs, hidden, outputs): (usize, usize, usize)) -> Result<Self> {
        let first = Linear::new(&builder.within(0), inputs, hidden)?;
        // As in a sequence of Linear, ReLU, Linear.
        Ok(Self([first, Linear::new(&builder.within(2), hidden, outputs)?]))
    }

    fn forward(&self, x: &Value) -> Result<Value> {
        let [first, second] = &self.0;
        Ok(second.forward(&first.forward(x, Relu)?, Identity)?)
    }
}

/// The folder of a network's files below the run's.
pub(super) fn folder(index: usize) -> String {
    format!("peer{index}")
}
