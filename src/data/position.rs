//! Places in the sequence of batches, and the parts of it that several loaders build.

/// A place in the endless sequence of batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// Passes over the data set before this one.
    pub epoch: u64,
    /// Batches before this one in its epoch.
    pub batch: usize,
}

/// The part of the sequence of batches that one of several loaders builds: runs of so many batches, in turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The loader, from 0.
    pub index: u64,
    /// Loaders.
    pub of: u64,
    /// Batches of each turn.
    pub run: u64,
}

impl Share {
    /// All batches.
    pub const WHOLE: Self = Self { index: 0, of: 1, run: 1 };

    /// The first batch of this share that does not come before the batch `number` of the sequence.
    fn at_or_after(self, number: u64) -> u64 {
        let round = self.of * self.run;
        let begins = number / round * round + self.index * self.run;
        match number {
            _ if number < begins => begins,
            _ if number < begins + self.run => number,
            _ => begins + round,
        }
    }
}

impl Position {
    /// The end of an epoch is the start of the next.
    pub(super) fn settled(self, per_epoch: usize) -> Self {
        if self.batch >= per_epoch { Self { epoch: self.epoch + 1, batch: 0 } } else { self }
    }

    /// The next position of `share` after this one.
    pub(super) fn after(self, per_epoch: usize, share: Share) -> Self {
        Self { batch: self.batch + 1, ..self }.settled(per_epoch).in_share(per_epoch, share)
    }

    /// The first position of `share` that does not come before this one.
    pub(super) fn in_share(self, per_epoch: usize, share: Share) -> Self {
        let batches = per_epoch as u64;
        if batches == 0 {
            return self;
        }
        let number = share.at_or_after(self.epoch * batches + self.batch as u64);
        Self { epoch: number / batches, batch: (number % batches) as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_the_sequence_are_disjoint_and_leave_nothing_out() {
        for (of, run) in [(1, 1), (2, 1), (2, 2), (4, 2), (3, 3)] {
            let mut seen = vec![0; 60];
            for index in 0..of {
                let share = Share { index, of, run };
                let mut number = share.at_or_after(0);
                while number < 60 {
                    seen[number as usize] += 1;
                    assert_eq!(number / run % of, index);
                    assert_eq!(share.at_or_after(number), number);
                    number = share.at_or_after(number + 1);
                }
            }
            assert_eq!(seen, vec![1; 60], "{of} loaders, {run} batches a turn");
        }
    }

    #[test]
    fn shares_run_on_into_the_next_epoch() {
        // Five batches an epoch, two loaders, one batch a turn: the epoch's last batch and the next one's first alternate.
        let share = Share { index: 1, of: 2, run: 1 };
        let mut at = Position::default().in_share(5, share);
        let mut found = Vec::new();
        for _ in 0..5 {
            found.push((at.epoch, at.batch));
            at = at.after(5, share);
        }
        assert_eq!(found, [(0, 1), (0, 3), (1, 0), (1, 2), (1, 4)]);
    }
}
