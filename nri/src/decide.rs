//! The decision on one container: nothing, CDI devices, or a refusal.
//!
//! The pod's author writes the annotations, the variables and the mounts, so none of them is
//! believed. The engine's namespace and the kubelet's allocation are.

use std::collections::BTreeSet;

use crate::messages::{Adjustment, Create};
use crate::text::shown;

/// The annotations that name devices, without the container's name.
const ANNOTATION: &str = "nvidia.cdi.k8s.io";
/// The prefix of the annotations in which the device plugin names CDI devices.
const ENGINE_ANNOTATION: &str = "cdi.k8s.io/";
/// The vendor of the devices that manage a node's GPUs.
const MANAGEMENT: &str = "management.nvidia.com";
/// The directory below which a mount's name is a device's name.
const DEVICE_MOUNTS: &str = "/var/run/nvidia-container-devices";

/// The most devices of one annotation or variable.
pub const MOST_DEVICES: usize = 64;
/// The most bytes of one annotation or variable.
pub const LONGEST: usize = 8 << 10;

/// Which requests of a pod the plugin grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// All of them, as the vendor's plugin does.
    #[default]
    Off,
    /// Those for devices that the kubelet allocated to the container.
    Allocated,
}

/// The devices that the kubelet allocated to a container.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub struct Allocation {
    /// Device ids of the device plugin, without the number of a shared replica.
    pub ids: BTreeSet<String>,
    /// Full CDI names of dynamic resources.
    pub names: BTreeSet<String>,
}

impl Allocation {
    /// Whether a full name or a bare id is a device of the allocation. An id in another vendor's or
    /// the management kind is another device.
    fn has(&self, name: &str) -> bool {
        let id = match name.rsplit_once('=') {
            None => name,
            Some((_, id)) if is_nvidia(name) && !is_management(name) => id,
            Some(_) => return false,
        };
        self.names.contains(name) || self.has_id(id)
    }

    fn has_id(&self, id: &str) -> bool {
        self.ids.contains(id)
    }
}

/// Why a container may not be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A device that the kubelet did not allocate to the container: the place that names it.
    NotAllocated(String),
    /// The kubelet's allocation could not be read: the reason.
    Unreadable(String),
    /// A value that is no list of NVIDIA's CDI devices: the place and the reason.
    Malformed(String),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotAllocated(place) => write!(
                f,
                "{place}: the kubelet did not allocate this GPU to the container; fix: request it as a \
                 resource (`resources.limits`) and remove the name [NVOCI-8001]"
            ),
            Self::Unreadable(reason) => write!(
                f,
                "the kubelet's allocation could not be read: {reason}; fix: mount \
                 /var/lib/kubelet/pod-resources into the plugin's pod; the kubelet tries again [NVOCI-8002]"
            ),
            Self::Malformed(place) => write!(
                f,
                "{place}; fix: list NVIDIA's CDI devices separated by commas, for example \
                 `nvidia.com/gpu=0` [NVOCI-8003]"
            ),
        }
    }
}

/// The rules of this node.
#[derive(Debug, Default, Clone)]
pub struct Rules {
    /// The policy.
    pub policy: Policy,
    /// The namespaces whose pods may name management devices.
    pub management: BTreeSet<String>,
}

/// A container's answer, and a line for the log.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The changes.
    pub adjustment: Adjustment,
    /// A note on a part of the request that was dropped.
    pub note: Option<String>,
}

/// Decides on a container. Reads the kubelet's allocation only if the container names a GPU.
pub fn decide(
    rules: &Rules,
    create: &Create<'_>,
    allocation: impl FnOnce() -> Result<Allocation, String>,
) -> Result<Answer, Refusal> {
    let mut answer = Answer::default();
    let annotated = annotated(rules, create, &mut answer)?;
    if rules.policy == Policy::Off {
        answer.adjustment.cdi = annotated.into_iter().map(str::to_owned).collect();
        return Ok(answer);
    }
    let old_image = create.visible.is_empty() && create.cuda_version;
    let visible = old_image || create.visible.iter().any(|value| names_devices(value));
    let engine = engine_names(create)?;
    let mounts = device_mounts(create);
    let checked = annotated.iter().any(|name| !is_management(name));
    if !checked && !visible && engine.is_empty() && mounts.is_empty() {
        answer.adjustment.cdi = annotated.into_iter().map(str::to_owned).collect();
        return Ok(answer);
    }
    let allocation = allocation().map_err(Refusal::Unreadable)?;
    // A management device passed the check of its namespace already.
    for name in annotated.iter().filter(|name| !is_management(name)) {
        if !allocation.has(name) {
            return Err(Refusal::NotAllocated(format!(
                "the annotation's device {}",
                shown(name)
            )));
        }
    }
    for name in &engine {
        if !allocation.has(name) && !create.cdi.contains(name) {
            return Err(Refusal::NotAllocated(format!(
                "the annotation cdi.k8s.io/* with {}",
                shown(name)
            )));
        }
    }
    for (path, id) in &mounts {
        if !id.is_some_and(|id| allocation.has_id(id)) {
            return Err(Refusal::NotAllocated(format!("the mount {}", shown(path))));
        }
    }
    answer.adjustment.cdi = annotated.iter().map(|name| (*name).to_owned()).collect();
    if visible {
        decide_variable(
            create,
            &allocation,
            engine.is_empty() && mounts.is_empty(),
            &mut answer,
        )?;
    }
    Ok(answer)
}

