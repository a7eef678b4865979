//! The rules of a specification beyond its structure: values that the engines' library refuses, and
//! values that make it panic.

use std::collections::HashSet;

use super::types::{CdiSpec, DeviceNode, Edits, Hook, Mount};
use super::version::Version;
use crate::oci::Stage;
use crate::request::{CdiName, split_kind};

/// The most bytes of all annotations of one object, as in Kubernetes.
const MAX_ANNOTATIONS: usize = 256 << 10;

/// A specification that engines take. [`emit`](super::emit) writes nothing else, so an edited
/// specification always declares the version that it needs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Valid(CdiSpec);

impl Valid {
    /// Raises the declared version to the one that the content needs, and checks the rest. A higher
    /// version stays.
    ///
    /// # Errors
    /// As of [`validate`].
    pub fn of(mut spec: CdiSpec) -> Result<Self, String> {
        spec.version = spec.version.max(Version::needed_by(&spec));
        validate(&spec)?;
        Ok(Self(spec))
    }

    /// The specification.
    pub const fn spec(&self) -> &CdiSpec {
        &self.0
    }
}

/// Checks a specification; the error names the part and the reason.
pub fn validate(spec: &CdiSpec) -> Result<(), String> {
    if split_kind(&spec.kind).is_none() {
        return Err(format!(
            "kind `{}` is not vendor/class: each of letters, digits, `_`, `-`, `.`, at least two, the first a letter \
             and the last a letter or digit (a part of one letter makes Docker, Podman and containerd crash)",
            spec.kind
        ));
    }
    if spec.version < Version::V0_3 {
        return Err(format!("cdiVersion {} is older than engines take", spec.version));
    }
    let needed = Version::needed_by(spec);
    if spec.version < needed {
        return Err(format!(
            "it declares cdiVersion {} and uses what came with {needed}",
            spec.version
        ));
    }
    annotations(&spec.annotations, "the document")?;
    if spec.devices.is_empty() {
        return Err("it has no devices".to_owned());
    }
    let mut names = HashSet::new();
    for device in &spec.devices {
        if CdiName::of_kind(&spec.kind, &device.name).is_none() {
            return Err(format!("`{}` is not a device name", device.name));
        }
        if !names.insert(&device.name) {
            return Err(format!("device `{}` is there twice", device.name));
        }
        if device.edits.is_empty() {
            return Err(format!("device `{}` changes nothing", device.name));
        }
        let at = format!("device `{}`", device.name);
        annotations(&device.annotations, &at)?;
        edits(&device.edits, spec.version, &at)?;
    }
    edits(&spec.edits, spec.version, "the document")
}

fn annotations(annotations: &[(String, String)], at: &str) -> Result<(), String> {
    let size: usize = annotations.iter().map(|(k, v)| k.len() + v.len()).sum();
    if size > MAX_ANNOTATIONS {
        return Err(format!(
            "{at}: its annotations are longer than {MAX_ANNOTATIONS} bytes"
        ));
    }
    match annotations.iter().find(|(key, _)| !is_annotation(key)) {
        Some((key, _)) => Err(format!("{at}: `{key}` is not an annotation key")),
        None => Ok(()),
    }
}

/// `[domain/]name`, each at most 253 and 63 bytes of letters, digits, `-`, `_`, `.`.
fn is_annotation(key: &str) -> bool {
    let good = |part: &str, max: usize| {
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        part.len() <= max
            && edge(part.as_bytes().first())
            && edge(part.as_bytes().last())
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    match key.split_once('/') {
        Some((domain, name)) => good(domain, 253) && good(name, 63),
        None => good(key, 63),
    }
}

fn edits(edits: &Edits, version: Version, at: &str) -> Result<(), String> {
    if let Some(bad) = edits
        .env
        .iter()
        .find(|e| e.split_once('=').is_none_or(|(k, _)| k.is_empty()))
    {
        return Err(format!("{at}: env `{bad}` is not NAME=VALUE"));
    }
    let node = edits.device_nodes.iter().find_map(node);
    let wrong = node
        .or_else(|| edits.mounts.iter().find_map(mount))
        .or_else(|| edits.hooks.iter().find_map(hook));
    if let Some(why) = wrong {
        return Err(format!("{at}: {why}"));
    }
    if edits
        .net_devices
        .iter()
        .any(|device| device.host_interface_name.is_empty() || device.name.is_empty())
    {
        return Err(format!("{at}: a network device has no name"));
    }
    if let Some(rdt) = &edits.intel_rdt {
        let id = rdt.clos_id.as_deref().unwrap_or_default();
        if matches!(id, "." | "..") || id.len() >= 4096 || id.contains(['/', '\n']) {
            return Err(format!("{at}: `{id}` is not a class of service"));
        }
        if version >= Version::V1_1 && (rdt.enable_cmt.is_some() || rdt.enable_mbm.is_some()) {
            return Err(format!("{at}: enableCMT and enableMBM were removed in 1.1.0"));
        }
    }
    Ok(())
}

fn node(node: &DeviceNode) -> Option<String> {
    let path = &node.path;
    if !path.starts_with('/') || node.host_path.as_ref().is_some_and(|p| !p.starts_with('/')) {
        return Some(format!("device node `{path}` is not an absolute path"));
    }
    let known = |t: &String| matches!(t.as_str(), "b" | "c" | "u" | "p" | "");
    if node.typ.as_ref().is_some_and(|t| !known(t)) {
        return Some(format!("device node {path} has an unknown type"));
    }
    let letters = node.permissions.as_deref().unwrap_or_default();
    if letters != "none" && !letters.chars().all(|c| "rwm".contains(c)) {
        return Some(format!(
            "device node {path}: permissions `{letters}` are not of `rwm`"
        ));
    }
    None
}

fn mount(mount: &Mount) -> Option<String> {
    let bind = mount.typ.as_deref().is_none_or(|t| matches!(t, "" | "bind"));
    if mount.host_path.is_empty() || (bind && !mount.host_path.starts_with('/')) {
        return Some(format!(
            "mount of `{}`: its host path is not absolute",
            mount.host_path
        ));
    }
    (!mount.container_path.starts_with('/')).then(|| {
        format!(
            "mount of {}: its container path `{}` is not absolute",
            mount.host_path, mount.container_path
        )
    })
}

fn hook(hook: &Hook) -> Option<String> {
    if !Stage::ALL.iter().any(|stage| stage.key() == hook.stage) {
        return Some(format!("`{}` is not a hook's stage", hook.stage));
    }
    if !hook.path.starts_with('/') {
        return Some(format!("hook `{}` is not an absolute path", hook.path));
    }
    let bad = hook
        .env
        .iter()
        .find(|e| e.split_once('=').is_none_or(|(k, _)| k.is_empty()))?;
    Some(format!("hook {}: env `{bad}` is not NAME=VALUE", hook.path))
}
