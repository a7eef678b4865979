//! Settings that a container may have for itself, by an annotation or a variable of its own.
//!
//! A [`Choice`] is a key with a value of the key's type. Only [`Choice::set`] puts it into a
//! configuration, together with its author, so each value of a container has its [`Origin`]. For
//! example, `NVOCI_LAYOUT=native` becomes `Choice::Layout(Layout::Native)`.

use core::fmt;

use serde_json::{Value as Json, json};
use toml_edit::Item;

use super::value::{Bad, CudaCompat, Layout, Preflight, Value};
use super::{Config, Origin, Setting};

/// The longest value that is read, in bytes.
const MAX: usize = 32;

macro_rules! choices {
    ($(#[doc = $doc:literal] $name:ident($type:ty) = $key:literal, $field:ident;)*) => {
        /// A setting that a container may have for itself, and its value.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum Choice { $(#[doc = $doc] $name($type),)* }

        impl Choice {
            /// The keys, as in the configuration file.
            pub const KEYS: &'static [&'static str] = &[$($key,)*];

            /// The key.
            pub const fn key(self) -> &'static str {
                match self { $(Self::$name(_) => $key,)* }
            }

            fn read(key: &str, item: &Item) -> Option<Result<Self, Bad>> {
                match key {
                    $($key => Some(<$type as Value>::read(item).map(Self::$name)),)*
                    _ => None,
                }
            }

            fn json(self) -> Json {
                match self { $(Self::$name(value) => value.json(),)* }
            }

            /// Whether the configuration has this value already.
            pub fn is_in(self, config: &Config) -> bool {
                match self { $(Self::$name(value) => *config.$field == value,)* }
            }

            /// Puts the value into the configuration, with the variable or annotation `name` and
            /// its author `by`.
            pub fn set(self, config: &mut Config, name: &str, by: &'static str) {
                let origin = Origin::Container { name: name.to_owned(), by };
                match self { $(Self::$name(value) => config.$field = Setting { value, origin },)* }
            }
        }
    };
}

choices! {
    /// Whether an image's newer CUDA compatibility libraries are used.
    CudaCompat(CudaCompat) = "cuda-compat", cuda_compat;
    /// Whether the sockets of the driver's daemons are given.
    IpcSockets(bool) = "ipc-sockets", ipc_sockets;
    /// Where driver files appear.
    Layout(Layout) = "layout", layout;
    /// Whether the device cgroup is left alone.
    NoCgroups(bool) = "no-cgroups", no_cgroups;
    /// What happens if the preflight check has a finding.
    Preflight(Preflight) = "preflight", preflight;
    /// Whether the container's standard error gets the preflight check's worst finding.
    WarnStderr(bool) = "warn-stderr", warn_stderr;
}

impl Choice {
    /// Parses the value of `key`; `None` if there is no such key. The error is the expected value.
    pub fn parse(key: &str, value: &str) -> Option<Result<Self, String>> {
        let item: Item = match value.trim() {
            "true" => true.into(),
            "false" => false.into(),
            text if text.len() <= MAX => text.into(),
            _ => "".into(),
        };
        Self::read(key, &item).map(|read| read.map_err(|bad| bad.expected))
    }

    /// The value as in a configuration file, without quotes.
    pub fn value(self) -> String {
        match self.json() {
            Json::String(text) => text,
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Choice {
    /// `key=value`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key(), self.value())
    }
}

/// A choice that the administrator leaves to containers: one value of a key, or every value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Allowance {
    key: &'static str,
    only: Option<Choice>,
}

impl Allowance {
    /// Choices that only take rights away or check more strictly. An image's author can write any
    /// variable, so no entry may give a container more.
    pub(super) fn narrowing() -> Vec<Self> {
        [
            Choice::CudaCompat(CudaCompat::Off),
            Choice::IpcSockets(false),
            Choice::NoCgroups(true),
            Choice::Preflight(Preflight::Enforce),
            // A line about the container, to its own standard error.
            Choice::WarnStderr(true),
        ]
        .map(|choice| Self {
            key: choice.key(),
            only: Some(choice),
        })
        .into()
    }

    /// Whether a container may make this choice.
    pub fn covers(&self, choice: Choice) -> bool {
        self.key == choice.key() && self.only.is_none_or(|only| only == choice)
    }

    fn parse(text: &str) -> Option<Self> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key.trim(), Some(value)),
            None => (text.trim(), None),
        };
        let key = Choice::KEYS.iter().find(|known| **known == key)?;
        let only = match value {
            Some(value) => Some(Choice::parse(key, value)?.ok()?),
            None => None,
        };
        Some(Self { key, only })
    }
}

