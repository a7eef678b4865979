//! Directories that lookups never leave.
//!
//! The kernel walks a path that an image or another user controls with the directory as its root.
//! So an absolute symbolic link or a `..` stays inside, and a `/proc` magic link is refused:
//! `Root::open(rootfs)?.resolve("/etc/ld.so.cache")` is always below `rootfs`. The result is an
//! `O_PATH` descriptor and never a string for a second lookup.
//!
//! | call | Linux | fallback |
//! |---|---|---|
//! | `openat2(RESOLVE_IN_ROOT)` | 5.6 | libpathrs's `O_PATH` walk, component by component |
//!
//! Errors are the kernel's, unless a function lists others: `ENOENT` for a missing path, `ELOOP`
//! for more than 40 links or a magic link.

use std::cell::Cell;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawDir, ResolveFlags, Stat, Uid};
use rustix::io::Errno;

pub use super::device::{DeviceNumber, NotADeviceNumber};
use super::held::Held;
use super::label;

/// A directory that lookups never leave: a container's rootfs, a chroot, or `/`.
#[derive(Debug)]
pub struct Root {
    dir: Held,
    else_by: Walk,
}

/// The way of walking a path without `openat2`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Walk {
    /// Step by step, compared with a procfs.
    Emulated,
    /// By the kernel: this is the process's own root directory, which no lookup of the process
    /// leaves.
    Plain,
    /// Not possible: the process's root directory is not above it, and no procfs is visible.
    None,
}

