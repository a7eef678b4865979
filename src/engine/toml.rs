//! Edits in TOML text: a key or a table is set or removed, every other byte stays.
//!
//! toml_edit parses and says where things are; the text itself is edited here, since writing a
//! document back through it changes line endings and the end of the file. A place that is written
//! with dotted keys or inside an array of tables is not edited.

use std::ops::Range;
use std::rc::Rc;

use serde_json::{Map, Value};
use toml_edit::{Document, Item, TableLike};

use super::text::{Syntax, line_indent, line_start, newline};

/// What a byte that may make a table takes in memory, at most about.
const TABLE: usize = 1600;
/// What one that may make a key or a value takes.
const VALUE: usize = 600;

/// Memory that parsing `text` takes, in bytes, at most about.
pub(crate) fn memory_of(text: &str) -> usize {
    let weights = text.bytes().map(|byte| match byte {
        b'{' | b'[' | b'.' => TABLE,
        b'=' | b',' | b'\n' => VALUE,
        _ => 16,
    });
    weights.sum()
}

/// Memory that the text of one command may take, in bytes; an ordinary file of 100 kB takes a tenth of it.
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

/// Where the value of the key at `path` is; `None` for tables that have a header.
pub(super) fn find(index: &Index, path: &[&str]) -> Option<Range<usize>> {
    index.leaf(path).map(|l| l.value.clone())
}

/// The text with the value at `path` replaced or added; `None` when it cannot be done in place.
pub(super) fn set(text: &str, index: &Index, path: &[&str], value: &Value) -> Option<String> {
    if let Some(leaf) = index.leaf(path) {
        return Some(splice(text, leaf.value.clone(), &inline(value)));
    }
    let (key, parent) = path.split_last()?;
    if let Some((depth, table)) = index.inline_parent(path) {
        let rest = path.get(depth..)?;
        let item = format!("{} = {}", dotted(text, rest), inline(value));
        let inner = text.get(table.start + 1..table.end - 1)?;
        let used = table.start + 1 + inner.trim_end().trim_end_matches(',').trim_end().len();
        let separator = if inner.trim().is_empty() { " " } else { ", " };
        let tail = if inner.ends_with(char::is_whitespace) || inner.is_empty() {
            ""
        } else {
            " "
        };
        let tail = if inner.trim().is_empty() { " " } else { tail };
        let close = table.end - 1;
        let gap = text
            .get(used..close)
            .filter(|g| !g.contains(',') && !g.is_empty());
        return Some(splice(
            text,
            used..close,
            &format!("{separator}{item}{}", gap.unwrap_or(tail)),
        ));
    }
    if index.is_closed(path) {
        return None;
    }
    if value.is_object() {
        return Some(add_tables(text, index, path, value));
    }
    if let Some(block) = index.block(parent) {
        let indent = match block.first_key {
            Some(first) => line_indent(text, first).to_owned(),
            None => line_indent(text, block.header.start).to_owned() + index.unit(text, block),
        };
        let line = format!("{indent}{} = {}", quote(text, key), inline(value));
        return Some(if parent.is_empty() && block.first_key.is_none() {
            splice(text, 0..0, &(line + newline(text)))
        } else {
            add_lines(text, block.end, &[line])
        });
    }
    let table = Value::Object([((*key).to_owned(), value.clone())].into_iter().collect());
    Some(add_tables(text, index, parent, &table))
}

/// The text with the value of the key at `path` replaced by TOML text that stood there before.
pub(super) fn set_raw(text: &str, index: &Index, path: &[&str], raw: &str) -> Option<String> {
    find(index, path).map(|at| splice(text, at, raw))
}

/// The text without the key or table at `path`; `None` when it cannot be done in place.
pub(super) fn remove(text: &str, index: &Index, path: &[&str]) -> Option<String> {
    if let Some((_, table)) = index.inline_parent(path) {
        return remove_inline(text, index, &table, path);
    }
    let mut cuts: Vec<Range<usize>> = Vec::new();
    for b in index.blocks.iter().filter(|b| b.path.starts_with(path)) {
        cuts.push(b.lines(text));
    }
    for l in index.leaves.iter().filter(|l| l.path.starts_with(path)) {
        let cut = line_start(text, l.start)..line_end(text, l.value.end);
        if !cuts.iter().any(|c| c.start <= cut.start && cut.end <= c.end) {
            cuts.push(cut);
        }
    }
    cuts.sort_by_key(|c| c.start);
    let mut out = text.to_owned();
    for cut in cuts.into_iter().rev() {
        out.replace_range(cut, "");
    }
    Some(out)
}

/// Whether the table at `path` has a header of its own.
pub(super) fn has_header(index: &Index, path: &[&str]) -> bool {
    index.block(path).is_some()
}

