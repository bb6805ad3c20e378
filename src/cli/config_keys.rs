//! `ckd-det config keys|explain`: what keys there are, from the sections that declare them.

use super::{UsageError, say};
use crate::config::{ClassifyConfig, CohortConfig, Config, Document, Key, PretrainConfig};
use ckd_settings::did_you_mean;

/// A key, the tasks that have it, and the method of distillation that it belongs to.
struct Found {
    key: Key,
    tasks: Vec<&'static str>,
    method: Option<String>,
}

/// Every key of every task, each once.
fn all() -> Vec<Found> {
    let tasks = [
        ("detect", Config::keys()),
        ("classify", ClassifyConfig::keys()),
        ("cohort", CohortConfig::keys()),
        ("pretrain", PretrainConfig::keys()),
    ];
    let mut found: Vec<Found> = Vec::new();
    for (task, keys) in tasks {
        let mut method = None;
        for key in keys {
            if key.path == "distill.N.method" {
                method = Some(key.takes.trim_matches('"').to_owned());
            } else if !key.path.starts_with("distill.N.") {
                method = None;
            }
            match found.iter_mut().find(|other| other.key == key && other.method == method) {
                Some(same) => same.tasks.push(task),
                None => found.push(Found { key, tasks: vec![task], method: method.clone() }),
            }
        }
    }
    found
}

/// Every key as `--set` takes it, without tables, in alphabetical order.
pub(super) fn paths() -> Vec<String> {
    let of = |found: Found| (found.key.takes != "a table").then(|| found.key.path.replace(".N", ".0"));
    let mut paths: Vec<String> = all().into_iter().filter_map(of).collect();
    paths.sort();
    paths.dedup();
    paths
}

/// Prints every key of every task and method in Markdown: the reference of the documentation.
///
/// # Errors
/// If standard output cannot be written.
pub(super) fn reference() -> anyhow::Result<()> {
    say("<!-- Made by `ckd-det config keys --reference`; a test compares it with the program. -->\n\n\
         # Configuration reference\n\n\
         Every key that a configuration may have, with its default. A heading is the table that keys stand in; `N` is a place in \
         an array of tables, from 0. `ckd-det config explain KEY` prints one, `ckd-det config keys WORD` finds them by a word, and \
         `ckd-det config schema` prints a JSON Schema for editors.")?;
    let mut heading = None;
    for found in &all() {
        let own = (found.table().to_owned(), found.method.clone(), found.tasks.clone());
        if heading.as_ref() != Some(&own) {
            let name = title(found);
            let name = name.split("   #").next().unwrap_or_default();
            say(format!("\n## `{name}`\n"))?;
            if found.tasks.len() < 3 {
                say(format!("For task = {}.\n", found.tasks()))?;
            }
            heading = Some(own);
        }
        let text = found.key.documentation.replace('\n', " ");
        if found.key.takes == "a table" {
            say(format!("{text}\n"))?;
            continue;
        }
        let name = found.key.path.rsplit('.').next().unwrap_or_default();
        let default = match &found.key.default {
            Some(default) => format!("default `{default}`"),
            None => "required".to_owned(),
        };
        say(format!("- **`{name}`**: {}, {default}. {text}", found.key.takes))?;
    }
    Ok(())
}

impl Found {
    /// The table that the key stands in; of a table, that table itself.
    fn table(&self) -> &str {
        match self.key.takes == "a table" {
            true => &self.key.path,
            false => self.key.path.rsplit_once('.').map_or("", |(table, _)| table),
        }
    }

    /// The value that the key has where it is not given.
    fn default(&self) -> &str {
        self.key.default.as_deref().unwrap_or("required")
    }

    fn tasks(&self) -> String {
        let words: Vec<String> = self.tasks.iter().map(|task| format!("\"{task}\"")).collect();
        words.join(", ")
    }

    fn is_about(&self, word: &str) -> bool {
        let below = self.key.path.strip_prefix(word).is_some_and(|rest| rest.starts_with('.'));
        below || self.key.path == word
    }

    fn mentions(&self, word: &str) -> bool {
        let has = |text: &str| text.to_lowercase().contains(&word.to_lowercase());
        has(&self.key.path) || has(&self.key.documentation)
    }
}

