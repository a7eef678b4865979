//! Makes what is missing: kernel modules that are not loaded yet, and device nodes of loaded ones.
//!
//! NVIDIA's nodes are made by whoever first needs them (a setuid helper of the driver, or
//! `nvidia-persistenced`), not by the kernel, so on a fresh host `/dev/nvidia-uvm` is often absent.
//! Done only where the configuration says `load-kmods`, never in a user namespace or on WSL2, and
//! nothing that exists is changed or replaced.

use core::fmt;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid};

use super::{DeviceNode, Host, NodeKind, Platform, Roots, kmod};
use crate::sys::ns::in_user_namespace;
use crate::sys::root::{Node, own_fds};

/// What may be made.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Options {
    /// `load-kmods` of the configuration; without it nothing is done at all.
    pub load_kmods: bool,
    /// CUDA's `nvidia-uvm`.
    pub uvm: bool,
    /// `nvidia-modeset`, for displays.
    pub modeset: bool,
    /// IMEX channels that a container asked for.
    pub imex_channels: Vec<u32>,
}

/// One thing that was tried.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Done {
    /// A kernel module was loaded.
    Loaded(&'static str),
    /// A device node was made.
    Node(PathBuf),
    /// A link below `/dev/char`, by which systemd finds the node, was made.
    Link(PathBuf),
    /// It did not work; what and why.
    Failed(String),
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loaded(module) => write!(f, "loaded kernel module {module}"),
            Self::Node(path) => write!(f, "made device node {}", path.display()),
            Self::Link(path) => write!(f, "made link {}", path.display()),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// Loads missing modules and makes missing nodes; `host` then knows of them. Returns what was done, in
/// order; a failure does not stop the rest.
pub fn create_missing(roots: &Roots, host: &mut Host, opts: &Options) -> Vec<Done> {
    let mut done = Vec::new();
    if !opts.load_kmods
        || host.platform == Platform::Wsl2
        || host.modify_device_files == Some(false)
        || in_user_namespace()
    {
        return done;
    }
    load_modules(roots, host, opts, &mut done);
    if !done.is_empty() {
        host.refresh(roots);
    }
    // The parameters are readable only once the module is loaded.
    if host.modify_device_files == Some(false) {
        return done;
    }
    let made_from = done.len();
    for node in wanted(host, opts) {
        match make(roots, &node) {
            Ok(()) => done.push(Done::Node(node.path)),
            Err(e) => done.push(Done::Failed(format!(
                "make device node {}: {e}",
                node.path.display()
            ))),
        }
    }
    if done.len() > made_from {
        host.refresh(roots);
    }
    char_links(roots, host, &mut done);
    done
}

fn load_modules(roots: &Roots, host: &Host, opts: &Options, done: &mut Vec<Done>) {
    // In a driver root of its own the modules and modprobe are that root's, and its owner's business.
    if roots.driver_path != Path::new("/") {
        return;
    }
    let mut missing = Vec::new();
    if host.kernel.is_none() {
        if !has_nvidia_display(roots) {
            return;
        }
        missing.push("nvidia");
    }
    if opts.uvm && host.majors.get("nvidia-uvm").is_none() {
        missing.push("nvidia-uvm");
    }
    let modeset = roots
        .sys
        .as_ref()
        .is_some_and(|sys| sys.exists("module/nvidia_modeset"));
    if opts.modeset && !modeset {
        missing.push("nvidia-modeset");
    }
    for module in missing {
        match kmod::load(&roots.proc, module) {
            Ok(()) => done.push(Done::Loaded(module)),
            Err(e) => {
                done.push(Done::Failed(e.to_string()));
                if module == "nvidia" {
                    return;
                }
            }
        }
    }
}

/// Whether a display controller of NVIDIA (vendor 10de, class 03xx) is on the PCI bus.
fn has_nvidia_display(roots: &Roots) -> bool {
    let Some(sys) = &roots.sys else {
        return false;
    };
    let read = |device: &OsStr, name: &str| {
        sys.read_text(Path::new("bus/pci/devices").join(device).join(name), 64)
            .unwrap_or_default()
    };
    sys.read_dir("bus/pci/devices", 16_384)
        .unwrap_or_default()
        .iter()
        .any(|e| read(&e.name, "vendor").trim() == "0x10de" && read(&e.name, "class").starts_with("0x03"))
}

/// The nodes that are missing and may be made.
fn wanted(host: &Host, opts: &Options) -> Vec<DeviceNode> {
    let mut nodes: Vec<DeviceNode> = host
        .nodes
        .iter()
        .filter(|n| !n.present && host.policy_of(n.kind).modify)
        .filter(|n| match n.kind {
            NodeKind::Uvm | NodeKind::UvmTools => opts.uvm,
            NodeKind::Modeset => opts.modeset,
            _ => true,
        })
        .cloned()
        .collect();
    let Some(major) = host.majors.get("nvidia-caps-imex-channels") else {
        return nodes;
    };
    for &n in &opts.imex_channels {
        let kind = NodeKind::ImexChannel(n);
        if host.node(kind).is_none() && n < imex_channel_count(host) {
            let policy = host.node_policy;
            nodes.push(DeviceNode {
                kind,
                path: format!("/dev/nvidia-caps-imex-channels/channel{n}").into(),
                major,
                minor: n,
                mode: policy.mode,
                uid: policy.uid,
                gid: policy.gid,
                present: false,
                links: Vec::new(),
            });
        }
    }
    nodes
}

/// How many channels the module was loaded with; 2048 is its default.
fn imex_channel_count(host: &Host) -> u32 {
    const DEFAULT: u32 = 2048;
    let params = String::from_utf8_lossy(host.params.as_deref().unwrap_or_default());
    params
        .lines()
        .find_map(|l| l.strip_prefix("ImexChannelCount:")?.trim().parse().ok())
        .unwrap_or(DEFAULT)
}

/// Makes one node. What exists under its name stays.
fn make(roots: &Roots, node: &DeviceNode) -> io::Result<()> {
    let below_dev = node.path.strip_prefix("/dev").unwrap_or(&node.path);
    let name = below_dev
        .file_name()
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let mut dir = roots.dev.resolve(".")?;
    if let Some(parent) = below_dev.parent().filter(|p| !p.as_os_str().is_empty()) {
        dir = dir.mkdir(parent.as_os_str(), 0o755)?;
    }
    // Closed to others until owner and mode are right.
    rustix::fs::mknodat(
        &dir,
        name,
        FileType::CharacterDevice,
        Mode::from_raw_mode(node.mode & 0o600),
        rustix::fs::makedev(node.major, node.minor),
    )?;
    let made = dir.child(name)?;
    if made.kind() != FileType::CharacterDevice || made.rdev() != (node.major, node.minor) {
        return Err(io::Error::from_raw_os_error(libc::EEXIST));
    }
    set_owner(&made, node)
}

fn set_owner(made: &Node, node: &DeviceNode) -> io::Result<()> {
    let owner = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
    rustix::fs::chownat(made, "", Some(owner.0), Some(owner.1), AtFlags::EMPTY_PATH)?;
    // An O_PATH descriptor has no fchmod; its entry in our own /proc/self/fd leads to the same inode.
    let fd = format!("{}", made.as_fd().as_raw_fd());
    rustix::fs::chmodat(own_fds()?, fd, Mode::from_raw_mode(node.mode), AtFlags::empty())?;
    Ok(())
}

/// `/dev/char/MAJOR:MINOR` links: systemd looks a device rule's node up there, and forgets the rule on
/// `daemon-reload` when there is none. udev makes them for nodes of the kernel, not for NVIDIA's.
fn char_links(roots: &Roots, host: &Host, done: &mut Vec<Done>) {
    let Ok(dir) = roots.dev.resolve("char") else {
        return;
    };
    for node in host.nodes.iter().filter(|n| n.present) {
        let own = matches!(
            node.kind,
            NodeKind::Ctl
                | NodeKind::Gpu(_)
                | NodeKind::Uvm
                | NodeKind::UvmTools
                | NodeKind::Modeset
                | NodeKind::Cap(_)
                | NodeKind::ImexChannel(_)
        );
        let name = format!("{}:{}", node.major, node.minor);
        if !own || dir.child(&name).is_ok() {
            continue;
        }
        let target = Path::new("..").join(node.path.strip_prefix("/dev").unwrap_or(&node.path));
        match rustix::fs::symlinkat(&target, &dir, name.as_str()) {
            Ok(()) => done.push(Done::Link(Path::new("/dev/char").join(name))),
            Err(e) => done.push(Done::Failed(format!("make link /dev/char/{name}: {e}"))),
        }
    }
}
