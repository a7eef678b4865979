//! Of a large config.json as much as tells whether it asks for GPUs: the rest is read past, not kept.
//!
//! An engine's largest definitions have some hundred KiB, so a whole document of a few MiB is parsed as a value. What is
//! larger is somebody's experiment, and still the runtime's to judge: nvoci must neither take memory for it as root nor
//! stand in its way when it asks for no GPU.

use core::cell::{Cell, RefCell};
use core::fmt;
use std::io::Read;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, json};

use crate::sys::budget::{Budget, Exceeded};

/// What of a definition somebody reads.
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

/// Why there is no digest.
pub(super) enum Bad {
    /// It is not JSON.
    Broken(String),
    /// What is of interest is too much.
    Exceeded(Exceeded),
}

/// Reads a document: the root's path, variables and annotations of interest, whether CAP_SYS_ADMIN is in the bounding
/// set, and the mounts of which a request can be made. A key that is there twice counts twice.
pub(super) fn digest(
    document: impl Read,
    interest: Interest<'_>,
    budget: &Budget,
) -> Result<Map<String, Value>, Bad> {
    let kept = RefCell::new(Kept::default());
    let exceeded = Cell::new(None);
    let reader = Reader {
        at: Place::Top,
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

/// What has been read of interest.
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

/// Where in a document one is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    Annotations,
    Bounding,
    Capabilities,
    Env,
    Mount,
    Mounts,
    Options,
    Process,
    Root,
    Top,
}

/// Where a key of an object leads to.
const INNER: &[(Place, &str, Place)] = &[
    (Place::Top, "process", Place::Process),
    (Place::Top, "root", Place::Root),
    (Place::Top, "annotations", Place::Annotations),
    (Place::Top, "mounts", Place::Mounts),
    (Place::Process, "env", Place::Env),
    (Place::Process, "capabilities", Place::Capabilities),
    (Place::Capabilities, "bounding", Place::Bounding),
    (Place::Mount, "options", Place::Options),
];

#[derive(Clone, Copy)]
struct Reader<'a> {
    at: Place,
    kept: &'a RefCell<Kept>,
    interest: Interest<'a>,
    budget: &'a Budget,
    exceeded: &'a Cell<Option<Exceeded>>,
}

impl Reader<'_> {
    fn to(self, at: Place) -> Self {
        Self { at, ..self }
    }

    /// Charges a text that is kept.
    fn keep(self, bytes: usize) -> Result<(), Exceeded> {
        /// What a value takes beside its text, about.
        const VALUE: usize = 128;
        self.budget
            .keep((VALUE + bytes) as u64)
            .inspect_err(|exceeded| self.exceeded.set(Some(*exceeded)))
    }

    /// The text of a list's item.
    fn item(self, text: &str) -> Result<(), Exceeded> {
        match self.at {
            Place::Env => {
                let name = text.split_once('=').map(|(name, _)| name);
                if name.is_some_and(|name| (self.interest.variables)(name)) {
                    self.keep(text.len())?;
                    self.kept.borrow_mut().env.push(text.to_owned());
                }
            }
            Place::Capabilities | Place::Bounding => {
                self.kept.borrow_mut().admin |= text == "CAP_SYS_ADMIN";
            }
            Place::Options if matches!(text, "bind" | "rbind") => {
                let mut kept = self.kept.borrow_mut();
                kept.mount.insert("options".into(), json!([text]));
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether a field of an object, if it is a text, is of interest.
    fn takes(self, key: &str) -> bool {
        match self.at {
            Place::Root => key == "path",
            Place::Annotations => (self.interest.annotations)(key),
            Place::Mount => matches!(key, "source" | "destination" | "type"),
            _ => false,
        }
    }

    /// The text of such a field.
    fn field(self, key: &str, text: &str) -> Result<(), Exceeded> {
        if self.at != Place::Mount {
            self.keep(key.len() + text.len())?;
        } else if text.len() > MAX_PATH {
            return Ok(());
        }
        let mut kept = self.kept.borrow_mut();
        match self.at {
            Place::Root => kept.root = Some(text.to_owned()),
            Place::Annotations => {
                kept.annotations.insert(key.to_owned(), text.into());
            }
            _ => {
                kept.mount.insert(key.to_owned(), text.into());
            }
        }
        Ok(())
    }

    /// The mount that was just read: kept if it is of interest.
    fn mount(self) -> Result<(), Exceeded> {
        /// What the map of a mount takes beside its texts, about.
        const MOUNT: usize = 1024;
        let mount = core::mem::take(&mut self.kept.borrow_mut().mount);
        let text = |key| mount.get(key).and_then(Value::as_str).unwrap_or_default();
        if (self.interest.mounts)(text("source")) {
            self.keep(MOUNT + text("source").len() + text("destination").len())?;
            self.kept.borrow_mut().mounts.push(mount.into());
        }
        Ok(())
    }
}

/// A longer path does not exist.
const MAX_PATH: usize = 4096;

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

/// What has another type than it should have is the runtime's to refuse.
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

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        match self.at {
            Place::Mounts => while seq.next_element_seed(self.to(Place::Mount))?.is_some() {},
            Place::Env | Place::Capabilities | Place::Bounding | Place::Options => {
                while seq
                    .next_element_seed(Text(|text: &str| self.item(text)))?
                    .is_some()
                {}
            }
            _ => while seq.next_element::<IgnoredAny>()?.is_some() {},
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.kept.borrow_mut().is_object |= self.at == Place::Top;
        while let Some(key) = map.next_key::<String>()? {
            let inner = INNER.iter().find(|(at, name, _)| *at == self.at && *name == key);
            match inner {
                Some((_, _, place)) => map.next_value_seed(self.to(*place))?,
                None if self.takes(&key) => {
                    map.next_value_seed(Text(|text: &str| self.field(&key, text)))?;
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        if self.at == Place::Mount {
            self.mount().map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

/// Hands a text on; anything else is read past.
struct Text<F>(F);

impl<'de, F: FnOnce(&str) -> Result<(), Exceeded>> DeserializeSeed<'de> for Text<F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de, F: FnOnce(&str) -> Result<(), Exceeded>> Visitor<'de> for Text<F> {
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
        (self.0)(text).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
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
    fn a_digest_has_what_is_of_interest() {
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

    #[test]
    fn a_key_that_is_there_twice_hides_nothing() {
        let text = r#"{"process":{"env":["NVIDIA_A=1"],"env":[]},"process":{},"process":null}"#;
        assert_eq!(read(text, &Budget::default()).ok().unwrap().env().len(), 1);
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
    fn what_is_kept_is_bounded_and_what_is_not_costs_nothing() {
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
