//! Driver files: which, where in the driver directory, and the links that make them found.

use std::path::{Path, PathBuf};

use super::{Plan, catalogue, graphics, push};
use crate::error::{Code, Error, Result};
use crate::host::files::MPS;
use crate::host::{Bits, ConfigKind, FileKind, Host};
use crate::request::{Capabilities, Request};
use crate::sys::source::Use;

/// A file of the driver directory, bound from the driver root.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DriverFile {
    /// Below the driver root, symbolic links resolved.
    pub source: PathBuf,
    /// The path that is opened: the links on the way to `source` must be root's too.
    pub found: PathBuf,
    /// What it is bound as.
    pub wanted: Use,
    /// The directory inside the driver directory.
    pub place: Place,
    /// A directory below that one: the version for firmware, where it is looked up for configuration.
    pub subdir: Option<String>,
    /// The name there.
    pub name: String,
    /// The `DT_SONAME` of a library.
    pub soname: Option<String>,
    /// Whether the container cannot start without it.
    pub required: bool,
    /// Why it is there.
    pub reason: String,
}

impl DriverFile {
    /// The directory inside the driver directory.
    pub fn dir(&self) -> PathBuf {
        let place = Path::new(self.place.dir());
        self.subdir
            .as_ref()
            .map_or_else(|| place.to_owned(), |below| place.join(below))
    }
}

/// A directory inside the driver directory.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Place {
    /// Programs.
    Bin,
    /// 64-bit libraries.
    Lib64,
    /// 32-bit libraries.
    Lib32,
    /// 64-bit X.Org modules, which the loader must not find by name.
    Xorg,
    /// Data: ICD files, profiles, OptiX weights.
    Share,
    /// Firmware for the GPU System Processor, in a directory of the driver's version.
    Firmware,
    /// Sockets and pipe directories of the driver's daemons.
    Run,
    /// What a site's configuration or a Jetson's CSV files name; its source is a path of the host.
    Site,
}

impl Place {
    /// The path below the driver directory.
    pub const fn dir(self) -> &'static str {
        match self {
            Self::Bin => "bin",
            Self::Lib64 => "lib64",
            Self::Lib32 => "lib32",
            Self::Xorg => "lib64/xorg",
            Self::Share => "share",
            Self::Firmware => "firmware",
            Self::Run => "run",
            Self::Site => "site",
        }
    }
}

/// A symbolic link inside the driver directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Link {
    /// Below the driver directory, e.g. `lib64/libcuda.so.1`.
    pub at: PathBuf,
    /// The link's text, relative to where it is.
    pub target: PathBuf,
}

/// A link in the rootfs; made only where the name is free.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RootfsLink {
    /// Where.
    pub at: LinkAt,
    /// What: below the driver directory, or an absolute path of the container.
    pub to: PathBuf,
    /// Whether a regular file of the image in that place is covered by a mount, which leaves it as it is.
    pub cover: bool,
    /// Another place where the same readers look: if the image has the file there, it needs no link.
    pub elsewhere: Option<PathBuf>,
}

impl RootfsLink {
    /// A link at an absolute path of the container.
    pub fn new(at: impl Into<PathBuf>, to: impl AsRef<Path>) -> Self {
        Self::at(LinkAt::Path(at.into()), to)
    }

    fn at(at: LinkAt, to: impl AsRef<Path>) -> Self {
        Self {
            at,
            to: to.as_ref().to_owned(),
            cover: false,
            elsewhere: None,
        }
    }
}

/// Where a [`RootfsLink`] is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LinkAt {
    /// An absolute path of the container.
    Path(PathBuf),
    /// Below the directory where the image's distribution keeps 64-bit libraries.
    LibDir(PathBuf),
}

