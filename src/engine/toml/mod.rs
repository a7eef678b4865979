//! Edits TOML text: sets or removes a key or a table and keeps every other byte.
//!
//! `toml_edit::Document` parses and has the position of each key and value; an edit replaces,
//! inserts or cuts text there. `DocumentMut` is not used: it changes text that nobody edited
//! (`a_document_written_back_changes_other_text` below). A value with dotted keys or in an array of
//! tables is not edited.

mod index;
mod layout;

use std::ops::Range;

use serde_json::{Map, Value};
use toml_edit::{Document, Item, TableLike};

use super::text::{Syntax, line_end, line_indent, line_start, newline, splice, without};
use index::{Block, Leaf, Slot};
use layout::{dotted, inline, quote};

pub(super) use index::Index;

/// An estimate of the memory of a byte that may begin a table, at most.
const TABLE: usize = 1600;
/// An estimate of the memory of one that may begin a key or a value.
const VALUE: usize = 600;

/// An estimate of the memory for parsing `text`, in bytes, at most.
pub(crate) fn memory_of(text: &str) -> usize {
    let weights = text.bytes().map(|byte| match byte {
        b'{' | b'[' | b'.' => TABLE,
        b'=' | b',' | b'\n' => VALUE,
        _ => 16,
    });
    weights.sum()
}

/// The most memory for the text of one command, in bytes; an ordinary file of 100 kB takes a tenth
/// of it.
pub(crate) const MAX_MEMORY: usize = 96 << 20;

/// Parses the whole text.
pub(super) fn parse(text: &str) -> Result<Value, Syntax> {
    let doc = Document::parse(text).map_err(|e| {
        let at = e.span().map_or(0, |s| s.start.min(text.len()));
        let start = line_start(text, at);
        Syntax {
            line: text.get(..at).unwrap_or_default().matches('\n').count() + 1,
            column: text.get(start..at).unwrap_or_default().chars().count() + 1,
            message: e.message().lines().next().unwrap_or("not valid").to_owned(),
        }
    })?;
    Ok(table_value(doc.as_table()))
}

/// The position of the value of the key at `path`; `None` for tables that have a header.
pub(super) fn find(index: &Index, path: &[&str]) -> Option<Range<usize>> {
    index.leaf(path).map(|l| l.value.clone())
}

/// The text with the value at `path` replaced or added; `None` if it cannot be done in place.
pub(super) fn set(text: &str, index: &Index, path: &[&str], value: &Value) -> Option<String> {
    let (key, parent) = path.split_last()?;
    match index.slot(path) {
        Slot::Value(leaf) => Some(splice(text, leaf.value.clone(), &inline(value))),
        Slot::InlineTable(table, rest) => {
            let item = format!("{} = {}", dotted(text, rest), inline(value));
            add_inline(text, &table.value, &item)
        }
        Slot::Closed => None,
        Slot::Header(block) if !value.is_object() => Some(add_key(text, index, block, key, value)),
        Slot::Header(_) | Slot::Nowhere if value.is_object() => {
            Some(layout::add_tables(text, index, path, value))
        }
        Slot::Header(_) | Slot::Nowhere => {
            let table = Value::Object([((*key).to_owned(), value.clone())].into_iter().collect());
            Some(layout::add_tables(text, index, parent, &table))
        }
    }
}

/// The text with the value of the key at `path` replaced by its earlier TOML text.
pub(super) fn set_raw(text: &str, index: &Index, path: &[&str], raw: &str) -> Option<String> {
    find(index, path).map(|at| splice(text, at, raw))
}

/// The text without the key or table at `path`; `None` if it cannot be done in place.
pub(super) fn remove(text: &str, index: &Index, path: &[&str]) -> Option<String> {
    if let Slot::Value(Leaf { within: Some(_), .. }) | Slot::InlineTable(..) = index.slot(path) {
        return remove_inline(text, index, path);
    }
    let blocks = index.blocks_below(path).map(|b| b.lines(text));
    let lines = |l: &Leaf| line_start(text, l.start)..line_end(text, l.value.end);
    let leaves = index.leaves_below(path).map(lines);
    Some(ended_as(text, without(text, blocks.chain(leaves).collect())))
}

/// Whether the table at `path` has a header of its own.
pub(super) fn has_header(index: &Index, path: &[&str]) -> bool {
    index.block(path).is_some()
}

