//! `--set a.b=c`: single keys laid over a configuration from the command line.

use std::sync::Arc;

use ckd_settings::{Diagnostic, Entry, Layer, Node, Place, Text, Value};

use super::error::ConfigError;

/// Lays the `--set`s over the tree, in order.
pub(super) fn lay_sets(root: &mut Node, sets: &[String]) -> Result<(), ConfigError> {
    let sets = sets.iter().map(|set| parse_set(set)).collect::<Result<Vec<_>, _>>()?;
    drop_replaced(root, |key| sets.iter().any(|set| set.key == key));
    for set in sets {
        lay_set(root, set)?;
    }
    Ok(())
}

/// Keys that exclude each other: a layer that gives one replaces the other of the layers below, and
/// what was written in its unit.
const ALTERNATIVES: [(&str, &[&str]); 4] = [
    ("schedule.steps", &["schedule.epochs", "schedule.milestones", "train.eval_every"]),
    ("schedule.epochs", &["schedule.steps", "schedule.milestones", "train.eval_every"]),
    ("teacher.weights", &["teacher.train"]),
    ("teacher.train", &["teacher.weights"]),
];

/// Removes from `below` what a layer that gives some keys replaces.
pub(super) fn drop_replaced(below: &mut Node, gives: impl Fn(&str) -> bool) {
    for (key, replaced) in ALTERNATIVES {
        if gives(key) && below.at(key).is_none() && below.at(replaced[0]).is_some() {
            for key in replaced {
                below.remove(key);
            }
        }
    }
}

/// A `--set` of the command line.
struct Set {
    /// Dotted.
    key: String,
    /// The parts of the key, each with its place.
    parts: Vec<(String, Place)>,
    value: Node,
}

/// Parts of a dotted key; the deepest of ours has four.
const DEEPEST_KEY: usize = 32;

/// Reads `a.b=c`; the value is TOML, or else text.
fn parse_set(set: &str) -> Result<Set, Diagnostic> {
    let text = Arc::new(Text { name: "--set".to_owned(), text: set.to_owned(), layer: Layer::Set });
    let place = |span| Place { text: Arc::clone(&text), span };
    let malformed = |span| {
        Diagnostic::at(place(span), "a --set takes KEY=VALUE")
            .help("for example --set optim.lr=0.01 or --set distill.0.weight=0")
    };
    let Some((key, written)) = set.split_once('=') else {
        return Err(malformed(0..set.len()));
    };
    let mut parts = Vec::new();
    let mut start = 0;
    for part in key.split('.') {
        let name = part.trim();
        if name.is_empty() {
            return Err(malformed(0..key.len()));
        }
        let begin = start + part.len() - part.trim_start().len();
        parts.push((name.to_owned(), place(begin..begin + name.len())));
        start += part.len() + 1;
    }
    if parts.len() > DEEPEST_KEY {
        return Err(malformed(0..key.len()));
    }
    let names: Vec<_> = parts.iter().map(|(name, _)| name.as_str()).collect();
    let key = names.join(".");
    let begin = start + written.len() - written.trim_start().len();
    let written = begin..begin + written.trim().len();
    let value = match Node::parse_value(&text, written.clone()) {
        Ok(value) => value,
        // What opens like TOML was meant as TOML; anything else is text, so that a word needs no quotes.
        Err(error) if set[written.clone()].starts_with(['[', '{', '"', '\'']) => {
            let quotes = "strings inside arrays need quotes: --set 'distill.1.levels=[\"p3\"]'";
            return Err(if error.advice().is_some() { error } else { error.help(quotes) });
        }
        Err(_) => Node { value: Value::String(set[written.clone()].to_owned()), place: place(written) },
    };
    Ok(Set { key, parts, value })
}

fn lay_set(root: &mut Node, set: Set) -> Result<(), Diagnostic> {
    let mut node = root;
    for (name, place) in set.parts {
        let kind = node.kind();
        node = match &mut node.value {
            Value::Table(table) => {
                let empty = || Node::empty_table(place.clone());
                &mut table.entry(name).or_insert_with(|| Entry { key: place.clone(), node: empty() }).node
            }
            Value::Array(items) => {
                let count = items.len();
                let item = name.parse::<usize>().ok().and_then(|index| items.get_mut(index));
                item.ok_or_else(|| {
                    Diagnostic::at(place, format!("\"{}\": no such element", set.key))
                        .label(format!("the array has {count}"))
                        .help("elements count from 0; --set KEY=[...] replaces the whole array")
                })?
            }
            _ => {
                return Err(Diagnostic::at(place, format!("\"{}\": no such key", set.key))
                    .label(format!("what stands before it is {kind}")));
            }
        };
    }
    node.merge(set.value);
    Ok(())
}
