//! An edit of one configuration file as data: the new values, the old ones, and the steps to revert
//! it.
//!
//! An edit replaces or adds only the bytes that change, such as `"nvidia": {...}` in `runtimes`. So
//! comments, order, indentation, line endings and unknown keys stay. Every edit is checked by
//! parsing the result, which must hold the new values and otherwise exactly the old ones.

use core::cell::OnceCell;

use serde_json::{Map, Value};

use crate::error::{Code, Error, Result};
use crate::oci::bundle::memory_of;

use super::text::Syntax;
use super::{json, toml};

/// The syntax of a configuration file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// dockerd's daemon.json.
    Json,
    /// containerd, CRI-O, containers.conf.
    Toml,
}

/// One new value, with the data to revert it.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The keys that lead to the value.
    pub path: Vec<String>,
    /// The text of the replaced value; `None` if there was none.
    pub before: Option<String>,
    /// The new value.
    pub after: Value,
    /// The number of the path's keys that existed before; reverting removes later ones if they are
    /// empty.
    pub existed: usize,
    /// Whether the edit wrote a header for a TOML table that existed only through its inner tables.
    pub header: bool,
}

impl Change {
    /// The change as one line: `runtimes.nvidia = {...}`.
    pub fn describe(&self) -> String {
        let was = self.before.as_deref().map(|b| format!(" (was {b})"));
        format!(
            "{} = {}{}",
            self.path.join("."),
            self.after,
            was.unwrap_or_default()
        )
    }
}

/// The outcome of planning an edit.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    /// The whole new text of the file.
    pub text: String,
    /// The changes in order; empty if the file needs none.
    pub changes: Vec<Change>,
    /// Warnings for the user, which do not stop the edit.
    pub warnings: Vec<String>,
}

/// The result of reverting one [`Change`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Undone {
    /// The value is the old one again.
    Reverted,
    /// The value was changed later and stays.
    Kept,
    /// The value was gone already.
    Gone,
}

/// A file's text with the changes so far.
#[derive(Clone, Debug)]
pub struct Editor {
    file: String,
    format: Format,
    bom: &'static str,
    text: String,
    value: Value,
    /// The positions in a TOML text: finding them takes as long as parsing.
    index: OnceCell<Option<toml::Index>>,
    changes: Vec<Change>,
}

/// The largest file that is edited, in bytes; real ones have some KiB.
const MAX_TEXT: usize = 1 << 20;
/// An estimated limit, in bytes, on the memory of a file's values, of which there are several
/// copies.
const MAX_VALUES: usize = 32 << 20;

impl Editor {
    /// Parses `text`; `file` is its name for errors.
    ///
    /// # Errors
    /// [`Code::Engine`] with line and column if the text is not valid, [`Code::TooLarge`] if it is
    /// too large.
    pub fn open(file: &str, format: Format, text: &str) -> Result<Self> {
        let (bom, text) = match text.strip_prefix('\u{feff}') {
            Some(rest) => ("\u{feff}", rest),
            None => ("", text),
        };
        let too_many = match format {
            Format::Json => memory_of(text.as_bytes()) > MAX_VALUES,
            Format::Toml => toml::memory_of(text) > toml::MAX_MEMORY,
        };
        if text.len() > MAX_TEXT || too_many {
            let why = "it is larger than 1 MiB, or has too many values";
            return Err(Error::new(Code::TooLarge, file, why));
        }
        let value = parse(format, text).map_err(|e| {
            Error::new(
                Code::Engine,
                file,
                format!("line {}, column {}: {}", e.line, e.column, e.message),
            )
            .fix("correct the file, which was left as it is, and try again")
        })?;
        Ok(Self {
            file: file.to_owned(),
            format,
            bom,
            text: text.to_owned(),
            value,
            index: OnceCell::new(),
            changes: Vec::new(),
        })
    }

    /// The whole file as a value.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The value at `path`.
    pub fn get(&self, path: &[&str]) -> Option<&Value> {
        lookup(&self.value, path)
    }

    /// Sets the value at `path`, unless it has that value already.
    ///
    /// # Errors
    /// [`Code::Engine`] if the edit would rewrite other text of the user's.
    pub fn set(&mut self, path: &[&str], value: &Value) -> Result<()> {
        if self.get(path) == Some(value) {
            return Ok(());
        }
        let existed = (1..=path.len())
            .take_while(|n| path.get(..*n).is_some_and(|p| self.get(p).is_some()))
            .count();
        let before = self
            .find(path)
            .and_then(|at| self.text.get(at))
            .map(str::to_owned);
        let text = match self.format {
            Format::Json => json::set(&self.text, path, value),
            Format::Toml => self.index().and_then(|i| toml::set(&self.text, i, path, value)),
        };
        let mut expected = self.value.clone();
        place(&mut expected, path, Some(value.clone()));
        let parent = path.split_last().map_or(path, |(_, parent)| parent);
        let bare = self.get(parent).is_some() && !self.has_header(parent);
        self.accept(text, &expected, path)?;
        self.changes.push(Change {
            path: path.iter().map(|k| (*k).to_owned()).collect(),
            before,
            after: value.clone(),
            existed,
            header: bare && self.has_header(parent),
        });
        Ok(())
    }

