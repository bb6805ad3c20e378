//! `ckd-det methods`

use super::say;
use crate::config::Key;
use crate::distill::{MethodCard, methods};

/// Arguments of `methods`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ckd-det methods                       one line a method
  ckd-det methods ckd review_kd         all about these two
  ckd-det methods --json                everything, for programs")]
pub struct Args {
    /// Explain these methods and each of their keys
    #[arg(value_name = "METHOD", value_parser = clap::builder::PossibleValuesParser::new(words()))]
    names: Vec<String>,
    /// Print JSON: every method (or those named) with its keys
    #[arg(long)]
    json: bool,
}

fn words() -> Vec<&'static str> {
    methods().iter().map(|card| card.method).collect()
}

/// Runs the verb.
pub(super) fn run(args: Args) -> anyhow::Result<()> {
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
