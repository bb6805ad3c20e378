//! The types of single keys: booleans, numbers, strings, paths, arrays and optional ones.

use std::path::PathBuf;

use crate::{Check, Diagnostic, Key, Layer, Node, Place, Read, Value, join};

fn wrong_type<T: Read>(node: &Node, path: &str, findings: &mut Vec<Diagnostic>) -> Option<T> {
    findings.push(Diagnostic::at(node.place.clone(), format!("wrong type for \"{path}\"")).label(format!(
        "expected {}, found {}",
        T::takes(),
        node.kind()
    )));
    None
}

fn out_of_range<T: Read>(node: &Node, path: &str, findings: &mut Vec<Diagnostic>) -> Option<T> {
    findings.push(
        Diagnostic::at(node.place.clone(), format!("value out of range for \"{path}\""))
            .label(format!("expected {}", T::takes())),
    );
    None
}

impl Read for bool {
    fn read(node: &Node, path: &str, findings: &mut Vec<Diagnostic>) -> Option<Self> {
        match node.value {
            Value::Boolean(value) => Some(value),
            _ => wrong_type(node, path, findings),
        }
    }

    fn takes() -> String {
        "true or false".to_owned()
    }
}

impl Read for String {
    fn read(node: &Node, path: &str, findings: &mut Vec<Diagnostic>) -> Option<Self> {
        match &node.value {
            Value::String(value) => Some(value.clone()),
            // `--set name=7` means the text, whatever else TOML could make of it.
            Value::Boolean(_) | Value::Integer(_) | Value::Float(_) | Value::Date
                if node.place.text.layer == Layer::Set =>
            {
                Some(node.place.written().trim().to_owned())
            }
            _ => wrong_type(node, path, findings),
        }
    }

    fn takes() -> String {
        "a string".to_owned()
    }
}

impl Read for PathBuf {
    fn read(node: &Node, path: &str, findings: &mut Vec<Diagnostic>) -> Option<Self> {
        match String::read(node, path, findings)? {
            text if text.is_empty() => {
                findings.push(Diagnostic::at(node.place.clone(), format!("\"{path}\" is an empty path")));
                None
            }
            text => Some(Self::from(text)),
        }
    }

    fn takes() -> String {
        "a path".to_owned()
    }
}

macro_rules! read_integer {
    ($($type:ty: $takes:literal),*) => {$(
        impl Read for $type {
            fn read(node: &Node, path: &str, findings: &mut Vec<Diagnostic>) -> Option<Self> {
                match node.value {
                    Value::Integer(value) => {
                        Self::try_from(value).ok().or_else(|| out_of_range(node, path, findings))
                    }
                    _ => wrong_type(node, path, findings),
                }
            }

            fn takes() -> String {
                $takes.to_owned()
            }
        }
    )*};
}

read_integer!(u32: "an integer, 0 to 4294967295", u64: "an integer, 0 or more", usize: "an integer, 0 or more");

macro_rules! read_number {
    ($($type:ty),*) => {$(
        impl Read for $type {
            fn read(node: &Node, path: &str, findings: &mut Vec<Diagnostic>) -> Option<Self> {
                let value = match node.value {
                    Value::Integer(value) => value as Self,
                    Value::Float(value) => value as Self,
                    _ => return wrong_type(node, path, findings),
                };
                if value.is_finite() { Some(value) } else { out_of_range(node, path, findings) }
            }

            fn takes() -> String {
                "a finite number".to_owned()
            }
        }
    )*};
}

read_number!(f32, f64);

impl<T: Read> Read for Option<T> {
    fn read(node: &Node, path: &str, findings: &mut Vec<Diagnostic>) -> Option<Self> {
        T::read(node, path, findings).map(Some)
    }

    fn absent(_: &str, _: &Place, _: &mut Vec<Diagnostic>) -> Option<Self> {
        Some(None)
    }

    fn document(key: Key, keys: &mut Vec<Key>) {
        T::document(Key { default: Some("not given".to_owned()), ..key }, keys);
    }

    fn check_all(&self, check: &mut Check<'_>) {
        if let Some(value) = self {
            value.check_all(check);
        }
    }

    fn takes() -> String {
        T::takes()
    }
}

impl<T: Read> Read for Vec<T> {
    fn read(node: &Node, path: &str, findings: &mut Vec<Diagnostic>) -> Option<Self> {
        let Value::Array(items) = &node.value else {
            return wrong_type(node, path, findings);
        };
        // Every element is read before the first failure counts, so that all are reported.
        let read: Vec<Option<T>> = items
            .iter()
            .enumerate()
            .map(|(index, item)| T::read(item, &join(path, &index.to_string()), findings))
            .collect();
        read.into_iter().collect()
    }

    fn document(key: Key, keys: &mut Vec<Key>) {
        let mut element = Vec::new();
        T::document(Key { path: join(&key.path, "N"), default: None, ..key.clone() }, &mut element);
        keys.push(Key { takes: Self::takes(), ..key });
        // Elements that are plain values have nothing to add.
        if element.len() > 1 {
            keys.extend(element);
        }
    }

    fn check_all(&self, check: &mut Check<'_>) {
        for (index, item) in self.iter().enumerate() {
            item.check_all(&mut check.within(&index.to_string()));
        }
    }

    fn takes() -> String {
        format!("an array, each element {}", T::takes())
    }
}

impl Read for [f32; 3] {
    fn read(node: &Node, path: &str, findings: &mut Vec<Diagnostic>) -> Option<Self> {
        let values = Vec::<f32>::read(node, path, findings)?;
        Self::try_from(values).ok().or_else(|| out_of_range(node, path, findings))
    }

    fn takes() -> String {
        "an array of 3 numbers (red, green, blue)".to_owned()
    }
}
