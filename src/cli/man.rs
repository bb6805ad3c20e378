//! `ckd-det man [VERB..]`: manual pages.

use std::path::PathBuf;

use clap::Command;

use super::output::folder;
use super::{UsageError, say};
use crate::fsx;

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ckd-det man | man -l -
  ckd-det man data convert | man -l -
  ckd-det man --out ~/.local/share/man/man1")]
pub struct Args {
    /// The verb, and the one below it [default: the program as a whole]
    verb: Vec<String>,
    /// Write the page of every verb into this folder
    #[arg(long, value_name = "DIR", value_parser = folder, conflicts_with = "verb")]
    out: Option<PathBuf>,
}

/// Prints the page of `program`, or of a verb of it, in roff; or writes all pages.
///
/// # Errors
/// A verb that does not exist; a folder that cannot be written.
pub(super) fn run(args: &Args, mut program: Command) -> anyhow::Result<()> {
    // Names the verbs `ckd-det-VERB` and gives them the global options.
    program.build();
    if let Some(folder) = &args.out {
        let mut pages = Vec::new();
        all(&program, &mut pages);
        for page in &pages {
            let name = format!("{}.1", named(page));
            fsx::write_atomic(&folder.join(name), rendered(page)?.as_bytes())?;
        }
        return Ok(say(format!("{} pages -> {}", pages.len(), folder.display()))?);
    }
    let mut page = &program;
    for verb in &args.verb {
        let unknown = || UsageError(format!("there is no verb {verb:?}; `ckd-det --help` lists them"));
        page = page.find_subcommand(verb).ok_or_else(unknown)?;
    }
    Ok(say(rendered(page)?.trim_end())?)
}

/// The commands that have a page, from `command` down.
fn all<'a>(command: &'a Command, pages: &mut Vec<&'a Command>) {
    pages.push(command);
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        all(verb, pages);
    }
}

/// Name of a command's page.
fn named(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn rendered(command: &Command) -> anyhow::Result<String> {
    let mut roff = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut roff)?;
    Ok(String::from_utf8_lossy(&roff).into_owned())
}
