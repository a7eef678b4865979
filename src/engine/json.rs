//! Edits JSON text: sets or removes one member and keeps every other byte.
//!
//! serde_json parses, and its [`RawValue`] is the slice of the text that holds a key or a value, so
//! each edit is a splice. The last one of repeated members counts, as in dockerd. jsonc-parser's
//! syntax tree is not used: it breaks an object on one line into several when it appends, and
//! removing the member does not restore it.

use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::text::{Syntax, line_indent, newline, splice};

/// Parses the whole text; blank text is an empty object, as for dockerd.
pub(super) fn parse(text: &str) -> Result<Value, Syntax> {
    if text.trim().is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    let value: Value = serde_json::from_str(text).map_err(|e| Syntax {
        line: e.line(),
        column: e.column(),
        message: message_only(&e.to_string()),
    })?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(Syntax {
            line: 1,
            column: 1,
            message: "the file must hold an object".to_owned(),
        })
    }
}

/// The position of the value at `path`.
pub(super) fn find(text: &str, path: &[&str]) -> Option<Range<usize>> {
    let mut at = root(text)?;
    for key in path {
        at = members(text, &at)?.into_iter().rfind(|m| m.key == *key)?.value;
    }
    Some(at)
}

/// The text with the value at `path` replaced or added; `None` if an ancestor is not an object.
pub(super) fn set(text: &str, path: &[&str], value: &Value) -> Option<String> {
    let unit = unit(text);
    if root(text).is_none() {
        let nl = newline(text);
        return Some(
            render(
                &nest(path, value),
                Some(&Layout {
                    indent: "",
                    unit: &unit,
                    nl,
                }),
            ) + nl,
        );
    }
    let mut at = root(text)?;
    for (depth, key) in path.iter().enumerate() {
        let found = members(text, &at)?;
        match found.iter().rfind(|m| m.key == *key) {
            Some(m) => at = m.value.clone(),
            None => {
                return Some(insert(
                    text,
                    &at,
                    &found,
                    key,
                    &nest(path.get(depth + 1..)?, value),
                    &unit,
                ));
            }
        }
    }
    let indent = line_indent(text, at.start);
    let nl = newline(text);
    let multi = text.trim().contains('\n');
    let layout = Layout {
        indent,
        unit: &unit,
        nl,
    };
    Some(splice(text, at, &render(value, multi.then_some(&layout))))
}

/// The text with the value at `path` replaced by its earlier JSON text.
pub(super) fn set_raw(text: &str, path: &[&str], raw: &str) -> Option<String> {
    find(text, path).map(|at| splice(text, at, raw))
}

/// The text without the member at `path`; `None` if there is none.
pub(super) fn remove(text: &str, path: &[&str]) -> Option<String> {
    let (key, parents) = path.split_last()?;
    let object = find(text, parents)?;
    let all = members(text, &object)?;
    let i = all.iter().rposition(|m| m.key == *key)?;
    let this = all.get(i)?;
    let cut = match (i.checked_sub(1).and_then(|p| all.get(p)), all.get(i + 1)) {
        (None, None) => object.start + 1..object.end - 1,
        (_, Some(next)) => this.start..next.start,
        (Some(previous), None) => previous.value.end..this.value.end,
    };
    Some(splice(text, cut, ""))
}

struct Member {
    key: String,
    start: usize,
    key_end: usize,
    value: Range<usize>,
}

struct Layout<'a> {
    indent: &'a str,
    unit: &'a str,
    nl: &'a str,
}

