//! The list of methods: what a method costs, what its section says, and that an entry survives being written.

use std::collections::BTreeSet;

use ckd_det::distill::{Distill, taught};
use ckd_settings::{read, section};

use crate::support::source::{Source, root, sources};

section! {
    /// A document with entries alone.
    pub struct Entries {
        /// The entries.
        pub distill: Vec<Distill>,
    }
}

/// The lines of `methods!`: the file of a method, and the sections in it.
fn lines() -> Vec<(String, Vec<String>)> {
    let text = std::fs::read_to_string(root().join("src/distill/mod.rs")).unwrap();
    let (_, list) = text.split_once("\nmethods! {\n").expect("the list of methods");
    let (list, _) = list.split_once("\n}\n").expect("its end");
    list.lines()
        .map(|line| {
            let (file, sections) = line.trim().trim_end_matches(';').split_once(": ").expect("FILE: SECTION");
            (file.to_owned(), sections.split(", ").map(str::to_owned).collect())
        })
        .collect()
}

/// Whether code names a type of `file`: the word alone, or by the path of the module.
fn names(source: &Source, file: &str, section: &str) -> bool {
    source.code.match_indices(section).any(|(at, _)| {
        let (before, after) = (&source.code[..at], &source.code[at + section.len()..]);
        let is_of_a_word = |c: char| c.is_alphanumeric() || c == '_';
        let whole = !before.ends_with(is_of_a_word) && !after.starts_with(is_of_a_word);
        // `Self::At` and `DistillError::At` are of other types.
        let own_path =
            ["distill::", "super::", &format!("{file}::")].iter().any(|path| before.ends_with(path));
        whole && (!before.ends_with("::") || own_path)
    })
}

#[test]
fn a_method_costs_one_file_and_one_line() {
    let all = sources(&["src"]);
    let mut found = 0;
    for (file, sections) in lines() {
        let own = format!("src/distill/{file}.rs");
        for section in sections {
            found += 1;
            let files: BTreeSet<&str> = all
                .iter()
                .filter(|source| names(source, &file, &section))
                .map(|source| source.path.as_str())
                .collect();
            assert_eq!(files, BTreeSet::from([own.as_str(), "src/distill/mod.rs"]), "{section}");
            let list = all.iter().find(|source| source.path == "src/distill/mod.rs").unwrap();
            let listed = list.lines_where(|line| line.trim_start().starts_with(&format!("{file}: ")));
            assert_eq!(listed.len(), 1, "{section}: {listed:?}");
        }
    }
    assert_eq!(found, taught().len());
}

#[test]
fn every_method_has_a_row_in_the_documentation() {
    let text = std::fs::read_to_string(root().join("docs/METHODS.md")).unwrap();
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
    for card in taught() {
        assert!(rows.iter().any(|row| row.starts_with(&format!("| `{}` |", card.method))), "{}", card.method);
    }
}

#[test]
fn an_entry_with_only_the_keys_it_must_have_survives_being_written() {
    for card in taught() {
        let maps = card.keys.iter().any(|key| key.path == "levels");
        let place = if maps { "levels = [\"p3\"]" } else { "at = \"embedding\"" };
        let text = format!("[[distill]]\nmethod = \"{}\"\n{place}\n", card.method);
        let entries: Entries = read(&text, "entry.toml").unwrap_or_else(|wrong| panic!("{wrong}"));
        assert_eq!(entries.distill[0].word(), card.method);
        assert!(!entries.distill[0].is_off(), "{}: its default weights are 0", card.method);
        let written = toml::to_string(&entries).unwrap();
        for key in card.keys.iter().filter(|key| key.default.as_deref().is_some_and(|it| it != "not given")) {
            assert!(written.contains(&format!("{} = ", key.path)), "{}: {} is lost", card.method, key.path);
        }
        assert_eq!(read::<Entries>(&written, "again.toml").unwrap(), entries, "{written}");
    }
}
