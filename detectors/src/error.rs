//! What can go wrong in a network.

/// A network could not be built, loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting or input that does not fit.
    #[error("{part}: {reason}")]
    Invalid {
        /// The part of the network.
        part: &'static str,
        /// Description of the mismatch.
        reason: String,
    },
    /// A tensor for a parameter that the network does not have.
    #[error("the network has no parameter called {name}")]
    UnknownParameter {
        /// The name in question.
        name: String,
    },
    /// Parameters for which there are no tensors.
    #[error("no tensors for the parameters {}", names.join(", "))]
    MissingParameters {
        /// Names of the parameters.
        names: Vec<String>,
    },
    /// A tensor of another shape than its parameter.
    #[error("{name}: the network has shape {expected:?}, the file {found:?}")]
    ParameterShape {
        /// The parameter.
        name: String,
        /// Shape in the network.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// Boxes, anchors or scores that do not fit together.
    #[error(transparent)]
    Geometry(#[from] crate::boxes::GeometryError),
    /// An operation failed.
    #[error(transparent)]
    Kernel(#[from] ckd_kernels::Error),
    /// candle reported an error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    /// An error if one of these counts is 0.
    pub(crate) fn unless_positive(part: &'static str, counts: &[(&str, usize)]) -> Result<()> {
        match counts.iter().find(|(_, count)| *count == 0) {
            Some((name, _)) => Err(Self::Invalid { part, reason: format!("{name} must be at least 1") }),
            None => Ok(()),
        }
    }
}

/// The result of building or running a network.
pub type Result<T> = std::result::Result<T, Error>;
