//! The processes that a launcher (`mpirun`, `srun`) starts.

use ckd_collective::Launcher;

use super::UsageError;

/// Whether this process tells the user what goes wrong: of several, the first does.
pub(super) fn speaks() -> bool {
    Launcher::of_this_process().and_then(|launcher| launcher.rank).is_none_or(|rank| rank == 0)
}

/// Refuses to be one of several processes that would all do the same, into the same files.
pub(super) fn refuse_several() -> Result<(), UsageError> {
    match Launcher::of_this_process() {
        Some(launcher) if launcher.starts_several() => Err(UsageError(several(&launcher))),
        _ => Ok(()),
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
