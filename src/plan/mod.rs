//! Computes the contents of a container, such as nodes, driver files and links, from its request,
//! the host and the policy.
//!
//! The function is pure, so tests run it on recorded hosts, `nvoci plan` prints its result, and
//! every entry point applies it in the same way.

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

use crate::compat::Version;
use crate::compat::gpu::class_of_name;
use crate::config::{Config, CudaCompat, Layout};
use crate::error::Result;
use crate::host::Host;
use crate::request::{Capabilities, Chosen, Request};
use crate::vocabulary::{GpuUuid, PciAddress};

pub use devices::{Device, Unusable};
pub use files::{DriverFile, Link, LinkAt, Place, RootfsLink, is_required};
pub use graphics::{Text, Without};
pub use wsl::Tree;

fn driver_text(driver: Option<Version>) -> String {
    driver.map_or_else(|| "unknown".to_owned(), |version| version.to_string())
}

/// The contents of one container, each part with its reason.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The driver's version: that of the kernel module; on WSL2 that of Windows' driver.
    pub driver_version: Option<Version>,
    /// Whether the driver is that of Windows, on WSL2.
    pub wsl: bool,
    /// The GPUs it may use, in bus order.
    pub gpus: Vec<GpuRef>,
    /// Device nodes.
    pub devices: Vec<Device>,
    /// Files of the driver directory.
    pub files: Vec<DriverFile>,
    /// Links inside the driver directory.
    pub links: Vec<Link>,
    /// Generated files of the driver directory.
    pub texts: Vec<Text>,
    /// Directories that must be at one absolute path, outside the driver directory.
    pub trees: Vec<Tree>,
    /// Links from the paths that programs open.
    pub rootfs_links: Vec<RootfsLink>,
    /// Candidates for the driver directory in the container, first choice first.
    pub driver_dirs: Vec<PathBuf>,
    /// Whether libraries also appear in the distribution's library directory.
    pub native_layout: bool,
    /// Whether the container gets the sockets of the driver's daemons.
    pub ipc_sockets: bool,
    /// The container's `/proc/driver/nvidia/params`, which forbids libcuda and NVML to make device
    /// nodes.
    pub params: Option<Vec<u8>>,
    /// The GPUs that `/proc/driver/nvidia/gpus` shows; `None` leaves it as it is.
    pub visible_pci: Option<Vec<PciAddress>>,
    /// Whether newer libraries of the image may come before the driver's.
    pub forward: Forward,
    /// The settings that the container chose for itself and that the plan follows.
    pub settings: Vec<Chosen>,
    /// Variables of the container. A hook runs too late to set them.
    pub env: Vec<(String, String)>,
    /// Whether the device cgroup is left to the engine.
    pub no_cgroups: bool,
    /// Warnings for the user: ignored requests, missing optional parts.
    pub warnings: Vec<String>,
    /// The GPUs on which the container cannot compute, unless the preflight check is off. Each is a
    /// line of `warnings` too.
    pub unusable: Vec<Unusable>,
}

impl Plan {
    /// The driver's version for people and records: `unknown` if there is none.
    pub fn driver_text(&self) -> String {
        driver_text(self.driver_version)
    }
}

/// Whether an image's CUDA compatibility libraries may be used if they are newer than the driver.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Forward {
    /// Allowed if the libraries' note lists this driver.
    Allowed,
    /// Not applicable to this request or platform.
    #[default]
    Off,
    /// They would not work, for this reason.
    Refused(String),
}

/// A GPU of the plan.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GpuRef {
    /// NVML's index: the position in PCI bus order.
    pub index: u32,
    /// The minor number of `/dev/nvidiaN`.
    pub minor: u32,
    /// Its UUID, if the kernel module has it.
    pub uuid: Option<GpuUuid>,
    /// Its PCI address; `None` on WSL2 and on a Jetson.
    pub pci: Option<PciAddress>,
    /// The marketing name.
    pub name: String,
}

/// Plans the contents of a container.
///
/// # Errors
/// If the request cannot be met: no driver, two versions of it, an unknown device, a missing node,
/// an unmet requirement.
pub fn plan(request: &Request, host: &Host, config: &Config) -> Result<Plan> {
    host.check_versions()?;
    let config = &*request.settle(config);
    let driver_version = host.driver_version();
    let mut all = Part {
        warnings: [&*request.notes, &*host.warnings].concat(),
        ..Part::default()
    };
    all.add(match (&host.wsl, &host.tegra) {
        (Some(wsl), _) => wsl::part(request, host, wsl)?,
        (None, Some(tegra)) => site::tegra(request, host, tegra)?,
        (None, None) => devices::part(request, host, *config.preflight)?,
    });
    all.warnings.extend(devices::check_requirements(request, host)?);
    all.add(files::part(request, host, config, driver_version, &all.gpus)?);
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
        unusable,
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
        unusable,
    })
}

/// Whether CUDA's forward compatibility applies: to compute, on GPUs for which NVIDIA allows it. On
/// WSL2 libcuda is Windows', and a Jetson has packages of its own.
fn forward(gpus: &[GpuRef], request: &Request, host: &Host, config: &Config) -> Forward {
    let computes = request.capabilities.intersects(Capabilities::CUDA);
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

/// With `ModifyDeviceFiles: 1` libcuda and NVML make missing device nodes, with modes of their own.
pub fn forbid_node_making(params: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(params);
    text.replace("ModifyDeviceFiles: 1", "ModifyDeviceFiles: 0")
        .into_bytes()
}
