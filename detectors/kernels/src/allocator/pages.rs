//! Pages of a range of addresses that hold memory, and how many may.

/// Unit in bytes by which memory is counted and given back: a large page, which comes and goes as one.
pub(super) const PAGE: usize = 2 << 20;

/// Pages may hold this part more than was ever in use at once, and `FEW` pages. A training step comes back to
/// the same buffers in nearly the same gaps: with less, it would give pages back that are cleared again a
/// moment later.
const SLACK: f64 = 0.1;
const FEW: usize = 4;

/// The pages that hold memory.
#[derive(Debug)]
pub(super) struct Pages {
    /// A bit for each page from the start on.
    held: Vec<u64>,
    /// Number of bits that are set.
    count: usize,
    /// Bytes in use, and the most that ever were.
    in_use: usize,
    most: usize,
}

impl Pages {
    pub(super) const fn new() -> Self {
        Self { held: Vec::new(), count: 0, in_use: 0, most: 0 }
    }

    /// Notes that `len` bytes from `start` come into use;
    /// gives how many pages too many hold memory then, if more do than before.
    pub(super) fn enter(&mut self, start: usize, len: usize) -> usize {
        self.in_use += len;
        self.most = self.most.max(self.in_use);
        let (first, last) = (start / PAGE, (start + len - 1) / PAGE);
        if last / 64 >= self.held.len() {
            self.held.resize(last / 64 + 1, 0);
        }
        let before = self.count;
        for page in first..=last {
            let (word, bit) = (&mut self.held[page / 64], 1 << (page % 64));
            self.count += usize::from(*word & bit == 0);
            *word |= bit;
        }
        let allowed = (self.most as f64 * (1.0 + SLACK)) as usize / PAGE + FEW;
        if self.count > before { self.count.saturating_sub(allowed) } else { 0 }
    }

    /// Notes that `len` bytes are no longer in use.
    pub(super) fn leave(&mut self, len: usize) {
        self.in_use -= len;
    }

    /// Empties the pages that hold memory and lie wholly in the `len` free bytes from `start`, `most` at
    /// most, by `empty`, which is given where a page starts; gives how many.
    pub(super) fn release(
        &mut self,
        (start, len): (usize, usize),
        most: usize,
        mut empty: impl FnMut(usize),
    ) -> usize {
        let whole = start.div_ceil(PAGE)..(start + len) / PAGE;
        let mut released = 0;
        for page in whole {
            if released == most {
                break;
            }
            let bit = 1 << (page % 64);
            // Pages that never held memory may lie beyond the last word.
            let Some(word) = self.held.get_mut(page / 64).filter(|word| **word & bit != 0) else { continue };
            *word &= !bit;
            empty(page * PAGE);
            released += 1;
        }
        self.count -= released;
        released
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_pages_that_hold_memory_are_emptied() {
        let mut pages = Pages::new();
        pages.enter(PAGE / 2, 3 * PAGE);
        pages.leave(3 * PAGE);
        let mut emptied = Vec::new();
        let mut release =
            |len: usize, most| pages.release((PAGE / 2, len), most, |at| emptied.push(at / PAGE));
        assert_eq!(release(3 * PAGE, 1), 1);
        assert_eq!(release(3 * PAGE, 10), 1, "one is empty already, and the last is not wholly free");
        assert_eq!(release(500 * PAGE, 10), 1, "what never held memory is not emptied");
        assert_eq!(emptied, [1, 2, 3]);
    }

    #[test]
    fn pages_are_too_many_beyond_the_slack_over_the_most_in_use() {
        let mut pages = Pages::new();
        assert_eq!(pages.enter(0, 100 * PAGE), 0);
        pages.leave(100 * PAGE);
        assert_eq!(pages.enter(0, PAGE), 0, "nothing new holds memory");
        assert_eq!(pages.enter(100 * PAGE, 20 * PAGE), 120 - 110 - FEW);
    }
}
