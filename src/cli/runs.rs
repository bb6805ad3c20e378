//! `ckd-det runs [DIR]`: the runs of a folder, a line each.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{UsageError, say};
use crate::fsx;
use crate::report::page::Run;
use crate::report::run_folder::RunFolder;
use crate::report::table::WIDEST;

/// Arguments of `runs`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Of a run that is going on or was interrupted, the numbers are those of its log so far. Parts of a run (the student \
alone) have lines of their own.

Examples:
  ckd-det runs
  ckd-det runs results --json")]
pub struct Args {
    /// The folder of the runs
    #[arg(value_name = "DIR", default_value = "runs")]
    folder: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A run in a line.
#[derive(Debug, Serialize)]
struct Listed {
    run: String,
    /// `running`, `finished`, `ended: patience`, `not finished`, or what is wrong with its files.
    state: String,
    step: u64,
    /// Name of the measure.
    measure: Option<&'static str>,
    /// The last and the best evaluation, in points.
    last: Option<f64>,
    best: Option<f64>,
    /// Wall time, as a clock.
    time: Option<String>,
    bytes: u64,
}

/// Depth of folders that are looked at: `runs/NAME/alone`.
const DEPTH: usize = 2;

/// Runs the verb.
///
/// # Errors
/// A folder that cannot be listed.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let mut found = Vec::new();
    fs::read_dir(&args.folder).map_err(|error| {
        UsageError(format!(
            "{} cannot be listed: {error}; name the folder that the runs are in",
            args.folder.display()
        ))
    })?;
    find(&args.folder, DEPTH, &mut found);
    let listed: Vec<Listed> = found.iter().map(|path| listed(path, &args.folder)).collect();
    if args.json {
        return Ok(say(serde_json::to_string_pretty(&listed)?)?);
    }
    if listed.is_empty() {
        return Ok(say(format!("no run is in {}", args.folder.display()))?);
    }
    let points = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
    let row = |run: &Listed| {
        [
            run.run.clone(),
            run.state.clone(),
            run.step.to_string(),
            run.measure.unwrap_or("-").to_owned(),
            points(run.last),
            points(run.best),
            run.time.clone().unwrap_or("-".to_owned()),
            format!("{:.1} MiB", run.bytes as f64 / f64::from(1 << 20)),
        ]
    };
    let head = ["run", "state", "step", "of", "last", "best", "time", "size"].map(str::to_owned);
    let rows: Vec<[String; 8]> = [head].into_iter().chain(listed.iter().map(row)).collect();
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).min(WIDEST);
    let widths: Vec<usize> = (0..8).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 | 1 | 3 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        say(cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// Folders of runs in `folder`, sorted.
fn find(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut folders: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect();
    folders.sort();
    for path in folders {
        if RunFolder::at(&path).config().exists() {
            found.push(path.clone());
        }
        if depth > 1 {
            find(&path, depth - 1, found);
        }
    }
}

fn listed(path: &Path, root: &Path) -> Listed {
    let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
    let folder = RunFolder::at(path);
    let bytes = bytes(path);
    let run = match Run::read(&folder, &name) {
        Ok(run) => run,
        Err(error) => {
            let state = error.to_string();
            return Listed {
                run: name,
                state,
                step: 0,
                measure: None,
                last: None,
                best: None,
                time: None,
                bytes,
            };
        }
    };
    let state = match fsx::is_locked(&folder.lock()) {
        true => "running".to_owned(),
        false => run.state(),
    };
    Listed {
        run: name,
        state,
        step: run.steps(),
        measure: run.measure(),
        last: run.scores().last().map(|&(_, score)| score),
        best: run.best().map(|(_, score)| score),
        time: run.duration(),
        bytes,
    }
}

/// Bytes of the files in `folder` and below it, but for those of runs below it.
fn bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |path: PathBuf| match fs::symlink_metadata(&path) {
        Ok(about) if about.is_dir() && !RunFolder::at(&path).config().exists() => bytes(&path),
        Ok(about) if about.is_file() => about.len(),
        _ => 0,
    };
    entries.filter_map(|entry| Some(size(entry.ok()?.path()))).sum()
}
