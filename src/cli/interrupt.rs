//! Handles Ctrl-C: the run saves its state and stops.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// A flag that Ctrl-C (or a polite kill) sets; the second one ends the program at once.
pub(super) fn stop_flag() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // Where no handler can be set, a signal ends the program as it always does: the last checkpoint
        // stays.
        let _ = flag::register_conditional_shutdown(signal, 128 + SIGINT, stop.clone());
        let _ = flag::register(signal, stop.clone());
    }
    stop
}