/// Decides on `NVIDIA_VISIBLE_DEVICES`. An image may have set it, so a name that was not allocated
/// is hidden from the runtime, and does not refuse the container.
fn decide_variable(
    create: &Create<'_>,
    allocation: &Allocation,
    alone: bool,
    answer: &mut Answer,
) -> Result<(), Refusal> {
    let ids: Vec<&str> = create
        .visible
        .iter()
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    // Without a value it is an old image's `CUDA_VERSION`, which stands for `all`.
    if !ids.is_empty() && ids.iter().all(|id| allocation.has(id)) {
        // A container with a runtime of its own gets the devices from that runtime.
        let bare = alone && create.handler.is_empty() && create.cdi.is_empty();
        if bare && answer.adjustment.cdi.is_empty() {
            let full = |id: &&str| {
                if id.contains('=') {
                    (*id).to_owned()
                } else {
                    format!("nvidia.com/gpu={id}")
                }
            };
            answer.adjustment.cdi = ids.iter().map(full).collect();
        }
        return Ok(());
    }
    // The engine replaces the first of several entries with one name, and a runtime may read
    // another.
    if create.visible.len() > 1 {
        return Err(Refusal::NotAllocated(
            "NVIDIA_VISIBLE_DEVICES, which is set twice".to_owned(),
        ));
    }
    answer.note =
        Some("NVIDIA_VISIBLE_DEVICES names GPUs that the kubelet did not allocate; set to `void`".to_owned());
    answer.adjustment.visible = Some("void".to_owned());
    Ok(())
}

/// Whether a value of `NVIDIA_VISIBLE_DEVICES` names devices itself. The path is the marker of
/// mounts, which are checked one by one.
fn names_devices(value: &str) -> bool {
    !matches!(value.trim(), "" | "none" | "void") && value.trim_end_matches('/') != DEVICE_MOUNTS
}

fn is_management(name: &str) -> bool {
    name.split_once('/')
        .is_some_and(|(vendor, _)| vendor == MANAGEMENT)
}

/// The devices of the first annotation that is present: the container's, the pod's, the short one.
fn annotated<'a>(rules: &Rules, create: &Create<'a>, answer: &mut Answer) -> Result<Vec<&'a str>, Refusal> {
    let own = format!("{ANNOTATION}/container.{}", create.container);
    let find = |key: &str| create.pod_annotations.iter().find(|(k, _)| *k == key).copied();
    let found = find(&own)
        .or_else(|| find("nvidia.cdi.k8s.io/pod"))
        .or_else(|| find(ANNOTATION));
    let Some((key, value)) = found else {
        return Ok(Vec::new());
    };
    let names = cdi_names(key, value)?;
    if names.iter().any(|name| is_management(name)) && !rules.management.contains(create.namespace) {
        answer.note = Some(format!(
            "the annotation {} names management devices, which the namespace {} may not have; dropped",
            shown(key),
            shown(create.namespace)
        ));
        return Ok(Vec::new());
    }
    Ok(names)
}

/// The names in a list, each of which must be a device of NVIDIA.
fn cdi_names<'a>(key: &str, value: &'a str) -> Result<Vec<&'a str>, Refusal> {
    let malformed = |reason: &str| Refusal::Malformed(format!("the annotation {} {reason}", shown(key)));
    if value.len() > LONGEST {
        return Err(malformed("is too long"));
    }
    let mut names: Vec<&str> = Vec::new();
    for name in value.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        if !is_nvidia(name) {
            return Err(malformed(&format!(
                "has {}, which is no CDI device of NVIDIA",
                shown(name)
            )));
        }
        // The engine refuses a device that is named twice.
        if !names.contains(&name) {
            names.push(name);
        }
        if names.len() > MOST_DEVICES {
            return Err(malformed(&format!("has more than {MOST_DEVICES} devices")));
        }
    }
    Ok(names)
}

/// Whether a name is `VENDOR/CLASS=DEVICE` with the vendor `nvidia.com` or a domain below it.
fn is_nvidia(name: &str) -> bool {
    let word = |text: &str, more: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    let Some((kind, device)) = name.split_once('=') else {
        return false;
    };
    let Some((vendor, class)) = kind.split_once('/') else {
        return false;
    };
    word(vendor, ".-_") && word(class, "-_") && word(device, ".-_:") && is_domain(vendor)
}

/// Whether a domain is NVIDIA's.
pub fn is_domain(domain: &str) -> bool {
    domain
        .strip_suffix("nvidia.com")
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// NVIDIA's devices in the annotations that an engine or a runtime resolves.
fn engine_names<'a>(create: &Create<'a>) -> Result<Vec<&'a str>, Refusal> {
    let mut names = Vec::new();
    for (key, value) in &create.annotations {
        if !key.starts_with(ENGINE_ANNOTATION) {
            continue;
        }
        let listed = value.split(',').map(str::trim).filter(|name| !name.is_empty());
        // A runtime may read a word without a vendor as a device of its default kind.
        names.extend(listed.filter(|name| name.split_once('/').is_none_or(|(vendor, _)| is_domain(vendor))));
        if value.len() > LONGEST || names.len() > MOST_DEVICES {
            return Err(Refusal::Malformed(format!(
                "the annotation {} is too long",
                shown(key)
            )));
        }
    }
    Ok(names)
}

/// The mounts that name devices to a runtime, in any spelling, with the device's id if it is one: a
/// runtime reads `/var/run//nvidia-container-devices/0` as the same place.
fn device_mounts<'a>(create: &Create<'a>) -> Vec<(&'a str, Option<&'a str>)> {
    let device = |path: &&'a str| {
        let mut parts: Vec<&'a str> = Vec::new();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        // `/var/run` leads to `/run`.
        let parts = parts.strip_prefix(&["var"]).unwrap_or(&parts);
        match parts.strip_prefix(&["run", "nvidia-container-devices"])? {
            [] => None,
            [id] | ["cdi", _, _, id] => Some((*path, Some(*id))),
            _ => Some((*path, None)),
        }
    };
    create.mounts.iter().filter_map(device).collect()
}
