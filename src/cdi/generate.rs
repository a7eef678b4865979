//! The specification of this host: devices by name, and one hook.
//!
//! It names no driver file, no version and no device number. The engine takes the numbers from the
//! host's nodes, and nvoci's hook finds the driver when the container is made. So the file stays
//! valid after a driver update, and it can exist before the driver does. Then its one device `all`
//! has the hook alone: the hook reports the missing driver, and later gives every GPU.

use std::path::Path;

use super::types::{CdiSpec, Device, DeviceNode, Edits, Hook};
use super::version::Version;
use crate::config::Extra;
use crate::host::{DeviceNode as HostNode, Gpu, Host, NodeKind, Platform, Roots};
use crate::vocabulary::{MigDevice, or_empty};

/// A naming scheme of devices.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Naming {
    /// `0`, `0:1`
    Index,
    /// `GPU-…`, `MIG-…`
    Uuid,
    /// `gpu0`, `mig0:1`
    TypeIndex,
}

/// The contents to generate.
#[derive(Clone, Debug)]
pub struct Options {
    /// `vendor/class`.
    pub kind: String,
    /// The naming schemes; each name is a device.
    pub naming: Vec<Naming>,
    /// Whether there is a device `all`.
    pub all: bool,
    /// The program that hooks call.
    pub hook_path: String,
    /// Whether containers join the groups of nodes that are not open to everybody. Needs CDI 0.7.0.
    pub additional_gids: bool,
    /// The devices to name, by index, `GPU:MIG` or UUID; empty for all of them. `none` is a device
    /// that gives nothing.
    pub ids: Vec<String>,
    /// The options of the static form.
    pub explicit: Explicit,
    /// The configuration's `[[extra]]`.
    pub extra: Vec<Extra>,
}

impl Options {
    /// The first identifier without a device on this host.
    pub fn unknown_id<'a>(&'a self, host: &Host) -> Option<&'a str> {
        let known = |id: &&String| {
            let gpu = |g: &Gpu| is_gpu(id, g) || g.mig_devices.iter().any(|m| is_mig(id, g, m));
            *id == NONE || host.usable_gpus().any(gpu)
        };
        self.ids.iter().find(|id| !known(id)).map(String::as_str)
    }

    fn wants_gpu(&self, gpu: &Gpu) -> bool {
        if self.ids.is_empty() {
            // A GPU with MIG devices is given as a whole only by its own name.
            return gpu.mig_devices.is_empty();
        }
        self.ids.iter().any(|id| is_gpu(id, gpu))
    }

    fn wants_mig(&self, gpu: &Gpu, mig: &MigDevice) -> bool {
        self.ids.is_empty() || self.ids.iter().any(|id| is_mig(id, gpu, mig))
    }
}

fn is_gpu(id: &str, gpu: &Gpu) -> bool {
    id == or_empty(gpu.uuid) || id == gpu.index.to_string()
}

fn is_mig(id: &str, gpu: &Gpu, mig: &MigDevice) -> bool {
    id == format!("{}:{}", gpu.index, mig.index) || mig.uuid.is_some_and(|uuid| id == uuid.to_string())
}

/// The identifier and the name of the device that gives nothing.
pub const NONE: &str = "none";

/// The options of the static form.
#[derive(Clone, Debug, Default)]
pub struct Explicit {
    /// The names of hooks to omit; `all` is every one.
    pub disabled_hooks: Vec<String>,
    /// The names of hooks to keep in any case.
    pub enabled_hooks: Vec<String>,
    /// Whether the sockets of the driver's services are omitted.
    pub no_sockets: bool,
    /// The `--ldconfig-path` of the hook that updates the loader's cache. nvoci's runs nothing.
    pub ldconfig: Option<String>,
    /// In mode csv, the image's directory of CUDA compatibility libraries.
    pub csv_compat: Option<String>,
    /// In mode csv, whether all GPUs are one device.
    pub csv_single: bool,
}

impl Explicit {
    /// Whether the specification has the hook `name`. It has `chmod` only if `enabled_hooks` names
    /// it, as the vendor's since 1.18.
    pub fn has_hook(&self, name: &str) -> bool {
        let listed = |list: &[String]| list.iter().any(|n| n == name);
        let off =
            name == CHMOD || listed(&self.disabled_hooks) || self.disabled_hooks.iter().any(|n| n == "all");
        listed(&self.enabled_hooks) || !off
    }
}

/// The hook that makes directories of device nodes passable.
pub const CHMOD: &str = "chmod";

