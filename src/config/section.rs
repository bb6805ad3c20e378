//! From the tree to typed values: the one definition of a key gives its type, default,
//! documentation, and every error about it.
//!
//! `section!` declares a table of the configuration as a struct, `choices!` a set of words as an
//! enum. All that is wrong with a document is reported at once, each finding at its own place.

use serde::Serialize;

use super::diagnose::{Diagnostic, did_you_mean};
use super::tree::{Node, Place};

/// A key that a configuration may have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Key {
    /// Dotted, as `--set` takes it; `N` stands for a position in an array.
    pub path: String,
    /// What it takes.
    pub takes: String,
    /// What it does, its unit and its source.
    pub documentation: String,
    /// Its value when it is not given, in TOML.
    pub default: Option<String>,
}

/// A type that can be read from a configuration.
pub(super) trait Read: Sized {
    /// The value of `node`; what is wrong with it goes into `findings`.
    fn read(node: &Node, path: &str, findings: &mut Vec<Diagnostic>) -> Option<Self>;

    /// The value of a key that is not given in the table at `parent`, and has no default.
    fn absent(path: &str, parent: &Place, findings: &mut Vec<Diagnostic>) -> Option<Self> {
        findings.push(
            Diagnostic::at(parent.clone(), format!("missing key \"{path}\""))
                .label("in this table")
                .help("`ckd-det config show --keys` explains every key"),
        );
        None
    }

    /// Adds what there is to know about a key of this type.
    fn document(key: Key, keys: &mut Vec<Key>) {
        keys.push(Key { takes: Self::takes(), ..key });
    }

    /// What the key takes, in words.
    fn takes() -> String;

    /// What a table is for; nothing for other types.
    fn about() -> String {
        String::new()
    }
}

/// `parent.name`, or `name` at the root.
pub(super) fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") }
}

/// The keys of one table, taken one by one; what is left at the end is unknown.
pub(super) struct Fields<'a> {
    node: &'a Node,
    path: &'a str,
    findings: &'a mut Vec<Diagnostic>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// Begins with `node`, which must be a table.
    pub(super) fn of(node: &'a Node, path: &'a str, findings: &'a mut Vec<Diagnostic>) -> Option<Self> {
        if node.table().is_none() {
            findings.push(
                Diagnostic::at(node.place.clone(), format!("wrong type for \"{path}\""))
                    .label(format!("expected a table, found {}", node.kind())),
            );
            return None;
        }
        Some(Self { node, path, findings, known: Vec::new() })
    }

    /// The value of `name`, else its default, else an error.
    pub(super) fn take<T: Read>(&mut self, name: &'static str, default: Option<T>) -> Option<T> {
        self.known.push(name);
        let path = join(self.path, name);
        match (self.node.at(name), default) {
            (Some(node), _) => T::read(node, &path, self.findings),
            (None, Some(default)) => Some(default),
            (None, None) => T::absent(&path, &self.node.place, self.findings),
        }
    }

    /// Reports every key that was not taken.
    pub(super) fn finish(self) {
        for (name, entry) in self.node.table().into_iter().flatten() {
            if self.known.contains(&name.as_str()) {
                continue;
            }
            let place = if self.path.is_empty() { String::new() } else { format!(" in [{}]", self.path) };
            let help = match did_you_mean(name, self.known.iter().copied()) {
                Some(similar) => format!("did you mean \"{similar}\"?"),
                None => format!("known keys: {}", self.known.join(", ")),
            };
            self.findings
                .push(Diagnostic::at(entry.key.clone(), format!("unknown key \"{name}\"{place}")).help(help));
        }
    }
}

/// A value as TOML writes it.
pub(super) fn in_toml<T: Serialize>(value: &T) -> Option<String> {
    let mut text = String::new();
    value.serialize(toml::ser::ValueSerializer::new(&mut text)).ok()?;
    Some(text)
}

/// Documentation lines as rustdoc joins them.
pub(super) fn joined(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join("\n")
}

/// A table that is laid over another one at loading: it gives the keys that differ, and holds all.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Overlay<T>(pub T);

impl<T: Read> Read for Overlay<T> {
    fn read(node: &Node, path: &str, findings: &mut Vec<Diagnostic>) -> Option<Self> {
        T::read(node, path, findings).map(Self)
    }

    // The keys are explained where the table below it is.
    fn takes() -> String {
        T::takes()
    }
}

