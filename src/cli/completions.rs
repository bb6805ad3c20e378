//! `ckd-det completions SHELL`

use clap::Command;
use clap_complete::Shell;

use super::say;

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

/// Prints the completion script of `program`.
pub(super) fn run(args: Args, mut program: Command) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, "ckd-det", &mut script);
    say(String::from_utf8_lossy(&script).trim_end())?;
    Ok(())
}