impl Value for Vec<Allowance> {
    fn read(item: &Item) -> Result<Self, Bad> {
        let bad = |text: &str| {
            let keys = Choice::KEYS.join(", ");
            let expected = format!("KEY or KEY=VALUE, as \"ipc-sockets=false\"; the keys are {keys}");
            Bad::new(format!("{text:?}"), expected)
        };
        let texts = <Vec<String> as Value>::read(item)?;
        let read = |text: &String| Allowance::parse(text).ok_or_else(|| bad(text));
        texts.iter().map(read).collect()
    }

    fn json(&self) -> Json {
        let text = |allowed: &Allowance| match allowed.only {
            Some(choice) => json!(choice.to_string()),
            None => json!(allowed.key),
        };
        self.iter().map(text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_read_and_shown() {
        for text in [
            "cuda-compat=auto",
            "cuda-compat=off",
            "ipc-sockets=true",
            "ipc-sockets=false",
            "layout=private",
            "layout=native",
            "no-cgroups=true",
            "no-cgroups=false",
            "preflight=off",
            "preflight=warn",
            "preflight=enforce",
            "warn-stderr=true",
            "warn-stderr=false",
        ] {
            let (key, value) = text.split_once('=').unwrap();
            let choice = Choice::parse(key, value).unwrap().unwrap();
            assert_eq!(choice.to_string(), text);
            let mut config = Config::default();
            choice.set(&mut config, "NVOCI_X", "env");
            assert!(choice.is_in(&config));
            let own = |origin: &Origin| matches!(origin, Origin::Container { name, by: "env" } if name == "NVOCI_X");
            let set: Vec<_> = config
                .settings()
                .into_iter()
                .filter(|(.., origin)| own(origin))
                .collect();
            assert_eq!(set.len(), 1);
            assert_eq!(set[0].0, key);
        }
        for (key, value) in [
            ("layout", ""),
            ("layout", "Native"),
            ("ipc-sockets", "1"),
            ("ipc-sockets", "\"false\""),
            ("preflight", "true"),
            ("preflight", "enforce\nx"),
        ] {
            assert!(Choice::parse(key, value).unwrap().is_err(), "{key}={value}");
        }
        assert!(
            Choice::parse("layout", &"native".repeat(10_000))
                .unwrap()
                .is_err()
        );
        for key in [
            "",
            "mode",
            "driver-root",
            "accept-envvar-unprivileged",
            "LAYOUT",
            "layout ",
        ] {
            assert_eq!(Choice::parse(key, "true"), None, "{key}");
        }
    }

    /// No choice that is allowed by default gives a container more than any configuration does.
    #[test]
    fn by_default_only_less() {
        let allowed = Config::default().container_settings;
        let may = |text: &str| {
            let (key, value) = text.split_once('=').unwrap();
            let choice = Choice::parse(key, value).unwrap().unwrap();
            allowed.iter().any(|a| a.covers(choice))
        };
        for narrower in [
            "cuda-compat=off",
            "ipc-sockets=false",
            "no-cgroups=true",
            "preflight=enforce",
            "warn-stderr=true",
        ] {
            assert!(may(narrower), "{narrower}");
        }
        for wider in [
            "cuda-compat=auto",
            "ipc-sockets=true",
            "no-cgroups=false",
            "preflight=off",
            "preflight=warn",
            "layout=native",
            "layout=private",
            "warn-stderr=false",
        ] {
            assert!(!may(wider), "{wider}");
        }
    }

    #[test]
    fn a_list_of_an_administrator() {
        let of = |text: &str| {
            let text = format!("container-settings = {text}");
            Config::parse(
                &text,
                std::path::Path::new("/o.toml"),
                crate::config::Dialect::Nvoci,
            )
        };
        let config = of("[\"layout\", \"preflight = warn\"]").unwrap();
        let covers = |choice| config.container_settings.iter().any(|a| a.covers(choice));
        assert!(covers(Choice::Layout(Layout::Native)) && covers(Choice::Layout(Layout::Private)));
        assert!(covers(Choice::Preflight(Preflight::Warn)) && !covers(Choice::Preflight(Preflight::Off)));
        assert!(!covers(Choice::IpcSockets(false)));
        assert!(of("[]").unwrap().container_settings.is_empty());
        for bad in [
            "[\"mode\"]",
            "[\"layout=flat\"]",
            "[\"\"]",
            "[\"layout=\"]",
            "[\"=\"]",
            "true",
        ] {
            let e = of(bad).unwrap_err().to_string();
            assert!(e.contains("container-settings"), "{bad}: {e}");
        }
    }
}
