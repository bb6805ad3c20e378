//! `ckd-det train CONFIG [--set a.b=c] [--resume]`

use std::collections::BTreeMap;
use std::thread::available_parallelism;

use candle_core::DeviceLocation;

use super::events::Events;
use super::taught::TeacherArgs;
use super::{Context, UsageError, say};
use crate::config::{Experiment, Loaded};
use crate::data::decode::DECODER;
use crate::engine::estimate::{Estimate, dry_run};
use crate::engine::experiment::{self, Finding, Finished, Request};
use crate::engine::job::{self, Start};
use crate::engine::observer::{BestWeights, Log, Observers, Page, ShowProgress, TensorBoard};
use crate::engine::task::Settings;
use crate::machine::{field, peak_memory_mib};
use crate::report::progress::duration;
use crate::report::table::Row;

/// Arguments of `train`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A configuration with a teacher distils; with `train.compare_alone` it also trains the same student without \
the teacher, on the same data order, and prints one table. Everything is written to runs/NAME: config.toml, \
log.jsonl, log.csv, tensorboard/, report.html, checkpoints/, best.safetensors, last.safetensors, eval/, \
summary.json, detections.png, shown/. \
An earlier run of the same name is kept beside the new one. Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 save the state \
first; a second one leaves at once.

Examples:
  ckd-det train quickstart.toml
  ckd-det train coco_r101_r18.toml --set data.root=/coco --set optim.lr=0.01
  ckd-det train coco_r101_r18.toml --dry-run
  ckd-det train my_student.toml --teacher runs/big/best.safetensors
  ckd-det train my_student.toml --teacher runs/big --method review_ckd
  ckd-det train coco_r101_r18.toml --resume
  ckd-det train quickstart.toml --quiet --json | jq 'select(.event == \"eval\")'
  ckd-det train quickstart.toml --set seed=1 --set name=quickstart_seed1")]
pub struct Args {
    /// A file, or the name of a configuration (`ckd-det config list`)
    #[arg(value_name = "CONFIG")]
    config: String,
    /// Change a key: a.b=VALUE, or distill.0.weight=VALUE inside an array
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    #[command(flatten)]
    teacher: TeacherArgs,
    /// Go on from the last checkpoint of this run
    #[arg(long)]
    resume: bool,
    /// Train on so many GPUs of this machine, a process for each, which share an update's batches (docs/SCALING.md)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), conflicts_with = "dry_run")]
    gpus: Option<u16>,
    /// Make every check and a few steps, print time and memory of the whole run, and leave nothing behind
    #[arg(long, conflicts_with = "resume")]
    dry_run: bool,
    /// Print the events of the run instead of its results, a JSON object a line: begin, step, eval, note, end, finished
    #[arg(long, conflicts_with = "dry_run")]
    json: bool,
}

impl Args {
    /// Whether several processes do it together.
    pub(super) fn can_be_shared(&self) -> bool {
        !self.dry_run
    }

    /// GPUs of this machine that are to train together.
    pub(super) fn gpus(&self) -> Option<usize> {
        self.gpus.map(usize::from)
    }
}

/// Runs the verb.
///
/// # Errors
/// Everything that stops a run, see [`crate::engine::EngineError`].
pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let experiment = args.teacher.load(&args.config, &args.sets)?;
    let mut observers = observers(context, ShowProgress::default());
    if args.json {
        observers = observers.with(Events::default());
    }
    let request = Request {
        device: &context.device,
        ranks: &*context.ranks,
        observers: &observers,
        start: if args.resume { Start::Resume } else { Start::Anew },
        stop: context.interrupt.flag(),
        command: &(command_line(&args, context) + " --resume"),
        methods: &[],
    };
    if args.dry_run {
        let estimates = match &experiment {
            Experiment::Detect(loaded) => dry_run(loaded.as_ref(), &request)?,
            Experiment::Classify(loaded) => dry_run(loaded.as_ref(), &request)?,
            Experiment::Cohort(loaded) => dry_run(loaded.as_ref(), &request)?,
            Experiment::Pretrain(loaded) => dry_run(loaded.as_ref(), &request)?,
        };
        return forecast(&estimates);
    }
    // The events have the results, too.
    let is_told = context.ranks.is_first() && !args.json;
    let first = |told: &dyn Fn() -> anyhow::Result<()>| if is_told { told() } else { Ok(()) };
    match &experiment {
        Experiment::Detect(loaded) => {
            let finished = train(loaded.as_ref(), &request)?;
            first(&|| tell(&finished))
        }
        Experiment::Classify(loaded) => {
            let finished = train(loaded.as_ref(), &request)?;
            first(&|| tell(&finished))
        }
        Experiment::Pretrain(loaded) => {
            let finished = train(loaded.as_ref(), &request)?;
            first(&|| tell(&finished))
        }
        Experiment::Cohort(loaded) => {
            let finished = train(loaded.as_ref(), &request)?;
            let best: Vec<(u64, f64)> =
                finished.student.networks.iter().map(|own| (own.best.step, own.best.score)).collect();
            first(&|| {
                say(finished.student.row.table(&best).trim_end())?;
                tell(&finished)
            })
        }
    }
}

