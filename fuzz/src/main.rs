//! Changes inputs for a while and reports what readers do wrong with them.
//!
//!     cargo run --release -p ckd-fuzz -- TARGET|all [--minutes 1] [--seed 0] [--findings FOLDER]
//!
//! Minutes are the processor time of the thread that reads, for each target: other work on the machine takes none away.
//! Where the system does not tell (Linux does), they are minutes of the clock.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs};

use ckd_fuzz::{Clock, Mutator, Target, corpus, targets, trial};

/// Inputs that are kept to change further.
const MOST_KEPT: usize = 2000;

struct Options {
    target: String,
    time: Duration,
    seed: u64,
    findings: PathBuf,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        target: String::new(),
        time: Duration::from_secs(60),
        seed: 0,
        findings: PathBuf::from("findings"),
    };
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} takes a value"));
        let number = |text: String| text.parse::<f64>().map_err(|error| format!("{text}: {error}"));
        match word.as_str() {
            "--minutes" => options.time = Duration::from_secs_f64(60.0 * number(value()?)?.max(0.0)),
            "--seed" => options.seed = value()?.parse().map_err(|error| format!("--seed: {error}"))?,
            "--findings" => options.findings = value()?.into(),
            _ => options.target = word,
        }
    }
    match targets().iter().any(|target| target.name == options.target) || options.target == "all" {
        true => Ok(options),
        false => {
            let names: Vec<&str> = targets().iter().map(|target| target.name).collect();
            Err(format!("name a target, or all: {}", names.join(", ")))
        }
    }
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(reason) => {
            eprintln!("{reason}");
            return ExitCode::from(2);
        }
    };
    std::panic::set_hook(Box::new(|_| {}));
    let mut found = 0;
    println_table("| target | processor minutes | executions | a second | ways of answering | findings |");
    println_table("|---|---:|---:|---:|---:|---:|");
    for target in targets().iter().filter(|target| [target.name, "all"].contains(&options.target.as_str())) {
        found += fuzz(target, &options);
    }
    if found > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

#[expect(clippy::print_stdout, reason = "the table is the program's result")]
fn println_table(line: &str) {
    println!("{line}");
}

fn fuzz(target: &Target, options: &Options) -> usize {
    let folder = tempfile::tempdir().expect("a folder for trials");
    let mut inputs = corpus(target);
    let mut mutator = Mutator::new(options.seed);
    let (mut answers, mut faults) = (BTreeSet::new(), BTreeSet::new());
    let (clock, mut executions) = (Clock::start(), 0_u64);
    while clock.elapsed() < options.time {
        let input = mutator.next(&inputs);
        executions += 1;
        match trial(target, folder.path(), &input) {
            Ok(answer) => {
                // An answer may repeat a long name: what is kept of it is a number.
                if answers.insert(BuildHasherDefault::<DefaultHasher>::new().hash_one(answer))
                    && inputs.len() < MOST_KEPT
                {
                    inputs.push(input);
                }
            }
            Err(fault) => {
                let told = format!("{fault:?}");
                if faults.insert(told.chars().take(80).collect::<String>()) {
                    let path = save(&options.findings, target, &input);
                    eprintln!("{}: {told}: {}", target.name, path.display());
                }
            }
        }
    }
    println_table(&format!(
        "| {} | {:.1} | {executions} | {:.0} | {} | {} |",
        target.name,
        clock.elapsed().as_secs_f64() / 60.0,
        executions as f64 / clock.elapsed().as_secs_f64().max(1e-9),
        answers.len(),
        faults.len()
    ));
    faults.len()
}

fn save(findings: &Path, target: &Target, input: &[u8]) -> PathBuf {
    let folder = findings.join(target.name);
    fs::create_dir_all(&folder).expect("the folder of findings");
    let number = fs::read_dir(&folder).map_or(0, Iterator::count);
    let path = folder.join(format!("{number:03}"));
    fs::write(&path, input).expect("a finding");
    path
}
