//! Loads missing kernel modules and makes missing device nodes.
//!
//! The kernel does not make NVIDIA's nodes. Their first user does, through a setuid helper of the
//! driver, or `nvidia-persistenced` does. So a fresh host often lacks `/dev/nvidia-uvm`. nvoci
//! makes them only if the configuration has `load-kmods`, never in a user namespace or on WSL2, and
//! never changes or replaces an existing file.

use core::fmt;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid};

use super::kmod::{Kernel, Loading, Module};
use super::pci::Bus;
use super::{DeviceNode, Host, NodeKind, Platform, Roots, kmod};
use crate::sys::ns::in_user_namespace;
use crate::sys::root::{Node, own_fds};
use crate::vocabulary::DeviceNumber;

/// The modules and nodes that may be made.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Options {
    /// `load-kmods` of the configuration; if it is false, nothing is made.
    pub load_kmods: bool,
    /// CUDA's `nvidia-uvm`.
    pub uvm: bool,
    /// `nvidia-modeset`, for displays.
    pub modeset: bool,
    /// IMEX channels of the request.
    pub imex_channels: Vec<u32>,
}

/// The kinds of things to make.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Steps {
    /// Missing kernel modules are loaded.
    pub modules: bool,
    /// Missing device nodes are made.
    pub nodes: bool,
    /// Missing links below `/dev/char` are made.
    pub links: bool,
}

impl Steps {
    /// All kinds.
    pub const ALL: Self = Self {
        modules: true,
        nodes: true,
        links: true,
    };
}

