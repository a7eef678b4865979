//! Driver files with their places in the driver directory, and the links by which programs find
//! them.

use std::path::{Path, PathBuf};

use super::part::Part;
use super::{GpuRef, catalogue, driver_text, graphics};
use crate::compat::Version;
use crate::config::{Config, Layout};
use crate::error::{Code, Error, Result};
use crate::host::files::MPS;
use crate::host::{self, Bits, ConfigKind, FileKind, Host};
use crate::request::{Capabilities, Request};
use crate::sys::source::Use;

/// A file of the driver directory, bound from the driver root.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DriverFile {
    /// Path below the driver root, symbolic links resolved.
    pub source: PathBuf,
    /// The path that is opened. Links on the way to `source` must belong to root too.
    pub found: PathBuf,
    /// The use for which it is bound.
    pub wanted: Use,
    /// The directory inside the driver directory.
    pub place: Place,
    /// A directory below that one: the driver's version for firmware, the readers' directory for
    /// configuration.
    pub subdir: Option<String>,
    /// The name there.
    pub name: String,
    /// The `DT_SONAME` of a library.
    pub soname: Option<String>,
    /// Whether the container cannot start without it.
    pub required: bool,
    /// The reason for giving it.
    pub reason: String,
}

impl DriverFile {
    /// A file of the host's driver, directly in `place`.
    pub(super) fn of(file: &host::DriverFile, place: Place, reason: String) -> Self {
        Self {
            source: file.path.clone(),
            found: file.found.clone(),
            wanted: file.wanted(),
            place,
            subdir: None,
            name: file.name.clone(),
            soname: None,
            required: false,
            reason,
        }
    }

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
    /// A file of a site's configuration or of a Jetson's CSV files; its source is a path of the
    /// host.
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
    /// Path below the driver directory, e.g. `lib64/libcuda.so.1`.
    pub at: PathBuf,
    /// The link's text, relative to its directory.
    pub target: PathBuf,
}

impl Link {
    fn new(at: impl Into<PathBuf>, target: &str) -> Self {
        Self {
            at: at.into(),
            target: PathBuf::from(target),
        }
    }
}

/// A link in the rootfs; made only where the name is free.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RootfsLink {
    /// The link's path.
    pub at: LinkAt,
    /// The target: below the driver directory, or an absolute path of the container.
    pub to: PathBuf,
    /// Whether a mount covers a regular file of the image there; the file itself does not change.
    pub cover: bool,
    /// Another path that the same readers search. If the image has the file there, no link is made.
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

/// The path of a [`RootfsLink`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LinkAt {
    /// An absolute path of the container.
    Path(PathBuf),
    /// Below the 64-bit library directory of the image's distribution.
    LibDir(PathBuf),
}

/// The driver's files for the container's capabilities, and the links by which programs find them.
pub(super) fn part(
    request: &Request,
    host: &Host,
    config: &Config,
    driver: Option<Version>,
    gpus: &[GpuRef],
) -> Result<Part> {
    let capabilities = request.capabilities;
    let shown = driver_text(driver);
    let native = (*config.layout == Layout::Native).then_some(&*shown);
    let mut part = Part::default();
    for file in &host.files {
        part.add(match &file.kind {
            FileKind::Library { soname, bits, subdir } => {
                let tegra = host.tegra.as_ref();
                let left_out = tegra.is_some_and(|t| !request.jetpack_all && !t.in_base(&file.path))
                    || *bits == Bits::B32 && !capabilities.contains(Capabilities::COMPAT32);
                match catalogue::library(&file.name) {
                    Some(wanted_by) if capabilities.intersects(wanted_by) && !left_out => {
                        let because = wanted_by & capabilities;
                        library(file, soname.as_deref(), *bits, subdir.as_deref(), because, native)
                    }
                    _ => continue,
                }
            }
            FileKind::Binary => match catalogue::binary(&file.name) {
                Some(wanted_by) if capabilities.intersects(wanted_by) => {
                    binary(file, wanted_by & capabilities)
                }
                _ => continue,
            },
            FileKind::Firmware => firmware(file, &shown),
            FileKind::Config(ConfigKind::Cufile) | FileKind::Directory if request.gated.gds => storage(file),
            FileKind::Config(kind) => graphics::config_file(file, *kind, capabilities, &part.texts),
            FileKind::Pipes(_) | FileKind::Socket if *config.ipc_sockets => socket(file, capabilities),
            _ => continue,
        });
    }
    if part.files.iter().any(|f| f.place == Place::Firmware) {
        // One link without a version: each driver's name would add another to the image layer.
        part.rootfs_links
            .push(RootfsLink::new("/lib/firmware/nvidia", Place::Firmware.dir()));
    }
    if host.wsl.is_none() {
        part.add(graphics::generate_manifests(&part, host, capabilities, driver));
        part.add(graphics::application_profile(gpus, capabilities));
    }
    // A Jetson has no NVML, and its libraries no version.
    if host.tegra.is_none() {
        check_libraries(&part.files, capabilities, &shown)?;
    }
    Ok(part)
}

/// Checks that the library of each requested capability exists.
fn check_libraries(files: &[DriverFile], capabilities: Capabilities, driver: &str) -> Result<()> {
    for (capability, library) in [
        (Capabilities::COMPUTE, "libcuda.so"),
        (Capabilities::UTILITY, "libnvidia-ml.so"),
    ] {
        let there = files
            .iter()
            .any(|f| f.place == Place::Lib64 && f.name.starts_with(library));
        if capabilities.contains(capability) && !there {
            return Err(Error::new(
                Code::NoLibraries,
                format!("{library}.{driver}"),
                format!("the driver root has no such library, and the container requests {capability}"),
            ));
        }
    }
    Ok(())
}

