//! `ckd-det man [VERB]`: manual pages.

use clap::Command;

use super::{UsageError, say};

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ckd-det man > ~/.local/share/man/man1/ckd-det.1
  ckd-det man train > ~/.local/share/man/man1/ckd-det-train.1")]
pub struct Args {
    /// The verb [default: the program as a whole]
    verb: Option<String>,
}

/// Prints the page of `program`, or of a verb of it, in roff.
///
/// # Errors
/// A verb that does not exist.
pub(super) fn run(args: &Args, mut program: Command) -> anyhow::Result<()> {
    // Names the verbs `ckd-det-VERB` and gives them the global options.
    program.build();
    let page = match &args.verb {
        None => program,
        Some(verb) => {
            let unknown = || UsageError(format!("there is no verb {verb:?}; `ckd-det --help` lists them"));
            program.find_subcommand(verb).ok_or_else(unknown)?.clone()
        }
    };
    let mut roff = Vec::new();
    clap_mangen::Man::new(page).render(&mut roff)?;
    Ok(say(String::from_utf8_lossy(&roff).trim_end())?)
}
