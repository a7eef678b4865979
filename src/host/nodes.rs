//! Device nodes below the dev root, checked against the numbers of the kernel's drivers.
//!
//! A node whose major is not the driver's is another device whatever its name, so it is left out
//! with a warning. A device of the kernel without a node (`/dev/nvidia-uvm` on a fresh host) is
//! listed as not present.

use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use super::tegra::EntryKind;
use super::{DeviceNode, Host, NodeKind, Roots, absent};
use crate::sys::dxg;
use crate::sys::root::Node;
use crate::vocabulary::DeviceNumber;

/// The minor of `/dev/nvidiactl`.
pub(super) const CTL_MINOR: u32 = 255;
/// The minor of `/dev/nvidia-modeset`.
pub(super) const MODESET_MINOR: u32 = 254;

/// Names in `/proc/devices` of the driver with the fixed major 195.
const NVIDIA: &[&str] = &["nvidia", "nvidia-frontend", "nvidiactl", "nvidia-modeset"];
/// The major that the kernel's list assigns to NVIDIA, if `/proc/devices` cannot be read.
const NVIDIA_MAJOR: u32 = 195;

/// Fills in the device nodes.
pub(super) fn find(roots: &Roots, site: &[PathBuf], host: &mut Host) {
    let mut finder = Finder {
        roots,
        host,
        nodes: Vec::new(),
        dir: None,
    };
    finder.core();
    finder.caps();
    finder.fabric();
    finder.storage_and_network();
    finder.dri();
    finder.site(site);
    finder.host.nodes = finder.nodes;
}

/// A device that is expected at a path.
struct Expected<'a> {
    kind: NodeKind,
    /// Below `/dev`.
    path: &'a str,
    /// Driver names in `/proc/devices`, one of which must have the node's major.
    drivers: &'a [&'a str],
    /// Its minor number, if it is fixed.
    minor: Option<u32>,
}

impl<'a> Expected<'a> {
    fn fixed(kind: NodeKind, path: &'a str, drivers: &'a [&'a str], minor: u32) -> Self {
        Self {
            kind,
            path,
            drivers,
            minor: Some(minor),
        }
    }
}

struct Finder<'a> {
    roots: &'a Roots,
    host: &'a mut Host,
    nodes: Vec<DeviceNode>,
    /// The last directory that was opened: one may hold thousands of IMEX channels.
    dir: Option<(String, Node)>,
}

