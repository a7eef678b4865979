//! Directories that lookups never leave.
//!
//! Every path that crosses a directory an image (or another user) controls is walked by the kernel
//! with the directory as its root: an absolute symbolic link or a `..` stays inside, a `/proc` magic
//! link is refused. The result is an `O_PATH` descriptor, never a string that is looked up again.
//! `openat2` (Linux 5.6) does the walk; libpathrs emulates it with an `O_PATH` walk where it is absent
//! or blocked.
//!
//! | need | Linux | else |
//! |---|---|---|
//! | `openat2(RESOLVE_IN_ROOT)` | 5.6 | `O_PATH` walk, component by component |

use std::cell::Cell;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::OnceLock;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawDir, ResolveFlags, Stat, Uid};
use rustix::io::Errno;

use super::label;

/// A directory that all lookups stay in: a container's rootfs, a chroot, or `/`.
#[derive(Debug)]
pub struct Root {
    inner: pathrs::Root,
    else_by: Walk,
}

/// How a path is walked where `openat2` is missing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Walk {
    /// Step by step, with a procfs to compare the steps with.
    Emulated,
    /// By the kernel: this is the process's own root directory, which no lookup of the process leaves.
    Plain,
    /// Not at all: the process's own root directory is not above it, and no procfs is in sight.
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
            inner: pathrs::Root::from_fd(fd),
            else_by: Walk::Emulated,
        }
    }

    /// A second handle on the same root, which is the process's own root directory.
    pub fn as_own(&self) -> io::Result<Self> {
        Ok(Self {
            else_by: Walk::Plain,
            ..self.try_clone()?
        })
    }

    /// The root of a mount that is attached nowhere, for a process that has no other directory and
    /// no procfs in sight. `openat2` is there.
    pub fn of_detached(top: OwnedFd) -> Self {
        Self {
            else_by: Walk::None,
            ..Self::from_fd(top)
        }
    }

    /// A second handle on the same root.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            inner: self.inner.try_clone().map_err(|e| to_io(&e))?,
            else_by: self.else_by,
        })
    }

    /// Finds what `path` names, following symbolic links inside the root.
    pub fn resolve(&self, path: impl AsRef<Path>) -> io::Result<Node> {
        if let Some(found) = self.openat2(path.as_ref(), OFlags::PATH) {
            return Node::from_fd(found?);
        }
        let handle = self.inner.resolve(path.as_ref()).map_err(|e| to_io(&e))?;
        Node::from_fd(handle.into())
    }

    /// Like [`Root::resolve`], but a symbolic link as the last component is returned itself.
    pub fn resolve_nofollow(&self, path: impl AsRef<Path>) -> io::Result<Node> {
        if let Some(found) = self.openat2(path.as_ref(), OFlags::PATH | OFlags::NOFOLLOW) {
            return Node::from_fd(found?);
        }
        let handle = self.inner.resolve_nofollow(path.as_ref());
        Node::from_fd(handle.map_err(|e| to_io(&e))?.into())
    }

    /// The walk in one system call; `None` when this kernel cannot, or a rename got in the way.
    ///
    /// libpathrs does the same, but spends eight more calls on the text of an error, and a path that
    /// does not exist is the most common answer of all.
    fn openat2(&self, path: &Path, flags: OFlags) -> Option<io::Result<OwnedFd>> {
        let walk = || {
            rustix::fs::openat2(
                &self.inner,
                path,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            )
        };
        let mut found = walk();
        if self.else_by == Walk::None {
            // Any mount and any rename on the machine is in the way of a walk through `..`.
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

    /// The walk in a process that its root keeps in.
    fn plainly(&self, path: &Path, flags: OFlags) -> Option<io::Result<OwnedFd>> {
        let flags = flags | OFlags::CLOEXEC;
        match self.else_by {
            Walk::Emulated => None,
            Walk::Plain => {
                let found = rustix::fs::openat(&self.inner, path, flags, Mode::empty());
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
    /// `EFBIG` when the file is larger, `EINVAL` when it is not a regular file.
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
            None => self.inner.resolve(path.as_ref()).is_ok(),
        }
    }

    /// Whether there is anything at `path`, if only a link. The inode is not looked at: a FUSE there is not asked.
    pub fn has_entry(&self, path: impl AsRef<Path>) -> bool {
        match self.openat2(path.as_ref(), OFlags::PATH | OFlags::NOFOLLOW) {
            Some(found) => found.is_ok(),
            None => self.inner.resolve_nofollow(path.as_ref()).is_ok(),
        }
    }

    /// The target of the symbolic link at `path`.
    pub fn read_link(&self, path: impl AsRef<Path>) -> io::Result<PathBuf> {
        self.resolve_nofollow(path)?.read_link()
    }

    /// Reads a file of procfs or sysfs, where nothing is a FIFO or a device, of at most `max` bytes.
    ///
    /// # Errors
    /// `EFBIG` when it is larger.
    pub fn read_kernel(&self, path: impl AsRef<Path>, max: u64) -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        match self.openat2(path.as_ref(), flags) {
            Some(found) => read_records(&found?, max),
            None => self.read(path, max),
        }
    }

    /// Lists a directory, at most `max` entries (more are an `EFBIG` error).
    pub fn read_dir(&self, path: impl AsRef<Path>, max: usize) -> io::Result<Vec<Entry>> {
        // What is no directory is not opened.
        match self.openat2(path.as_ref(), OFlags::RDONLY | OFlags::DIRECTORY) {
            Some(found) => list(|f| visit(&found?, max, f)),
            None => self.resolve(path)?.read_dir(max),
        }
    }

    /// The directory at `path`, made (with its parents, mode `mode`) where it is missing.
    ///
    /// # Errors
    /// `ENOTDIR` when something else, or a link to nothing, is in the way; `EINVAL` for `..` in the part that is missing.
    pub fn mkdir_all(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<Node> {
        self.mkdir_all_by(path, mode, || Ok(()))
    }

    /// [`Root::mkdir_all`] that asks `may` before each directory it makes.
    pub fn mkdir_all_by(
        &self,
        path: impl AsRef<Path>,
        mode: u32,
        mut may: impl FnMut() -> io::Result<()>,
    ) -> io::Result<Node> {
        // What is there may be reached through links. Below it everything is made here, each in the one before.
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

    /// Where this root is, as the kernel names it; see [`Node::path`].
    pub fn path(&self) -> io::Result<PathBuf> {
        path_of(self.as_fd())
    }

    /// The directory that holds `path`'s last component, and that component.
    ///
    /// # Errors
    /// `EINVAL` when the path has no last component (`/`, `..`).
    pub fn parent_of(&self, path: &Path) -> io::Result<(Node, OsString)> {
        let (dir, name) = split(path)?;
        Ok((self.resolve(dir)?, name.to_owned()))
    }
}

/// How often a walk is begun again because of a mount or a rename elsewhere. One takes a few
/// microseconds.
const MAX_WALKS: u32 = 1000;

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// Splits a path into its directory (`/` if none) and its last component.
///
/// # Errors
/// `EINVAL` when the path has no last component (`/`, `..`).
pub fn split(path: &Path) -> io::Result<(&Path, &OsStr)> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let dir = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("/"),
    };
    Ok((dir, name))
}

/// A directory entry: its name and, where the file system says, its type.
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
    fd: OwnedFd,
    stat: Stat,
    /// The kernel's number of the mount that it is on, once that was asked: a descriptor never changes its mount.
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
            fd,
            stat,
            mount: Cell::new(None),
        }
    }

    /// The kernel's number of the mount that it is on.
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

    /// [`Node::child`] for a name that came from [`Node::visit`]: no copy of it is made.
    ///
    /// # Errors
    /// `EINVAL` when `name` is not a single path component.
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

    /// The owner and the target of `name` in this directory if that is a symbolic link, in two system calls. For a directory
    /// that nobody but root writes to: else it may be two links.
    ///
    /// # Errors
    /// `EINVAL` when `name` is not a single path component.
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

    /// The target of the symbolic link `name` in this directory, in one system call; what does not
    /// fit into `space` is cut off.
    ///
    /// # Errors
    /// `EINVAL` when `name` is not a single path component, or no symbolic link.
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

    /// Device and inode number: equal for two lookups of one inode.
    pub fn id(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }

    /// The number of the device that a device node stands for.
    pub fn rdev(&self) -> DeviceNumber {
        DeviceNumber::from_raw(self.stat.st_rdev)
    }

    /// Opens a regular file for reading, through its descriptor: what was checked is what is opened.
    ///
    /// # Errors
    /// `EINVAL` when it is not a regular file.
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

    /// [`Node::read`] with `room` zeros before what is read, and capacity for `spare` bytes behind it.
    pub fn read_between(&self, (room, spare): (usize, usize), max: u64) -> io::Result<Vec<u8>> {
        read_sized(self.open_read()?, self.stat.st_size, (room, spare), max)
    }

    /// Whether the inode lives on procfs or sysfs: what is read there is no content, and may have effects.
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

    /// The path of the inode from the process's root, as the kernel names it: all links resolved.
    ///
    /// For naming and comparing what was found on the host; to use the inode, use the descriptor.
    ///
    /// # Errors
    /// `ENOENT` when it has been deleted or cannot be reached from the process's root.
    pub fn path(&self) -> io::Result<PathBuf> {
        path_of(self.as_fd())
    }

    /// Lists a directory, at most `max` entries (more are an `EFBIG` error), in the directory's order.
    pub fn read_dir(&self, max: usize) -> io::Result<Vec<Entry>> {
        list(|f| self.visit(max, f))
    }

    /// Hands each entry of a directory to `f`, at most `max` of them (more are an `EFBIG` error), in
    /// the directory's order. Cheaper than [`Node::read_dir`] where few of the names are of interest.
    pub fn visit(&self, max: usize, f: impl FnMut(&CStr, FileType)) -> io::Result<()> {
        let mut f = f;
        let dir = rustix::fs::openat(
            &self.fd,
            c".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        visit(&dir, max, &mut f)
    }

    /// A second handle on the same inode.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self::found(duplicate(self.as_fd())?, self.stat))
    }

    /// Gives up the attributes and keeps the descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Makes a directory `name` in this one, or finds the one that is there.
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

    /// Makes an empty file `name`, a place for a bind mount, and returns it.
    ///
    /// # Errors
    /// `EEXIST` when there is something of that name.
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

    /// Makes a symbolic link `name` → `target` in this directory, replacing a link or file of that name.
    pub fn symlink(&self, name: &OsStr, target: &Path) -> io::Result<()> {
        let name = plain(name)?;
        self.replace_with(&name, |tmp| rustix::fs::symlinkat(target, &self.fd, tmp))
    }

    /// Makes a symbolic link `name` → `target` in this directory.
    ///
    /// # Errors
    /// `EEXIST` when there is something of that name.
    pub fn symlink_new(&self, name: &OsStr, target: &Path) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target, &self.fd, plain(name)?.as_c_str())?)
    }

    /// Makes the file `name` with this content, for a directory of ours that nobody looks into yet: a reader would see a part
    /// of it, and a default ACL change its mode.
    ///
    /// # Errors
    /// `EEXIST` when there is something of that name.
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

    /// Writes a whole new file `name` in this directory: readers see the old one or the new one.
    /// An existing inode is never written to, so a hard link to something else is left alone.
    pub fn write_file(&self, name: &OsStr, mode: u32, data: &[u8]) -> io::Result<()> {
        self.write_new(name, mode, None, data, false)
    }

    /// [`Node::write_file`] that belongs to `owner` (user, group): it has that owner before it has the name.
    pub fn write_file_of(&self, name: &OsStr, mode: u32, owner: (u32, u32), data: &[u8]) -> io::Result<()> {
        self.write_new(name, mode, Some(owner), data, false)
    }

    /// [`Node::write_file`], on disk when it returns: a crash leaves the old file or the new one.
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
            // Until it has its owner nobody else may read it.
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
                // Last: a change of the owner takes set-id bits away.
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

    /// Makes something under a temporary name with `make`, then renames it to `name`.
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
fn visit(dir: &OwnedFd, max: usize, f: &mut dyn FnMut(&CStr, FileType)) -> io::Result<()> {
    let mut buf = [MaybeUninit::uninit(); 16 * 1024];
    let mut seen = 0;
    let mut iter = RawDir::new(dir, &mut buf);
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

/// The entries that `visit` hands out.
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

/// Reads a file that the kernel makes up when it is read, of at most `max` bytes.
fn read_records(file: &OwnedFd, max: u64) -> io::Result<Vec<u8>> {
    /// The kernel fills a buffer of a page with whole records, so only a read that ends well before a page's end tells the
    /// file's end by itself. The records of the files that are read so have some hundred bytes at most.
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

/// Reads a file of the procfs that the process has in sight, at an absolute path.
pub fn read_proc(path: impl rustix::path::Arg, max: u64) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let text = read_records(&rustix::fs::open(path, flags, Mode::empty())?, max)?;
    String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData.into())
}

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Reads a regular file that says that it has `said` bytes, at most `max`; see [`Node::read_between`].
pub fn read_sized(mut file: File, said: i64, (room, spare): (usize, usize), max: u64) -> io::Result<Vec<u8>> {
    // One byte more than it holds, so that one call reads it and the next sees its end. The kernel's own
    // files say 0, and a sysctl answers only the first read.
    let size = match usize::try_from(said.clamp(0, 1 << 20)) {
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
                // As many as it said, and no more although there was room: its end.
                if got < size && i64::try_from(got) == Ok(said) {
                    break;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    out.truncate(room + got);
    if got == size {
        // It is larger than it said, like most files of the kernel.
        file.take(max.saturating_add(1).saturating_sub(got as u64))
            .read_to_end(&mut out)?;
    }
    if (out.len() - room) as u64 > max {
        return Err(Errno::FBIG.into());
    }
    Ok(out)
}

/// Opens what an `O_PATH` descriptor refers to.
///
/// Goes through the calling thread's own descriptor directory, so nothing is looked up by name.
pub fn reopen(fd: BorrowedFd<'_>, flags: OFlags) -> io::Result<OwnedFd> {
    let dir = own_fds()?;
    Ok(rustix::fs::openat(
        dir,
        rustix::path::DecInt::from_fd(fd),
        flags | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// What the kernel calls the inode behind a descriptor.
pub fn path_of(fd: BorrowedFd<'_>) -> io::Result<PathBuf> {
    let name = format!("{}", fd.as_raw_fd());
    let target = rustix::fs::readlinkat(own_fds()?, name, Vec::with_capacity(256))?;
    let bytes = target.into_bytes();
    if !bytes.starts_with(b"/") || bytes.ends_with(b" (deleted)") {
        return Err(Errno::NOENT.into());
    }
    Ok(PathBuf::from(OsString::from_vec(bytes)))
}

/// The kernel's number of the mount that `fd` is on; of a [`Node`], which keeps it: [`Node::mount_id`].
pub fn mount_id(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let wanted = rustix::fs::StatxFlags::MNT_ID;
    // The kernel's own knowledge: no file system is asked.
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

/// The SELinux label of the inode behind a descriptor, `user:role:type:level`; `None` where the kernel
/// or the file system has none. The caller's own `/proc` must still be in sight.
///
/// Source: `security.selinux` of xattr(7), which ends with a NUL.
pub fn selinux_label(fd: BorrowedFd<'_>) -> Option<String> {
    /// The policy's longest names are some 100 characters; a page is what the kernel itself takes.
    const MAX_LABEL: usize = 4096;
    // A descriptor of a path has no attributes (fgetxattr gives EBADF), but the link to it does.
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mut label = vec![0; MAX_LABEL];
    let length = rustix::fs::getxattr(path, c"security.selinux", &mut label).ok()?;
    label.truncate(length);
    while label.last() == Some(&0) {
        label.pop();
    }
    String::from_utf8(label).ok().filter(|label| !label.is_empty())
}

/// A second descriptor of the same file; the standard library's sets its flag in a call of its own.
pub fn duplicate(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
}

static OWN_FDS: OnceLock<Result<OwnedFd, Errno>> = OnceLock::new();

/// Whether [`own_fds`] holds a descriptor already.
pub fn own_fds_are_open() -> bool {
    OWN_FDS.get().is_some()
}

/// The process's own `/proc/self/fd`, opened once, before any other mount namespace is entered, and
/// checked to be procfs.
///
/// Kept for the life of the process, so it must not be asked for before `process::isolate` closes everything: that
/// refuses to go on if it was.
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

/// The procfs that [`own_fds`] is in.
pub fn proc_root() -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(own_fds()?, "../..", flags, Mode::empty())?)
}

/// The descriptor directory of the process that calls, a child whose [`own_fds`] still shows its
/// parent's descriptors; and whether there is an `openat2` to find it with.
pub fn own_fds_of(proc: &OwnedFd) -> io::Result<(OwnedFd, bool)> {
    let (path, flags) = (c"self/fd", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC);
    match rustix::fs::openat2(proc, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        Ok(own) => Ok((own, true)),
        Err(_) => Ok((rustix::fs::openat(proc, path, flags, Mode::empty())?, false)),
    }
}

/// Makes `dir` what [`own_fds`] is. Returns the number of the descriptor.
pub fn use_as_own_fds(dir: &OwnedFd) -> io::Result<RawFd> {
    let place = own_fds()?.as_raw_fd();
    // SAFETY: `place` is the number of a descriptor that `OWN_FDS` holds for the life of the process; it still does.
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

/// The number of a device: what the kernel knows it by, whatever the name of its node is.
///
/// Written `MAJOR:MINOR` in decimal, as in `/proc/self/mountinfo` (proc_pid_mountinfo(5)), below `/dev/char` and in
/// device cgroup rules.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DeviceNumber {
    /// The driver.
    pub major: u32,
    /// Which of the driver's devices.
    pub minor: u32,
}

impl DeviceNumber {
    /// Of a `dev_t`: `st_rdev` of a device node, `st_dev` of any inode.
    pub fn from_raw(dev: u64) -> Self {
        Self {
            major: rustix::fs::major(dev),
            minor: rustix::fs::minor(dev),
        }
    }

    /// As `mknod` takes it.
    pub fn to_raw(self) -> u64 {
        rustix::fs::makedev(self.major, self.minor)
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// The text is no device number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NotADeviceNumber;

impl FromStr for DeviceNumber {
    type Err = NotADeviceNumber;

    /// Of `MAJOR:MINOR`: 12 and 20 bits, all that a Linux device number has (`MINORBITS` in `linux/kdev_t.h`).
    fn from_str(text: &str) -> Result<Self, NotADeviceNumber> {
        // `u32::from_str` alone would accept `+1`.
        let part = |digits: &str, bits: u32| {
            let short = (1..=7).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
            short
                .then(|| digits.parse::<u32>().ok())
                .flatten()
                .filter(|n| n >> bits == 0)
        };
        let (major, minor) = text.split_once(':').ok_or(NotADeviceNumber)?;
        Ok(Self {
            major: part(major, 12).ok_or(NotADeviceNumber)?,
            minor: part(minor, 20).ok_or(NotADeviceNumber)?,
        })
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
