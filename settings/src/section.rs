//! From the tree to typed values: the one definition of a key gives its type, default,
//! documentation, and every error about it.
//!
//! [`section!`](crate::section!) declares a table as a struct, [`choices!`](crate::choices!) a set of words
//! as an enum.

use std::sync::Arc;

use serde::Serialize;

use crate::{Check, Diagnostic, Diagnostics, Layer, Node, Place, Problem, Text, did_you_mean, join};

/// A key that a configuration may have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Key {
    /// Dotted, as `--set` takes it; `N` stands for a position in an array.
    pub path: String,
    /// The values that it takes, in words.
    pub takes: String,
    /// Purpose, unit and source.
    pub documentation: String,
    /// Default value, in TOML.
    pub default: Option<String>,
}

/// A type that can be read from a document.
pub trait Read: Sized {
    /// The value of `node`; what is wrong with it goes into `findings`.
    fn read(node: &Node, path: &str, findings: &mut Vec<Diagnostic>) -> Option<Self>;

    /// The value of a key that is not given in the table at `parent`, and has no default.
    fn absent(path: &str, parent: &Place, findings: &mut Vec<Diagnostic>) -> Option<Self> {
        findings.push(
            Diagnostic::at(parent.clone(), format!("missing key \"{path}\""))
                .label("in this table")
                .help(format!("`ckd-det config explain {path}` says what it is for")),
        );
        None
    }

    /// Adds what there is to know about a key of this type.
    fn document(key: Key, keys: &mut Vec<Key>) {
        keys.push(Key { takes: Self::takes(), ..key });
    }

    /// The values of such a key, in words.
    fn takes() -> String;

    /// The value as a default that documentation shows; none for tables, whose keys have their own.
    fn as_default(&self) -> Option<String>
    where
        Self: Serialize,
    {
        in_toml(self)
    }

    /// Checks the value and all that is in it, each part at its own path.
    fn check_all(&self, _check: &mut Check<'_>) {}
}

/// A table of a document, as [`section!`](crate::section!) declares it.
pub trait Section: Read {
    /// Takes this section's keys, leaving the others for a section that shares the table.
    fn take(fields: &mut Fields<'_>) -> Option<Self>;

    /// Describes this section's keys below `path`.
    fn document_fields(path: &str, keys: &mut Vec<Key>);

    /// The purpose of the table: its documentation.
    fn about() -> String;

    /// Everything wrong with the values; nothing if they are fit for use.
    fn problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        self.check_all(&mut Check::root(&mut found));
        found
    }
}

/// Reads a document of its own, with defaults, and checks it; `origin` names it in errors.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read<T: Read>(text: &str, origin: &str) -> Result<T, Diagnostics> {
    let text = Text { name: origin.to_owned(), text: text.to_owned(), layer: Layer::File };
    read_node(&Node::parse(&Arc::new(text))?)
}

/// Reads a tree that was put together, with defaults, and checks it.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read_node<T: Read>(root: &Node) -> Result<T, Diagnostics> {
    let mut findings = Vec::new();
    let value = T::read(root, "", &mut findings);
    if let (Some(value), true) = (&value, findings.is_empty()) {
        let mut found = Vec::new();
        value.check_all(&mut Check::root(&mut found));
        findings.extend(found.into_iter().map(|problem| problem.found_in(root)));
    }
    match (Diagnostics::of(findings), value) {
        (None, Some(value)) => Ok(value),
        (wrong, _) => {
            Err(wrong.unwrap_or_else(|| Diagnostic::at(root.place.clone(), "cannot be read").into()))
        }
    }
}

