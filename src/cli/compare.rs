//! `ckd-det compare`: experiments and seeds in one table.

use std::iter;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use candle_core::{Device, DeviceLocation};

use super::device::{DeviceChoice, DeviceError};
use super::train::{observers, quoted};
use super::{Context, UsageError, say};
use crate::engine::comparison::{Format, Jobs, Runs, compare, write};
use crate::engine::observer::ShowProgress;
use crate::fsx;
use crate::report::progress::tell;

/// Arguments of `compare`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each configuration is trained with each seed in runs/NAME_seedN, one run after the other or --jobs N at once, \
which share the threads. Results depend on the threads of a run, not on how many run at once: --jobs 4 \
--threads 8 has those of --threads 2. With --device cuda each of them has a GPU of its own (cuda:2: from number 2 on). The table has mean and standard deviation of the last evaluations, and is written to \
compare.json and compare.md after every run, and to report.html with the curves of all runs on the same axes. Typed again, the command goes on where it was interrupted; a finished run is used again if configuration, teacher and \
program are those it was made with.

Each configuration is compared with the first one, by the seeds that both have: the mean of the differences, their standard \
deviation, and the 95 % interval over the validation images (paired bootstrap, 1000 resamples). An interval \
without 0 means that the gain is not chance of these images; the deviation says how much it depends on the seed.

With --warm-start the first configuration, the student alone, is trained, and then every configuration goes on from its last \
weights. NAME_warm of the first one says what more steps bring without a teacher, and the others are compared with that: what is \
left is their methods' own.

Examples:
  ckd-det compare cifar10_r56_r20.toml --seeds 0,1,2 --set data.root=/data
  ckd-det compare alone.toml kd.toml ckd.toml --seeds 0,1 --out results/cifar10
  ckd-det compare alone.toml kd.toml --jobs 4
  ckd-det compare alone.toml kd.toml --device cuda --jobs 4
  ckd-det compare alone.toml kd.toml --warm-start --warm-set schedule.steps=2000
  ckd-det compare alone.toml kd.toml --format html > comparison.html")]
pub struct Args {
    /// Files, or names of configurations
    #[arg(value_name = "CONFIG", required = true)]
    configs: Vec<String>,
    /// The seeds
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_value = "0,1,2")]
    seeds: Vec<u64>,
    /// Change a key in all of them: a.b=VALUE
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Also train each on from the first one's last weights, for as many steps: the first one alone, the others by their methods
    #[arg(long)]
    warm_start: bool,
    /// Change a key where a run begins with those weights: a.b=VALUE
    #[arg(long = "warm-set", value_name = "KEY=VALUE", requires = "warm_start")]
    warm_sets: Vec<String>,
    /// Runs at once, each on its share of the threads, and on a GPU of its own
    #[arg(long, value_name = "N", default_value_t = NonZeroUsize::MIN)]
    jobs: NonZeroUsize,
    /// The form of the result that is printed [default: markdown, and json with --out -]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The folder of compare.json, compare.md and report.html; - writes none
    #[arg(long, value_name = "DIR", default_value = "runs/compare")]
    out: PathBuf,
}

/// Runs the verb.
///
/// # Errors
/// Everything that stops a run, see [`crate::engine::EngineError`].
pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let (at_once, threads) = (args.jobs.get(), rayon::current_num_threads());
    if at_once > threads {
        return Err(UsageError(format!(
            "--jobs {at_once} runs need a thread each, and there are {threads} (--threads): give at most --jobs {threads}"
        ))
        .into());
    }
    let devices = devices(&context.device, at_once)?;
    let progress = |name: &str| match at_once {
        1 => observers(context, ShowProgress::default()),
        _ => observers(context, ShowProgress::of(name)),
    };
    let jobs = Jobs {
        devices: &devices,
        stop: context.interrupt.flag(),
        command: &command_line(&args),
        threads: threads / at_once,
        observers: &progress,
        failed: &|name, error| tell(&format!("{name} failed, and no other run begins: {error}")),
    };
    let runs = Runs {
        configs: &args.configs,
        seeds: &args.seeds,
        sets: &args.sets,
        warm: args.warm_start.then_some(args.warm_sets.as_slice()),
    };
    if args.out == Path::new("-") {
        let entries = compare(&runs, &jobs, |_| Ok(()))?;
        return Ok(say(args.format.unwrap_or(Format::Json).of(&entries).trim_end())?);
    }
    // Before hours of training, not after them.
    fsx::check_output(&args.out.join("compare.json")).map_err(|error| {
        UsageError(format!("the table cannot be written to --out, which names a folder: {error}"))
    })?;
    let entries = compare(&runs, &jobs, |entries| write(entries, &args.out))?;
    write(&entries, &args.out)?;
    let format = args.format.unwrap_or(Format::Markdown);
    say(format.of(&entries).trim_end())?;
    let written = format!("written to {}", args.out.join("compare.json").display());
    match format {
        Format::Table | Format::Markdown => say(written)?,
        // Standard output is the file.
        Format::Csv | Format::Json | Format::Html => tell(&written),
    }
    Ok(())
}

/// The device of each run: all on the CPU, or each on a GPU of its own, from the first one's number on.
fn devices(first: &Device, count: usize) -> Result<Vec<Device>, DeviceError> {
    let DeviceLocation::Cuda { gpu_id } = first.location() else { return Ok(vec![first.clone(); count]) };
    let others = (gpu_id + 1..gpu_id + count).map(|number| DeviceChoice::Cuda(number).open());
    iter::once(Ok(first.clone())).chain(others).collect()
}

fn command_line(args: &Args) -> String {
    let configs: Vec<String> = args.configs.iter().map(|config| quoted(config)).collect();
    let seeds: Vec<String> = args.seeds.iter().map(u64::to_string).collect();
    let mut command = format!("ckd-det compare {} --seeds {}", configs.join(" "), seeds.join(","));
    for set in &args.sets {
        command += &format!(" --set {}", quoted(set));
    }
    if args.warm_start {
        command += " --warm-start";
    }
    for set in &args.warm_sets {
        command += &format!(" --warm-set {}", quoted(set));
    }
    if args.jobs > NonZeroUsize::MIN {
        command += &format!(" --jobs {}", args.jobs);
    }
    command + &format!(" --out {}", quoted(&args.out.display().to_string()))
}
