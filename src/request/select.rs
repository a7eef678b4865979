//! Selects the devices of a request from the host's devices.

use std::collections::BTreeSet;

use crate::error::{Code, Error, Result};
use crate::vocabulary::{GpuUuid, MigDevice, MigUuid, PciAddress, UuidStart, or_empty};

use super::DeviceRequest;
use super::limits::excerpt;
use super::selector::Selector;

/// A GPU of the host, by the properties that a request can name.
#[derive(Clone, Copy, Debug)]
pub struct GpuView<'a> {
    /// Its place in PCI bus order.
    pub index: u32,
    /// Its UUID, if the kernel module reports it.
    pub uuid: Option<GpuUuid>,
    /// Its PCI address.
    pub pci: PciAddress,
    /// Its MIG devices, by index.
    pub mig: &'a [MigDevice],
}

/// A selected device, as positions in the lists that [`select`] received.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Selected {
    /// The GPU.
    pub gpu: usize,
    /// The MIG device on it; `None` is the GPU itself.
    pub mig: Option<usize>,
}

/// Whether the request needs the UUIDs of MIG devices, which only NVML reports.
pub fn needs_mig_uuids(request: &DeviceRequest) -> bool {
    matches!(request, DeviceRequest::List(list) if list.iter().any(|s| matches!(s, Selector::MigUuid(_))))
}

