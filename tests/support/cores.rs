//! Cores that running processes keep to, as Linux tells them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Output};
use std::time::Duration;

/// A set of cores.
pub(crate) type Cores = BTreeSet<usize>;

/// The cores that a thread may use, by its folder in `/proc`; none once it has ended.
fn of_thread(folder: &Path) -> Option<Cores> {
    let status = fs::read_to_string(folder.join("status")).ok()?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let ends = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    Some(list.trim().split(',').filter_map(ends).flatten().collect())
}

/// The cores of the threads of all programs called `ckd-det` that work in `folder`.
fn of_programs_in(folder: &Path) -> impl Iterator<Item = Cores> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let in_folder = folder.canonicalize().expect("a folder");
    let ours = processes.filter(move |process| {
        let link = |name: &str| fs::read_link(process.join(name)).unwrap_or_default();
        link("exe").ends_with("ckd-det") && link("cwd") == in_folder
    });
    let threads = ours.flat_map(|process| fs::read_dir(process.join("task")).into_iter().flatten().flatten());
    threads.filter_map(|thread| of_thread(&thread.path()))
}

/// Waits for `job`, and hands over the shares of the cores that the programs working in `folder` kept to: sets smaller than that of
/// this process.
pub(crate) fn shares_of(mut job: Child, folder: &Path) -> (Output, BTreeSet<Cores>) {
    let whole = of_thread(Path::new("/proc/self")).expect("Linux tells");
    let mut shares = BTreeSet::new();
    while job.try_wait().expect("a child").is_none() {
        shares.extend(of_programs_in(folder).filter(|cores| cores.len() < whole.len()));
        std::thread::sleep(Duration::from_millis(10));
    }
    (job.wait_with_output().expect("a child"), shares)
}

/// Asserts that there were `count` shares and none has a core of another; says so where there are fewer cores.
#[track_caller]
pub(crate) fn assert_disjoint(shares: &BTreeSet<Cores>, count: usize) {
    let whole = of_thread(Path::new("/proc/self")).expect("Linux tells");
    if whole.len() < count {
        return eprintln!("NOT RUN: there are {} cores", whole.len());
    }
    let cores: Cores = shares.iter().flatten().copied().collect();
    assert_eq!(shares.len(), count, "{shares:?}");
    assert_eq!(cores.len(), shares.iter().map(BTreeSet::len).sum::<usize>(), "{shares:?}");
}
