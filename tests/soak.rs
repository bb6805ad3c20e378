//! Runs that are killed, asked to stop, cut off from their disk and damaged, over and over: each ends in the same bits once
//! it is resumed. `tools/soak N` makes N trials and prints their table; here are twenty.

#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::colours;
use crate::support::tiny::{Tiny, names};
use crate::{classify, cohort};

/// Trials, unless `CKD_DET_SOAK` says how many.
const TRIALS: u64 = 20;

/// Resumptions before a run counts as lost.
const RESUMED: usize = 5;

/// A run that is tried: its configuration, its settings, and where its weights are in the end.
struct Job {
    config: &'static str,
    sets: &'static [&'static str],
    last: &'static [&'static str],
}

const JOBS: [Job; 3] = [
    Job {
        config: "plain.toml",
        sets: &["schedule.steps=12", "schedule.milestones=[9]", "train.eval_every=5", "train.ema_decay=0.9"],
        last: &["runs/plain/last.safetensors", "runs/plain/ema.safetensors"],
    },
    Job { config: "classify.toml", sets: &["schedule.epochs=6"], last: &["runs/classify/last.safetensors"] },
    Job {
        config: "cohort.toml",
        sets: &[
            "schedule.steps=12",
            "cohort.method=l_mcl",
            "cohort.layers.meta_every=2",
            "cohort.bank.negatives=5",
        ],
        last: &["runs/cohort/peer0/last.safetensors", "runs/cohort/peer1/last.safetensors"],
    },
];

impl Job {
    fn args(&self) -> Vec<&str> {
        let sets = self.sets.iter().chain(&["train.checkpoint_every=2"]);
        ["train", self.config, "--quiet"].into_iter().chain(sets.flat_map(|set| ["--set", set])).collect()
    }

    fn folder(&self) -> String {
        format!("runs/{}", self.config.trim_end_matches(".toml"))
    }

    fn weights(&self, tiny: &Tiny) -> Vec<Vec<u8>> {
        self.last.iter().map(|path| fs::read(tiny.path(path)).unwrap_or_default()).collect()
    }
}

/// What happens to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// SIGKILL at any time.
    Kill,
    /// SIGINT, SIGTERM, SIGHUP or SIGUSR1 at any time.
    Signal,
    /// SIGKILL at some rename, write, flush or removal of a file (by strace).
    Call,
    /// Files cannot grow beyond some size, and writing fails in the middle.
    Limit,
    /// The disk is full: a small file system, or else every write from one on fails (by strace).
    Full,
    /// SIGKILL, and a file of the run is cut.
    Torn,
    /// SIGKILL, and a bit of a file of the run is another.
    Flipped,
}

const FAULTS: [Fault; 7] =
    [Fault::Kill, Fault::Call, Fault::Full, Fault::Signal, Fault::Limit, Fault::Torn, Fault::Flipped];

/// Calls of the system at which a run is killed, and about how often a run makes them.
const CALLS: [(&str, u64); 4] = [("rename", 14), ("write", 60), ("fsync", 30), ("unlink", 6)];

/// A small file system at a folder, for as long as this lives.
struct Disk(PathBuf);

impl Disk {
    /// A file system of `kib` KiB in memory; `None` where the user may not mount one.
    fn mount(at: &Path, kib: u64) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let disk = Self(at.to_owned());
        disk.run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"]))
            .then_some(disk)
    }

    /// Makes room, as a user does who deletes files.
    fn grow(&self) {
        assert!(self.run(Command::new("mount").args(["-o", "remount,size=64m"])));
    }

    fn run(&self, command: &mut Command) -> bool {
        command.arg(&self.0).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It may never have been mounted.
        let _ = self.run(Command::new("umount").arg("-l"));
    }
}

/// `program` under strace, which has `fault` happen at its calls of `calls`.
fn injected(program: &Command, calls: &str, fault: &str) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
    command.args(["-e", &format!("inject={calls}:{fault}")]);
    command.arg(program.get_program()).args(program.get_args());
    command.current_dir(program.get_current_dir().unwrap());
    command
}

/// Whether strace is here and may be used.
fn can_inject() -> bool {
    let mut command = Command::new("strace");
    command.args(["-qq", "-o", "/dev/null", "true"]).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The numbers that a trial draws.
struct Draws(blake3::OutputReader);

impl Draws {
    fn of(trial: u64) -> Self {
        Self(blake3::Hasher::new().update(&trial.to_le_bytes()).finalize_xof())
    }

    fn below(&mut self, end: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes) % end.max(1)
    }
}

