//! Processor time.

use std::fs;
use std::time::{Duration, Instant};

/// Processor time of this thread since a start.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    used: Option<Duration>,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self { start: Instant::now(), used: Self::used() }
    }

    /// Processor time since the start; time of the clock where the system does not tell.
    pub fn elapsed(&self) -> Duration {
        match (self.used, Self::used()) {
            (Some(before), Some(now)) => now.saturating_sub(before),
            _ => self.start.elapsed(),
        }
    }

    /// The first number of `schedstat`: nanoseconds that the thread has run.
    fn used() -> Option<Duration> {
        let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
    }
}
