//! Giving up work that can be made again, when the user wants the run to stop.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{EngineError, Result};

/// Fails once `stop` is set.
///
/// # Errors
/// [`EngineError::Stopped`].
pub(super) fn check(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) { Err(EngineError::Stopped) } else { Ok(()) }
}
