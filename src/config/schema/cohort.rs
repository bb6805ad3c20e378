//! Networks that learn from each other: `task = "cohort"`.

use std::path::PathBuf;

use ckd_detectors::classifier::Architecture;
use ckd_settings::{Check, Section, choices, section};

use super::check_name;
use super::classify::{
    Bn, ClassifierStudent, ClassifyConfig, LabelledData, LabelledInput, Probe, Task, check_labelled,
};
use super::data::Normalization;
use super::distill::MethodCard;
use super::training::{Engine, Eval, Optim, Schedule, Train};

section! {
    /// One experiment on image classifiers that train together, from scratch and without a teacher.
    pub struct CohortConfig {
        /// Names the run's folder. Default: the name of the file.
        pub name: String,
        /// What is learned; the other keys depend on it.
        pub task: Task,
        /// Every random number of the run follows from it.
        pub seed: u64 = 0,
        /// The folder that runs are written to: OUTPUT/NAME/peer0/, peer1/, ...
        pub output: PathBuf = PathBuf::from("runs"),
        /// Weight of every cross-entropy with the labels in the total loss.
        pub loss_weight: f64 = 1.0,
        /// The share of the target that is spread over all classes.
        pub label_smoothing: f64 = 0.0,
        /// How images are cropped, flipped and coloured; all networks see the same.
        pub input: LabelledInput,
        /// What images are normalised with. Default: the data set's own mean and deviation.
        pub normalization: Option<Normalization>,
        /// The images and labels.
        pub data: LabelledData,
        /// The networks, two or more, equal or not.
        pub peer: Vec<Peer> = Vec::new(),
        /// How they learn from each other.
        pub cohort: Cohort,
        /// The optimiser: SGD, of all networks and of what is trained beside them.
        pub optim: Optim,
        /// How long, and the learning rate over time.
        pub schedule: Schedule,
        /// The training loop; an update is one of all networks, on the same images.
        pub train: Train,
        /// How training computes.
        pub engine: Engine,
        /// The evaluation loop.
        pub eval: Eval,
    }
}

section! {
    /// A network of a cohort.
    pub struct Peer {
        /// The network.
        pub network: Architecture,
    }
}

choices! {
    /// The methods by which networks learn from each other.
    pub enum CohortMethod {
        /// Mutual contrastive learning of the networks' embeddings: each network contrasts images by their labels, on its
        /// own (VCL) and against the other networks (ICL), and takes over the others' softened similarities (sVCL, sICL).
        Mcl = "mcl",
        /// Layer-wise mutual contrastive learning: MCL between all stages of all networks, with auxiliary branches that
        /// are dropped after training, an aggregated teacher of each network's stages, and a weight for each pair of
        /// stages and image that is learned by a meta-optimisation.
        LMcl = "l_mcl",
    }
}

choices! {
    /// What an image and itself, seen by another network, are to the contrast across networks.
    pub enum SameImage {
        /// Neither positive nor negative: the authors' code for CIFAR.
        Excluded = "excluded",
        /// A positive: as with their memory, on ImageNet.
        Included = "included",
    }
}

section! {
    /// How the networks of a cohort learn from each other.
    pub struct Cohort {
        /// The method.
        pub method: CohortMethod,
        /// Weight of VCL, the contrast within each network (ImageNet with l_mcl: 0.01).
        pub alpha: f64 = 0.1,
        /// Weight of ICL, the contrast across networks (ImageNet with l_mcl: 0.01).
        pub beta: f64 = 0.1,
        /// Weight of sVCL: a network's similarities are to be those of the others.
        pub gamma: f64 = 1.0,
        /// Weight of sICL: the similarities across two networks are to be the same from both sides.
        pub lambda: f64 = 1.0,
        /// What cosines are divided by (ImageNet: 0.07).
        pub tau: f64 = 0.1,
        /// What similarities are divided by again where they are softened.
        pub temperature: f64 = 3.0,
        /// mcl: weight of T² times the divergence of each network's logits from the mean of all networks' logits, softened
        /// by `temperature` ("logit KD" in the paper, with weight 1; with four networks the authors teach the last one only).
        pub logit_kd: f64 = 0.0,
        /// Columns of an embedding.
        pub width: usize = 128,
        /// What an image and itself are to ICL.
        pub same_image: SameImage = SameImage::Excluded,
        /// Contrast with memories of all training images, of the networks' last layers, instead of the batch, for large
        /// data sets. Default: the batch.
        pub bank: Option<Bank>,
        /// l_mcl: the stages and their weights.
        pub layers: Layers,
    }
}

impl Cohort {
    fn check(&self, check: &mut Check<'_>) {
        let Cohort { alpha, beta, gamma, lambda, .. } = *self;
        for (key, weight) in [("alpha", alpha), ("beta", beta), ("gamma", gamma), ("lambda", lambda)] {
            check.not_negative(key, weight);
        }
        check.not_negative("logit_kd", self.logit_kd);
        check.that(
            self.logit_kd == 0.0 || self.method == CohortMethod::Mcl,
            "logit_kd",
            "is given, but l_mcl's networks learn from their aggregated teachers",
            "leave it out, or set method = \"mcl\"",
        );
        check.positive("tau", self.tau);
        check.positive("temperature", self.temperature);
        check.at_least_one("width", self.width);
        if let Some(bank) = &self.bank {
            check.at_least_one("bank.negatives", bank.negatives);
            check.fraction("bank.momentum", bank.momentum);
        }
    }
}

section! {
    /// A memory of the embeddings of all training images, one for each network.
    pub struct Bank {
        /// Images of other classes drawn for each image, the same for all networks.
        pub negatives: usize = 8192,
        /// The share of the old row when an image is seen again.
        pub momentum: f64 = 0.5,
    }
}

