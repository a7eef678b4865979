//! Covers files of the container's `/proc/driver/nvidia` that show more than the container was
//! given.

use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::path::Path;

use super::container::Container;
use super::driver_dir::DriverDir;
use crate::plan::Plan;
use crate::sys::mount::{Detached, Restrict};
use crate::sys::root::Node;
use crate::vocabulary::PciAddress;

/// Covers `params`, and `gpus` if the container has not all GPUs.
///
/// A failure becomes a warning. The container's `/proc` is a mount that the runtime made; any other
/// file system there is the image's and stays as it is.
pub(super) fn cover(container: &Container, dir: &DriverDir, plan: &Plan) -> Vec<String> {
    let mut warnings = Vec::new();
    let Ok(proc) = procfs(container) else {
        return warnings;
    };
    if let Some(params) = &plan.params
        && let Err(e) = cover_params(container, dir, params)
    {
        warnings.push(format!("/proc/driver/nvidia/params could not be covered: {e}"));
    }
    if let Some(visible) = &plan.visible_pci
        && let Err(e) = cover_gpus(container, dir, visible)
    {
        warnings.push(format!(
            "/proc/driver/nvidia/gpus shows every GPU of the host: {e}"
        ));
    }
    drop(proc);
    warnings
}

/// The container's `/proc`, if it is a procfs.
pub(super) fn procfs(container: &Container) -> std::io::Result<Node> {
    let node = container.root().resolve("/proc")?;
    if rustix::fs::fstatfs(node.as_fd())?.f_type != rustix::fs::PROC_SUPER_MAGIC {
        return Err(rustix::io::Errno::NODEV.into());
    }
    Ok(node)
}

pub(super) fn cover_params(container: &Container, dir: &DriverDir, params: &[u8]) -> std::io::Result<()> {
    let nvidia = match container.root().resolve("/proc/driver/nvidia") {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
        other => other?,
    };
    let ours = dir.written("params", params)?;
    Detached::bind(&ours, Restrict::DATA)?.attach(&nvidia, OsStr::new("params"))?;
    Ok(())
}

fn cover_gpus(container: &Container, dir: &DriverDir, visible: &[PciAddress]) -> std::io::Result<()> {
    let nvidia = match container.root().resolve("/proc/driver/nvidia") {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
        other => other?,
    };
    let theirs = nvidia.child("gpus")?;
    let shown: Vec<(String, Detached)> = visible
        .iter()
        .filter_map(|pci| {
            let pci = pci.to_string();
            let tree = Detached::bind(&theirs.child(&pci).ok()?, Restrict::DATA).ok()?;
            Some((pci, tree))
        })
        .collect();
    let ours = dir.dir(Path::new("proc/gpus"))?;
    for (pci, _) in &shown {
        ours.mkdir(OsStr::new(pci.as_str()), 0o555)?;
    }
    let covered = Detached::bind(&ours, Restrict::DATA)?.attach(&nvidia, OsStr::new("gpus"))?;
    for (pci, tree) in shown {
        tree.attach(&covered, OsStr::new(pci.as_str()))?;
    }
    Ok(())
}