/// The text without the header of the table at `path`; `None` when the header has keys below it.
pub(super) fn remove_header(text: &str, index: &Index, path: &[&str]) -> Option<String> {
    let block = index.block(path).filter(|b| b.first_key.is_none())?;
    Some(splice(text, block.lines(text), ""))
}

/// The keys that lead to a place. Places share those above them: a long header is not copied for each key below it.
#[derive(Clone, Debug, Default)]
struct Keys {
    above: Option<Rc<Self>>,
    last: String,
    len: usize,
}

impl Keys {
    /// Whether they are those of `path`.
    fn are(&self, path: &[&str]) -> bool {
        self.len == path.len() && self.starts_with(path)
    }

    fn starts_with(&self, prefix: &[&str]) -> bool {
        let mut at = self;
        let mut rest = prefix;
        loop {
            if let Some((last, outer)) = rest.split_last().filter(|_| at.len == rest.len()) {
                if at.last != **last {
                    return false;
                }
                rest = outer;
            }
            match &at.above {
                Some(above) if !rest.is_empty() => at = above,
                _ => return rest.is_empty(),
            }
        }
    }
}

/// A table with a header, the document itself included.
#[derive(Clone, Debug)]
struct Block {
    path: Rc<Keys>,
    header: Range<usize>,
    first_key: Option<usize>,
    /// The end of the last value, or of the header.
    end: usize,
}

impl Block {
    /// Its lines, with the blank one above.
    fn lines(&self, text: &str) -> Range<usize> {
        let start = line_start(text, self.header.start);
        let above = text.get(..start).unwrap_or_default();
        let blank = above
            .strip_suffix('\n')
            .map(|a| a.strip_suffix('\r').unwrap_or(a))
            .filter(|a| a.is_empty() || a.ends_with('\n'));
        blank.map_or(start, str::len)..line_end(text, self.end)
    }
}

/// A key with a value that is written after an equals sign.
#[derive(Clone, Debug)]
struct Leaf {
    path: Rc<Keys>,
    /// Where the key (the first of a dotted key) starts.
    start: usize,
    value: Range<usize>,
    inline_table: bool,
}

/// Where in a text the tables and keys are.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    blocks: Vec<Block>,
    leaves: Vec<Leaf>,
    /// Tables that only dotted keys make, and arrays of tables: no header may add to them.
    closed: Vec<Rc<Keys>>,
}

impl Index {
    /// Finds them; `None` if the text is not valid.
    pub(super) fn new(text: &str) -> Option<Self> {
        let doc = Document::parse(text).ok()?;
        let mut index = Self::default();
        index.blocks.push(Block {
            path: Rc::default(),
            header: 0..0,
            first_key: None,
            end: 0,
        });
        index.walk(doc.as_table(), &Rc::default(), 0, None)?;
        Some(index)
    }

    fn walk(
        &mut self,
        table: &dyn TableLike,
        path: &Rc<Keys>,
        block: usize,
        dotted_from: Option<usize>,
    ) -> Option<()> {
        for (name, _) in table.iter() {
            let (key, item) = table.get_key_value(name)?;
            let here = Rc::new(Keys {
                above: Some(path.clone()),
                last: name.to_owned(),
                len: path.len + 1,
            });
            let start = dotted_from.or_else(|| key.span().map(|s| s.start));
            match item {
                Item::Value(value) => {
                    let (start, span) = (start?, value.span()?);
                    let owner = self.blocks.get_mut(block)?;
                    owner.end = owner.end.max(span.end);
                    owner.first_key = Some(owner.first_key.map_or(start, |f| f.min(start)));
                    if let Some(t) = value.as_inline_table().filter(|t| t.is_dotted()) {
                        self.closed.push(here.clone());
                        self.walk(t, &here, block, Some(start))?;
                        continue;
                    }
                    self.leaves.push(Leaf {
                        path: here.clone(),
                        start,
                        value: span,
                        inline_table: value.is_inline_table(),
                    });
                    if let Some(t) = value.as_inline_table() {
                        self.walk(t, &here, block, None)?;
                    }
                }
                Item::Table(t) if t.is_dotted() => {
                    self.closed.push(here.clone());
                    self.walk(t, &here, block, start)?;
                }
                Item::Table(t) => {
                    let mut owner = block;
                    if let Some(header) = t.span().filter(|_| !t.is_implicit()) {
                        owner = self.blocks.len();
                        self.blocks.push(Block {
                            path: here.clone(),
                            end: header.end,
                            header,
                            first_key: None,
                        });
                    }
                    self.walk(t, &here, owner, None)?;
                }
                Item::ArrayOfTables(_) => self.closed.push(here),
                Item::None => {}
            }
        }
        Some(())
    }

