//! Discovers the host's driver, libraries, GPUs and device nodes.
//!
//! It only reads (but for [`create`], which an administrator enables), and always through a
//! [`Root`]. So a driver below `/run/nvidia/driver` and a recorded host in a test use the same
//! code. A missing driver is a fact and not an error: such a machine has an empty [`Host`], and
//! [`Host::check_versions`] reports the error.
//!
//! | module | facts | from |
//! |---|---|---|
//! | [`driver`] | kernel module, majors, GPUs, MIG devices | procfs |
//! | [`kept`] | the module's texts of GPUs from an earlier start | a file of ours |
//! | [`earlier`] | libraries and files as an earlier start found them | a file of ours |
//! | [`libs`] | libraries and their version | the driver root's `ld.so.cache`, else its directories |
//! | [`files`] | binaries, firmware, configuration, sockets | fixed places below the driver root |
//! | [`nodes`] | device nodes | the dev root, numbers checked against procfs |
//! | [`tegra`] | a Jetson's driver | its CSV files |
//! | [`pci`] | NVIDIA's devices on the bus, driven or not | sysfs |
//! | [`wsl`] | adapters, driver packages, loader stubs on WSL2 | `/dev/dxg`, `/usr/lib/wsl` |
//! | [`create`], [`kmod`] | - | makes nodes and loads modules that are missing |

pub mod create;
pub mod driver;
pub mod earlier;
pub mod files;
pub mod kept;
pub mod kmod;
pub mod libs;
mod manifest;
pub mod nodes;
pub mod pci;
pub mod tegra;
#[cfg(test)]
pub(crate) mod testhost;
#[cfg(test)]
mod tests;
pub mod wsl;

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

pub use tegra::Tegra;
pub use wsl::Wsl;

use crate::compat::driver::Native;
use crate::compat::{self, Version};
use crate::error::{Code, Error, IoContext as _, Result};
use crate::sys::root::Root;
use crate::sys::source::{Proved, Use, Walk};
use crate::vocabulary::{DeviceNumber, GpuUuid, MigDevice, PciAddress};
use earlier::Earlier;
use files::Firmware;
use kept::Kept;

/// Paths of the discovery, filled from the configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Locations {
    /// The directory that the driver's files are below: `/`, or `/run/nvidia/driver`.
    pub driver_root: PathBuf,
    /// The directory with the device nodes, or one that has a `dev` with them. `None`: the driver
    /// root's, if it has `dev/nvidiactl`, else the host's `/dev`.
    pub dev_root: Option<PathBuf>,
    /// Library directories below the driver root that are searched when its loader cache lacks the
    /// driver, before the known ones.
    pub library_dirs: Vec<PathBuf>,
    /// The loader cache, from the driver root.
    pub ldcache: PathBuf,
    /// The directory of MPS's pipes, from the driver root.
    pub mps_dir: PathBuf,
    /// The user whose MPS daemon made it; `None`: root.
    pub mps_user: Option<u32>,
    /// The directory of a Jetson's CSV files, from the driver root.
    pub csv_dir: PathBuf,
    /// The CSV files that the user names. nvoci reads them on any host, a Jetson or not.
    pub csv: Option<tegra::Choice>,
    /// Nodes that a site adds, by their paths in a container.
    pub site_devices: Vec<PathBuf>,
    /// The mounted procfs.
    pub proc_root: PathBuf,
    /// The mounted sysfs.
    pub sys_root: PathBuf,
}

impl Default for Locations {
    fn default() -> Self {
        Self {
            driver_root: "/".into(),
            dev_root: None,
            library_dirs: Vec::new(),
            ldcache: "/etc/ld.so.cache".into(),
            mps_dir: "/tmp/nvidia-mps".into(),
            mps_user: None,
            csv_dir: "/etc/nvidia-container-runtime/host-files-for-container.d".into(),
            csv: None,
            site_devices: Vec::new(),
            proc_root: "/proc".into(),
            sys_root: "/sys".into(),
        }
    }
}