/// The keys of one table, taken one by one; what is left at the end is unknown.
#[derive(Debug)]
pub struct Fields<'a> {
    node: &'a Node,
    path: &'a str,
    findings: &'a mut Vec<Diagnostic>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// Begins with `node`, which must be a table.
    pub fn of(node: &'a Node, path: &'a str, findings: &'a mut Vec<Diagnostic>) -> Option<Self> {
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
    pub fn take<T: Read>(&mut self, name: &'static str, default: Option<T>) -> Option<T> {
        self.known.push(name);
        let path = join(self.path, name);
        match (self.node.at(name), default) {
            (Some(node), _) => T::read(node, &path, self.findings),
            (None, Some(default)) => Some(default),
            (None, None) => T::absent(&path, &self.node.place, self.findings),
        }
    }

    /// Reports every key that was not taken.
    pub fn finish(self) {
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
pub fn in_toml<T: Serialize>(value: &T) -> Option<String> {
    let mut text = String::new();
    value.serialize(toml::ser::ValueSerializer::new(&mut text)).ok()?;
    Some(text)
}

/// Documentation lines as rustdoc joins them.
pub fn joined(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join("\n")
}

/// A table that is laid over another one at loading: it gives the keys that differ, and holds all. The
/// section that owns it checks it, for the table below has been checked where it stands.
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

/// Declares a table of a document as a struct. `key: type` must be given (unless the type is an `Option` or a
/// table that has defaults throughout), `key: type = default` need not. `with name: Type` adds the keys of
/// another section to this one's; `with name: Type = default` of a section that has defaults throughout.
///
/// The struct gets `new`, which takes the keys that must be given, or, if there are none, `Default`. A method
/// `fn check(&self, check: &mut Check<'_>)` of its own, if it has one, is called for each value that is read,
/// and the checks of the tables in it are called too, each at its own path.
#[macro_export]
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        pub struct $name:ident $(with $($shared:ident: $shared_type:ty $(= $preset:ident)?),+)? {
            $($body:tt)*
        }
    ) => {
        $crate::section! {
            @declare [$($about)+] $name [$($($shared: $shared_type,)+)?] $($body)*
        }
        $crate::section! {
            @new $name {} {} $($(with $shared: $shared_type $(= $preset)?,)+)? $($body)*
        }
    };
    (
        @declare [$($about:literal)+] $name:ident [$($shared:ident: $shared_type:ty,)*]
        $( $(#[doc = $doc:literal])+ pub $field:ident: $type:ty $(= $default:expr)?, )*
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, $crate::__serde::Serialize)]
        #[serde(crate = "ckd_settings::__serde")]
        pub struct $name {
            $(
                /// The keys it shares with another section.
                #[serde(flatten)]
                pub $shared: $shared_type,
            )*
            $( $(#[doc = $doc])+ pub $field: $type, )*
        }

        impl $crate::Section for $name {
            fn take(fields: &mut $crate::Fields<'_>) -> Option<Self> {
                // All are read before the first failure counts, so that all failures are reported.
                $( let $shared = <$shared_type as $crate::Section>::take(fields); )*
                $( let $field = fields.take(stringify!($field), $crate::section!(@default $($default)?)); )*
                Some(Self { $( $shared: $shared?, )* $( $field: $field?, )* })
            }

            fn document_fields(path: &str, keys: &mut Vec<$crate::Key>) {
                $( <$shared_type as $crate::Section>::document_fields(path, keys); )*
                $({
                    let default: Option<$type> = $crate::section!(@default $($default)?);
                    let key = $crate::Key {
                        path: $crate::join(path, stringify!($field)),
                        takes: String::new(),
                        documentation: $crate::joined(&[$($doc),+]),
                        default: default.as_ref().and_then($crate::Read::as_default),
                    };
                    <$type as $crate::Read>::document(key, keys);
                })*
            }

            fn about() -> String {
                $crate::joined(&[$($about),+])
            }
        }

        impl $crate::Read for $name {
            fn read(
                node: &$crate::Node,
                path: &str,
                findings: &mut Vec<$crate::Diagnostic>,
            ) -> Option<Self> {
                let mut fields = $crate::Fields::of(node, path, findings)?;
                let section = <Self as $crate::Section>::take(&mut fields);
                fields.finish();
                section
            }

            fn absent(
                path: &str,
                parent: &$crate::Place,
                findings: &mut Vec<$crate::Diagnostic>,
            ) -> Option<Self> {
                Self::read(&$crate::Node::empty_table(parent.clone()), path, findings)
            }

            fn document(key: $crate::Key, keys: &mut Vec<$crate::Key>) {
                let path = key.path.clone();
                keys.push($crate::Key { takes: Self::takes(), ..key });
                <Self as $crate::Section>::document_fields(&path, keys);
            }

            fn takes() -> String {
                "a table".to_owned()
            }

            fn as_default(&self) -> Option<String> {
                None
            }

            fn check_all(&self, check: &mut $crate::Check<'_>) {
                #[allow(unused_imports)]
                use $crate::Unchecked as _;
                // The section's own method, if it has one: inherent methods come first.
                self.check(check);
                $( $crate::Read::check_all(&self.$shared, check); )*
                $( $crate::Read::check_all(&self.$field, &mut check.within(stringify!($field))); )*
            }
        }
    };
    (@default) => { None };
    (@default $default:expr) => { Some($default) };
    // `new` and `Default`: keys that must be given become parameters, the others get their defaults.
    (@new $name:ident {$($given:tt)*} {$($set:tt)*} with $field:ident: $type:ty = default, $($rest:tt)*) => {
        $crate::section! {
            @new $name {$($given)*} {$($set)* $field: (<$type>::default()),} $($rest)*
        }
    };
    (@new $name:ident {$($given:tt)*} {$($set:tt)*} with $field:ident: $type:ty, $($rest:tt)*) => {
        $crate::section! { @new $name {$($given)* $field: $type,} {$($set)*} $($rest)* }
    };
    (
        @new $name:ident {$($given:tt)*} {$($set:tt)*}
        $(#[doc = $doc:literal])+ pub $field:ident: Option<$type:ty>, $($rest:tt)*
    ) => {
        $crate::section! { @new $name {$($given)*} {$($set)* $field: (None),} $($rest)* }
    };
    (
        @new $name:ident {$($given:tt)*} {$($set:tt)*}
        $(#[doc = $doc:literal])+ pub $field:ident: $type:ty = $default:expr, $($rest:tt)*
    ) => {
        $crate::section! { @new $name {$($given)*} {$($set)* $field: ($default),} $($rest)* }
    };
    (
        @new $name:ident {$($given:tt)*} {$($set:tt)*}
        $(#[doc = $doc:literal])+ pub $field:ident: $type:ty, $($rest:tt)*
    ) => {
        $crate::section! { @new $name {$($given)* $field: $type,} {$($set)*} $($rest)* }
    };
    (@new $name:ident {} {$($set:ident: ($value:expr),)*}) => {
        impl Default for $name {
            fn default() -> Self {
                Self { $( $set: $value, )* }
            }
        }
    };
    (@new $name:ident {$($given:ident: $type:ty,)+} {$($set:ident: ($value:expr),)*}) => {
        impl $name {
            /// With the keys that must be given; all others have their defaults.
            #[allow(clippy::too_many_arguments)]
            pub fn new($($given: $type),+) -> Self {
                Self { $( $given, )+ $( $set: $value, )* }
            }
        }
    };
}

/// Declares an enum that is written as one of a few words.
#[macro_export]
macro_rules! choices {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $(#[doc = $doc:literal])+ $variant:ident = $word:literal, )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, $crate::__serde::Serialize)]
        #[serde(crate = "ckd_settings::__serde")]
        pub enum $name {
            $( $(#[doc = $doc])+ #[serde(rename = $word)] $variant, )+
        }

        impl $name {
            /// Every choice, in the order of declaration.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word that stands for it in a document.
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

        impl $crate::Read for $name {
            fn read(
                node: &$crate::Node,
                path: &str,
                findings: &mut Vec<$crate::Diagnostic>,
            ) -> Option<Self> {
                let word = <String as $crate::Read>::read(node, path, findings)?;
                let known = Self::ALL.iter().copied().find(|choice| choice.word() == word);
                if known.is_none() {
                    let words = Self::ALL.iter().map(|choice| choice.word());
                    findings.push($crate::unknown_word(node, path, &word, words));
                }
                known
            }

            fn takes() -> String {
                [$( concat!("\"", $word, "\"") ),+].join(" or ")
            }
        }
    };
}

/// The finding for a word that is none of the choices.
pub fn unknown_word<'w>(
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