pub(super) fn add(plan: &mut Plan, request: &Request, host: &Host) -> Result<()> {
    let capabilities = request.capabilities;
    for file in &host.files {
        match &file.kind {
            FileKind::Library { soname, bits, subdir } => {
                let Some(wanted_by) = catalogue::library(&file.name) else {
                    continue;
                };
                let tegra = host.tegra.as_ref();
                if tegra.is_some_and(|t| !request.jetpack_all && !t.in_base(&file.path)) {
                    continue;
                }
                if !capabilities.intersects(wanted_by) {
                    continue;
                }
                if *bits == Bits::B32 && !capabilities.contains(Capabilities::COMPAT32) {
                    continue;
                }
                library(
                    plan,
                    file,
                    soname.as_deref(),
                    *bits,
                    subdir.as_deref(),
                    wanted_by & capabilities,
                );
            }
            FileKind::Binary => {
                let Some(wanted_by) = catalogue::binary(&file.name) else {
                    continue;
                };
                if capabilities.intersects(wanted_by) {
                    let reason = format!("program for {}", wanted_by & capabilities);
                    push(plan, file, Place::Bin, reason);
                    plan.rootfs_links.push(RootfsLink::new(
                        Path::new("/usr/bin").join(&file.name),
                        Path::new(Place::Bin.dir()).join(&file.name),
                    ));
                }
            }
            FileKind::Firmware => push(
                plan,
                file,
                Place::Firmware,
                "GPU System Processor firmware".to_owned(),
            ),
            FileKind::Config(ConfigKind::Cufile) | FileKind::Directory if request.gated.gds => {
                storage(plan, file);
            }
            FileKind::Config(kind) => graphics::config_file(plan, file, *kind, capabilities),
            FileKind::Pipes(_) | FileKind::Socket => socket(plan, file, capabilities),
            _ => {}
        }
    }
    if plan.files.iter().any(|f| f.place == Place::Firmware) {
        // One link without a version, or the next driver's name would pile up in the image layer.
        plan.rootfs_links
            .push(RootfsLink::new("/lib/firmware/nvidia", Place::Firmware.dir()));
    }
    if host.wsl.is_none() {
        graphics::make_up(plan, host, capabilities);
        graphics::application_profile(plan, capabilities);
    }
    for (capability, library) in [
        (Capabilities::COMPUTE, "libcuda.so"),
        (Capabilities::UTILITY, "libnvidia-ml.so"),
    ] {
        // A Jetson has no NVML, and its libraries no version.
        if host.tegra.is_some() {
            break;
        }
        let there = plan
            .files
            .iter()
            .any(|f| f.place == Place::Lib64 && f.name.starts_with(library));
        if capabilities.contains(capability) && !there {
            return Err(Error::new(
                Code::NoLibraries,
                format!("{library}.{}", plan.driver_version),
                format!("the driver root has no such library, and the container asked for {capability}"),
            ));
        }
    }
    Ok(())
}

/// Whether no container can do without this library.
pub fn is_required(name: &str) -> bool {
    ["libcuda.so", "libnvidia-ml.so", "libdxcore.so"]
        .iter()
        .any(|stem| name.starts_with(stem))
}

