//! The loops of training and evaluation.

use ckd_settings::{Check, choices, section};

choices! {
    /// Treatment of a loss or gradient that is infinite or not a number.
    pub enum OnNonFinite {
        /// The run stops with an error.
        Stop = "stop",
        /// The step is left out: weights, statistics and memories are as before it.
        Skip = "skip",
        /// The run goes back to its newest checkpoint, and leaves the step out when it comes there again.
        Rewind = "rewind",
    }
}

section! {
    /// The training loop.
    pub struct Train {
        /// Images per forward pass.
        pub batch_size: usize = 2,
        /// Forward passes per optimiser step; their gradients are averaged.
        pub accumulate: usize = 1,
        /// Images per optimiser step, which is `batch_size` times `accumulate`: give one of the two.
        pub images_per_update: Option<usize>,
        /// Batch norms that train take the statistics of all parts of an update (synchronised batch norm). Each part then needs a
        /// process of its own: `mpirun -n PARTS`.
        pub sync_bn: bool = false,
        /// Seconds that a process of a run waits for the others before it names those that are late, and ends the run.
        pub rank_timeout_s: f64 = 600.0,
        /// Evaluate this often, in the schedule's unit (steps or epochs). Default: at the end only.
        pub eval_every: Option<u64>,
        /// End after this many evaluations in a row without a better AP or accuracy. `best.safetensors` has the best
        /// weights, `last.safetensors` those of the end. Default: the whole schedule.
        pub patience: Option<u64>,
        /// Minutes for a training with its evaluations (teacher and student have as many each). The time of a step is
        /// measured in the first ones; where the whole schedule does not fit, all of it is shortened in proportion:
        /// length, milestones and warm-up, but not the steps of `[[distill]]`. With `compare_alone` the distilled student makes
        /// as many steps as the one alone. Default: the whole schedule, however long it takes.
        pub minutes: Option<f64>,
        /// Write a checkpoint every this many steps, beside those before every evaluation and those of
        /// `checkpoint_minutes`.
        pub checkpoint_every: Option<u64>,
        /// Write a checkpoint when this many minutes have passed since the last one; 0 = never for that reason.
        pub checkpoint_minutes: f64 = 10.0,
        /// Checkpoints kept; older ones are removed.
        pub keep_checkpoints: usize = 2,
        /// Log every this many steps.
        pub log_every: u64 = 20,
        /// Over this many first steps, measure each method's part of the gradient and report it, with a warning where a
        /// weight is far off. Of a detector it is measured at the student's pyramid, of a classifier or a backbone at all its
        /// weights. A measured step takes twice as long, or longer, and is the same step bit for bit. Default: 5, and 0
        /// with `sync_bn`.
        pub share_steps: Option<u64>,
        /// Treatment of a loss or gradient that is infinite or not a number.
        pub on_non_finite: OnNonFinite = OnNonFinite::Stop,
        /// Steps that may be left out for that reason before the run stops.
        pub non_finite_limit: u64 = 10,
        /// A loss above this many times its running median (of up to 64 steps, from the 9th on) is treated like one that is
        /// not finite. Default: no such guard.
        pub spike_factor: Option<f64>,
        /// Also keep an exponential moving average of the weights: each update keeps this share of the average, 0.999 for
        /// example, and takes the rest from the weights. It is evaluated, and written as `ema.safetensors`, beside the
        /// weights themselves. Default: no average.
        pub ema_decay: Option<f64>,
        /// Also train the same student without distillation on the same data order, and compare.
        pub compare_alone: bool = false,
    }
}

impl Train {
    /// Forward passes per optimiser step.
    pub fn parts(&self) -> usize {
        let whole = self.images_per_update.map(|images| images / self.batch_size.max(1));
        whole.unwrap_or(self.accumulate)
    }

    /// First steps of which the parts of the gradient are measured.
    pub fn share_steps(&self) -> u64 {
        self.share_steps.unwrap_or(if self.sync_bn { 0 } else { 5 })
    }

