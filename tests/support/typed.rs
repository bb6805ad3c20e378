//! Commands as documents show them: `ckd-det VERB ..`, with quotes, redirections and remarks.

/// A command of the program.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Typed {
    /// The program's name and its arguments.
    pub(crate) words: Vec<String>,
    /// The file that `>` or `>>` names.
    pub(crate) into: Option<String>,
    /// Whether another program reads the output.
    pub(crate) is_piped: bool,
}

impl Typed {
    /// The command of a line as a shell takes it; a remark begins with `  #`.
    pub(crate) fn of(line: &str) -> Self {
        let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
        let mut typed = Self { words: Vec::new(), into: None, is_piped: false };
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match (c, quote) {
                (c, Some(end)) if c == end => quote = None,
                (c, Some(_)) => word.get_or_insert_default().push(c),
                ('\'' | '"', None) => {
                    quote = Some(c);
                    word.get_or_insert_default();
                }
                ('|', None) => {
                    typed.is_piped = true;
                    break;
                }
                ('#', None) if word.is_none() => break,
                ('>', None) => {
                    let rest: String = chars.collect();
                    typed.into = Some(rest.trim_start_matches('>').trim().to_owned());
                    break;
                }
                (c, None) if c.is_whitespace() => words.extend(word.take()),
                (c, None) => word.get_or_insert_default().push(c),
            }
        }
        words.extend(word);
        typed.words = words;
        typed
    }

    /// The arguments.
    pub(crate) fn args(&self) -> Vec<&str> {
        self.words[1..].iter().map(String::as_str).collect()
    }
}

/// Commands of a help text: lines that begin with the program's name; what follows two spaces is a remark, and a
/// `\` at the end leads to the next line.
pub(crate) fn examples(help: &str) -> Vec<Typed> {
    let mut lines = help.lines();
    let mut examples = Vec::new();
    while let Some(line) = lines.next() {
        let Some(line) = line.strip_prefix("  ").filter(|line| line.starts_with("ckd-det ")) else {
            continue;
        };
        let mut whole = line.split("  ").next().unwrap_or_default().to_owned();
        while let Some(begun) = whole.strip_suffix('\\') {
            let next = lines.next().expect("a line behind the backslash").trim();
            whole = begun.to_owned() + next.split("  ").next().unwrap_or_default();
        }
        examples.push(Typed::of(&whole));
    }
    examples
}

/// Whether `printed` is what `shown` says: a line `…` there stands for any lines, `…` within a line for any
/// text.
pub(crate) fn is_as_shown(shown: &[&str], printed: &[&str]) -> bool {
    match (shown.split_first(), printed.split_first()) {
        (None, None) => true,
        (Some((&"…", rest)), _) => {
            is_as_shown(rest, printed) || !printed.is_empty() && is_as_shown(shown, &printed[1..])
        }
        (Some((line, rest)), Some((own, others))) => fits(line, own) && is_as_shown(rest, others),
        _ => false,
    }
}

fn fits(shown: &str, printed: &str) -> bool {
    let mut parts = shown.split('…');
    let Some(mut rest) = parts.next().and_then(|start| printed.strip_prefix(start)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(place) = rest.find(part) else { return false };
        rest = &rest[place + part.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn a_line_is_taken_as_a_shell_takes_it() {
    let typed = Typed::of("ckd-det train a.toml --set 'name=\"b c\"' > out.json");
    assert_eq!(typed.words, ["ckd-det", "train", "a.toml", "--set", "name=\"b c\""]);
    assert_eq!(typed.into.as_deref(), Some("out.json"));
    let piped = Typed::of("ckd-det methods --json | jq '.[]'");
    assert!(piped.is_piped && piped.args() == ["methods", "--json"]);
    let help = "Examples:\n  ckd-det a b     remark\n  ckd-det c \\\n      --d e\n";
    let words: Vec<Vec<String>> = examples(help).into_iter().map(|typed| typed.words).collect();
    assert_eq!(words, [vec!["ckd-det", "a", "b"], vec!["ckd-det", "c", "--d", "e"]]);
}

#[test]
fn an_ellipsis_stands_for_any_text_or_any_lines() {
    let shown = ["a … of … b", "…", "end"];
    assert!(is_as_shown(&shown, &["a 1 of 2 b", "x", "y", "end"]));
    assert!(is_as_shown(&shown, &["a 1 of 2 b", "end"]));
    assert!(
        !is_as_shown(&shown, &["a 1 of 2 c", "end"]) && !is_as_shown(&shown, &["a 1 of 2 b", "end", "z"])
    );
    assert!(!is_as_shown(&["a"], &["ab"]) && !is_as_shown(&["a…"], &["b"]) && is_as_shown(&["…"], &[]));
}
