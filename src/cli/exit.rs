//! Exit codes, and the errors they stand for.

use std::io;
use std::process::ExitCode;

use super::device::DeviceError;
use crate::config::ConfigError;
use crate::data::discover::DiscoverError;
use crate::data::voc::VocError;
use crate::data::{DataError, InstancesError};
use crate::engine::EngineError;
use crate::export::ExportError;
use crate::export::results::ResultsError;

/// Exit code of the program; documented in `ckd-det --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// Success.
    Done = 0,
    /// A failure while running.
    Failed = 1,
    /// Bad usage or configuration; nothing was begun.
    Usage = 2,
    /// Data or weights that the configuration or the command line names are missing.
    MissingInput = 3,
    /// The loss became infinite or not a number.
    NonFiniteLoss = 4,
    /// Another process of the run was lost, or came too late (`EX_TEMPFAIL`: it may be tried again).
    RankLost = 75,
    /// Ctrl-C, as a shell counts it: 128 + SIGINT.
    Interrupted = 130,
}

/// The arguments of a verb, each valid by itself, make no sense together; the text says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status as u8)
    }
}

impl ExitStatus {
    /// The status that `error` ends the program with: the first of its causes that has one decides.
    pub fn of(error: &anyhow::Error) -> Self {
        error.chain().find_map(Self::of_cause).unwrap_or(Self::Failed)
    }

    #[cfg(feature = "cuda")]
    fn of_nccl(error: &ckd_kernels::cuda::nccl::NcclError) -> Self {
        use ckd_kernels::cuda::nccl::NcclError::{NoFunction, NoLibrary};
        if matches!(error, NoLibrary { .. } | NoFunction { .. }) { Self::MissingInput } else { Self::Failed }
    }

    fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Self> {
        if cause.is::<ConfigError>() || cause.is::<DeviceError>() || cause.is::<UsageError>() {
            return Some(Self::Usage);
        }
        if let Some(ResultsError::SameName(_) | ResultsError::ClassName { .. }) = cause.downcast_ref() {
            return Some(Self::Usage);
        }
        #[cfg(feature = "cuda")]
        if let Some(error) = cause.downcast_ref::<crate::engine::GpusError>() {
            return Some(match error {
                crate::engine::GpusError::Nccl(error) => Self::of_nccl(error),
                crate::engine::GpusError::Collective(_) => Self::RankLost,
            });
        }
        #[cfg(feature = "cuda")]
        if let Some(error) = cause.downcast_ref::<ckd_kernels::cuda::nccl::NcclError>() {
            return Some(Self::of_nccl(error));
        }
        match cause.downcast_ref::<DiscoverError>() {
            None | Some(DiscoverError::Coco(_) | DiscoverError::Yolo(_)) => {}
            Some(_) => return Some(Self::MissingInput),
        }
        if let Some(error) = cause.downcast_ref::<ckd_collective::Error>() {
            use ckd_collective::Error::{Mismatch, NoFunction, NoLibrary, Unsupported};
            return Some(match error {
                NoLibrary { .. } | NoFunction { .. } | Mismatch { .. } | Unsupported => Self::MissingInput,
                _ => Self::RankLost,
            });
        }
        let exporting = cause.downcast_ref::<ExportError>();
        let engine = match exporting {
            Some(ExportError::Engine(error)) => Some(error),
            _ => cause.downcast_ref::<EngineError>(),
        };
        match engine {
            Some(EngineError::Experiment { source, .. }) => {
                let first: &(dyn std::error::Error + 'static) = &**source;
                return std::iter::successors(Some(first), |error| error.source()).find_map(Self::of_cause);
            }
            Some(EngineError::Missing(_)) => return Some(Self::MissingInput),
            Some(EngineError::RankLost { .. } | EngineError::Collective(_)) => return Some(Self::RankLost),
            Some(EngineError::NonFinite { .. }) => return Some(Self::NonFiniteLoss),
            Some(EngineError::Interrupted { .. } | EngineError::Stopped) => return Some(Self::Interrupted),
            Some(
                EngineError::Classes { .. }
                | EngineError::Run { .. }
                | EngineError::Busy { .. }
                | EngineError::Parts { .. }
                | EngineError::Alone(_)
                | EngineError::SameFolder { .. }
                | EngineError::WarmStart { .. }
                | EngineError::Config(_),
            ) => return Some(Self::Usage),
            _ => {}
        }
        let data = match engine {
            Some(EngineError::Data(error)) => Some(error),
            _ => cause.downcast_ref::<DataError>(),
        };
        let instances = match (engine, data) {
            (Some(EngineError::Instances(error)), _) | (_, Some(DataError::Instances(error))) => Some(error),
            _ => cause.downcast_ref::<InstancesError>(),
        };
        if let Some(InstancesError::MissingImages { .. }) = instances {
            return Some(Self::MissingInput);
        }
        let voc = match data {
            Some(DataError::Voc(error)) => Some(error),
            _ => cause.downcast_ref::<VocError>(),
        };
        if let Some(VocError::MissingImage { .. }) = voc {
            return Some(Self::MissingInput);
        }
        match cause.downcast_ref::<io::Error>()?.kind() {
            // Whoever read the output has closed it (`ckd-det ... | head`): that is no failure.
            io::ErrorKind::BrokenPipe => Some(Self::Done),
            // A file to be read: for those that are written, folders are made.
            io::ErrorKind::NotFound => Some(Self::MissingInput),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_cause_decides_however_much_context_there_is() {
        let usage = ConfigError::NotFound { name: "x".to_owned(), looked_in: Vec::new(), similar: None };
        let error = Err::<(), _>(usage).context("cannot begin").context("cannot train").unwrap_err();
        assert_eq!(ExitStatus::of(&error), ExitStatus::Usage);
        assert_eq!(ExitStatus::of(&anyhow::anyhow!("anything else")), ExitStatus::Failed);
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let closed = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(ExitStatus::of(&closed), ExitStatus::Done);
        let full = anyhow::Error::from(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(ExitStatus::of(&full), ExitStatus::Failed);
    }

    #[test]
    fn a_missing_image_is_missing_data_however_deep_its_error_is_wrapped() {
        let missing = || InstancesError::MissingImages {
            path: "ann.json".into(),
            folder: "images".into(),
            count: 1,
            total: 2,
            first: Vec::new(),
        };
        let errors = [
            anyhow::Error::from(missing()),
            anyhow::Error::from(DataError::from(missing())),
            anyhow::Error::from(EngineError::from(missing())),
            anyhow::Error::from(EngineError::from(DataError::from(missing()))),
            anyhow::Error::from(ExportError::from(EngineError::from(missing()))),
        ];
        for error in errors {
            assert_eq!(ExitStatus::of(&error), ExitStatus::MissingInput, "{error:?}");
        }
    }
}