/// The directories through which the discovery reads the host.
#[derive(Debug)]
pub struct Roots {
    /// The directory above the driver's files.
    pub driver: Root,
    /// The driver root as the host sees it.
    pub driver_path: PathBuf,
    /// The directory with the device nodes: `nvidia0` is directly below it.
    pub dev: Root,
    /// The dev root as the host sees it.
    pub dev_path: PathBuf,
    /// The host's procfs.
    pub proc: Root,
    /// The host's sysfs, if it has one.
    pub sys: Option<Root>,
    /// The proofs of the driver's files.
    proved: Rc<RefCell<Proved>>,
}

impl Roots {
    /// Opens the directories in `loc`. It follows symbolic links on the way, since the
    /// administrator chose the paths.
    ///
    /// # Errors
    /// [`Code::NoDriver`] if the driver root or the dev root is not a directory, [`Code::System`]
    /// if there is no procfs.
    pub fn open(loc: &Locations) -> Result<Self> {
        let host = Root::open("/").context(Code::System, || "open /")?;
        let driver = host.subroot(&loc.driver_root).context(Code::NoDriver, || {
            format!("driver root {}", loc.driver_root.display())
        })?;
        let dev_path = dev_path(&host, &driver, loc);
        let dev = host
            .subroot(&dev_path)
            .context(Code::NoDriver, || format!("dev root {}", dev_path.display()))?;
        let proc = host
            .subroot(&loc.proc_root)
            .context(Code::System, || format!("open {}", loc.proc_root.display()))?;
        Ok(Self {
            driver,
            driver_path: loc.driver_root.clone(),
            dev,
            dev_path,
            proc,
            sys: host.subroot(&loc.sys_root).ok(),
            proved: Rc::default(),
        })
    }
}

impl Roots {
    /// A walk that finds and proves the driver's files.
    pub fn walk(&self) -> Walk<'_> {
        Walk::with(&self.driver, &self.driver_path, Rc::clone(&self.proved))
    }
}

/// The directory that has `nvidia0` directly below it.
fn dev_path(host: &Root, driver: &Root, loc: &Locations) -> PathBuf {
    match &loc.dev_root {
        Some(dir) => {
            let below = dir.join("dev");
            if host.resolve(&below).is_ok_and(|n| n.is_dir()) {
                below
            } else {
                dir.clone()
            }
        }
        None if driver.exists("dev/nvidiactl") => loc.driver_root.join("dev"),
        None => PathBuf::from("/dev"),
    }
}

/// The kind of host.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Platform {
    /// A Linux host with NVIDIA's kernel module or user-space driver.
    Native,
    /// Windows' driver seen through `/dev/dxg`.
    Wsl2,
    /// A Jetson or another integrated GPU, described by CSV files.
    Tegra,
    /// Nothing of NVIDIA was found.
    #[default]
    None,
}

impl Platform {
    /// A stable name, used in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Wsl2 => "wsl2",
            Self::Tegra => "tegra",
            Self::None => "none",
        }
    }
}

/// The loaded kernel module.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KernelModule {
    /// Like `580.159.04`.
    pub version: Version,
    /// Whether it is the open kernel module.
    pub open: bool,
}

/// One GPU that the kernel module drives.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Gpu {
    /// NVML's index: the position in PCI bus order among the GPUs that are not excluded. Excluded
    /// GPUs are numbered after the others.
    pub index: u32,
    /// The minor number: the `0` of `/dev/nvidia0`.
    pub minor: u32,
    /// `None` until the GPU is initialised for the first time, since the kernel does not have it.
    pub uuid: Option<GpuUuid>,
    /// Its PCI address.
    pub pci: PciAddress,
    /// The product name.
    pub name: String,
    /// Excluded from use by a module parameter.
    pub excluded: bool,
    /// Its MIG devices, by GPU instance and compute instance; empty when MIG is off.
    pub mig_devices: Vec<MigDevice>,
}

/// Minor numbers of capability nodes that belong to no MIG device (`None`: not offered).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CapMinors {
    /// The right to change the MIG configuration.
    pub mig_config: Option<u32>,
    /// The right to see all MIG devices.
    pub mig_monitor: Option<u32>,
    /// NVLink fabric management.
    pub fabric_mgmt: Option<u32>,
    /// IMEX daemon's right.
    pub fabric_imex_mgmt: Option<u32>,
}

/// Character device numbers of the drivers that nvoci uses, from `/proc/devices`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Majors(pub Vec<(String, u32)>);

