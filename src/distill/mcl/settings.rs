//! The keys of MCL and L-MCL: the `[cohort]` table.

use ckd_settings::{Check, Section, choices, section};

use super::pair::{Instance, Pair};
use crate::distill::method::MethodCard;
use crate::distill::parts::NegativesFrom;

choices! {
    /// The methods by which networks learn from each other.
    #[non_exhaustive]
    pub enum CohortMethod {
        /// Mutual contrastive learning of the networks' embeddings: each network contrasts images by their
        /// labels, on its own (VCL) and against the other networks (ICL), and takes over the others' softened
        /// similarities (sVCL, sICL).
        Mcl = "mcl",
        /// Layer-wise mutual contrastive learning: MCL between all stages of all networks, with auxiliary
        /// branches that are dropped after training, an aggregated teacher of each network's stages, and a
        /// weight for each pair of stages and image that is learned by a meta-optimisation.
        LMcl = "l_mcl",
    }
}

section! {
    /// Mutual learning of the networks of a cohort.
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
        /// Divides the cosines (ImageNet: 0.07).
        pub tau: f64 = 0.1,
        /// Divides similarities again where they are softened.
        pub temperature: f64 = 3.0,
        /// mcl: weight of T² times the divergence of each network's logits from the mean of all networks'
        /// logits, softened by `temperature` ("logit KD" in the paper, with weight 1; with four networks the
        /// authors teach the last one only).
        pub logit_kd: f64 = 0.0,
        /// Columns of an embedding.
        pub width: usize = 128,
        /// Role of the pair of an image and itself in ICL.
        pub same_image: Instance = Instance::Excluded,
        /// The images among which an image is contrasted: those of the batch or of the whole update. L-MCL's meta steps
        /// contrast within a batch.
        pub negatives_from: NegativesFrom = NegativesFrom::Part,
        /// Contrast with memories of all training images, of the networks' last layers, instead of the batch,
        /// for large data sets. Default: the batch.
        pub bank: Option<Bank>,
        /// l_mcl: the stages and their weights.
        pub layers: Layers = Layers::default(),
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
            check.that(
                self.negatives_from == NegativesFrom::Part,
                "negatives_from",
                "is \"update\", but negatives come from the memories of [cohort.bank]",
                "leave one of them out",
            );
            check.at_least_one("bank.negatives", bank.negatives);
            check.fraction("bank.momentum", bank.momentum);
        }
        if self.method == CohortMethod::LMcl {
            self.layers.check_used(&mut check.within("layers"));
        }
    }

    /// The weights and temperatures of each pair of networks.
    pub fn pair(&self) -> Pair {
        Pair {
            vcl: self.alpha,
            icl: self.beta,
            soft_vcl: self.gamma,
            soft_icl: self.lambda,
            tau: self.tau,
            temperature: self.temperature,
            instance: self.same_image,
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
    /// L-MCL's layer matching: the stages of the networks, and the weights of their pairs.
    pub struct Layers {
        /// Blocks of each stage of an auxiliary branch. Default: as many as the network's own stage has
        /// (CIFAR); the authors' ImageNet ResNets have 1.
        pub branch_blocks: Option<usize>,
        /// T of the divergence from the aggregated teachers.
        pub kd_temperature: f64 = 3.0,
        /// The pairs' weights learn after every so many updates (ImageNet: 500); 0: never, they stay as they
        /// begin.
        pub meta_every: u64 = 50,
        /// Virtual updates by the contrastive loss before the one by the labels.
        pub meta_steps: usize = 2,
        /// The learning rate of those weights over that of the networks.
        pub meta_lr_factor: f64 = 1.0,
        /// The length of a central difference over that of the weights.
        pub meta_difference: f64 = 1e-4,
    }
}

impl Layers {
    /// Checks the keys, which count for l_mcl alone.
    fn check_used(&self, check: &mut Check<'_>) {
        check.at_least_one("branch_blocks", self.branch_blocks.unwrap_or(1));
        check.positive("kd_temperature", self.kd_temperature);
        check.at_least_one("meta_steps", self.meta_steps);
        check.positive("meta_lr_factor", self.meta_lr_factor);
        check.positive("meta_difference", self.meta_difference);
    }
}

impl CohortMethod {
    /// The publication.
    pub fn paper(self) -> &'static str {
        "Yang et al., arXiv 2207.11518"
    }

    /// Summary of the method.
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
                 branches, with an aggregated teacher of each network's stages and learned layer matching (weights of the pairs)."
            }
        }
    }
}
