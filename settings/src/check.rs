//! Checks that types cannot express: ranges, and keys that must fit each other.

use crate::{Diagnostic, Node, join};

/// A value that cannot be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The dotted key to change.
    pub key: String,
    /// The message, without the key.
    pub message: String,
    /// Advice.
    pub help: String,
}

impl Problem {
    /// The problem at its key in the tree, or where the key would stand.
    pub fn found_in(self, root: &Node) -> Diagnostic {
        let mut key = self.key.as_str();
        let node = loop {
            match (root.at(key), key.rsplit_once('.')) {
                (Some(node), _) => break node,
                (None, Some((parent, _))) => key = parent,
                (None, None) => break root,
            }
        };
        Diagnostic::at(node.place.clone(), format!("\"{}\" {}", self.key, self.message)).help(self.help)
    }
}

/// Collects the problems of one section; keys are named relative to it.
#[derive(Debug)]
pub struct Check<'a> {
    section: String,
    found: &'a mut Vec<Problem>,
}

impl<'a> Check<'a> {
    /// Checks of a whole document.
    pub fn root(found: &'a mut Vec<Problem>) -> Self {
        Self { section: String::new(), found }
    }

    /// Checks of the section at `key`, below this one.
    pub fn within(&mut self, key: &str) -> Check<'_> {
        Check { section: join(&self.section, key), found: self.found }
    }

    /// Reports `message` at `key` unless the condition holds.
    pub fn that(&mut self, holds: bool, key: &str, message: impl Into<String>, help: impl Into<String>) {
        if !holds {
            let key = join(&self.section, key);
            self.found.push(Problem { key, message: message.into(), help: help.into() });
        }
    }

    /// A count of `most` or less.
    pub fn at_most(&mut self, key: &str, value: impl TryInto<u64>, most: u64) {
        let value = value.try_into().unwrap_or(u64::MAX);
        self.that(value <= most, key, format!("is {value}"), format!("give {most} or less"));
    }

    /// A count of 1 or more.
    pub fn at_least_one(&mut self, key: &str, value: impl TryInto<u64>) {
        let holds = value.try_into().is_ok_and(|value| value >= 1);
        self.that(holds, key, "is 0", "give 1 or more");
    }

    /// A number above 0.
    pub fn positive(&mut self, key: &str, value: f64) {
        self.that(value > 0.0, key, format!("is {value}"), "give a number above 0");
    }

    /// A number of 0 or more.
    pub fn not_negative(&mut self, key: &str, value: f64) {
        self.that(value >= 0.0, key, format!("is negative: {value}"), "give 0 or more");
    }

    /// A number in [0, 1].
    pub fn fraction(&mut self, key: &str, value: f64) {
        let holds = (0.0..=1.0).contains(&value);
        self.that(holds, key, format!("is {value}"), "give a number from 0 to 1");
    }
}

/// The check of a section that has none of its own.
///
/// A section's `fn check(&self, check: &mut Check<'_>)` is found before this trait's: Rust prefers inherent
/// methods.
pub trait Unchecked {
    /// Finds nothing.
    fn check(&self, _check: &mut Check<'_>) {}
}

impl<T> Unchecked for T {}
