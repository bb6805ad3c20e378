//! A configuration as a list of dotted keys.

use std::collections::BTreeMap;

use serde::Serialize;

/// Every value of a configuration under its dotted key, as TOML writes it.
///
/// # Panics
/// If it has a number that is not finite, which no checked configuration has.
pub fn flat(config: &impl Serialize) -> BTreeMap<String, String> {
    fn walk(key: String, value: &toml::Value, into: &mut BTreeMap<String, String>) {
        let below = |part: &str| if key.is_empty() { part.to_owned() } else { format!("{key}.{part}") };
        match value {
            toml::Value::Table(table) => {
                table.iter().for_each(|(part, value)| walk(below(part), value, into));
            }
            toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
                items.iter().enumerate().for_each(|(at, value)| walk(below(&at.to_string()), value, into));
            }
            // A 32-bit number is written with its own digits, not with those of the nearest 64-bit one.
            toml::Value::Float(value) if f64::from(*value as f32) == *value => {
                drop(into.insert(key, format!("{:?}", *value as f32)));
            }
            value => drop(into.insert(key, value.to_string())),
        }
    }
    let mut values = BTreeMap::new();
    let document =
        toml::Value::try_from(config).expect("a configuration has string keys and finite numbers only");
    walk(String::new(), &document, &mut values);
    values
}
