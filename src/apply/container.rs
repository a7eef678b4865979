//! A container's rootfs, and which parts of it are the container's own.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::error::{Code, Error, IoContext as _, Result};
use crate::sys::mount::mount_id;
use crate::sys::root::{Node, Root};

/// The root directory of a container that is being made.
///
/// Volumes are mounted into the rootfs before any hook runs, and what is written to a volume is written
/// to the host or to another container. So only two kinds of mount count as the container's own: the one
/// that the rootfs is on, and the tmpfs mounts that the spec itself asks for (`/dev`, `/run`).
#[derive(Debug)]
pub struct Container {
    root: Root,
    own_mount: u64,
    tmpfs_mounts: Vec<u64>,
}

impl Container {
    /// Opens the rootfs at `path`, an absolute path of the mount namespace that the caller is in.
    /// `tmpfs` are the destinations at which the spec mounts a tmpfs.
    pub fn open(path: &Path, tmpfs: &[PathBuf]) -> Result<Self> {
        let root = Self::open_root(path)?;
        let what = || format!("rootfs {}", path.display());
        let top = root.resolve("/").context(Code::System, what)?;
        let own = mount_id(top.as_fd()).context(Code::System, what)?;
        let mut tmpfs_mounts = Vec::new();
        for destination in tmpfs {
            let Ok(node) = root.resolve(destination) else {
                continue;
            };
            match mount_id(node.as_fd()) {
                Ok(id) if id != own => tmpfs_mounts.push(id),
                _ => {}
            }
        }
        Ok(Self {
            root,
            own_mount: own,
            tmpfs_mounts,
        })
    }

    /// Opens the rootfs at `path` alone.
    ///
    /// # Errors
    /// [`Code::UnsafeRootfs`] for the host's own root, a relative path, a link; [`Code::Bundle`] when it is not there.
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

    /// The root.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Whether an inode is the container's own: not on a volume.
    pub fn owns(&self, node: &Node) -> io::Result<bool> {
        let id = mount_id(node.as_fd())?;
        Ok(self.own_mount == id || self.tmpfs_mounts.contains(&id))
    }

    /// Whether an inode is on a tmpfs that the spec asked for.
    pub fn on_tmpfs(&self, node: &Node) -> io::Result<bool> {
        Ok(self.tmpfs_mounts.contains(&mount_id(node.as_fd())?))
    }

    /// The directory at `path`, made where it is missing.
    ///
    /// # Errors
    /// `EROFS` when it would have to be made on a volume, or is on one.
    pub fn own_dir(&self, path: &Path) -> io::Result<Node> {
        for ancestor in path.ancestors() {
            match self.root.resolve(ancestor) {
                Ok(node) if !node.is_dir() => return Err(Errno::NOTDIR.into()),
                Ok(node) if !self.owns(&node)? => return Err(Errno::ROFS.into()),
                Ok(node) if ancestor == path => return Ok(node),
                Ok(_) => break,
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
                Err(e) => return Err(e),
            }
        }
        let made = self.root.mkdir_all(path, 0o755)?;
        // Between the look and the making, somebody with a volume in here may have put something else on the way.
        if self.owns(&made)? {
            Ok(made)
        } else {
            Err(Errno::ROFS.into())
        }
    }
}
