//! Reads each field of a definition's elements with values of every type, and documents that
//! engines wrote.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{Access, DeviceKind, RuleKind, Spec, Stage, State};

/// The way in which a field of an element is read.
#[derive(Clone, Copy)]
enum Kind {
    /// Text; the element is skipped without it.
    Needed,
    /// Text.
    Text,
    /// The texts of a list.
    Texts,
    /// A number from 0 to `u32::MAX`, else nothing.
    Id,
    /// A number from 0 to `u32::MAX`, else 0.
    Number,
    /// A number of 64 bits.
    Long,
    /// `c`, `u` or `b`; the element is skipped without it.
    Device,
}

impl Kind {
    /// The expected result for `value`; `None` if the element is skipped.
    fn read(self, value: &Value) -> Option<Value> {
        let id = value.as_u64().filter(|n| *n <= u32::MAX.into());
        match self {
            Self::Needed => value.as_str().map(Into::into),
            Self::Text => Some(value.as_str().into()),
            Self::Texts => {
                let list = value.as_array().into_iter().flatten();
                Some(list.filter(|v| v.is_string()).cloned().collect())
            }
            Self::Id => Some(id.into()),
            Self::Number => Some(id.unwrap_or(0).into()),
            Self::Long => Some(value.as_i64().into()),
            Self::Device => match value.as_str()? {
                "c" | "u" => Some("c".into()),
                "b" => Some("b".into()),
                _ => None,
            },
        }
    }
}

/// Values of all types, valid for some field or for none.
fn values() -> Vec<String> {
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    let texts = ["null", "true", "0", "7", "-7", "-0", "4294967295", "4294967296"];
    let more = [
        "9223372036854775808",
        "1e30",
        "1.0",
        "-1e400",
        r#""""#,
        r#""c""#,
        r#""u""#,
        r#""b""#,
        r#""p""#,
        r#""a""#,
        r#""7""#,
        r#""/é/\u0001""#,
        "[]",
        "{}",
        r#"["a",7,null,["b"],"c"]"#,
        r#"{"a":"b"}"#,
        r#"[{"containerID":0,"hostID":1,"size":1}]"#,
    ];
    let all = texts.iter().chain(&more).map(|t| (*t).to_owned());
    all.chain([deep]).collect()
}

/// Reads an element in which each field in turn is missing, has each of [`values`], or is repeated.
fn each_field(base: &Value, fields: &[(&str, Kind)], unread: &[&str], read: impl Fn(&str) -> Option<Value>) {
    let base = base.as_object().unwrap();
    let expected = |element: &Map<String, Value>| {
        let null = Value::Null;
        let fields = fields.iter().map(|(key, kind)| {
            let value = kind.read(element.get(*key).unwrap_or(&null))?;
            Some(((*key).to_owned(), value))
        });
        fields.collect::<Option<Map<_, _>>>().map(Value::Object)
    };
    let members = |skipped: &str| {
        let others = base.iter().filter(|(key, _)| *key != skipped);
        others
            .map(|(key, value)| format!("{key:?}:{value},"))
            .collect::<String>()
    };
    let unread: Vec<(&str, Kind)> = unread.iter().map(|key| (*key, Kind::Text)).collect();
    for (key, _) in fields.iter().chain(&unread) {
        let rest = members(key);
        let check = |text: String| {
            let element = serde_json::from_str(&text).unwrap();
            assert_eq!(read(&text), expected(&element), "{text}");
        };
        check(format!("{{{rest}\"x\":{{\"y\":[1]}}}}"));
        for value in values() {
            check(format!("{{{rest}{key:?}:{value}}}"));
            for other in ["7", r#""c""#, r#"["c"]"#] {
                check(format!("{{{rest}{key:?}:{other},\"x\":0,{key:?}:{value}}}"));
            }
        }
    }
    for value in values() {
        let is_object = value.starts_with('{');
        assert!(is_object || read(&value).is_none(), "{value}");
    }
}

