//! Several processes in one run: what the program does under a launcher.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use ckd_det::engine::job::Start;
use serde_json::Value;

#[cfg(target_os = "linux")]
use crate::support::cores::{assert_disjoint, shares_of};
use crate::support::mpi::{alone, assert_jobs_are_one_process, launchers};
use crate::support::tiny::{Tiny, assert_ended, assert_same_run, log, names};
use crate::support::together::Together;

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
        for args in [&["compare", "plain.toml"][..], &["data", "check"], &["bench", "forward", "plain.toml"]]
        {
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

#[cfg(not(feature = "cuda"))]
#[test]
fn several_gpus_need_a_program_that_computes_on_them() {
    let tiny = Tiny::new();
    let args = ["train", "plain.toml", "--gpus", "2"];
    assert_ended(&tiny.run_program(&args), 2, &["built without CUDA", "--features cuda"]);
    let (name, variables) = LAUNCHERS[0];
    let launched = tiny.program(&args).envs(variables).output().unwrap();
    assert_ended(&launched, 2, &[name, "leave --gpus out"]);
    assert!(!tiny.path("runs").exists());
}

/// Keys that train the teacher of `distilled.toml` in two parts.
const TEACHER_IN_PARTS: &str = r#"
extends = "base.toml"

[student]
width = 16

[schedule]
steps = 2

[train]
accumulate = 2
"#;

/// One experiment, by one process and by several.
#[track_caller]
fn assert_ranks_are_accumulation(config: &str, runs: &[&str], sets: &[&str], ranks: usize) {
    let (alone, shared) = (Tiny::new(), Tiny::new());
    for tiny in [&alone, &shared] {
        tiny.write("teacher.toml", TEACHER_IN_PARTS);
    }
    alone.train(config, sets).unwrap();
    shared.train_on(ranks, config, sets).unwrap();
    for run in runs {
        assert_same_run(&alone.path(run), &shared.path(run));
    }
}

#[test]
fn two_processes_are_one_that_accumulates_two_batches_bit_for_bit() {
    let sets =
        ["train.accumulate=2", "train.eval_every=2", "train.ema_decay=0.5", "optim.clip_grad_norm=1.0"];
    assert_ranks_are_accumulation("plain.toml", &["runs/plain"], &sets, 2);
}

#[test]
fn two_processes_augment_as_one_does() {
    let sets = [["train.accumulate=2", "schedule.steps=4"].as_slice(), &crate::resume::AUGMENTED].concat();
    assert_ranks_are_accumulation("plain.toml", &["runs/plain"], &sets, 2);
}

#[test]
fn four_processes_share_an_evaluation_whose_images_they_cannot_share_evenly() {
    let sets = ["train.images_per_update=4", "train.batch_size=1", "data.synth.images_val=7"];
    assert_ranks_are_accumulation("retina_plain.toml", &["runs/retina_plain"], &sets, 4);
}

#[test]
fn a_teacher_a_student_alone_and_one_that_learns_from_it_are_trained_together() {
    let sets = [
        "train.accumulate=2",
        "train.compare_alone=true",
        "train.share_steps=2",
        "distill.0.negatives_from=update",
    ];
    let runs = ["runs/teacher", "runs/distilled/alone", "runs/distilled"];
    assert_ranks_are_accumulation("distilled.toml", &runs, &sets, 2);
}

#[test]
fn a_run_goes_on_with_another_number_of_processes() {
    let sets = ["train.accumulate=4", "train.eval_every=2", "train.batch_size=1", "schedule.steps=5"];
    let (whole, changing) = (Tiny::new(), Tiny::new());
    whole.train("plain.toml", &sets).unwrap();
    let mut start = Start::Anew;
    for (ranks, stops) in [(4, true), (1, true), (2, true), (1, true), (4, false)] {
        let ended = changing.start_on(Together { ranks, start, stops }, "plain.toml", &sets);
        assert_eq!(ended.is_err(), stops, "{ended:?}");
        start = Start::Resume;
    }
    assert_same_run(&whole.path("runs/plain"), &changing.path("runs/plain"));
}

#[test]
fn steps_that_are_left_out_are_the_same_ones_on_all_processes() {
    let sets = [
        "train.accumulate=2",
        "train.on_non_finite=skip",
        "train.spike_factor=1.0001",
        "train.non_finite_limit=100",
        "schedule.steps=14",
    ];
    let (alone, shared) = (Tiny::new(), Tiny::new());
    alone.train("plain.toml", &sets).unwrap();
    shared.train_on(2, "plain.toml", &sets).unwrap();
    assert_same_run(&alone.path("runs/plain"), &shared.path("runs/plain"));
    let left_out = log(&alone.path("runs/plain")).iter().filter(|line| !line["left_out"].is_null()).count();
    assert!(left_out > 0, "no step was left out");
}

#[test]
fn processes_that_cannot_share_the_parts_evenly_are_told_how_many_can() {
    let tiny = Tiny::new();
    let error = tiny.train_on(3, "plain.toml", &["train.accumulate=4"]).unwrap_err();
    assert!(
        error.contains("start 2 or 4 of them") && error.contains("train.accumulate to 3 or 6"),
        "{error}"
    );
    assert!(!tiny.path("runs").exists(), "nothing was written");
}

#[test]
fn images_per_update_are_whole_batches() {
    let tiny = Tiny::new();
    let error = |sets: &[&str]| tiny.load("plain.toml", sets).unwrap_err().to_string();
    let odd = error(&["train.images_per_update=5"]);
    assert!(odd.contains("no multiple of train.batch_size = 2") && odd.contains("give 4 or 6"), "{odd}");
    let both = error(&["train.images_per_update=6", "train.accumulate=2"]);
    assert!(both.contains("makes it 3"), "{both}");
    assert_eq!(tiny.load("plain.toml", &["train.images_per_update=6"]).unwrap().config.run.train.parts(), 3);
}

/// A job of two processes whose second one gets `signal` while they train; how the job ended.
fn job_with(tiny: &Tiny, launcher: &str, signal: &str, sets: &[&str]) -> Output {
    let _alone = alone();
    let sets = match sets.iter().any(|set| set.starts_with("schedule.steps")) {
        true => sets.to_vec(),
        false => [sets, &["train.accumulate=2", "schedule.steps=100000"]].concat(),
    };
    let sets = sets.iter().flat_map(|set| ["--set", set]);
    let args: Vec<&str> = ["train", "plain.toml"].into_iter().chain(sets).collect();
    let mut job = tiny.job_command(launcher, 2, &args);
    let job = job.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let log = tiny.path("runs/plain/log.jsonl");
    let began = Instant::now();
    while fs::metadata(&log).map_or(0, |log| log.len()) == 0 {
        assert!(began.elapsed() < Duration::from_secs(120), "{launcher}: no step was made");
        std::thread::sleep(Duration::from_millis(50));
    }
    let second = second_process(&tiny.path(".").canonicalize().unwrap()).expect("there are two processes");
    assert!(Command::new("kill").args([signal, &second]).status().unwrap().success());
    job.wait_with_output().unwrap()
}

/// The process of rank 1 that works in `folder`.
fn second_process(folder: &Path) -> Option<String> {
    let ranks = [&b"OMPI_COMM_WORLD_RANK=1"[..], b"PMI_RANK=1"];
    names(Path::new("/proc")).into_iter().filter(|name| name.parse::<u32>().is_ok()).find(|process| {
        let of = |what: &str| Path::new("/proc").join(process).join(what);
        let environment = fs::read(of("environ")).unwrap_or_default();
        let is_second = environment.split(|&byte| byte == 0).any(|variable| ranks.contains(&variable));
        let is_program = fs::read_link(of("exe")).is_ok_and(|exe| exe.ends_with("ckd-det"));
        is_second && is_program && fs::read_link(of("cwd")).is_ok_and(|cwd| cwd == folder)
    })
}

fn bytes(run: &Path, file: &str) -> Vec<u8> {
    fs::read(run.join(file)).unwrap_or_else(|error| panic!("{}: {error}", run.join(file).display()))
}

#[test]
fn under_mpirun_the_program_trains_one_run_whose_files_are_those_of_one_process() {
    let same = |one: &Path, shared: &Path| {
        let (one, shared) = (one.join("plain"), shared.join("plain"));
        for file in ["last.safetensors", "best.safetensors", "config.toml"] {
            assert!(bytes(&one, file) == bytes(&shared, file), "{file} differs");
        }
        assert_same_run(&one, &shared);
    };
    let sets = ["train.accumulate=4", "train.eval_every=3", "train.batch_size=1"];
    assert_jobs_are_one_process(Tiny::new, ("plain.toml", &sets), &[2, 4], same);
}

#[test]
fn under_mpirun_a_detector_is_distilled_as_by_one_process() {
    let new = || {
        let tiny = Tiny::new();
        tiny.write("teacher.toml", TEACHER_IN_PARTS);
        tiny
    };
    let same = |one: &Path, shared: &Path| {
        for run in ["teacher", "distilled/alone", "distilled"] {
            assert_same_run(&one.join(run), &shared.join(run));
        }
    };
    let sets = ["train.accumulate=2", "train.compare_alone=true", "schedule.steps=3"];
    assert_jobs_are_one_process(new, ("distilled.toml", &sets), &[2], same);
}

#[cfg(target_os = "linux")]
#[test]
fn under_mpirun_a_run_goes_on_with_another_number_of_processes() {
    let sets = ["train.accumulate=4", "train.batch_size=1", "schedule.steps=40", "train.eval_every=30"];
    let args: Vec<&str> =
        ["train", "plain.toml"].into_iter().chain(sets.iter().flat_map(|set| ["--set", set])).collect();
    let alone = Tiny::new();
    if launchers().is_empty() {
        return;
    }
    assert_ended(&alone.run_program(&[&args[..], &["--threads", "1"]].concat()), 0, &["everything is in"]);
    for launcher in launchers() {
        let changing = Tiny::new();
        let output = job_with(&changing, launcher, "-USR1", &sets);
        assert_ended(&output, 130, &["interrupted after step", "the state is saved"]);
        let output = changing.job(launcher, 4, &[&args[..], &["--resume"]].concat());
        assert_ended(&output, 0, &["everything is in runs/plain"]);
        assert_same_run(&alone.path("runs/plain"), &changing.path("runs/plain"));
    }
}

#[test]
fn under_mpirun_a_step_is_timed_together_and_alone() {
    for launcher in launchers() {
        let tiny = Tiny::new();
        let args = ["bench", "step", "distilled.toml", "--classes", "3", "--steps", "3", "--json"];
        let output = tiny.job(launcher, 2, &args);
        assert_ended(&output, 0, &[]);
        let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object and nothing else");
        let processes = &report["processes"];
        let number = |key: &str| processes[key].as_f64().unwrap_or_else(|| panic!("{key}: {report}"));
        assert_eq!([number("processes"), number("on_this_machine")], [2.0, 2.0]);
        for key in ["sums_alone_ms", "solo_ms", "gradient_mib", "efficiency"] {
            assert!(number(key) > 0.0, "{key}: {report}");
        }
        assert!((0.0..=1.0).contains(&number("hidden")), "{report}");
        let update = ["--set", "distill.0.negatives_from=update"];
        let told = tiny.job(launcher, 2, &[&args[..7], &update].concat());
        let said = [
            "sums by themselves",
            "scaling efficiency",
            "for other processes",
            "2 parts; processes exchange rows",
        ];
        assert_ended(&told, 0, &said);
        assert_eq!(String::from_utf8_lossy(&told.stdout).matches("a step ").count(), 2, "{told:?}");
    }
}

#[test]
fn under_mpirun_what_is_wrong_ends_all_processes_with_its_code_and_is_said_once() {
    for launcher in launchers() {
        let tiny = Tiny::new();
        let output = tiny.job(launcher, 2, &["train", "nowhere.toml"]);
        assert_ended(&output, 2, &["nowhere.toml"]);
        let uneven = tiny.job(launcher, 3, &["train", "plain.toml", "--set", "train.accumulate=2"]);
        assert_ended(&uneven, 2, &["3 processes cannot share the 2 parts", "start 2 of them"]);
        assert!(!tiny.path("runs").exists());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn under_mpirun_a_process_that_hangs_is_named_and_all_end_with_75() {
    for launcher in launchers() {
        let output = job_with(&Tiny::new(), launcher, "-STOP", &["train.rank_timeout_s=2"]);
        assert_ended(&output, 75, &["after step", "for rank 1"]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn under_mpirun_processes_that_nobody_has_bound_keep_to_cores_of_their_own() {
    for launcher in launchers() {
        let (tiny, _alone) = (Tiny::new(), alone());
        let mut job = Command::new(launcher);
        if launcher.contains("openmpi") {
            job.args(["--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]);
        }
        job.args(["-n", "2", env!("CARGO_BIN_EXE_ckd-det"), "train", "plain.toml"]);
        job.args([
            "--set",
            "train.accumulate=2",
            "--set",
            "schedule.steps=1",
            "--set",
            "schedule.milestones=[1]",
        ]);
        job.current_dir(tiny.path(".")).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (output, shares) = shares_of(job.spawn().unwrap(), &tiny.path("."));
        assert_ended(&output, 0, &["everything is in"]);
        assert_disjoint(&shares, 2);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn under_mpirun_a_process_that_is_killed_ends_all() {
    for launcher in launchers() {
        let output = job_with(&Tiny::new(), launcher, "-KILL", &[]);
        // MPICH's launcher tells of the first end it hears of: the killed process's, or, on a busy machine, that of the one which
        // the library aborts for waiting on it.
        let told = String::from_utf8_lossy(&output.stdout);
        let code = match launcher {
            launcher if launcher.contains("openmpi") => 137,
            _ if told.contains("EXIT STRING: Aborted (signal 6)") => 6,
            _ => 9,
        };
        assert_eq!(output.status.code(), Some(code), "{launcher}: {output:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn under_mpirun_a_signal_to_one_process_saves_the_state_of_all() {
    for launcher in launchers() {
        let tiny = Tiny::new();
        let output = job_with(&tiny, launcher, "-USR1", &[]);
        assert_ended(&output, 130, &["interrupted after step", "the state is saved"]);
        assert_eq!(names(&tiny.path("runs/plain/checkpoints")).len(), 1, "{launcher}");
    }
}
