//! `ckd-det completions SHELL`

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Context, say};

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ckd-det completions bash > ~/.local/share/bash-completion/completions/ckd-det
  ckd-det completions zsh > ~/.zfunc/_ckd-det
  ckd-det completions fish > ~/.config/fish/completions/ckd-det.fish")]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the completion script.
pub(super) fn run(args: Args, _: &Context) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ckd-det", &mut script);
    say(String::from_utf8_lossy(&script).trim_end())?;
    Ok(())
}
