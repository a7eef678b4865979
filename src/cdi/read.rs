//! Reads a specification, strictly: a field that is not known is an error, as for the engines.

use super::tree::{Map, Tree, Unreadable};
use super::types::{CdiSpec, Device, DeviceNode, Edits, Hook, IntelRdt, Mount};
use super::validate::validate;
use super::version::Version;
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
    let spec = document(&tree).map_err(broken)?;
    validate(&spec).map_err(broken)?;
    Ok(spec)
}

type Bad = String;

fn document(tree: &Tree) -> Result<CdiSpec, Bad> {
    let map = Fields::of(
        tree,
        "",
        &["cdiVersion", "kind", "annotations", "devices", "containerEdits"],
    )?;
    let version = map.required("cdiVersion")?;
    let spec = CdiSpec {
        version: Version::parse(&version).ok_or_else(|| format!("cdiVersion `{version}` is not known"))?,
        kind: map.required("kind")?,
        annotations: map.pairs("annotations")?,
        devices: map.list("devices", device)?,
        edits: map.child("containerEdits", edits)?.unwrap_or_default(),
    };
    Ok(spec)
}

fn device(tree: &Tree, at: &str) -> Result<Device, Bad> {
    let map = Fields::of(tree, at, &["name", "annotations", "containerEdits"])?;
    Ok(Device {
        name: map.required("name")?,
        annotations: map.pairs("annotations")?,
        edits: map.child("containerEdits", edits)?.unwrap_or_default(),
    })
}

fn edits(tree: &Tree, at: &str) -> Result<Edits, Bad> {
    let map = Fields::of(
        tree,
        at,
        &[
            "env",
            "deviceNodes",
            "netDevices",
            "mounts",
            "hooks",
            "intelRdt",
            "additionalGids",
        ],
    )?;
    Ok(Edits {
        env: map.list("env", text)?,
        device_nodes: map.list("deviceNodes", node)?,
        net_devices: map.list("netDevices", net_device)?,
        mounts: map.list("mounts", mount)?,
        hooks: map.list("hooks", hook)?,
        intel_rdt: map.child("intelRdt", rdt)?,
        additional_gids: map.list("additionalGids", number)?,
    })
}

fn node(tree: &Tree, at: &str) -> Result<DeviceNode, Bad> {
    let map = Fields::of(
        tree,
        at,
        &[
            "path",
            "hostPath",
            "type",
            "major",
            "minor",
            "fileMode",
            "permissions",
            "uid",
            "gid",
        ],
    )?;
    Ok(DeviceNode {
        path: map.required("path")?,
        host_path: map.child("hostPath", text)?,
        typ: map.child("type", text)?,
        major: map.child("major", number)?,
        minor: map.child("minor", number)?,
        file_mode: map.child("fileMode", number)?,
        permissions: map.child("permissions", text)?,
        uid: map.child("uid", number)?,
        gid: map.child("gid", number)?,
    })
}

fn net_device(tree: &Tree, at: &str) -> Result<(String, String), Bad> {
    let map = Fields::of(tree, at, &["hostInterfaceName", "name"])?;
    Ok((map.required("hostInterfaceName")?, map.required("name")?))
}

fn mount(tree: &Tree, at: &str) -> Result<Mount, Bad> {
    let map = Fields::of(tree, at, &["hostPath", "containerPath", "options", "type"])?;
    Ok(Mount {
        host_path: map.required("hostPath")?,
        container_path: map.required("containerPath")?,
        options: map.list("options", text)?,
        typ: map.child("type", text)?,
    })
}

fn hook(tree: &Tree, at: &str) -> Result<Hook, Bad> {
    let map = Fields::of(tree, at, &["hookName", "path", "args", "env", "timeout"])?;
    Ok(Hook {
        stage: map.required("hookName")?,
        path: map.required("path")?,
        args: map.list("args", text)?,
        env: map.list("env", text)?,
        timeout: map.child("timeout", number)?,
    })
}

