//! Files that must be at a path of their own: a site's additions (`[[extra]]`), and a Jetson's
//! driver.
//!
//! They are bound into the driver directory like the driver's files, and the path becomes a link to
//! it, so the image layer keeps no empty file.

use std::path::{Path, PathBuf};

use super::devices::present;
use super::part::Part;
use super::{DriverFile, GpuRef, Place, RootfsLink};
use crate::config::Extra;
use crate::error::{Code, Error, Result};
use crate::host::Host;
use crate::host::tegra::{EntryKind, Tegra};
use crate::request::{DeviceRequest, Request, Selector};
use crate::sys::source::Use;

/// The entries of the configuration's `[[extra]]` that the container's capabilities select. `first`
/// is the number of the first file among those that have paths of their own.
pub(super) fn extra(request: &Request, host: &Host, extra: &[Extra], first: usize) -> Part {
    const REASON: &str = "[[extra]] of the configuration";
    let mut part = Part::default();
    for one in extra.iter().filter(|e| e.applies_to(request.capabilities)) {
        for file in &one.files {
            let number = first + part.site_files();
            part.add(place(number, (&file.source, &file.source), &file.target, REASON));
        }
        for path in &one.devices {
            match present(host, path, REASON) {
                Some(device) => part.add_device(device),
                None => part.warnings.push(format!(
                    "{REASON}: {} is not a character device of this host",
                    path.display()
                )),
            }
        }
        part.add(Part {
            env: one.env.clone(),
            ..Part::default()
        });
    }
    part
}

/// A Jetson's one GPU and its whole driver: its files have no capabilities.
pub(super) fn tegra(request: &Request, host: &Host, tegra: &Tegra) -> Result<Part> {
    const REASON: &str = "named by the Jetson's CSV files";
    let mut part = Part::default();
    let devices = requests_gpu(&request.devices)?;
    if devices {
        part.gpus.push(GpuRef {
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
            EntryKind::Device if devices => match present(host, &entry.at, REASON) {
                Some(device) => part.add_device(device),
                None => missing.push(entry.at.display().to_string()),
            },
            EntryKind::Device => {}
            EntryKind::Library(path) => {
                let name = path.file_name().unwrap_or_default();
                let to = Path::new(Place::Lib64.dir()).join(name);
                part.rootfs_links.push(RootfsLink {
                    cover: true,
                    ..RootfsLink::new(&entry.at, to)
                });
            }
            EntryKind::Place { source, found } => {
                part.add(place(part.site_files(), (source, found), &entry.at, REASON));
            }
            EntryKind::Link(to) => {
                let to = tegra.library_at(to).map_or_else(
                    || to.clone(),
                    |library| Path::new(Place::Lib64.dir()).join(library.file_name().unwrap_or_default()),
                );
                part.rootfs_links.push(RootfsLink::new(&entry.at, to));
            }
        }
    }
    if !missing.is_empty() {
        part.warnings
            .push(format!("{REASON}, and not on this host: {}", missing.join(", ")));
    }
    for (requested, what) in [
        (request.mig_config || request.mig_monitor, "MIG"),
        (
            request.imex != crate::request::ImexRequest::Nothing,
            "IMEX channels",
        ),
    ] {
        if requested {
            part.warnings
                .push(format!("requested, but not available on a Jetson: {what}"));
        }
    }
    Ok(part)
}

/// Whether the request selects the GPU: index 0 or all. It has no UUID or address.
fn requests_gpu(request: &DeviceRequest) -> Result<bool> {
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
        .fix("request 0 or all")),
    }
}

/// A file at a path of its own, bound into the directory `number`, since two files may have one
/// name.
fn place(number: usize, (source, found): (&Path, &Path), target: &Path, reason: &str) -> Part {
    let Some(name) = target.file_name().and_then(|n| n.to_str()) else {
        return Part::default();
    };
    let subdir = number.to_string();
    let to = PathBuf::from(Place::Site.dir()).join(&subdir).join(name);
    Part {
        files: vec![DriverFile {
            source: source.to_owned(),
            found: found.to_owned(),
            wanted: Use::Site,
            place: Place::Site,
            subdir: Some(subdir),
            name: name.to_owned(),
            soname: None,
            required: false,
            reason: reason.to_owned(),
        }],
        rootfs_links: vec![RootfsLink {
            cover: true,
            ..RootfsLink::new(target, to)
        }],
        ..Part::default()
    }
}
