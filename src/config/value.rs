//! Reads the types of settings from TOML, and prints them.

use core::ops::Deref;
use std::path::{Component, Path, PathBuf};

use serde_json::{Value as Json, json};
use toml_edit::Item;

use crate::capabilities::Capabilities;
use crate::cdi_name::split_kind;

/// The longest string and the longest list in a configuration file.
const MAX_STRING: usize = 4096;
const MAX_LIST: usize = 256;

/// The value of a key, and the expected value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Bad {
    pub(super) got: String,
    pub(super) expected: String,
}

impl Bad {
    pub(super) fn new(got: impl Into<String>, expected: impl Into<String>) -> Self {
        Self {
            got: got.into(),
            expected: expected.into(),
        }
    }

    pub(super) fn item(item: &Item, expected: impl Into<String>) -> Self {
        Self::new(show(item), expected)
    }
}

/// A type that a setting can have.
pub(super) trait Value: Sized {
    fn read(item: &Item) -> Result<Self, Bad>;
    fn json(&self) -> Json;
}

impl Value for bool {
    fn read(item: &Item) -> Result<Self, Bad> {
        item.as_bool().ok_or_else(|| Bad::item(item, "true or false"))
    }

    fn json(&self) -> Json {
        json!(self)
    }
}

impl Value for Option<u32> {
    /// A number only, since nvoci uses no name service. An empty string is no user.
    fn read(item: &Item) -> Result<Self, Bad> {
        if item.as_str() == Some("") {
            return Ok(None);
        }
        let number = item.as_integer().and_then(|n| u32::try_from(n).ok());
        number
            .filter(|user| *user != u32::MAX)
            .map(Some)
            .ok_or_else(|| Bad::item(item, "the number of a user, or \"\""))
    }

    fn json(&self) -> Json {
        self.map_or_else(|| json!(""), |user| json!(user))
    }
}

impl Value for PathBuf {
    fn read(item: &Item) -> Result<Self, Bad> {
        path(string(item, "an absolute path")?)
    }

    fn json(&self) -> Json {
        json!(self.display().to_string())
    }
}

impl Value for Option<PathBuf> {
    /// An empty string is no path.
    fn read(item: &Item) -> Result<Self, Bad> {
        match string(item, "an absolute path, or \"\"")? {
            "" => Ok(None),
            text => path(text).map(Some),
        }
    }

    fn json(&self) -> Json {
        self.as_ref().map_or_else(|| json!(""), Value::json)
    }
}

impl Value for Vec<PathBuf> {
    fn read(item: &Item) -> Result<Self, Bad> {
        strings(item, "a list of absolute paths")?
            .into_iter()
            .map(path)
            .collect()
    }

    fn json(&self) -> Json {
        self.iter().map(Value::json).collect()
    }
}

impl Value for Vec<String> {
    /// A comma-separated string is a list too, as in the vendor's file.
    fn read(item: &Item) -> Result<Self, Bad> {
        if let Some(text) = item.as_str() {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            return Ok(items.map(str::to_owned).collect());
        }
        Ok(strings(item, "a list of strings")?
            .into_iter()
            .map(str::to_owned)
            .collect())
    }

    fn json(&self) -> Json {
        json!(self)
    }
}

impl Value for Capabilities {
    fn read(item: &Item) -> Result<Self, Bad> {
        let text = <Vec<String> as Value>::read(item)?.join(",");
        Self::from_list(&text).map_err(|_| Bad::item(item, format!("a list of {}, or all", Self::ALL)))
    }

    fn json(&self) -> Json {
        self.names().collect()
    }
}

/// A CDI kind, `vendor/class`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Kind(String);

impl Default for Kind {
    fn default() -> Self {
        Self("nvidia.com/gpu".to_owned())
    }
}

impl Deref for Kind {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Kind {
    /// The kind of the devices that configure a GPU.
    pub(super) fn management() -> Self {
        Self("management.nvidia.com/gpu".to_owned())
    }

    fn of(item: &Item, text: &str) -> Result<Self, Bad> {
        split_kind(text).ok_or_else(|| Bad::item(item, KIND))?;
        Ok(Self(text.to_owned()))
    }
}

impl Value for Vec<Kind> {
    fn read(item: &Item) -> Result<Self, Bad> {
        let kinds = <Vec<String> as Value>::read(item)?;
        kinds.iter().map(|text| Kind::of(item, text)).collect()
    }

