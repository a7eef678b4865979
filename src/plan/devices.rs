//! Device nodes: of the GPUs that were asked for, and those that every GPU container needs.

use std::path::{Path, PathBuf};

use super::{GpuRef, Plan, RootfsLink};
use crate::compat::driver::Native;
use crate::error::{Code, Error, Result};
use crate::host::{DeviceNode, Host, NodeKind};
use crate::request::{
    Capabilities, DeviceRequest, Facts, GpuView, ImexRequest, Request, evaluate_all, select,
};
use crate::vocabulary::DeviceNumber;

/// A device node of the container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Device {
    /// Its path in the container.
    pub path: PathBuf,
    /// The device that it stands for.
    pub number: DeviceNumber,
    /// Permission bits on the host.
    pub mode: u32,
    /// Owner on the host.
    pub uid: u32,
    /// Group on the host.
    pub gid: u32,
    /// Why it is there.
    pub reason: String,
}

pub(super) fn add(plan: &mut Plan, request: &Request, host: &Host) -> Result<()> {
    let usable: Vec<_> = host.usable_gpus().collect();
    let views: Vec<GpuView<'_>> = usable
        .iter()
        .map(|g| GpuView {
            index: g.index,
            uuid: g.uuid,
            pci: g.pci,
            mig: &g.mig_devices,
        })
        .collect();
    if request.devices == DeviceRequest::All && usable.is_empty() {
        return Err(Error::new(
            Code::UnknownDevice,
            "NVIDIA_VISIBLE_DEVICES=all",
            "the kernel module is loaded but drives no GPU",
        )
        .fix("`lspci -d 10de:` shows the GPUs on the bus, `dmesg | grep NVRM` why the driver refused them"));
    }
    for chosen in select(&request.devices, &views)? {
        let Some(gpu) = usable.get(chosen.gpu) else {
            continue;
        };
        if !plan.gpus.iter().any(|g| g.minor == gpu.minor) {
            plan.gpus.push(GpuRef {
                index: gpu.index,
                minor: gpu.minor,
                uuid: gpu.uuid,
                pci: Some(gpu.pci),
                name: gpu.name.clone(),
            });
            node(
                plan,
                host,
                NodeKind::Gpu(gpu.minor),
                &format!("GPU {}", gpu.index),
            )?;
            if request.capabilities.intersects(Capabilities::GRAPHICS)
                || request.capabilities.intersects(Capabilities::DISPLAY)
            {
                for n in &host.nodes {
                    if matches!(n.kind, NodeKind::Dri { pci, .. } if pci == gpu.pci) && n.present {
                        push(plan, n, &format!("DRM node of GPU {}", gpu.index));
                        let links = n.links.iter().map(|at| RootfsLink::new(at, &n.path));
                        plan.rootfs_links.extend(links);
                    }
                }
            }
        }
        if let Some(m) = chosen.mig.and_then(|i| gpu.mig_devices.get(i)) {
            for (minor, instance) in [(m.gi_minor, "GPU"), (m.ci_minor, "compute")] {
                let reason = format!("{instance} instance of MIG device {}:{}", gpu.index, m.index);
                node(plan, host, NodeKind::Cap(minor), &reason)?;
            }
        }
    }
    control(plan, request, host)?;
    gated(plan, request, host)?;
    plan.devices.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(())
}

/// The nodes that do not belong to one GPU.
fn control(plan: &mut Plan, request: &Request, host: &Host) -> Result<()> {
    let wants = |c: Capabilities| request.capabilities.intersects(c);
    node(plan, host, NodeKind::Ctl, "control node")?;
    if wants(Capabilities::COMPUTE) || wants(Capabilities::VIDEO) {
        node(plan, host, NodeKind::Uvm, "CUDA's memory manager").map_err(|e| {
            e.fix(
                "load nvidia-uvm (`nvidia-modprobe -u -c 0`), or ask for NVIDIA_DRIVER_CAPABILITIES=utility",
            )
        })?;
        optional(
            plan,
            host,
            NodeKind::UvmTools,
            "CUDA's memory manager, for profilers",
        );
    }
    if wants(Capabilities::GRAPHICS) || wants(Capabilities::DISPLAY) {
        optional(plan, host, NodeKind::Modeset, "display modes");
    }
    Ok(())
}

/// Features with rights and nodes of their own.
fn gated(plan: &mut Plan, request: &Request, host: &Host) -> Result<()> {
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
        push(plan, n, reason);
    }
    if let ImexRequest::Channels(channels) = &request.imex {
        for channel in channels {
            node(plan, host, NodeKind::ImexChannel(*channel), "IMEX channel")?;
        }
    }
    for (wanted, minor, what) in [
        (request.mig_config, host.caps.mig_config, "MIG configuration"),
        (request.mig_monitor, host.caps.mig_monitor, "MIG monitoring"),
    ] {
        match minor {
            Some(minor) if wanted => node(plan, host, NodeKind::Cap(minor), what)?,
            None if wanted => plan
                .warnings
                .push(format!("{what}: this driver offers no such capability")),
            _ => {}
        }
    }
    Ok(())
}

/// Adds a node that the container cannot do without.
pub(super) fn node(plan: &mut Plan, host: &Host, kind: NodeKind, reason: &str) -> Result<()> {
    match host.node(kind) {
        Some(n) if n.present => {
            push(plan, n, reason);
            Ok(())
        }
        Some(n) => Err(missing(&n.path.display().to_string(), reason)),
        None => Err(missing(&unknown_path(kind), reason)),
    }
}

/// Where a node would be that the kernel knows nothing of.
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

/// Adds the node of a path, if the host has it.
pub(super) fn present(plan: &mut Plan, host: &Host, path: &Path, reason: &str) -> bool {
    let node = host.nodes.iter().find(|n| n.present && n.path == path);
    if let Some(node) = node {
        push(plan, node, reason);
    }
    node.is_some()
}

fn optional(plan: &mut Plan, host: &Host, kind: NodeKind, reason: &str) {
    match host.node(kind) {
        Some(n) if n.present => push(plan, n, reason),
        Some(n) => plan
            .warnings
            .push(format!("{} is missing on the host ({reason})", n.path.display())),
        None => {}
    }
}

fn push(plan: &mut Plan, n: &DeviceNode, reason: &str) {
    if !plan.devices.iter().any(|d| d.path == n.path) {
        plan.devices.push(Device {
            path: n.path.clone(),
            number: n.number,
            mode: n.mode,
            uid: n.uid,
            gid: n.gid,
            reason: reason.to_owned(),
        });
    }
}

/// Checks `NVIDIA_REQUIRE_*` against what is known without asking the driver's library.
pub(super) fn check_requirements(plan: &mut Plan, request: &Request, host: &Host) -> Result<()> {
    if request.requirements.is_empty() {
        return Ok(());
    }
    let driver = host.driver_version();
    // Of a driver newer than the tables only a lower bound is known, which a condition cannot be held against.
    let cuda = host.cuda().and_then(Native::exactly).map(|c| c.to_string());
    let facts = Facts {
        cuda: cuda.as_deref(),
        driver: driver.as_deref(),
        arch: None,
        brand: None,
    };
    plan.warnings.extend(evaluate_all(&request.requirements, &facts)?);
    Ok(())
}
