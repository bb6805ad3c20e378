//! `ckd-det completions SHELL`

use clap::builder::PossibleValuesParser;
use clap::{Arg, Command};
use clap_complete::Shell;

use super::{config_keys, say};
use crate::config;

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Names of configurations, methods and keys are completed too (by PowerShell: verbs and options alone). They are those that the \
program has now: print the script again after an update.

Examples:
  ckd-det completions bash > ~/.local/share/bash-completion/completions/ckd-det
  ckd-det completions zsh > ~/.zfunc/_ckd-det
  ckd-det completions fish > ~/.config/fish/completions/ckd-det.fish
  ckd-det completions powershell >> $PROFILE")]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the completion script of `program`.
pub(super) fn run(args: Args, program: Command) -> anyhow::Result<()> {
    let words = Words {
        configurations: config::list().into_iter().map(|listed| kept(listed.name)).collect(),
        keys: config_keys::paths().into_iter().map(kept).collect(),
        assignments: config_keys::paths().into_iter().map(|path| kept(path + "=")).collect(),
    };
    let mut program = words.offered("", program);
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, "ckd-det", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    let script = match args.shell {
        Shell::Bash => without_space_after_keys(&script),
        Shell::Zsh => words.with_files(&script),
        _ => script,
    };
    Ok(say(script.trim_end())?)
}

/// Words of configurations that a shell completes.
struct Words {
    configurations: Vec<&'static str>,
    keys: Vec<&'static str>,
    /// Keys as `--set` takes them, each with its sign of equality.
    assignments: Vec<&'static str>,
}

impl Words {
    /// `command` of the verb `parent`, its arguments with the values that they may have.
    fn offered(&self, parent: &str, command: Command) -> Command {
        let is_of_config = parent == "config";
        let name = command.get_name().to_owned();
        command
            .mut_args(|arg| match self.of(&arg, is_of_config) {
                Some(words) => arg.value_parser(PossibleValuesParser::new(words)).hide_possible_values(true),
                None => arg,
            })
            .mut_subcommands(|verb| self.offered(&name, verb))
    }

    fn of(&self, arg: &Arg, is_of_config: bool) -> Option<Vec<&'static str>> {
        let value = arg.get_value_names()?.first()?.as_str();
        let words = match value {
            "CONFIG" => &self.configurations,
            "A" | "B" if is_of_config => &self.configurations,
            "KEY" if is_of_config => &self.keys,
            "KEY=VALUE" => &self.assignments,
            _ => return None,
        };
        Some(words.clone())
    }

    /// A script of zsh that offers files beside configurations, and puts no space behind a key.
    fn with_files(&self, script: &str) -> String {
        let list = |words: &[&str]| words.join(" ");
        let functions = format!(
            "_ckd_det_configurations() {{\n    compadd -- {}\n    _files -g '*.toml'\n}}\n\
             _ckd_det_assignments() {{\n    compadd -S '' -- {}\n}}\n",
            list(&self.configurations),
            list(&self.assignments)
        );
        let (head, rest) = script.split_once('\n').unwrap_or((script, ""));
        let rest = rest
            .replace(&format!("({})", list(&self.configurations)), "_ckd_det_configurations")
            .replace(&format!("({})", list(&self.assignments)), "_ckd_det_assignments");
        format!("{head}\n\n{functions}{rest}")
    }
}

/// The word for as long as the program runs: clap takes no other ones.
fn kept(word: String) -> &'static str {
    word.leak()
}

/// A script of bash that puts no space behind a key and its sign of equality.
///
/// clap_complete 4.6.11 takes the hyphen in the program's name for that of a verb in one place, and so finds no verb's words.
fn without_space_after_keys(script: &str) -> String {
    let function = "_ckd_det_completed() {\n    _ckd__det \"$@\"\n    \
                    if [[ ${COMPREPLY[0]-} == *= ]]; then compopt -o nospace 2>/dev/null; fi\n}\n\n";
    let script = script.replace("ckd__subcmd__det__", "ckd__det__");
    function.to_owned() + &script.replace("complete -F _ckd__det ", "complete -F _ckd_det_completed ")
}