/// The text without the header of the table at `path`; `None` if the header has keys.
pub(super) fn remove_header(text: &str, index: &Index, path: &[&str]) -> Option<String> {
    let block = index.block(path).filter(|b| b.first_key.is_none())?;
    Some(ended_as(text, splice(text, block.lines(text), "")))
}

/// Adds a key to a header's table, or at the top of the file.
fn add_key(text: &str, index: &Index, block: &Block, key: &str, value: &Value) -> String {
    let indent = match block.first_key {
        Some(first) => line_indent(text, first).to_owned(),
        None => line_indent(text, block.header.start).to_owned() + index.unit(text, block),
    };
    let line = format!("{indent}{} = {}", quote(text, key), inline(value));
    if block.is_root() && block.first_key.is_none() {
        return splice(text, 0..0, &(line + newline(text)));
    }
    layout::add_lines(text, block.end, &[line])
}

/// Adds `item` after the last one of the inline table at `table`, with its spacing.
fn add_inline(text: &str, table: &Range<usize>, item: &str) -> Option<String> {
    let inner = text.get(table.start + 1..table.end - 1)?;
    if inner.trim().is_empty() {
        return Some(splice(text, table.clone(), &format!("{{ {item} }}")));
    }
    let used = table.start + 1 + inner.trim_end().trim_end_matches(',').trim_end().len();
    let space = if is_tight(inner) && used == table.end - 1 {
        " "
    } else {
        ""
    };
    Some(splice(text, used..used, &format!(", {item}{space}")))
}

/// Whether there is no space after the brace: `{a=1}`, which becomes `{a=1, b = 2 }`.
fn is_tight(inner: &str) -> bool {
    !inner.starts_with(char::is_whitespace)
}

/// Removes one item of an inline table with its comma and spaces.
fn remove_inline(text: &str, index: &Index, path: &[&str]) -> Option<String> {
    let this = index.leaf(path)?;
    let table = index.within(this)?;
    let mut items: Vec<&Leaf> = index.leaves.iter().filter(|l| l.within == this.within).collect();
    items.sort_by_key(|l| l.start);
    let i = items.iter().position(|l| l.start == this.start)?;
    let previous = i.checked_sub(1).and_then(|p| items.get(p));
    // A dotted key starts before the leaf's position: after the comma.
    let behind = |end: usize| {
        let rest = text.get(end..).unwrap_or_default();
        end + rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n', ',']).len()
    };
    let cut = match (previous, i + 1 < items.len()) {
        (None, false) => table.start + 1..table.end - 1,
        (None, true) => behind(table.start + 1)..behind(this.value.end),
        (Some(previous), true) => behind(previous.value.end)..behind(this.value.end),
        (Some(previous), false) => {
            let tight = is_tight(text.get(table.start + 1..)?);
            let space = tight && text.get(this.value.end..table.end) == Some(" }");
            previous.value.end..this.value.end + usize::from(space)
        }
    };
    Some(splice(text, cut, ""))
}

/// `edited` without a line break at its end if `text` has none.
fn ended_as(text: &str, mut edited: String) -> String {
    if !text.ends_with('\n')
        && let Some(rest) = edited.strip_suffix('\n')
    {
        let rest = rest.strip_suffix('\r').unwrap_or(rest).len();
        edited.truncate(rest);
    }
    edited
}

fn table_value(table: &dyn TableLike) -> Value {
    let map: Map<String, Value> = table
        .iter()
        .map(|(k, item)| (k.to_owned(), item_value(item)))
        .collect();
    Value::Object(map)
}

fn item_value(item: &Item) -> Value {
    match item {
        Item::None => Value::Null,
        Item::Value(v) => value_value(v),
        Item::Table(t) => table_value(t),
        Item::ArrayOfTables(all) => Value::Array(all.iter().map(|t| table_value(t)).collect()),
    }
}