/// Lists the keys of a section, or those that have a word; a line each.
///
/// # Errors
/// No key is in such a section, or has the word.
pub(super) fn list(word: Option<&str>) -> anyhow::Result<()> {
    let mut found = all();
    match word {
        Some(word) if found.iter().any(|key| key.is_about(word)) => found.retain(|key| key.is_about(word)),
        Some(word) => found.retain(|key| key.mentions(word)),
        // Every method's keys would bury the others.
        None => found.retain(|key| key.method.is_none()),
    }
    if found.is_empty() {
        let word = word.unwrap_or_default();
        return Err(UsageError(format!(
            "no key has {word:?} in its name or explanation; `ckd-det config keys` lists all"
        ))
        .into());
    }
    let mut heading = None;
    for found in &found {
        let own = (found.table(), found.method.as_deref(), &found.tasks);
        if heading.as_ref() != Some(&own) {
            say(if heading.is_some() { "\n" } else { "" }.to_owned() + &title(found))?;
            heading = Some(own);
        }
        if found.key.takes == "a table" {
            continue;
        }
        let name = found.key.path.rsplit('.').next().unwrap_or_default();
        let assignment = match &found.key.default {
            Some(default) => format!("{name} = {default}"),
            None => format!("{name} (required)"),
        };
        say(format!("  {assignment:32} {}", first_sentence(&found.key.documentation)))?;
    }
    if word.is_none() {
        say(
            "\nKeys of methods of distillation: `ckd-det config keys distill`, or `ckd-det methods METHOD`.\n\
             All about one key: `ckd-det config explain KEY`.",
        )?;
    }
    Ok(())
}

/// The heading of the table that a key stands in.
fn title(found: &Found) -> String {
    let table = found.table();
    let named = match (table, &found.method) {
        ("", _) => "(no table)".to_owned(),
        (_, Some(method)) => format!("[[distill]] method = \"{method}\""),
        (table, None) if table.ends_with(".N") => format!("[[{}]]", table.trim_end_matches(".N")),
        (table, None) => format!("[{table}]"),
    };
    match found.tasks.len() {
        3 => named,
        _ => format!("{named}   # task = {}", found.tasks()),
    }
}

fn first_sentence(documentation: &str) -> String {
    let text = documentation.replace('\n', " ");
    let end = text.match_indices(". ").map(|(at, _)| at + 1).next().unwrap_or(text.len());
    text[..end].to_owned()
}

/// Explains a key: its values, default, purpose, and where it is written.
///
/// # Errors
/// There is no such key.
pub(super) fn explain(word: &str) -> anyhow::Result<()> {
    let is_place = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let parts = word.trim().trim_matches(['[', ']']).split('.').map(str::trim);
    let path = parts.map(|part| if is_place(part) { "N" } else { part }).collect::<Vec<_>>().join(".");
    let all = all();
    let mut found: Vec<&Found> = all.iter().filter(|found| found.key.path == path).collect();
    if found.is_empty() {
        // The last part alone, where the table was left out.
        let end = format!(".{path}");
        found = all.iter().filter(|found| found.method.is_none() && found.key.path.ends_with(&end)).collect();
    }
    if found.is_empty() {
        let help = match did_you_mean(&path, all.iter().map(|found| found.key.path.as_str())) {
            Some(similar) => format!("did you mean {similar:?}?"),
            None => "`ckd-det config keys WORD` finds keys by a word".to_owned(),
        };
        return Err(UsageError(format!("there is no key {word:?}; {help}")).into());
    }
    let mut gap = "";
    for found in found {
        say(format!("{gap}{}: {}", found.key.path, found.key.takes))?;
        gap = "\n";
        for line in found.key.documentation.lines() {
            say(format!("    {line}"))?;
        }
        let of_method = found.method.as_ref().map(|method| format!(", of method = \"{method}\""));
        say(format!("  default: {}", found.default()))?;
        say(format!("  for task = {}{}", found.tasks(), of_method.unwrap_or_default()))?;
        say(format!("  written: {}", written(&found.key.path)))?;
        if found.key.takes == "a table" {
            say(format!("  its keys: ckd-det config keys {}", found.key.path))?;
        }
    }
    Ok(())
}

/// How a key is written in a file, and after `--set`.
fn written(path: &str) -> String {
    let set = format!("--set {}=VALUE", path.replace(".N", ".0"));
    match path.rsplit_once('.') {
        None => format!("{path} = VALUE before the first [table], or {set}"),
        Some((table, key)) if table.ends_with(".N") => {
            format!("{key} = VALUE below [[{}]], or {set}", table.trim_end_matches(".N"))
        }
        Some((table, key)) => format!("{key} = VALUE below [{table}], or {set}"),
    }
}