    /// Removes the value at `path`, then its parents beyond the first `keep` that are empty.
    ///
    /// # Errors
    /// [`Code::Engine`] if the edit would rewrite other text of the user's.
    pub fn remove(&mut self, path: &[&str], keep: usize) -> Result<()> {
        for n in (keep.max(1)..=path.len()).rev() {
            let Some(here) = path.get(..n) else { continue };
            let last = n == path.len();
            let empty = self
                .get(here)
                .is_some_and(|v| v.as_object().is_some_and(Map::is_empty));
            if last || empty {
                let text = match self.format {
                    Format::Json => json::remove(&self.text, here),
                    Format::Toml => self.index().and_then(|i| toml::remove(&self.text, i, here)),
                };
                let mut expected = self.value.clone();
                place(&mut expected, here, None);
                self.accept(text, &expected, here)?;
            }
        }
        Ok(())
    }

    /// Reverts one recorded change.
    ///
    /// A table that the change added is removed with all later additions. A single value that was
    /// changed later stays.
    ///
    /// # Errors
    /// As for [`Editor::set`].
    pub fn undo(&mut self, change: &Change) -> Result<Undone> {
        let path: Vec<&str> = change.path.iter().map(String::as_str).collect();
        let Some(now) = self.get(&path) else {
            return Ok(Undone::Gone);
        };
        let ours = *now == change.after || (change.after.is_object() && now.is_object());
        if !ours {
            return Ok(Undone::Kept);
        }
        let Some(raw) = &change.before else {
            self.remove(&path, change.existed + 1)?;
            if let (true, Some((_, parent))) = (change.header, path.split_last())
                && let Some(text) = self
                    .index()
                    .and_then(|i| toml::remove_header(&self.text, i, parent))
            {
                let expected = self.value.clone();
                self.accept(Some(text), &expected, parent)?;
            }
            return Ok(Undone::Reverted);
        };
        let text = match self.format {
            Format::Json => json::set_raw(&self.text, &path, raw),
            Format::Toml => self
                .index()
                .and_then(|i| toml::set_raw(&self.text, i, &path, raw)),
        };
        let value = text.as_deref().and_then(|t| parse(self.format, t).ok());
        let mut expected = self.value.clone();
        place(
            &mut expected,
            &path,
            value.and_then(|v| lookup(&v, &path).cloned()),
        );
        self.accept(text, &expected, &path)?;
        Ok(Undone::Reverted)
    }

    /// The text with the changes so far.
    pub fn text(&self) -> String {
        format!("{}{}", self.bom, self.text)
    }

    /// Ends the edit.
    pub fn finish(self, warnings: Vec<String>) -> Edit {
        Edit {
            text: self.text(),
            changes: self.changes,
            warnings,
        }
    }

    fn index(&self) -> Option<&toml::Index> {
        let index = || (self.format == Format::Toml).then(|| toml::Index::new(&self.text))?;
        self.index.get_or_init(index).as_ref()
    }

    fn has_header(&self, path: &[&str]) -> bool {
        self.index().is_some_and(|i| toml::has_header(i, path))
    }

    fn find(&self, path: &[&str]) -> Option<std::ops::Range<usize>> {
        match self.format {
            Format::Json => json::find(&self.text, path),
            Format::Toml => toml::find(self.index()?, path),
        }
    }

    /// Accepts the new text if it parses to exactly the expected value.
    fn accept(&mut self, text: Option<String>, expected: &Value, path: &[&str]) -> Result<()> {
        let parsed = text.and_then(|t| parse(self.format, &t).ok().map(|v| (t, v)));
        match parsed {
            Some((text, value)) if same(&value, expected) => {
                self.text = text;
                self.value = value;
                self.index = OnceCell::new();
                Ok(())
            }
            _ => Err(Error::new(
                Code::Engine,
                &self.file,
                format!("{} has a form that cannot be edited in place", path.join(".")),
            )
            .fix("write it as a table of its own, one key per line, and try again")),
        }
    }
}

/// The value at `path` below `value`.
pub(super) fn lookup<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |v, key| v.get(key))
}

