//! WSL2: one device node for all GPUs, and the driver package at the path that the stubs open.
//!
//! The stubs themselves are driver files like any other: they go into the driver directory, and
//! `/usr/lib/wsl/lib` becomes a link to it.

use std::path::PathBuf;

use super::devices::node;
use super::part::Part;
use super::{GpuRef, Place, RootfsLink};
use crate::error::{Code, Error, Result, counted};
use crate::host::wsl::LIB_DIR;
use crate::host::{Host, NodeKind, Wsl};
use crate::request::{Capabilities, DeviceRequest, ImexRequest, Request, Selector};

/// A directory that a container needs at one absolute path: a WSL2 driver package, whose path the
/// loader stubs read from the device.
///
/// It is bound as a whole, read-only, since a list of a package's files misses new ones.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tree {
    /// Path below the driver root, symbolic links resolved.
    pub source: PathBuf,
    /// Path in the container.
    pub at: PathBuf,
    /// The reason for giving it.
    pub reason: String,
}

/// The device, Windows' driver packages, and warnings about features that WSL2 lacks.
pub(super) fn part(request: &Request, host: &Host, wsl: &Wsl) -> Result<Part> {
    let mut part = Part::default();
    let count = wsl.nvidia().count();
    if requests_gpu(&request.devices) {
        part.warnings = check(&request.devices, wsl, count)?;
        part.add_device(node(host, NodeKind::Dxg, "WSL2's device for all GPUs")?);
        for (index, adapter) in (0..).zip(wsl.nvidia()) {
            part.gpus.push(GpuRef {
                index,
                minor: 0,
                uuid: None,
                pci: None,
                name: format!("adapter {adapter} of Windows"),
            });
        }
    }
    for store in &wsl.stores {
        part.trees.push(Tree {
            source: store.clone(),
            at: store.clone(),
            reason: "driver package of Windows, which the stubs load from this path".to_owned(),
        });
    }
    part.rootfs_links
        .push(RootfsLink::new(LIB_DIR, Place::Lib64.dir()));
    part.warnings.extend(lacking(request));
    Ok(part)
}

fn requests_gpu(request: &DeviceRequest) -> bool {
    matches!(request, DeviceRequest::All | DeviceRequest::List(_))
}

/// Checks that the requested GPUs exist. One node gives access to every GPU, so a subset cannot be
/// given. Returns warnings about selectors that could not be checked.
fn check(request: &DeviceRequest, wsl: &Wsl, count: usize) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    let DeviceRequest::List(selectors) = request else {
        return Ok(warnings);
    };
    // A device that could not be queried has at least one GPU, with index 0.
    let known = if wsl.guessed { 1 } else { count };
    for selector in selectors {
        match selector {
            Selector::Index(index) | Selector::Range(_, index) if (*index as usize) < known => {}
            Selector::Index(_) | Selector::Range(..) => {
                let adapters = counted(known, "NVIDIA adapter", "NVIDIA adapters");
                let why = format!("no such device; Windows lends {adapters} to WSL2");
                return Err(unknown(selector, &why, "request index 0 or all"));
            }
            _ if selector.is_mig() => {
                return Err(unknown(selector, "WSL2 has no MIG devices", "request index 0 or all"));
            }
            _ if known == 1 => warnings.push(format!(
                "device {selector}: /dev/dxg reports no UUIDs or addresses, so this was not checked; the container gets the only NVIDIA adapter"
            )),
            _ => {
                let why = format!("/dev/dxg reports no UUIDs or addresses, so nvoci cannot select one of {known} NVIDIA adapters");
                let fix = format!("use NVIDIA_VISIBLE_DEVICES=all with CUDA_VISIBLE_DEVICES={selector}, which CUDA itself understands");
                return Err(unknown(selector, &why, &fix));
            }
        }
    }
    if known > 1 {
        warnings.push(format!(
            "on WSL2 one device node leads to all {known} NVIDIA adapters, and the container sees every one; CUDA_VISIBLE_DEVICES chooses among them"
        ));
    }
    Ok(warnings)
}

