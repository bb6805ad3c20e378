//! `ckd-det report RUN... [--out F.html]`: a page about finished or running runs.

use std::path::PathBuf;

use super::output::Output;
use super::{UsageError, say};
use crate::report::page::{Run, write_to};
use crate::report::run_folder::RunFolder;

/// Arguments of `report`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The page needs no other file and no network. A training writes its own, runs/NAME/report.html, at every evaluation.

Examples:
  ckd-det report runs/quickstart
  ckd-det report runs/one runs/two runs/three --out compared.html")]
pub struct Args {
    /// Folders of runs; several are compared on the same axes
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// The page to write [default: report.html in the folder of the only run]
    #[arg(long, value_name = "F.html")]
    out: Option<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// A folder without a run; a page that cannot be written.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let mut folders: Vec<RunFolder> = args.runs.iter().map(RunFolder::at).collect();
    // The student alone is shown with its run.
    let shown: Vec<RunFolder> = folders.iter().map(RunFolder::alone).collect();
    folders.retain(|folder| !shown.contains(folder));
    let out = match (&args.out, &folders[..]) {
        (Some(out), _) => out.clone(),
        (None, [only]) => only.report(),
        (None, _) => {
            return Err(UsageError("say where the page of several runs goes: --out F.html".to_owned()).into());
        }
    };
    let mut runs = Vec::new();
    for folder in &folders {
        runs.extend(Run::with_parts(folder).map_err(|error| UsageError(error.to_string()))?);
    }
    Output::from(out.clone()).check()?;
    write_to(&out, &runs)?;
    let plural = if runs.len() == 1 { "" } else { "s" };
    Ok(say(format!("{} run{plural} -> {}", runs.len(), out.display()))?)
}
