//! Reads a specification, strictly: an unknown field is an error, as for the engines.
//!
//! [`Value`] deserializes a [`Tree`] into [`types`](super::types). It reports the path of an error.
//! The type of the field decides if a scalar without quotes is text or a number. The tree has
//! charged the budget for every node and every alias before.

use core::fmt;
use core::slice;
use std::rc::Rc;

use serde::Deserialize as _;
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer as _, Visitor};
use serde::forward_to_deserialize_any;

use super::tree::{Tree, Unreadable};
use super::types::CdiSpec;
use super::validate::validate;
use crate::error::{Code, Error, Result};
use crate::sys::budget::Budget;

/// The largest file that is read, in bytes. One of the vendor's for 16 GPUs has 40 kB.
pub const MAX_SIZE: u64 = 4 << 20;

/// How a file is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// `.json`
    Json,
    /// `.yaml`
    Yaml,
}

impl Format {
    /// By the name of the file; `None` for one that engines do not read (`.yml` among them).
    pub fn of(path: &std::path::Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "json" => Some(Self::Json),
            "yaml" => Some(Self::Yaml),
            _ => None,
        }
    }
}

/// Reads and validates a specification; `name` is for messages.
///
/// # Errors
/// [`Code::Cdi`], naming the field; [`Code::TooLarge`] when it needs more than is left of `budget`.
pub fn parse(bytes: &[u8], format: Format, name: &str, budget: &Budget) -> Result<CdiSpec> {
    let what = || format!("CDI specification {name}");
    let broken = |why: String| Error::new(Code::Cdi, what(), why);
    if bytes.len() as u64 > MAX_SIZE {
        return Err(broken(format!("it is larger than {MAX_SIZE} bytes")));
    }
    let tree = match format {
        Format::Json => Tree::json(bytes, budget),
        Format::Yaml => core::str::from_utf8(bytes)
            .map_err(|_| "it is not UTF-8 text".to_owned().into())
            .and_then(|text| Tree::yaml(text, budget)),
    };
    let tree = tree.map_err(|e| match e {
        Unreadable::Broken(why) => broken(why),
        Unreadable::Exceeded(exceeded) => exceeded.of(what()),
    })?;
    let spec = CdiSpec::deserialize(Value(Some(&tree))).map_err(|e| broken(e.to_string()))?;
    validate(&spec).map_err(broken)?;
    Ok(spec)
}

/// An error, and the path of the value that has it.
#[derive(Debug)]
struct Bad {
    /// `.devices[0].containerEdits`; empty for the document.
    at: String,
    /// Continues the path: `is not a list`.
    why: String,
}

impl Bad {
    /// The same error, seen from the collection that has the value as its `part`.
    fn below(self, part: fmt::Arguments<'_>) -> Self {
        let at = format!("{part}{}", self.at);
        Self { at, ..self }
    }
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = match &*self.at {
            "" => "the document",
            at => at.strip_prefix('.').unwrap_or(at),
        };
        write!(f, "{at} {}", self.why)
    }
}

impl core::error::Error for Bad {}

impl de::Error for Bad {
    fn custom<T: fmt::Display>(why: T) -> Self {
        Self {
            at: String::new(),
            why: why.to_string(),
        }
    }
}

type Read<T> = core::result::Result<T, Bad>;

fn bad<T>(why: impl fmt::Display) -> Read<T> {
    Err(de::Error::custom(why))
}

/// A value, or `None` for a field that is absent or null. An absent collection is an empty one.
struct Value<'a>(Option<&'a Tree>);

impl<'a> Value<'a> {
    /// The scalar without quotes.
    fn plain(&self) -> Option<&'a str> {
        match self.0 {
            Some(Tree::Plain(text)) => Some(text),
            _ => None,
        }
    }

    /// The entries of a mapping, without those of a merge key.
    fn entries(&self) -> Read<&'a [(Rc<str>, Tree)]> {
        match self.0 {
            None => Ok(&[]),
            Some(Tree::Map(map)) => Ok(&map.own),
            Some(_) => bad("is not a mapping"),
        }
    }
}

impl<'de> Deserializer<'de> for Value<'_> {
    type Error = Bad;

    /// Text; a scalar without quotes counts as text too, so `name: 0` is the device `0`.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        match self.0 {
            Some(Tree::Text(text) | Tree::Plain(text)) => visitor.visit_str(text),
            Some(_) => bad("is not text"),
            None => bad("is missing"),
        }
    }

    /// With `0x`, and with `0o` or, as in YAML 1.1, `0` before octal digits.
    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        let Some(text) = self.plain() else {
            return bad("is not a number");
        };
        let radix = |digits: &str, radix| u32::from_str_radix(digits, radix).ok();
        let value = match text.as_bytes() {
            [b'0', b'x', ..] => radix(&text[2..], 16),
            [b'0', b'o', ..] => radix(&text[2..], 8),
            [b'0', b'0'..=b'9', ..] => radix(&text[1..], 8),
            [b'0'..=b'9', ..] => radix(text, 10),
            _ => None,
        };
        match value {
            Some(value) => visitor.visit_u32(value),
            None => bad(format_args!("is `{text}`, not a number from 0 to {}", u32::MAX)),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        match self.plain() {
            Some("true") => visitor.visit_bool(true),
            Some("false") => visitor.visit_bool(false),
            _ => bad("is neither true nor false"),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        match self.0 {
            None => visitor.visit_none(),
            Some(_) => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        match self.0 {
            None => visitor.visit_seq(Items([].iter().enumerate())),
            Some(Tree::List(items)) => visitor.visit_seq(Items(items.iter().enumerate())),
            Some(_) => bad("is not a list"),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        let entries = self.entries()?.iter().map(|(key, tree)| (&**key, Some(tree)));
        visitor.visit_map(Entries { entries, value: None })
    }

    /// Hands out every field of the struct in its order, those that are absent too.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Read<V::Value> {
        let own = self.entries()?;
        if let Some((key, _)) = own.iter().find(|(key, _)| !fields.contains(&&**key)) {
            return bad(format_args!("has the unknown field `{key}`"));
        }
        let entries = fields.iter().map(|field| {
            let found = own.iter().find(|(key, _)| &**key == *field);
            (*field, found.map(|(_, tree)| tree).filter(|tree| !tree.is_null()))
        });
        visitor.visit_map(Entries { entries, value: None })
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct tuple tuple_struct enum identifier ignored_any
    }
}

/// The items of a list.
struct Items<'a>(core::iter::Enumerate<slice::Iter<'a, Tree>>);

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Bad;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Read<Option<T::Value>> {
        let Some((i, item)) = self.0.next() else {
            return Ok(None);
        };
        let read = seed.deserialize(Value(Some(item)));
        read.map(Some).map_err(|e| e.below(format_args!("[{i}]")))
    }
}

/// The entries of a mapping, or the fields of a struct.
struct Entries<'a, I> {
    entries: I,
    /// The entry whose key was handed out.
    value: Option<(&'a str, Option<&'a Tree>)>,
}

impl<'de, 'a, I: Iterator<Item = (&'a str, Option<&'a Tree>)>> de::MapAccess<'de> for Entries<'a, I> {
    type Error = Bad;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Read<Option<K::Value>> {
        self.value = self.entries.next();
        let Some((key, _)) = self.value else {
            return Ok(None);
        };
        let key: StrDeserializer<'_, Bad> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Read<V::Value> {
        let (key, value) = self.value.take().unwrap_or_default();
        let read = seed.deserialize(Value(value));
        read.map_err(|e| e.below(format_args!(".{key}")))
    }
}