/// Declares a table of the configuration. `key: type` must be given (unless the type is an `Option`
/// or a table that has defaults throughout), `key: type = default` need not. `with name: Type` adds
/// the keys of another section to this one's.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        pub struct $name:ident $(with $shared:ident: $shared_type:ty)? {
            $( $(#[doc = $doc:literal])+ pub $field:ident: $type:ty $(= $default:expr)?, )*
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, serde::Serialize)]
        pub struct $name {
            $(
                /// The keys it shares with another section.
                #[serde(flatten)]
                pub $shared: $shared_type,
            )?
            $( $(#[doc = $doc])+ pub $field: $type, )*
        }

        impl $name {
            /// Takes this section's keys, leaving the others for the section that shares them.
            pub(in crate::config) fn take(fields: &mut crate::config::section::Fields<'_>) -> Option<Self> {
                // All are read before the first failure counts, so that all failures are reported.
                $( let $shared = <$shared_type>::take(fields); )?
                $( let $field = fields.take(stringify!($field), section!(@default $($default)?)); )*
                Some(Self { $( $shared: $shared?, )? $( $field: $field?, )* })
            }

            /// Describes this section's keys below `path`.
            pub(in crate::config) fn document_fields(
                path: &str,
                keys: &mut Vec<crate::config::section::Key>,
            ) {
                use crate::config::section::{Key, Read, in_toml, join, joined};
                $( <$shared_type>::document_fields(path, keys); )?
                $({
                    let default: Option<$type> = section!(@default $($default)?);
                    <$type as Read>::document(
                        Key {
                            path: join(path, stringify!($field)),
                            takes: String::new(),
                            documentation: joined(&[$($doc),+]),
                            default: default.as_ref().and_then(in_toml),
                        },
                        keys,
                    );
                })*
            }
        }

        impl crate::config::section::Read for $name {
            fn read(
                node: &crate::config::tree::Node,
                path: &str,
                findings: &mut Vec<crate::config::diagnose::Diagnostic>,
            ) -> Option<Self> {
                let mut fields = crate::config::section::Fields::of(node, path, findings)?;
                let section = Self::take(&mut fields);
                fields.finish();
                section
            }

            fn absent(
                path: &str,
                parent: &crate::config::tree::Place,
                findings: &mut Vec<crate::config::diagnose::Diagnostic>,
            ) -> Option<Self> {
                let value = crate::config::tree::Value::Table(Default::default());
                Self::read(&crate::config::tree::Node { value, place: parent.clone() }, path, findings)
            }

            fn document(key: crate::config::section::Key, keys: &mut Vec<crate::config::section::Key>) {
                let path = key.path.clone();
                keys.push(crate::config::section::Key { takes: Self::takes(), ..key });
                Self::document_fields(&path, keys);
            }

            fn takes() -> String {
                "a table".to_owned()
            }

            fn about() -> String {
                crate::config::section::joined(&[$($about),+])
            }
        }
    };
    (@default) => { None };
    (@default $default:expr) => { Some($default) };
}

/// Declares an enum that is written as one of a few words.
macro_rules! choices {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $(#[doc = $doc:literal])+ $variant:ident = $word:literal, )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        pub enum $name {
            $( $(#[doc = $doc])+ #[serde(rename = $word)] $variant, )+
        }

        impl $name {
            /// Every choice, in the order of declaration.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word that stands for it in a configuration.
            pub fn word(self) -> &'static str {
                match self {
                    $( Self::$variant => $word, )+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(self.word())
            }
        }

        impl crate::config::section::Read for $name {
            fn read(
                node: &crate::config::tree::Node,
                path: &str,
                findings: &mut Vec<crate::config::diagnose::Diagnostic>,
            ) -> Option<Self> {
                let word = String::read(node, path, findings)?;
                let known = Self::ALL.iter().copied().find(|choice| choice.word() == word);
                if known.is_none() {
                    let words = Self::ALL.iter().map(|choice| choice.word());
                    findings.push(crate::config::section::unknown_word(node, path, &word, words));
                }
                known
            }

            fn takes() -> String {
                [$( concat!("\"", $word, "\"") ),+].join(" or ")
            }
        }
    };
}

/// A word that is none of the choices.
pub(super) fn unknown_word<'w>(
    node: &Node,
    path: &str,
    word: &str,
    words: impl Iterator<Item = &'w str> + Clone,
) -> Diagnostic {
    let help = match did_you_mean(word, words.clone()) {
        Some(similar) => format!("did you mean \"{similar}\"?"),
        None => format!("choose from {}", words.collect::<Vec<_>>().join(", ")),
    };
    Diagnostic::at(node.place.clone(), format!("\"{word}\" is not a choice for \"{path}\"")).help(help)
}

pub(super) use {choices, section};
