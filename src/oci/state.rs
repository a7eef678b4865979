//! The container state that a runtime writes to a hook's standard input.

use core::fmt;
use std::io::Read;
use std::path::PathBuf;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::{Code, Error, IoContext as _, Result};

/// The largest state that is read, in bytes. Real ones are below 64 KiB, annotations included; a
/// container without a request is left alone with any annotations that engines accept.
const MAX: u64 = 4 << 20;

/// A container's state, as written by runc, crun, youki, gVisor or an old Docker.
///
/// Only `bundle` is reliable. In a createContainer hook `pid` is 1 under runc, 0 under crun and -1
/// under gVisor. Of all other fields nvoci checks only the type.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct State {
    /// The container's id; empty if the runtime gave none.
    pub id: String,
    /// The process id as the runtime gave it.
    pub pid: Option<i32>,
    /// The bundle directory, absolute.
    pub bundle: PathBuf,
    /// The rootfs, absolute, if the runtime gives it. crun repeats `root.path` of config.json, and
    /// a relative one is not used.
    pub root: Option<PathBuf>,
}

impl State {
    /// Reads the whole document from standard input, as a runtime gives it to a hook.
    ///
    /// # Errors
    /// As [`State::read_from`].
    pub fn read(reader: impl Read) -> Result<Self> {
        Self::read_from(reader, "container state on standard input")
    }

    /// Reads the whole document; an error names it by `source`.
    ///
    /// # Errors
    /// [`Code::State`] if it is empty, larger than 4 MiB or not a JSON object, repeats a key, has a
    /// field of the wrong type, or lacks an absolute bundle path.
    pub fn read_from(reader: impl Read, source: &str) -> Result<Self> {
        let broken = |why: String| Error::new(Code::State, source, why);
        let mut bytes = Vec::new();
        reader
            .take(MAX + 1)
            .read_to_end(&mut bytes)
            .context(Code::State, || source)?;
        if bytes.len() as u64 > MAX {
            return Err(broken("it is larger than 4 MiB".into()));
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(broken("it is empty".into()));
        }
        let unique: Unique = serde_json::from_slice(&bytes).map_err(|e| broken(e.to_string()))?;
        let Value::Object(map) = unique.0 else {
            return Err(broken("it is not a JSON object".into()));
        };
        Self::from_map(&map).map_err(broken)
    }

    fn from_map(map: &Map<String, Value>) -> Result<Self, String> {
        // Before OCI 1.0 the field was called `bundlePath`; an old Docker still writes that.
        let bundle = match text(map, "bundle")? {
            Some(b) if !b.is_empty() => Some(b),
            _ => text(map, "bundlePath")?,
        };
        let bundle = PathBuf::from(bundle.unwrap_or_default());
        if bundle.as_os_str().is_empty() {
            return Err("it names no bundle".into());
        }
        // Under runc a hook's working directory is the image's, so no path may be relative to it.
        if !bundle.is_absolute() {
            return Err("its bundle is not an absolute path".into());
        }
        for unread in ["ociVersion", "status"] {
            text(map, unread)?;
        }
        let root = text(map, "root")?.map(PathBuf::from);
        check_annotations(map)?;
        Ok(Self {
            id: text(map, "id")?.unwrap_or_default(),
            pid: pid(map)?,
            bundle,
            root: root.filter(|root| root.is_absolute()),
        })
    }
}

fn text(map: &Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) => Ok(Some(s.clone())),
        Some(_) => Err(format!("`{key}` is not a string")),
    }
}

fn pid(map: &Map<String, Value>) -> Result<Option<i32>, String> {
    match map.get("pid") {
        None | Some(Value::Null) => Ok(None),
        Some(v) => match v.as_i64().map(i32::try_from) {
            Some(Ok(pid)) => Ok(Some(pid)),
            _ => Err("`pid` is not a process id".into()),
        },
    }
}

fn check_annotations(map: &Map<String, Value>) -> Result<(), String> {
    match map.get("annotations") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Object(entries)) => match entries.iter().find(|(_, value)| !value.is_string()) {
            Some((key, _)) => Err(format!("annotation `{key}` is not a string")),
            None => Ok(()),
        },
        Some(_) => Err("`annotations` is not an object".into()),
    }
}

