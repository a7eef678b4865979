//! Manifests of Vulkan, EGL and OpenCL, in which loaders find the driver, and the application
//! profile that limits EGL to the container's GPUs.
//!
//! The host's manifest is also the container's, such as `10_nvidia.json`. If the host has none (a
//! container-optimised system, a data-centre driver), or one with paths of the host, the plan
//! generates it: a container with all libraries but no manifest finds no device.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::part::Part;
use super::{GpuRef, Place, RootfsLink};
use crate::compat::Version;
use crate::host::{ConfigKind, DriverFile, FileKind, Host};
use crate::request::Capabilities as C;

/// A generated file of the driver directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Text {
    /// Its path below the driver directory.
    pub at: PathBuf,
    /// The content.
    pub text: String,
    /// The content in a container that lacks a library.
    pub without: Option<Without>,
    /// The reason for giving it.
    pub reason: String,
}

/// See [`Text::without`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Without {
    /// Sonames; the other content is used if the container's loader misses one.
    pub libraries: &'static [&'static str],
    /// The content in that case.
    pub text: String,
}

const DRAWING: C = C::GRAPHICS.with(C::DISPLAY);

/// A kind of configuration file: its directory in a container, a second one of its readers, and its
/// capabilities.
struct Lookup {
    kind: ConfigKind,
    dir: &'static str,
    also: Option<&'static str>,
    wanted_by: C,
}

const LOOKUPS: &[Lookup] = &[
    lookup(
        ConfigKind::EglVendor,
        "/usr/share/glvnd/egl_vendor.d",
        Some("/etc/glvnd/egl_vendor.d"),
        DRAWING,
    ),
    lookup(
        ConfigKind::EglExternalPlatform,
        "/usr/share/egl/egl_external_platform.d",
        Some("/etc/egl/egl_external_platform.d"),
        DRAWING,
    ),
    lookup(
        ConfigKind::VulkanIcd,
        "/etc/vulkan/icd.d",
        Some("/usr/share/vulkan/icd.d"),
        DRAWING,
    ),
    lookup(
        ConfigKind::VulkanImplicitLayer,
        "/etc/vulkan/implicit_layer.d",
        Some("/usr/share/vulkan/implicit_layer.d"),
        DRAWING,
    ),
    lookup(ConfigKind::OptixData, "/usr/share/nvidia", None, DRAWING),
    lookup(
        ConfigKind::ApplicationProfiles,
        "/usr/share/nvidia",
        None,
        DRAWING,
    ),
    lookup(
        ConfigKind::XorgConf,
        "/usr/share/X11/xorg.conf.d",
        None,
        C::DISPLAY,
    ),
    lookup(ConfigKind::OpenClIcd, "/etc/OpenCL/vendors", None, C::CUDA),
];

const fn lookup(kind: ConfigKind, dir: &'static str, also: Option<&'static str>, wanted_by: C) -> Lookup {
    Lookup {
        kind,
        dir,
        also,
        wanted_by,
    }
}

/// The name of the only Vulkan manifest: Vulkan's loader lists a GPU once for each.
const VULKAN_ICD: &str = "nvidia_icd.json";

/// Kind, name and library of each manifest that the library needs.
const MANIFESTS: &[(ConfigKind, &str, &str)] = &[
    (ConfigKind::EglVendor, "10_nvidia.json", "libEGL_nvidia.so"),
    (
        ConfigKind::EglExternalPlatform,
        "09_nvidia_wayland2.json",
        "libnvidia-egl-wayland2.so",
    ),
    (
        ConfigKind::EglExternalPlatform,
        "10_nvidia_wayland.json",
        "libnvidia-egl-wayland.so",
    ),
    (
        ConfigKind::EglExternalPlatform,
        "15_nvidia_gbm.json",
        "libnvidia-egl-gbm.so",
    ),
    (
        ConfigKind::EglExternalPlatform,
        "20_nvidia_xcb.json",
        "libnvidia-egl-xcb.so",
    ),
    (
        ConfigKind::EglExternalPlatform,
        "20_nvidia_xlib.json",
        "libnvidia-egl-xlib.so",
    ),
    (ConfigKind::VulkanIcd, VULKAN_ICD, "libGLX_nvidia.so"),
    (
        ConfigKind::VulkanImplicitLayer,
        "nvidia_layers.json",
        "libGLX_nvidia.so",
    ),
    (ConfigKind::OpenClIcd, "nvidia.icd", "libnvidia-opencl.so"),
];

/// The Vulkan version in the manifest of each driver branch; later branches declare at least that.
/// Read in the drivers 535.261.03, 550.163.01 and 580.159.04. Older drivers have at least 1.1.
const VULKAN: &[(u32, &str)] = &[(580, "1.4.312"), (550, "1.3.277"), (535, "1.3.242"), (0, "1.1.0")];