/// The values of a device node entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Numbers {
    /// None: the engine reads the node when it makes a container.
    AtStart,
    /// Those of the node now.
    Now,
}

/// The variable that prevents a second injection by another entry point.
pub(super) const VOID: &str = "NVIDIA_VISIBLE_DEVICES=void";

/// The specification with one hook.
pub fn dynamic(host: &Host, roots: &Roots, options: &Options) -> CdiSpec {
    let mut spec = CdiSpec {
        kind: options.kind.clone(),
        ..CdiSpec::default()
    };
    if host.platform == Platform::Wsl2 {
        wsl_device(&mut spec, host, roots, Numbers::AtStart);
    } else {
        gpu_devices(&mut spec, host, roots, options, Numbers::AtStart);
        spec.edits.device_nodes = control_nodes(host, roots, Numbers::AtStart);
    }
    spec.edits.env.push(VOID.to_owned());
    // Only the hook can read a container's capabilities, so it adds the files and devices.
    for extra in options.extra.iter().filter(|e| e.capabilities.is_empty()) {
        spec.edits
            .env
            .extend(extra.env.iter().map(|(k, v)| format!("{k}={v}")));
    }
    if spec.devices.is_empty() {
        let mut edits = Edits::default();
        edits.hooks.push(our_hook(options, &["--devices", "all"]));
        spec.devices.push(Device {
            name: "all".to_owned(),
            edits,
            ..Device::default()
        });
    } else {
        spec.edits.hooks.push(our_hook(options, &["--devices-in-spec"]));
    }
    finish(spec)
}

/// Declares the version that the whole content needs.
pub(super) fn finish(mut spec: CdiSpec) -> CdiSpec {
    spec.version = Version::needed_by(&spec);
    spec
}

/// Outside of the container. In a container with its own user namespace, a hook inside can read the
/// request only if the engine's directories let that namespace's users pass. Under crun 1.28 it
/// cannot find the request at all.
const STAGE: &str = "createRuntime";

fn our_hook(options: &Options, flags: &[&str]) -> Hook {
    let words = ["nvoci", "hook", "--cdi"].iter().chain(flags).chain(&[STAGE]);
    Hook {
        stage: STAGE.to_owned(),
        path: options.hook_path.clone(),
        args: words.map(ToString::to_string).collect(),
        // runc before 1.3 gives a hook without an environment the image's.
        env: vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
        timeout: None,
    }
}

/// One device per name, sorted by name, then `all` with everything.
pub(super) fn gpu_devices(
    spec: &mut CdiSpec,
    host: &Host,
    roots: &Roots,
    options: &Options,
    numbers: Numbers,
) {
    let mut all = Edits::default();
    let mut devices = Vec::new();
    for gpu in host.usable_gpus() {
        if options.wants_gpu(gpu) {
            let edits = edits_of(gpu_nodes(host, gpu), roots, options, numbers);
            if !edits.is_empty() {
                all.merge(&edits);
                for naming in &options.naming {
                    let name = match naming {
                        Naming::Index => gpu.index.to_string(),
                        Naming::Uuid => or_empty(gpu.uuid),
                        Naming::TypeIndex => format!("gpu{}", gpu.index),
                    };
                    devices.push((name, edits.clone()));
                }
            }
        }
        for mig in gpu.mig_devices.iter().filter(|m| options.wants_mig(gpu, m)) {
            let kinds = [
                NodeKind::Gpu(gpu.minor),
                NodeKind::Cap(mig.gi_minor),
                NodeKind::Cap(mig.ci_minor),
            ];
            let nodes: Vec<&HostNode> = kinds.iter().filter_map(|k| present(host, *k)).collect();
            // Without its capability nodes a MIG device would be the whole GPU, or nothing.
            if nodes.len() != kinds.len() {
                continue;
            }
            let edits = edits_of(nodes, roots, options, numbers);
            all.merge(&edits);
            for naming in &options.naming {
                let name = match naming {
                    Naming::Index => format!("{}:{}", gpu.index, mig.index),
                    Naming::TypeIndex => format!("mig{}:{}", gpu.index, mig.index),
                    Naming::Uuid => or_empty(mig.uuid),
                };
                devices.push((name, edits.clone()));
            }
        }
    }
    all.device_nodes
        .sort_by(|a, b| depth_first(&a.path).cmp(&depth_first(&b.path)));
    spec.devices = named(devices, all, options);
}

