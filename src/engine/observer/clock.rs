//! The time of day.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970, rounded to tenths.
pub(super) fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs_f64() * 10.0).round() / 10.0
}
