//! A TOML document as a tree whose every key and value knows where it was written.
//!
//! Configurations are layered (`extends`, `--set`), so an error must name the layer that is to
//! blame. Each layer is parsed on its own, keeps its [`Place`]s, and is then laid over the one below.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::{Diagnostic, Place, Text};

/// A value and where it was written.
#[derive(Debug, Clone)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Place of the value in the text.
    pub place: Place,
}

/// A TOML value; dates stay unread, since no key takes one.
#[derive(Debug, Clone)]
pub enum Value {
    /// true or false.
    Boolean(bool),
    /// An integer.
    Integer(i64),
    /// A number with a fraction or an exponent.
    Float(f64),
    /// A string.
    String(String),
    /// A date or a time.
    Date,
    /// An array.
    Array(Vec<Node>),
    /// A table.
    Table(Table),
}

/// Keys in alphabetical order.
pub type Table = BTreeMap<String, Entry>;

/// A key of a table with its value.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The place of the key itself.
    pub key: Place,
    /// Value of the key.
    pub node: Node,
}

impl Node {
    /// A table without keys that stands at `place`.
    pub fn empty_table(place: Place) -> Self {
        Self { value: Value::Table(Table::new()), place }
    }

    /// Parses a whole document.
    ///
    /// # Errors
    /// The first place that is not TOML; an integer beyond 64 bits.
    pub fn parse(text: &Arc<Text>) -> Result<Self, Diagnostic> {
        let origin = Origin { text, offset: 0 };
        let document = DeTable::parse(&text.text)
            .map_err(|error| origin.refused(error.span().unwrap_or(0..0), error.message()))?;
        Ok(Self { value: Value::Table(origin.table(document.get_ref())?), place: origin.place(0..0) })
    }

    /// Parses the single value that is `written` there.
    ///
    /// # Errors
    /// The first place that is not TOML; an integer beyond 64 bits.
    pub fn parse_value(text: &Arc<Text>, written: Range<usize>) -> Result<Self, Diagnostic> {
        let origin = Origin { text, offset: written.start };
        let value = DeValue::parse(&text.text[written])
            .map_err(|error| origin.refused(error.span().unwrap_or(0..0), error.message()))?;
        origin.node(&value)
    }

    /// The kind of the value, for messages.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Boolean(_) => "a boolean",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a number",
            Value::String(_) => "a string",
            Value::Date => "a date",
            Value::Array(_) => "an array",
            Value::Table(_) => "a table",
        }
    }

    /// Keys of the value, if it is a table.
    pub fn table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// Mutable keys of the value, if it is a table.
    pub fn table_mut(&mut self) -> Option<&mut Table> {
        match &mut self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The node at a dotted key (`distill.0.weight`).
    pub fn at(&self, key: &str) -> Option<&Self> {
        key.split('.').filter(|part| !part.is_empty()).try_fold(self, |node, part| match &node.value {
            Value::Table(table) => table.get(part).map(|entry| &entry.node),
            Value::Array(items) => items.get(part.parse::<usize>().ok()?),
            _ => None,
        })
    }

    /// The node at a dotted key of tables.
    pub fn at_mut(&mut self, key: &str) -> Option<&mut Self> {
        key.split('.').filter(|part| !part.is_empty()).try_fold(self, |node, part| {
            node.table_mut().and_then(|table| table.get_mut(part)).map(|entry| &mut entry.node)
        })
    }

    /// Removes a dotted key; without it, nothing happens.
    pub fn remove(&mut self, key: &str) {
        let (parent, name) = key.rsplit_once('.').unwrap_or(("", key));
        if let Some(table) = self.at_mut(parent).and_then(Self::table_mut) {
            table.remove(name);
        }
    }

    /// Lays `over` on top: tables merge key by key, anything else is replaced.
    pub fn merge(&mut self, over: Self) {
        match (&mut self.value, over.value) {
            (Value::Table(below), Value::Table(above)) => {
                for (name, entry) in above {
                    match below.get_mut(&name) {
                        Some(existing) => {
                            existing.key = entry.key;
                            existing.node.merge(entry.node);
                        }
                        None => {
                            below.insert(name, entry);
                        }
                    }
                }
            }
            (value, above) => *value = above,
        }
        self.place = over.place;
    }
}

/// Converts the parser's values, whose spans count from `offset`.
struct Origin<'a> {
    text: &'a Arc<Text>,
    offset: usize,
}

impl Origin<'_> {
    /// The parser's finding, with advice where a backslash led to it.
    fn refused(&self, span: Range<usize>, message: &str) -> Diagnostic {
        /// Bytes before the parser's place in which the escape began.
        const NEAR: usize = 10;
        let place = self.place(span);
        let text = place.text.text.as_bytes();
        let near = &text[place.span.start.saturating_sub(NEAR)..place.span.end.min(text.len())];
        let is_escape = near.contains(&b'\\');
        let diagnostic = Diagnostic::at(place, message);
        match is_escape {
            true => diagnostic.help(
                "a backslash in double quotes begins an escape, as in a path of Windows: write / instead, or put the text \
                 into single quotes: 'C:\\data'",
            ),
            false => diagnostic,
        }
    }

    fn place(&self, span: Range<usize>) -> Place {
        Place { text: Arc::clone(self.text), span: span.start + self.offset..span.end + self.offset }
    }

    fn table(&self, table: &DeTable<'_>) -> Result<Table, Diagnostic> {
        let mut entries = Table::new();
        for (key, value) in table {
            let entry = Entry { key: self.place(key.span()), node: self.node(value)? };
            entries.insert(key.get_ref().to_string(), entry);
        }
        Ok(entries)
    }

    fn node(&self, spanned: &Spanned<DeValue<'_>>) -> Result<Node, Diagnostic> {
        let place = self.place(spanned.span());
        let value = match spanned.get_ref() {
            DeValue::Boolean(value) => Value::Boolean(*value),
            DeValue::String(value) => Value::String(value.to_string()),
            DeValue::Datetime(_) => Value::Date,
            DeValue::Integer(value) => match i64::from_str_radix(value.as_str(), value.radix()) {
                Ok(value) => Value::Integer(value),
                Err(_) => return Err(Diagnostic::at(place, "this integer does not fit in 64 bits")),
            },
            DeValue::Float(value) => match value.as_str().parse() {
                Ok(value) => Value::Float(value),
                Err(_) => return Err(Diagnostic::at(place, "this number cannot be read")),
            },
            DeValue::Array(items) => {
                Value::Array(items.iter().map(|item| self.node(item)).collect::<Result<_, _>>()?)
            }
            DeValue::Table(table) => Value::Table(self.table(table)?),
        };
        Ok(Node { value, place })
    }
}