fn insert(
    text: &str,
    object: &Range<usize>,
    found: &[Member],
    key: &str,
    value: &Value,
    unit: &str,
) -> String {
    let nl = newline(text);
    let quoted = Value::from(key).to_string();
    let Some(last) = found.last() else {
        let indent = line_indent(text, object.start);
        let inner = format!("{indent}{unit}");
        let layout = Layout {
            indent: &inner,
            unit,
            nl,
        };
        let body = render(value, Some(&layout));
        return splice(
            text,
            object.clone(),
            &format!("{{{nl}{inner}{quoted}: {body}{nl}{indent}}}"),
        );
    };
    let before = found
        .len()
        .checked_sub(2)
        .and_then(|i| found.get(i))
        .map_or(object.start + 1, |p| p.value.end);
    let gap = text.get(before..last.start).unwrap_or_default();
    let gap = gap.split_once(',').map_or(gap, |(_, after)| after);
    let colon = text.get(last.key_end..last.value.start).unwrap_or(": ");
    let gap = if gap.is_empty() && colon.ends_with(' ') {
        " "
    } else {
        gap
    };
    let indent = gap.rsplit_once('\n').map(|(_, indent)| indent);
    let layout = indent.map(|indent| Layout { indent, unit, nl });
    let body = render(value, layout.as_ref());
    let at = last.value.end;
    splice(text, at..at, &format!(",{gap}{quoted}{colon}{body}"))
}

/// The value as JSON: indented with a layout, on one line without.
fn render(value: &Value, layout: Option<&Layout<'_>>) -> String {
    let (Some(l), Some(map)) = (layout, value.as_object().filter(|m| !m.is_empty())) else {
        return compact(value);
    };
    let inner = format!("{}{}", l.indent, l.unit);
    let deeper = Layout {
        indent: &inner,
        unit: l.unit,
        nl: l.nl,
    };
    let lines: Vec<String> = map
        .iter()
        .map(|(k, v)| format!("{inner}{}: {}", Value::from(k.as_str()), render(v, Some(&deeper))))
        .collect();
    format!(
        "{{{nl}{}{nl}{}}}",
        lines.join(&format!(",{}", l.nl)),
        l.indent,
        nl = l.nl
    )
}

fn compact(value: &Value) -> String {
    match value.as_object() {
        Some(map) => {
            let all: Vec<String> = map
                .iter()
                .map(|(k, v)| format!("{}: {}", Value::from(k.as_str()), compact(v)))
                .collect();
            format!("{{{}}}", all.join(", "))
        }
        None => value.to_string(),
    }
}

fn nest(path: &[&str], value: &Value) -> Value {
    path.iter().rev().fold(value.clone(), |inner, key| {
        Value::Object([((*key).to_owned(), inner)].into_iter().collect())
    })
}

/// One level of the file's own indentation; two spaces if it has none.
fn unit(text: &str) -> String {
    root(text)
        .and_then(|at| members(text, &at)?.into_iter().next())
        .map(|m| line_indent(text, m.start).to_owned())
        .filter(|i| !i.is_empty())
        .unwrap_or_else(|| "  ".to_owned())
}

/// The position of the whole value; `None` for blank text.
fn root(text: &str) -> Option<Range<usize>> {
    position(text, serde_json::from_str(text).ok()?)
}

/// The members of the object at `at`; `None` if it is not an object.
fn members(text: &str, at: &Range<usize>) -> Option<Vec<Member>> {
    let Members(raw) = serde_json::from_str(text.get(at.clone())?).ok()?;
    let member = |(key, value): (&RawValue, &RawValue)| {
        let written = position(text, key)?;
        Some(Member {
            key: serde_json::from_str(key.get()).ok()?,
            start: written.start,
            key_end: written.end,
            value: position(text, value)?,
        })
    };
    raw.into_iter().map(member).collect()
}

/// The position of a part of `text`.
fn position(text: &str, part: &RawValue) -> Option<Range<usize>> {
    let part = part.get();
    let start = part.as_ptr().addr().checked_sub(text.as_ptr().addr())?;
    Some(start..start + part.len())
}

/// The members of one object in their order, with repeated ones.
struct Members<'t>(Vec<(&'t RawValue, &'t RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self(Vec::new()))
    }
}