/// Prints what a run takes.
fn forecast(estimates: &[Estimate]) -> anyhow::Result<()> {
    for estimate in estimates {
        let Estimate { label, steps, step, evaluations, images, checkpoint, .. } = estimate;
        say(format!(
            "{label}: {steps} steps of {:.2} s, {evaluations} evaluations of {images} images: about {}; a checkpoint takes \
             {:.1} MiB",
            step.as_secs_f64(),
            duration(estimate.whole().as_secs_f64()),
            *checkpoint as f64 / f64::from(1 << 20),
        ))?;
    }
    let whole: f64 = estimates.iter().map(|estimate| estimate.whole().as_secs_f64()).sum();
    let memory = peak_memory_mib().map(|peak| format!("; peak memory {peak:.0} MiB")).unwrap_or_default();
    say(format!("the whole run: about {} on this machine{memory}; nothing was kept", duration(whole)))?;
    Ok(())
}

/// Trains, if there is something to go on with where that is asked for.
fn train<C: Settings>(loaded: &Loaded<C>, request: &Request) -> anyhow::Result<Finished<job::Row<C::Task>>> {
    let folder = experiment::run_folder(loaded);
    // Of several processes the first has the folder.
    if request.ranks.is_first() && request.start == Start::Resume && !folder.config().exists() {
        let folder = folder.path().display();
        return Err(UsageError(format!(
            "there is no run in {folder} to go on with; start it without --resume, or name another with --set name=NAME"
        ))
        .into());
    }
    Ok(experiment::run(loaded, request)?)
}

/// The observers of a run: its files, the handler of signals, and progress unless that is not wanted.
pub(super) fn observers(context: &Context, progress: ShowProgress) -> Observers<'static> {
    // The handler first: once there is a log, a signal saves the state.
    let handled = Observers::none().with(context.interrupt.of_run());
    let files = handled.with(Log::default()).with(BestWeights::default()).with(TensorBoard::default());
    let files = files.with(Page::telling(environment(context)));
    if context.quiet { files } else { files.with(progress) }
}

fn tell<R: Row>(Finished { finding, student, folder }: &Finished<R>) -> anyhow::Result<()> {
    match finding {
        Finding::Comparison(comparison) => say(comparison.to_string().trim_end())?,
        Finding::Student(outcome) => say(format!("{}  (step {})", outcome.row.told(), outcome.steps))?,
    }
    if let Some(average) = &student.ema {
        say(format!("the average of the weights: {}", average.told()))?;
    }
    if let Some(best) = student.best.filter(|best| best.step != student.steps) {
        say(format!("the best evaluation was {:.2} at step {}", 100.0 * best.score, best.step))?;
    }
    Ok(say(format!("everything is in {}", folder.display()))?)
}

/// Facts about machine and command, for the page.
fn environment(context: &Context) -> BTreeMap<String, String> {
    let device = match context.device.location() {
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        _ => "cpu".to_owned(),
    };
    let words: Vec<String> = std::env::args().map(|word| quoted(&word)).collect();
    let facts = [
        ("command", Some(words.join(" "))),
        ("system", Some(format!("{} {}", std::env::consts::OS, std::env::consts::ARCH))),
        ("processor", field("/proc/cpuinfo", "model name")),
        ("cores", available_parallelism().ok().map(|cores| cores.to_string())),
        ("threads", Some(rayon::current_num_threads().to_string())),
        ("device", Some(device)),
        ("jpeg", Some(DECODER.to_owned())),
        ("processes", Some(context.ranks.size().to_string())),
    ];
    facts.into_iter().filter_map(|(name, fact)| Some((name.to_owned(), fact?))).collect()
}

/// Command line of this run without `--resume`, to be pasted into a shell.
fn command_line(args: &Args, context: &Context) -> String {
    let mut command = format!("ckd-det train {}", quoted(&args.config));
    for set in &args.sets {
        command += &format!(" --set {}", quoted(set));
    }
    for option in args.teacher.typed() {
        command += &format!(" {}", quoted(&option));
    }
    if let Some(gpus) = args.gpus {
        command += &format!(" --gpus {gpus}");
    } else if let DeviceLocation::Cuda { gpu_id } = context.device.location() {
        command += &format!(" --device cuda:{gpu_id}");
    }
    // Results are bit for bit the same for the same number of threads.
    let threads = rayon::current_num_threads();
    if available_parallelism().is_ok_and(|cores| cores.get() != threads) {
        command += &format!(" --threads {threads}");
    }
    command
}

/// Quotes `word` for a POSIX shell.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_how_to_go_on_can_be_pasted_into_a_shell() {
        assert_eq!(quoted("optim.lr=0.01"), "optim.lr=0.01");
        assert_eq!(quoted(r#"distill.1.levels=["p3"]"#), r#"'distill.1.levels=["p3"]'"#);
        assert_eq!(quoted("name=it's"), r"'name=it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
