//! The time of an update, by the first ones of a process.

use std::time::Duration;

/// Wall time of the first updates of a process.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Updates that do not count: they make room in memory, and the loader fills its queue beside them.
    first: (u32, Duration),
    timed: (u32, Duration),
}

/// First updates that do not count, and the time after which none is needed any more.
const FIRST: (u32, Duration) = (4, Duration::from_secs(1));

/// Updates that are timed at most.
const TIMED: u32 = 30;

/// Time after which no more is timed, of updates and of images.
pub(super) const ENOUGH: Duration = Duration::from_secs(2);

impl Pace {
    /// Adds an update that took so long.
    pub(super) fn add(&mut self, took: Duration) {
        let (updates, spent) = self.first;
        let is_first = updates == 0 || (updates < FIRST.0 && spent < FIRST.1);
        let (updates, spent) = if is_first { &mut self.first } else { &mut self.timed };
        *updates += 1;
        *spent += took;
    }

    /// Whether the updates so far tell the time of one, where no more than `most` is to be spent on that.
    pub(super) fn is_enough(&self, most: Duration) -> bool {
        let (updates, spent) = self.timed;
        updates >= TIMED || (updates > 0 && spent >= most)
    }

    /// Mean time of an update.
    pub(super) fn mean(&self) -> Duration {
        let (updates, spent) = self.timed;
        spent / updates.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_updates_do_not_count() {
        let mut pace = Pace::default();
        let [long, short] = [400, 100].map(Duration::from_millis);
        (0..3).for_each(|_| pace.add(long));
        assert!(!pace.is_enough(Duration::ZERO));
        pace.add(short);
        assert!(pace.is_enough(Duration::ZERO) && !pace.is_enough(ENOUGH));
        assert_eq!(pace.mean(), short);
        (1..TIMED).for_each(|_| pace.add(short));
        assert!(pace.is_enough(ENOUGH));
    }
}