/// The outcome of one attempt.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Done {
    /// A kernel module was loaded.
    Loaded(&'static str),
    /// A device node was made.
    Node(PathBuf),
    /// A link below `/dev/char`, by which systemd finds the node, was made.
    Link(PathBuf),
    /// The attempt failed; a text with subject and reason.
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

/// Loads missing modules, makes missing nodes and updates `host`. Returns the outcomes in order; a
/// failure does not stop the rest.
pub fn create_missing(roots: &Roots, host: &mut Host, opts: &Options) -> Vec<Done> {
    create(roots, host, opts, Steps::ALL)
}

/// [`create_missing`], with some of its steps.
pub fn create(roots: &Roots, host: &mut Host, opts: &Options, steps: Steps) -> Vec<Done> {
    let mut done = Vec::new();
    if !opts.load_kmods
        || matches!(host.platform, Platform::Wsl2 | Platform::Tegra)
        || host.modify_device_files == Some(false)
        || in_user_namespace()
    {
        return done;
    }
    if steps.modules {
        load_modules(roots, host, opts, &mut done);
    }
    if !done.is_empty() {
        host.refresh(roots);
    }
    // The parameters are readable only once the module is loaded.
    if host.modify_device_files == Some(false) {
        return done;
    }
    let made_from = done.len();
    let nodes = if steps.nodes {
        wanted(host, opts)
    } else {
        Vec::new()
    };
    for node in nodes {
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
    if steps.links {
        char_links(roots, host, &mut done);
    }
    done
}

fn load_modules(roots: &Roots, host: &Host, opts: &Options, done: &mut Vec<Done>) {
    // The modules and modprobe of a separate driver root belong to the owner of that root.
    if roots.driver_path != Path::new("/") {
        return;
    }
    let mut missing = Vec::new();
    if host.kernel.is_none() {
        if !has_nvidia_display(roots) {
            return;
        }
        missing.push(Module {
            name: NVIDIA,
            needed: true,
        });
    }
    if opts.uvm && host.majors.get("nvidia-uvm").is_none() {
        missing.push(Module {
            name: "nvidia-uvm",
            needed: true,
        });
    }
    let modeset = roots
        .sys
        .as_ref()
        .is_some_and(|sys| sys.exists("module/nvidia_modeset"));
    // Without nvidia-modeset, Vulkan and OpenGL still work off-screen.
    if opts.modeset && !modeset {
        missing.push(Module {
            name: "nvidia-modeset",
            needed: false,
        });
    }
    let kernel = Kernel {
        proc: &roots.proc,
        sys: roots.sys.as_ref(),
        root: &roots.driver,
    };
    for module in missing {
        match kmod::load(kernel, module) {
            Ok(Loading::Loaded) => done.push(Done::Loaded(module.name)),
            Ok(Loading::LeftOut(why)) => log::debug!("kernel module {}: {why}", module.name),
            Err(e) => {
                done.push(Done::Failed(e.to_string()));
                if module.name == NVIDIA {
                    return;
                }
            }
        }
    }
}

/// The module that all others of the driver depend on.
const NVIDIA: &str = "nvidia";

/// Whether a GPU of NVIDIA's is on the PCI bus.
fn has_nvidia_display(roots: &Roots) -> bool {
    let bus = roots.sys.as_ref().map(Bus::read).unwrap_or_default();
    bus.gpus.is_some_and(|gpus| !gpus.is_empty())
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
                number: DeviceNumber { major, minor: n },
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

/// The number of IMEX channels in the module's parameters; its default is 2048.
fn imex_channel_count(host: &Host) -> u32 {
    const DEFAULT: u32 = 2048;
    let params = String::from_utf8_lossy(host.params.as_deref().unwrap_or_default());
    params
        .lines()
        .find_map(|l| l.strip_prefix("ImexChannelCount:")?.trim().parse().ok())
        .unwrap_or(DEFAULT)
}

/// Makes one node; an existing file of that name stays.
fn make(roots: &Roots, node: &DeviceNode) -> io::Result<()> {
    let below_dev = node.path.strip_prefix("/dev").unwrap_or(&node.path);
    let name = below_dev
        .file_name()
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let mut dir = roots.dev.resolve(".")?;
    if let Some(parent) = below_dev.parent().filter(|p| !p.as_os_str().is_empty()) {
        dir = dir.mkdir(parent.as_os_str(), 0o755)?;
    }
    // Only the owner may open it until its owner and mode are set.
    rustix::fs::mknodat(
        &dir,
        name,
        FileType::CharacterDevice,
        Mode::from_raw_mode(node.mode & 0o600),
        node.number.to_raw(),
    )?;
    let made = dir.child(name)?;
    if made.kind() != FileType::CharacterDevice || made.rdev() != node.number {
        return Err(io::Error::from_raw_os_error(libc::EEXIST));
    }
    set_owner(&made, node)
}

fn set_owner(made: &Node, node: &DeviceNode) -> io::Result<()> {
    let owner = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
    rustix::fs::chownat(made, "", Some(owner.0), Some(owner.1), AtFlags::EMPTY_PATH)?;
    // An O_PATH descriptor has no fchmod; its entry in our own /proc/self/fd leads to the same
    // inode.
    let fd = format!("{}", made.as_fd().as_raw_fd());
    rustix::fs::chmodat(own_fds()?, fd, Mode::from_raw_mode(node.mode), AtFlags::empty())?;
    Ok(())
}

/// Makes `/dev/char/MAJOR:MINOR` links. systemd finds a device rule's node there, and without one
/// drops the rule at `daemon-reload`. udev makes them for nodes of the kernel but not for NVIDIA's.
fn char_links(roots: &Roots, host: &Host, done: &mut Vec<Done>) {
    let Ok(dir) = roots.dev.resolve("char") else {
        return;
    };
    for node in host.nodes.iter().filter(|n| n.present && n.kind.is_drivers_own()) {
        let name = node.number.to_string();
        if dir.child(&name).is_ok() {
            continue;
        }
        let target = Path::new("..").join(node.path.strip_prefix("/dev").unwrap_or(&node.path));
        match rustix::fs::symlinkat(&target, &dir, name.as_str()) {
            Ok(()) => done.push(Done::Link(Path::new("/dev/char").join(name))),
            Err(e) => done.push(Done::Failed(format!("make link /dev/char/{name}: {e}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testhost::TestHost;

    const ALL: Options = Options {
        load_kmods: true,
        uvm: true,
        modeset: true,
        imex_channels: Vec::new(),
    };

    /// A host with a loaded module and an empty `/dev`; `None` if the test may not make nodes.
    fn host() -> Option<TestHost> {
        let host = TestHost::recorded("h100-580");
        let may = !in_user_namespace() && host.device("probe", 1, 3, 0o600);
        if in_user_namespace() {
            eprintln!("SKIPPED: in a user namespace nothing is made");
        }
        may.then_some(host)
    }

    fn create(test: &TestHost, opts: &Options) -> (Host, Vec<Done>) {
        let (roots, mut host) = (test.roots(), test.discover());
        let done = create_missing(&roots, &mut host, opts);
        (host, done)
    }

    #[test]
    fn missing_nodes_are_made_with_the_drivers_numbers_and_modes() {
        let Some(test) = host() else { return };
        let (host, done) = create(&test, &ALL);
        let made = |path: &str| done.contains(&Done::Node(path.into()));
        for path in [
            "/dev/nvidiactl",
            "/dev/nvidia0",
            "/dev/nvidia-uvm",
            "/dev/nvidia-uvm-tools",
        ] {
            assert!(made(path), "{path}: {done:?}");
        }
        for (kind, number, mode) in [
            (NodeKind::Gpu(0), (195, 0), 0o666),
            (NodeKind::Uvm, (238, 0), 0o666),
            (NodeKind::UvmTools, (238, 1), 0o666),
            (NodeKind::Cap(1), (241, 1), 0o400),
            (NodeKind::Cap(2), (241, 2), 0o444),
        ] {
            let node = host.node(kind).unwrap();
            assert!(node.present, "{kind:?}");
            let found = (node.number.major, node.number.minor);
            assert_eq!((found, node.mode), (number, mode), "{kind:?}");
        }
        // A second time there is nothing left to do.
        assert_eq!(create(&test, &ALL).1, []);
    }

    #[test]
    fn nothing_is_touched_unless_it_is_switched_on_and_the_driver_agrees() {
        let Some(test) = host() else { return };
        assert_eq!(create(&test, &Options::default()).1, []);
        test.file("proc/driver/nvidia/params", "ModifyDeviceFiles: 0\n");
        assert_eq!(create(&test, &ALL).1, []);
        assert!(!test.path().join("dev/nvidiactl").exists());
    }

    #[test]
    fn an_existing_file_stays() {
        let Some(test) = host() else { return };
        test.file("dev/nvidia0", "not a device");
        test.link("dev/nvidia-caps", "/proc");
        let (host, done) = create(&test, &ALL);
        assert!(!host.node(NodeKind::Gpu(0)).unwrap().present);
        assert!(
            done.iter()
                .any(|d| matches!(d, Done::Failed(why) if why.contains("/dev/nvidia0")))
        );
        assert_eq!(
            std::fs::read(test.path().join("dev/nvidia0")).unwrap(),
            b"not a device"
        );
        assert!(!test.path().join("proc/nvidia-cap1").exists());
        assert!(host.node(NodeKind::Ctl).unwrap().present);
    }

    #[test]
    fn imex_channels_only_as_many_as_the_module_has() {
        let Some(test) = host() else { return };
        let opts = Options {
            imex_channels: vec![0, 2047, 2048],
            ..ALL
        };
        let (host, _) = create(&test, &opts);
        assert!(host.node(NodeKind::ImexChannel(0)).is_some_and(|n| n.present));
        assert!(host.node(NodeKind::ImexChannel(2047)).is_some_and(|n| n.present));
        assert!(host.node(NodeKind::ImexChannel(2048)).is_none());
    }

    #[test]
    fn systemd_finds_the_nodes_by_number() {
        let Some(test) = host() else { return };
        std::fs::create_dir(test.path().join("dev/char")).unwrap();
        create(&test, &ALL);
        let link = |name: &str| std::fs::read_link(test.path().join("dev/char").join(name)).unwrap();
        assert_eq!(link("195:0"), Path::new("../nvidia0"));
        assert_eq!(link("241:1"), Path::new("../nvidia-caps/nvidia-cap1"));
    }

    #[test]
    fn modules_are_not_loaded_without_a_gpu_or_in_a_driver_container() {
        if in_user_namespace() {
            return;
        }
        let test = TestHost::bare();
        test.file("proc/sys/kernel/modprobe", "/bin/false\n");
        let mut host = test.discover();
        let mut roots = test.roots();
        assert_eq!(create_missing(&roots, &mut host, &ALL), []);
        test.file("sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n");
        test.file("sys/bus/pci/devices/0000:01:00.0/class", "0x030200\n");
        assert_eq!(create_missing(&roots, &mut host, &ALL), []);
        roots.driver_path = "/".into();
        let done = create_missing(&roots, &mut host, &ALL);
        assert!(
            matches!(&done[..], [Done::Failed(why)] if why.contains("nvidia")),
            "{done:?}"
        );
    }
}