section! {
    /// The stages of L-MCL's networks.
    pub struct Layers {
        /// Blocks of each stage of an auxiliary branch. Default: as many as the network's own stage has (CIFAR); the
        /// authors' ImageNet ResNets have 1.
        pub branch_blocks: Option<usize>,
        /// T of the divergence from the aggregated teachers.
        pub kd_temperature: f64 = 3.0,
        /// The pairs' weights learn after every so many updates (ImageNet: 500); 0: never, they stay as they begin.
        pub meta_every: u64 = 50,
        /// Virtual updates by the contrastive loss before the one by the labels.
        pub meta_steps: usize = 2,
        /// The learning rate of those weights over that of the networks.
        pub meta_lr_factor: f64 = 1.0,
        /// The length of a central difference over that of the weights.
        pub meta_difference: f64 = 1e-3,
    }
}

impl CohortMethod {
    /// Where it comes from.
    pub fn paper(self) -> &'static str {
        "Yang et al., arXiv 2207.11518"
    }

    /// What there is to know about it.
    pub fn card(self) -> MethodCard {
        let mut keys = Vec::new();
        Cohort::document_fields("", &mut keys);
        keys.retain(|key| key.path != "method");
        let foreign = match self {
            Self::Mcl => "layers",
            Self::LMcl => "logit_kd",
        };
        keys.retain(|key| key.path.split('.').next() != Some(foreign));
        MethodCard {
            method: self.word(),
            about: self.about().to_owned(),
            paper: self.paper(),
            entry: "[cohort]",
            keys,
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Mcl => {
                "Mutual contrastive learning of networks that train together: each contrasts images by their labels, on \
                 its own (VCL) and against the others (ICL), and takes over their softened similarities (sVCL, sICL)."
            }
            Self::LMcl => {
                "Layer-wise mutual contrastive learning: MCL between all stages of the networks, through auxiliary \
                 branches, with an aggregated teacher of each network's stages and learned weights of the pairs."
            }
        }
    }
}

impl CohortConfig {
    fn check(&self, check: &mut Check<'_>) {
        check_name(&self.name, check);
        check_labelled(self.loss_weight, self.label_smoothing, &self.engine, check);
        check.that(
            !self.train.compare_alone,
            "train.compare_alone",
            "needs a [[distill]] entry to compare with",
            "set compare_alone = false: without distillation the student trains alone anyway",
        );
        let peers = self.peer.len();
        check.that(
            peers >= 2,
            "peer",
            match peers {
                0 => "is missing: a cohort has no network".to_owned(),
                _ => "is one network, which has nobody to learn from".to_owned(),
            },
            "give two or more [[peer]] tables, or train one network with task = \"classify\"",
        );
        let batch = self.train.batch_size;
        check.that(
            batch >= 2,
            "train.batch_size",
            format!("is {batch}, and an image alone has no other to be compared with"),
            "give 2 or more; 128 with data.order = \"class_pairs\" is the authors'",
        );
        check.that(
            self.train.share_steps == 0,
            "train.share_steps",
            "is of methods that learn from a teacher",
            "leave it out",
        );
        if self.cohort.method == CohortMethod::LMcl {
            self.check_layers(check);
        }
    }

    fn check_layers(&self, check: &mut Check<'_>) {
        let layers = &self.cohort.layers;
        let own = &mut check.within("cohort.layers");
        own.at_least_one("branch_blocks", layers.branch_blocks.unwrap_or(1));
        own.positive("kd_temperature", layers.kd_temperature);
        own.at_least_one("meta_steps", layers.meta_steps);
        own.positive("meta_lr_factor", layers.meta_lr_factor);
        own.positive("meta_difference", layers.meta_difference);
        let optim = &self.optim;
        for (key, own) in [("norm", optim.norm_decay()), ("bias", optim.bias_decay())] {
            check.that(
                own == optim.weight_decay || layers.meta_every == 0,
                &format!("optim.weight_decay_{key}"),
                format!("is {own}, but l_mcl's virtual updates decay everything by weight_decay"),
                "leave it out",
            );
        }
        let able: Vec<&str> = Architecture::ALL
            .iter()
            .filter(|network| network.has_branches())
            .map(|network| network.name())
            .collect();
        for (index, peer) in self.peer.iter().enumerate() {
            check.that(
                peer.network.has_branches(),
                &format!("peer.{index}.network"),
                format!("is {}, of whose stages l_mcl has no auxiliary branches", peer.network),
                format!("choose from {}, or set cohort.method = \"mcl\"", able.join(", ")),
            );
        }
    }

    /// What images are normalised with.
    pub fn normalization(&self) -> Normalization {
        self.normalization.clone().unwrap_or_else(|| self.data.kind.normalization())
    }

    /// The experiment of one of its networks on its own: the same data and schedule.
    pub fn alone(&self, network: Architecture) -> ClassifyConfig {
        ClassifyConfig {
            name: self.name.clone(),
            task: Task::Classify,
            seed: self.seed,
            output: self.output.clone(),
            loss_weight: self.loss_weight,
            label_smoothing: self.label_smoothing,
            input: self.input.clone(),
            normalization: self.normalization.clone(),
            data: self.data.clone(),
            teacher: None,
            student: ClassifierStudent { network, init: None, allow_random_weights: false },
            distill: Vec::new(),
            probe: Probe { bn: Bn::Frozen },
            optim: self.optim.clone(),
            schedule: self.schedule.clone(),
            train: self.train.clone(),
            engine: self.engine.clone(),
            eval: self.eval.clone(),
        }
    }
}