fn library(
    plan: &mut Plan,
    file: &crate::host::DriverFile,
    soname: Option<&str>,
    bits: Bits,
    subdir: Option<&str>,
    because: Capabilities,
) {
    let place = match (bits, subdir) {
        (Bits::B32, _) => Place::Lib32,
        (Bits::B64, Some("xorg")) => Place::Xorg,
        (Bits::B64, _) => Place::Lib64,
    };
    push(plan, file, place, format!("library for {because}"));
    let Some(added) = plan.files.last_mut() else {
        return;
    };
    added.soname = soname.map(str::to_owned);
    added.required = is_required(&file.name);
    if place == Place::Xorg {
        return x_module(plan, file);
    }
    let dir = Path::new(place.dir());
    let soname = soname
        .filter(|s| !s.contains('/') && !s.is_empty())
        .unwrap_or(&file.name);
    if soname != file.name {
        link(plan, dir.join(soname), file.name.as_str());
    }
    let mut names = vec![soname.to_owned()];
    // The name without a version: what programs that were not linked against it ask dlopen for.
    if let Some((stem, _)) = file.name.split_once(".so.") {
        let plain = format!("{stem}.so");
        if plain != soname {
            link(plan, dir.join(&plain), soname);
            names.push(plain);
        }
    }
    if plan.native_layout && place == Place::Lib64 {
        // A name with the driver's version would stay in the image layer after the next driver came; who
        // asks for such a name finds it through the loader.
        names.retain(|name| !name.ends_with(plan.driver_version.as_str()));
        plan.rootfs_links.extend(names.into_iter().map(|name| RootfsLink {
            cover: true,
            ..RootfsLink::at(LinkAt::LibDir(PathBuf::from(&name)), dir.join(&name))
        }));
    }
    for (stem, at, target) in [
        ("libGLX_nvidia.so", "libGLX_indirect.so.0", soname.to_owned()),
        (
            "libvdpau_nvidia.so",
            "vdpau/libvdpau_nvidia.so.1",
            format!("../{}", file.name),
        ),
        (
            "libnvidia-allocator.so",
            "gbm/nvidia-drm_gbm.so",
            format!("../{soname}"),
        ),
    ] {
        if file.name.starts_with(stem) {
            link(plan, dir.join(at), &target);
            if place == Place::Lib64 && at.contains('/') {
                plan.rootfs_links
                    .push(RootfsLink::at(LinkAt::LibDir(PathBuf::from(at)), dir.join(at)));
            }
        }
    }
}

/// The X server looks for its modules in directories of its own, by names without a version.
fn x_module(plan: &mut Plan, file: &crate::host::DriverFile) {
    let plain = file
        .name
        .split_once(".so.")
        .map_or_else(|| file.name.clone(), |(stem, _)| format!("{stem}.so"));
    let to = Path::new(Place::Xorg.dir()).join(&plain);
    if plain != file.name {
        link(plan, to.clone(), &file.name);
    }
    let kind = if plain.ends_with("_drv.so") {
        "drivers"
    } else {
        "extensions"
    };
    // Where the host's own X server finds it, unless that is a directory of the host's packages.
    let dir = if file.dir_hint().to_string_lossy().contains("/xorg/modules/") {
        file.dir_hint()
    } else {
        Path::new("/usr/lib/xorg/modules").join(kind)
    };
    plan.rootfs_links.push(RootfsLink::new(dir.join(&plain), to));
}

/// GPUDirect Storage's configuration, and udev's database, by which it finds file systems' devices.
fn storage(plan: &mut Plan, file: &crate::host::DriverFile) {
    push(plan, file, Place::Share, "GPUDirect Storage".to_owned());
    let at = if file.kind == FileKind::Directory {
        file.path.as_path()
    } else {
        Path::new("/etc/cufile.json")
    };
    plan.rootfs_links.push(RootfsLink::new(
        at,
        Path::new(Place::Share.dir()).join(&file.name),
    ));
}

/// A socket or pipe directory of the driver's daemons: connecting is not stopped by a read-only mount,
/// so each is given only to those that can use it.
fn socket(plan: &mut Plan, file: &crate::host::DriverFile, capabilities: Capabilities) {
    if !plan.ipc_sockets {
        return;
    }
    let wanted_by = match file.name.as_str() {
        MPS => Capabilities::COMPUTE,
        "nvidia-persistenced" | "nvidia-fabricmanager" => Capabilities::UTILITY,
        _ => return,
    };
    if !capabilities.intersects(wanted_by) {
        return;
    }
    push(plan, file, Place::Run, format!("daemon's socket for {wanted_by}"));
    plan.rootfs_links.push(RootfsLink::new(
        &file.path,
        Path::new(Place::Run.dir()).join(&file.name),
    ));
}

fn link(plan: &mut Plan, at: PathBuf, target: &str) {
    // Two libraries of one stem (libnvidia-nvvm.so.4 and its versioned twin): the first has the name.
    if !plan.links.iter().any(|l| l.at == at) {
        plan.links.push(Link {
            at,
            target: PathBuf::from(target),
        });
    }
}
