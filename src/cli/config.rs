//! `ckd-det config show|check|list`

use clap::Subcommand;

use super::{Context, UsageError, report, say};
use crate::config::{self, ClassifyConfig, CohortConfig, Config, ConfigSource, Document, Experiment, Key};

/// Arguments of `config`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print a configuration with all it extends and every default, or explain the keys
    #[command(after_help = "\
Examples:
  ckd-det config show coco_r101_r18
  ckd-det config show coco_r101_r18 --set student.backbone=resnet34 > mine.toml
  ckd-det config show --keys
  ckd-det config show --keys milestones  those that have the word")]
    Show(Show),
    /// Check configurations without running them
    #[command(after_help = "\
Examples:
  ckd-det config check mine.toml
  ckd-det config check --all")]
    Check(Check),
    /// List the configurations that can be named
    #[command(after_help = "\
Examples:
  ckd-det config list
  ckd-det config list mobilenet          those that have the word")]
    List {
        /// Only those with this word in their name or summary
        #[arg(value_name = "WORD")]
        word: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Show {
    /// A file, or the name of a configuration (`ckd-det config list`)
    #[arg(value_name = "CONFIG", required_unless_present = "keys")]
    name: Option<String>,
    /// Change a key: a.b=VALUE, or distill.0.weight=VALUE inside an array
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "name")]
    sets: Vec<String>,
    /// Explain every key there is, with its default, or those with this word in their name or explanation
    #[arg(long, value_name = "WORD", num_args = 0..=1, default_missing_value = "", conflicts_with = "name")]
    keys: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Check {
    /// Files, or names of configurations
    #[arg(value_name = "CONFIG", required_unless_present = "all")]
    names: Vec<String>,
    /// Change a key in all of them: a.b=VALUE
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Check every configuration that `ckd-det config list` names
    #[arg(long, conflicts_with = "names")]
    all: bool,
}

/// Runs the verb.
pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    match args.action {
        Action::Show(Show { name: Some(name), sets, .. }) => {
            say(Experiment::load(&name, &sets)?.resolved_toml().trim_end())?;
            Ok(())
        }
        Action::Show(Show { keys, .. }) => explain_keys(&keys.unwrap_or_default()),
        Action::Check(args) => check(args, context),
        Action::List { word } => list(&word.unwrap_or_default()),
    }
}

/// Whether a text has the word, in capitals or not.
fn has(text: &str, word: &str) -> bool {
    text.to_lowercase().contains(&word.to_lowercase())
}

fn explain_keys(word: &str) -> anyhow::Result<()> {
    let tasks = [
        ("# task = \"detect\"", Config::keys()),
        ("# task = \"classify\" and \"probe\"", ClassifyConfig::keys()),
        ("# task = \"cohort\"", CohortConfig::keys()),
    ];
    let mut are_some = false;
    for (task, keys) in tasks {
        let keys: Vec<Key> =
            keys.into_iter().filter(|key| has(&key.path, word) || has(&key.documentation, word)).collect();
        if !keys.is_empty() {
            are_some = true;
            say(task)?;
            explain(keys)?;
        }
    }
    match are_some {
        true => Ok(()),
        false => Err(UsageError(format!("no key has {word:?} in its name or explanation")).into()),
    }
}

fn explain(keys: Vec<Key>) -> anyhow::Result<()> {
    for Key { path, takes, documentation, default } in keys {
        let default = default.map(|value| format!(" (default: {value})")).unwrap_or_default();
        say(format!("{path}: {takes}{default}"))?;
        for line in documentation.lines() {
            say(format!("    {line}"))?;
        }
    }
    Ok(())
}

/// Checks all before it fails, so that one run shows all there is to mend.
fn check(args: Check, context: &Context) -> anyhow::Result<()> {
    let names = match args.all {
        true => config::list().into_iter().map(|listed| listed.name).collect(),
        false => args.names,
    };
    let mut wrong = 0;
    for name in &names {
        match Experiment::load(name, &args.sets) {
            Ok(loaded) if !context.quiet => say(format!("ok  {name} ({})", loaded.source()))?,
            Ok(_) => {}
            Err(error) => {
                wrong += 1;
                report(&error.into());
            }
        }
    }
    if wrong > 0 {
        return Err(UsageError(format!("{wrong} of {} configurations cannot be used", names.len())).into());
    }
    Ok(())
}

fn list(word: &str) -> anyhow::Result<()> {
    let mut all = config::list();
    all.retain(|listed| has(&listed.name, word) || has(&listed.summary, word));
    if all.is_empty() {
        return Err(UsageError(format!("no configuration has {word:?} in its name or summary")).into());
    }
    let width = all.iter().map(|listed| listed.name.len()).max().unwrap_or(0);
    for listed in all {
        let place = match listed.source {
            ConfigSource::File(path) => path.display().to_string(),
            ConfigSource::Embedded(_) => "embedded".to_owned(),
        };
        say(format!("{:width$}  {} ({place})", listed.name, listed.summary))?;
    }
    Ok(())
}
