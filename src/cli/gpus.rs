//! `train --gpus N`: starts this command N times on this machine, a GPU each.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ckd_kernels::cuda::nccl::{Id, unique_id};

use super::{ExitStatus, UsageError};
use crate::report::progress::tell;

/// The variable that tells a process its place: number, processes, and the identity of their communicator.
const VARIABLE: &str = "CKD_DET_GPUS";

/// Time between two looks at the processes.
const PAUSE: Duration = Duration::from_millis(50);

/// Time that the others have to end by themselves once one has failed.
const GRACE: Duration = Duration::from_secs(5);

/// Place of a process among those that were started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) rank: usize,
    pub(super) size: usize,
    pub(super) id: Id,
}

impl Place {
    /// The place of this process; `None` if a user started it.
    pub(super) fn of_this_process() -> Option<Self> {
        Self::read(&std::env::var(VARIABLE).ok()?)
    }

    fn read(text: &str) -> Option<Self> {
        let (rank, rest) = text.split_once('/')?;
        let (size, id) = rest.split_once('/')?;
        let byte = |at: usize| u8::from_str_radix(id.get(at..at + 2)?, 16).ok();
        let bytes = (0..id.len()).step_by(2).map(byte).collect::<Option<Vec<u8>>>()?;
        Some(Self { rank: rank.parse().ok()?, size: size.parse().ok()?, id: Id::from_bytes(&bytes)? })
    }

    fn write(self) -> String {
        let id: String = self.id.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}/{}/{id}", self.rank, self.size)
    }
}

/// Runs this command as `count` processes, and ends as the first of them that fails.
///
/// # Errors
/// Fewer GPUs; no NCCL; a process that cannot be started.
pub(super) fn run(count: usize) -> anyhow::Result<u8> {
    let there = ckd_kernels::cuda::machine()?.gpus.len();
    if there < count {
        return Err(UsageError(format!(
            "--gpus {count}, but the driver shows {there} (CUDA_VISIBLE_DEVICES hides others)"
        ))
        .into());
    }
    // The identity is good for as long as this process lives.
    let id = unique_id()?;
    let signals = Signals::heard()?;
    let program = std::env::current_exe()?;
    let mut started = Started(Vec::new());
    for rank in 0..count {
        let place = Place { rank, size: count, id };
        let mut command = Command::new(&program);
        command.args(std::env::args_os().skip(1)).env(VARIABLE, place.write());
        if rank > 0 {
            command.stdin(Stdio::null());
        }
        started.0.push(command.spawn()?);
    }
    started.wait(signals)
}

/// Processes that were started; those that still run are killed in the end.
struct Started(Vec<Child>);

impl Started {
    fn wait(&mut self, mut signals: Signals) -> anyhow::Result<u8> {
        let mut ended: Vec<Option<u8>> = vec![None; self.0.len()];
        let mut failed: Option<Failed> = None;
        loop {
            signals.hand_on(&self.0);
            for (rank, (child, ended)) in self.0.iter_mut().zip(&mut ended).enumerate() {
                if ended.is_some() {
                    continue;
                }
                let Some(status) = child.try_wait()? else { continue };
                let code = code_of(status);
                *ended = Some(code);
                if code == ExitStatus::Done as u8
                    || failed.as_ref().is_some_and(|known| !known.lost_another())
                {
                    continue;
                }
                if let Some(signal) = signal_of(status) {
                    tell(&format!("rank {rank}, on GPU {rank}, was ended by signal {signal}"));
                }
                let at = failed.map_or_else(Instant::now, |known| known.at);
                failed = Some(Failed { rank, code, at });
            }
            match &failed {
                _ if ended.iter().all(Option::is_some) => {
                    return Ok(failed.map_or(ExitStatus::Done as u8, |failed| failed.code));
                }
                Some(failed) if failed.at.elapsed() > failed.grace() => {
                    if failed.lost_another() {
                        let running = (0..ended.len()).filter(|&rank| ended[rank].is_none());
                        running.for_each(|rank| tell(&still_runs(rank)));
                    }
                    return Ok(failed.code);
                }
                _ => std::thread::sleep(PAUSE),
            }
        }
    }
}

/// The process that ends all.
#[derive(Clone, Copy)]
struct Failed {
    rank: usize,
    code: u8,
    at: Instant,
}

impl Failed {
    /// Whether another one is the cause.
    fn lost_another(&self) -> bool {
        self.code == ExitStatus::RankLost as u8
    }

    /// Time that the others have to end by themselves: none once the first has said what is wrong.
    fn grace(&self) -> Duration {
        if self.rank == 0 && !self.lost_another() { Duration::ZERO } else { GRACE }
    }
}

/// Says which process the others waited for in vain: NCCL does not know.
fn still_runs(rank: usize) -> String {
    format!(
        "rank {rank}, on GPU {rank}, still ran {} s after another one had waited too long; it is killed",
        GRACE.as_secs()
    )
}

impl Drop for Started {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // One that has ended cannot be killed, and need not be.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The exit code of a process, as a shell counts one that a signal ended.
fn code_of(status: std::process::ExitStatus) -> u8 {
    if let Some(signal) = signal_of(status) {
        return (128 + signal) as u8;
    }
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(ExitStatus::Failed as u8)
}

/// The signal that ended a process.
#[cfg(unix)]
fn signal_of(status: std::process::ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal_of(_: std::process::ExitStatus) -> Option<i32> {
    None
}

/// Signals that ask the program to stop. A terminal sends Ctrl-C to all processes; the others go to the first of them, and
/// all stop at one step.
#[cfg(unix)]
struct Signals(signal_hook::iterator::Signals);

#[cfg(unix)]
impl Signals {
    fn heard() -> anyhow::Result<Self> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
        Ok(Self(signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1])?))
    }

    fn hand_on(&mut self, children: &[Child]) {
        use rustix::process::{Pid, Signal, kill_process};
        use signal_hook::consts::{SIGTERM, SIGUSR1};

        let asked = self.0.pending().any(|signal| matches!(signal, SIGTERM | SIGUSR1));
        let first = children.first().and_then(|child| Pid::from_raw(child.id() as i32));
        if let (true, Some(first)) = (asked, first) {
            // One that has ended hears nothing.
            let _ = kill_process(first, Signal::USR1);
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn heard() -> anyhow::Result<Self> {
        Ok(Self)
    }

    fn hand_on(&mut self, _: &[Child]) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_reads_the_place_that_it_was_given() {
        let bytes: Vec<u8> = (0..128).collect();
        let place = Place { rank: 3, size: 8, id: Id::from_bytes(&bytes).unwrap() };
        let read = Place::read(&place.write()).unwrap();
        assert_eq!((read.rank, read.size, read.id.to_bytes()), (3, 8, bytes));
        for text in ["", "1/2", "1/2/00", "a/2/", "1/2/\u{e9}\u{e9}"] {
            assert!(Place::read(text).is_none(), "{text}");
        }
    }
}
