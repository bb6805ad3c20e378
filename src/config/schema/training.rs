//! Optimiser, schedule, and the loops of training and evaluation.

use ckd_settings::{Check, choices, section};

section! {
    /// Stochastic gradient descent, as PyTorch's `SGD`.
    pub struct Optim {
        /// Learning rate after warm-up, for a whole (accumulated) batch.
        pub lr: f64,
        /// Momentum.
        pub momentum: f64 = 0.9,
        /// Nesterov momentum.
        pub nesterov: bool = false,
        /// Weight decay of convolutions and linear layers.
        pub weight_decay: f64 = 1e-4,
        /// Weight decay of normalisation layers. Default: `weight_decay`.
        pub weight_decay_norm: Option<f64>,
        /// Weight decay of biases. Default: `weight_decay`.
        pub weight_decay_bias: Option<f64>,
        /// Gradients whose norm over all parameters is larger are scaled down to it.
        pub clip_grad_norm: Option<f64>,
    }
}

impl Optim {
    fn check(&self, check: &mut Check<'_>) {
        check.positive("lr", self.lr);
        check.that(
            (0.0..1.0).contains(&self.momentum),
            "momentum",
            format!("is {}", self.momentum),
            "give a number from 0 to below 1",
        );
        check.that(
            !self.nesterov || self.momentum > 0.0,
            "nesterov",
            "needs momentum, which is 0",
            "raise momentum, or set nesterov = false",
        );
        check.not_negative("weight_decay", self.weight_decay);
        check.not_negative("weight_decay_norm", self.norm_decay());
        check.not_negative("weight_decay_bias", self.bias_decay());
        if let Some(norm) = self.clip_grad_norm {
            check.positive("clip_grad_norm", norm);
        }
    }

    /// Weight decay of normalisation layers.
    pub fn norm_decay(&self) -> f64 {
        self.weight_decay_norm.unwrap_or(self.weight_decay)
    }

    /// Weight decay of biases.
    pub fn bias_decay(&self) -> f64 {
        self.weight_decay_bias.unwrap_or(self.weight_decay)
    }
}

choices! {
    /// The learning rate over time, after warm-up.
    pub enum ScheduleKind {
        /// Times `gamma` at every milestone.
        MultiStep = "multi_step",
        /// Half a cosine from lr to lr * `final_lr_factor`.
        Cosine = "cosine",
        /// lr throughout.
        Constant = "constant",
    }
}

section! {
    /// How long, and the learning rate over time: exactly one of `steps` and `epochs`. A layer that
    /// gives the other one replaces it, and the milestones and `train.eval_every` in its unit.
    pub struct Schedule {
        /// Optimiser steps.
        pub steps: Option<u64>,
        /// Passes over the training images.
        pub epochs: Option<u64>,
        /// The learning rate over time, after warm-up.
        pub kind: ScheduleKind = ScheduleKind::MultiStep,
        /// multi_step: when the learning rate drops, ascending, in the unit of steps or epochs; those
        /// after the end never come.
        pub milestones: Vec<f64> = Vec::new(),
        /// multi_step: what the learning rate is multiplied with.
        pub gamma: f64 = 0.1,
        /// The learning rate rises linearly over this many steps.
        pub warmup_steps: u64 = 1000,
        /// It starts at lr * `warmup_factor`.
        pub warmup_factor: f64 = 0.001,
        /// cosine: it ends at lr * `final_lr_factor`.
        pub final_lr_factor: f64 = 0.0,
    }
}

/// How long a run is; also the unit of `milestones` and `eval_every`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// Optimiser steps.
    Steps(u64),
    /// Passes over the training images.
    Epochs(u64),
}

