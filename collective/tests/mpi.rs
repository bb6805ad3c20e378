//! The real thing: jobs of the example `ranks` under the launchers that are installed. With `CKD_DET_REQUIRE_MPI` set, both
//! Open MPI and MPICH must be.

#![cfg(unix)]

use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

/// Open MPI 4 makes a folder for all its jobs, and two that start at once meet there.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Launchers by the names that Debian gives them, with a library of the other family.
const LAUNCHERS: [(&str, &str); 2] = [("mpirun.openmpi", "libmpich.so.12"), ("mpirun.mpich", "libmpi.so.40")];

/// The launchers that are installed here.
fn launchers() -> Vec<(&'static str, &'static str)> {
    let is_there = |(name, _): &(&str, &str)| Command::new(name).arg("--version").output().is_ok();
    let found: Vec<_> = LAUNCHERS.into_iter().filter(is_there).collect();
    let all_must_be = std::env::var_os("CKD_DET_REQUIRE_MPI").is_some();
    assert!(!all_must_be || found.len() == LAUNCHERS.len(), "installed: {found:?}");
    found
}

fn job(launcher: &str, ranks: usize, words: &[&str], library: Option<&str>) -> Output {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().unwrap().parent().unwrap().join("examples/ranks");
    assert!(program.exists(), "{} is built by `cargo test`", program.display());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut command = Command::new(launcher);
    if launcher.contains("openmpi") {
        command.args(["--allow-run-as-root", "--oversubscribe"]);
    }
    if let Some(library) = library {
        command.env("CKD_DET_MPI", library);
    }
    command.args(["-n", &ranks.to_string()]).arg(program).args(words).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn sums_gathers_and_broadcasts_are_those_of_one_process() {
    for (launcher, _) in launchers() {
        for ranks in [1, 2, 3, 4] {
            let output = job(launcher, ranks, &["check"], None);
            let text = text(&output);
            assert!(
                output.status.success() && text.contains(&format!("{ranks} ranks, ")),
                "{launcher}: {text}"
            );
        }
    }
}

#[test]
fn a_rank_that_hangs_is_named_and_the_job_ends_with_our_code() {
    for (launcher, _) in launchers() {
        let output = job(launcher, 3, &["hang"], None);
        let text = text(&output);
        assert_eq!(output.status.code(), Some(75), "{launcher}: {text}");
        assert!(text.contains("in a gather for rank 2"), "{launcher}: {text}");
    }
}

/// MPICH's UCX complains of messages that nobody received.
#[test]
fn a_rank_that_was_waited_for_leaves_no_message_behind() {
    for (launcher, _) in launchers() {
        let output = job(launcher, 3, &["late"], None);
        assert!(output.status.success(), "{launcher}: {}", text(&output));
        assert_eq!(text(&output), "", "{launcher}");
    }
}

#[test]
fn the_exit_code_of_a_rank_that_gives_up_is_the_jobs() {
    for (launcher, _) in launchers() {
        assert_eq!(job(launcher, 2, &["abort", "4"], None).status.code(), Some(4), "{launcher}");
    }
}

#[test]
fn a_killed_rank_ends_the_job() {
    for (launcher, _) in launchers() {
        assert!(!job(launcher, 3, &["kill"], None).status.success(), "{launcher}");
    }
}

#[test]
fn a_library_of_another_launcher_is_refused_by_name() {
    for (launcher, foreign) in launchers() {
        let output = job(launcher, 2, &["check"], Some(foreign));
        let text = text(&output);
        assert!(!output.status.success(), "{launcher}: {text}");
        assert!(text.contains(foreign), "{launcher}: {text}");
    }
}