impl Majors {
    /// The first major of a driver.
    pub fn get(&self, name: &str) -> Option<u32> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, m)| *m)
    }

    /// The major of `/dev/nvidia0`, `/dev/nvidiactl` and `/dev/nvidia-modeset`.
    pub fn nvidia(&self) -> Option<u32> {
        self.get("nvidia").or_else(|| self.get("nvidia-frontend"))
    }

    /// Whether one of the drivers in `names` has `major`.
    pub fn has(&self, names: &[&str], major: u32) -> bool {
        self.0
            .iter()
            .any(|(n, m)| *m == major && names.contains(&n.as_str()))
    }
}

/// The driver's policy for its device nodes, from its `params`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NodePolicy {
    /// Whether user space may make or change nodes.
    pub modify: bool,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

impl Default for NodePolicy {
    fn default() -> Self {
        Self {
            modify: true,
            uid: 0,
            gid: 0,
            mode: 0o666,
        }
    }
}

/// A device node, in `/dev` or only known to the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeviceNode {
    /// Its kind.
    pub kind: NodeKind,
    /// The path in a container: below `/dev`, wherever the dev root is.
    pub path: PathBuf,
    /// The device number.
    pub number: DeviceNumber,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// `false`: the kernel has the device, but `/dev` has no node of it.
    pub present: bool,
    /// Symbolic links to it that programs open: `/dev/dri/by-path/...`.
    pub links: Vec<PathBuf>,
}

/// The kind of a device node.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum NodeKind {
    /// `/dev/nvidiactl`.
    Ctl,
    /// `/dev/nvidia<minor>`.
    Gpu(u32),
    /// `/dev/nvidia-uvm`.
    Uvm,
    /// `/dev/nvidia-uvm-tools`.
    UvmTools,
    /// `/dev/nvidia-modeset`.
    Modeset,
    /// `/dev/nvidia-caps/nvidia-cap<minor>`.
    Cap(u32),
    /// `/dev/nvidia-caps-imex-channels/channel<N>`.
    ImexChannel(u32),
    /// `/dev/nvidia-nvswitchctl`.
    NvSwitchCtl,
    /// `/dev/nvidia-nvswitch<N>`.
    NvSwitch(u32),
    /// `/dev/nvidia-nvlink`.
    Nvlink,
    /// `/dev/dri/card<N>` or `/dev/dri/renderD<N>` of a GPU.
    Dri {
        /// The GPU's address.
        pci: PciAddress,
        /// A render node, not a card.
        render: bool,
    },
    /// `/dev/nvidia-fs<N>` of GPUDirect Storage.
    NvidiaFs(u32),
    /// `/dev/gdrdrv` of GDRCopy.
    Gdrdrv,
    /// `/dev/infiniband/uverbs<N>`.
    Uverbs(u32),
    /// `/dev/infiniband/rdma_cm`.
    RdmaCm,
    /// `/dev/dxg` of WSL2.
    Dxg,
    /// A node that the configuration or a Jetson's CSV files name.
    Site,
}

impl NodeKind {
    /// Whether the node is one of the driver's own, for which no udev rule makes a link.
    pub fn is_drivers_own(self) -> bool {
        matches!(
            self,
            Self::Ctl
                | Self::Gpu(_)
                | Self::Uvm
                | Self::UvmTools
                | Self::Modeset
                | Self::Cap(_)
                | Self::ImexChannel(_)
        )
    }
}

/// A file of the driver.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DriverFile {
    /// Its kind.
    pub kind: FileKind,
    /// The file name: for libraries and binaries the real one (`libcuda.so.580.159.04`), for
    /// configuration the standard one; for sockets and directories their service
    /// (`nvidia-persistenced`).
    pub name: String,
    /// The path from the driver root with all links resolved: `/usr/lib64/libcuda.so.580.159.04`.
    pub path: PathBuf,
    /// The path from the driver root without links resolved, for [`Walk::find`].
    pub found: PathBuf,
    /// The content for a container, if the file itself will not do because it names libraries by
    /// paths of the host.
    pub text: Option<String>,
}