impl Root {
    /// Opens `path` as a root. The last component must be a directory, not a symbolic link.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let fd = rustix::fs::open(
            path.as_ref(),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Self::from_fd(fd))
    }

    /// Makes a root of a directory descriptor.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self {
            dir: fd.into(),
            else_by: Walk::Emulated,
        }
    }

    /// A second handle on the same root, for a process whose own root directory it is.
    pub fn as_own(&self) -> io::Result<Self> {
        Ok(Self {
            else_by: Walk::Plain,
            ..self.try_clone()?
        })
    }

    /// The root of a mount that is attached nowhere, for a process that sees no other directory and
    /// no procfs. The kernel has `openat2`.
    pub fn of_detached(top: OwnedFd) -> Self {
        Self {
            else_by: Walk::None,
            ..Self::from_fd(top)
        }
    }

    /// A second handle on the same root.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            dir: duplicate(self.as_fd())?.into(),
            else_by: self.else_by,
        })
    }

    /// Finds the inode at `path`; symbolic links are followed inside the root.
    pub fn resolve(&self, path: impl AsRef<Path>) -> io::Result<Node> {
        if let Some(found) = self.openat2(path.as_ref(), OFlags::PATH) {
            return Node::from_fd(found?);
        }
        let handle = self.step_by_step().resolve(path.as_ref());
        Node::from_fd(handle.map_err(|e| to_io(&e))?.into())
    }

    /// Like [`Root::resolve`], but returns a symbolic link at the end itself.
    pub fn resolve_nofollow(&self, path: impl AsRef<Path>) -> io::Result<Node> {
        if let Some(found) = self.openat2(path.as_ref(), OFlags::PATH | OFlags::NOFOLLOW) {
            return Node::from_fd(found?);
        }
        let handle = self.step_by_step().resolve_nofollow(path.as_ref());
        Node::from_fd(handle.map_err(|e| to_io(&e))?.into())
    }

    /// libpathrs's walk, component by component.
    fn step_by_step(&self) -> pathrs::RootRef<'_> {
        pathrs::RootRef::from_fd(self.dir.as_fd())
    }

    /// Walks in one system call; `None` if the kernel cannot, or a rename interfered.
    ///
    /// libpathrs does the same, but spends eight more calls on the text of an error, and "no such
    /// file" is the most common answer.
    fn openat2(&self, path: &Path, flags: OFlags) -> Option<io::Result<OwnedFd>> {
        let walk = || {
            rustix::fs::openat2(
                &self.dir,
                path,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            )
        };
        let mut found = walk();
        if self.else_by == Walk::None {
            // Any mount or rename on the machine can interrupt a walk through `..`.
            let mut left = MAX_WALKS;
            while matches!(found, Err(Errno::AGAIN)) && left > 0 {
                left -= 1;
                found = walk();
            }
        }
        match found {
            Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN | Errno::TOOBIG | Errno::XDEV) => {
                self.plainly(path, flags)
            }
            found => Some(found.map_err(io::Error::from)),
        }
    }

    /// Walks in a process whose own root directory confines it.
    fn plainly(&self, path: &Path, flags: OFlags) -> Option<io::Result<OwnedFd>> {
        let flags = flags | OFlags::CLOEXEC;
        match self.else_by {
            Walk::Emulated => None,
            Walk::Plain => {
                let found = rustix::fs::openat(&self.dir, path, flags, Mode::empty());
                Some(found.map_err(io::Error::from))
            }
            Walk::None => Some(Err(Errno::NOSYS.into())),
        }
    }

    /// A root at a directory below this one.
    pub fn subroot(&self, path: impl AsRef<Path>) -> io::Result<Self> {
        let dir = if let Some(found) = self.openat2(path.as_ref(), OFlags::PATH | OFlags::DIRECTORY) {
            found?
        } else {
            let node = self.resolve(path)?;
            if !node.is_dir() {
                return Err(Errno::NOTDIR.into());
            }
            node.into_fd()
        };
        let else_by = match self.else_by {
            Walk::Emulated => Walk::Emulated,
            Walk::Plain | Walk::None => Walk::None,
        };
        Ok(Self {
            else_by,
            ..Self::from_fd(dir)
        })
    }

    /// Reads a regular file of at most `max` bytes. Never opens a FIFO, socket or device.
    ///
    /// # Errors
    /// `EFBIG` if the file is larger, `EINVAL` if it is not a regular file.
    pub fn read(&self, path: impl AsRef<Path>, max: u64) -> io::Result<Vec<u8>> {
        self.resolve(path)?.read(max)
    }

    /// [`Root::read`] as text; bytes that are not UTF-8 become U+FFFD.
    pub fn read_text(&self, path: impl AsRef<Path>, max: u64) -> io::Result<String> {
        self.read(path, max)
            .map(|b| String::from_utf8_lossy(&b).into_owned())
    }

    /// Whether `path` exists (symbolic links followed).
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        match self.openat2(path.as_ref(), OFlags::PATH) {
            Some(found) => found.is_ok(),
            None => self.step_by_step().resolve(path.as_ref()).is_ok(),
        }
    }

    /// Whether `path` exists, even as a dangling link. The inode's attributes are not read, so a
    /// FUSE server is not queried.
    pub fn has_entry(&self, path: impl AsRef<Path>) -> bool {
        match self.openat2(path.as_ref(), OFlags::PATH | OFlags::NOFOLLOW) {
            Some(found) => found.is_ok(),
            None => self.step_by_step().resolve_nofollow(path.as_ref()).is_ok(),
        }
    }

    /// The target of the symbolic link at `path`.
    pub fn read_link(&self, path: impl AsRef<Path>) -> io::Result<PathBuf> {
        self.resolve_nofollow(path)?.read_link()
    }

    /// Reads a file of procfs or sysfs, which have no FIFOs or devices, of at most `max` bytes.
    ///
    /// # Errors
    /// `EFBIG` if it is larger.
    pub fn read_kernel(&self, path: impl AsRef<Path>, max: u64) -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        match self.openat2(path.as_ref(), flags) {
            Some(found) => read_records(&found?.into(), max),
            None => self.read(path, max),
        }
    }

    /// Lists a directory, at most `max` entries (more are an `EFBIG` error).
    pub fn read_dir(&self, path: impl AsRef<Path>, max: usize) -> io::Result<Vec<Entry>> {
        // The flag keeps the kernel from opening anything but a directory.
        match self.openat2(path.as_ref(), OFlags::RDONLY | OFlags::DIRECTORY) {
            Some(found) => list(|f| visit(&found?.into(), max, f)),
            None => self.resolve(path)?.read_dir(max),
        }
    }

    /// The directory at `path`, made with its parents and mode `mode` if it is missing.
    ///
    /// # Errors
    /// `ENOTDIR` if another file or a dangling link is in the way; `EINVAL` for `..` in the missing
    /// part.
    pub fn mkdir_all(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<Node> {
        self.mkdir_all_by(path, mode, || Ok(()))
    }

    /// [`Root::mkdir_all`] that calls `may` before it makes each directory.
    pub fn mkdir_all_by(
        &self,
        path: impl AsRef<Path>,
        mode: u32,
        mut may: impl FnMut() -> io::Result<()>,
    ) -> io::Result<Node> {
        // Existing components may be links; missing ones are made one below the other.
        let mut missing = Vec::new();
        let mut at = path.as_ref();
        let mut node = loop {
            match self.resolve(at) {
                Ok(node) if node.is_dir() => break node,
                Ok(_) => return Err(Errno::NOTDIR.into()),
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                    let (parent, name) = split(at)?;
                    missing.push(name);
                    at = parent;
                }
                Err(e) => return Err(e),
            }
        };
        for name in missing.into_iter().rev() {
            may()?;
            node = node.mkdir(name, mode)?;
        }
        Ok(node)
    }

    /// The kernel's path of this root; see [`Node::path`].
    pub fn path(&self) -> io::Result<PathBuf> {
        path_of(self.as_fd())
    }

    /// The directory that holds `path`'s last component, and that component.
    ///
    /// # Errors
    /// `EINVAL` if the path has no last component (`/`, `..`).
    pub fn parent_of(&self, path: &Path) -> io::Result<(Node, OsString)> {
        let (dir, name) = split(path)?;
        Ok((self.resolve(dir)?, name.to_owned()))
    }
}