    fn check(&self, check: &mut Check<'_>) {
        check.at_least_one("batch_size", self.batch_size);
        check.at_least_one("accumulate", self.accumulate);
        if let Some(images) = self.images_per_update {
            let size = self.batch_size.max(1);
            let (fewer, more) = (images / size * size, images.div_ceil(size) * size);
            let near = if fewer == 0 { more.to_string() } else { format!("{fewer} or {more}") };
            check.that(
                images > 0 && images.is_multiple_of(size),
                "images_per_update",
                format!("is {images}, no multiple of train.batch_size = {size}"),
                format!("give {near}"),
            );
            check.that(
                self.accumulate == 1 || self.accumulate == images / size,
                "accumulate",
                format!(
                    "is {}, but train.images_per_update = {images} makes it {}",
                    self.accumulate,
                    images / size
                ),
                "give one of the two",
            );
        }
        check.that(
            self.rank_timeout_s > 0.0 && self.rank_timeout_s.is_finite(),
            "rank_timeout_s",
            format!("is {}", self.rank_timeout_s),
            "give a number of seconds above 0",
        );
        check.that(
            !self.sync_bn || self.share_steps.unwrap_or(0) == 0,
            "sync_bn",
            "is true, but measured steps (train.share_steps) walk back once for each part of the loss",
            "leave out one of the two",
        );
        check.at_least_one("eval_every", self.eval_every.unwrap_or(1));
        check.at_least_one("patience", self.patience.unwrap_or(1));
        check.that(
            self.patience.is_none() || self.eval_every.is_some(),
            "patience",
            "counts evaluations, but there is only the one at the end",
            "say how often to evaluate: train.eval_every",
        );
        let budget = self.minutes.unwrap_or(1.0);
        check.that(
            budget > 0.0 && budget.is_finite(),
            "minutes",
            format!("is {budget}"),
            "give a number of minutes above 0, or leave it out",
        );
        check.at_least_one("checkpoint_every", self.checkpoint_every.unwrap_or(1));
        let minutes = self.checkpoint_minutes;
        check.that(
            minutes >= 0.0 && minutes.is_finite(),
            "checkpoint_minutes",
            format!("is {minutes}"),
            "give a number of minutes, or 0 for no checkpoint by the clock",
        );
        check.at_least_one("keep_checkpoints", self.keep_checkpoints);
        check.at_least_one("log_every", self.log_every);
        let factor = self.spike_factor.unwrap_or(2.0);
        check.that(
            factor > 1.0 && factor.is_finite(),
            "spike_factor",
            format!("is {factor}"),
            "give a number above 1, or leave it out",
        );
        let decay = self.ema_decay.unwrap_or(0.5);
        check.that(
            decay > 0.0 && decay < 1.0,
            "ema_decay",
            format!("is {decay}"),
            "give a number above 0 and below 1, or leave it out",
        );
    }
}

choices! {
    /// Rounding of the factors of training's products.
    pub enum Precision {
        /// Nothing.
        F32 = "f32",
        /// bfloat16 where the processor multiplies such numbers, in teacher and student; weights, sums and the
        /// gradients of weights stay f32, and so do 3x3 convolutions of stride 1 on the CPU (Winograd's form).
        Bf16 = "bf16",
        /// TF32 (11 bits) on the tensor cores of a GPU; on the CPU as f32.
        Tf32 = "tf32",
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
    /// Arithmetic and memory of training.
    pub struct Engine {
        /// Rounding of the factors of products; "bf16" on a GPU: also the type of maps in memory. Evaluation and inference are
        /// always f32.
        pub precision: Precision = Precision::F32,
        /// On a GPU, the fastest of cuDNN's algorithms for each shape instead of those whose results repeat bit by bit. The
        /// first step of each shape takes longer: it tries all of them. On the CPU it changes nothing.
        pub autotune: bool = false,
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
