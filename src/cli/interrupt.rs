//! Handles the signals that ask a program to stop: Ctrl-C, a polite kill, a closed terminal, a scheduler's SIGUSR1.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::ExitStatus;
use crate::engine::Result;
use crate::engine::observer::{Begin, End, Observer};
use crate::fsx;
use crate::report::progress::tell;

/// The user's wish to stop. While a training is under way, the first signal lets it save its state, and a second one ends
/// the program at once; otherwise there is nothing to save, and the first one does.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    stop: Arc<AtomicBool>,
    /// Runs that are under way.
    trainings: Arc<AtomicUsize>,
}

/// A run that a signal lets save its state.
#[derive(Debug)]
pub(super) struct Interruptible {
    interrupt: Interrupt,
    is_training: AtomicBool,
}

impl Interrupt {
    /// Listens to the signals from now on. Where no handler can be set, a signal ends the program as it always does.
    pub(super) fn install() -> Self {
        let interrupt = Self::default();
        interrupt.listen();
        interrupt
    }

    /// The observer of a run.
    pub(super) fn of_run(&self) -> Interruptible {
        Interruptible { interrupt: self.clone(), is_training: AtomicBool::new(false) }
    }

    /// Set once the user wants the training to stop.
    pub(super) fn flag(&self) -> &AtomicBool {
        &self.stop
    }

    #[cfg(unix)]
    fn listen(&self) {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
        use signal_hook::iterator::Signals;

        let hang_up = (!is_hang_up_ignored()).then_some(SIGHUP);
        let signals = [SIGINT, SIGTERM, SIGUSR1].into_iter().chain(hang_up);
        let Ok(mut signals) = Signals::new(signals) else { return };
        let interrupt = self.clone();
        let thread = std::thread::Builder::new().name("signals".to_owned());
        // Without a thread there is no answer, and none can be given.
        let _ = thread.spawn(move || signals.forever().for_each(|_| interrupt.hear()));
    }

    #[cfg(not(unix))]
    fn listen(&self) {
        use signal_hook::consts::{SIGINT, SIGTERM};
        for signal in [SIGINT, SIGTERM] {
            let status = ExitStatus::Interrupted as i32;
            let _ = signal_hook::flag::register_conditional_shutdown(signal, status, self.stop.clone());
            let _ = signal_hook::flag::register(signal, self.stop.clone());
        }
    }

    #[cfg(unix)]
    fn hear(&self) {
        let is_second = self.stop.swap(true, Ordering::Relaxed);
        if self.trainings.load(Ordering::Relaxed) > 0 && !is_second {
            tell("interrupted: the state is saved first, after this step; once more to leave at once");
            return;
        }
        fsx::abandon_writes();
        tell("interrupted");
        signal_hook::low_level::exit(ExitStatus::Interrupted as i32);
    }
}

/// Whether the program was started to outlive its terminal (`nohup`).
#[cfg(unix)]
fn is_hang_up_ignored() -> bool {
    use std::io::IsTerminal;

    let ignored = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    });
    match ignored {
        Some(mask) => mask & 1 << (signal_hook::consts::SIGHUP - 1) != 0,
        // `nohup` leads messages away from the terminal.
        None => !std::io::stderr().is_terminal(),
    }
}

impl Observer for Interruptible {
    fn is_everywhere(&self) -> bool {
        true
    }

    fn begin(&self, _: &Begin<'_>) -> Result<()> {
        // A run that goes back to a checkpoint begins again.
        if !self.is_training.swap(true, Ordering::Relaxed) {
            self.interrupt.trainings.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn end(&self, _: &End) -> Result<()> {
        if self.is_training.swap(false, Ordering::Relaxed) {
            self.interrupt.trainings.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    }
}
