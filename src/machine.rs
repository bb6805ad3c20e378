//! Facts about the machine and the process, from files in /proc.

pub(crate) mod cores;

use std::fs;

/// The value of `name: value` in a file of /proc; nothing elsewhere than on Linux.
pub(crate) fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim_start().strip_prefix(':')?.trim().to_owned())
}

/// A field in kB, in MiB.
pub(crate) fn mebibytes(file: &str, name: &str) -> Option<f64> {
    let kibibytes: f64 = field(file, name)?.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes / 1024.0)
}

/// The most memory that this program has had so far, in MiB (the peak of its resident set).
#[cfg(feature = "cli")]
pub(crate) fn peak_memory_mib() -> Option<f64> {
    mebibytes("/proc/self/status", "VmHWM")
}

/// The memory that this program has now, in MiB (its resident set).
pub(crate) fn memory_mib() -> Option<f64> {
    mebibytes("/proc/self/status", "VmRSS")
}
