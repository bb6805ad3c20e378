//! The command line: one file a verb, and the parts that verbs share.
//!
//! A verb is a module with `pub struct Args` (clap) and `pub fn run(Args, &Context) -> anyhow::Result<()>`.
//! To add one: declare the module, add its variant to [`Command`], and its arm to `Command::run`.
//!
//! # Exit codes
//! 0 done; 1 a failure while running; 2 bad usage or configuration; 3 missing data or weights; 4 a
//! non-finite loss; 75 another process of the run was lost; 130 interrupted. [`ExitStatus`] is their list.

mod annotated;
mod bench;
mod bench_loader;
mod bench_trace;
mod check_labelled;
mod compare;
mod completions;
mod config;
mod config_diff;
mod config_keys;
mod context;
mod data;
mod data_preview;
mod device;
mod doctor;
mod eval;
mod eval_classifier;
mod eval_results;
mod events;
mod exit;
mod export;
#[cfg(feature = "cuda")]
mod gpus;
mod image_files;
mod interrupt;
mod man;
mod methods;
mod model;
mod new;
mod output;
mod page;
mod predict;
mod predict_classifier;
mod predict_labels;
mod ranks;
mod runs;
mod taught;
mod train;
mod watch;
mod weights;

use std::process::ExitCode;
use std::sync::Arc;

use candle_core::Device;
use ckd_collective::Collective;
use clap::{CommandFactory, Parser, Subcommand};

pub use context::{Context, say};
pub use device::{DeviceChoice, DeviceError};
pub use exit::{ExitStatus, UsageError};
pub use interrupt::Interrupt;

use context::report;
use ranks::{Asked, Joined};

/// Train, distil, evaluate and export object detectors.
#[derive(Debug, Parser)]
#[command(
    name = "ckd-det",
    version,
    about = "Train a large object detector, distil it into a small one, and prove that it helped",
    after_help = AFTER_HELP,
    propagate_version = true,
    max_term_width = 120
)]
pub struct Cli {
    /// Where to compute: cpu, cuda for the first NVIDIA GPU, or cuda:N for number N
    #[arg(
        long,
        global = true,
        value_name = "cpu|cuda[:N]",
        default_value = "cpu",
        help_heading = "Global options"
    )]
    pub device: DeviceChoice,
    /// Threads to compute with [default: one for each core]
    #[arg(
        long,
        global = true,
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..),
        help_heading = "Global options"
    )]
    pub threads: Option<u16>,
    /// Print results and errors only: no progress, no notes
    #[arg(long, short, global = true, help_heading = "Global options")]
    pub quiet: bool,
    /// The verb.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  ckd-det train quickstart.toml         all of it, small, in minutes
  ckd-det new photos/ --out my.toml     a configuration for images of your own
  ckd-det train coco_r101_r18.toml --set data.root=/data/coco
  ckd-det eval                          the latest run on its held-out images
  ckd-det predict photo.jpg             boxes drawn, COCO results written
  ckd-det export --out student.safetensors
  ckd-det weights import model.pth --out teacher.safetensors
  ckd-det config list                   the experiments there are
  ckd-det config show coco_r101_r18     one of them, with every default
  ckd-det config check my_experiment.toml
  ckd-det bench step coco_r101_r18      how long a training step takes here
  ckd-det doctor coco_r101_r18          what this machine and an experiment lack

Exit codes:
    0  done
    1  failed while running
    2  bad usage or configuration
    3  data or weights are missing
    4  the loss became infinite or not a number
   75  another process of the run was lost, or came too late
  130  interrupted (Ctrl-C, SIGTERM, SIGHUP, SIGUSR1): the state is saved
       first, a second signal leaves at once";

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a configuration for a folder of images: teacher, student, sizes, time
    New(new::Args),
    /// Train a detector, with or without a teacher
    Train(train::Args),
    /// Train several experiments with several seeds and tabulate mean and spread
    Compare(compare::Args),
    /// Measure a detector's COCO mAP or a classifier's accuracy, or score a results file
    Eval(eval::Args),
    /// Detect objects on images: draws the boxes and writes results for other tools
    Predict(predict::Args),
    /// Write a trained student for deployment
    Export(export::Args),
    /// Import, inspect and compare weights, also of other programs
    Weights(weights::Args),
    /// Make, check, convert and show data sets
    Data(data::Args),
    /// List the runs of a folder: state, step, accuracy, time, size
    Runs(runs::Args),
    /// Write a page about runs: curves, classes, errors, settings
    Report(page::Args),
    /// Serve the page of a run on this machine, and follow the run
    Watch(watch::Args),
    /// Show, check, compare and list configurations, and explain their keys
    Config(config::Args),
    /// List the methods of distillation with their keys, defaults and papers
    Methods(methods::Args),
    /// Time training steps or inference on random images
    Bench(bench::Args),
    /// Tell what this machine and this program have, and what is missing
    Doctor(doctor::Args),
    /// Print a script that completes commands in your shell
    Completions(completions::Args),
    /// Print a manual page, or write them all
    Man(man::Args),
}

