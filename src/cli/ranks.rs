//! The processes that a launcher (`mpirun`, `srun`) starts: they train one run together, or refuse.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use candle_core::Device;
use ckd_collective::{Collective, Launcher, Mpi, Solo};

use super::context::report;
use super::{DeviceChoice, ExitStatus, UsageError};
use crate::machine::cores;
use crate::report::progress::tell;

/// Time that the first process has to say what all of them found wrong.
const FIRST_SPEAKS: Duration = Duration::from_secs(1);

/// Exit code of a panic, as of any Rust program.
const PANICKED: u8 = 101;

/// Whether this process tells the user what goes wrong before it knows the others: of several, the first does.
pub(super) fn speaks() -> bool {
    #[cfg(feature = "cuda")]
    if let Some(place) = super::gpus::Place::of_this_process() {
        return place.rank == 0;
    }
    Launcher::of_this_process().and_then(|launcher| launcher.rank).is_none_or(|rank| rank == 0)
}

/// The processes that share a command.
pub(super) enum Joined {
    /// Ranks of this process, and its device if it was opened already.
    Ranks(Arc<dyn Collective>, Option<Device>),
    /// Processes of their own did it on several GPUs; the exit code.
    #[cfg(feature = "cuda")]
    OnGpus(u8),
}

/// Facts about the command that processes may share.
pub(super) struct Asked {
    pub(super) device: DeviceChoice,
    /// GPUs of this machine that are to train together.
    pub(super) gpus: Option<usize>,
    /// Whether it only tells something: any number of processes may do that at once.
    pub(super) only_tells: bool,
    pub(super) can_be_shared: bool,
}

/// Joins the processes that share the command, if they can.
pub(super) fn join(asked: &Asked) -> anyhow::Result<Joined> {
    let launcher = Launcher::of_this_process().filter(Launcher::starts_several);
    if let Some(count) = asked.gpus {
        return on_gpus(count, asked.device, launcher.as_ref());
    }
    match launcher {
        Some(launcher) if asked.can_be_shared => {
            let ranks: Arc<dyn Collective> = Arc::new(Mpi::join(&launcher)?);
            // What goes wrong from here on must end the others, too.
            Ok(with_gpus(ranks.clone(), asked.device).unwrap_or_else(|error| {
                report(&error);
                ranks.abort(ExitStatus::of(&error) as u8)
            }))
        }
        Some(launcher) if !asked.only_tells => Err(UsageError(several(&launcher)).into()),
        _ => Ok(Joined::Ranks(Arc::new(Solo::default()), None)),
    }
}

/// Starts a process for each of `count` GPUs of this machine, or joins them as one of these.
fn on_gpus(count: usize, device: DeviceChoice, launcher: Option<&Launcher>) -> anyhow::Result<Joined> {
    if let Some(launcher) = launcher {
        let advice =
            format!("{} starts the processes: leave --gpus out, and give --device cuda", launcher.name);
        return Err(UsageError(advice).into());
    }
    if matches!(device, DeviceChoice::Cuda(_)) {
        let advice =
            format!("--gpus takes the first GPUs, and --device {device} another one: leave one of them out");
        return Err(UsageError(advice).into());
    }
    on_gpus_of_this_machine(count)
}

#[cfg(feature = "cuda")]
fn on_gpus_of_this_machine(count: usize) -> anyhow::Result<Joined> {
    if let Some(super::gpus::Place { rank, size, id }) = super::gpus::Place::of_this_process() {
        let device = DeviceChoice::Cuda(rank).open()?;
        let ranks = crate::engine::Gpus::on_one_machine(&device, id, rank, size)?;
        return Ok(Joined::Ranks(Arc::new(ranks), Some(device)));
    }
    match count {
        1 => Ok(Joined::Ranks(Arc::new(Solo::default()), Some(DeviceChoice::AnyCuda.open()?))),
        _ => super::gpus::run(count).map(Joined::OnGpus),
    }
}

#[cfg(not(feature = "cuda"))]
fn on_gpus_of_this_machine(_: usize) -> anyhow::Result<Joined> {
    Err(super::DeviceError::NotCompiled(DeviceChoice::AnyCuda).into())
}

/// The processes of a launcher; those with a GPU each sum there, if all find NCCL.
#[cfg(feature = "cuda")]
fn with_gpus(ranks: Arc<dyn Collective>, device: DeviceChoice) -> anyhow::Result<Joined> {
    if device != DeviceChoice::AnyCuda || ranks.is_alone() {
        return Ok(Joined::Ranks(ranks, None));
    }
    let found = ckd_kernels::cuda::nccl::version();
    if ranks.any(found.is_err())? {
        if let Err(error) = found {
            tell(&format!(
                "rank {} on {}: {error}; sums go through the host's memory",
                ranks.rank(),
                ranks.host()
            ));
        }
        return Ok(Joined::Ranks(ranks, None));
    }
    let device = device.of_rank(ranks.local().rank).open()?;
    let gpus = crate::engine::Gpus::under(ranks, &device)?;
    Ok(Joined::Ranks(Arc::new(gpus), Some(device)))
}

#[cfg(not(feature = "cuda"))]
fn with_gpus(ranks: Arc<dyn Collective>, _: DeviceChoice) -> anyhow::Result<Joined> {
    Ok(Joined::Ranks(ranks, None))
}

fn several(launcher: &Launcher) -> String {
    let count = launcher.size.map_or("several".to_owned(), |size| size.to_string());
    format!(
        "{} started {count} processes of this command, and each would do all of it and write the same files; start it once, \
         without the launcher",
        launcher.name
    )
}

/// Threads of each process where the user names no number: the cores that it may use. Processes of a machine that may use the
/// same ones, since their launcher has not parted them, take a share each and keep to it.
pub(super) fn cores(ranks: &dyn Collective) -> anyhow::Result<usize> {
    let cores = cores::allowed();
    let mine = format!("{} {cores:?}", ranks.host()).into_bytes();
    let all = ranks.all_gather(mine.clone())?;
    let sharing = all.iter().filter(|other| **other == mine).count();
    let before = all.iter().take(ranks.rank()).filter(|other| **other == mine).count();
    let share = cores::share(&cores, before, sharing);
    if sharing > 1 && !share.is_empty() {
        cores::keep_to(share);
    }
    let count = if cores.is_empty() { available_parallelism().map_or(1, usize::from) } else { cores.len() };
    Ok((count / sharing.max(1)).max(1))
}

/// Runs `command` as one of several processes. What ends one of them ends all, with its exit code.
pub(super) fn run_together(
    ranks: &dyn Collective,
    command: impl FnOnce() -> anyhow::Result<()>,
) -> ExitStatus {
    let ended = catch_unwind(AssertUnwindSafe(command));
    let error = match ended {
        Ok(Ok(())) => return ExitStatus::Done,
        Ok(Err(error)) => error,
        // The panic's message is out.
        Err(_) => ranks.abort(PANICKED),
    };
    let status = ExitStatus::of(&error);
    if ranks.is_first() {
        report(&error);
    }
    // All processes stop with these, at the same step.
    if matches!(status, ExitStatus::Interrupted | ExitStatus::NonFiniteLoss) {
        return status;
    }
    if !ranks.is_first() {
        std::thread::sleep(FIRST_SPEAKS);
        tell(&format!("rank {} on {}:", ranks.rank(), ranks.host()));
        report(&error);
    }
    ranks.abort(status as u8)
}
