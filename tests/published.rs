//! Recipes in `configs/` beside the table of published settings, `tests/fixtures/published.toml`.

use std::fs;
use std::path::Path;

use ckd_det::config::{ClassifyConfig, CohortConfig, Config, Document, Experiment};
use toml::{Table, Value};

/// Beginnings of the names of the repository's own experiments, which follow no publication.
const OWN: [&str; 6] = ["base/", "bccd", "cifar10/", "cifar10_", "pretrain_", "quickstart"];
/// A check of the machine.
const NO_EXPERIMENT: &str = "coco_mini.toml";

/// Names below `configs/` of all files that follow something published.
fn recipes() -> Vec<String> {
    fn add(folder: &Path, below: &str, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let entry = entry.expect("an entry");
            let name = format!("{below}{}", entry.file_name().to_string_lossy());
            match entry.path().is_dir() {
                true => add(&entry.path(), &format!("{name}/"), found),
                false => found.push(name),
            }
        }
    }
    let mut found = Vec::new();
    add(&Path::new(env!("CARGO_MANIFEST_DIR")).join("configs"), "", &mut found);
    found.retain(|name| name != NO_EXPERIMENT && !OWN.iter().any(|own| name.starts_with(own)));
    found.sort_unstable();
    found
}

/// Every key of a recipe with its value.
fn resolved(name: &str) -> Table {
    let text = match Experiment::load(name, &[]) {
        Ok(Experiment::Detect(_)) => Config::load(name, &[]).expect("a detector").resolved_toml(),
        Ok(Experiment::Classify(_)) => ClassifyConfig::load(name, &[]).expect("a classifier").resolved_toml(),
        Ok(Experiment::Cohort(_)) => CohortConfig::load(name, &[]).expect("a cohort").resolved_toml(),
        Ok(Experiment::Pretrain(loaded)) => loaded.resolved_toml(),
        Err(error) => panic!("{name}: {error}"),
    };
    text.parse().expect("TOML")
}

/// Whether `*` in `pattern`, which is any text, makes `name` of it.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
            rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| fits(tail, &rest[at..]))
        }),
    }
}

fn is_of(row: &Table, name: &str) -> bool {
    let any = |key: &str| {
        let patterns = row.get(key).and_then(Value::as_array).into_iter().flatten();
        patterns.filter_map(Value::as_str).any(|pattern| fits(pattern, name))
    };
    any("files") && !any("except")
}

/// Adds to `wrong` what `found` has in another way than `wanted`, key by key.
fn compare(wanted: &Value, found: Option<&Value>, key: &str, wrong: &mut Vec<String>) {
    let is_same = match (wanted, found) {
        (Value::Table(wanted), Some(Value::Table(found))) => {
            for (name, wanted) in wanted {
                compare(wanted, found.get(name), &format!("{key}.{name}"), wrong);
            }
            true
        }
        (Value::Array(wanted), Some(Value::Array(found))) if wanted.len() == found.len() => {
            for (at, (wanted, found)) in wanted.iter().zip(found).enumerate() {
                compare(wanted, Some(found), &format!("{key}.{at}"), wrong);
            }
            true
        }
        (wanted, Some(found)) => {
            let number = |value: &Value| value.as_float().or(value.as_integer().map(|whole| whole as f64));
            match (number(wanted), number(found)) {
                (Some(wanted), Some(found)) => wanted == found,
                _ => wanted == found,
            }
        }
        (_, None) => false,
    };
    if !is_same {
        let found = found.map_or("missing".to_owned(), ToString::to_string);
        wrong.push(format!("{} is {found}, published {wanted}", key.trim_start_matches('.')));
    }
}

#[test]
fn every_recipe_has_the_published_settings() {
    let table: Table =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/published.toml"))
            .expect("the table")
            .parse()
            .expect("TOML");
    let rows: Vec<&Table> =
        table["row"].as_array().expect("rows").iter().map(|row| row.as_table().expect("a row")).collect();
    let names = recipes();
    let mut wrong = Vec::new();
    for row in &rows {
        let source = row["source"].as_str().expect("a source");
        if !names.iter().any(|name| is_of(row, name)) {
            wrong.push(format!("{:?} ({source}) is of no file", row["files"].to_string()));
        }
    }
    for name in &names {
        let found = resolved(name);
        let entries = found.get("distill").and_then(Value::as_array).map_or(0, Vec::len);
        let mut rows = rows.iter().filter(|row| is_of(row, name)).peekable();
        if rows.peek().is_none() {
            wrong.push(format!("{name} is in no row"));
        }
        let mut told = 0;
        for row in rows {
            let mut own = Vec::new();
            let found = Value::Table(found.clone());
            if let Some(keys) = row.get("keys") {
                compare(keys, Some(&found), "", &mut own);
            }
            if let Some(wanted) = row.get("entries") {
                told += 1;
                compare(wanted, found.get("distill"), "distill", &mut own);
            }
            wrong.extend(own.into_iter().map(|own| format!("{name}: {own} ({})", row["source"])));
        }
        if told != usize::from(entries > 0) {
            wrong.push(format!("{name} has {entries} entries, which {told} rows tell"));
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_pattern_stands_for_any_text() {
    for (pattern, name, is_so) in [
        ("a/*", "a/b.toml", true),
        ("a/*_c.toml", "a/b_b_c.toml", true),
        ("a/*_c.toml", "a/b_c_d.toml", false),
        ("coco_d2_*_dkd.toml", "coco_d2_r50_mv2_dkd.toml", true),
        ("coco_r*", "coco_d2_r101.toml", false),
        ("x", "xy", false),
    ] {
        assert_eq!(fits(pattern, name), is_so, "{pattern} and {name}");
    }
}