    fn leaf(&self, path: &[&str]) -> Option<&Leaf> {
        self.leaves.iter().find(|l| l.path.are(path))
    }

    fn block(&self, path: &[&str]) -> Option<&Block> {
        self.blocks.iter().find(|b| b.path.are(path))
    }

    /// How much deeper keys stand than the header of their table: in this one, else anywhere in the file.
    fn unit<'t>(&self, text: &'t str, block: &Block) -> &'t str {
        let own = |b: &Block| -> Option<&'t str> {
            let first = b.first_key.filter(|_| b.path.len > 0)?;
            line_indent(text, first).strip_prefix(line_indent(text, b.header.start))
        };
        own(block)
            .or_else(|| self.blocks.iter().filter_map(own).find(|u| !u.is_empty()))
            .unwrap_or_default()
    }

    /// The innermost inline table above `path`, and how many keys lead to it.
    fn inline_parent(&self, path: &[&str]) -> Option<(usize, Range<usize>)> {
        (1..path.len()).rev().find_map(|n| {
            self.leaf(path.get(..n)?)
                .filter(|l| l.inline_table)
                .map(|l| (n, l.value.clone()))
        })
    }

    fn is_closed(&self, path: &[&str]) -> bool {
        self.closed
            .iter()
            .any(|c| path.get(..c.len).is_some_and(|outer| c.are(outer)))
    }
}

/// Adds the table `value` at `path`, its inner tables after it, below the tables it belongs to.
fn add_tables(text: &str, index: &Index, path: &[&str], value: &Value) -> String {
    let family = (1..path.len()).rev().find_map(|n| {
        let parent = path.get(..n)?;
        let all: Vec<&Block> = index
            .blocks
            .iter()
            .filter(|b| b.path.starts_with(parent))
            .collect();
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
        .filter(|b| b.path.len < path.len() && path.get(..b.path.len).is_some_and(|outer| b.path.are(outer)))
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
    let layout = Layout { text, unit, blank };
    let mut lines = Vec::new();
    layout.render(path, value, &indent, &mut lines);
    if text.trim().is_empty() && lines.first().is_some_and(String::is_empty) {
        lines.remove(0);
    }
    add_lines(text, after.map_or(text.len(), |b| b.end), &lines)
}

/// How tables that are added look.
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
fn add_lines(text: &str, at: usize, lines: &[String]) -> String {
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

fn remove_inline(text: &str, index: &Index, table: &Range<usize>, path: &[&str]) -> Option<String> {
    let within = |outer: &Range<usize>, leaf: &Leaf| outer.start < leaf.start && leaf.value.end < outer.end;
    let inner: Vec<&Leaf> = index.leaves.iter().filter(|l| within(table, l)).collect();
    // Those of this table, plain or dotted, in the order in which they are written; not those of a table within it.
    let mut siblings: Vec<&Leaf> = inner
        .iter()
        .filter(|l| !inner.iter().any(|o| o.inline_table && within(&o.value, l)))
        .copied()
        .collect();
    siblings.sort_by_key(|l| l.start);
    let i = siblings.iter().position(|l| l.path.are(path))?;
    let this = siblings.get(i)?;
    let cut = match (
        i.checked_sub(1).and_then(|p| siblings.get(p)),
        siblings.get(i + 1),
    ) {
        (None, None) => table.start + 1..table.end - 1,
        (_, Some(next)) => this.start..next.start,
        (Some(previous), None) => previous.value.end..this.value.end,
    };
    Some(splice(text, cut, ""))
}

/// The byte after the line around byte `at`.
fn line_end(text: &str, at: usize) -> usize {
    text.get(at..)
        .and_then(|t| t.find('\n'))
        .map_or(text.len(), |i| at + i + 1)
}

fn dotted(text: &str, path: &[&str]) -> String {
    let keys: Vec<String> = path.iter().map(|k| quote(text, k)).collect();
    keys.join(".")
}

/// A key as the file writes it: bare where that is possible, else in the file's own kind of quotes.
fn quote(text: &str, key: &str) -> String {
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
fn inline(value: &Value) -> String {
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
        // A float JSON has no form for (inf, nan) and a date are only ever compared, never written.
        T::Float(f) => serde_json::Number::from_f64(*f.value())
            .map_or_else(|| Value::from(f.value().to_string()), Value::Number),
        T::Boolean(b) => Value::from(*b.value()),
        T::Datetime(d) => Value::from(d.value().to_string()),
        T::Array(all) => Value::Array(all.iter().map(value_value).collect()),
        T::InlineTable(t) => table_value(t),
    }
}

fn splice(text: &str, at: Range<usize>, with: &str) -> String {
    let mut out = text.to_owned();
    out.replace_range(at, with);
    out
}

#[cfg(test)]
mod tests {
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
}
