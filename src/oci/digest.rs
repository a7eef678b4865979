//! Streams a large config.json and keeps only the fields that decide whether it requests GPUs, such
//! as `NVIDIA_VISIBLE_DEVICES` in `process.env`.
//!
//! An engine's largest definitions have some hundred KiB, and a document of a few MiB is parsed as
//! a value. A larger one is an experiment that the runtime must accept or refuse: nvoci takes no
//! memory for it as root, and changes nothing unless it requests a GPU.

use core::cell::{Cell, RefCell};
use core::fmt;
use std::io::Read;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, json};

use crate::sys::budget::{Budget, Exceeded};

/// Selects the parts of a definition that a digest keeps.
#[derive(Clone, Copy)]
pub struct Interest<'a> {
    /// Environment variables, by name.
    pub variables: &'a dyn Fn(&str) -> bool,
    /// Annotations, by key.
    pub annotations: &'a dyn Fn(&str) -> bool,
    /// Mounts, by source.
    pub mounts: &'a dyn Fn(&str) -> bool,
}

impl Interest<'_> {
    /// No variable, no annotation and no mount.
    pub const NOTHING: Interest<'static> = Interest {
        variables: &|_| false,
        annotations: &|_| false,
        mounts: &|_| false,
    };
}

impl fmt::Debug for Interest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interest").finish_non_exhaustive()
    }
}

/// The reason for failing to make a digest.
pub(super) enum Bad {
    /// It is not JSON.
    Broken(String),
    /// The texts of interest exceed the budget.
    Exceeded(Exceeded),
}

/// Reads a document: the root's path, variables and annotations of interest, whether CAP_SYS_ADMIN
/// is in the bounding set, and mounts that can be a request. The last value of a repeated key
/// counts, as in a document that is parsed whole.
pub(super) fn digest(
    document: impl Read,
    interest: Interest<'_>,
    budget: &Budget,
) -> Result<Map<String, Value>, Bad> {
    let kept = RefCell::new(Kept::default());
    let exceeded = Cell::new(None);
    let reader = Reader {
        at: Place::Top,
        key: "",
        kept: &kept,
        interest,
        budget,
        exceeded: &exceeded,
    };
    let mut json = serde_json::Deserializer::from_reader(document);
    let read = reader.deserialize(&mut json).and_then(|()| json.end());
    match (read, exceeded.get()) {
        (Ok(()), _) if !kept.borrow().is_object => Err(Bad::Broken("it is not a JSON object".to_owned())),
        (Ok(()), _) => Ok(kept.into_inner().into_map()),
        (Err(_), Some(exceeded)) => Err(Bad::Exceeded(exceeded)),
        (Err(e), None) => Err(Bad::Broken(e.to_string())),
    }
}

/// The fields of interest so far.
#[derive(Default)]
struct Kept {
    is_object: bool,
    root: Option<String>,
    env: Vec<String>,
    admin: bool,
    annotations: Map<String, Value>,
    mounts: Vec<Value>,
    /// The mount that is being read.
    mount: Map<String, Value>,
}

impl Kept {
    fn into_map(self) -> Map<String, Value> {
        let mut all = Map::new();
        if let Some(path) = self.root {
            all.insert("root".into(), json!({ "path": path }));
        }
        let bounding: &[&str] = if self.admin { &["CAP_SYS_ADMIN"] } else { &[] };
        all.insert(
            "process".into(),
            json!({ "env": self.env, "capabilities": { "bounding": bounding } }),
        );
        all.insert("annotations".into(), self.annotations.into());
        all.insert("mounts".into(), self.mounts.into());
        all
    }
}

/// A position in a document. The singular of a list's name is one of its items.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    Annotation,
    Annotations,
    Bounding,
    Capabilities,
    Capability,
    Env,
    Mount,
    MountText,
    Mounts,
    Option,
    Options,
    Process,
    Root,
    RootPath,
    Top,
    Variable,
}

/// The place to which a key of an object leads. The user chooses the keys of annotations.
const INNER: &[(Place, &str, Place)] = &[
    (Place::Top, "process", Place::Process),
    (Place::Top, "root", Place::Root),
    (Place::Top, "annotations", Place::Annotations),
    (Place::Top, "mounts", Place::Mounts),
    (Place::Root, "path", Place::RootPath),
    (Place::Process, "env", Place::Env),
    (Place::Process, "capabilities", Place::Capabilities),
    (Place::Capabilities, "bounding", Place::Bounding),
    (Place::Mount, "source", Place::MountText),
    (Place::Mount, "destination", Place::MountText),
    (Place::Mount, "type", Place::MountText),
    (Place::Mount, "options", Place::Options),
];

