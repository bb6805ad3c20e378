//! The hash that a text file of a run carries over all its content: the last line of a TOML file, the last entry of a
//! JSON object.

/// Start of the last line of a TOML file.
const TOML: &str = "# blake3 ";
/// Text before and behind the hash in a JSON object.
const JSON: (&str, &str) = (",\n  \"blake3\": \"", "\"\n}");

/// A text as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sealed<'a> {
    /// The hash agrees, or there is none, as in files of earlier versions.
    Whole(&'a str),
    /// The text is not what its hash says.
    Broken,
}

/// Adds its hash to the TOML document `text`.
pub(super) fn toml(text: &str) -> String {
    format!("{text}{TOML}{}\n", hash(text))
}

/// Adds its hash to the JSON object `text`, indented by two spaces and not empty.
pub(super) fn json(text: &str) -> String {
    let body = text.trim_end().trim_end_matches('}').trim_end();
    format!("{body}{}{}{}", JSON.0, hash(body), JSON.1)
}

/// Compares a text of [`toml`] with its hash.
pub(super) fn check_toml(text: &str) -> Sealed<'_> {
    check(text, text.rfind(TOML), TOML, "\n")
}

/// Compares a text of [`json`] with its hash.
pub(super) fn check_json(text: &str) -> Sealed<'_> {
    check(text, text.rfind(JSON.0), JSON.0, JSON.1)
}

fn check<'a>(text: &'a str, at: Option<usize>, before: &str, after: &str) -> Sealed<'a> {
    let Some((body, end)) = at.map(|at| text.split_at(at)) else { return Sealed::Whole(text) };
    let said = end.strip_prefix(before).and_then(|end| end.strip_suffix(after));
    match said == Some(hash(body).as_str()) {
        true => Sealed::Whole(text),
        false => Sealed::Broken,
    }
}

fn hash(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_with_its_hash_is_whole_and_any_changed_letter_shows() {
        let pretty = serde_json::to_string_pretty(&serde_json::json!({"a": {"b": 1.5}, "c": []})).unwrap();
        type Check = fn(&str) -> Sealed<'_>;
        let texts: [(String, Check); 2] =
            [(toml("a = 1\n[b]\nc = \"d\"\n"), check_toml), (json(&pretty), check_json)];
        for (text, check) in texts {
            assert_eq!(check(&text), Sealed::Whole(&text));
            let mark = text.rfind("blake3").unwrap();
            let hash = mark + 6 + text[mark + 6..].find(|letter: char| letter.is_ascii_hexdigit()).unwrap();
            let changed = |at: usize| {
                let mut changed = text.clone().into_bytes();
                changed[at] ^= 1;
                String::from_utf8(changed).unwrap()
            };
            for at in (0..mark - 5).chain(hash..hash + 64) {
                assert_eq!(check(&changed(at)), Sealed::Broken, "{}", changed(at));
            }
        }
        let value: serde_json::Value = serde_json::from_str(&json(&pretty)).unwrap();
        assert_eq!((value["a"]["b"].as_f64(), value["blake3"].as_str().map(str::len)), (Some(1.5), Some(64)));
    }

    #[test]
    fn a_text_without_a_hash_is_taken_as_it_is() {
        assert_eq!(check_toml("a = 1\n"), Sealed::Whole("a = 1\n"));
        assert_eq!(check_json("{}"), Sealed::Whole("{}"));
    }
}
