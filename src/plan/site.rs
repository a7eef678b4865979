//! What must be at its own path: additions of a site, and a Jetson's driver.
//!
//! Like the driver's files they are bound into the driver directory, and a link leads there: the image layer
//! keeps no stub of them.

use std::path::{Path, PathBuf};

use super::devices::present;
use super::{DriverFile, GpuRef, Place, Plan, RootfsLink};
use crate::config::Extra;
use crate::error::{Code, Error, Result};
use crate::host::Host;
use crate::host::tegra::{EntryKind, Tegra};
use crate::request::{DeviceRequest, Request, Selector};
use crate::sys::source::Use;

/// The configuration's `[[extra]]`, as far as the container's capabilities bring it.
pub(super) fn extra(plan: &mut Plan, request: &Request, host: &Host, extra: &[Extra]) {
    const REASON: &str = "[[extra]] of the configuration";
    for one in extra.iter().filter(|e| e.applies_to(request.capabilities)) {
        for file in &one.files {
            place(plan, (&file.source, &file.source), &file.target, REASON);
        }
        for path in &one.devices {
            if !present(plan, host, path, REASON) {
                plan.warnings.push(format!(
                    "{REASON}: {} is no character device of this host",
                    path.display()
                ));
            }
        }
        for (name, value) in &one.env {
            plan.env.retain(|(n, _)| n != name);
            plan.env.push((name.clone(), value.clone()));
        }
    }
}

/// A Jetson's one GPU and its driver, which is given whole: its files know no capabilities.
pub(super) fn tegra(plan: &mut Plan, request: &Request, host: &Host, tegra: &Tegra) -> Result<()> {
    const REASON: &str = "named by the Jetson's CSV files";
    let devices = wants_gpu(&request.devices)?;
    if devices {
        plan.gpus.push(GpuRef {
            index: 0,
            minor: 0,
            uuid: None,
            pci: None,
            name: "integrated GPU".to_owned(),
        });
    }
    let mut missing = Vec::new();
    for entry in &tegra.entries {
        if !(entry.base || request.jetpack_all) {
            continue;
        }
        match &entry.kind {
            EntryKind::Device if devices && !present(plan, host, &entry.at, REASON) => {
                missing.push(entry.at.display().to_string());
            }
            EntryKind::Device => {}
            EntryKind::Library(path) => {
                let name = path.file_name().unwrap_or_default();
                let to = Path::new(Place::Lib64.dir()).join(name);
                plan.rootfs_links.push(RootfsLink {
                    cover: true,
                    ..RootfsLink::new(&entry.at, to)
                });
            }
            EntryKind::Place { source, found } => place(plan, (source, found), &entry.at, REASON),
            EntryKind::Link(to) => {
                let to = tegra.library_at(to).map_or_else(
                    || to.clone(),
                    |library| Path::new(Place::Lib64.dir()).join(library.file_name().unwrap_or_default()),
                );
                plan.rootfs_links.push(RootfsLink::new(&entry.at, to));
            }
        }
    }
    if !missing.is_empty() {
        plan.warnings
            .push(format!("{REASON}, and not on this host: {}", missing.join(", ")));
    }
    for (asked, what) in [
        (request.mig_config || request.mig_monitor, "MIG"),
        (
            request.imex != crate::request::ImexRequest::Nothing,
            "IMEX channels",
        ),
    ] {
        if asked {
            plan.warnings
                .push(format!("asked for, but a Jetson does not have it: {what}"));
        }
    }
    Ok(())
}

/// Index 0 or all; there is one GPU, without UUID or address.
fn wants_gpu(request: &DeviceRequest) -> Result<bool> {
    let DeviceRequest::List(selectors) = request else {
        return Ok(*request == DeviceRequest::All);
    };
    match selectors
        .iter()
        .find(|s| !matches!(s, Selector::Index(0) | Selector::Range(0, 0)))
    {
        None => Ok(true),
        Some(other) => Err(Error::new(
            Code::UnknownDevice,
            format!("device {other}"),
            "no such device; a Jetson described by CSV files has one GPU, 0",
        )
        .fix("ask for 0 or all")),
    }
}

fn place(plan: &mut Plan, (source, found): (&Path, &Path), target: &Path, reason: &str) {
    let Some(name) = target.file_name().and_then(|n| n.to_str()) else {
        return;
    };
    // Two files of one name have directories of their own.
    let subdir = plan
        .files
        .iter()
        .filter(|f| f.place == Place::Site)
        .count()
        .to_string();
    let to = PathBuf::from(Place::Site.dir()).join(&subdir).join(name);
    plan.files.push(DriverFile {
        source: source.to_owned(),
        found: found.to_owned(),
        wanted: Use::Site,
        place: Place::Site,
        subdir: Some(subdir),
        name: name.to_owned(),
        soname: None,
        required: false,
        reason: reason.to_owned(),
    });
    plan.rootfs_links.push(RootfsLink {
        cover: true,
        ..RootfsLink::new(target, to)
    });
}