/// The place of a list's items.
const ITEMS: &[(Place, Place)] = &[
    (Place::Mounts, Place::Mount),
    (Place::Env, Place::Variable),
    (Place::Capabilities, Place::Capability),
    (Place::Bounding, Place::Capability),
    (Place::Options, Place::Option),
];

/// Reads one value: keeps its text or descends into its members, by its place.
#[derive(Clone, Copy)]
struct Reader<'a> {
    at: Place,
    /// The key before this value; empty for an item and for the document.
    key: &'a str,
    kept: &'a RefCell<Kept>,
    interest: Interest<'a>,
    budget: &'a Budget,
    exceeded: &'a Cell<Option<Exceeded>>,
}

impl Reader<'_> {
    /// Charges a text that is kept.
    fn charge(self, bytes: usize) -> Result<(), Exceeded> {
        /// An estimate of a value's memory besides its text, in bytes.
        const VALUE: usize = 128;
        self.budget
            .keep((VALUE + bytes) as u64)
            .inspect_err(|exceeded| self.exceeded.set(Some(*exceeded)))
    }

    /// The place to which a key of this object leads, if it is of interest.
    fn inner(self, key: &str) -> Option<Place> {
        if self.at == Place::Annotations {
            return (self.interest.annotations)(key).then_some(Place::Annotation);
        }
        let inner = INNER.iter().find(|(at, name, _)| *at == self.at && *name == key);
        inner.map(|(_, _, place)| *place)
    }

    /// Drops the value of an earlier key of the same name, since the last one counts.
    fn forget(self) {
        let mut kept = self.kept.borrow_mut();
        match self.at {
            Place::Process => {
                kept.env.clear();
                kept.admin = false;
            }
            Place::Env => kept.env.clear(),
            Place::Capabilities | Place::Bounding => kept.admin = false,
            Place::Root | Place::RootPath => kept.root = None,
            Place::Annotations => kept.annotations.clear(),
            Place::Annotation => {
                // The parsed document keeps the first key's position.
                if let Some(earlier) = kept.annotations.get_mut(self.key) {
                    *earlier = Value::Null;
                }
            }
            Place::Mounts => kept.mounts.clear(),
            Place::MountText | Place::Options => {
                kept.mount.remove(self.key);
            }
            _ => {}
        }
    }

    /// Keeps a text of interest.
    fn text(self, text: &str) -> Result<(), Exceeded> {
        /// Linux has no longer path.
        const MAX_PATH: usize = 4096;
        match self.at {
            Place::Variable => {
                let name = text.split_once('=').map(|(name, _)| name);
                if name.is_some_and(|name| (self.interest.variables)(name)) {
                    self.charge(text.len())?;
                    self.kept.borrow_mut().env.push(text.to_owned());
                }
            }
            Place::Capability => self.kept.borrow_mut().admin |= text == "CAP_SYS_ADMIN",
            Place::RootPath => {
                self.charge(text.len())?;
                self.kept.borrow_mut().root = Some(text.to_owned());
            }
            Place::Annotation => {
                self.charge(self.key.len() + text.len())?;
                let mut kept = self.kept.borrow_mut();
                kept.annotations.insert(self.key.to_owned(), text.into());
            }
            Place::MountText if text.len() <= MAX_PATH => {
                let mut kept = self.kept.borrow_mut();
                kept.mount.insert(self.key.to_owned(), text.into());
            }
            Place::Option if matches!(text, "bind" | "rbind") => {
                let mut kept = self.kept.borrow_mut();
                kept.mount.insert("options".into(), json!([text]));
            }
            _ => {}
        }
        Ok(())
    }

    /// Keeps the mount that was just read, if it is of interest.
    fn mount(self) -> Result<(), Exceeded> {
        /// An estimate of the memory of a mount's map besides its texts, in bytes.
        const MOUNT: usize = 1024;
        let mount = core::mem::take(&mut self.kept.borrow_mut().mount);
        let text = |key| mount.get(key).and_then(Value::as_str).unwrap_or_default();
        if (self.interest.mounts)(text("source")) {
            self.charge(MOUNT + text("source").len() + text("destination").len())?;
            self.kept.borrow_mut().mounts.push(mount.into());
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

/// A value of another type than expected is left for the runtime to refuse.
impl<'de> Visitor<'de> for Reader<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.text(text).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if let Some((_, item)) = ITEMS.iter().find(|(list, _)| *list == self.at) {
            let item = Self {
                at: *item,
                key: "",
                ..self
            };
            while seq.next_element_seed(item)?.is_some() {}
        } else {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.kept.borrow_mut().is_object |= self.at == Place::Top;
        while let Some(key) = map.next_key::<String>()? {
            if let Some(at) = self.inner(&key) {
                let inner = Reader {
                    at,
                    key: &key,
                    ..self
                };
                inner.forget();
                map.next_value_seed(inner)?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        if self.at == Place::Mount {
            self.mount().map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Spec;
    use super::*;
    use crate::sys::budget::Limits;
    use std::path::Path;

    const ALL: Interest<'static> = Interest {
        variables: &|name| name.starts_with("NVIDIA_"),
        annotations: &|key| key.starts_with("cdi."),
        mounts: &|source| source.contains("null"),
    };

    fn read(text: &str, budget: &Budget) -> Result<Spec, Bad> {
        digest(text.as_bytes(), ALL, budget).map(Spec::of_digest)
    }

    #[test]
    fn a_digest_has_the_fields_of_interest() {
        let text = r#"{"x":[1,{"y":null}],"root":{"path":"r","z":1},"process":{"args":["A=1"],"env":["A=1",7,
            "NVIDIA_VISIBLE_DEVICES=all",{"k":["NVIDIA_A=1"]},"NVIDIA_A"],
            "capabilities":{"bounding":["CAP_CHOWN","CAP_SYS_ADMIN"],"x":["y"]}},
            "annotations":{"a":"b","cdi.k8s.io/a":"v/c=d","cdi.n":3},
            "mounts":[{"destination":"/a","source":"/b"},{"destination":"/run","type":"tmpfs","options":["rw"]},
                7,{"destination":"/v/0","source":"/dev/null","options":["bind"]}],"process2":{"env":["NVIDIA_B=1"]}}"#;
        let spec = read(text, &Budget::default()).ok().unwrap();
        assert!(spec.is_digest() && spec.is_privileged());
        assert_eq!(spec.env(), [("NVIDIA_VISIBLE_DEVICES".into(), "all".into())]);
        assert_eq!(spec.annotations(), [("cdi.k8s.io/a".into(), "v/c=d".into())]);
        assert_eq!(spec.root_path(Path::new("/b")).unwrap(), Path::new("/b/r"));
        let mounts: Vec<String> = spec.mounts().into_iter().map(|m| m.destination).collect();
        assert_eq!(mounts, ["/v/0"]);
        assert!(spec.mounts()[0].is_bind());
    }

    /// The views from which a request is made.
    fn views(spec: &Spec) -> String {
        let mounts = spec.mounts().into_iter().filter(|m| {
            let source = m.source.as_deref().unwrap_or_default();
            (ALL.mounts)(source)
        });
        format!(
            "{:?} {:?} {} {:?} {:?}",
            spec.root_path(Path::new("/b")).ok(),
            spec.env(),
            spec.is_privileged(),
            spec.annotations(),
            mounts.map(|m| (m.is_bind(), m)).collect::<Vec<_>>(),
        )
    }

    /// For each field, the texts around its value and values with which it counts.
    const FIELDS: &[(&str, &str, &str, [&str; 2])] = &[
        ("", "root", "", [r#"{"path":"a"}"#, r#"{"path":"b"}"#]),
        (r#""root":{"#, "path", "}", [r#""a""#, r#""b""#]),
        (
            "",
            "process",
            "",
            [
                r#"{"env":["NVIDIA_A=1"],"capabilities":{"bounding":["CAP_SYS_ADMIN"]}}"#,
                r#"{"env":["NVIDIA_A=2"]}"#,
            ],
        ),
        (
            r#""process":{"#,
            "env",
            "}",
            [r#"["NVIDIA_A=1","NVIDIA_B=1"]"#, r#"["NVIDIA_A=2"]"#],
        ),
        (
            r#""process":{"#,
            "capabilities",
            "}",
            [r#"{"bounding":["CAP_SYS_ADMIN"]}"#, r#"["CAP_CHOWN"]"#],
        ),
        (
            r#""process":{"capabilities":{"#,
            "bounding",
            "}}",
            [r#"["CAP_SYS_ADMIN"]"#, r#"["CAP_CHOWN"]"#],
        ),
        (
            "",
            "annotations",
            "",
            [r#"{"cdi.a":"1","cdi.b":"1"}"#, r#"{"cdi.b":"2"}"#],
        ),
        (
            r#""annotations":{"cdi.a":"0","#,
            "cdi.b",
            r#","cdi.c":"0"}"#,
            [r#""1""#, r#""2""#],
        ),
        (
            "",
            "mounts",
            "",
            [
                r#"[{"destination":"/a","source":"/dev/null"}]"#,
                r#"[{"destination":"/b","source":"/dev/null"},{"destination":"/c","source":"/dev/null"}]"#,
            ],
        ),
        (
            r#""mounts":[{"destination":"/a","#,
            "source",
            "}]",
            [r#""/dev/null""#, r#""/dev/zero""#],
        ),
        (
            r#""mounts":[{"source":"/dev/null","#,
            "destination",
            "}]",
            [r#""/a""#, r#""/b""#],
        ),
        (
            r#""mounts":[{"source":"/dev/null","destination":"/a","#,
            "type",
            "}]",
            [r#""bind""#, r#""tmpfs""#],
        ),
        (
            r#""mounts":[{"source":"/dev/null","destination":"/a","#,
            "options",
            "}]",
            [r#"["bind"]"#, "[7]"],
        ),
    ];

    #[test]
    fn of_a_key_that_is_given_twice_the_last_counts_at_every_size() {
        let mut seen = 0;
        for (before, key, after, [a, b]) in FIELDS {
            for values in [
                [*a, *b],
                [*b, *a],
                [*a, *a],
                [*a, "null"],
                [*a, "7"],
                [*a, "1.5"],
                [*a, "true"],
                [*a, "[]"],
                [*a, "{}"],
                [*a, r#""""#],
                [*a, r#"[{"x":"NVIDIA_A=3"}]"#],
                [
                    *a,
                    r#"{"env":7,"bounding":null,"path":[],"cdi.a":{},"x":["bind"]}"#,
                ],
                ["null", *a],
                ["7", *a],
            ] {
                let [first, last] = values;
                // Other keys may stand between them.
                for between in ["", r#""x":{"env":["NVIDIA_A=4"]},"#] {
                    let text = format!("{{{before}\"{key}\":{first},{between}\"{key}\":{last}{after}}}");
                    let whole = Spec::parse(text.as_bytes()).unwrap();
                    let digest = read(&text, &Budget::default()).ok().unwrap();
                    assert_eq!(views(&digest), views(&whole), "{text}");
                    let last = Spec::parse(format!("{{{before}\"{key}\":{last}{after}}}").as_bytes());
                    assert_eq!(views(&whole), views(&last.unwrap()), "{text}");
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, FIELDS.len() * 14 * 2);
    }

    #[test]
    fn every_type_may_stand_everywhere() {
        for value in [
            "null",
            "true",
            "7",
            "1.5",
            "-1",
            "\"x\"",
            "[[]]",
            "{\"a\":{}}",
            "[\"a\"]",
        ] {
            for key in ["process", "root", "annotations", "mounts"] {
                let text = format!("{{\"{key}\":{value}}}");
                assert!(read(&text, &Budget::default()).is_ok(), "{text}");
                for inner in ["env", "capabilities", "path", "cdi.a"] {
                    let text = format!("{{\"{key}\":{{\"{inner}\":{value}}}}}");
                    assert!(read(&text, &Budget::default()).is_ok(), "{text}");
                }
            }
            let text = format!("{{\"mounts\":[{{\"options\":{value},\"type\":{value}}}]}}");
            assert!(read(&text, &Budget::default()).is_ok(), "{text}");
        }
        for text in ["", "[]", "7", "{", "{}x", "{\"a\":[}"] {
            assert!(
                matches!(read(text, &Budget::default()), Err(Bad::Broken(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn kept_texts_are_bounded_and_skipped_ones_are_free() {
        let budget = || {
            Budget::new(Limits {
                kept: 10_000,
                ..Limits::DEFAULT
            })
        };
        let many = |item: &str| format!("{{\"process\":{{\"env\":[{}\"\"]}}}}", item.repeat(1000));
        assert!(read(&many("\"A=1\","), &budget()).is_ok());
        assert!(matches!(
            read(&many("\"NVIDIA_A=1\","), &budget()),
            Err(Bad::Exceeded(_))
        ));
    }
}
