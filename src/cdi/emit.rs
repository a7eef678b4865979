//! Writes a specification: the same bytes for the same data.

use serde_json::{Map, Value};

use super::validate::Valid;

/// As YAML, beginning with `---`.
pub fn yaml(spec: &Valid) -> String {
    let mut out = String::from("---\n");
    if let Value::Object(map) = value(spec) {
        yaml_map(&mut out, &map, 0, false);
    }
    out
}

/// As one line of JSON.
pub fn json(spec: &Valid) -> String {
    format!("{}\n", value(spec))
}

/// The document. The order of keys is that of the fields in [`types`](super::types).
fn value(spec: &Valid) -> Value {
    // Serializing fails only for a map whose keys are not text.
    let mut value = serde_json::to_value(spec.spec()).unwrap_or_default();
    omit_empty(&mut value);
    value
}

/// Removes null and empty lists, which mean the same as no field.
fn omit_empty(value: &mut Value) {
    match value {
        Value::Object(map) => map.retain(|_, value| {
            omit_empty(value);
            !value.is_null() && value.as_array().is_none_or(|items| !items.is_empty())
        }),
        Value::Array(items) => items.iter_mut().for_each(omit_empty),
        _ => {}
    }
}

fn yaml_map(out: &mut String, map: &Map<String, Value>, depth: usize, mut on_line: bool) {
    for (key, value) in map {
        if !on_line {
            indent(out, depth);
        }
        on_line = false;
        out.push_str(&scalar(key));
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                yaml_map(out, inner, depth + 1, false);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                for item in items {
                    indent(out, depth);
                    out.push_str("- ");
                    match item {
                        Value::Object(inner) if !inner.is_empty() => yaml_map(out, inner, depth + 1, true),
                        other => yaml_leaf(out, other),
                    }
                }
            }
            other => {
                out.push(' ');
                yaml_leaf(out, other);
            }
        }
    }
}

fn yaml_leaf(out: &mut String, value: &Value) {
    match value {
        Value::String(text) => out.push_str(&scalar(text)),
        // JSON's numbers, literals and empty collections are YAML's.
        other => out.push_str(&other.to_string()),
    }
    out.push('\n');
}

fn indent(out: &mut String, depth: usize) {
    for _ in 0..depth {
        out.push_str("  ");
    }
}

/// Without quotes where no reader, of YAML 1.1 or 1.2, can take it for anything but this text.
fn scalar(text: &str) -> String {
    const WORDS: [&str; 10] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n", "inf"];
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '_'));
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_.-=:+,".contains(c);
    let safe = begins
        && text.chars().all(plain)
        && !text.ends_with(':')
        && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word));
    if safe {
        text.to_owned()
    } else {
        // A JSON string is a double-quoted YAML one.
        Value::from(text).to_string()
    }
}
