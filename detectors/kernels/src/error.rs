//! What can go wrong in an operation.

/// An operation could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Shapes, types or parameters that do not fit the operation.
    #[error("{operation}: {reason}")]
    Invalid {
        /// The operation's name.
        operation: &'static str,
        /// What does not fit, with the shapes.
        reason: String,
    },
    /// candle reported an error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The result of an operation.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn invalid(operation: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { operation, reason: reason.into() }
    }
}
