//! `ckd-det methods`

use std::path::Path;

use serde_json::json;

use super::say;
use super::taught::Lesson;
use crate::config::Key;
use crate::distill::{MethodCard, methods};

/// Arguments of `methods`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ckd-det methods                       one line a method
  ckd-det methods ckd review_kd         all about these two
  ckd-det methods --json                everything, for programs
  ckd-det methods --for runs/big my_student.toml
                                        which ones fit this teacher and student")]
pub struct Args {
    /// Explain these methods and each of their keys
    #[arg(value_name = "METHOD", value_parser = clap::builder::PossibleValuesParser::new(words()))]
    names: Vec<String>,
    /// List which methods fit a trained network and the configuration of a student, and why others do not
    #[arg(long = "for", num_args = 2, value_names = ["TEACHER", "CONFIG"], conflicts_with = "names")]
    pair: Vec<String>,
    /// Print JSON: every method (or those named) with its keys
    #[arg(long)]
    json: bool,
}

fn words() -> Vec<&'static str> {
    methods().iter().map(|card| card.method).collect()
}

/// Runs the verb.
pub(super) fn run(args: Args) -> anyhow::Result<()> {
    if let [teacher, config] = args.pair.as_slice() {
        return tell_fitting(&Lesson::of(config, &[], Path::new(teacher))?, args.json);
    }
    let named =
        |card: &MethodCard| args.names.is_empty() || args.names.iter().any(|name| name == card.method);
    let cards: Vec<MethodCard> = methods().into_iter().filter(named).collect();
    if args.json {
        say(serde_json::to_string_pretty(&cards)?)?;
        return Ok(());
    }
    for card in &cards {
        match args.names.is_empty() {
            true => summarise(card)?,
            false => explain(card)?,
        }
    }
    if args.names.is_empty() {
        say(
            "\nA method is used by a [[distill]] entry with its word as `method`, or by a [cohort] table (mcl, l_mcl); \
             `ckd-det methods METHOD` explains its keys.",
        )?;
    }
    Ok(())
}

/// Prints each method with the entry that uses it, or the reason why it does not fit.
fn tell_fitting(lesson: &Lesson<'_>, as_json: bool) -> anyhow::Result<()> {
    let found = lesson.fitting()?;
    if as_json {
        let row = |(method, fits): &(&str, Result<String, String>)| match fits {
            Ok(entry) => json!({ "method": method, "fits": true, "entry": entry }),
            Err(reason) => json!({ "method": method, "fits": false, "reason": reason }),
        };
        return say(serde_json::to_string_pretty(&found.iter().map(row).collect::<Vec<_>>())?)
            .map_err(Into::into);
    }
    for (method, fits) in found {
        match fits {
            Ok(entry) => say(format!("{method:10}  {entry}"))?,
            Err(reason) => say(format!("{method:10}  no: {reason}"))?,
        }
    }
    Ok(())
}

fn summarise(card: &MethodCard) -> anyhow::Result<()> {
    let (about, _) = card.about.split_once(['.', ':']).unwrap_or((&card.about, ""));
    say(format!("{:10}  {}", card.method, about.replace('\n', " ")))?;
    say(format!("{:10}  {}", "", card.paper))?;
    let keys: Vec<String> = card.keys.iter().map(assignment).collect();
    say(format!("{:10}  {}", "", keys.join(", ")))?;
    Ok(())
}

/// The key with its default, if it has one.
fn assignment(key: &Key) -> String {
    match &key.default {
        Some(default) if default != "not given" => format!("{} = {default}", key.path),
        Some(_) => format!("{} (optional)", key.path),
        None => format!("{} (required)", key.path),
    }
}

fn explain(card: &MethodCard) -> anyhow::Result<()> {
    say(format!("{}\nmethod = \"{}\"\n{}\n{}", card.entry, card.method, card.about, card.paper))?;
    for key in &card.keys {
        say(format!("\n  {}: {}", assignment(key), key.takes))?;
        for line in key.documentation.lines() {
            say(format!("      {line}"))?;
        }
    }
    say("")?;
    Ok(())
}
