//! Rust sources as the architecture tests read them: code without comments, literals and test modules.

use std::fs;
use std::path::{Path, PathBuf};

/// A source file of the program.
pub(crate) struct Source {
    /// Relative to the repository root, with `/`.
    pub(crate) path: String,
    /// The text as it stands.
    pub(crate) text: String,
    /// The text with comments, literals and test modules blanked, line for line.
    pub(crate) code: String,
}

impl Source {
    /// `path:line` of every match of `find` in a line of the code.
    pub(crate) fn lines_where(&self, find: impl Fn(&str) -> bool) -> Vec<String> {
        let lines = self.code.lines().enumerate().filter(|(_, line)| find(line));
        lines.map(|(number, line)| format!("{}:{}: {}", self.path, number + 1, line.trim())).collect()
    }
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every `.rs` file under `folders`, in order of path.
pub(crate) fn sources(folders: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                open.push(path);
            } else if name.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let code = without_tests(&code_only(&text));
            let path = path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
            Source { path, text, code }
        })
        .collect()
}

/// The crates' own code.
pub(crate) fn program() -> Vec<Source> {
    sources(&["src", "detectors/src", "detectors/kernels/src"])
}

/// Blanks comments, string literals and character literals; line breaks stay.
pub(crate) fn code_only(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_or_comment_end(&chars, at);
        if end > at {
            code.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        } else {
            code.push(chars[at]);
            at += 1;
        }
    }
    code
}

/// Where the comment or literal that begins at `at` ends; `at` itself if none begins there.
fn literal_or_comment_end(chars: &[char], at: usize) -> usize {
    let rest = &chars[at..];
    let begins = |what: &str| what.chars().zip(rest).filter(|(a, b)| a == *b).count() == what.len();
    let in_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    if begins("//") {
        return at + rest.iter().position(|&c| c == '\n').unwrap_or(rest.len());
    }
    if begins("/*") {
        let (mut depth, mut i) = (1, 2);
        while depth > 0 && i < rest.len() {
            match (rest[i], rest.get(i + 1)) {
                ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
                ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
                _ => i += 1,
            }
        }
        return at + i;
    }
    if !in_word && (begins("r\"") || begins("r#") || begins("br\"") || begins("br#")) {
        let prefix = if rest[0] == 'b' { 2 } else { 1 };
        let hashes = rest[prefix..].iter().take_while(|&&c| c == '#').count();
        // `r#type` is a word, not a string.
        if rest.get(prefix + hashes) == Some(&'"') {
            let mut i = prefix + hashes + 1;
            while i < rest.len() {
                let closing = rest[i + 1..].iter().take_while(|&&c| c == '#').count();
                if rest[i] == '"' && closing >= hashes {
                    return at + i + 1 + hashes;
                }
                i += 1;
            }
            return chars.len();
        }
    }
    if rest[0] == '"' {
        let mut i = 1;
        while i < rest.len() && rest[i] != '"' {
            i += if rest[i] == '\\' { 2 } else { 1 };
        }
        return (at + i + 1).min(chars.len());
    }
    // A character, not a lifetime: 'x' or '\n' or '\u{1F600}'.
    if rest[0] == '\'' {
        if rest.get(1) == Some(&'\\') {
            let closing = rest.iter().skip(3).position(|&c| c == '\'');
            return closing.map_or(at, |i| at + i + 4);
        }
        if rest.get(2) == Some(&'\'') {
            return at + 3;
        }
    }
    at
}

/// Blanks every `#[cfg(test)] mod ... { ... }` of blanked code.
pub(crate) fn without_tests(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(start) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..start]);
        let mut depth = 0;
        let end = rest[start..].char_indices().find_map(|(i, c)| {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            (depth == 0 && (c == '}' || c == ';')).then_some(start + i + 1)
        });
        let end = end.unwrap_or(rest.len());
        kept.extend(rest[start..end].chars().filter(|&c| c == '\n'));
        rest = &rest[end..];
    }
    kept + rest
}

/// The identifiers and keywords of a line of code.
pub(crate) fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// What follows `path::` in the code: one name, or each name of a `{...}` list.
pub(crate) fn names_after(code: &str, path: &str) -> Vec<String> {
    let first_word = |text: &str| words(text.trim_start()).next().unwrap_or_default().to_owned();
    let mut names = Vec::new();
    for (start, _) in code.match_indices(path) {
        let part_of_a_word = code[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let after = code[start + path.len()..].trim_start();
        let Some(after) = after.strip_prefix("::").filter(|_| !part_of_a_word) else { continue };
        let Some(list) = after.trim_start().strip_prefix('{') else {
            names.push(first_word(after));
            continue;
        };
        let (mut depth, mut item) = (0, String::new());
        for c in list.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => names.push(first_word(&std::mem::take(&mut item))),
                _ => {}
            }
            item.push(c);
        }
        names.push(first_word(item.trim_start_matches(',')));
    }
    names.retain(|name| !name.is_empty());
    names
}
