//! Several processes in one run: what the program does under a launcher.

use crate::support::tiny::{Tiny, assert_ended, names};

/// Variables of launchers that started two processes, of which this is the first.
const LAUNCHERS: [(&str, [(&str, &str); 2]); 3] = [
    ("Open MPI's mpirun", [("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_RANK", "0")]),
    ("the mpiexec of MPICH or Intel MPI", [("PMI_SIZE", "2"), ("PMI_RANK", "0")]),
    ("Slurm's srun", [("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_PROCID", "0")]),
];

#[test]
fn what_writes_files_and_cannot_share_its_work_refuses_to_run_several_times_at_once() {
    let tiny = Tiny::new();
    let before = names(&tiny.path("."));
    for (name, variables) in LAUNCHERS {
        for args in [&["compare", "plain.toml"][..], &["data", "check"], &["bench", "step", "plain.toml"]] {
            let output = tiny.program(args).envs(variables).output().unwrap();
            assert_ended(&output, 2, &[name, "started 2 processes", "without the launcher"]);
        }
    }
    assert_eq!(names(&tiny.path(".")), before, "nothing was written");
}

#[test]
fn of_several_processes_the_first_says_what_is_wrong() {
    let variables = [("PMI_SIZE", "2"), ("PMI_RANK", "1")];
    let output = Tiny::new().program(&["compare", "plain.toml"]).envs(variables).output().unwrap();
    assert_ended(&output, 2, &[]);
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn what_only_tells_something_works_under_a_launcher_and_all_works_as_its_only_process() {
    let tiny = Tiny::new();
    let (_, two) = LAUNCHERS[0];
    assert_ended(&tiny.program(&["config", "check", "plain.toml"]).envs(two).output().unwrap(), 0, &[]);
    assert_ended(&tiny.program(&["methods"]).envs(two).output().unwrap(), 0, &["ckd"]);
    let one = [("PMI_SIZE", "1"), ("PMI_RANK", "0")];
    let sets = ["train", "plain.toml", "--dry-run"];
    assert_ended(&tiny.program(&sets).envs(one).output().unwrap(), 0, &["nothing was kept"]);
}