/// The most restarts of a walk that mounts or renames elsewhere interrupted. One takes a few
/// microseconds.
const MAX_WALKS: u32 = 1000;

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// Splits a path into its directory (`/` if none) and its last component.
///
/// # Errors
/// `EINVAL` if the path has no last component (`/`, `..`).
pub fn split(path: &Path) -> io::Result<(&Path, &OsStr)> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let dir = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("/"),
    };
    Ok((dir, name))
}

/// A directory entry: its name, and its type if the file system reports it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The name, without a directory.
    pub name: OsString,
    /// The type as the directory holds it; [`FileType::Unknown`] on some file systems.
    pub kind: FileType,
}

/// An inode that was found, held by an `O_PATH` descriptor, with its attributes at that time.
#[derive(Debug)]
pub struct Node {
    fd: Held,
    stat: Stat,
    /// The kernel's number of its mount, once it was read: a descriptor never changes its mount.
    mount: Cell<Option<u64>>,
}

impl Node {
    /// Wraps a descriptor and reads its attributes.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Self::found(fd, stat))
    }

    fn found(fd: OwnedFd, stat: Stat) -> Self {
        Self {
            fd: fd.into(),
            stat,
            mount: Cell::new(None),
        }
    }

    /// The kernel's number of its mount.
    pub fn mount_id(&self) -> io::Result<u64> {
        if let Some(id) = self.mount.get() {
            return Ok(id);
        }
        let id = mount_id(self.as_fd())?;
        self.mount.set(Some(id));
        Ok(id)
    }

    /// Looks up one name in this directory, without following a symbolic link.
    pub fn child(&self, name: impl AsRef<OsStr>) -> io::Result<Self> {
        self.child_c(&plain(name.as_ref())?)
    }

    /// [`Node::child`] for a name from [`Node::visit`], without a copy of it.
    ///
    /// # Errors
    /// `EINVAL` if `name` is not a single path component.
    pub fn child_c(&self, name: &CStr) -> io::Result<Self> {
        check_plain(name.to_bytes())?;
        let fd = rustix::fs::openat(
            &self.fd,
            name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Self::from_fd(fd)
    }

    /// The owner and the target of `name` in this directory if it is a symbolic link, in two system
    /// calls. Only for a directory that nobody but root can write to: otherwise the calls may reach
    /// two different links.
    ///
    /// # Errors
    /// `EINVAL` if `name` is not a single path component.
    pub fn link_of(&self, name: &OsStr) -> io::Result<Option<(u32, PathBuf)>> {
        let name = plain(name)?;
        let stat = rustix::fs::statat(&self.fd, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return Ok(None);
        }
        let target = rustix::fs::readlinkat(&self.fd, &name, Vec::new())?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        Ok(Some((stat.st_uid, target)))
    }

    /// The target of the symbolic link `name` in this directory, in one system call; bytes beyond
    /// `space` are cut off.
    ///
    /// # Errors
    /// `EINVAL` if `name` is not a single path component, or not a symbolic link.
    pub fn child_link<'s>(&self, name: &CStr, space: &'s mut [u8]) -> io::Result<&'s [u8]> {
        check_plain(name.to_bytes())?;
        let len = rustix::fs::readlinkat_raw(&self.fd, name, &mut *space)?;
        Ok(&space[..len])
    }

    /// Removes the symbolic link (or file) `name` from this directory.
    pub fn unlink(&self, name: &OsStr) -> io::Result<()> {
        let name = plain(name)?;
        Ok(rustix::fs::unlinkat(&self.fd, &name, AtFlags::empty())?)
    }

    /// The attributes at lookup time.
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// The type of the inode.
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind() == FileType::RegularFile
    }

    /// Whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.kind() == FileType::Symlink
    }

    /// Device and inode number, equal for two lookups of one inode.
    pub fn id(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }

    /// The device number of a device node.
    pub fn rdev(&self) -> DeviceNumber {
        DeviceNumber::from_raw(self.stat.st_rdev)
    }

    /// Opens a regular file for reading through its descriptor, so the opened file is the checked
    /// one.
    ///
    /// # Errors
    /// `EINVAL` if it is not a regular file.
    pub fn open_read(&self) -> io::Result<File> {
        if !self.is_file() {
            return Err(Errno::INVAL.into());
        }
        Ok(File::from(reopen(
            self.fd.as_fd(),
            OFlags::RDONLY | OFlags::NONBLOCK,
        )?))
    }

    /// Reads a regular file of at most `max` bytes; see [`Root::read`].
    pub fn read(&self, max: u64) -> io::Result<Vec<u8>> {
        self.read_between((0, 0), max)
    }

    /// [`Node::read`] with `room` zeros before the content, and capacity for `spare` bytes after
    /// it.
    pub fn read_between(&self, (room, spare): (usize, usize), max: u64) -> io::Result<Vec<u8>> {
        read_sized(self.open_read()?, self.stat.st_size, (room, spare), max)
    }

    /// Whether the inode is on procfs or sysfs, where reading yields no content of an image and may
    /// have effects.
    pub fn is_kernel_file(&self) -> io::Result<bool> {
        /// From linux/magic.h.
        const SYSFS_MAGIC: u32 = 0x6265_6572;
        let kind = rustix::fs::fstatfs(&self.fd)?.f_type;
        Ok(kind == rustix::fs::PROC_SUPER_MAGIC || u32::try_from(kind) == Ok(SYSFS_MAGIC))
    }

    /// The target of a symbolic link.
    pub fn read_link(&self) -> io::Result<PathBuf> {
        let target = rustix::fs::readlinkat(&self.fd, c"", Vec::new())?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    /// The kernel's path of the inode from the process's root, with all links resolved.
    ///
    /// It is for names and comparisons of host files; to use the inode, use the descriptor.
    ///
    /// # Errors
    /// `ENOENT` if it was deleted or is not reachable from the process's root.
    pub fn path(&self) -> io::Result<PathBuf> {
        path_of(self.as_fd())
    }

    /// Lists a directory, at most `max` entries (more are an `EFBIG` error), in the directory's
    /// order.
    pub fn read_dir(&self, max: usize) -> io::Result<Vec<Entry>> {
        list(|f| self.visit(max, f))
    }

    /// Calls `f` with each entry of a directory, at most `max` of them (more are an `EFBIG` error),
    /// in the directory's order. Cheaper than [`Node::read_dir`] if few names are of interest.
    pub fn visit(&self, max: usize, f: impl FnMut(&CStr, FileType)) -> io::Result<()> {
        let mut f = f;
        let dir = rustix::fs::openat(
            &self.fd,
            c".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        visit(&dir.into(), max, &mut f)
    }

    /// A second handle on the same inode.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self::found(duplicate(self.as_fd())?, self.stat))
    }

    /// Drops the attributes and keeps the descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.fd.into_fd()
    }

    /// Makes a directory `name` in this one, or finds the existing one.
    pub fn mkdir(&self, name: &OsStr, mode: u32) -> io::Result<Self> {
        match rustix::fs::mkdirat(&self.fd, plain(name)?.as_c_str(), Mode::from_raw_mode(mode)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        let node = self.child(name)?;
        if node.is_dir() {
            Ok(node)
        } else {
            Err(Errno::NOTDIR.into())
        }
    }

    /// Makes an empty file `name` as a mount point, and returns it.
    ///
    /// # Errors
    /// `EEXIST` if the name exists.
    pub fn placeholder(&self, name: &OsStr) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(
            &self.fd,
            plain(name)?.as_c_str(),
            flags,
            Mode::from_raw_mode(0o444),
        )?)
    }

    /// Whether this directory has no entries.
    pub fn is_empty_dir(&self) -> io::Result<bool> {
        match self.read_dir(0) {
            Ok(_) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::EFBIG) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Makes a symbolic link `name` → `target` in this directory, and replaces a link or file of
    /// that name.
    pub fn symlink(&self, name: &OsStr, target: &Path) -> io::Result<()> {
        let name = plain(name)?;
        self.replace_with(&name, |tmp| rustix::fs::symlinkat(target, &self.fd, tmp))
    }

    /// Makes a symbolic link `name` → `target` in this directory.
    ///
    /// # Errors
    /// `EEXIST` if the name exists.
    pub fn symlink_new(&self, name: &OsStr, target: &Path) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target, &self.fd, plain(name)?.as_c_str())?)
    }

    /// Makes the file `name` with this content, in a directory of ours that nobody reads yet: a
    /// reader could see a part of it, and a default ACL could change its mode.
    ///
    /// # Errors
    /// `EEXIST` if the name exists.
    pub fn create_file(&self, name: &OsStr, mode: u32, data: &[u8]) -> io::Result<()> {
        use std::io::Write as _;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = plain(name)?;
        let fd = rustix::fs::openat(&self.fd, &name, flags, Mode::from_raw_mode(mode))?;
        let written = File::from(fd).write_all(data);
        if written.is_err() {
            let _ = rustix::fs::unlinkat(&self.fd, &name, AtFlags::empty());
        }
        written
    }

    /// Writes a whole new file `name` in this directory; readers see the old one or the new one. It
    /// never writes to an existing inode, so another hard link to it keeps its content.
    pub fn write_file(&self, name: &OsStr, mode: u32, data: &[u8]) -> io::Result<()> {
        self.write_new(name, mode, None, data, false)
    }

    /// [`Node::write_file`] for a file of `owner` (user, group), which it has before it gets its
    /// name.
    pub fn write_file_of(&self, name: &OsStr, mode: u32, owner: (u32, u32), data: &[u8]) -> io::Result<()> {
        self.write_new(name, mode, Some(owner), data, false)
    }

    /// [`Node::write_file`] that reaches the disk before it returns: a crash leaves the old file or
    /// the new one.
    pub fn write_file_durably(&self, name: &OsStr, mode: u32, data: &[u8]) -> io::Result<()> {
        self.write_new(name, mode, None, data, true)
    }

    fn write_new(
        &self,
        name: &OsStr,
        mode: u32,
        owner: Option<(u32, u32)>,
        data: &[u8],
        durably: bool,
    ) -> io::Result<()> {
        use std::io::Write as _;
        let name = plain(name)?;
        self.replace_with(&name, |tmp| {
            // Nobody else may read it until it has its owner.
            let first = if owner.is_some() { 0o600 } else { mode };
            let fd = rustix::fs::openat(
                &self.fd,
                tmp,
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::from_raw_mode(first),
            )?;
            let file = File::from(fd);
            let fill = || {
                if let Some((uid, gid)) = owner {
                    rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
                }
                // Last, since a change of the owner clears set-id bits.
                rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
                (&file).write_all(data)?;
                if durably { file.sync_all() } else { Ok(()) }
            };
            if let Err(e) = fill() {
                let _ = rustix::fs::unlinkat(&self.fd, tmp, AtFlags::empty());
                return Err(Errno::from_io_error(&e).unwrap_or(Errno::IO));
            }
            Ok(())
        })
    }

    /// Makes a file under a temporary name with `make`, then renames it to `name`.
    fn replace_with(&self, name: &CString, make: impl Fn(&CStr) -> rustix::io::Result<()>) -> io::Result<()> {
        for attempt in 0..16_u32 {
            let tmp = CString::new(format!(".{}-{}-{attempt}", label(), std::process::id()))?;
            match make(&tmp) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(e) => return Err(e.into()),
            }
            if let Err(e) = rustix::fs::renameat(&self.fd, &tmp, &self.fd, name) {
                let _ = rustix::fs::unlinkat(&self.fd, &tmp, AtFlags::empty());
                return Err(e.into());
            }
            return Ok(());
        }
        Err(Errno::EXIST.into())
    }
}