/// Whether every container needs this library.
pub fn is_required(name: &str) -> bool {
    ["libcuda.so", "libnvidia-ml.so", "libdxcore.so"]
        .iter()
        .any(|stem| name.starts_with(stem))
}

/// A library and its links. `native` is the driver's version if libraries also appear in the
/// distribution's directory.
fn library(
    file: &host::DriverFile,
    soname: Option<&str>,
    bits: Bits,
    subdir: Option<&str>,
    because: Capabilities,
    native: Option<&str>,
) -> Part {
    let place = match (bits, subdir) {
        (Bits::B32, _) => Place::Lib32,
        (Bits::B64, Some("xorg")) => Place::Xorg,
        (Bits::B64, _) => Place::Lib64,
    };
    let mut part = Part {
        files: vec![DriverFile {
            soname: soname.map(str::to_owned),
            required: is_required(&file.name),
            ..DriverFile::of(file, place, format!("library for {because}"))
        }],
        ..Part::default()
    };
    if place == Place::Xorg {
        part.add(x_module(file));
        return part;
    }
    let dir = Path::new(place.dir());
    let soname = soname
        .filter(|s| !s.contains('/') && !s.is_empty())
        .unwrap_or(&file.name);
    if soname != file.name {
        part.add_link(Link::new(dir.join(soname), &file.name));
    }
    let mut names = vec![soname.to_owned()];
    // Programs that were not linked against a library open it by the name without a version.
    if let Some((stem, _)) = file.name.split_once(".so.") {
        let plain = format!("{stem}.so");
        if plain != soname {
            part.add_link(Link::new(dir.join(&plain), soname));
            names.push(plain);
        }
    }
    if let Some(driver) = native.filter(|_| place == Place::Lib64) {
        // A name with the driver's version would stay in the image layer after a driver update.
        // Programs find it through the loader.
        names.retain(|name| !name.ends_with(driver));
        part.rootfs_links.extend(names.into_iter().map(|name| RootfsLink {
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
            part.add_link(Link::new(dir.join(at), &target));
            if place == Place::Lib64 && at.contains('/') {
                part.rootfs_links
                    .push(RootfsLink::at(LinkAt::LibDir(PathBuf::from(at)), dir.join(at)));
            }
        }
    }
    part
}

/// An X module. The X server searches directories of its own for names without a version.
fn x_module(file: &host::DriverFile) -> Part {
    let mut part = Part::default();
    let plain = file
        .name
        .split_once(".so.")
        .map_or_else(|| file.name.clone(), |(stem, _)| format!("{stem}.so"));
    let to = Path::new(Place::Xorg.dir()).join(&plain);
    if plain != file.name {
        part.add_link(Link::new(&to, &file.name));
    }
    let kind = if plain.ends_with("_drv.so") {
        "drivers"
    } else {
        "extensions"
    };
    // The path in which the host's own X server finds it, unless the host's packages own that
    // directory.
    let dir = if file.dir_hint().to_string_lossy().contains("/xorg/modules/") {
        file.dir_hint()
    } else {
        Path::new("/usr/lib/xorg/modules").join(kind)
    };
    part.rootfs_links.push(RootfsLink::new(dir.join(&plain), to));
    part
}

/// A program, and a link to it in `/usr/bin`. The link covers the image's own file, which is of
/// another driver, or a script with a path of the host that the image was made for.
fn binary(file: &host::DriverFile, because: Capabilities) -> Part {
    let file = DriverFile::of(file, Place::Bin, format!("program for {because}"));
    let mut part = linked(file, |name| Path::new("/usr/bin").join(name));
    for link in &mut part.rootfs_links {
        link.cover = true;
    }
    part
}

/// A file of firmware, in a directory of the driver's version.
fn firmware(file: &host::DriverFile, driver: &str) -> Part {
    let reason = "GPU System Processor firmware".to_owned();
    Part {
        files: vec![DriverFile {
            subdir: Some(driver.to_owned()),
            ..DriverFile::of(file, Place::Firmware, reason)
        }],
        ..Part::default()
    }
}

/// GPUDirect Storage's configuration, and udev's database, in which it finds file systems' devices.
fn storage(file: &host::DriverFile) -> Part {
    let at = if file.kind == FileKind::Directory {
        file.path.clone()
    } else {
        "/etc/cufile.json".into()
    };
    linked(
        DriverFile::of(file, Place::Share, "GPUDirect Storage".to_owned()),
        |_| at,
    )
}

/// A socket or pipe directory of the driver's daemons. A read-only mount does not prevent
/// connecting, so only capabilities that use a daemon bring its socket.
fn socket(file: &host::DriverFile, capabilities: Capabilities) -> Part {
    let wanted_by = match file.name.as_str() {
        MPS => Capabilities::COMPUTE,
        "nvidia-persistenced" | "nvidia-fabricmanager" => Capabilities::UTILITY,
        _ => return Part::default(),
    };
    if !capabilities.intersects(wanted_by) {
        return Part::default();
    }
    let at = file.path.clone();
    let reason = format!("daemon's socket for {wanted_by}");
    linked(DriverFile::of(file, Place::Run, reason), |_| at)
}

/// A file, and a link to it; `at` computes the link's path from the file's name.
fn linked(file: DriverFile, at: impl FnOnce(&str) -> PathBuf) -> Part {
    Part {
        rootfs_links: vec![RootfsLink::new(at(&file.name), file.dir().join(&file.name))],
        files: vec![file],
        ..Part::default()
    }
}
