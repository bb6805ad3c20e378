//! Jobs of the program itself under the launchers that are installed.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ckd_det::engine::task::Settings;

use super::tiny::{Folder, assert_ended};

/// Open MPI 4 makes a folder for all its jobs, and two that start at once meet there.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Waits until no other job of this program runs.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The launchers that are installed here. With `CKD_DET_REQUIRE_MPI` set, all must be.
pub(crate) fn launchers() -> Vec<&'static str> {
    let all = ["mpirun.openmpi", "mpirun.mpich"];
    let found: Vec<_> =
        all.into_iter().filter(|name| Command::new(name).arg("--version").output().is_ok()).collect();
    assert!(std::env::var_os("CKD_DET_REQUIRE_MPI").is_none() || found.len() == all.len(), "only {found:?}");
    found
}

impl<C: Settings> Folder<C> {
    /// The command of a job of the program in this folder, one thread a process.
    pub(crate) fn job_command(&self, launcher: &str, ranks: usize, args: &[&str]) -> Command {
        let mut command = Command::new(launcher);
        if launcher.contains("openmpi") {
            command.args(["--allow-run-as-root", "--oversubscribe"]);
        }
        command.args(["-n", &ranks.to_string(), env!("CARGO_BIN_EXE_ckd-det")]).args(args);
        command.args(["--threads", "1"]).current_dir(self.path("."));
        command
    }

    /// Runs a job of the program in this folder.
    pub(crate) fn job(&self, launcher: &str, ranks: usize, args: &[&str]) -> Output {
        let _alone = alone();
        self.job_command(launcher, ranks, args).output().unwrap()
    }
}

/// Trains `config` by one process, and in a new folder under each launcher by each number of `ranks`; `assert_same` compares
/// the folders.
#[track_caller]
pub(crate) fn assert_jobs_are_one_process<C: Settings>(
    new: impl Fn() -> Folder<C>,
    (config, sets): (&str, &[&str]),
    ranks: &[usize],
    assert_same: impl Fn(&Path, &Path),
) {
    let launchers = launchers();
    if launchers.is_empty() {
        return;
    }
    let args: Vec<&str> =
        ["train", config].into_iter().chain(sets.iter().flat_map(|set| ["--set", set])).collect();
    let alone = new();
    assert_ended(&alone.run_program(&[&args[..], &["--threads", "1"]].concat()), 0, &["everything is in"]);
    for launcher in launchers {
        for &ranks in ranks {
            let shared = new();
            let output = shared.job(launcher, ranks, &args);
            assert_ended(&output, 0, &["everything is in"]);
            let said = String::from_utf8_lossy(&output.stdout);
            assert_eq!(said.matches("everything is in").count(), 1, "{launcher}: {said}");
            assert_same(&alone.path("runs"), &shared.path("runs"));
        }
    }
}
