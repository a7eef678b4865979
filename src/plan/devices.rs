//! Device nodes: those of the requested GPUs, and those that every GPU container needs.

use std::fmt;
use std::path::{Path, PathBuf};

use super::part::Part;
use super::{GpuRef, RootfsLink};
use crate::compat::driver::Native;
use crate::config::Preflight;
use crate::error::{Code, Error, Result};
use crate::host::{DeviceNode, Gpu, Host, NodeKind};
use crate::request::{
    Capabilities, DeviceRequest, Facts, GpuView, ImexRequest, Request, evaluate_all, select,
};
use crate::vocabulary::{DeviceNumber, MigDevice};

/// A device node of the container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Device {
    /// Its path in the container.
    pub path: PathBuf,
    /// The device number.
    pub number: DeviceNumber,
    /// Permission bits on the host.
    pub mode: u32,
    /// Owner on the host.
    pub uid: u32,
    /// Group on the host.
    pub gid: u32,
    /// The reason for giving it.
    pub reason: String,
}

impl Device {
    /// A device with the values of a node of the host.
    fn of(node: &DeviceNode, reason: &str) -> Self {
        Self {
            path: node.path.clone(),
            number: node.number,
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            reason: reason.to_owned(),
        }
    }
}

/// A GPU that the container gets, and on which it cannot compute.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unusable {
    /// The GPU.
    pub subject: String,
    /// The reason.
    pub cause: String,
    /// The edit that helps.
    pub fix: String,
}

impl Unusable {
    /// The refusal with `preflight = "enforce"`.
    fn error(&self) -> Error {
        Error::new(Code::Preflight, &self.subject, &self.cause).fix(&self.fix)
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; fix: {}", self.subject, self.cause, self.fix)
    }
}

/// The requested GPUs, their nodes, and the nodes that every GPU container needs.
pub(super) fn part(request: &Request, host: &Host, preflight: Preflight) -> Result<Part> {
    let mut part = Part::default();
    for chosen in selection(&request.devices, host)? {
        part.add(gpu(&chosen, request.capabilities, host)?);
        if let Some(unusable) = without_instance(&chosen, request) {
            if preflight == Preflight::Enforce {
                return Err(unusable.error());
            }
            part.warnings.push(unusable.to_string());
            part.unusable
                .extend((preflight == Preflight::Warn).then_some(unusable));
        }
    }
    part.add(control(request.capabilities, host)?);
    part.add(gated(request, host)?);
    part.devices.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(part)
}

/// A requested GPU, whole or for its MIG devices.
struct Chosen<'h> {
    gpu: &'h Gpu,
    mig: Vec<&'h MigDevice>,
}

/// The requested GPUs in bus order.
fn selection<'h>(request: &DeviceRequest, host: &'h Host) -> Result<Vec<Chosen<'h>>> {
    let usable: Vec<&Gpu> = host.usable_gpus().collect();
    if *request == DeviceRequest::All && usable.is_empty() {
        return Err(Error::new(
            Code::UnknownDevice,
            "NVIDIA_VISIBLE_DEVICES=all",
            "the kernel module is loaded but drives no GPU",
        )
        .fix("`lspci -d 10de:` shows the GPUs on the bus, `dmesg | grep NVRM` why the driver refused them"));
    }
    let views: Vec<GpuView<'_>> = usable.iter().map(|gpu| view(gpu)).collect();
    let mut chosen: Vec<Chosen<'_>> = Vec::new();
    for selected in select(request, &views)? {
        let Some(&gpu) = usable.get(selected.gpu) else {
            continue;
        };
        let mig = selected.mig.and_then(|at| gpu.mig_devices.get(at));
        match chosen.last_mut().filter(|last| last.gpu.minor == gpu.minor) {
            Some(last) => last.mig.extend(mig),
            None => chosen.push(Chosen {
                gpu,
                mig: mig.into_iter().collect(),
            }),
        }
    }
    Ok(chosen)
}

