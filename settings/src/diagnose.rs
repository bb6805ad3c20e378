//! Findings of a document, displayed with the lines at fault and what to do about them.

use std::borrow::Cow;
use std::fmt;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use crate::Place;

/// Findings that are displayed; each shows its lines, and nobody mends more at once.
const MOST_SHOWN: usize = 20;

/// Everything found wrong in one configuration; displayed with the lines at fault.
#[derive(Debug, Clone)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// The error that lists these findings; nothing without any.
    pub fn of(findings: Vec<Diagnostic>) -> Option<Self> {
        (!findings.is_empty()).then_some(Self(findings))
    }

    /// The findings, in the order in which they were made; at least one.
    pub fn all(&self) -> &[Diagnostic] {
        &self.0
    }

    /// The text that `Display` gives, in a terminal's colours.
    pub fn styled(&self) -> String {
        self.render(&Renderer::styled())
    }

    fn render(&self, renderer: &Renderer) -> String {
        let shown = self.0.iter().take(MOST_SHOWN).map(|diagnostic| diagnostic.render(renderer));
        let mut rendered: Vec<_> = shown.collect();
        if self.0.len() > MOST_SHOWN {
            rendered.push(format!("and {} more", self.0.len() - MOST_SHOWN));
        }
        rendered.join("\n\n")
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.render(&Renderer::plain()))
    }
}

impl std::error::Error for Diagnostics {}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}

/// Finding of a check: a message, its place in a text, a label at the place, advice.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    message: String,
    label: Option<String>,
    help: Option<String>,
    place: Place,
}

impl Diagnostic {
    /// A finding at `place`.
    pub fn at(place: Place, message: impl Into<String>) -> Self {
        Self { message: printable(&message.into()).into_owned(), label: None, help: None, place }
    }

    /// With words beside the marked place.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(printable(&label.into()).into_owned());
        self
    }

    /// With advice.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(printable(&help.into()).into_owned());
        self
    }

    /// The message: one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Advice.
    pub fn advice(&self) -> Option<&str> {
        self.help.as_deref()
    }

    fn render(&self, renderer: &Renderer) -> String {
        let mut group = Group::with_title(Level::ERROR.primary_title(&self.message));
        let place = &self.place;
        // An empty span stands for the text as a whole: there is no line to show.
        if place.span.is_empty() && place.span.start == 0 {
            group = group.element(Origin::path(&place.text.name));
        } else {
            let annotation = AnnotationKind::Primary.span(place.span.clone()).label(self.label.as_deref());
            let snippet = Snippet::source(&place.text.text).path(&place.text.name).annotation(annotation);
            group = group.element(snippet);
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help));
        }
        renderer.render(&[group])
    }
}

/// Text for a terminal: control characters but line breaks and tabs are written as escapes (`\u001b`, as in JSON). A name in a
/// file could otherwise move the cursor, change colours or set the terminal's title.
pub fn printable(text: &str) -> Cow<'_, str> {
    // Also the marks that turn the direction of writing (Unicode TR 36, section 3.2).
    let is_plain = |c: char| {
        matches!(c, '\n' | '\t')
            || !(c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
    };
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut written = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_plain(c) {
            true => written.push(c),
            false => written += &format!("\\u{:04x}", u32::from(c)),
        }
    }
    Cow::Owned(written)
}

/// The candidate that `word` was probably meant to be.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`
/// (optimal string alignment).
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // Rows i-2, i-1 and i of the table of distances between prefixes.
    let mut before = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_a_swap_of_neighbours_once() {
        for (a, b, distance) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("lerning", "learning", 1),
            ("wieght", "weight", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(edit_distance(a, b), distance, "{a} -> {b}");
        }
    }

    #[test]
    fn a_word_unlike_all_candidates_is_not_corrected() {
        assert_eq!(did_you_mean("lerning_rate", ["momentum", "learning_rate"]), Some("learning_rate"));
        assert_eq!(did_you_mean("zzz", ["momentum", "lr"]), None);
        assert_eq!(did_you_mean("zzz", []), None);
    }

    #[test]
    fn control_characters_are_printed_as_escapes() {
        assert_eq!(printable("plain, größer\n\t猫"), "plain, größer\n\t猫");
        assert_eq!(printable("a\u{1b}[31mb\u{7}\r\u{202e}c"), "a\\u001b[31mb\\u0007\\u000d\\u202ec");
    }

    #[test]
    fn of_very_many_findings_the_first_are_shown_and_the_others_counted() {
        let text = std::sync::Arc::new(crate::Text {
            name: "a.toml".to_owned(),
            text: "wrong = 1".to_owned(),
            layer: crate::Layer::File,
        });
        let one =
            |at: usize| Diagnostic::at(Place { text: text.clone(), span: 0..5 }, format!("finding {at}"));
        let shown = Diagnostics::of((0..20_000).map(one).collect()).expect("findings").to_string();
        assert!(shown.contains("finding 19\n") && !shown.contains("finding 20\n"));
        assert!(shown.ends_with("and 19980 more"));
    }
}