fn parse(format: Format, text: &str) -> Result<Value, Syntax> {
    match format {
        Format::Json => json::parse(text),
        Format::Toml => toml::parse(text),
    }
}

/// Sets or removes the value at `path`; missing objects on the way are made.
fn place(value: &mut Value, path: &[&str], new: Option<Value>) {
    let Some((key, rest)) = path.split_first() else {
        if let Some(new) = new {
            *value = new;
        }
        return;
    };
    let Some(map) = value.as_object_mut() else {
        return;
    };
    match (rest.is_empty(), new) {
        (true, None) => {
            map.shift_remove(*key);
        }
        (true, Some(new)) => {
            map.insert((*key).to_owned(), new);
        }
        (false, new) => {
            if new.is_some() || map.contains_key(*key) {
                let inner = map
                    .entry((*key).to_owned())
                    .or_insert_with(|| Value::Object(Map::new()));
                place(inner, rest, new);
            }
        }
    }
}

/// Equality without empty tables: in TOML a table vanishes with its last key.
fn same(one: &Value, two: &Value) -> bool {
    match (one, two) {
        (Value::Object(x), Value::Object(y)) => {
            let in_both = x.iter().all(|(key, value)| match y.get(key) {
                Some(found) => same(value, found),
                None => empty(value),
            });
            // Common keys were compared above: a second comparison at each level would double the
            // work of all levels below.
            in_both && y.iter().all(|(key, value)| x.contains_key(key) || empty(value))
        }
        _ => one == two,
    }
}

fn empty(value: &Value) -> bool {
    value.as_object().is_some_and(|m| m.values().all(empty))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_broken_file_is_named_with_line_and_column() {
        for (format, text) in [
            (Format::Json, "{\n  \"a\": ,\n}"),
            (Format::Toml, "x = 1\ny = [\n"),
        ] {
            let e = Editor::open("/etc/f", format, text).unwrap_err();
            assert_eq!(e.code(), Code::Engine);
            assert!(e.why().starts_with("line 2, column "), "{e}");
        }
    }

    #[test]
    fn a_value_changed_by_the_user_stays() {
        let mut e = Editor::open("f", Format::Json, "{\"default-runtime\": \"kata\"}").unwrap();
        let change = Change {
            path: vec!["default-runtime".into()],
            before: Some("\"runc\"".into()),
            after: json!("nvidia"),
            existed: 1,
            header: false,
        };
        assert_eq!(e.undo(&change).unwrap(), Undone::Kept);
        assert_eq!(e.text(), "{\"default-runtime\": \"kata\"}");
    }

    #[test]
    fn toml_is_weighed_before_it_is_parsed() {
        let mib = |item: &str| format!("a=[{}]", item.repeat((MAX_TEXT - 10) / item.len()));
        let keys: String = (0..90_000).map(|i| format!("a{i}=1\n")).collect();
        for text in [
            mib("{b=1},"),
            mib("[],"),
            mib("1,"),
            "[[a]]\n".repeat(170_000),
            keys,
        ] {
            let e = Editor::open("/etc/f", Format::Toml, &text).unwrap_err();
            assert_eq!(e.code(), Code::TooLarge);
        }
        // Keys share a long header, and every line of a text is searched below it.
        let name = "k".repeat(20_000);
        let keys: String = (0..2000).map(|i| format!("a{i}=1\n")).collect();
        let mut e = Editor::open("/etc/f", Format::Toml, &format!("[x.{name}]\n{keys}")).unwrap();
        e.set(&["x", &name, "a7"], &json!(8)).unwrap();
        e.set(&["x", "a7"], &json!(9)).unwrap();
        e.remove(&["x", &name], 1).unwrap();
        assert_eq!(e.value(), &json!({"x": {"a7": 9}}));
    }

    #[test]
    fn tables_within_tables_are_compared_once() {
        let path: Vec<String> = (0..60).map(|i| format!("t{i}")).collect();
        let text = format!("[{}]\nx = 1\n", path.join("."));
        let mut e = Editor::open("f", Format::Toml, &text).unwrap();
        let before = e.value().clone();
        e.set(&["b"], &json!(2)).unwrap();
        assert!(!same(e.value(), &before) && same(&before, &before));
        assert!(same(&json!({"a": {"b": {}}}), &json!({})) && same(&json!({}), &json!({"a": {}})));
        assert!(!same(&json!({}), &json!({"a": {"b": 1}})));
    }

    #[test]
    fn a_byte_order_mark_stays() {
        let mut e = Editor::open("f", Format::Toml, "\u{feff}a = 1\n").unwrap();
        e.set(&["b"], &json!(2)).unwrap();
        assert_eq!(e.text(), "\u{feff}a = 1\nb = 2\n");
    }
}