/// See [`Node::visit`].
fn visit(dir: &Held, max: usize, f: &mut dyn FnMut(&CStr, FileType)) -> io::Result<()> {
    /// In bytes, for some hundred entries.
    const BUFFER: usize = 16 * 1024;
    // On the heap: a frame's pages are all touched.
    let mut buf: Vec<u8> = Vec::with_capacity(BUFFER);
    let mut seen = 0;
    let mut iter = RawDir::new(dir, buf.spare_capacity_mut());
    while let Some(entry) = iter.next() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if seen == max {
            return Err(Errno::FBIG.into());
        }
        seen += 1;
        f(name, entry.file_type());
    }
    Ok(())
}

/// Collects the entries of `visit`.
fn list(visit: impl FnOnce(&mut dyn FnMut(&CStr, FileType)) -> io::Result<()>) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    visit(&mut |name, kind| {
        entries.push(Entry {
            name: OsStr::from_bytes(name.to_bytes()).to_owned(),
            kind,
        });
    })?;
    Ok(entries)
}

/// Reads a file that the kernel generates at each read, of at most `max` bytes.
fn read_records(file: &Held, max: u64) -> io::Result<Vec<u8>> {
    /// The kernel fills a buffer of a page with whole records, so a read that ends well before a
    /// page's end is the last one. Records of these files have some hundred bytes at most.
    const PAGE: usize = 4096;
    let mut text = Vec::new();
    loop {
        let mut part = [0; PAGE];
        let n = match rustix::io::read(file, &mut part) {
            Err(Errno::INTR) => continue,
            read => read?,
        };
        text.extend_from_slice(part.get(..n).unwrap_or_default());
        if text.len() as u64 > max {
            return Err(Errno::FBIG.into());
        }
        if n == 0 || (n == text.len() && n <= PAGE / 2) {
            return Ok(text);
        }
    }
}

