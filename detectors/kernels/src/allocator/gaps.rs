//! Free parts of a range of addresses.

use std::collections::{BTreeMap, BTreeSet};

/// Content of a block when it is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// Never touched pages.
    Zeros,
    /// Bytes that its last owner left.
    Anything,
}

/// Free blocks, below `end` and beyond it.
#[derive(Debug)]
pub(super) struct Gaps {
    /// Start to length. No two touch, and none touches `end`.
    by_start: BTreeMap<usize, usize>,
    /// (length, start) of the same.
    by_len: BTreeSet<(usize, usize)>,
    /// From here on everything is free.
    end: usize,
    /// From here on nothing was ever handed out.
    fresh: usize,
}

impl Gaps {
    pub(super) const fn new() -> Self {
        Self { by_start: BTreeMap::new(), by_len: BTreeSet::new(), end: 0, fresh: 0 }
    }

    /// The smallest gap of at least `len`, the first of equal ones, or else the end of what is in use.
    pub(super) fn take(&mut self, len: usize, range: usize) -> Option<(usize, Content)> {
        if let Some(&(gap, start)) = self.by_len.range((len, 0)..).next() {
            self.remove(start, gap);
            if gap > len {
                self.insert(start + len, gap - len);
            }
            return Some((start, Content::Anything));
        }
        let start = self.end;
        let end = start.checked_add(len).filter(|&end| end <= range)?;
        self.end = end;
        let content = if start < self.fresh { Content::Anything } else { Content::Zeros };
        self.fresh = self.fresh.max(end);
        Some((start, content))
    }

    /// Frees what `take` gave, or a part of it.
    pub(super) fn give(&mut self, mut start: usize, mut len: usize) {
        if let Some((&before, &gap)) = self.by_start.range(..start).next_back()
            && before + gap == start
        {
            self.remove(before, gap);
            (start, len) = (before, gap + len);
        }
        if let Some(&gap) = self.by_start.get(&(start + len)) {
            self.remove(start + len, gap);
            len += gap;
        }
        if start + len == self.end {
            self.end = start;
        } else {
            self.insert(start, len);
        }
    }

    /// Start and length of what was handed out before and is free now: the end first, then the longest gap.
    pub(super) fn longest_first(&self) -> impl Iterator<Item = (usize, usize)> {
        let end = (self.end, self.fresh - self.end);
        std::iter::once(end).chain(self.by_len.iter().rev().map(|&(len, start)| (start, len)))
    }

    fn insert(&mut self, start: usize, len: usize) {
        self.by_start.insert(start, len);
        self.by_len.insert((len, start));
    }

    fn remove(&mut self, start: usize, len: usize) {
        self.by_start.remove(&start);
        self.by_len.remove(&(len, start));
    }
}

#[cfg(test)]
impl Gaps {
    /// Returns whether nothing is in use, and so no gap left.
    pub(super) fn is_empty(&self) -> bool {
        self.by_start.is_empty() && self.by_len.is_empty() && self.end == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_neighbours_become_one_gap_and_the_end_comes_back() {
        let mut gaps = Gaps::new();
        let at = |taken: Option<(usize, Content)>| taken.expect("there is room").0;
        let [a, b, c] = [10, 20, 30].map(|len| at(gaps.take(len, 100)));
        assert_eq!((a, b, c), (0, 10, 30));
        gaps.give(a, 10);
        gaps.give(b, 20);
        assert_eq!(gaps.take(25, 100), Some((0, Content::Anything)));
        assert_eq!(gaps.take(5, 100), Some((25, Content::Anything)));
        assert_eq!(gaps.take(41, 100), None);
        assert_eq!(gaps.take(40, 100), Some((60, Content::Zeros)));
        for (start, len) in [(0, 25), (30, 30), (25, 5), (60, 40)] {
            gaps.give(start, len);
        }
        assert!(gaps.is_empty());
        assert_eq!(gaps.take(100, 100), Some((0, Content::Anything)));
    }

    #[test]
    fn the_smallest_gap_that_fits_is_taken() {
        let mut gaps = Gaps::new();
        let blocks = [40, 1, 20, 1, 30, 1].map(|len| (gaps.take(len, 1000).expect("room").0, len));
        for (start, len) in [blocks[0], blocks[2], blocks[4]] {
            gaps.give(start, len);
        }
        assert_eq!(gaps.take(20, 1000).map(|taken| taken.0), Some(blocks[2].0));
        assert_eq!(gaps.take(20, 1000).map(|taken| taken.0), Some(blocks[4].0));
        assert_eq!(gaps.take(31, 1000).map(|taken| taken.0), Some(blocks[0].0));
    }

    #[test]
    fn random_takes_and_gives_never_overlap_and_leave_nothing_behind() {
        let mut gaps = Gaps::new();
        let mut state = 1u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        let mut live: BTreeMap<usize, usize> = BTreeMap::new();
        for _ in 0..4000 {
            if !live.is_empty() && random(5) < 2 {
                let (&start, &len) = live.iter().nth(random(live.len())).expect("in range");
                // A block is sometimes cut down first.
                let kept = 1 + random(len);
                if kept < len {
                    gaps.give(start + kept, len - kept);
                }
                gaps.give(start, kept);
                live.remove(&start);
                continue;
            }
            let len = 1 + random(50);
            let Some((start, _)) = gaps.take(len, 2000) else { continue };
            let before = live.range(..start).next_back().map_or(0, |(start, len)| start + len);
            let after = live.range(start..).next().map_or(2000, |(start, _)| *start);
            assert!(before <= start && start + len <= after);
            live.insert(start, len);
        }
        for (start, len) in live {
            gaps.give(start, len);
        }
        assert!(gaps.is_empty());
    }
}