impl Command {
    /// Whether it only tells something: any number of processes may do that at once.
    fn only_tells(&self) -> bool {
        match self {
            Self::Config(_)
            | Self::Methods(_)
            | Self::Doctor(_)
            | Self::Runs(_)
            | Self::Watch(_)
            | Self::Completions(_)
            | Self::Man(_) => true,
            Self::New(_)
            | Self::Train(_)
            | Self::Compare(_)
            | Self::Eval(_)
            | Self::Predict(_)
            | Self::Export(_)
            | Self::Weights(_)
            | Self::Data(_)
            | Self::Report(_)
            | Self::Bench(_) => false,
        }
    }

    /// Whether several processes do it together.
    fn can_be_shared(&self) -> bool {
        match self {
            Self::Train(args) => args.can_be_shared(),
            Self::Bench(args) => args.can_be_shared(),
            _ => false,
        }
    }

    /// GPUs of this machine that are to train together.
    fn gpus(&self) -> Option<usize> {
        match self {
            Self::Train(args) => args.gpus(),
            _ => None,
        }
    }

    fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::New(args) => new::run(args, context),
            Self::Train(args) => train::run(args, context),
            Self::Compare(args) => compare::run(args, context),
            Self::Eval(args) => eval::run(args, context),
            Self::Predict(args) => predict::run(args, context),
            Self::Export(args) => export::run(args, context),
            Self::Weights(args) => weights::run(args, context),
            Self::Data(args) => data::run(args, context),
            Self::Config(args) => config::run(args, context),
            Self::Methods(args) => methods::run(args),
            Self::Runs(args) => runs::run(&args),
            Self::Report(args) => page::run(&args),
            Self::Watch(args) => watch::run(&args),
            Self::Bench(args) => bench::run(args, context),
            Self::Doctor(args) => doctor::run(args, context),
            Self::Completions(args) => completions::run(args, Cli::command()),
            Self::Man(args) => man::run(&args, Cli::command()),
        }
    }
}

/// Parses the command line, runs the verb, reports a failure.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let asked = Asked {
        device: cli.device,
        gpus: cli.command.gpus(),
        only_tells: cli.command.only_tells(),
        can_be_shared: cli.command.can_be_shared(),
    };
    let ended = match ranks::join(&asked) {
        #[cfg(feature = "cuda")]
        Ok(Joined::OnGpus(code)) => return code.into(),
        Ok(Joined::Ranks(ranks, device)) if ranks.is_alone() => run(cli, ranks, device),
        Ok(Joined::Ranks(ranks, device)) => {
            return ranks::run_together(&*ranks, || run(cli, ranks.clone(), device)).into();
        }
        Err(error) => Err(error),
    };
    match ended {
        Ok(()) => ExitStatus::Done.into(),
        Err(error) => {
            let status = ExitStatus::of(&error);
            if status != ExitStatus::Done && ranks::speaks() {
                report(&error);
            }
            status.into()
        }
    }
}

fn run(cli: Cli, ranks: Arc<dyn Collective>, device: Option<Device>) -> anyhow::Result<()> {
    let threads = match cli.threads {
        Some(threads) => Some(threads.into()),
        None if ranks.is_alone() => None,
        None => Some(ranks::cores(&*ranks)?),
    };
    if let Some(threads) = threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    let interrupt = Interrupt::install();
    let device = match device {
        Some(device) => device,
        None => cli.device.of_rank(ranks.local().rank).open()?,
    };
    let context = Context { device, ranks, quiet: cli.quiet, interrupt };
    // On a thread of the pool: handing each of a step's hundreds of parallel loops in from outside would put
    // two threads to sleep and wake them again.
    rayon::scope(|_| cli.command.run(&context))
}