fn started(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

/// Files that a run reads back when it is resumed.
fn read_back(run: &Path) -> Vec<PathBuf> {
    let folders = [run.to_owned(), run.join("checkpoints"), run.join("peer0"), run.join("peer1")];
    let files = folders.into_iter().filter(|folder| folder.exists()).flat_map(|folder| {
        let names = names(&folder);
        names.into_iter().map(move |name| folder.join(name))
    });
    let is_read = |file: &PathBuf| {
        let name = file.file_name().unwrap().to_string_lossy();
        // A log that is damaged in the middle is refused with its line; a run goes on without it.
        file.is_file() && (name.ends_with(".safetensors") || name == "outcome.json")
    };
    files.filter(is_read).collect()
}

/// Lets `fault` happen to a run of `job` that takes `took` undisturbed. Returns whether this machine can.
fn disturb(tiny: &Tiny, job: &Job, fault: Fault, took: Duration, draws: &mut Draws) -> Happened {
    let program = tiny.program(&job.args());
    if fault == Fault::Full {
        // A checkpoint takes some hundred KiB, and two must fit for a run to begin.
        let disk = Disk::mount(&tiny.path("runs"), 300 + draws.below(2500));
        let mut command = match disk {
            Some(_) => program,
            None if can_inject() => {
                injected(&program, "write", &format!("error=ENOSPC:when={}+", 1 + draws.below(60)))
            }
            None => return Happened::No,
        };
        command.stdin(Stdio::null());
        started(command).wait_with_output().unwrap();
        return Happened::Yes(disk.inspect(Disk::grow));
    }
    if fault == Fault::Call {
        if !can_inject() {
            return Happened::No;
        }
        let (call, count) = CALLS[draws.below(CALLS.len() as u64) as usize];
        let when = 1 + draws.below(count);
        started(injected(&program, call, &format!("signal=KILL:when={when}"))).wait_with_output().unwrap();
        return Happened::Yes(None);
    }
    disturb_everywhere(tiny, job, fault, took, draws);
    Happened::Yes(None)
}

/// Result of [`disturb`].
enum Happened {
    /// The fault, on this disk if it has one of its own.
    Yes(Option<Disk>),
    /// Nothing: this machine has neither the rights nor strace.
    No,
}

/// Lets a fault happen that every Unix can have.
fn disturb_everywhere(tiny: &Tiny, job: &Job, fault: Fault, took: Duration, draws: &mut Draws) {
    let program = tiny.program(&job.args());
    if fault == Fault::Limit {
        // Blocks of half a KiB; a checkpoint has some hundreds.
        let limit = draws.below(3000) + 1;
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("trap '' XFSZ; ulimit -f {limit}; exec \"$0\" \"$@\""));
        command.arg(program.get_program()).args(program.get_args());
        command.current_dir(program.get_current_dir().unwrap());
        started(command).wait_with_output().unwrap();
        return;
    }
    let mut child = started(program);
    std::thread::sleep(Duration::from_millis(draws.below(took.as_millis() as u64)));
    if fault == Fault::Signal {
        let name = ["-INT", "-TERM", "-HUP", "-USR1"][draws.below(4) as usize];
        // It may have ended before.
        let _ = Command::new("kill").args([name, &child.id().to_string()]).stderr(Stdio::null()).status();
        child.wait_with_output().unwrap();
        return;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let files = read_back(&tiny.path(&job.folder()));
    if fault == Fault::Kill || files.is_empty() {
        return;
    }
    let file = &files[draws.below(files.len() as u64) as usize];
    let mut bytes = fs::read(file).unwrap();
    let at = draws.below(bytes.len() as u64) as usize;
    match fault {
        Fault::Torn => bytes.truncate(at),
        _ => bytes[at] ^= 1 << draws.below(8),
    }
    fs::write(file, bytes).unwrap();
}

/// Resumes the run until it is done; what it said if it never is.
fn finish(tiny: &Tiny, job: &Job) -> Result<(), String> {
    let mut said = String::new();
    for _ in 0..RESUMED {
        let resumable = tiny.path(&job.folder()).join("config.toml").exists();
        let mut args = job.args();
        args.extend(resumable.then_some("--resume"));
        let output = tiny.run_program(&args);
        if output.status.success() {
            return Ok(());
        }
        said = String::from_utf8_lossy(&output.stderr).into_owned();
        if said.contains("none of the others is whole") {
            // The only checkpoint is damaged: the user starts anew.
            fs::remove_dir_all(tiny.path(&job.folder())).unwrap();
        }
    }
    Err(said)
}

#[test]
fn whatever_happens_to_a_run_it_ends_in_the_same_bits() {
    let trials = std::env::var("CKD_DET_SOAK").ok().and_then(|count| count.parse().ok()).unwrap_or(TRIALS);
    let tiny = Tiny::new();
    let data = |base: &str| base.replace("root = \"data\"", "root = \"colours\"");
    colours::write(&tiny.path("colours"));
    tiny.write("classify.toml", &data(classify::BASE));
    tiny.write("cohort.toml", &data(cohort::BASE));
    let undisturbed: Vec<(Vec<Vec<u8>>, Duration)> = JOBS
        .iter()
        .map(|job| {
            finish(&tiny, job).unwrap();
            let weights = job.weights(&tiny);
            assert!(weights.iter().all(|file| !file.is_empty()));
            // Again, now that the data is there.
            fs::remove_dir_all(tiny.path("runs")).unwrap();
            let start = Instant::now();
            finish(&tiny, job).unwrap();
            (weights, start.elapsed())
        })
        .collect();
    let mut table: BTreeMap<Fault, [u64; 3]> = BTreeMap::new();
    let mut failures = Vec::new();
    for trial in 0..trials {
        let (which, fault) = ((trial % 3) as usize, FAULTS[(trial / 3) as usize % FAULTS.len()]);
        let (job, (expected, took)) = (&JOBS[which], &undisturbed[which]);
        let _ = fs::remove_dir_all(tiny.path("runs"));
        let mut draws = Draws::of(trial);
        let Happened::Yes(_disk) = disturb(&tiny, job, fault, *took, &mut draws) else {
            eprintln!("trial {trial}: {fault:?} cannot be made here (no strace, no mount)");
            continue;
        };
        let [count, lost, different] = table.entry(fault).or_default();
        *count += 1;
        match finish(&tiny, job) {
            Err(said) => {
                *lost += 1;
                failures.push(format!("trial {trial}, {fault:?} of {}: {said}", job.config));
            }
            Ok(()) if job.weights(&tiny) != *expected => {
                *different += 1;
                failures.push(format!("trial {trial}, {fault:?} of {}: other weights", job.config));
            }
            Ok(()) => {}
        }
    }
    eprintln!("{:<10} {:>7} {:>7} {:>10}", "fault", "trials", "lost", "different");
    for (fault, [count, lost, different]) in &table {
        eprintln!("{:<10} {count:>7} {lost:>7} {different:>10}", format!("{fault:?}").to_lowercase());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
