//! Writes keys and tables into a TOML text, in the layout of their neighbours.

use serde_json::Value;

use super::super::text::{line_end, line_indent, line_start, newline, splice};
use super::index::{Block, Index};

/// Adds the table `value` at `path`, with its inner tables, below the tables to which it belongs.
pub(super) fn add_tables(text: &str, index: &Index, path: &[&str], value: &Value) -> String {
    let family = (1..path.len()).rev().find_map(|n| {
        let all: Vec<&Block> = index.blocks_below(path.get(..n)?).collect();
        (!all.is_empty()).then_some(all)
    });
    let family = family.unwrap_or_default();
    let after = family.iter().max_by_key(|b| b.end);
    // The layout of a sibling, else of the nearest table above.
    let sibling = family
        .iter()
        .filter(|b| b.path.len == path.len())
        .max_by_key(|b| b.end);
    let above = family
        .iter()
        .filter(|b| b.path.len < path.len() && b.path.lead_to(path))
        .max_by_key(|b| b.path.len);
    let (indent, unit) = sibling.or(above).map_or((String::new(), ""), |b| {
        let unit = index.unit(text, b);
        let deeper = unit.repeat(path.len() - b.path.len);
        (format!("{}{deeper}", line_indent(text, b.header.start)), unit)
    });
    let blank = after.is_none_or(|b| {
        let above = text.get(..line_start(text, b.header.start)).unwrap_or_default();
        above.is_empty() || above.ends_with("\n\n") || above.ends_with("\r\n\r\n")
    });
    let mut lines = Vec::new();
    let layout = Layout { text, unit, blank };
    layout.render(path, value, &indent, &mut lines);
    if text.is_empty() && blank {
        lines.remove(0);
    }
    add_lines(text, after.map_or(text.len(), |b| b.end), &lines)
}

/// The layout of added tables.
struct Layout<'a> {
    text: &'a str,
    unit: &'a str,
    blank: bool,
}

impl Layout<'_> {
    fn render(&self, path: &[&str], value: &Value, indent: &str, out: &mut Vec<String>) {
        let Some(map) = value.as_object() else { return };
        if self.blank {
            out.push(String::new());
        }
        out.push(format!("{indent}[{}]", dotted(self.text, path)));
        let inner = format!("{indent}{}", self.unit);
        for (key, v) in map.iter().filter(|(_, v)| !v.is_object()) {
            out.push(format!("{inner}{} = {}", quote(self.text, key), inline(v)));
        }
        for (key, v) in map.iter().filter(|(_, v)| v.is_object()) {
            let mut deeper = path.to_vec();
            deeper.push(key);
            self.render(&deeper, v, &inner, out);
        }
    }
}

/// Inserts whole lines after the line around byte `at`.
pub(super) fn add_lines(text: &str, at: usize, lines: &[String]) -> String {
    let nl = newline(text);
    let at = line_end(text, at);
    let body = lines.join(nl);
    let complete = text.get(..at).is_some_and(|t| t.is_empty() || t.ends_with('\n'));
    let insert = if complete {
        body + nl
    } else {
        format!("{nl}{body}")
    };
    splice(text, at..at, &insert)
}

pub(super) fn dotted(text: &str, path: &[&str]) -> String {
    let keys: Vec<String> = path.iter().map(|k| quote(text, k)).collect();
    keys.join(".")
}

/// A key in the file's style: bare if possible, else in the file's own kind of quotes.
pub(super) fn quote(text: &str, key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let literal = format!("'{key}'");
    if !key.is_empty() && key.chars().all(bare) {
        key.to_owned()
    } else if text.contains(&literal) && !key.contains(['\'', '\n']) {
        literal
    } else {
        inline(&Value::from(key))
    }
}

/// A value on one line.
pub(super) fn inline(value: &Value) -> String {
    match value {
        Value::String(s) => toml_edit::Value::from(s.as_str()).to_string(),
        Value::Array(all) => {
            let all: Vec<String> = all.iter().map(inline).collect();
            format!("[{}]", all.join(", "))
        }
        Value::Object(map) => {
            let all: Vec<String> = map
                .iter()
                .map(|(k, v)| format!("{} = {}", quote("", k), inline(v)))
                .collect();
            format!("{{ {} }}", all.join(", "))
        }
        other => other.to_string(),
    }
}