    fn json(&self) -> Json {
        self.iter().map(Value::json).collect()
    }
}

impl Value for Kind {
    fn read(item: &Item) -> Result<Self, Bad> {
        Self::of(item, string(item, KIND)?)
    }

    fn json(&self) -> Json {
        json!(self.0)
    }
}

const KIND: &str = "a CDI kind such as \"nvidia.com/gpu\", with at least two letters in each part";

macro_rules! choice {
    ($(#[doc = $doc:literal])+ $type:ident { $(#[doc = $what:literal] $name:ident = $text:literal $(| $also:literal)*,)* }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum $type { $(#[doc = $what] $name,)* }

        impl $type {
            const CHOICES: &'static [&'static str] = &[$($text,)*];

            /// The value as in a configuration file.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }

        impl Value for $type {
            fn read(item: &Item) -> Result<Self, Bad> {
                match item.as_str() {
                    $(Some($text $(| $also)*) => Ok(Self::$name),)*
                    _ => Err(Bad::item(item, one_of(Self::CHOICES))),
                }
            }

            fn json(&self) -> Json {
                json!(self.name())
            }
        }
    };
}

choice! {
    /// Where driver files appear in a container.
    Layout {
        /// In a directory of their own.
        Private = "private",
        /// In the directories of the container's distribution.
        Native = "native",
    }
}

choice! {
    /// What happens if the preflight check finds that a container cannot compute.
    Preflight {
        /// The check does not run.
        Off = "off",
        /// The finding becomes a warning in the record.
        Warn = "warn",
        /// The container does not start.
        Enforce = "enforce",
    }
}

choice! {
    /// Whether an image's newer CUDA compatibility libraries are used.
    CudaCompat {
        /// If the driver and the GPU allow it.
        Auto = "auto",
        /// Never.
        Off = "off",
    }
}

choice! {
    /// How device names are read.
    Mode {
        /// As devices of this host.
        Auto = "auto" | "legacy" | "jit-cdi",
        /// As names in CDI specifications.
        Cdi = "cdi",
        /// As devices of a Jetson, described by CSV files.
        Csv = "csv",
    }
}

choice! {
    /// The least severe level that is logged.
    LogLevel {
        /// Nothing.
        Off = "off",
        /// Errors.
        Error = "error" | "fatal" | "panic",
        /// Warnings.
        Warn = "warn" | "warning",
        /// Actions.
        Info = "info",
        /// Reasons of actions.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

/// A string of bounded length without control characters.
pub(super) fn string<'a>(item: &'a Item, expected: &str) -> Result<&'a str, Bad> {
    let text = item.as_str().ok_or_else(|| Bad::item(item, expected))?;
    plain(text).ok_or_else(|| {
        Bad::item(
            item,
            format!("{expected}, of at most {MAX_STRING} plain characters"),
        )
    })
}

/// A list of such strings.
pub(super) fn strings<'a>(item: &'a Item, expected: &str) -> Result<Vec<&'a str>, Bad> {
    let array = item.as_array().ok_or_else(|| Bad::item(item, expected))?;
    if array.len() > MAX_LIST {
        return Err(Bad::new(
            format!("{} entries", array.len()),
            format!("at most {MAX_LIST}"),
        ));
    }
    let one = |value: &'a toml_edit::Value| value.as_str().and_then(plain);
    let all: Option<Vec<&str>> = array.iter().map(one).collect();
    all.ok_or_else(|| Bad::item(item, expected))
}

/// An absolute path without `..`, in its shortest form.
pub(super) fn path(text: &str) -> Result<PathBuf, Bad> {
    let path = Path::new(text);
    if path.is_absolute() && !path.components().any(|c| c == Component::ParentDir) {
        return Ok(path.components().collect());
    }
    Err(Bad::new(format!("{text:?}"), "an absolute path without `..`"))
}

fn plain(text: &str) -> Option<&str> {
    (text.len() <= MAX_STRING && !text.chars().any(char::is_control)).then_some(text)
}

/// `"off", "warn" or "enforce"`
pub(super) fn one_of(choices: &[&str]) -> String {
    let quoted: Vec<String> = choices.iter().map(|choice| format!("{choice:?}")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// The value of a key, on one short line.
fn show(item: &Item) -> String {
    const MAX: usize = 60;
    let text = match item {
        Item::Table(_) => "a table".to_owned(),
        Item::ArrayOfTables(_) => "an array of tables".to_owned(),
        _ => item.to_string().trim().to_owned(),
    };
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