impl Finder<'_> {
    /// The nodes that every host with a loaded driver should have.
    fn core(&mut self) {
        let loaded = self.host.kernel.is_some();
        // Only newer modules are listed by name in /proc/devices.
        let modeset = self.host.majors.get("nvidia-modeset").is_some()
            || self
                .roots
                .sys
                .as_ref()
                .is_some_and(|sys| sys.exists("module/nvidia_modeset/initstate"));
        let minors: Vec<u32> = self.host.usable_gpus().map(|g| g.minor).collect();
        self.add_expected(
            &Expected::fixed(NodeKind::Ctl, "nvidiactl", NVIDIA, CTL_MINOR),
            loaded,
        );
        for minor in minors {
            let path = format!("nvidia{minor}");
            self.add_expected(
                &Expected::fixed(NodeKind::Gpu(minor), &path, NVIDIA, minor),
                loaded,
            );
        }
        self.add_expected(
            &Expected::fixed(NodeKind::Modeset, "nvidia-modeset", NVIDIA, MODESET_MINOR),
            modeset,
        );
        let uvm = self.host.majors.get("nvidia-uvm").is_some();
        self.add_expected(
            &Expected::fixed(NodeKind::Uvm, "nvidia-uvm", &["nvidia-uvm"], 0),
            uvm,
        );
        self.add_expected(
            &Expected::fixed(NodeKind::UvmTools, "nvidia-uvm-tools", &["nvidia-uvm"], 1),
            uvm,
        );
        if self.host.wsl.is_some() {
            self.add_if_present(NodeKind::Dxg, "dxg", &[]);
        }
    }

    /// Capability nodes that the kernel offers now.
    fn caps(&mut self) {
        let caps = self.host.caps;
        let mut minors: Vec<u32> = [
            caps.mig_config,
            caps.mig_monitor,
            caps.fabric_mgmt,
            caps.fabric_imex_mgmt,
        ]
        .into_iter()
        .flatten()
        .collect();
        for gpu in self.host.usable_gpus() {
            minors.extend(gpu.mig_devices.iter().flat_map(|m| [m.gi_minor, m.ci_minor]));
        }
        minors.sort_unstable();
        minors.dedup();
        let known = self.host.majors.get("nvidia-caps").is_some();
        for minor in minors {
            let path = format!("nvidia-caps/nvidia-cap{minor}");
            self.add_expected(
                &Expected::fixed(NodeKind::Cap(minor), &path, &["nvidia-caps"], minor),
                known,
            );
        }
    }

    /// NVSwitch, NVLink and IMEX.
    fn fabric(&mut self) {
        const MAX_SWITCHES: u32 = 64;
        const MAX_CHANNELS: usize = 1 << 14;
        if self.host.majors.get("nvidia-nvswitch").is_some() {
            let drivers = &["nvidia-nvswitch"];
            self.add_if_present(NodeKind::NvSwitchCtl, "nvidia-nvswitchctl", drivers);
            for n in 0..MAX_SWITCHES {
                if !self.add_if_present(NodeKind::NvSwitch(n), &format!("nvidia-nvswitch{n}"), drivers) {
                    break;
                }
            }
        }
        if self.host.majors.get("nvidia-nvlink").is_some() {
            self.add_if_present(NodeKind::Nvlink, "nvidia-nvlink", &["nvidia-nvlink"]);
        }
        if self.host.majors.get("nvidia-caps-imex-channels").is_some() {
            for n in self.numbered("nvidia-caps-imex-channels", "channel", MAX_CHANNELS) {
                let path = format!("nvidia-caps-imex-channels/channel{n}");
                self.add_expected(
                    &Expected::fixed(NodeKind::ImexChannel(n), &path, &["nvidia-caps-imex-channels"], n),
                    false,
                );
            }
        }
    }

    /// GPUDirect Storage, GDRCopy and InfiniBand verbs, from add-on drivers and other vendors.
    fn storage_and_network(&mut self) {
        const MAX_FS: u32 = 64;
        if self.host.majors.get("nvidia-fs").is_some() {
            for n in 0..MAX_FS {
                if !self.add_if_present(NodeKind::NvidiaFs(n), &format!("nvidia-fs{n}"), &["nvidia-fs"]) {
                    break;
                }
            }
        }
        if self.host.majors.get("gdrdrv").is_some() {
            self.add_if_present(NodeKind::Gdrdrv, "gdrdrv", &["gdrdrv"]);
        }
        if self.host.majors.get("infiniband_verbs").is_some() {
            for n in self.numbered("infiniband", "uverbs", 1024) {
                let path = format!("infiniband/uverbs{n}");
                self.add_if_present(NodeKind::Uverbs(n), &path, &["infiniband_verbs"]);
            }
            self.add_if_present(NodeKind::RdmaCm, "infiniband/rdma_cm", &[]);
        }
    }

    /// Display and render nodes of the GPUs.
    fn dri(&mut self) {
        let Some(sys) = &self.roots.sys else {
            return;
        };
        let addresses: Vec<_> = self.host.usable_gpus().map(|g| g.pci).collect();
        for pci in addresses {
            let Ok(entries) = sys.read_dir(format!("bus/pci/devices/{pci}/drm"), 64) else {
                continue;
            };
            let mut names: Vec<String> = entries
                .into_iter()
                .filter_map(|e| e.name.into_string().ok())
                .collect();
            names.sort_unstable();
            for name in names {
                let number = |prefix| {
                    name.strip_prefix(prefix)
                        .and_then(|n: &str| n.parse::<u32>().ok())
                };
                let render = number("renderD").is_some();
                if !render && number("card").is_none() {
                    continue;
                }
                if self.add_if_present(NodeKind::Dri { pci, render }, &format!("dri/{name}"), &["drm"])
                    && let Some(node) = self.nodes.last_mut()
                {
                    let link = format!("dri/by-path/pci-{pci}-{}", if render { "render" } else { "card" });
                    if self.roots.dev.read_link(&link).is_ok() {
                        node.links.push(Path::new("/dev").join(link));
                    }
                }
            }
        }
    }

    /// Nodes that the administrator names: character devices of any driver.
    fn site(&mut self, paths: &[PathBuf]) {
        let tegra = self.host.tegra.iter().flat_map(|t| &t.entries);
        let tegra = tegra
            .filter(|e| e.kind == EntryKind::Device)
            .map(|e| e.at.clone());
        let paths: Vec<PathBuf> = paths.iter().cloned().chain(tegra).collect();
        for path in paths {
            if self.nodes.iter().any(|n| n.path == path) {
                continue;
            }
            let Some(below) = path.strip_prefix("/dev").ok().and_then(Path::to_str) else {
                continue;
            };
            if let Ok(stat) = self.stat(below)
                && FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            {
                self.nodes.push(DeviceNode {
                    kind: NodeKind::Site,
                    number: DeviceNumber::from_raw(stat.st_rdev),
                    mode: stat.st_mode & 0o7777,
                    uid: stat.st_uid,
                    gid: stat.st_gid,
                    present: true,
                    links: Vec::new(),
                    path,
                });
            }
        }
    }

    /// Adds an optional node, and returns whether it exists.
    fn add_if_present(&mut self, kind: NodeKind, path: &str, drivers: &[&str]) -> bool {
        let before = self.nodes.len();
        self.add_expected(
            &Expected {
                kind,
                path,
                drivers,
                minor: None,
            },
            false,
        );
        self.nodes.len() > before
    }

    /// Adds a node if it is the expected device. Otherwise, if the kernel has the device, adds it
    /// as not present.
    fn add_expected(&mut self, expected: &Expected<'_>, known: bool) {
        let path = Path::new("/dev").join(expected.path);
        match self.stat(expected.path) {
            Ok(stat) => match self.check(expected, &stat) {
                Ok(number) => {
                    self.nodes.push(DeviceNode {
                        kind: expected.kind,
                        path,
                        number,
                        mode: stat.st_mode & 0o7777,
                        uid: stat.st_uid,
                        gid: stat.st_gid,
                        present: true,
                        links: Vec::new(),
                    });
                    return;
                }
                Err(why) => self.host.warn(format!("{}: {why}; not used", path.display())),
            },
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(e) => self.host.warn(format!("{}: {e}", path.display())),
        }
        if let (true, Some(major), Some(minor)) = (known, self.major(expected.drivers), expected.minor) {
            let policy = self.host.policy_of(expected.kind);
            self.nodes.push(DeviceNode {
                kind: expected.kind,
                path,
                number: DeviceNumber { major, minor },
                mode: policy.mode,
                uid: policy.uid,
                gid: policy.gid,
                present: false,
                links: Vec::new(),
            });
        }
    }

    /// The number of a node that is the expected device.
    fn check(&self, expected: &Expected<'_>, stat: &Stat) -> Result<DeviceNumber, String> {
        if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice {
            return Err("not a character device".to_owned());
        }
        let number @ DeviceNumber { major, minor } = DeviceNumber::from_raw(stat.st_rdev);
        // Misc devices: their major is always 10, their minor varies.
        let right = if matches!(expected.kind, NodeKind::RdmaCm | NodeKind::Dxg) {
            major == dxg::MAJOR
        } else {
            self.host.majors.has(expected.drivers, major)
                || (self.host.majors.0.is_empty() && self.major(expected.drivers) == Some(major))
        };
        if !right {
            return Err(format!(
                "its major number {major} is not that of the driver ({})",
                expected.drivers.join(", ")
            ));
        }
        match expected.minor {
            Some(wanted) if wanted != minor => {
                Err(format!("its minor number is {minor} instead of {wanted}"))
            }
            _ => Ok(number),
        }
    }

    fn major(&self, drivers: &[&str]) -> Option<u32> {
        if drivers == NVIDIA {
            return self.host.majors.nvidia().or(Some(NVIDIA_MAJOR));
        }
        drivers.iter().find_map(|d| self.host.majors.get(d))
    }

    /// The attributes of a path below the dev root; a link at its end is not followed.
    fn stat(&mut self, path: &str) -> rustix::io::Result<Stat> {
        let Some((dir, name)) = path.rsplit_once('/') else {
            return rustix::fs::statat(&self.roots.dev, path, AtFlags::SYMLINK_NOFOLLOW);
        };
        if self.dir.as_ref().is_none_or(|(open, _)| open != dir) {
            let node = self
                .roots
                .dev
                .resolve(dir)
                .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
            self.dir = Some((dir.to_owned(), node));
        }
        let dir = self.dir.as_ref().map(|(_, node)| node).ok_or(Errno::NOENT)?;
        rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// The numbers after `prefix` in the names of a directory, sorted.
    fn numbered(&mut self, dir: &str, prefix: &str, max: usize) -> Vec<u32> {
        match self.roots.dev.read_dir(dir, max) {
            Ok(entries) => {
                let mut numbers: Vec<u32> = entries
                    .iter()
                    .filter_map(|e| e.name.to_str()?.strip_prefix(prefix)?.parse().ok())
                    .collect();
                numbers.sort_unstable();
                numbers
            }
            Err(e) => {
                if !absent(&e) {
                    self.host.warn(format!("/dev/{dir}: {e}"));
                }
                Vec::new()
            }
        }
    }
}
