//! Opens, checks and clones the host's files for a container, before anything of the container is
//! touched. No source is ever taken from the image.

use std::cell::LazyCell;
use std::path::Path;

use crate::error::{Code, Error, Escaped, Result};
use crate::host::Roots;
use crate::plan::{Device, DriverFile, Place, Plan, Tree};
use crate::sys::mount::Detached;
use crate::sys::root::Root;
use crate::sys::source::{Source, Use, Walk};

/// Detached mounts of everything that a plan binds.
#[derive(Debug)]
pub struct Sources {
    /// Driver files with their places.
    pub(super) files: Vec<(DriverFile, Detached)>,
    /// Device nodes, without a mount if the runtime has made the node.
    pub(super) devices: Vec<(Device, Option<Detached>)>,
    /// Directories with places of their own.
    pub(super) trees: Vec<TreeSource>,
    /// Optional files that were left out, with the reason.
    pub(super) warnings: Vec<String>,
}

/// The SELinux label of a device's node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeLabel {
    /// That of the host's node, which is bound.
    Known(String),
    /// The runtime has put the node there.
    OfRuntime,
    /// The host's node has none, or none that may be read.
    Unknown,
}

/// A directory that is bound as a whole.
#[derive(Debug)]
pub(super) struct TreeSource {
    pub(super) tree: Tree,
    pub(super) mount: Detached,
    /// Device and inode number: a volume of the same directory needs no second mount.
    pub(super) id: (u64, u64),
}

impl Sources {
    /// Opens and checks every source of `plan`. `made` returns whether the runtime makes a device's
    /// node itself: an unused clone is not free, since closing it waits for an RCU grace period.
    ///
    /// # Errors
    /// If a required file or a device is missing, has the wrong type or number, or a user other
    /// than root could have changed it. An optional file with such a fault becomes a warning.
    pub fn open(plan: &Plan, roots: &Roots, made: impl Fn(&Device) -> bool) -> Result<Self> {
        let mut sources = Self {
            files: Vec::new(),
            devices: Vec::new(),
            trees: Vec::new(),
            warnings: Vec::new(),
        };
        let host = LazyCell::new(|| Root::open("/"));
        let site = LazyCell::new(|| match &*host {
            Ok(root) => Ok(Walk::new(root, Path::new("/"))),
            Err(e) => Err(Error::io(Code::System, "open /", e)),
        });
        let driver = roots.walk();
        for file in &plan.files {
            let walk = match file.place {
                Place::Site => site.as_ref().map_err(Clone::clone)?,
                _ => &driver,
            };
            match bind(walk, &file.found, file.wanted, &file.reason) {
                Ok((_, tree)) => sources.files.push((file.clone(), tree)),
                Err(e) if file.required => return Err(e),
                Err(e) => sources.warnings.push(left_out(&file.name, &e)),
            }
        }
        for tree in &plan.trees {
            let (source, mount) = bind(&driver, &tree.source, Use::Package, &tree.reason)?;
            sources.trees.push(TreeSource {
                tree: tree.clone(),
                id: source.id(),
                mount,
            });
        }
        let dev = Walk::new(&roots.dev, &roots.dev_path);
        for device in &plan.devices {
            let mount = device_node(&dev, device, !made(device))?;
            sources.devices.push((device.clone(), mount));
        }
        Ok(sources)
    }

    /// Each device with the SELinux label of its node. The labels are read through the host's
    /// `/proc`, so call this before it is hidden.
    pub fn labelled_devices(&self) -> impl Iterator<Item = (&Device, NodeLabel)> {
        let label = |mount: &Option<Detached>| match mount {
            None => NodeLabel::OfRuntime,
            Some(mount) => mount.selinux_label().map_or(NodeLabel::Unknown, NodeLabel::Known),
        };
        let mounts = self.devices.iter();
        mounts.map(move |(device, mount)| (device, label(mount)))
    }
}

/// The warning for an optional file.
fn left_out(name: &str, e: &Error) -> String {
    format!("{} was left out: {e}", Escaped(name))
}

fn bind(walk: &Walk<'_>, path: &Path, wanted: Use, reason: &str) -> Result<(Source, Detached)> {
    walk.bind(path, wanted).map_err(|e| match e.code() {
        Code::Mount => {
            let what = format!("{} ({reason})", e.what());
            Error::new(Code::Mount, what, e.why())
        }
        _ => e,
    })
}

fn device_node(dev: &Walk<'_>, device: &Device, bind: bool) -> Result<Option<Detached>> {
    let below_dev = device.path.strip_prefix("/dev").unwrap_or(&device.path);
    let wanted = Use::Device(device.number);
    if !bind {
        return dev.find(below_dev, wanted).map(|_| None);
    }
    dev.bind(below_dev, wanted).map(|(_, mount)| Some(mount))
}
