//! Surroundings of a verb: its device, and where its words go.

use std::ffi::OsString;
use std::io::{self, Write};
use std::sync::Arc;

use candle_core::Device;
use ckd_collective::Collective;
use ckd_settings::printable;

use super::Interrupt;
use crate::config::ConfigError;
use crate::report::progress::is_drawn_on;

/// Context of every verb.
#[derive(Debug, Clone)]
pub struct Context {
    /// Device to compute on.
    pub device: Device,
    /// The processes that share the command.
    pub ranks: Arc<dyn Collective>,
    /// Print results only.
    pub quiet: bool,
    /// The user's wish to stop.
    pub interrupt: Interrupt,
}

/// Prints a line of results.
///
/// # Errors
/// When standard output cannot be written; a closed pipe ends the program quietly.
pub fn say(line: impl AsRef<str>) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{}", printable(line.as_ref()))
}

/// Writes an error to the terminal, with its causes.
pub(super) fn report(error: &anyhow::Error) {
    let message = match error.downcast_ref::<ConfigError>() {
        Some(error) if is_drawn_on() && allows_colours(std::env::var_os("NO_COLOR")) => error.styled(),
        Some(error @ ConfigError::Invalid(_)) => error.to_string(),
        _ => format!("error: {}", printable(&told_once(error))),
    };
    // Without a standard error there is nobody to tell.
    let _ = writeln!(io::stderr(), "{message}");
}

/// Whether `NO_COLOR` lets a terminal have colours: it is not set, or empty (no-color.org).
fn allows_colours(no_color: Option<OsString>) -> bool {
    no_color.is_none_or(|value| value.is_empty())
}

/// The error and its causes; a cause that is part of what was said before is not said again.
fn told_once(error: &anyhow::Error) -> String {
    let mut message = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !message.contains(&cause) {
            message += &format!(": {cause}");
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_color_counts_where_it_is_set_and_not_empty() {
        assert!(allows_colours(None) && allows_colours(Some(OsString::new())));
        assert!(!allows_colours(Some("1".into())) && !allows_colours(Some("0".into())));
    }
}
