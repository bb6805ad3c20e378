//! JSON Schema of configurations, for the completion and the marks of editors.
//!
//! It follows from the keys that the sections declare, and says no more than they do: which key takes which kind of
//! value. What must fit together is checked at loading.

use ckd_settings::Key;
use serde_json::{Value, json};

/// JSON Schema (draft 7, which editors' TOML tools read) of documents with these keys.
///
/// No key is required: it may stand in a file that the document extends. An array of tables that a word tells apart
/// (`distill.N.method`) becomes a list of alternatives.
pub fn json_schema(title: &str, keys: &[Key]) -> Value {
    let mut root = json!({ "type": "object" });
    for key in keys {
        let (parents, name) = key.path.rsplit_once('.').unwrap_or(("", &key.path));
        let parts = parents.split('.').filter(|part| !part.is_empty());
        let mut table = parts.fold(&mut root, |schema, part| match part {
            "N" => &mut schema["items"],
            part => &mut schema["properties"][part],
        });
        if let Value::Array(alternatives) = &table["anyOf"] {
            let last = alternatives.len() - usize::from(name != "method");
            table = &mut table["anyOf"];
            if name == "method" {
                table
                    .as_array_mut()
                    .into_iter()
                    .for_each(|all| all.push(json!({ "type": "object", "required": [name] })));
            }
            table = &mut table[last];
        }
        table["properties"][name] = described(key);
    }
    close(&mut root);
    root["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    root["title"] = title.into();
    root
}

/// The schema of a key, with its documentation and default.
fn described(key: &Key) -> Value {
    let mut schema = schema_of(&key.takes);
    schema["description"] = key.documentation.replace('\n', " ").into();
    if let Some(default) = key.default.as_ref().and_then(|default| json_of(default)) {
        schema["default"] = default;
    }
    schema
}

/// The schema of the values that a key takes, from their description in words.
fn schema_of(takes: &str) -> Value {
    if let Some(element) = takes.strip_prefix("an array, each element ") {
        return json!({ "type": "array", "items": schema_of(element) });
    }
    if takes.starts_with('"') {
        let words: Vec<&str> = takes.split(" or ").map(|word| word.trim_matches('"')).collect();
        return json!({ "enum": words });
    }
    match takes {
        "true or false" => json!({ "type": "boolean" }),
        "a finite number" => json!({ "type": "number" }),
        "an integer, 0 or more" => json!({ "type": "integer", "minimum": 0 }),
        "an integer, 0 to 4294967295" => json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX }),
        "a table" => json!({ "type": "object" }),
        "a table with a `method`" => json!({ "anyOf": [] }),
        "a string, or a table" => json!({ "type": ["string", "object"] }),
        "an array of 3 numbers (red, green, blue)" => {
            json!({ "type": "array", "items": { "type": "number" }, "minItems": 3, "maxItems": 3 })
        }
        _ => json!({ "type": "string" }),
    }
}

/// A default in TOML as JSON; `None` where there is none.
fn json_of(default: &str) -> Option<Value> {
    let document: toml::Table = toml::from_str(&format!("value = {default}")).ok()?;
    serde_json::to_value(document.get("value")?).ok()
}

/// Refuses unknown keys in every table whose keys are known.
fn close(schema: &mut Value) {
    if let Some(parts) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        parts.values_mut().for_each(close);
        schema["additionalProperties"] = false.into();
    }
    schema.get_mut("items").into_iter().for_each(close);
    schema.get_mut("anyOf").and_then(Value::as_array_mut).into_iter().flatten().for_each(close);
}