/// The X11 libraries that `libGLX_nvidia` needs. In a headless image without them the manifest
/// names `libEGL_nvidia`, as NVIDIA's installer does on a system without X11.
const X11: &[&str] = &["libX11.so.6", "libXext.so.6"];

/// A configuration file of the host's driver. `texts` has the manifests so far: a driver has one
/// for Vulkan.
pub(super) fn config_file(file: &DriverFile, kind: ConfigKind, capabilities: C, texts: &[Text]) -> Part {
    let place = LOOKUPS.iter().find(|l| l.kind == kind);
    let Some(place) = place.filter(|l| capabilities.intersects(l.wanted_by)) else {
        return Part::default();
    };
    let reason = format!("configuration looked up in {}", place.dir);
    if kind == ConfigKind::VulkanIcd {
        let icd = file.text.as_ref();
        return icd.map_or_else(Part::default, |icd| vulkan(place, icd.clone(), reason, texts));
    }
    if let Some(text) = &file.text {
        return self::text(place, &file.name, text.clone(), None, reason);
    }
    Part {
        files: vec![super::DriverFile {
            subdir: Some(below(place.dir).to_owned()),
            ..super::DriverFile::of(file, Place::Share, reason)
        }],
        rootfs_links: vec![link(place, &file.name)],
        ..Part::default()
    }
}

/// The manifests that the libraries in `given` need and the host lacks.
pub(super) fn generate_manifests(
    given: &Part,
    host: &Host,
    capabilities: C,
    driver: Option<Version>,
) -> Part {
    let mut part = Part::default();
    for (kind, name, library) in MANIFESTS {
        let Some(place) = LOOKUPS.iter().find(|l| l.kind == *kind) else {
            continue;
        };
        let there = |f: &DriverFile| {
            f.kind == FileKind::Config(*kind) && (f.name == *name || *kind == ConfigKind::VulkanIcd)
        };
        if !capabilities.intersects(place.wanted_by) || host.files.iter().any(there) {
            continue;
        }
        let library = given.files.iter().find(|f| {
            f.place == Place::Lib64 && f.name.strip_prefix(library).is_some_and(|r| r.starts_with('.'))
        });
        let Some(soname) = library.map(|f| f.soname.clone().unwrap_or_else(|| f.name.clone())) else {
            continue;
        };
        let reason = format!("generated: the host has no {name}");
        let version = vulkan_version(driver);
        part.add(match kind {
            ConfigKind::VulkanIcd => {
                let icd = json!({"file_format_version": "1.0.0",
                    "ICD": {"library_path": soname, "api_version": version}});
                vulkan(place, format!("{icd:#}\n"), reason, &given.texts)
            }
            ConfigKind::VulkanImplicitLayer => text(place, name, optimus(&soname, version), None, reason),
            ConfigKind::OpenClIcd => text(place, name, format!("{soname}\n"), None, reason),
            _ => {
                let manifest = json!({"file_format_version": "1.0.0", "ICD": {"library_path": soname}});
                text(place, name, format!("{manifest:#}\n"), None, reason)
            }
        });
    }
    part
}

/// The layer that moves a program to the NVIDIA GPU if `__NV_PRIME_RENDER_OFFLOAD=1` is set.
fn optimus(soname: &str, version: &str) -> String {
    let layers = json!({"file_format_version": "1.0.0", "layer": {
        "name": "VK_LAYER_NV_optimus",
        "type": "INSTANCE",
        "library_path": soname,
        "api_version": version,
        "implementation_version": "1",
        "description": "NVIDIA Optimus layer",
        "functions": {
            "vkGetInstanceProcAddr": "vk_optimusGetInstanceProcAddr",
            "vkGetDeviceProcAddr": "vk_optimusGetDeviceProcAddr",
        },
        "enable_environment": {"__NV_PRIME_RENDER_OFFLOAD": "1"},
        "disable_environment": {"DISABLE_LAYER_NV_OPTIMUS_1": ""},
    }});
    format!("{layers:#}\n")
}

/// The profile `EGLVisibleDGPUDevices`. Without it EGL and Vulkan open every GPU that the kernel
/// module drives, and fail on one whose node is missing. The number has the driver's own format,
/// not JSON's.
///
/// Source: libnvidia-container's and the toolkit's `10-container.conf`.
pub(super) fn application_profile(gpus: &[GpuRef], capabilities: C) -> Part {
    const DIR: &str = "nvidia-application-profiles-rc.d";
    const NAME: &str = "10-container.conf";
    let mut part = Part::default();
    if !capabilities.intersects(DRAWING) {
        return part;
    }
    let mut mask = 0_u64;
    for gpu in gpus {
        match 1_u64.checked_shl(gpu.minor) {
            Some(bit) => mask |= bit,
            None => part.warnings.push(format!(
                "EGL does not find /dev/nvidia{}: its application profile has room for 64 GPUs",
                gpu.minor
            )),
        }
    }
    if mask == 0 {
        return part;
    }
    let at = Path::new(Place::Share.dir()).join(DIR).join(NAME);
    part.rootfs_links.push(RootfsLink::new(
        Path::new("/etc/nvidia").join(DIR).join(NAME),
        &at,
    ));
    part.texts.push(Text {
        at,
        text: format!(
            "{{\"profiles\":[{{\"name\":\"_container_\",\"settings\":[\"EGLVisibleDGPUDevices\",{mask:#x}]}}],\
             \"rules\":[{{\"pattern\":[],\"profile\":\"_container_\"}}]}}\n"
        ),
        without: None,
        reason: "limits EGL and Vulkan to this container's GPUs".to_owned(),
    });
    part
}