/// The only element of a list that has `element` between malformed ones.
fn only<T>(list: Vec<T>) -> Option<T> {
    assert!(list.len() <= 1);
    list.into_iter().next()
}

#[test]
fn a_mount_is_read_field_by_field() {
    let base = json!({"destination": "/d", "type": "bind", "source": "/s", "options": ["rbind", "ro"]});
    let fields = [
        ("destination", Kind::Needed),
        ("type", Kind::Text),
        ("source", Kind::Text),
        ("options", Kind::Texts),
    ];
    each_field(&base, &fields, &["uidMappings", "gidMappings"], |element| {
        let m = only(spec(&format!(r#"{{"mounts":[7,{element},null]}}"#)).mounts())?;
        Some(json!({"destination": m.destination, "type": m.typ, "source": m.source, "options": m.options}))
    });
}

#[test]
fn a_hook_is_read_field_by_field() {
    let base = json!({"path": "/h", "args": ["h", "a"], "env": ["A=1"], "timeout": 5});
    let fields = [
        ("path", Kind::Needed),
        ("args", Kind::Texts),
        ("env", Kind::Texts),
        ("timeout", Kind::Long),
    ];
    for stage in Stage::ALL {
        each_field(&base, &fields, &[], |element| {
            let text = format!(r#"{{"hooks":{{"{}":[7,{element},null]}}}}"#, stage.key());
            let h = only(spec(&text).hooks(stage))?;
            Some(json!({"path": h.path, "args": h.args, "env": h.env, "timeout": h.timeout}))
        });
    }
}

#[test]
fn a_device_is_read_field_by_field() {
    let base = json!({
        "path": "/dev/x", "type": "c", "major": 1, "minor": 2, "fileMode": 438, "uid": 3, "gid": 4,
    });
    let fields = [
        ("path", Kind::Needed),
        ("type", Kind::Device),
        ("major", Kind::Number),
        ("minor", Kind::Number),
        ("fileMode", Kind::Id),
        ("uid", Kind::Id),
        ("gid", Kind::Id),
    ];
    each_field(&base, &fields, &[], |element| {
        let d = only(spec(&format!(r#"{{"linux":{{"devices":[7,{element},null]}}}}"#)).linux_devices())?;
        let kind = if d.kind == DeviceKind::Char { "c" } else { "b" };
        Some(json!({
            "path": d.path, "type": kind, "major": d.major, "minor": d.minor,
            "fileMode": d.file_mode, "uid": d.uid, "gid": d.gid,
        }))
    });
}

#[test]
fn a_device_rule_is_read_whole_or_denies() {
    let base = [
        ("allow", "true"),
        ("type", r#""c""#),
        ("major", "1"),
        ("minor", "2"),
        ("access", r#""rw""#),
    ];
    let number = |value: &Value| match value.as_i64() {
        None if value.is_null() => Some(None),
        Some(-1) => Some(None),
        // The kernel's numbers have 12 and 20 bits.
        Some(n) => i32::try_from(n)
            .ok()
            .filter(|_| value.as_u64().is_some())
            .map(Some),
        None => None,
    };
    for (changed, _) in base {
        for value in values() {
            let element: String = base
                .iter()
                .map(|(key, good)| format!(",{key:?}:{}", if *key == changed { &value } else { *good }))
                .collect();
            let text = format!(r#"{{"linux":{{"resources":{{"devices":[{{"x":1{element}}}]}}}}}}"#);
            let rule = spec(&text).device_rules()[0];
            let value: Value = serde_json::from_str(&value).unwrap();
            let given = |key| changed == key;
            let allow = !given("allow") || value == true;
            let good = match changed {
                "type" => value.is_null() || matches!(value.as_str(), Some("a" | "b" | "c")),
                "major" | "minor" => number(&value).is_some(),
                // None of the values is a list of letters.
                "access" => false,
                _ => true,
            };
            assert_eq!(rule.allow, allow, "{text}");
            if !good {
                let access = if allow { Access::NONE } else { Access::RWM };
                let read = (rule.kind, rule.major, rule.minor, rule.access);
                assert_eq!(read, (RuleKind::All, None, None, access), "{text}");
                continue;
            }
            let kind = match value.as_str().filter(|_| given("type")) {
                Some("a") => RuleKind::All,
                Some("b") => RuleKind::Block,
                None if given("type") => RuleKind::All,
                _ => RuleKind::Char,
            };
            assert_eq!((rule.kind, rule.access), (kind, Access::RW), "{text}");
            let as_id = |n: Option<i32>| n.map(i32::unsigned_abs);
            let major = if given("major") {
                as_id(number(&value).unwrap())
            } else {
                Some(1)
            };
            let minor = if given("minor") {
                as_id(number(&value).unwrap())
            } else {
                Some(2)
            };
            assert_eq!((rule.major, rule.minor), (major, minor), "{text}");
        }
    }
}

#[test]
fn a_state_is_refused_for_any_field_of_the_wrong_type() {
    let fields = [
        "ociVersion",
        "id",
        "status",
        "pid",
        "bundle",
        "bundlePath",
        "root",
        "annotations",
    ];
    for field in fields {
        for text in values() {
            let bundle = if field == "bundle" {
                ""
            } else {
                r#""bundle":"/b","#
            };
            let read = State::read(format!("{{{bundle}{field:?}:{text}}}").as_bytes());
            let value: Value = serde_json::from_str(&text).unwrap();
            // serde_json passes such a number on as an object with one text, which no view reads.
            let is_integer = value.is_u64() || (value.is_i64() && text != "-0");
            let is_float = value.is_number() && !is_integer;
            let good = match field {
                "pid" => {
                    let number = value.as_i64().filter(|_| !is_float);
                    value.is_null() || number.is_some_and(|n| i32::try_from(n).is_ok())
                }
                "bundle" => value.as_str().is_some_and(|path| path.starts_with('/')),
                // The older name is ignored if the newer one is present.
                "bundlePath" => true,
                "annotations" => {
                    let entries = value.as_object();
                    let texts = entries.is_some_and(|e| e.values().all(Value::is_string));
                    value.is_null() || is_float || texts
                }
                _ => value.is_null() || value.is_string(),
            };
            assert_eq!(read.is_ok(), good, "{field} {value}");
        }
    }
}

fn spec(text: &str) -> Spec {
    Spec::parse(text.as_bytes()).unwrap()
}

/// JSON without the spaces between its parts.
fn compact(text: &str) -> String {
    let (mut inside, mut escaped) = (false, false);
    let keep = |c: &char| {
        let was_inside = inside;
        inside ^= *c == '"' && !escaped;
        escaped = was_inside && *c == '\\' && !escaped;
        was_inside || !c.is_ascii_whitespace()
    };
    text.chars().filter(keep).collect()
}

/// The files below `dir` that are definitions.
fn definitions(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            definitions(&path, found);
        } else if path.extension().is_some_and(|e| e == "json") {
            found.push(path);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "reads files")]
fn engines_documents_come_out_byte_for_byte() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for dir in [
        "tests/specs",
        "tests/definitions",
        "tests/golden",
        "../shared/facts/golden",
    ] {
        definitions(&home.join(dir), &mut found);
    }
    let mut seen = 0;
    for path in found {
        let text = std::fs::read_to_string(&path).unwrap();
        if !text.contains("\"ociVersion\"") {
            continue;
        }
        let out = String::from_utf8(spec(&text).to_bytes()).unwrap();
        // Go escapes three characters that need no escape.
        let text = text
            .replace("\\u003c", "<")
            .replace("\\u003e", ">")
            .replace("\\u0026", "&");
        assert_eq!(out, compact(&text), "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 5, "{seen}");
}
