//! Cores of the machine: those that a thread may use, and keeping a thread to some of them.

/// The cores that this thread may use, ascending; none where the system does not tell.
#[cfg(target_os = "linux")]
pub(crate) fn allowed() -> Vec<usize> {
    use rustix::thread::{CpuSet, sched_getaffinity};

    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect()
}

/// Keeps this thread, and those that it starts from now on, to `cores`. Where the system refuses, nothing changes but speed.
#[cfg(target_os = "linux")]
pub(crate) fn keep_to(cores: &[usize]) {
    use rustix::thread::{CpuSet, sched_setaffinity};

    let mut set = CpuSet::new();
    cores.iter().for_each(|&core| set.set(core));
    // A container may forbid it.
    let _ = sched_setaffinity(None, &set);
}

/// The cores that this thread may use, ascending; none where the system does not tell.
#[cfg(not(target_os = "linux"))]
pub(crate) fn allowed() -> Vec<usize> {
    Vec::new()
}

/// Keeps this thread, and those that it starts from now on, to `cores`; on this system nothing does.
#[cfg(not(target_os = "linux"))]
pub(crate) fn keep_to(_: &[usize]) {}

/// The share of number `index` of `count` that divide `cores` among them: neighbours, as many for each; none where there are fewer
/// cores than shares.
pub(crate) fn share(cores: &[usize], index: usize, count: usize) -> &[usize] {
    let each = cores.len() / count.max(1);
    cores.get(index * each..(index + 1) * each).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_disjoint_and_of_one_size() {
        let cores = [0, 1, 2, 3, 8, 9, 10];
        let shares: Vec<&[usize]> = (0..3).map(|index| share(&cores, index, 3)).collect();
        assert_eq!(shares, [&[0, 1][..], &[2, 3], &[8, 9]]);
        assert!(share(&cores[..1], 0, 2).is_empty() && share(&[], 0, 1).is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_keeps_to_its_cores_and_so_do_those_that_it_starts() {
        let all = allowed();
        let last = all[all.len() - 1..].to_vec();
        let (own, child) = std::thread::spawn(move || {
            keep_to(&last);
            (allowed(), std::thread::spawn(allowed).join().unwrap())
        })
        .join()
        .unwrap();
        assert_eq!((&own[..], &child[..]), (&all[all.len() - 1..], &all[all.len() - 1..]));
        assert_eq!(allowed(), all, "other threads are as they were");
    }
}