fn vulkan(place: &Lookup, icd: String, reason: String, texts: &[Text]) -> Part {
    let at = Path::new(Place::Share.dir())
        .join(below(place.dir))
        .join(VULKAN_ICD);
    if texts.iter().any(|t| t.at == at) {
        return Part::default();
    }
    let headless = icd.replace("libGLX_nvidia.so.", "libEGL_nvidia.so.");
    let without = (headless != icd).then_some(Without {
        libraries: X11,
        text: headless,
    });
    text(place, VULKAN_ICD, icd, without, reason)
}

/// A generated file in its readers' directory.
fn text(place: &Lookup, name: &str, text: String, without: Option<Without>, reason: String) -> Part {
    Part {
        texts: vec![Text {
            at: Path::new(Place::Share.dir()).join(below(place.dir)).join(name),
            text,
            without,
            reason,
        }],
        rootfs_links: vec![link(place, name)],
        ..Part::default()
    }
}

fn link(place: &Lookup, name: &str) -> RootfsLink {
    let to = Path::new(Place::Share.dir()).join(below(place.dir)).join(name);
    RootfsLink {
        elsewhere: place.also.map(|dir| Path::new(dir).join(name)),
        ..RootfsLink::new(Path::new(place.dir).join(name), &to)
    }
}

/// The directory below the driver directory's `share`. Two of them may have a file of one name, as
/// Vulkan's drivers and layers do.
fn below(dir: &str) -> &str {
    dir.trim_start_matches("/usr/share/").trim_start_matches("/etc/")
}

fn vulkan_version(driver: Option<Version>) -> &'static str {
    let branch = driver.map_or(0, Version::major);
    let known = VULKAN.iter().find(|(b, _)| *b <= branch);
    known.map_or("1.1.0", |(_, version)| version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(minor: u32) -> GpuRef {
        GpuRef {
            index: minor,
            minor,
            uuid: None,
            pci: None,
            name: String::new(),
        }
    }

    #[test]
    fn egl_finds_the_gpus_by_minor() {
        let plan = application_profile(&[gpu(0), gpu(3), gpu(64)], C::GRAPHICS);
        assert!(plan.texts[0].text.contains("\"EGLVisibleDGPUDevices\",0x9]"));
        assert!(plan.warnings[0].contains("/dev/nvidia64"));
        let plan = application_profile(&[gpu(0)], C::COMPUTE);
        assert!(plan.texts.is_empty() && plan.rootfs_links.is_empty());
    }

    #[test]
    fn vulkan_declares_the_version_of_the_branch() {
        let of = |driver: &str| vulkan_version(driver.parse().ok());
        assert_eq!(of("550.163.01"), "1.3.277");
        assert_eq!(of("575.57.08"), "1.3.277");
        assert_eq!(of("610.1"), "1.4.312");
        assert_eq!(of("470.1"), "1.1.0");
        assert_eq!(of("unknown"), "1.1.0");
    }

    #[test]
    fn one_driver_has_one_vulkan_manifest() {
        let mut plan = Part::default();
        let file = |name: &str, library: &str| DriverFile {
            kind: FileKind::Config(ConfigKind::VulkanIcd),
            name: name.to_owned(),
            path: PathBuf::from("/usr/share/vulkan/icd.d").join(name),
            found: PathBuf::from("/usr/share/vulkan/icd.d").join(name),
            text: Some(format!("{{\"ICD\":{{\"library_path\":\"{library}\"}}}}")),
        };
        for name in ["nvidia_icd.x86_64.json", "nvidia_icd.i686.json"] {
            let file = file(name, "libGLX_nvidia.so.0");
            plan.add(config_file(
                &file,
                ConfigKind::VulkanIcd,
                C::GRAPHICS,
                &plan.texts,
            ));
        }
        assert_eq!((plan.texts.len(), plan.rootfs_links.len()), (1, 1));
        let without = plan.texts[0].without.as_ref().unwrap();
        assert!(without.text.contains("libEGL_nvidia.so.0"));
        assert!(without.libraries.contains(&"libX11.so.6"));
    }
}
