//! `ckd-det config show|check|list|keys|explain|diff|schema`

use std::collections::BTreeMap;

use clap::Subcommand;

use super::{Context, UsageError, config_diff, config_keys, report, say};
use crate::config::{
    self, ClassifyConfig, CohortConfig, Config, ConfigSource, Document, Experiment, Listed, PretrainConfig,
    Task, json_schema,
};

/// Arguments of `config`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print a configuration with all it extends and every default
    #[command(after_help = "\
Examples:
  ckd-det config show coco_r101_r18
  ckd-det config show coco_r101_r18 --set student.backbone=resnet34 > mine.toml")]
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
    /// List the keys a configuration may have, a line each
    #[command(after_help = "\
Examples:
  ckd-det config keys                    all but those of methods
  ckd-det config keys detector.rpn       those of a section
  ckd-det config keys milestones         those that have the word
  ckd-det config keys --reference        all about all of them, in Markdown")]
    Keys {
        /// Print all about every key, methods' too, in Markdown
        #[arg(long, conflicts_with = "word")]
        reference: bool,
        /// Only those of this section, or with this word in their name or explanation
        #[arg(value_name = "WORD|SECTION")]
        word: Option<String>,
    },
    /// Explain keys: values, default, purpose
    #[command(after_help = "\
Examples:
  ckd-det config explain optim.lr
  ckd-det config explain epochs          wherever it stands
  ckd-det config explain distill.0.weight")]
    Explain {
        /// Dotted, as --set takes it, or its last part
        #[arg(value_name = "KEY", required = true)]
        keys: Vec<String>,
    },
    /// Show the keys in which two configurations differ, defaults and the teacher's training included
    #[command(after_help = "\
Examples:
  ckd-det config diff coco_r101_r18 mine.toml
  ckd-det config diff quickstart quickstart --set student.width=24
  ckd-det config diff runs/a/config.toml runs/b/config.toml")]
    Diff {
        /// A file, or the name of a configuration
        #[arg(value_name = "A")]
        a: String,
        /// The other one
        #[arg(value_name = "B")]
        b: String,
        /// Change a key of B: a.b=VALUE
        #[arg(long = "set", value_name = "KEY=VALUE")]
        sets: Vec<String>,
    },
    /// Print a JSON Schema, with which editors complete and check configurations
    #[command(after_help = "\
Editors' TOML extensions (Even Better TOML, taplo) read the schema that a file's first line names:
  #:schema ./ckd-det.schema.json

Examples:
  ckd-det config schema > ckd-det.schema.json
  ckd-det config schema classify > classify.schema.json")]
    Schema {
        /// The task of the configurations: detect, classify, probe, cohort, pretrain
        #[arg(value_name = "TASK", default_value = "detect", value_parser = task)]
        task: Task,
    },
}

fn task(word: &str) -> Result<Task, String> {
    let words = || Task::ALL.iter().map(|task| task.word()).collect::<Vec<_>>().join(", ");
    Task::ALL
        .iter()
        .copied()
        .find(|task| task.word() == word)
        .ok_or_else(|| format!("choose from {}", words()))
}

#[derive(Debug, clap::Args)]
struct Show {
    /// A file, or the name of a configuration (`ckd-det config list`)
    #[arg(value_name = "CONFIG")]
    name: String,
    /// Change a key: a.b=VALUE, or distill.0.weight=VALUE inside an array
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
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
        Action::Show(Show { name, sets }) => {
            Ok(say(Experiment::load(&name, &sets)?.resolved_toml().trim_end())?)
        }
        Action::Check(args) => check(args, context),
        Action::List { word } => list(&word.unwrap_or_default()),
        Action::Keys { reference: true, .. } => config_keys::reference(),
        Action::Keys { word, .. } => config_keys::list(word.as_deref()),
        Action::Explain { keys } => keys.iter().try_for_each(|key| config_keys::explain(key)),
        Action::Diff { a, b, sets } => config_diff::run(&a, &b, &sets),
        Action::Schema { task } => schema(task),
    }
}

/// Whether a text has the word, in capitals or not.
fn has(text: &str, word: &str) -> bool {
    text.to_lowercase().contains(&word.to_lowercase())
}

/// Prints the JSON Schema of a task's configurations.
fn schema(task: Task) -> anyhow::Result<()> {
    let keys = match task {
        Task::Detect => Config::keys(),
        Task::Classify | Task::Probe => ClassifyConfig::keys(),
        Task::Cohort => CohortConfig::keys(),
        Task::Pretrain => PretrainConfig::keys(),
    };
    let schema = json_schema(&format!("ckd-det, task = \"{task}\""), &keys);
    Ok(say(serde_json::to_string_pretty(&schema)?)?)
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
    let mut groups: BTreeMap<String, Vec<Listed>> = BTreeMap::new();
    for listed in all {
        groups.entry(group(&listed.name).to_owned()).or_default().push(listed);
    }
    for (place, (name, listed)) in groups.into_iter().enumerate() {
        say(format!("{}{name}", if place == 0 { "" } else { "\n" }))?;
        for Listed { name, summary, source } in listed {
            let place = match source {
                ConfigSource::File(path) => format!(" ({})", path.display()),
                ConfigSource::Embedded(_) => String::new(),
            };
            say(format!("  {name:width$}  {summary}{place}"))?;
        }
    }
    Ok(())
}

/// Heading that a configuration is listed under: its folder, or the data it begins with.
fn group(name: &str) -> &str {
    name.split(['/', '_']).next().unwrap_or(name)
}
