//! What the container gets: a pure function of what it asked for, what the host has, and the policy.
//!
//! Nothing here reads or changes anything, so a plan is tested on recorded hosts, printed by
//! `nvoci plan`, and applied the same way by every entry point.

pub mod catalogue;
mod devices;
mod files;
mod graphics;
mod part;
mod site;
#[cfg(test)]
mod tests;
mod wsl;

use std::path::PathBuf;

use part::Part;

use crate::compat::gpu::class_of_name;
use crate::config::{Config, CudaCompat, Layout};
use crate::error::Result;
use crate::host::Host;
use crate::request::{Capabilities, Chosen, Request};
use crate::vocabulary::{GpuUuid, PciAddress};

pub use devices::Device;
pub use files::{DriverFile, Link, LinkAt, Place, RootfsLink, is_required};
pub use graphics::{Text, Without};
pub use wsl::Tree;

/// Everything that one container gets, each part with the reason why.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The driver's version, as of the kernel module; on WSL2 that of Windows' driver, or `unknown`.
    pub driver_version: String,
    /// Whether that is one of Windows: this is WSL2.
    pub wsl: bool,
    /// The GPUs it may use, in bus order.
    pub gpus: Vec<GpuRef>,
    /// Device nodes.
    pub devices: Vec<Device>,
    /// Files of the driver directory.
    pub files: Vec<DriverFile>,
    /// Links inside the driver directory.
    pub links: Vec<Link>,
    /// Files of the driver directory that no host file is bound for.
    pub texts: Vec<Text>,
    /// Directories that must be at one absolute path, outside the driver directory.
    pub trees: Vec<Tree>,
    /// Links from the places where programs look things up by path.
    pub rootfs_links: Vec<RootfsLink>,
    /// Where the driver directory may be in the container, first choice first.
    pub driver_dirs: Vec<PathBuf>,
    /// Whether libraries also appear where the distribution keeps its own.
    pub native_layout: bool,
    /// Whether the sockets of the driver's daemons are given.
    pub ipc_sockets: bool,
    /// What `/proc/driver/nvidia/params` says in the container: that nobody makes device nodes there.
    pub params: Option<Vec<u8>>,
    /// The GPUs that `/proc/driver/nvidia/gpus` shows; `None` leaves it as it is.
    pub visible_pci: Option<Vec<PciAddress>>,
    /// Whether newer libraries of the image may come before the driver's.
    pub forward: Forward,
    /// The settings that the container has for itself, which the plan follows.
    pub settings: Vec<Chosen>,
    /// Variables of the container; a hook comes too late for them.
    pub env: Vec<(String, String)>,
    /// Whether the device cgroup is left to the engine.
    pub no_cgroups: bool,
    /// What the user should know: ignored requests, missing optional parts.
    pub warnings: Vec<String>,
}

/// Whether CUDA compatibility libraries of the image may be used: those that are newer than the driver.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Forward {
    /// If they say that they work with this driver.
    Allowed,
    /// The question does not arise.
    #[default]
    Off,
    /// They would not work; why.
    Refused(String),
}

/// A GPU of the plan.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GpuRef {
    /// NVML's index: the position in PCI bus order.
    pub index: u32,
    /// The minor number of `/dev/nvidiaN`.
    pub minor: u32,
    /// Its UUID, if the kernel module knows it.
    pub uuid: Option<GpuUuid>,
    /// Where it is; unknown on WSL2 and of a Jetson's.
    pub pci: Option<PciAddress>,
    /// The marketing name.
    pub name: String,
}

/// Plans what a container gets.
///
/// # Errors
/// When the request cannot be met: no driver, two versions of it, an unknown device, a missing node, an
/// unmet requirement.
pub fn plan(request: &Request, host: &Host, config: &Config) -> Result<Plan> {
    host.check_versions()?;
    let config = &*request.settle(config);
    let driver_version = host.driver_version().unwrap_or_else(|| "unknown".to_owned());
    let mut all = Part {
        warnings: [&*request.notes, &*host.warnings].concat(),
        ..Part::default()
    };
    all.add(match (&host.wsl, &host.tegra) {
        (Some(wsl), _) => wsl::part(request, host, wsl)?,
        (None, Some(tegra)) => site::tegra(request, host, tegra)?,
        (None, None) => devices::part(request, host)?,
    });
    all.warnings.extend(devices::check_requirements(request, host)?);
    all.add(files::part(request, host, config, &driver_version, &all.gpus)?);
    all.add(site::extra(request, host, &config.extra, all.site_files()));
    let Part {
        gpus,
        devices,
        files,
        links,
        texts,
        trees,
        rootfs_links,
        env,
        warnings,
    } = all;
    let make_no_nodes = host.modify_device_files == Some(true);
    Ok(Plan {
        driver_version,
        wsl: host.wsl.is_some(),
        forward: forward(&gpus, request, host, config),
        params: host
            .params
            .as_deref()
            .filter(|_| make_no_nodes)
            .map(forbid_node_making),
        visible_pci: (gpus.len() < host.gpus.len()).then(|| gpus.iter().filter_map(|g| g.pci).collect()),
        gpus,
        devices,
        files,
        links,
        texts,
        trees,
        rootfs_links,
        driver_dirs: config.driver_dirs.value.clone(),
        native_layout: *config.layout == Layout::Native,
        ipc_sockets: *config.ipc_sockets,
        settings: request.settings.clone(),
        env,
        no_cgroups: *config.no_cgroups,
        warnings,
    })
}

/// CUDA's forward compatibility is for those who compute, on GPUs that NVIDIA allows it on. WSL2's libcuda
/// is Windows', and a Jetson has packages of its own.
fn forward(gpus: &[GpuRef], request: &Request, host: &Host, config: &Config) -> Forward {
    let computes = request
        .capabilities
        .intersects(Capabilities::COMPUTE.with(Capabilities::VIDEO));
    if *config.cuda_compat == CudaCompat::Off || !computes || host.wsl.is_some() || host.tegra.is_some() {
        return Forward::Off;
    }
    let unfit = gpus
        .iter()
        .find(|g| class_of_name(&g.name).is_some_and(|class| !class.allows_forward()));
    unfit.map_or(Forward::Allowed, |gpu| {
        Forward::Refused(format!(
            "NVIDIA allows them on data-centre and some workstation GPUs, and GPU {} is a {}",
            gpu.index, gpu.name
        ))
    })
}

/// `ModifyDeviceFiles: 1` tells libcuda and NVML to make missing device nodes, with modes of their own.
pub fn forbid_node_making(params: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(params);
    text.replace("ModifyDeviceFiles: 1", "ModifyDeviceFiles: 0")
        .into_bytes()
}