/// Reads a file of the process's visible procfs, at an absolute path.
pub fn read_proc(path: impl rustix::path::Arg, max: u64) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let text = read_records(&rustix::fs::open(path, flags, Mode::empty())?.into(), max)?;
    String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData.into())
}

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Reads a regular file whose attributes give `stated` bytes, at most `max`; see
/// [`Node::read_between`].
pub fn read_sized(
    mut file: File,
    stated: i64,
    (room, spare): (usize, usize),
    max: u64,
) -> io::Result<Vec<u8>> {
    // One byte more than its size, so that one call reads it and the next sees its end. The
    // kernel's own files have size 0, and a sysctl answers only the first read.
    let size = match usize::try_from(stated.clamp(0, 1 << 20)) {
        Ok(0) | Err(_) => 4096,
        Ok(n) => n + 1,
    };
    let mut out = vec![0; room + size + spare];
    let mut got = 0;
    while got < size {
        match file.read(&mut out[room + got..room + size]) {
            Ok(0) => break,
            Ok(n) => {
                got += n;
                // The stated size was read although there was room for more: the end.
                if got < size && i64::try_from(got) == Ok(stated) {
                    break;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    out.truncate(room + got);
    if got == size {
        // It is larger than its attributes state, like most files of the kernel.
        file.take(max.saturating_add(1).saturating_sub(got as u64))
            .read_to_end(&mut out)?;
    }
    if (out.len() - room) as u64 > max {
        return Err(Errno::FBIG.into());
    }
    Ok(out)
}

/// Opens the inode of an `O_PATH` descriptor.
///
/// It uses the calling thread's own descriptor directory, so nothing is looked up by name.
pub fn reopen(fd: BorrowedFd<'_>, flags: OFlags) -> io::Result<OwnedFd> {
    let dir = own_fds()?;
    Ok(rustix::fs::openat(
        dir,
        rustix::path::DecInt::from_fd(fd),
        flags | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// The kernel's path of the inode of a descriptor.
pub fn path_of(fd: BorrowedFd<'_>) -> io::Result<PathBuf> {
    let name = format!("{}", fd.as_raw_fd());
    let target = rustix::fs::readlinkat(own_fds()?, name, Vec::with_capacity(256))?;
    let bytes = target.into_bytes();
    if !bytes.starts_with(b"/") || bytes.ends_with(b" (deleted)") {
        return Err(Errno::NOENT.into());
    }
    Ok(PathBuf::from(OsString::from_vec(bytes)))
}

/// The kernel's number of the mount of `fd`; for a [`Node`] use [`Node::mount_id`], which caches
/// it.
pub fn mount_id(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let wanted = rustix::fs::StatxFlags::MNT_ID;
    // The kernel has the number itself, so no file system is queried.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    if let Ok(stat) = rustix::fs::statx(fd, c"", flags, wanted)
        && stat.stx_mask & wanted.bits() != 0
    {
        return Ok(stat.stx_mnt_id);
    }
    // Since Linux 3.15.
    let name = format!("../fdinfo/{}", fd.as_raw_fd());
    let info = rustix::fs::openat(own_fds()?, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buf = [0_u8; 1024];
    let n = rustix::io::read(&info, &mut buf)?;
    let text = String::from_utf8_lossy(&buf[..n]);
    text.lines()
        .find_map(|l| l.strip_prefix("mnt_id:")?.trim().parse().ok())
        .ok_or_else(|| Errno::IO.into())
}

/// The SELinux label of a descriptor's inode, `user:role:type:level`; `None` if the kernel or the
/// file system has none. The caller's own `/proc` must still be visible.
///
/// Source: `security.selinux` of xattr(7), which ends with a NUL.
pub fn selinux_label(fd: BorrowedFd<'_>) -> Option<String> {
    /// The kernel accepts a page at most; the policy's longest names have some 100 characters.
    const MAX_LABEL: usize = 4096;
    // An O_PATH descriptor has no attributes (fgetxattr gives EBADF), but the link to it does.
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mut label = vec![0; MAX_LABEL];
    let length = rustix::fs::getxattr(path, c"security.selinux", &mut label).ok()?;
    label.truncate(length);
    while label.last() == Some(&0) {
        label.pop();
    }
    String::from_utf8(label).ok().filter(|label| !label.is_empty())
}

/// A second descriptor of the same file; the standard library sets its flag in a separate call.
pub fn duplicate(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
}

static OWN_FDS: OnceLock<Result<OwnedFd, Errno>> = OnceLock::new();

/// Whether [`own_fds`] holds a descriptor already.
pub fn own_fds_are_open() -> bool {
    OWN_FDS.get().is_some()
}

/// The process's own `/proc/self/fd`, opened once, before it enters another mount namespace, and
/// checked to be procfs.
///
/// It stays open as long as the process runs, so nothing may use it before `process::isolate`
/// closes all descriptors; `isolate` fails if something did.
pub fn own_fds() -> io::Result<BorrowedFd<'static>> {
    let opened = OWN_FDS.get_or_init(|| {
        let fd = rustix::fs::open(
            "/proc/self/fd",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let fs = rustix::fs::fstatfs(&fd)?;
        if fs.f_type == rustix::fs::PROC_SUPER_MAGIC {
            Ok(fd)
        } else {
            Err(Errno::NOSYS)
        }
    });
    match opened {
        Ok(fd) => Ok(fd.as_fd()),
        Err(e) => Err((*e).into()),
    }
}

/// The procfs of [`own_fds`].
pub fn proc_root() -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(own_fds()?, "../..", flags, Mode::empty())?)
}

/// The descriptor directory of the calling process, a child whose [`own_fds`] still shows its
/// parent's, and whether the kernel has `openat2` to find it.
pub fn own_fds_of(proc: &OwnedFd) -> io::Result<(OwnedFd, bool)> {
    let (path, flags) = (c"self/fd", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC);
    match rustix::fs::openat2(proc, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        Ok(own) => Ok((own, true)),
        Err(_) => Ok((rustix::fs::openat(proc, path, flags, Mode::empty())?, false)),
    }
}

/// Replaces the directory of [`own_fds`] by `dir`. Returns the number of the descriptor.
pub fn use_as_own_fds(dir: &OwnedFd) -> io::Result<RawFd> {
    let place = own_fds()?.as_raw_fd();
    // SAFETY: `place` is the number of a descriptor that `OWN_FDS` holds as long as the process
    // runs; it still does.
    match unsafe { libc::dup3(dir.as_raw_fd(), place, libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(place),
    }
}

/// A single path component as a C string; anything else is `EINVAL`.
fn plain(name: &OsStr) -> io::Result<CString> {
    let bytes = name.as_bytes();
    check_plain(bytes)?;
    Ok(CString::new(bytes)?)
}

fn check_plain(name: &[u8]) -> io::Result<()> {
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
        return Err(Errno::INVAL.into());
    }
    Ok(())
}

fn to_io(e: &pathrs::error::Error) -> io::Error {
    match e.kind() {
        pathrs::error::ErrorKind::OsError(Some(n)) => io::Error::from_raw_os_error(n),
        pathrs::error::ErrorKind::SafetyViolation => io::Error::from_raw_os_error(libc::EXDEV),
        pathrs::error::ErrorKind::InvalidArgument => io::Error::from_raw_os_error(libc::EINVAL),
        _ => io::Error::other(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    #[test]
    fn absolute_and_climbing_links_stay_inside() {
        let (dir, root) = tree();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/hostname"), "inside").unwrap();
        symlink("/etc/hostname", dir.path().join("abs")).unwrap();
        symlink("../../../../etc/hostname", dir.path().join("up")).unwrap();
        assert_eq!(root.read("abs", 64).unwrap(), b"inside");
        assert_eq!(root.read("up", 64).unwrap(), b"inside");
    }

    #[test]
    fn magic_links_are_refused() {
        let root = Root::open("/").unwrap();
        assert!(root.resolve("/proc/self/root/etc").is_err());
    }

    #[test]
    fn a_fifo_is_never_opened() {
        let (dir, root) = tree();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("pipe"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert_eq!(
            root.read("pipe", 64).unwrap_err().raw_os_error(),
            Some(libc::EINVAL)
        );
    }

    #[test]
    fn a_sysctl_is_read_in_one_go() {
        let proc = Root::open("/proc").unwrap();
        let direct = std::fs::read_to_string("/proc/sys/kernel/overflowuid").unwrap();
        assert_eq!(proc.read_text("sys/kernel/overflowuid", 64).unwrap(), direct);
    }

    #[test]
    fn size_and_count_are_bounded() {
        let (dir, root) = tree();
        std::fs::write(dir.path().join("big"), vec![0; 100]).unwrap();
        assert_eq!(
            root.read("big", 99).unwrap_err().raw_os_error(),
            Some(libc::EFBIG)
        );
        assert_eq!(root.read("big", 100).unwrap().len(), 100);
        assert_eq!(
            root.read_dir("/", 0).unwrap_err().raw_os_error(),
            Some(libc::EFBIG)
        );
    }

    #[test]
    fn directories_are_made_through_links_that_are_there_and_never_through_others() {
        let (dir, root) = tree();
        std::fs::create_dir(dir.path().join("usr")).unwrap();
        symlink("/usr", dir.path().join("abs")).unwrap();
        symlink("/nowhere", dir.path().join("dangling")).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let made = root.mkdir_all("abs/a/b", 0o755).unwrap();
        assert_eq!(made.id(), root.resolve("/usr/a/b").unwrap().id());
        assert_eq!(root.mkdir_all("/usr/a/b", 0o700).unwrap().id(), made.id());
        assert_eq!(
            root.mkdir_all("new/c", 0o755).unwrap().stat().st_mode & 0o777,
            0o755
        );
        for (path, errno) in [
            ("dangling/a", libc::ENOTDIR),
            ("file/a", libc::ENOTDIR),
            ("file", libc::ENOTDIR),
            ("none/../a", libc::EINVAL),
        ] {
            let e = root.mkdir_all(path, 0o755).unwrap_err();
            assert_eq!(e.raw_os_error(), Some(errno), "{path}");
        }
        assert!(!dir.path().join("nowhere").exists());
    }

    #[test]
    fn writing_replaces_the_inode() {
        let (dir, root) = tree();
        std::fs::write(dir.path().join("a"), "old").unwrap();
        std::fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        let node = root.resolve("/").unwrap();
        node.write_file(OsStr::new("a"), 0o644, b"new").unwrap();
        assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), b"new");
        assert_eq!(std::fs::read(dir.path().join("b")).unwrap(), b"old");
        node.symlink(OsStr::new("a"), Path::new("x")).unwrap();
        assert_eq!(root.read_link("a").unwrap(), Path::new("x"));
        assert!(node.child("..").is_err() && node.child("a/b").is_err());
    }

    #[test]
    fn device_numbers_are_read_strictly() {
        for (text, major, minor) in [("195:0", 195, 0), ("0:1048575", 0, 0xf_ffff), ("4095:7", 4095, 7)] {
            let number = DeviceNumber { major, minor };
            assert_eq!(text.parse(), Ok(number));
            assert_eq!(number.to_string(), text);
            assert_eq!(DeviceNumber::from_raw(number.to_raw()), number);
        }
        for text in [
            "",
            ":",
            "195",
            "195:",
            ":0",
            "195:0:0",
            "+195:0",
            "195:+0",
            "-1:0",
            " 195:0",
            "195: 0",
            "195:0\n",
            "0xc3:0",
            "1e2:0",
            "\u{661}:0",
            "195:\u{ff10}",
            "4096:0",
            "0:1048576",
            "4294967491:0",
            "00000195:0",
            "195.0",
        ] {
            assert_eq!(text.parse::<DeviceNumber>(), Err(NotADeviceNumber), "{text:?}");
        }
    }
}
