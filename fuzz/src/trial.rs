//! One input read, watched.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use crate::{Clock, Target};

/// Processor time that an input of up to a megabyte may take; a hundred times an honest one's.
const LONGEST: Duration = Duration::from_secs(2);

/// Memory in MiB that it may take on top.
const MOST_MEMORY: u64 = 512;

/// A fault of a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It panicked, with this message.
    Panic(String),
    /// It took this long.
    Slow(Duration),
    /// It took this many MiB.
    Large(u64),
}

/// Has `target` read `input` in `folder`. Returns how it answered, numbers left out: inputs that are answered in a new
/// way are worth changing further.
///
/// # Errors
/// The reader's fault.
pub fn trial(target: &Target, folder: &Path, input: &[u8]) -> Result<String, Fault> {
    let before = peak(true);
    let clock = Clock::start();
    let answer = catch_unwind(AssertUnwindSafe(|| (target.read)(folder, input)));
    let took = clock.elapsed();
    let memory = peak(false).saturating_sub(before);
    match answer {
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            Err(Fault::Panic(
                text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
                    .unwrap_or_default(),
            ))
        }
        Ok(_) if took > LONGEST => Err(Fault::Slow(took)),
        Ok(_) if memory > MOST_MEMORY => Err(Fault::Large(memory)),
        Ok(answer) => Ok(form(&answer)),
    }
}

/// A message without what it quotes, its numbers and its paths.
fn form(answer: &str) -> String {
    let is_fixed = |word: &&str| {
        !word.contains(|c: char| c.is_ascii_digit() || matches!(c, '/' | '"' | '`' | '\'' | '='))
    };
    answer.split_whitespace().filter(is_fixed).take(12).collect::<Vec<_>>().join(" ")
}

/// The process's largest memory so far in MiB, after it was set back if asked; 0 where Linux does not tell.
fn peak(reset: bool) -> u64 {
    if reset {
        // "5" sets the peak back to what is in use (Linux, proc(5)).
        let _ = fs::write("/proc/self/clear_refs", "5");
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}