fn unknown(selector: &Selector, why: &str, fix: &str) -> Error {
    Error::new(Code::UnknownDevice, format!("device {selector}"), why).fix(fix)
}

/// Warnings about requests that WSL2 cannot meet.
fn lacking(request: &Request) -> Vec<String> {
    let requests = |c| request.capabilities.intersects(c);
    let g = request.gated;
    let features = [
        (
            requests(Capabilities::GRAPHICS.with(Capabilities::DISPLAY)),
            "NVIDIA's Vulkan, OpenCL, EGL and GLX drivers (Mesa's d3d12 driver in the image draws with /dev/dxg)",
        ),
        (requests(Capabilities::COMPAT32), "32-bit libraries"),
        (request.mig_config || request.mig_monitor, "MIG"),
        (request.imex != ImexRequest::Nothing, "IMEX channels"),
        (
            g.gds || g.mofed || g.gdrcopy || g.nvswitch,
            "GPUDirect Storage, InfiniBand, GDRCopy and NVSwitch nodes",
        ),
    ];
    let lacking = features.iter().filter(|(requested, _)| *requested);
    lacking
        .map(|(_, what)| format!("requested, but not available on WSL2: {what}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Plan, plan};
    use super::*;
    use crate::config::Config;
    use crate::host::wsl::Adapter;
    use crate::host::{Bits, DeviceNode, DriverFile, FileKind, Platform};
    use crate::plan::LinkAt;
    use crate::request::{EntryPoint, Inputs, parse};
    use crate::vocabulary::DeviceNumber;

    const STORE: &str = "/usr/lib/wsl/drivers/nv_dispi.inf_amd64_31dab972145ae5a9";

    fn host(gpus: usize) -> Host {
        let library = |name: &str| DriverFile {
            kind: FileKind::Library {
                soname: None,
                bits: Bits::B64,
                subdir: None,
            },
            name: name.to_owned(),
            path: Path::new(LIB_DIR).join(name),
            found: Path::new(LIB_DIR).join(name),
            text: None,
        };
        let adapter = Adapter {
            ids: Some((0x10de, 0x2684)),
            wddm: Some(3100),
            driver: Some([32, 0, 15, 6636]),
            store: Some(STORE.into()),
            nvidia: true,
        };
        Host {
            platform: Platform::Wsl2,
            nodes: vec![DeviceNode {
                kind: NodeKind::Dxg,
                path: "/dev/dxg".into(),
                number: DeviceNumber {
                    major: 10,
                    minor: 125,
                },
                mode: 0o666,
                uid: 0,
                gid: 0,
                present: true,
                links: Vec::new(),
            }],
            files: [
                "libcuda.so",
                "libcuda.so.1",
                "libcuda.so.1.1",
                "libdxcore.so",
                "libnvidia-ml.so.1",
                "libnvoptix.so.1",
            ]
            .map(library)
            .to_vec(),
            wsl: Some(Wsl {
                adapters: vec![adapter; gpus],
                stores: vec![STORE.into()],
                ..Wsl::default()
            }),
            ..Host::default()
        }
    }

    fn planned(gpus: usize, env: &[(&str, &str)]) -> Result<Plan> {
        let env: Vec<(String, String)> = env
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let config = Config::default();
        let request = parse(
            &Inputs {
                env: &env,
                annotations: &[],
                mounts: &[],
                privileged: true,
                entry: EntryPoint::Hook,
            },
            &config,
        )?;
        plan(&request, &host(gpus), &config)
    }

    fn devices(gpus: usize, devices: &str) -> Result<Plan> {
        planned(gpus, &[("NVIDIA_VISIBLE_DEVICES", devices)])
    }

    #[test]
    fn one_node_the_package_and_the_stubs() {
        let plan = devices(1, "all").unwrap();
        assert_eq!(plan.warnings, Vec::<String>::new());
        assert_eq!(plan.driver_text(), "566.36");
        let nodes: Vec<_> = plan
            .devices
            .iter()
            .map(|d| (d.path.as_path(), d.number.major))
            .collect();
        assert_eq!(nodes, [(Path::new("/dev/dxg"), 10)]);
        assert_eq!(plan.trees.len(), 1);
        assert_eq!(plan.trees[0].source, plan.trees[0].at);
        assert_eq!(plan.trees[0].at, Path::new(STORE));
        let names: Vec<&str> = plan.files.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "libcuda.so",
                "libcuda.so.1",
                "libcuda.so.1.1",
                "libdxcore.so",
                "libnvidia-ml.so.1"
            ]
        );
        let lib = plan
            .rootfs_links
            .iter()
            .find(|l| l.to == Path::new("lib64"))
            .unwrap();
        assert_eq!(lib.at, LinkAt::Path(LIB_DIR.into()));
        assert!(plan.visible_pci.is_none() && plan.params.is_none());
    }

    #[test]
    fn selectors_that_wsl_can_and_cannot_distinguish() {
        let uuid = "GPU-1c2d3e4f-0123-4567-89ab-cdef01234567";
        for (gpus, requested, warnings) in [
            (1, "all", 0),
            (1, "0", 0),
            (1, uuid, 1),
            (1, "0000:01:00.0", 1),
            (2, "all", 0),
            (2, "0", 1),
            (2, "1", 1),
            (2, "0-1", 1),
        ] {
            let plan = devices(gpus, requested).unwrap();
            assert_eq!(
                plan.warnings.len(),
                warnings,
                "{gpus} {requested}: {:?}",
                plan.warnings
            );
            assert_eq!((plan.devices.len(), plan.gpus.len()), (1, gpus));
        }
        for (gpus, requested, words) in [
            (1, "1", "1 NVIDIA adapter "),
            (2, "0-2", "2 NVIDIA adapters"),
            (2, uuid, "nvoci cannot select one of 2"),
            (1, "0:0", "no MIG"),
            (1, "MIG-1c2d3e4f-0123-4567-89ab-cdef01234567", "no MIG"),
        ] {
            let e = devices(gpus, requested).unwrap_err();
            assert_eq!(e.code(), Code::UnknownDevice);
            assert!(e.to_string().contains(words), "{e}");
        }
        let nothing = devices(1, "none").unwrap();
        assert!(nothing.devices.is_empty() && nothing.gpus.is_empty());
        assert_eq!(nothing.trees.len(), 1);
    }

    #[test]
    fn features_that_wsl_lacks_are_warnings() {
        let plan = planned(
            1,
            &[
                ("NVIDIA_VISIBLE_DEVICES", "all"),
                ("NVIDIA_DRIVER_CAPABILITIES", "all"),
                ("NVIDIA_MIG_MONITOR_DEVICES", "all"),
            ],
        )
        .unwrap();
        for words in ["Vulkan, OpenCL", "32-bit", "MIG"] {
            assert!(
                plan.warnings.iter().any(|w| w.contains(words)),
                "{:?}",
                plan.warnings
            );
        }
    }

    #[test]
    fn windows_driver_must_meet_the_requirement() {
        let with = |cuda: &str| {
            planned(
                1,
                &[("NVIDIA_VISIBLE_DEVICES", "all"), ("NVIDIA_REQUIRE_CUDA", cuda)],
            )
        };
        with("cuda>=12.7").unwrap();
        assert_eq!(with("cuda>=12.8").unwrap_err().code(), Code::Requirement);
    }

    #[test]
    fn a_utility_container_gets_no_cuda() {
        let plan = planned(
            1,
            &[
                ("NVIDIA_VISIBLE_DEVICES", "all"),
                ("NVIDIA_DRIVER_CAPABILITIES", "utility"),
            ],
        )
        .unwrap();
        let names: Vec<&str> = plan.files.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["libdxcore.so", "libnvidia-ml.so.1"]);
    }
}