impl DriverFile {
    /// A library's `DT_SONAME`.
    pub fn soname(&self) -> Option<&str> {
        match &self.kind {
            FileKind::Library { soname, .. } => soname.as_deref(),
            _ => None,
        }
    }

    /// The directory in which the host's own programs search for it.
    pub fn dir_hint(&self) -> PathBuf {
        libs::parent(&self.found)
    }

    /// The use for which it is bound.
    pub fn wanted(&self) -> Use {
        match self.kind {
            FileKind::Directory => Use::Directory,
            FileKind::Pipes(user) => Use::Pipes(user),
            FileKind::Socket => Use::Socket,
            _ => Use::File,
        }
    }
}

/// The kind of a driver file.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub enum FileKind {
    /// A shared library.
    Library {
        /// Its `DT_SONAME`.
        soname: Option<String>,
        /// For 64-bit or 32-bit programs.
        bits: Bits,
        /// The directory that it needs below the library directory: `vdpau`, `xorg`.
        subdir: Option<String>,
    },
    /// A program.
    Binary,
    /// Firmware that the kernel loads and that the driver also opens in containers.
    Firmware,
    /// A configuration file.
    Config(ConfigKind),
    /// The directory of MPS's sockets and pipes, and the user who may own it besides root.
    Pipes(Option<u32>),
    /// A daemon's socket.
    Socket,
    /// A directory of data that is shared with containers (`udev`).
    Directory,
    /// A data file.
    Data,
}

/// The word size of a library.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Bits {
    /// 64-bit.
    B64,
    /// 32-bit.
    B32,
}

/// The reader of a configuration file, which decides its place.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[non_exhaustive]
pub enum ConfigKind {
    /// `glvnd/egl_vendor.d/*.json`.
    EglVendor,
    /// `egl/egl_external_platform.d/*.json`.
    EglExternalPlatform,
    /// `vulkan/icd.d/*.json`.
    VulkanIcd,
    /// `vulkan/implicit_layer.d/*.json`.
    VulkanImplicitLayer,
    /// `OpenCL/vendors/*.icd`.
    OpenClIcd,
    /// `nvidia/nvoptix.bin`.
    OptixData,
    /// `nvidia/nvidia-application-profiles-*`.
    ApplicationProfiles,
    /// `X11/xorg.conf.d/*.conf`.
    XorgConf,
    /// `cufile.json` of GPUDirect Storage.
    Cufile,
}

impl ConfigKind {
    /// The directory below `/usr/share` or `/etc` that its reader searches.
    pub const fn dir(self) -> &'static str {
        match self {
            Self::EglVendor => "glvnd/egl_vendor.d",
            Self::EglExternalPlatform => "egl/egl_external_platform.d",
            Self::VulkanIcd => "vulkan/icd.d",
            Self::VulkanImplicitLayer => "vulkan/implicit_layer.d",
            Self::OpenClIcd => "OpenCL/vendors",
            Self::OptixData | Self::ApplicationProfiles => "nvidia",
            Self::XorgConf => "X11/xorg.conf.d",
            Self::Cufile => "",
        }
    }
}

/// The facts of a host.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Host {
    /// The kind of host.
    pub platform: Platform,
    /// The loaded kernel module.
    pub kernel: Option<KernelModule>,
    /// The version of the user-space libraries.
    pub user_version: Option<Version>,
    /// GPUs in PCI bus order, excluded ones last; `gpus[i].index == i`.
    pub gpus: Vec<Gpu>,
    /// Device nodes.
    pub nodes: Vec<DeviceNode>,
    /// The driver's files, of one version.
    pub files: Vec<DriverFile>,
    /// Character device numbers.
    pub majors: Majors,
    /// `ModifyDeviceFiles` of the module's parameters.
    pub modify_device_files: Option<bool>,
    /// The driver's policy for its nodes.
    pub node_policy: NodePolicy,
    /// `/proc/driver/nvidia/params`, byte for byte.
    pub params: Option<Vec<u8>>,
    /// Capability nodes that belong to no MIG device.
    pub caps: CapMinors,
    /// Policies of capability nodes, by minor number: each has a mode of its own.
    pub cap_policies: Vec<(u32, NodePolicy)>,
    /// The adapters and driver of Windows, on WSL; `None` on every other host.
    pub wsl: Option<Wsl>,
    /// A Jetson's driver from its CSV files; `None` on every other host.
    pub tegra: Option<Tegra>,
    /// Warnings, one sentence each.
    pub warnings: Vec<String>,
}

