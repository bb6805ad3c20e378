//! The processes that a launcher (`mpirun`, `srun`) starts: they train one run together, or refuse.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use ckd_collective::{Collective, Launcher, Mpi, Solo};

use super::context::report;
use super::{ExitStatus, UsageError};
use crate::report::progress::tell;

/// Time that the first process has to say what all of them found wrong.
const FIRST_SPEAKS: Duration = Duration::from_secs(1);

/// Exit code of a panic, as of any Rust program.
const PANICKED: u8 = 101;

/// Whether this process tells the user what goes wrong before it knows the others: of several, the first does.
pub(super) fn speaks() -> bool {
    Launcher::of_this_process().and_then(|launcher| launcher.rank).is_none_or(|rank| rank == 0)
}

/// The processes that share a command, if `can_share` it; any number may run what `only_tells` something.
pub(super) fn join(only_tells: bool, can_share: bool) -> anyhow::Result<Arc<dyn Collective>> {
    let launcher = Launcher::of_this_process().filter(Launcher::starts_several);
    match launcher {
        Some(launcher) if can_share => Ok(Arc::new(Mpi::join(&launcher)?)),
        Some(launcher) if !only_tells => Err(UsageError(several(&launcher)).into()),
        _ => Ok(Arc::new(Solo::default())),
    }
}

fn several(launcher: &Launcher) -> String {
    let count = launcher.size.map_or("several".to_owned(), |size| size.to_string());
    format!(
        "{} started {count} processes of this command, and each would do all of it and write the same files; start it once, \
         without the launcher",
        launcher.name
    )
}

/// Threads of each process where the user names no number: the cores that it may use, shared with the processes of this
/// machine that may use the same.
pub(super) fn threads(ranks: &dyn Collective) -> anyhow::Result<usize> {
    let cores = available_parallelism().map_or(1, usize::from);
    let mine = format!("{} {}", ranks.host(), allowed_cores()).into_bytes();
    let all = ranks.all_gather(mine.clone())?;
    let sharing = all.iter().filter(|other| **other == mine).count();
    Ok((cores / sharing.max(1)).max(1))
}

/// The cores that this process may use, as the system lists them; empty where it does not tell.
fn allowed_cores() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Runs `command` as one of several processes. What ends one of them ends all, with its exit code.
pub(super) fn run_together(
    ranks: &dyn Collective,
    command: impl FnOnce() -> anyhow::Result<()>,
) -> ExitStatus {
    let ended = catch_unwind(AssertUnwindSafe(command));
    let error = match ended {
        Ok(Ok(())) => return ExitStatus::Done,
        Ok(Err(error)) => error,
        // The panic's message is out.
        Err(_) => ranks.abort(PANICKED),
    };
    let status = ExitStatus::of(&error);
    if ranks.is_first() {
        report(&error);
    }
    // All processes stop with these, at the same step.
    if matches!(status, ExitStatus::Interrupted | ExitStatus::NonFiniteLoss) {
        return status;
    }
    if !ranks.is_first() {
        std::thread::sleep(FIRST_SPEAKS);
        tell(&format!("rank {} on {}:", ranks.rank(), ranks.host()));
        report(&error);
    }
    ranks.abort(status as u8)
}
