//! A container's rootfs, and which parts of it are the container's own.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::error::{Code, Error, IoContext as _, Result};
use crate::sys::mount::{duplicate, mount_id, remember_root};
use crate::sys::mountinfo::MountTable;
use crate::sys::root::{Node, Root, split};

/// The root directory of a container that is being made.
///
/// A runtime mounts volumes into the rootfs before it calls hooks, and a write to a volume changes
/// the host or another container. So only two kinds of mount are the container's own: the rootfs's,
/// and a tmpfs of the definition (`/dev`, `/run`). The kernel's list of mounts proves both, since a
/// link of the image can lead a volume to any place.
#[derive(Debug)]
pub struct Container {
    root: Root,
    own_mount: u64,
    tmpfs_mounts: Vec<u64>,
    made_for_it: Vec<u64>,
}

/// The caller's facts about the mounts of a rootfs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mounts<'a> {
    /// Places at which the definition mounts a tmpfs.
    pub tmpfs: &'a [PathBuf],
    /// A runtime made the mounts from a definition, after it had bound the rootfs to itself.
    pub by_runtime: bool,
    /// The host's mounts, if the caller's namespace may no longer list them.
    pub host: Option<&'a MountTable>,
}

impl Container {
    /// Opens the rootfs at `path`, an absolute path of the mount namespace that the caller is in.
    ///
    /// # Errors
    /// As [`Container::open_root`]; [`Code::UnsafeRootfs`] when a volume covers it.
    pub fn open(path: &Path, mounts: Mounts<'_>) -> Result<Self> {
        let root = Self::open_root(path)?;
        let what = || format!("rootfs {}", path.display());
        let own = mount_id(root.as_fd()).context(Code::System, what)?;
        let real = root.path().context(Code::System, what)?;
        let table = MountTable::own().context(Code::System, || "/proc/self/mountinfo")?;
        if mounts.by_runtime && table.is_covered(&real, own) {
            let why = "a volume is mounted over it, where a link of the image led";
            return Err(Error::new(Code::UnsafeRootfs, what(), why)
                .fix("use an image without a link to / at the volume's destination"));
        }
        if let Ok(top) = duplicate(root.as_fd()) {
            remember_root(top, own);
        }
        let made_for_it = table.made_for(&real, mounts.host);
        let mut tmpfs_mounts = Vec::new();
        for destination in mounts.tmpfs {
            let Ok(node) = root.resolve(destination) else {
                continue;
            };
            match node.mount_id() {
                Ok(id) if id != own && made_for_it.contains(&id) => {
                    tmpfs_mounts.push(id);
                    remember_root(node.into_fd(), id);
                }
                _ => {}
            }
        }
        Ok(Self {
            root,
            own_mount: own,
            tmpfs_mounts,
            made_for_it,
        })
    }

    /// Opens the rootfs at `path` without a check of its mounts.
    ///
    /// # Errors
    /// [`Code::UnsafeRootfs`] for the host's own root, a relative path or a link; [`Code::Bundle`]
    /// if it does not exist.
    pub fn open_root(path: &Path) -> Result<Root> {
        let what = || format!("rootfs {}", path.display());
        if !path.is_absolute() || path.components().count() < 2 {
            let why = "it is the host's own root or a relative path";
            return Err(Error::new(Code::UnsafeRootfs, what(), why));
        }
        Root::open(path).map_err(|e| {
            let code = match e.raw_os_error() {
                Some(libc::ELOOP | libc::ENOTDIR) => Code::UnsafeRootfs,
                _ => Code::Bundle,
            };
            Error::io(code, what(), &e)
        })
    }

    /// The rootfs.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// A cache of directories of the container's own. The caller mounts nothing over one while it
    /// holds the cache.
    pub(super) fn own_dirs(&self) -> OwnDirs<'_> {
        OwnDirs {
            container: self,
            found: Vec::new(),
        }
    }

    /// Whether an inode is the container's own, that is, not on a volume.
    pub fn owns(&self, node: &Node) -> io::Result<bool> {
        let id = node.mount_id()?;
        Ok(self.own_mount == id || self.tmpfs_mounts.contains(&id))
    }

    /// Whether an inode is on a tmpfs of the definition.
    pub fn on_tmpfs(&self, node: &Node) -> io::Result<bool> {
        Ok(self.tmpfs_mounts.contains(&node.mount_id()?))
    }

    /// Whether an inode is on a tmpfs that was made for this container alone.
    pub(super) fn on_made(&self, node: &Node) -> bool {
        node.mount_id().is_ok_and(|id| self.made_for_it.contains(&id))
    }

    /// The directory at `path`, made if it is missing.
    ///
    /// # Errors
    /// `EROFS` if it is on a volume, or would have to be made on one.
    pub fn own_dir(&self, path: &Path) -> io::Result<Node> {
        // Existing components may be links; missing ones are made one below the other.
        let mut missing = Vec::new();
        let mut at = path;
        let mut made = loop {
            match self.root.resolve(at) {
                Ok(node) if !node.is_dir() => return Err(Errno::NOTDIR.into()),
                Ok(node) if !self.owns(&node)? => return Err(Errno::ROFS.into()),
                Ok(node) if missing.is_empty() => return Ok(node),
                Ok(node) => break node,
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                    let (parent, name) = split(at)?;
                    missing.push(name);
                    at = parent;
                }
                Err(e) => return Err(e),
            }
        };
        for name in missing.into_iter().rev() {
            made = made.mkdir(name, 0o755)?;
        }
        // Another container with the same volume may have changed the path between lookup and
        // creation.
        if self.owns(&made)? {
            Ok(made)
        } else {
            Err(Errno::ROFS.into())
        }
    }
}

/// Caches directories by path; see [`Container::own_dirs`].
#[derive(Debug)]
pub(super) struct OwnDirs<'c> {
    container: &'c Container,
    found: Vec<(PathBuf, Node)>,
}

impl OwnDirs<'_> {
    /// As [`Container::own_dir`].
    pub(super) fn get(&mut self, path: &Path) -> io::Result<&Node> {
        let known = self
            .found
            .iter()
            .position(|(at, _)| at.as_os_str() == path.as_os_str());
        let index = if let Some(index) = known {
            index
        } else {
            self.found.push((path.to_owned(), self.container.own_dir(path)?));
            self.found.len() - 1
        };
        Ok(&self.found[index].1)
    }
}