/// The names of a GPU by which a request selects it.
fn view(gpu: &Gpu) -> GpuView<'_> {
    GpuView {
        index: gpu.index,
        uuid: gpu.uuid,
        pci: gpu.pci,
        mig: &gpu.mig_devices,
    }
}

/// A GPU and its nodes.
fn gpu(Chosen { gpu, mig }: &Chosen<'_>, capabilities: Capabilities, host: &Host) -> Result<Part> {
    let mut part = Part {
        gpus: vec![GpuRef {
            index: gpu.index,
            minor: gpu.minor,
            uuid: gpu.uuid,
            pci: Some(gpu.pci),
            name: gpu.name.clone(),
        }],
        ..Part::default()
    };
    part.add_device(node(
        host,
        NodeKind::Gpu(gpu.minor),
        &format!("GPU {}", gpu.index),
    )?);
    if capabilities.intersects(Capabilities::GRAPHICS.with(Capabilities::DISPLAY)) {
        part.add(drm(gpu, host));
    }
    for device in mig {
        for (minor, instance) in [(device.gi_minor, "GPU"), (device.ci_minor, "compute")] {
            let reason = format!("{instance} instance of MIG device {}:{}", gpu.index, device.index);
            part.add_device(node(host, NodeKind::Cap(minor), &reason)?);
        }
    }
    Ok(part)
}

/// A partitioned GPU of a request to compute that names none of its MIG devices: CUDA and the video
/// engines work on those only. The right to configure or watch MIG needs the GPU itself.
fn without_instance(chosen: &Chosen<'_>, request: &Request) -> Option<Unusable> {
    /// The most MIG devices that the message names.
    const SHOWN: usize = 8;
    let Chosen { gpu, mig } = chosen;
    let first = gpu.mig_devices.first().filter(|_| mig.is_empty())?;
    if !request.capabilities.intersects(Capabilities::CUDA) || request.mig_config || request.mig_monitor {
        return None;
    }
    let index = gpu.index;
    let there = gpu.mig_devices.iter().take(SHOWN);
    let names: Vec<String> = there.map(|device| format!("{index}:{}", device.index)).collect();
    let cause = format!(
        "it is partitioned into MIG devices ({}), of which the container gets none, so CUDA finds no device",
        names.join(", ")
    );
    let fix = format!(
        "request MIG devices (NVIDIA_VISIBLE_DEVICES={index}:{}), or `all`",
        first.index
    );
    let subject = format!("GPU {index}");
    Some(Unusable { subject, cause, fix })
}

/// The DRM nodes of a GPU, and the links to them.
fn drm(gpu: &Gpu, host: &Host) -> Part {
    let mut part = Part::default();
    for node in host.nodes.iter().filter(|n| n.present) {
        if matches!(node.kind, NodeKind::Dri { pci, .. } if pci == gpu.pci) {
            part.add_device(Device::of(node, &format!("DRM node of GPU {}", gpu.index)));
            let links = node.links.iter().map(|at| RootfsLink::new(at, &node.path));
            part.rootfs_links.extend(links);
        }
    }
    part
}

/// The nodes that do not belong to one GPU.
fn control(capabilities: Capabilities, host: &Host) -> Result<Part> {
    let mut part = Part::default();
    part.add_device(node(host, NodeKind::Ctl, "control node")?);
    if capabilities.intersects(Capabilities::CUDA) {
        part.add_device(node(host, NodeKind::Uvm, "CUDA's memory manager").map_err(|e| {
            e.fix("load nvidia-uvm (`nvidia-modprobe -u -c 0`), or set NVIDIA_DRIVER_CAPABILITIES=utility")
        })?);
        part.add(optional(
            host,
            NodeKind::UvmTools,
            "CUDA's memory manager, for profilers",
        ));
    }
    if capabilities.intersects(Capabilities::GRAPHICS.with(Capabilities::DISPLAY)) {
        part.add(optional(host, NodeKind::Modeset, "display modes"));
    }
    Ok(part)
}

