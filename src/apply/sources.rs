//! What is bound into the container: opened, checked and cloned on the host's side, before anything of
//! the container is looked at. A source is never taken from the image.

use rustix::fs::FileType;

use crate::error::{Code, Error, IoContext as _, Result};
use crate::host::Roots;
use crate::plan::{Device, DriverFile, Place, Plan, Tree};
use crate::sys::mount::{Detached, Restrict};
use crate::sys::owned;

/// Detached mounts of everything that a plan binds.
#[derive(Debug)]
pub struct Sources {
    /// Driver files with their places.
    pub(super) files: Vec<(DriverFile, Detached)>,
    /// Device nodes; without a mount those that the runtime has made.
    pub(super) devices: Vec<(Device, Option<Detached>)>,
    /// Directories with places of their own.
    pub(super) trees: Vec<TreeSource>,
    /// Files that were left out, and why.
    pub(super) warnings: Vec<String>,
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
    /// Opens and checks every source of `plan`. `made` says whether the runtime has made a device's node by then: a mount
    /// that is not needed is given back only when no processor can be using it, and the kernel waits for that.
    ///
    /// # Errors
    /// When a required file or a device is missing, is of the wrong type or number, or could have been
    /// changed by somebody other than root. Optional files with such faults become warnings.
    pub fn open(plan: &Plan, roots: &Roots, made: impl Fn(&Device) -> bool) -> Result<Self> {
        let mut sources = Self {
            files: Vec::new(),
            devices: Vec::new(),
            trees: Vec::new(),
            warnings: Vec::new(),
        };
        for file in &plan.files {
            match driver_file(file, roots) {
                Ok(tree) => sources.files.push((file.clone(), tree)),
                Err(e) if file.required => return Err(e),
                Err(e) => sources.warnings.push(e.to_string()),
            }
        }
        for tree in &plan.trees {
            sources.trees.push(directory(tree, roots)?);
        }
        for device in &plan.devices {
            let mount = device_node(device, roots, !made(device))?;
            sources.devices.push((device.clone(), mount));
        }
        Ok(sources)
    }
}

fn driver_file(file: &DriverFile, roots: &Roots) -> Result<Detached> {
    let what = || format!("driver file {}", file.source.display());
    if file.place == Place::Site {
        return site_file(file);
    }
    let node = roots
        .driver
        .resolve_nofollow(&file.source)
        .context(Code::NoLibraries, what)?;
    let socket = file.place == Place::Run;
    let kinds: &[FileType] = match file.place {
        Place::Run => &[FileType::Socket, FileType::Directory],
        // udev's database is a directory.
        Place::Share => &[FileType::RegularFile, FileType::Directory],
        _ => &[FileType::RegularFile],
    };
    if !kinds.contains(&node.kind()) {
        return Err(Error::new(
            Code::UnsafePath,
            what(),
            "it is not what it should be",
        ));
    }
    // A socket's own mode is its access control, and a daemon may run as a user of its own.
    if !socket {
        owned::check(&node, &file.source)?;
    }
    let restrict = if socket { Restrict::SOCKET } else { Restrict::FILE };
    Detached::bind(&node, restrict).context(Code::Mount, what)
}

/// A path of the host that an administrator named: every directory on the way must be root's too.
fn site_file(file: &DriverFile) -> Result<Detached> {
    let what = || format!("{} ({})", file.source.display(), file.reason);
    let node = owned::find(&file.source)?
        .ok_or_else(|| Error::new(Code::NoLibraries, what(), "the host has no such file"))?;
    if !node.is_file() && !node.is_dir() {
        return Err(Error::new(
            Code::UnsafePath,
            what(),
            "it is neither a file nor a directory",
        ));
    }
    Detached::bind(&node, Restrict::FILE).context(Code::Mount, what)
}

/// Nobody but root may put anything into the directory; what is in it is root's business, as on the host.
fn directory(tree: &Tree, roots: &Roots) -> Result<TreeSource> {
    let what = || format!("driver directory {}", tree.source.display());
    let node = roots
        .driver
        .resolve_nofollow(&tree.source)
        .context(Code::NoLibraries, what)?;
    if !node.is_dir() {
        return Err(Error::new(Code::UnsafePath, what(), "it is not a directory"));
    }
    owned::check(&node, &tree.source)?;
    Ok(TreeSource {
        tree: tree.clone(),
        id: node.id(),
        mount: Detached::bind(&node, Restrict::FILE).context(Code::Mount, what)?,
    })
}

fn device_node(device: &Device, roots: &Roots, bind: bool) -> Result<Option<Detached>> {
    let what = || format!("device node {}", device.path.display());
    let below_dev = device.path.strip_prefix("/dev").unwrap_or(&device.path);
    let node = roots
        .dev
        .resolve_nofollow(below_dev)
        .context(Code::DeviceNode, what)?;
    if node.kind() != FileType::CharacterDevice || node.rdev() != (device.major, device.minor) {
        return Err(Error::new(
            Code::DeviceNode,
            what(),
            format!("it is not the character device {}:{}", device.major, device.minor),
        ));
    }
    bind.then(|| Detached::bind(&node, Restrict::DEVICE).context(Code::Mount, what))
        .transpose()
}