/// The driver's files to search for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Parts {
    /// All files.
    All,
    /// Files for compute: without graphics manifests and modules of the X server.
    Computing,
    /// Only the files that give the driver's version, for a definition, which names devices alone.
    /// The hook finds the others later.
    Version,
}

impl Host {
    /// Discovers the host.
    ///
    /// # Errors
    /// None today: a file that cannot be read is left out with a warning.
    pub fn discover(roots: &Roots, loc: &Locations) -> Result<Self> {
        Self::begin(roots, &mut Kept::default()).finish(
            roots,
            loc,
            Parts::All,
            &|_| true,
            &mut Earlier::default(),
        )
    }

    /// The first part of [`Host::discover`]: the kernel module's facts, which every request needs.
    /// `kept` replaces files of GPUs that have not changed.
    pub fn begin(roots: &Roots, kept: &mut Kept) -> Self {
        let mut host = Self::default();
        driver::find(roots, &mut host, kept);
        host
    }

    /// The second part of [`Host::discover`]. A container's start waits for each lookup, so
    /// `wanted` selects libraries and programs by name; the libraries that give the driver's
    /// version are always read. `earlier` replaces the search while its record holds.
    ///
    /// # Errors
    /// As of [`Host::discover`].
    pub fn finish(
        self,
        roots: &Roots,
        loc: &Locations,
        parts: Parts,
        wanted: &dyn Fn(&str) -> bool,
        earlier: &mut Earlier,
    ) -> Result<Self> {
        let mut host = self;
        let firmware = Firmware::of(roots, parts);
        let key = earlier.key(&host, loc, &firmware);
        let restored = key.as_ref().and_then(|key| earlier.restore(key, roots, loc));
        let is_restored = restored.is_some();
        let mut cache = None;
        let mut warnings = host.warnings.len();
        // A kernel module of NVIDIA's proves a native host. Without one, Windows may have the
        // driver.
        if host.kernel.is_none() {
            wsl::find(roots, loc, &mut host);
        }
        if let Some((version, files)) = restored {
            host.user_version = Some(version);
            host.files = files;
        } else if host.wsl.is_none() {
            cache = libs::find(roots, loc, &mut host, wanted);
        }
        let mut is_clean = host.warnings.len() == warnings;
        let jetson = || host.user_version.is_none() && host.wsl.is_none() && tegra::is(roots);
        if loc.csv.is_some() || jetson() {
            tegra::find(roots, loc, &mut host);
        }
        nodes::find(roots, &loc.site_devices, &mut host);
        host.platform = host.guess_platform(roots);
        let has_files = host.wsl.is_none() && parts != Parts::Version;
        if has_files && !is_restored {
            warnings = host.warnings.len();
            files::find(roots, &firmware, &mut host, parts, wanted);
            is_clean &= host.warnings.len() == warnings;
        }
        if let (Some(key), Some(cache)) = (key, cache)
            && is_clean
            && host.wsl.is_none()
            && host.tegra.is_none()
        {
            earlier.keep(key, roots, cache, &host);
        }
        if has_files {
            files::find_live(roots, loc, &mut host);
        }
        Ok(host)
    }

    /// Reads procfs and the device nodes again, after [`create::create_missing`].
    pub fn refresh(&mut self, roots: &Roots) {
        let nodes = std::mem::take(&mut self.nodes);
        let site = nodes.into_iter().filter(|n| n.kind == NodeKind::Site);
        let site: Vec<PathBuf> = site.map(|n| n.path).collect();
        self.gpus.clear();
        self.cap_policies.clear();
        driver::find(roots, self, &mut Kept::default());
        nodes::find(roots, &site, self);
        self.platform = self.guess_platform(roots);
    }

    /// The driver's version: the kernel module's, or on WSL2 that of Windows' driver if it is
    /// known.
    pub fn driver_version(&self) -> Option<Version> {
        match &self.wsl {
            Some(wsl) => wsl.version(),
            None => self.kernel.as_ref().map(|k| k.version),
        }
    }

