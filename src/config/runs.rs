//! `run:NAME` in the place of a file's path: the last weights of a run.

use std::path::PathBuf;

use ckd_settings::{Diagnostic, Entry, Node, Value};

use super::error::ConfigError;

/// Keys of weights that may be a run's.
const KEYS: [&str; 2] = ["student.init", "teacher.weights"];

const PREFIX: &str = "run:";

/// File of a run's last weights in its folder.
const LAST: &str = "last.safetensors";

/// Replaces `run:NAME` by the file of that run's last weights, below the configuration's own `output`. A student that begins
/// there trains all its stages on, unless `student.freeze_at` says otherwise.
///
/// # Errors
/// No name after `run:`.
pub(super) fn expand(root: &mut Node) -> Result<(), ConfigError> {
    let output = match root.at("output").map(|node| &node.value) {
        Some(Value::String(output)) => PathBuf::from(output),
        _ => PathBuf::from("runs"),
    };
    for key in KEYS {
        let Some(node) = root.at_mut(key) else { continue };
        let Value::String(path) = &mut node.value else { continue };
        let Some(name) = path.strip_prefix(PREFIX) else { continue };
        if name.is_empty() {
            return Err(Diagnostic::at(node.place.clone(), format!("`{key}` names no run"))
                .help(format!("write {PREFIX}NAME, the name of a folder in {}", output.display()))
                .into());
        }
        *path = output.join(name).join(LAST).to_string_lossy().into_owned();
        if key == "student.init" {
            train_all_stages(root);
        }
    }
    Ok(())
}

fn train_all_stages(root: &mut Node) {
    let is_detector = match root.at("task").map(|node| &node.value) {
        Some(Value::String(task)) => task == "detect",
        _ => true,
    };
    let Some(student) = root.at_mut("student").filter(|_| is_detector) else { return };
    let place = student.place.clone();
    if let Some(table) = student.table_mut() {
        let node = Node { value: Value::Integer(0), place: place.clone() };
        table.entry("freeze_at".to_owned()).or_insert(Entry { key: place, node });
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Document};

    /// `student.init` and `student.freeze_at` of the quickstart with `sets`.
    fn student(sets: &[&str]) -> Result<(String, Option<usize>), String> {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        let student = Config::load("quickstart", &sets).map_err(|error| error.to_string())?.config.student;
        Ok((student.init.expect("a file").display().to_string(), student.freeze_at))
    }

    #[test]
    fn a_run_is_the_file_of_its_last_weights_and_its_student_trains_whole() {
        let first = "student.init=run:first";
        assert_eq!(student(&[first]), Ok(("runs/first/last.safetensors".to_owned(), Some(0))));
        let there = ("there/first/last.safetensors".to_owned(), Some(3));
        assert_eq!(student(&[first, "output=there", "student.freeze_at=3"]), Ok(there));
        let file = ("first.safetensors".to_owned(), None);
        assert_eq!(student(&["student.init=first.safetensors"]), Ok(file));
    }

    #[test]
    fn a_run_without_a_name_is_refused_where_it_stands() {
        let error = student(&["student.init=run:"]).unwrap_err();
        assert!(error.contains("`student.init` names no run") && error.contains("write run:NAME"), "{error}");
    }
}