/// Nodes of features that need a right of their own.
fn gated(request: &Request, host: &Host) -> Result<Part> {
    let mut part = Part::default();
    let g = request.gated;
    for n in host.nodes.iter().filter(|n| n.present) {
        let reason = match n.kind {
            NodeKind::NvidiaFs(_) if g.gds => "GPUDirect Storage",
            NodeKind::Uverbs(_) | NodeKind::RdmaCm if g.mofed => "InfiniBand verbs",
            NodeKind::Gdrdrv if g.gdrcopy => "GDRCopy",
            NodeKind::NvSwitchCtl | NodeKind::NvSwitch(_) if g.nvswitch => "NVSwitch",
            NodeKind::ImexChannel(_) if request.imex == ImexRequest::All => "IMEX channel",
            _ => continue,
        };
        part.add_device(Device::of(n, reason));
    }
    if let ImexRequest::Channels(channels) = &request.imex {
        for channel in channels {
            part.add_device(node(host, NodeKind::ImexChannel(*channel), "IMEX channel")?);
        }
    }
    for (wanted, minor, what) in [
        (request.mig_config, host.caps.mig_config, "MIG configuration"),
        (request.mig_monitor, host.caps.mig_monitor, "MIG monitoring"),
    ] {
        match minor {
            Some(minor) if wanted => part.add_device(node(host, NodeKind::Cap(minor), what)?),
            None if wanted => part.add(Part::warning(format!(
                "{what}: this driver offers no such capability"
            ))),
            _ => {}
        }
    }
    Ok(part)
}

/// A node that the container needs.
pub(super) fn node(host: &Host, kind: NodeKind, reason: &str) -> Result<Device> {
    match host.node(kind) {
        Some(n) if n.present => Ok(Device::of(n, reason)),
        Some(n) => Err(missing(&n.path.display().to_string(), reason)),
        None => Err(missing(&unknown_path(kind), reason)),
    }
}

/// The usual path of a node that the kernel does not list.
fn unknown_path(kind: NodeKind) -> String {
    match kind {
        NodeKind::Cap(minor) => format!("/dev/nvidia-caps/nvidia-cap{minor}"),
        NodeKind::Gpu(minor) => format!("/dev/nvidia{minor}"),
        NodeKind::ImexChannel(channel) => format!("/dev/nvidia-caps-imex-channels/channel{channel}"),
        NodeKind::Uvm => "/dev/nvidia-uvm".to_owned(),
        other => format!("{other:?}"),
    }
}

fn missing(what: &str, reason: &str) -> Error {
    Error::new(
        Code::DeviceNode,
        format!("device node {what}"),
        format!("the host has none ({reason})"),
    )
}

/// The node of a path, if the host has it.
pub(super) fn present(host: &Host, path: &Path, reason: &str) -> Option<Device> {
    let node = host.nodes.iter().find(|n| n.present && n.path == path)?;
    Some(Device::of(node, reason))
}

/// A node that the container can do without. If the kernel lists it but `/dev` lacks it, a warning.
fn optional(host: &Host, kind: NodeKind, reason: &str) -> Part {
    let mut part = Part::default();
    match host.node(kind) {
        Some(n) if n.present => part.add_device(Device::of(n, reason)),
        Some(n) => return Part::warning(format!("{} is missing on the host ({reason})", n.path.display())),
        None => {}
    }
    part
}

/// Checks `NVIDIA_REQUIRE_*` against the facts that need no NVML. Returns the conditions that could
/// not be checked.
pub(super) fn check_requirements(request: &Request, host: &Host) -> Result<Vec<String>> {
    if request.requirements.is_empty() {
        return Ok(Vec::new());
    }
    // For a driver newer than the tables only a lower bound is known, which cannot decide a
    // condition.
    let facts = Facts {
        cuda: host.cuda().and_then(Native::exactly),
        driver: host.driver_version(),
        arch: None,
        brand: None,
    };
    evaluate_all(&request.requirements, &facts)
}