fn value_value(value: &toml_edit::Value) -> Value {
    use toml_edit::Value as T;
    match value {
        T::String(s) => Value::from(s.value().as_str()),
        T::Integer(n) => Value::from(*n.value()),
        // A float without a form in JSON (inf, nan) and a date are only compared and never written.
        T::Float(f) => serde_json::Number::from_f64(*f.value())
            .map_or_else(|| Value::from(f.value().to_string()), Value::Number),
        T::Boolean(b) => Value::from(*b.value()),
        T::Datetime(d) => Value::from(d.value().to_string()),
        T::Array(all) => Value::Array(all.iter().map(value_value).collect()),
        T::InlineTable(t) => table_value(t),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::cpu_seconds;
    use super::*;

    fn set(text: &str, path: &[&str], value: &Value) -> Option<String> {
        super::set(text, &Index::new(text)?, path, value)
    }

    fn remove(text: &str, path: &[&str]) -> Option<String> {
        super::remove(text, &Index::new(text)?, path)
    }
    use serde_json::json;

    const NESTED: &str = "version = 2 # v\n\n[plugins]\n  [plugins.\"a.b\"] # cri\n    [plugins.\"a.b\".rts.runc]\n      type = \"x\" # t\n    # end\n  [plugins.\"z\"]\n    path = '/p'\n";

    #[test]
    fn a_table_goes_below_its_siblings_in_their_layout() {
        let v = json!({"type": "y", "options": {"Bin": "/b"}});
        let with = set(NESTED, &["plugins", "a.b", "rts", "nv"], &v).unwrap();
        let block = "      type = \"x\" # t\n    [plugins.\"a.b\".rts.nv]\n      type = \"y\"\n      [plugins.\"a.b\".rts.nv.options]\n        Bin = \"/b\"\n    # end\n";
        assert!(with.contains(block), "{with}");
        assert_eq!(remove(&with, &["plugins", "a.b", "rts", "nv"]).unwrap(), NESTED);
    }

    #[test]
    fn keys_go_into_their_table() {
        let with = set(NESTED, &["plugins", "a.b", "cdi"], &json!(true)).unwrap();
        assert!(
            with.contains("[plugins.\"a.b\"] # cri\n    cdi = true\n"),
            "{with}"
        );
        let with = set(NESTED, &["plugins", "z", "n"], &json!([1, "a"])).unwrap();
        assert!(with.ends_with("    path = '/p'\n    n = [1, \"a\"]\n"), "{with}");
        let with = set(NESTED, &["version"], &json!(3)).unwrap();
        assert!(with.starts_with("version = 3 # v\n"));
        let with = set("# c\n[t]\n", &["version"], &json!(3)).unwrap();
        assert_eq!(with, "version = 3\n# c\n[t]\n");
    }

    #[test]
    fn line_endings_and_a_missing_last_one_stay() {
        let text = "[a]\r\nx = 1\r\n[a.b]\r\ny = 1";
        let with = set(text, &["a", "c"], &json!({"z": 1})).unwrap();
        assert_eq!(with, "[a]\r\nx = 1\r\n[a.b]\r\ny = 1\r\n[a.c]\r\nz = 1");
        let with = set(text, &["n", "c"], &json!({"z": 1})).unwrap();
        assert_eq!(with, "[a]\r\nx = 1\r\n[a.b]\r\ny = 1\r\n\r\n[n.c]\r\nz = 1");
    }

    #[test]
    fn inline_tables_are_extended_inline() {
        for (before, after) in [
            (
                "r = { runc = { t = 1 } }\n",
                "r = { runc = { t = 1 }, nv = { o = { b = 2 } } }\n",
            ),
            ("r = {}\n", "r = { nv = { o = { b = 2 } } }\n"),
            ("r = {a=1}\n", "r = {a=1, nv = { o = { b = 2 } } }\n"),
        ] {
            let with = set(before, &["r", "nv"], &json!({"o": {"b": 2}})).unwrap();
            assert_eq!(with, after);
            assert!(parse(&with).is_ok());
            let without = remove(&with, &["r", "nv"]).unwrap();
            assert_eq!(parse(&without).unwrap(), parse(before).unwrap());
        }
    }

    #[test]
    fn a_dotted_key_in_an_inline_table_goes_alone() {
        for text in [
            "a = { d = 0 }\n",
            "a = {d = {}, e.f = 1}\n",
            "a = { x.y = { z = 1 }, w = 2 }\n",
        ] {
            let path = ["a", "b", "c"];
            let with = set(text, &path, &json!({"path": "/bin/x"})).unwrap();
            assert_ne!(with, text);
            let without = remove(&with, &path).unwrap();
            assert_eq!(parse(&without).unwrap(), parse(text).unwrap(), "{with}");
        }
        assert_eq!(
            remove("a = { b.c = 1, d = 2 }\n", &["a", "b", "c"]).unwrap(),
            "a = { d = 2 }\n"
        );
        let apart = "a = { b.c = 1, d = 2, b.e = 3, f = 4 }\n";
        assert_eq!(
            remove(apart, &["a", "b", "e"]).unwrap(),
            "a = { b.c = 1, d = 2, f = 4 }\n"
        );
        assert_eq!(
            remove("b.c = 1\nd = 2\nb.e = 3\n", &["b", "e"]).unwrap(),
            "b.c = 1\nd = 2\n"
        );
    }

    #[test]
    fn dotted_tables_and_arrays_of_tables_are_not_edited() {
        for text in ["[p]\nr.runc.t = 1\n", "[[p]]\nx = 1\n"] {
            assert!(set(text, &["p", "r", "nv"], &json!({"t": 1})).is_none(), "{text}");
        }
        assert_eq!(
            set("[p]\nr.runc.t = 1\n", &["p", "r", "runc", "t"], &json!(2)).unwrap(),
            "[p]\nr.runc.t = 2\n"
        );
    }

    #[test]
    fn the_files_own_quotes_are_used() {
        let text = "[plugins.'a.b'.x]\nk = 1\n";
        let with = set(text, &["plugins", "a.b", "y"], &json!({"k": 2})).unwrap();
        assert!(with.contains("[plugins.'a.b'.y]"), "{with}");
    }

    /// The reason for editing text: `DocumentMut` may be used once all of these are equal.
    #[test]
    fn a_document_written_back_changes_other_text() {
        for (text, written) in [
            // The order of dotted keys, in tables and in inline tables.
            ("a.x = 1\nb = 2\na.y = 3\n", "a.x = 1\na.y = 3\nb = 2\n"),
            (
                "a = { x.p = 1, y = 2, x.q = 3 }\n",
                "a = { x.p = 1, x.q = 3 , y = 2}\n",
            ),
            // The quotes and spaces of a key that other headers write differently: containerd's own
            // file has single quotes, its documentation double ones.
            ("[p.'x'.a]\n[p.\"x\".b]\n", "[p.'x'.a]\n[p.'x'.b]\n"),
            ("[ p . x ]\n[p.x.b]\n", "[ p . x ]\n[p . x.b]\n"),
            // Line ends, and a missing one at the end.
            ("x = 1\r\n[t]\r\n", "x = 1\n[t]\n"),
            ("x = 1", "x = 1\n"),
        ] {
            let document: toml_edit::DocumentMut = text.parse().unwrap();
            assert_eq!(document.to_string(), written, "{text}");
            let with = set(text, &["new", "table"], &json!({"k": 1})).unwrap();
            assert!(with.starts_with(text), "{with}");
            assert_eq!(remove(&with, &["new"]).unwrap(), text);
        }
    }

    /// Each step was once quadratic in the number of tables or items: seconds even in a release
    /// build.
    #[test]
    fn a_file_of_thousands_of_tables_is_edited_in_one_pass() {
        let tables: String = (0..9000)
            .map(|i| format!("[plugins.p.t{i}]\nk = {i}\n"))
            .collect();
        let items: Vec<String> = (0..20_000).map(|i| format!("k{i} = 1")).collect();
        let text = format!("{tables}[other]\ninline = {{ {} }}\n", items.join(", "));
        assert!(text.len() > 256 << 10);
        let index = Index::new(&text).unwrap();
        let started = cpu_seconds();
        let table = super::set(&text, &index, &["plugins", "p", "new"], &json!({"k": 1})).unwrap();
        let key = super::set(&text, &index, &["plugins", "p", "t7", "new"], &json!(1)).unwrap();
        let item = super::remove(&text, &index, &["other", "inline", "k19999"]).unwrap();
        let without = super::remove(&text, &index, &["plugins"]).unwrap();
        // 0.1 s in a debug build; 7 s if each is compared with each.
        assert!(cpu_seconds() - started < 4);
        assert!(table.contains("[plugins.p.t8999]\nk = 8999\n[plugins.p.new]\nk = 1\n"));
        assert_eq!(key, text.replacen("k = 7\n", "k = 7\nnew = 1\n", 1));
        assert_eq!(item, text.replace(", k19999 = 1", ""));
        assert!(without.starts_with("[other]\n"));
    }
}