/// A JSON value whose objects repeat no key: parsers may disagree on the value of a repeated one.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(UniqueVisitor).map(Unique)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(Unique(v)) = seq.next_element()? {
            out.push(v);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some((key, Unique(v))) = map.next_entry::<String, Unique>()? {
            if out.contains_key(&key) {
                return Err(A::Error::custom(format_args!("key `{key}` is given twice")));
            }
            out.insert(key, v);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<State> {
        State::read(text.as_bytes())
    }

    #[test]
    fn every_runtime_is_understood() {
        let runc = read(
            r#"{"ociVersion":"1.0.2-dev","id":"c1","status":"creating","pid":8672,"bundle":"/run/c1",
               "annotations":{"b":"2","a":"1"},"future":{"x":[1.5,null,true,-3]}}"#,
        )
        .unwrap();
        assert_eq!(runc.pid, Some(8672));

        let crun = read(
            r#"{"ociVersion":"1.0","id":"c2","pid":0,"root":"rootfs","bundle":"/b","status":"created"}"#,
        )
        .unwrap();
        assert_eq!((crun.pid, crun.id.as_str()), (Some(0), "c2"));
        assert_eq!(crun.root, None);

        let gvisor =
            read(r#"{"ociVersion":"1.0.2","id":"c","status":"creating","pid":-1,"bundle":"/b","annotations":null}"#)
                .unwrap();
        assert_eq!(gvisor.pid, Some(-1));

        let youki = read(
            r#"{"ociVersion":"1.0.2","id":"y","status":"creating","pid":null,"bundle":"/b","annotations":{}}"#,
        )
        .unwrap();
        assert_eq!(youki.pid, None);

        let docker = read(r#"{"version":"0.5","id":"d","pid":1,"root":"/r","bundlePath":"/old"}"#).unwrap();
        assert_eq!(docker.bundle, PathBuf::from("/old"));
        assert_eq!(docker.pid, Some(1));
        assert_eq!(docker.root, Some(PathBuf::from("/r")));
    }

    #[test]
    fn an_error_names_the_file_that_was_read() {
        let e = State::read_from(&b"{}"[..], "container state in /run/s.json").unwrap_err();
        assert!(e.to_string().contains("container state in /run/s.json"), "{e}");
    }

    #[test]
    fn broken_states_are_one_line_with_the_state_code() {
        let deep = format!(
            r#"{{"bundle":"/b","x":{}{}}}"#,
            "[".repeat(10_000),
            "]".repeat(10_000)
        );
        let cases = [
            "",
            " \n",
            "{",
            "[]",
            "null",
            "12",
            r#"{"id":"a","pid":1}"#,
            r#"{"bundle":""}"#,
            r#"{"bundle":"relative"}"#,
            r#"{"bundle":7}"#,
            r#"{"bundle":"/b","pid":"1"}"#,
            r#"{"bundle":"/b","pid":1.5}"#,
            r#"{"bundle":"/b","pid":4294967297}"#,
            r#"{"bundle":"/b","id":["x"]}"#,
            r#"{"bundle":"/b","root":["/r"]}"#,
            r#"{"bundle":"/b","annotations":[]}"#,
            r#"{"bundle":"/b","annotations":{"a":1}}"#,
            r#"{"bundle":"/b","bundle":"/c"}"#,
            r#"{"bundle":"/b","annotations":{"a":"1","a":"2"}}"#,
            r#"{"bundle":"/b"} trailing"#,
            deep.as_str(),
        ];
        for case in cases {
            let e = read(case).unwrap_err();
            assert_eq!(e.code(), Code::State, "{case}");
            assert!(!e.to_string().contains('\n'), "{case}");
        }
        let bad_utf8 = b"{\"bundle\":\"/\xff\"}";
        assert_eq!(State::read(&bad_utf8[..]).unwrap_err().code(), Code::State);
    }

    #[test]
    fn an_endless_state_is_cut_off() {
        let e = State::read(std::io::repeat(b' ')).unwrap_err();
        assert_eq!(e.code(), Code::State);
        assert!(e.why().contains("4 MiB"));
    }
}