/// The devices of `request`, each once, in the order of `gpus` (PCI bus order). The request's order
/// does not matter: CUDA also numbers devices by bus order. A GPU comes before its MIG devices. A
/// MIG device does not include its GPU; the Plan adds the node that it needs.
///
/// `all` is every GPU and every MIG device. `none`, `void` and no request are empty.
///
/// # Errors
/// [`Code::UnknownDevice`], listing the host's devices, or the candidates of an ambiguous UUID.
pub fn select(request: &DeviceRequest, gpus: &[GpuView<'_>]) -> Result<Vec<Selected>> {
    let mut found = BTreeSet::new();
    match request {
        DeviceRequest::Nothing | DeviceRequest::Void | DeviceRequest::NoneDevices => {}
        DeviceRequest::All => {
            for (gpu, view) in gpus.iter().enumerate() {
                found.insert(Selected { gpu, mig: None });
                found.extend((0..view.mig.len()).map(|mig| Selected { gpu, mig: Some(mig) }));
            }
        }
        DeviceRequest::List(selectors) => {
            for selector in selectors {
                one(selector, gpus, &mut found)?;
            }
        }
    }
    Ok(found.into_iter().collect())
}

fn one(selector: &Selector, gpus: &[GpuView<'_>], found: &mut BTreeSet<Selected>) -> Result<()> {
    let unknown = || unknown(selector, gpus);
    let whole = |gpu| Selected { gpu, mig: None };
    let by_index = |index: u32| gpus.iter().position(|gpu| gpu.index == index);
    match selector {
        Selector::Index(index) => {
            found.insert(whole(by_index(*index).ok_or_else(unknown)?));
        }
        Selector::Range(first, last) => {
            // Iterates over the GPUs, not over the range: `0-4294967295` must not take long.
            let range = *first..=*last;
            let inside = gpus
                .iter()
                .enumerate()
                .filter(|(_, gpu)| range.contains(&gpu.index));
            let places: Vec<usize> = inside.map(|(place, _)| place).collect();
            if places.len() as u64 != u64::from(last - first) + 1 {
                return Err(unknown());
            }
            found.extend(places.into_iter().map(whole));
        }
        Selector::Pci(address) => {
            let gpu = gpus.iter().position(|gpu| gpu.pci == *address);
            found.insert(whole(gpu.ok_or_else(unknown)?));
        }
        Selector::Uuid(uuid) => {
            found.insert(whole(gpu_by_uuid(selector, *uuid, gpus)?));
        }
        Selector::MigUuid(uuid) => {
            found.insert(mig_by_uuid(selector, *uuid, gpus)?);
        }
        Selector::MigIndex { gpu, mig } => {
            let gpu = by_index(*gpu).ok_or_else(unknown)?;
            let mig = gpus[gpu].mig.iter().position(|m| m.index == *mig);
            found.insert(Selected {
                gpu,
                mig: Some(mig.ok_or_else(unknown)?),
            });
        }
        Selector::MigInstance { gpu, gi, ci } => {
            let gpu = gpu_by_uuid(selector, *gpu, gpus)?;
            let mig = gpus[gpu].mig.iter().position(|m| m.gi == *gi && m.ci == *ci);
            found.insert(Selected {
                gpu,
                mig: Some(mig.ok_or_else(unknown)?),
            });
        }
    }
    Ok(())
}

fn gpu_by_uuid(selector: &Selector, uuid: UuidStart, gpus: &[GpuView<'_>]) -> Result<usize> {
    let known = gpus
        .iter()
        .enumerate()
        .filter_map(|(place, gpu)| Some((place, gpu.uuid?)));
    let named = known.filter(|(_, gpu)| uuid.is_of(gpu.0));
    only(selector, named)?.ok_or_else(|| unknown(selector, gpus))
}

fn mig_by_uuid(selector: &Selector, uuid: UuidStart, gpus: &[GpuView<'_>]) -> Result<Selected> {
    let known = gpus.iter().enumerate().flat_map(|(gpu, view)| {
        let devices = view.mig.iter().enumerate();
        devices.filter_map(move |(mig, m)| Some((Selected { gpu, mig: Some(mig) }, m.uuid?)))
    });
    let named = known.filter(|(_, mig)| matches!(mig, MigUuid::Own(own) if uuid.is_of(*own)));
    if let Some(selected) = only(selector, named)? {
        return Ok(selected);
    }
    if gpus.iter().flat_map(|gpu| gpu.mig).any(|m| m.uuid.is_none()) {
        let why = "the driver did not report the UUIDs of this host's MIG devices";
        let fix = "name the device as <gpu>:<mig>, such as 0:1; `nvoci list` shows them";
        return Err(Error::new(Code::UnknownDevice, format!("device {selector}"), why).fix(fix));
    }
    Err(unknown(selector, gpus))
}

/// The one device whose UUID begins with the selector's text; `named` pairs devices with their
/// UUIDs.
fn only<T>(selector: &Selector, named: impl Iterator<Item = (T, impl ToString)>) -> Result<Option<T>> {
    let mut hits: Vec<_> = named.collect();
    if hits.len() <= 1 {
        return Ok(hits.pop().map(|(place, _)| place));
    }
    let names: Vec<String> = hits
        .iter()
        .take(MAX_NAMED)
        .map(|(_, uuid)| uuid.to_string())
        .collect();
    let why = format!(
        "it is the beginning of {} UUIDs: {}",
        hits.len(),
        names.join(", ")
    );
    let fix = "give more of the UUID";
    Err(Error::new(Code::UnknownDevice, format!("device {selector}"), why).fix(fix))
}

/// How many devices an error names.
const MAX_NAMED: usize = 8;

fn unknown(selector: &Selector, gpus: &[GpuView<'_>]) -> Error {
    let what = format!("device {}", excerpt(&selector.to_string()));
    if gpus.is_empty() {
        return Error::new(Code::UnknownDevice, what, "this host has no GPU");
    }
    let named: Vec<String> = gpus.iter().take(MAX_NAMED).map(describe).collect();
    let more = match gpus.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let why = format!("no such device; this host has {}{more}", named.join(", "));
    Error::new(Code::UnknownDevice, what, why)
}

/// `0 (GPU-1c2d3e4f, 0000:65:00.0, MIG 0:0 to 0:6)`: the names by which it can be requested.
fn describe(gpu: &GpuView<'_>) -> String {
    let uuid = or_empty(gpu.uuid.map(GpuUuid::short));
    let mig = match (gpu.mig.first(), gpu.mig.last()) {
        (Some(first), Some(last)) if gpu.mig.len() > 1 => {
            format!(", MIG {0}:{1} to {0}:{2}", gpu.index, first.index, last.index)
        }
        (Some(only), _) => format!(", MIG {}:{}", gpu.index, only.index),
        _ => String::new(),
    };
    format!("{} ({uuid}, {}{mig})", gpu.index, gpu.pci)
}
