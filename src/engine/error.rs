//! What stops a run.

use std::path::PathBuf;

/// A run could not start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// Data or weights that the configuration names do not exist.
    #[error("{0}")]
    Missing(String),
    /// A loss or gradient became infinite or not a number.
    #[error(
        "after step {step}, {what} is {value}, so training cannot go on; the losses were {losses}. {advice}"
    )]
    NonFinite {
        /// Finished steps.
        step: u64,
        /// The loss term, or the gradient's norm.
        what: String,
        /// Value of the term.
        value: f64,
        /// All terms.
        losses: String,
        /// Probable cause, and the remedy.
        advice: String,
    },
    /// The run was asked to stop; its state is saved.
    #[error("interrupted after step {step}, the state is saved; go on with `{command}`")]
    Interrupted {
        /// Finished steps.
        step: u64,
        /// Command that resumes the run.
        command: String,
    },
    /// Another process uses the run's folder.
    #[error(
        "{} is in use by {holder}, and two runs cannot write into one folder: wait for it, stop it, or give this run \
         another name with --set name=NAME{doubt}",
        path.display()
    )]
    Busy {
        /// The folder.
        path: PathBuf,
        /// The other process.
        holder: String,
        /// Advice where that process may be gone.
        doubt: String,
    },
    /// The run's folder was taken away under it.
    #[error("{} was deleted or moved while the run was under way; {state}", path.display())]
    Lost {
        /// The folder.
        path: PathBuf,
        /// Place of the saved state, and the way to resume.
        state: String,
    },
    /// The disk has no room for what the run must write.
    #[error(
        "the disk of {} has {free:.1} MiB free, and two checkpoints need {needed:.1} MiB: make room, or write elsewhere with \
         --set output=FOLDER",
        path.display()
    )]
    NoRoom {
        /// The run's folder.
        path: PathBuf,
        /// Mebibytes of two checkpoints.
        needed: f64,
        /// Mebibytes free.
        free: f64,
    },
    /// Work was given up, since the user wants the run to stop; the loop says what is saved.
    #[error("stopped before it was done")]
    Stopped,
    /// The processes of the run cannot share its updates evenly.
    #[error(
        "{ranks} processes cannot share the {parts} parts (train.accumulate) of an update evenly: {advice}"
    )]
    Parts {
        /// Processes.
        ranks: u64,
        /// Batches of an update.
        parts: u64,
        /// Numbers that fit.
        advice: String,
    },
    /// Something that the processes of a run cannot share.
    #[error("{0}")]
    Alone(String),
    /// The processes of a run do not agree.
    #[error("after step {step}, the processes of the run differ, which they must not: {reason}")]
    RanksDiffer {
        /// Finished steps.
        step: u64,
        /// Description of the difference.
        reason: String,
    },
    /// Two runs of a comparison would have one folder.
    #[error(
        "{first} and {second} would both be trained in {}: name each configuration and each seed once, and give configurations \
         of one file name or of one `name` others",
        path.display()
    )]
    SameFolder {
        /// The folder.
        path: PathBuf,
        /// Configuration and seed of a run.
        first: String,
        /// Configuration and seed of the other one.
        second: String,
    },
    /// Runs of a comparison that cannot begin with one another's weights.
    #[error("--warm-start: {name}: {reason}")]
    WarmStart {
        /// Name of the configuration.
        name: String,
        /// The reason, with advice.
        reason: String,
    },
    /// One of several experiments stopped.
    #[error("{name}: {source}")]
    Experiment {
        /// Name of the run.
        name: String,
        /// Error that stopped it.
        source: Box<EngineError>,
    },
    /// A message between the processes of a run is not what it must be.
    #[error("a message between the processes of the run is damaged: {0}")]
    Damaged(String),
    /// Another process of the run was lost, or did not come.
    #[error("after step {step}, {source}")]
    RankLost {
        /// Finished steps.
        step: u64,
        /// Error of the operation that failed.
        source: ckd_collective::Error,
    },
    /// An operation over the processes of the run failed.
    #[error(transparent)]
    Collective(#[from] ckd_collective::Error),
    /// Two parts of a run name different classes.
    #[error(transparent)]
    Classes(#[from] Box<super::classes::ClassesDiffer>),
    /// A checkpoint that cannot be read.
    #[error("the checkpoint {} cannot be used; {advice} ({problem})", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// Advice on how to resume.
        advice: String,
        /// Description of the damage.
        problem: Box<crate::weights::WeightsError>,
    },
    /// A run folder that does not fit the request.
    #[error("{}: {reason}", path.display())]
    Run {
        /// The folder or file.
        path: PathBuf,
        /// Description of the problem, with advice.
        reason: String,
    },
    /// The configuration.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The data.
    #[error(transparent)]
    Data(#[from] crate::data::DataError),
    /// Annotations.
    #[error(transparent)]
    Instances(#[from] crate::data::InstancesError),
    /// The synthetic set.
    #[error(transparent)]
    Synth(#[from] crate::data::synth::SynthError),
    /// Evaluation.
    #[error(transparent)]
    Eval(#[from] crate::eval::EvalError),
    /// Weights.
    #[error(transparent)]
    Weights(#[from] crate::weights::WeightsError),
    /// Distillation.
    #[error(transparent)]
    Distill(#[from] crate::distill::DistillError),
    /// A tap that does not exist.
    #[error(transparent)]
    Tap(#[from] ckd_detectors::taps::UnknownName),
    /// The network.
    #[error(transparent)]
    Network(#[from] ckd_detectors::Error),
    /// An operation.
    #[error(transparent)]
    Kernel(#[from] ckd_kernels::Error),
    /// candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// The metrics log.
    #[error(transparent)]
    Log(#[from] crate::report::log::LogError),
    /// The page about the run.
    #[error(transparent)]
    Page(#[from] crate::report::page::PageError),
    /// A folder of a run that cannot be read.
    #[error(transparent)]
    RunFolder(#[from] crate::report::run_folder::RunFolderError),
    /// Pictures.
    #[error(transparent)]
    Draw(#[from] crate::report::draw::DrawError),
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] crate::fsx::WriteError),
}

impl EngineError {
    /// A classifier without the tap that it always has.
    pub(super) fn missing_tap(missing: ckd_detectors::taps::MissingTap) -> Self {
        Self::Distill(crate::distill::DistillError::MissingTap { role: "student", source: missing })
    }
}

/// The result of a part of a run.
pub type Result<T> = std::result::Result<T, EngineError>;
