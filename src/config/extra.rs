//! `[[extra]]`: what a site adds to the containers that get a GPU.
//!
//! ```toml
//! [[extra]]
//! capability = "compute"          # or a list; left out: every GPU container
//! files = ["/opt/site/libprobe.so", { source = "/opt/site/a.conf", target = "/etc/a.conf" }]
//! devices = ["/dev/site0"]
//! env = { SITE_PROBE = "1" }
//! ```

use core::fmt;
use std::path::PathBuf;

use serde_json::{Value as Json, json};
use toml_edit::{Item, TableLike};

use crate::capabilities::Capabilities;

use super::value::{Bad, Value, path, string, strings};

/// The most `[[extra]]` tables, and the most entries of each list in one.
const MAX: usize = 256;

/// One addition.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Extra {
    /// The capabilities of which one is needed; if empty, every GPU container gets it.
    pub capabilities: Capabilities,
    /// Files and directories, given read-only.
    pub files: Vec<ExtraFile>,
    /// Device nodes.
    pub devices: Vec<PathBuf>,
    /// Variables, replacing the container's.
    pub env: Vec<(String, String)>,
}

/// A file of the host and its place in the container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExtraFile {
    /// Absolute, without `..`.
    pub source: PathBuf,
    /// Absolute, without `..`; by default the same path.
    pub target: PathBuf,
}

impl Extra {
    /// Whether a container with these capabilities gets it.
    pub fn applies_to(&self, capabilities: Capabilities) -> bool {
        self.capabilities.is_empty() || self.capabilities.intersects(capabilities)
    }

    pub(super) fn json(&self) -> Json {
        let files = self.files.iter();
        let env: serde_json::Map<String, Json> = self
            .env
            .iter()
            .map(|(name, value)| (name.clone(), json!(value)))
            .collect();
        json!({
            "capability": self.capabilities.json(),
            "files": files.map(|f| json!({ "source": f.source.json(), "target": f.target.json() })).collect::<Vec<_>>(),
            "devices": self.devices.json(),
            "env": env,
        })
    }
}

impl fmt::Display for Extra {
    /// The lines below `[[extra]]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = self.files.iter();
        let files =
            files.map(|f| format!("{{ source = {}, target = {} }}", f.source.json(), f.target.json()));
        let env = self
            .env
            .iter()
            .map(|(name, value)| format!("{name} = {}", json!(value)));
        writeln!(f, "capability = {}", self.capabilities.json())?;
        writeln!(f, "files = [{}]", files.collect::<Vec<_>>().join(", "))?;
        writeln!(f, "devices = {}", self.devices.json())?;
        write!(f, "env = {{ {} }}", env.collect::<Vec<_>>().join(", "))
    }
}

pub(super) fn read(item: &Item) -> Result<Vec<Extra>, (String, Bad)> {
    let key = "extra".to_owned();
    let Some(tables) = item.as_array_of_tables() else {
        return Err((key, Bad::item(item, "[[extra]] tables")));
    };
    if tables.len() > MAX {
        return Err((
            key,
            Bad::new(format!("{} tables", tables.len()), format!("at most {MAX}")),
        ));
    }
    let numbered = tables.iter().enumerate();
    numbered
        .map(|(i, table)| one(table).map_err(|(key, bad)| (format!("extra[{i}].{key}"), bad)))
        .collect()
}

fn one(table: &dyn TableLike) -> Result<Extra, (String, Bad)> {
    let mut extra = Extra::default();
    for (key, item) in table.iter() {
        let read = match key {
            "capability" => Capabilities::read(item).map(|value| extra.capabilities = value),
            "files" => files(item).map(|value| extra.files = value),
            "devices" => devices(item).map(|value| extra.devices = value),
            "env" => env(item).map(|value| extra.env = value),
            // A typo is an error here: a misspelt `capability` would give the files to every
            // container.
            _ => Err(Bad::new("an unknown key", "capability, files, devices or env")),
        };
        read.map_err(|bad| (key.to_owned(), bad))?;
    }
    Ok(extra)
}

fn files(item: &Item) -> Result<Vec<ExtraFile>, Bad> {
    const EXPECTED: &str = "a list of absolute paths or { source = …, target = … }";
    let array = item
        .as_array()
        .filter(|array| array.len() <= MAX)
        .ok_or_else(|| Bad::item(item, EXPECTED))?;
    let one = |value: &toml_edit::Value| {
        if let Some(text) = value.as_str() {
            let source = path(text)?;
            return Ok(ExtraFile {
                target: source.clone(),
                source,
            });
        }
        let table = value.as_inline_table().filter(|table| table.len() == 2);
        let get = |key| {
            table
                .and_then(|table| table.get(key)?.as_str())
                .ok_or_else(|| Bad::item(item, EXPECTED))
        };
        Ok(ExtraFile {
            source: path(get("source")?)?,
            target: path(get("target")?)?,
        })
    };
    array.iter().map(one).collect()
}

fn devices(item: &Item) -> Result<Vec<PathBuf>, Bad> {
    let paths = strings(item, "a list of device nodes")?;
    let one = |text: &str| {
        let path = path(text)?;
        let below = path
            .strip_prefix("/dev")
            .is_ok_and(|rest| !rest.as_os_str().is_empty());
        below
            .then_some(path)
            .ok_or_else(|| Bad::new(format!("{text:?}"), "a path below /dev"))
    };
    paths.into_iter().map(one).collect()
}

fn env(item: &Item) -> Result<Vec<(String, String)>, Bad> {
    const EXPECTED: &str = "a table of variables with string values";
    let table = item
        .as_table_like()
        .filter(|t| t.len() <= MAX)
        .ok_or_else(|| Bad::item(item, EXPECTED))?;
    let one = |(name, item): (&str, &Item)| {
        let start = |c: char| c.is_ascii_alphabetic() || c == '_';
        if !name.starts_with(start) || !name.chars().all(|c| start(c) || c.is_ascii_digit()) {
            return Err(Bad::new(format!("the name {name:?}"), "letters, digits and `_`"));
        }
        Ok((name.to_owned(), string(item, EXPECTED)?.to_owned()))
    };
    table.iter().map(one).collect()
}