impl<'de> Visitor<'de> for Members<'de> {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some(member) = map.next_entry()? {
            self.0.push(member);
        }
        Ok(self)
    }
}

/// serde_json appends " at line L column C", which the caller prints itself.
fn message_only(text: &str) -> String {
    text.rsplit_once(" at line ").map_or(text, |(m, _)| m).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_files_own_layout_is_kept() {
        let cases = [
            ("", "{\n  \"a\": {\n    \"b\": 1\n  }\n}\n"),
            ("{}", "{\n  \"a\": {\n    \"b\": 1\n  }\n}"),
            (r#"{"x":1e3}"#, r#"{"x":1e3,"a":{"b": 1}}"#),
            (
                "{\n\t\"x\": [1,\n2] }\n",
                "{\n\t\"x\": [1,\n2],\n\t\"a\": {\n\t\t\"b\": 1\n\t} }\n",
            ),
            (
                "{\r\n    \"x\" : 1\r\n}",
                "{\r\n    \"x\" : 1,\r\n    \"a\" : {\r\n        \"b\": 1\r\n    }\r\n}",
            ),
        ];
        for (before, after) in cases {
            assert_eq!(set(before, &["a", "b"], &json!(1)).unwrap(), after);
        }
    }

    #[test]
    fn removal_is_the_inverse_of_insertion() {
        for text in [
            r#"{"x":1e3}"#,
            "{\n\t\"x\": [1,\n2] }\n",
            "{ \"a\" : {\"q}\\\"\": \"{\"} , \"z\": {\n  \"n\": null\n} }",
        ] {
            let with = set(text, &["new"], &json!({"k": [1, "}"]})).unwrap();
            assert_eq!(parse(&with).unwrap()["new"]["k"][1], "}");
            assert_eq!(remove(&with, &["new"]).unwrap(), text);
            let deep = set(text, &["p", "q"], &json!(true)).unwrap();
            assert_eq!(remove(&deep, &["p"]).unwrap(), text);
        }
    }

    #[test]
    fn an_ancestor_that_is_no_object_is_not_replaced() {
        assert!(set(r#"{"a": 1}"#, &["a", "b"], &json!(1)).is_none());
        assert_eq!(
            set(r#"{"a": 1, "a": {"b" : 2}}"#, &["a", "b"], &json!(3)).unwrap(),
            r#"{"a": 1, "a": {"b" : 3}}"#
        );
    }

    #[test]
    fn first_and_middle_members_go_alone() {
        let text = "{\n  \"a\": 1,\n  \"b\": 2,\n  \"c\": 3\n}\n";
        assert_eq!(remove(text, &["a"]).unwrap(), "{\n  \"b\": 2,\n  \"c\": 3\n}\n");
        assert_eq!(remove(text, &["b"]).unwrap(), "{\n  \"a\": 1,\n  \"c\": 3\n}\n");
        assert_eq!(remove("{ \"a\": 1 }", &["a"]).unwrap(), "{}");
    }

    fn any_json() -> impl proptest::strategy::Strategy<Value = Value> {
        use proptest::prelude::*;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map(".{0,6}", inner, 0..5)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest::proptest! {
        #[test]
        fn any_member_added_can_be_taken_back(value in any_json(), added in any_json(), pretty in proptest::bool::ANY) {
            let value = json!({"some": value});
            let text = if pretty { format!("{value:#}\n") } else { value.to_string() };
            let with = set(&text, &["new", "deep"], &added).unwrap();
            proptest::prop_assert_eq!(parse(&with).unwrap(), json!({"some": value["some"], "new": {"deep": added}}));
            let without = remove(&with, &["new"]).unwrap();
            proptest::prop_assert_eq!(&without, &text);
            let other = set(&text, &["some"], &added).unwrap();
            let raw = &text[find(&text, &["some"]).unwrap()];
            proptest::prop_assert_eq!(set_raw(&other, &["some"], raw).unwrap(), text);
        }
    }
}