    /// The CUDA version that the driver supports; `None` if the tables do not have it.
    pub fn cuda(&self) -> Option<Native> {
        let platform = if self.wsl.is_some() {
            compat::Platform::Windows
        } else {
            compat::Platform::Linux
        };
        compat::driver::native(self.driver_version()?, platform)
    }

    /// Checks that kernel module and libraries exist and have one version; on WSL, that Windows
    /// lends a usable GPU.
    ///
    /// # Errors
    /// [`Code::NoDriver`], [`Code::NoLibraries`], [`Code::VersionMismatch`], [`Code::Wsl`].
    pub fn check_versions(&self) -> Result<()> {
        if let Some(wsl) = &self.wsl {
            return wsl.check();
        }
        if self.tegra.is_some() {
            return Ok(());
        }
        match (&self.kernel, &self.user_version) {
            (Some(kernel), Some(user)) if kernel.version == *user => Ok(()),
            (Some(kernel), Some(user)) => Err(Error::new(
                Code::VersionMismatch,
                "NVIDIA driver",
                format!(
                    "the loaded kernel module is {} but the libraries are {user}",
                    kernel.version
                ),
            )),
            (Some(kernel), None) => Err(Error::new(
                Code::NoLibraries,
                "NVIDIA driver",
                format!(
                    "the kernel module {} is loaded, but neither libcuda nor libnvidia-ml was found",
                    kernel.version
                ),
            )),
            (None, Some(user)) => Err(Error::new(
                Code::NoDriver,
                "NVIDIA driver",
                format!("libraries {user} are installed, but no kernel module is loaded"),
            )
            .fix("load the kernel module (`modprobe nvidia`), then `nvidia-smi` on the host must work")),
            (None, None) => Err(Error::new(
                Code::NoDriver,
                "NVIDIA driver",
                "neither a kernel module nor libraries were found",
            )),
        }
    }

    /// The GPUs that can be used.
    pub fn usable_gpus(&self) -> impl Iterator<Item = &Gpu> {
        self.gpus.iter().filter(|g| !g.excluded)
    }

    /// The node of a kind.
    pub fn node(&self, kind: NodeKind) -> Option<&DeviceNode> {
        self.nodes.iter().find(|n| n.kind == kind)
    }

    /// The policy for a node of this kind.
    fn policy_of(&self, kind: NodeKind) -> NodePolicy {
        let own = match kind {
            NodeKind::Cap(minor) => self.cap_policies.iter().find(|(m, _)| *m == minor),
            _ => None,
        };
        own.map_or(self.node_policy, |(_, policy)| *policy)
    }

    fn guess_platform(&self, roots: &Roots) -> Platform {
        if tegra::is(roots) {
            Platform::Tegra
        } else if let Some(wsl) = &self.wsl {
            if wsl.fault == Some(wsl::Fault::Wsl1) {
                Platform::None
            } else {
                Platform::Wsl2
            }
        } else if self.kernel.is_some() || self.user_version.is_some() {
            Platform::Native
        } else {
            Platform::None
        }
    }

    fn warn(&mut self, text: impl Into<String>) {
        /// Limits the record's size against broken input.
        const MAX: usize = 64;
        if self.warnings.len() < MAX {
            self.warnings.push(text.into());
        }
    }
}

/// Reads a file that may be missing. An existing file that cannot be read is a warning.
fn read_optional(root: &Root, path: impl AsRef<Path>, max: u64, host: &mut Host) -> Option<Vec<u8>> {
    let read = root.read(path.as_ref(), max);
    optional(path.as_ref(), read, host)
}

/// [`read_optional`] for procfs.
fn read_kernel(root: &Root, path: impl AsRef<Path>, max: u64, host: &mut Host) -> Option<Vec<u8>> {
    let read = root.read_kernel(path.as_ref(), max);
    optional(path.as_ref(), read, host)
}

fn optional<T>(path: &Path, read: io::Result<T>, host: &mut Host) -> Option<T> {
    match read {
        Ok(read) => Some(read),
        Err(e) if absent(&e) => None,
        Err(e) => {
            host.warn(format!("{}: {e}", path.display()));
            None
        }
    }
}

/// Whether the error means that the file does not exist.
fn absent(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