impl Schedule {
    fn check(&self, check: &mut Check<'_>) {
        match (self.steps, self.epochs) {
            (Some(_), Some(_)) => {
                check.that(false, "epochs", "and self.steps are both given", "keep one of the two");
            }
            (None, None) => {
                check.that(false, "steps", "is missing, and so is self.epochs", "give one of the two");
            }
            (Some(steps), None) => check.at_least_one("steps", steps),
            (None, Some(epochs)) => check.at_least_one("epochs", epochs),
        }
        let milestones = &self.milestones;
        if self.kind == ScheduleKind::MultiStep {
            check.that(
                !milestones.is_empty(),
                "milestones",
                "is empty, but self.kind = \"multi_step\"",
                "say when the learning rate drops (in the unit of steps or epochs), or set kind = \"constant\"",
            );
        }
        let ascending = milestones.windows(2).all(|pair| pair[0] < pair[1]);
        check.that(
            ascending && milestones.iter().all(|milestone| *milestone > 0.0),
            "milestones",
            format!("is not ascending from above 0: {milestones:?}"),
            "give the steps (or epochs) in order, each once",
        );
        check.positive("gamma", self.gamma);
        check.fraction("warmup_factor", self.warmup_factor);
        check.fraction("final_lr_factor", self.final_lr_factor);
    }

    /// How long the run is.
    pub fn length(&self) -> Length {
        match (self.steps, self.epochs) {
            (Some(steps), _) => Length::Steps(steps),
            // A validated configuration has exactly one of the two.
            (None, epochs) => Length::Epochs(epochs.unwrap_or_default()),
        }
    }
}

section! {
    /// The training loop.
    pub struct Train {
        /// Images per forward pass.
        pub batch_size: usize = 2,
        /// Forward passes per optimiser step; their gradients are averaged.
        pub accumulate: usize = 1,
        /// Evaluate this often, in the schedule's unit (steps or epochs). Default: at the end only.
        pub eval_every: Option<u64>,
        /// Write a checkpoint every this many steps. Default: at every evaluation.
        pub checkpoint_every: Option<u64>,
        /// Checkpoints kept; older ones are removed.
        pub keep_checkpoints: usize = 2,
        /// Log every this many steps.
        pub log_every: u64 = 20,
        /// Over this many first steps, measure each method's part of the gradient, and report it then and at the
        /// end. Of a detector it is measured at the student's pyramid: a measured step runs the heads once more for
        /// each method that compares logits, and its sums round differently. Of a classifier it is measured at all
        /// its weights: a measured step runs the student once more for each method, and is the same otherwise.
        pub share_steps: u64 = 0,
        /// Also train the same student without distillation on the same data order, and compare.
        pub compare_alone: bool = false,
    }
}

impl Train {
    fn check(&self, check: &mut Check<'_>) {
        check.at_least_one("batch_size", self.batch_size);
        check.at_least_one("accumulate", self.accumulate);
        check.at_least_one("eval_every", self.eval_every.unwrap_or(1));
        check.at_least_one("checkpoint_every", self.checkpoint_every.unwrap_or(1));
        check.at_least_one("keep_checkpoints", self.keep_checkpoints);
        check.at_least_one("log_every", self.log_every);
    }
}

choices! {
    /// What the factors of training's products are rounded to.
    pub enum Precision {
        /// Nothing.
        F32 = "f32",
        /// bfloat16 where the processor multiplies such numbers, in teacher and student; weights, sums and the
        /// gradients of weights stay f32, and so do 3x3 convolutions of stride 1 (Winograd's form).
        Bf16 = "bf16",
    }
}

choices! {
    /// A stage of the student's backbone.
    pub enum Stage {
        /// Stride 4.
        Layer1 = "layer1",
        /// Stride 8.
        Layer2 = "layer2",
        /// Stride 16.
        Layer3 = "layer3",
        /// Stride 32.
        Layer4 = "layer4",
    }
}

section! {
    /// How training computes.
    pub struct Engine {
        /// What the factors of products are rounded to. Evaluation and inference are always f32.
        pub precision: Precision = Precision::F32,
        /// Stages of the student's ResNet whose activations are not kept but computed again: less memory, more time.
        pub recompute: Vec<Stage> = Vec::new(),
    }
}

section! {
    /// The evaluation loop.
    pub struct Eval {
        /// Images per forward pass.
        pub batch_size: usize = 1,
        /// Evaluate the first so many images only. Default: all.
        pub max_images: Option<usize>,
    }
}

impl Eval {
    fn check(&self, check: &mut Check<'_>) {
        check.at_least_one("batch_size", self.batch_size);
        check.at_least_one("max_images", self.max_images.unwrap_or(1));
    }
}
