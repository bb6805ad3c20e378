//! A configuration that cannot be had.

use std::io;
use std::path::PathBuf;

use ckd_settings::{Diagnostic, Diagnostics};

/// A configuration could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No such file, and no embedded configuration of that name.
    #[error("{}", not_found(name, looked_in, similar.as_deref()))]
    NotFound {
        /// The name that was asked for.
        name: String,
        /// Every place that was tried, in order.
        looked_in: Vec<String>,
        /// The closest name that does exist.
        similar: Option<String>,
    },
    /// The file is there but cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// Invalid content of a configuration that was read.
    #[error("{0}")]
    Invalid(Diagnostics),
}

impl ConfigError {
    /// The message as `Display` gives it, in colours where it shows lines of a file.
    pub fn styled(&self) -> String {
        match self {
            Self::Invalid(diagnostics) => diagnostics.styled(),
            other => format!("error: {other}"),
        }
    }
}

impl From<Diagnostic> for ConfigError {
    fn from(diagnostic: Diagnostic) -> Self {
        Self::Invalid(diagnostic.into())
    }
}

impl From<Diagnostics> for ConfigError {
    fn from(diagnostics: Diagnostics) -> Self {
        Self::Invalid(diagnostics)
    }
}

fn not_found(name: &str, looked_in: &[String], similar: Option<&str>) -> String {
    let mut message = format!("there is no configuration {name:?}");
    for place in looked_in {
        message += &format!("\n  looked for {place}");
    }
    message += &match similar {
        Some(similar) => format!("\n  help: did you mean {similar:?}?"),
        None => "\n  help: `ckd-det config list` names those there are".to_owned(),
    };
    message
}
