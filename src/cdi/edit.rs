//! Edits a container's definition as an engine does for CDI devices.
//!
//! The order is CDI's. For each device come the edits of its specification, once, then its own. All
//! of them are then applied together. Unlike the engines' library, nvoci replaces an environment
//! variable instead of adding it twice. Mounts are not mapped to the ids of a user namespace, since
//! their sources are root's files, which everybody may read.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::registry::Registry;
use super::types::{DeviceNode, Edits, Hook};
use crate::error::{Code, Error, IoContext as _, Result};
use crate::oci::{Access, DeviceKind, DeviceRule, DeviceSpec, HookSpec, Mount, RuleKind, Spec, Stage, clean};
use crate::request::CdiName;
use crate::sys::root::Root;

/// The edits of several devices, in the order in which they are applied.
///
/// # Errors
/// [`Code::Cdi`], naming every missing device and the existing ones.
pub fn edits_of(registry: &Registry, names: &[CdiName], dirs: &[PathBuf]) -> Result<Edits> {
    let missing: Vec<&CdiName> = names.iter().filter(|n| registry.find(n).is_none()).collect();
    if !missing.is_empty() {
        return Err(registry.unresolvable(&missing, dirs));
    }
    let mut all = Edits::default();
    for (loaded, device) in names.iter().filter_map(|n| registry.find(n)) {
        all.merge(&loaded.spec.edits);
        all.merge(&device.edits);
    }
    Ok(all)
}

/// Applies edits. Doing it twice changes nothing more.
///
/// # Errors
/// [`Code::DeviceNode`] if a node is not on the host, [`Code::Cdi`] for an edit that nvoci does not
/// support.
pub fn apply(edits: &Edits, spec: &mut Spec) -> Result<()> {
    for entry in &edits.env {
        if let Some((key, value)) = entry.split_once('=') {
            spec.set_env(key, value)?;
        }
    }
    let host = Root::open("/").context(Code::System, || "open /")?;
    let user = spec.process_user();
    for node in &edits.device_nodes {
        let mut device = complete(node, &host)?;
        // As the engines do, so that the container's user can open the node.
        device.uid = node.uid.or_else(|| (user.uid > 0).then_some(user.uid));
        device.gid = node.gid.or_else(|| (user.gid > 0).then_some(user.gid));
        spec.add_device(&device)?;
        let letters = node
            .permissions
            .as_deref()
            .filter(|p| !p.is_empty())
            .unwrap_or("rwm");
        if let Some(access) = Access::parse(letters).filter(|_| letters != "none") {
            let kind = RuleKind::from(device.kind);
            spec.allow_device(&DeviceRule::allow(kind, device.major, device.minor, access))?;
        }
    }
    if !edits.net_devices.is_empty() || edits.intel_rdt.is_some() {
        let why = "its specification moves network devices or sets Intel RDT, which nvoci does not do";
        return Err(
            Error::new(Code::Cdi, "CDI device", why).fix("give the device to the engine (`--device`)")
        );
    }
    // Of two mounts on one place the later one counts. The earlier one must not move the
    // definition's own mount there: applying a device twice would change the order of the mounts.
    let last: HashMap<_, _> = (0..)
        .zip(&edits.mounts)
        .map(|(i, m)| (clean(&m.container_path), i))
        .collect();
    for (i, mount) in (0..).zip(&edits.mounts) {
        if last.get(&clean(&mount.container_path)) != Some(&i) {
            continue;
        }
        spec.add_mount(&Mount {
            destination: mount.container_path.clone(),
            source: Some(mount.host_path.clone()),
            typ: mount.typ.clone(),
            options: mount.options.clone(),
        })?;
    }
    if !edits.mounts.is_empty() {
        spec.sort_mounts();
    }
    for hook in &edits.hooks {
        if let Some(stage) = Stage::ALL.iter().find(|s| s.key() == hook.stage) {
            spec.add_hook(*stage, &hook_spec(hook))?;
        }
    }
    for gid in edits.additional_gids.iter().filter(|g| **g != 0) {
        spec.add_additional_gid(*gid)?;
    }
    Ok(())
}

/// Completes a node with the values of the host's node.
fn complete(node: &DeviceNode, host: &Root) -> Result<DeviceSpec> {
    let what = || format!("device node {} of a CDI specification", node.on_host());
    let kind = match node.typ.as_deref() {
        Some("c" | "u") => Some(DeviceKind::Char),
        Some("b") => Some(DeviceKind::Block),
        Some("p") => return Err(Error::new(Code::Cdi, what(), "it is a FIFO, which is no device")),
        _ => None,
    };
    let mut device = DeviceSpec {
        path: node.path.clone(),
        kind: kind.unwrap_or(DeviceKind::Char),
        major: node.major.unwrap_or(0),
        minor: node.minor.unwrap_or(0),
        file_mode: node.file_mode,
        uid: None,
        gid: None,
    };
    if kind.is_some() && node.major.is_some() {
        return Ok(device);
    }
    let there = host.resolve_nofollow(Path::new(node.on_host())).map_err(|e| {
        Error::io(Code::DeviceNode, what(), &e)
            .fix("load the driver (`nvidia-modprobe -u -c 0`), then `nvoci cdi generate --output /var/run/cdi/nvidia.yaml`")
    })?;
    device.kind = match there.kind() {
        FileType::CharacterDevice => DeviceKind::Char,
        FileType::BlockDevice => DeviceKind::Block,
        _ => return Err(Error::new(Code::DeviceNode, what(), "it is not a device")),
    };
    let number = there.rdev();
    device.major = node.major.unwrap_or(number.major);
    let minor_left_out = if node.major.is_some() { 0 } else { number.minor };
    device.minor = node.minor.unwrap_or(minor_left_out);
    device.file_mode = node.file_mode.or_else(|| Some(there.stat().st_mode & 0o777));
    Ok(device)
}

/// A hook without an environment gets the image's from an old runc, so it always has one.
fn hook_spec(hook: &Hook) -> HookSpec {
    let mut pairs = hook.env.iter().filter_map(|e| e.split_once('='));
    let (key, value) = pairs.next().unwrap_or(("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"));
    let mut spec = HookSpec::new(hook.path.as_str(), hook.args.clone(), key, value);
    for (key, value) in pairs {
        spec = spec.env(key, value);
    }
    match hook.timeout {
        Some(seconds) => spec.timeout(seconds),
        None => spec,
    }
}
