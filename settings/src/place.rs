//! Texts that keys were read from, and stretches of them; paths of keys.

use std::ops::Range;
use std::sync::Arc;

/// Text that keys were read from: a file, or a `--set`.
#[derive(Debug)]
pub struct Text {
    /// Name of the text in errors: the path, `embedded:...` or `--set`.
    pub name: String,
    /// The whole text.
    pub text: String,
    /// The layer: a file or the command line.
    pub layer: Layer,
}

/// Origin of a [`Text`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// A file, on disk or embedded.
    File,
    /// A `--set` of the command line.
    Set,
}

/// A stretch of a [`Text`].
#[derive(Debug, Clone)]
pub struct Place {
    /// The text that it is in.
    pub text: Arc<Text>,
    /// In bytes.
    pub span: Range<usize>,
}

impl Place {
    /// The source as written.
    pub fn written(&self) -> &str {
        self.text.text.get(self.span.clone()).unwrap_or_default()
    }
}

/// Path of a key in its document: `parent.name`, or `name` at the root.
pub fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") }
}