fn rdt(tree: &Tree, at: &str) -> Result<IntelRdt, Bad> {
    let map = Fields::of(
        tree,
        at,
        &[
            "closID",
            "l3CacheSchema",
            "memBwSchema",
            "schemata",
            "enableMonitoring",
            "enableCMT",
            "enableMBM",
        ],
    )?;
    Ok(IntelRdt {
        clos_id: map.child("closID", text)?,
        l3_cache_schema: map.child("l3CacheSchema", text)?,
        mem_bw_schema: map.child("memBwSchema", text)?,
        schemata: map.list("schemata", text)?,
        enable_monitoring: map.child("enableMonitoring", flag)?,
        enable_cmt: map.child("enableCMT", flag)?,
        enable_mbm: map.child("enableMBM", flag)?,
    })
}

/// Text; a scalar without quotes is taken as it stands, so `name: 0` is the device `0`.
fn text(tree: &Tree, at: &str) -> Result<String, Bad> {
    match tree {
        Tree::Text(text) | Tree::Plain(text) => Ok(text.as_ref().to_owned()),
        _ => Err(format!("{at} is not text")),
    }
}

/// A number from 0 to 2^32-1; with `0x`, and with `0o` or, as in YAML 1.1, `0` before octal digits.
fn number(tree: &Tree, at: &str) -> Result<u32, Bad> {
    let Tree::Plain(text) = tree else {
        return Err(format!("{at} is not a number"));
    };
    let radix = |digits: &str, radix| u32::from_str_radix(digits, radix).ok();
    let value = match text.as_bytes() {
        [b'0', b'x', ..] => radix(&text[2..], 16),
        [b'0', b'o', ..] => radix(&text[2..], 8),
        [b'0', b'0'..=b'9', ..] => radix(&text[1..], 8),
        [b'0'..=b'9', ..] => radix(text, 10),
        _ => None,
    };
    value.ok_or_else(|| format!("{at} is `{text}`, not a number from 0 to {}", u32::MAX))
}

fn flag(tree: &Tree, at: &str) -> Result<bool, Bad> {
    match tree {
        Tree::Plain(text) if &**text == "true" => Ok(true),
        Tree::Plain(text) if &**text == "false" => Ok(false),
        _ => Err(format!("{at} is neither true nor false")),
    }
}

/// A mapping with known keys.
struct Fields<'a> {
    at: &'a str,
    map: &'a Map,
}

impl<'a> Fields<'a> {
    fn of(tree: &'a Tree, at: &'a str, known: &[&str]) -> Result<Self, Bad> {
        let here = if at.is_empty() { "the document" } else { at };
        let Tree::Map(map) = tree else {
            return Err(format!("{here} is not a mapping"));
        };
        match map.own.iter().find(|(key, _)| !known.contains(&&**key)) {
            Some((key, _)) => Err(format!("{here} has the unknown field `{key}`")),
            None => Ok(Self { at, map }),
        }
    }

    fn get(&self, key: &str) -> Option<&'a Tree> {
        let (_, tree) = self.map.own.iter().find(|(known, _)| &**known == key)?;
        (!tree.is_null()).then_some(tree)
    }

    fn below(&self, key: &str) -> String {
        if self.at.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.at)
        }
    }

    fn child<T>(&self, key: &str, read: impl Fn(&Tree, &str) -> Result<T, Bad>) -> Result<Option<T>, Bad> {
        self.get(key).map(|tree| read(tree, &self.below(key))).transpose()
    }

    fn required(&self, key: &str) -> Result<String, Bad> {
        self.child(key, text)?
            .ok_or_else(|| format!("{} is missing", self.below(key)))
    }

    fn list<T>(&self, key: &str, read: impl Fn(&Tree, &str) -> Result<T, Bad>) -> Result<Vec<T>, Bad> {
        let at = self.below(key);
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Tree::List(items)) => items
                .iter()
                .enumerate()
                .map(|(i, item)| read(item, &format!("{at}[{i}]")))
                .collect(),
            Some(_) => Err(format!("{at} is not a list")),
        }
    }

    fn pairs(&self, key: &str) -> Result<Vec<(String, String)>, Bad> {
        let at = self.below(key);
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Tree::Map(map)) => map
                .own
                .iter()
                .map(|(k, v)| Ok((k.as_ref().to_owned(), text(v, &format!("{at}.{k}"))?)))
                .collect(),
            Some(_) => Err(format!("{at} is not a mapping")),
        }
    }
}