/// The devices by name, then `all` if wanted; or the device that gives nothing.
pub(super) fn named(mut devices: Vec<(String, Edits)>, all: Edits, options: &Options) -> Vec<Device> {
    devices.retain(|(name, _)| !name.is_empty());
    devices.sort_by(|a, b| a.0.cmp(&b.0));
    devices.dedup_by(|a, b| a.0 == b.0);
    if options.ids.iter().any(|id| id == NONE) {
        // A device must change something. As with the vendor's, the variable changes nothing.
        let edits = Edits {
            env: vec!["NVCT_EMPTY_DEVICE=".to_owned()],
            ..Edits::default()
        };
        devices = vec![(NONE.to_owned(), edits)];
    } else if options.all && !all.is_empty() {
        devices.push(("all".to_owned(), all));
    }
    devices
        .into_iter()
        .map(|(name, edits)| Device {
            name,
            edits,
            ..Device::default()
        })
        .collect()
}

/// WSL2 has one node for all GPUs, so its nodes cannot select one.
pub(super) fn wsl_device(spec: &mut CdiSpec, host: &Host, roots: &Roots, numbers: Numbers) {
    if let Some(node) = present(host, NodeKind::Dxg) {
        spec.devices.push(Device {
            name: "all".to_owned(),
            edits: Edits {
                device_nodes: vec![entry(node, roots, numbers)],
                ..Edits::default()
            },
            ..Device::default()
        });
    }
}

/// The nodes that belong to no GPU.
pub(super) fn control_nodes(host: &Host, roots: &Roots, numbers: Numbers) -> Vec<DeviceNode> {
    let kinds = [
        NodeKind::Modeset,
        NodeKind::Uvm,
        NodeKind::UvmTools,
        NodeKind::Ctl,
    ];
    let nodes = kinds.iter().filter_map(|k| present(host, *k));
    let mut nodes: Vec<DeviceNode> = nodes.map(|n| entry(n, roots, numbers)).collect();
    nodes.sort_by(|a, b| a.path.cmp(&b.path));
    nodes
}

/// Shallow paths first, as the vendor's tool sorts.
pub(super) fn depth_first(path: &str) -> (usize, &str) {
    (path.matches('/').count(), path)
}

pub(super) fn gpu_nodes<'h>(host: &'h Host, gpu: &Gpu) -> Vec<&'h HostNode> {
    let mut nodes: Vec<&HostNode> = present(host, NodeKind::Gpu(gpu.minor)).into_iter().collect();
    if !nodes.is_empty() {
        let dri = |n: &&HostNode| n.present && matches!(n.kind, NodeKind::Dri { pci, .. } if pci == gpu.pci);
        nodes.extend(host.nodes.iter().filter(dri));
    }
    nodes
}

fn present(host: &Host, kind: NodeKind) -> Option<&HostNode> {
    host.node(kind).filter(|n| n.present)
}

pub(super) fn edits_of(nodes: Vec<&HostNode>, roots: &Roots, options: &Options, numbers: Numbers) -> Edits {
    let mut edits = Edits::default();
    for node in nodes {
        edits.device_nodes.push(entry(node, roots, numbers));
        if options.additional_gids && needs_group(node) && !edits.additional_gids.contains(&node.gid) {
            edits.additional_gids.push(node.gid);
        }
    }
    edits
        .device_nodes
        .sort_by(|a, b| depth_first(&a.path).cmp(&depth_first(&b.path)));
    edits
}

/// A node that its group may use, and not everybody.
pub fn needs_group(node: &HostNode) -> bool {
    node.gid != 0 && node.mode & 0o006 != 0o006 && node.mode & 0o060 != 0
}

pub(super) fn entry(node: &HostNode, roots: &Roots, numbers: Numbers) -> DeviceNode {
    let below = node.path.strip_prefix("/dev").unwrap_or_else(|_| Path::new(""));
    let on_host = roots.dev_path.join(below);
    let mut entry = DeviceNode {
        path: node.path.display().to_string(),
        host_path: (on_host != node.path).then(|| on_host.display().to_string()),
        ..DeviceNode::default()
    };
    if numbers == Numbers::Now {
        entry.major = Some(node.number.major);
        // A missing minor means 0.
        entry.minor = Some(node.number.minor).filter(|m| *m != 0);
        entry.file_mode = Some(node.mode & 0o777).filter(|m| *m != 0);
        entry.permissions = Some("rwm".to_owned());
        entry.gid = Some(node.gid).filter(|g| *g != 0);
    }
    entry
}
