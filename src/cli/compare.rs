//! `ckd-det compare`: experiments and seeds in one table.

use std::path::{Path, PathBuf};

use super::train::{observers, quoted};
use super::{Context, UsageError, say};
use crate::engine::comparison::{compare, markdown, write};
use crate::engine::experiment::Request;
use crate::engine::job::Start;
use crate::fsx;

/// Arguments of `compare`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each configuration is trained with each seed, one run after the other, in runs/NAME_seedN. The table has mean and \
standard deviation of the last evaluations, and is written to compare.json and compare.md after every run. Typed \
again, the command goes on where it was interrupted; a finished run is used again if configuration, teacher and \
program are those it was made with.

Examples:
  ckd-det compare cifar10_r56_r20.toml --seeds 0,1,2 --set data.root=/data
  ckd-det compare alone.toml kd.toml ckd.toml --seeds 0,1 --out results/cifar10")]
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
    /// The folder of compare.json and compare.md; - prints compare.json alone
    #[arg(long, value_name = "DIR", default_value = "runs/compare")]
    out: PathBuf,
}

/// Runs the verb.
///
/// # Errors
/// Everything that stops a run, see [`crate::engine::EngineError`].
pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let request = Request {
        device: &context.device,
        ranks: &*context.ranks,
        observers: &observers(context),
        start: Start::Resume,
        stop: context.interrupt.flag(),
        command: &command_line(&args),
        methods: &[],
    };
    if args.out == Path::new("-") {
        let entries = compare(&args.configs, &args.seeds, &args.sets, &request, |_| Ok(()))?;
        return Ok(say(serde_json::to_string_pretty(&entries)?)?);
    }
    // Before hours of training, not after them.
    fsx::check_output(&args.out.join("compare.json")).map_err(|error| {
        UsageError(format!("the table cannot be written to --out, which names a folder: {error}"))
    })?;
    let entries =
        compare(&args.configs, &args.seeds, &args.sets, &request, |entries| write(entries, &args.out))?;
    say(markdown(&entries).trim_end())?;
    Ok(say(format!("written to {}", args.out.join("compare.json").display()))?)
}

fn command_line(args: &Args) -> String {
    let configs: Vec<String> = args.configs.iter().map(|config| quoted(config)).collect();
    let seeds: Vec<String> = args.seeds.iter().map(u64::to_string).collect();
    let mut command = format!("ckd-det compare {} --seeds {}", configs.join(" "), seeds.join(","));
    for set in &args.sets {
        command += &format!(" --set {}", quoted(set));
    }
    command + &format!(" --out {}", quoted(&args.out.display().to_string()))
}
