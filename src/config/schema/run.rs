//! Keys of every experiment, whatever it trains.

use std::path::PathBuf;

use ckd_settings::{Check, choices, section};

use super::training::{Engine, Eval, Train};
use crate::distill::Distill;
use crate::optim::{Optim, Schedule};

choices! {
    /// Tasks.
    pub enum Task {
        /// To find objects: boxes and classes.
        Detect = "detect",
        /// To name images.
        Classify = "classify",
        /// To name images of another set by a linear layer on a trained network (transfer).
        Probe = "probe",
        /// To name images, several networks together that learn from each other.
        Cohort = "cohort",
        /// To learn a frozen backbone's features on images without labels.
        Pretrain = "pretrain",
    }
}

section! {
    /// The run: its name and folder, random numbers, optimiser, schedule and loops.
    pub struct Run {
        /// Names the run's folder. Default: the name of the file.
        pub name: String,
        /// The task; the other keys depend on it.
        pub task: Task = Task::Detect,
        /// Every random number of the run follows from it.
        pub seed: u64 = 0,
        /// The folder that runs are written to: OUTPUT/NAME/; of a cohort's networks OUTPUT/NAME/peer0/,
        /// peer1/, ...
        pub output: PathBuf = PathBuf::from("runs"),
        /// The optimiser; a cohort's is that of all networks and of what is trained beside them.
        pub optim: Optim,
        /// Length of the run, and the learning rate over time.
        pub schedule: Schedule,
        /// The training loop; a cohort's update is one of all networks, on the same images.
        pub train: Train = Train::default(),
        /// Arithmetic and memory of training.
        pub engine: Engine = Engine::default(),
        /// The evaluation loop.
        pub eval: Eval = Eval::default(),
    }
}

impl Run {
    fn check(&self, check: &mut Check<'_>) {
        let name = self.name.as_str();
        let is_a_folder =
            !name.is_empty() && !name.contains(['/', '\\', '\0']) && name != "." && name != "..";
        check.that(
            is_a_folder,
            "name",
            format!("cannot name a folder: {name:?}"),
            "the run's folder is OUTPUT/NAME; use letters, digits, '-' and '_'",
        );
    }

    /// Checks that a comparison has something to compare: `distill` are the methods of the experiment.
    pub(super) fn check_comparison(&self, distill: &[Distill], check: &mut Check<'_>) {
        check.that(
            !self.train.compare_alone || !distill.is_empty(),
            "train.compare_alone",
            "needs a [[distill]] entry to compare with",
            "set compare_alone = false: without distillation the student trains alone anyway",
        );
    }

    /// Checks that no stage is named, for networks that are no detectors.
    pub(super) fn check_nothing_is_recomputed(&self, check: &mut Check<'_>) {
        check.that(
            self.engine.recompute.is_empty(),
            "engine.recompute",
            "names stages of a detector's backbone",
            "leave it out",
        );
    }
}
