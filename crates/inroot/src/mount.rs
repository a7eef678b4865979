//! Mounts by descriptor. A mount is made detached, restricted, and only then attached to an inode
//! from an earlier lookup. No path is resolved between the check and the mount.
//!
//! | call | Linux | fallback |
//! |---|---|---|
//! | `open_tree`, `fsopen`, `move_mount` | 5.2 | `mount(2)` through the process's own `/proc/self/fd`; in another mount namespace the same inode, found by its path |
//! | `mount_setattr` | 5.12 | a bind remount right after attaching; propagation by `mount(2)` |
//! | `statx` with `STATX_MNT_ID` | 5.8 | `fdinfo` |
//!
//! `mount(2)` with `MS_BIND | MS_RDONLY` in one call ignores everything but `MS_BIND`, so the
//! fallback always remounts; see mount(2), "Remounting an existing mount" and "Creating a bind
//! mount". Errors are the kernel's, unless a function lists others.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree,
};

use super::label;
use super::root::{Node, Root, own_fds, selinux_label};
pub use super::root::{duplicate, mount_id};

/// The restrictions of a mount.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Restrict {
    /// Nothing can be written through it.
    pub read_only: bool,
    /// Device nodes in it do not open.
    pub no_dev: bool,
    /// Programs in it do not run.
    pub no_exec: bool,
}

impl Restrict {
    /// For a file of the host, a library or a program: read-only, no devices. Set-user-id bits
    /// never take effect.
    pub const FILE: Self = Self {
        read_only: true,
        no_dev: true,
        no_exec: false,
    };
    /// For a device node: its inode is read-only, but the device stays writable.
    pub const DEVICE: Self = Self {
        read_only: true,
        no_dev: false,
        no_exec: true,
    };
    /// For data that is never executed. Sockets and pipes still accept connections and writes.
    pub const DATA: Self = Self {
        read_only: true,
        no_dev: true,
        no_exec: true,
    };

    fn attr(self) -> MountAttrFlags {
        let mut a = MountAttrFlags::MOUNT_ATTR_NOSUID;
        a.set(MountAttrFlags::MOUNT_ATTR_RDONLY, self.read_only);
        a.set(MountAttrFlags::MOUNT_ATTR_NODEV, self.no_dev);
        a.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, self.no_exec);
        a
    }

    fn flags(self) -> MountFlags {
        let mut f = MountFlags::NOSUID;
        f.set(MountFlags::RDONLY, self.read_only);
        f.set(MountFlags::NODEV, self.no_dev);
        f.set(MountFlags::NOEXEC, self.no_exec);
        f
    }
}

/// A mount that is not attached anywhere yet.
#[derive(Debug)]
pub struct Detached {
    source: Source,
    is_dir: bool,
    restrict: Restrict,
    /// Whether `restrict` is in force already; if not, attaching sets it.
    restricted: bool,
}

/// The place of a host's file that the caller has proved.
#[derive(Clone, Copy, Debug)]
pub enum HostPlace<'a> {
    /// The inode.
    Node(&'a Node),
    /// A path from a directory, in which nobody but root can change a component or has made a link.
    /// A link at its end is not followed.
    Path(BorrowedFd<'a>, &'a Path),
}

#[derive(Debug)]
enum Source {
    /// A clone, as a mount object of the new API.
    Tree(OwnedFd),
    /// A new file system, as a mount object.
    NewTree(OwnedFd),
    /// The inode to bind with `mount(2)`, and its path in the mount namespace in which it was
    /// found.
    Bind(OwnedFd, Option<PathBuf>),
    /// The options of a tmpfs for `mount(2)`.
    Tmpfs(CString),
}

/// Set once the kernel, or a seccomp filter, has refused the new mount API.
static OLD_API: AtomicBool = AtomicBool::new(false);

impl Detached {
    /// A bind mount of a host's file that the caller has proved, and its attributes, which the
    /// caller must check again.
    ///
    /// Call it in the mount namespace in which the file was found.
    pub fn of_host(at: HostPlace<'_>, restrict: Restrict) -> io::Result<(Self, Stat)> {
        let (dir, path) = match at {
            HostPlace::Node(node) => return Ok((Self::bind(node, restrict)?, *node.stat())),
            HostPlace::Path(dir, path) => (dir, path),
        };
        if new_api() {
            match tree_at(dir, path, restrict) {
                Ok((tree, restricted)) => {
                    let stat = rustix::fs::fstat(&tree)?;
                    let detached = Self {
                        source: Source::Tree(tree),
                        is_dir: FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
                        restrict,
                        restricted,
                    };
                    return Ok((detached, stat));
                }
                Err(e) if absent(e) => OLD_API.store(true, Ordering::Relaxed),
                Err(e) => return Err(e.into()),
            }
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = Node::from_fd(rustix::fs::openat(dir, path, flags, Mode::empty())?)?;
        Ok((Self::bind(&node, restrict)?, *node.stat()))
    }

    /// A bind mount of one file, node or directory, without mounts below it: from our own tmpfs or
    /// the container's file systems. For the host's files use [`Detached::of_host`].
    ///
    /// Call it in the mount namespace in which `source` was opened.
    pub fn bind(source: &Node, restrict: Restrict) -> io::Result<Self> {
        if new_api() {
            match detached(source, OpenTreeFlags::empty()) {
                Ok(tree) => return Self::of_tree(tree, source.is_dir(), restrict),
                Err(e) if absent(e) => OLD_API.store(true, Ordering::Relaxed),
                Err(e) => return Err(e.into()),
            }
        }
        let fd = duplicate(source.as_fd())?;
        Ok(Self {
            source: Source::Bind(fd, source.path().ok()),
            is_dir: source.is_dir(),
            restrict,
            restricted: false,
        })
    }

    /// A new, empty tmpfs with a root directory of mode 0755. `label` is the SELinux context of all
    /// files in it; it is left out if the kernel has no SELinux.
    pub fn tmpfs(size: u64, label: Option<&str>, restrict: Restrict) -> io::Result<Self> {
        if new_api() {
            match new_tmpfs(size, label, restrict) {
                Ok(tree) => {
                    return Ok(Self {
                        source: Source::NewTree(tree),
                        is_dir: true,
                        restrict,
                        restricted: true,
                    });
                }
                Err(e) if absent(e) => OLD_API.store(true, Ordering::Relaxed),
                Err(e) => return Err(e.into()),
            }
        }
        let mut data = format!("mode=0755,size={size}");
        if let Some(label) = label {
            data = format!("{data},context=\"{label}\"");
        }
        Ok(Self {
            source: Source::Tmpfs(CString::new(data)?),
            is_dir: true,
            restrict,
            restricted: false,
        })
    }

    fn of_tree(tree: OwnedFd, is_dir: bool, restrict: Restrict) -> io::Result<Self> {
        let restricted = match set_attr(tree.as_fd(), restrict.attr()) {
            Ok(()) => true,
            Err(e) if absent(e) => false,
            Err(e) => return Err(e.into()),
        };
        Ok(Self {
            source: Source::Tree(tree),
            is_dir,
            restrict,
            restricted,
        })
    }

    /// Whether its mount point must be a directory.
    pub fn is_dir(&self) -> bool {
        self.is_dir
    }

    /// The SELinux label of the mounted inode; `None` for a new tmpfs or a kernel without labels.
    pub fn selinux_label(&self) -> Option<String> {
        match &self.source {
            Source::Tree(fd) | Source::Bind(fd, _) => selinux_label(fd.as_fd()),
            Source::NewTree(_) | Source::Tmpfs(_) => None,
        }
    }

    /// Attaches the mount at `name` in `parent` and returns the mount's root.
    ///
    /// `name` must exist and must not be a symbolic link; a file takes a file, a directory a
    /// directory. The mount below it becomes a slave first: on a shared mount ours would appear on
    /// the host and outlive the container.
    ///
    /// # Errors
    /// Those of the kernel. Then nothing was attached, or nothing that is visible outside.
    pub fn attach(self, parent: &Node, name: &OsStr) -> io::Result<Node> {
        let target = private_target(parent, name)?;
        let is_new = self.is_new();
        let on_top = match self.source {
            Source::Tree(tree) | Source::NewTree(tree) => {
                move_to(&tree, &target)?;
                tree
            }
            Source::Bind(fd, path) => {
                let bind =
                    |fd: BorrowedFd<'_>| old_mount(Some(fd), target.as_fd(), None, MountFlags::BIND, c"");
                match bind(fd.as_fd()) {
                    // `mount(2)` binds nothing of another mount namespace. The host's tree is still
                    // visible in a container that has not changed its root yet.
                    Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                        let same = same_inode(fd.as_fd(), path.as_deref()).ok_or(e)?;
                        bind(same.as_fd())?;
                    }
                    bound => bound?,
                }
                parent.child(name)?.into_fd()
            }
            Source::Tmpfs(data) => {
                let f = self.restrict.flags();
                old_mount(None, target.as_fd(), Some(c"tmpfs"), f, &data)?;
                parent.child(name)?.into_fd()
            }
        };
        if !self.restricted {
            let flags = MountFlags::BIND | self.restrict.flags();
            old_remount(on_top.as_fd(), flags)?;
            old_private(on_top.as_fd())?;
        }
        let top = Node::from_fd(on_top)?;
        if is_new {
            let held = duplicate(top.as_fd())?;
            cut_off().made.push((top.id().0, held));
        }
        Ok(top)
    }

    /// Whether no other mount of its file system exists.
    fn is_new(&self) -> bool {
        matches!(self.source, Source::NewTree(_) | Source::Tmpfs(_))
    }
}

/// An empty file that this process has made as a mount point.
#[derive(Debug)]
pub struct Placed<'p> {
    file: OwnedFd,
    parent: &'p Node,
    name: &'p OsStr,
    /// The mount below it has no peers, so nobody outside can have mounted on it since.
    private: bool,
}

impl<'p> Placed<'p> {
    /// Makes the file `name` in `parent`, on a mount that has no peers.
    ///
    /// # Errors
    /// `EEXIST` if the name exists.
    pub fn make(parent: &'p Node, name: &'p OsStr) -> io::Result<Self> {
        // If the mount cannot be cut off, attaching reports it.
        let private = cut_off().cut_below(parent).is_ok();
        Ok(Self {
            file: parent.placeholder(name)?,
            parent,
            name,
            private,
        })
    }

    /// Attaches a mount to it. Returns the descriptors to close.
    ///
    /// # Errors
    /// As of [`Detached::attach`].
    pub fn attach(self, mount: Detached) -> io::Result<Vec<OwnedFd>> {
        match mount.source {
            Source::Tree(tree) if self.private && mount.restricted => {
                move_to(&tree, &self.file)?;
                Ok(vec![tree, self.file])
            }
            _ => {
                mount.attach(self.parent, self.name)?;
                Ok(vec![self.file])
            }
        }
    }
}

/// Mounts on which our mounts are invisible outside the mount namespace. The open descriptors keep
/// the kernel from reusing their numbers.
#[derive(Debug)]
struct CutOff {
    /// Device numbers of file systems that this process has made and mounted once, privately. Most
    /// files are placed on one of them, so that the check needs no system call.
    made: Vec<(u64, OwnedFd)>,
    /// Numbers of mounts that are slaves or private now.
    mounts: Vec<(u64, OwnedFd)>,
    /// Roots of mounts that are neither yet, with the mounts' numbers.
    roots: Vec<(u64, OwnedFd)>,
}

impl CutOff {
    /// The number of the mount below `target`, unless it is cut off already.
    fn mount_to_cut(&self, target: &Node) -> io::Result<Option<u64>> {
        if self.made.iter().any(|(device, _)| *device == target.id().0) {
            return Ok(None);
        }
        let id = target.mount_id()?;
        let is_known = self.mounts.iter().any(|(known, _)| *known == id);
        Ok((!is_known).then_some(id))
    }

    /// Makes the mount of the directory `dir` a slave of its peers.
    fn cut_below(&mut self, dir: &Node) -> io::Result<()> {
        match self.mount_to_cut(dir)? {
            Some(id) => self.cut(id, dir, dir),
            None => Ok(()),
        }
    }

    /// Makes the mount `id` below `target`, a name in `parent`, a slave of its peers.
    fn cut(&mut self, id: u64, parent: &Node, target: &Node) -> io::Result<()> {
        if let Some(known) = self.roots.iter().position(|(root, _)| *root == id) {
            let (_, root) = self.roots.swap_remove(known);
            if make_slave(root.as_fd())? {
                self.mounts.push((id, root));
                return Ok(());
            }
        }
        let mut at = duplicate(target.as_fd())?;
        if !make_slave(at.as_fd())? {
            // An inode that is not a mount's root is on its directory's mount. The kernel accepts
            // only a mount's root.
            at = duplicate(parent.as_fd())?;
            let mut left = MAX_DEPTH;
            while !make_slave(at.as_fd())? {
                left = left.checked_sub(1).ok_or(Errno::XDEV)?;
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                at = rustix::fs::openat(&at, c"..", flags, Mode::empty())?;
            }
            // Another mount may have been made on the way meanwhile.
            if mount_id(at.as_fd())? != id {
                return Err(Errno::XDEV.into());
            }
        }
        self.mounts.push((id, at));
        Ok(())
    }
}

/// The most directories between a mount's root and an inode in it: a path has no more.
const MAX_DEPTH: u32 = 4096;

static CUT_OFF: Mutex<CutOff> = Mutex::new(CutOff {
    made: Vec::new(),
    mounts: Vec::new(),
    roots: Vec::new(),
});

fn cut_off() -> std::sync::MutexGuard<'static, CutOff> {
    CUT_OFF.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers a possible root of the mount `id`, which saves the walk to it later.
pub fn remember_root(root: OwnedFd, id: u64) {
    /// A container's rootfs and the few tmpfs of a definition.
    const MAX_ROOTS: usize = 16;
    let mut cut_off = cut_off();
    if cut_off.roots.len() < MAX_ROOTS {
        cut_off.roots.push((id, root));
    }
}

/// The inode `name` in `parent`, on a mount that has no peers.
///
/// It is looked up again once its mount is a slave: a peer's earlier mount there is visible here, a
/// later one is not.
fn private_target(parent: &Node, name: &OsStr) -> io::Result<Node> {
    /// Each further try means that another process mounted something in between.
    const MAX_TRIES: usize = 8;
    let mut cut_off = cut_off();
    for _ in 0..MAX_TRIES {
        let target = parent.child(name)?;
        if target.is_symlink() {
            return Err(Errno::LOOP.into());
        }
        let Some(id) = cut_off.mount_to_cut(&target)? else {
            return Ok(target);
        };
        cut_off.cut(id, parent, &target)?;
    }
    Err(Errno::BUSY.into())
}

/// Attaches a detached mount to the inode of `target`.
fn move_to(tree: &OwnedFd, target: impl AsFd) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", target, c"", flags)
}

/// Makes an attached mount read-only, in addition to its present restrictions.
pub fn seal(root: &Node, restrict: Restrict) -> io::Result<()> {
    match set_attr(root.as_fd(), restrict.attr()) {
        Ok(()) => Ok(()),
        Err(e) if absent(e) => old_remount(root.as_fd(), MountFlags::BIND | restrict.flags()),
        Err(e) => Err(e.into()),
    }
}

/// A clone of the directory `top` with all mounts below it, attached nowhere. Nothing in it can be
/// changed or executed, no device in it opens, and its root has no parent. The caller is in the
/// mount namespace of `top`.
///
/// # Errors
/// `ENOSYS` before Linux 5.2, `EPERM` without the right to mount.
pub fn sealed_copy(top: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let copy = detached(top, OpenTreeFlags::AT_RECURSIVE)?;
    // Before Linux 5.12 such a clone cannot be restricted, but it is still attached nowhere.
    let _ = change(
        copy.as_fd(),
        Restrict::DATA.attr(),
        MS_PRIVATE,
        libc::AT_RECURSIVE,
    );
    Ok(copy)
}

/// A detached clone of a path, and whether it is restricted: one call if the kernel has
/// `open_tree_attr`.
fn tree_at(dir: BorrowedFd<'_>, path: &Path, restrict: Restrict) -> rustix::io::Result<(OwnedFd, bool)> {
    static NO_ATTR: AtomicBool = AtomicBool::new(false);
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    if !NO_ATTR.load(Ordering::Relaxed) {
        match open_tree_attr(dir, &name, restrict.attr()) {
            // This struct and these flags never cause E2BIG or EINVAL.
            Err(Errno::NOSYS | Errno::PERM) => NO_ATTR.store(true, Ordering::Relaxed),
            opened => return opened.map(|tree| (tree, true)),
        }
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let tree = open_tree(dir, &name, flags)?;
    match set_attr(tree.as_fd(), restrict.attr()) {
        Ok(()) => Ok((tree, true)),
        Err(e) if absent(e) => Ok((tree, false)),
        Err(e) => Err(e),
    }
}

/// `open_tree_attr(2)`, Linux 6.15: a clone that has its attributes, and is private, from the
/// start.
fn open_tree_attr(dir: BorrowedFd<'_>, path: &CStr, attrs: MountAttrFlags) -> rustix::io::Result<OwnedFd> {
    /// The same number on every architecture.
    const SYS_OPEN_TREE_ATTR: libc::c_long = 467;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let attr = MountAttr::new(attrs, MS_PRIVATE);
    // SAFETY: the descriptor is borrowed for the call, the path is a C string, and `attr` is a live
    // struct of that size.
    let fd = unsafe {
        libc::syscall(
            SYS_OPEN_TREE_ATTR,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags.bits(),
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    let fd = i32::try_from(fd)
        .ok()
        .filter(|fd| *fd >= 0)
        .ok_or_else(last_errno)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A detached clone of the inode of `source`.
pub fn detached(source: impl AsFd, flags: OpenTreeFlags) -> rustix::io::Result<OwnedFd> {
    let all =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(source, c"", all | flags)
}

/// A new instance of the cgroup file system in the caller's cgroup namespace, attached nowhere: v2
/// for an empty list, else the v1 hierarchy of these controllers.
pub fn cgroupfs(controllers: &[&str]) -> io::Result<OwnedFd> {
    let v2 = controllers.is_empty();
    let fs = fsopen(
        if v2 { c"cgroup2" } else { c"cgroup" },
        FsOpenFlags::FSOPEN_CLOEXEC,
    )?;
    for c in controllers {
        match c.strip_prefix("name=") {
            Some(name) => fsconfig_set_string(&fs, c"name", name)?,
            None => fsconfig_set_flag(&fs, *c)?,
        }
    }
    fsconfig_create(&fs)?;
    let attrs = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attrs)?)
}

fn new_tmpfs(size: u64, label: Option<&str>, restrict: Restrict) -> rustix::io::Result<OwnedFd> {
    let fs = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, c"source", crate::label())?;
    fsconfig_set_string(&fs, c"mode", c"0755")?;
    fsconfig_set_string(&fs, c"size", size.to_string())?;
    if let Some(label) = label {
        // EINVAL without SELinux; the label then has no meaning.
        match fsconfig_set_string(&fs, c"context", label) {
            Ok(()) | Err(Errno::INVAL) => {}
            Err(e) => return Err(e),
        }
    }
    fsconfig_create(&fs)?;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, restrict.attr())
}

/// Whether the kernel has the whole new mount API: with a part of it, a mount could be made but not
/// attached.
fn new_api() -> bool {
    static PROBED: AtomicBool = AtomicBool::new(false);
    if !PROBED.swap(true, Ordering::Relaxed) {
        let cwd = rustix::fs::CWD;
        // With an empty path a kernel that has the call returns ENOENT.
        if let Err(e) = move_mount(cwd, c"", cwd, c"", MoveMountFlags::empty())
            && absent(e)
        {
            OLD_API.store(true, Ordering::Relaxed);
        }
    }
    !OLD_API.load(Ordering::Relaxed)
}

/// The inode of `fd`, found by its path in the process's present mount namespace.
fn same_inode(fd: BorrowedFd<'_>, path: Option<&Path>) -> Option<Node> {
    let found = Root::open("/").ok()?.resolve_nofollow(path?).ok()?;
    let stat = rustix::fs::fstat(fd).ok()?;
    (found.id() == (stat.st_dev, stat.st_ino)).then_some(found)
}

/// Whether this errno means that the call is missing: in an old kernel, or behind a seccomp filter
/// that answers EPERM.
fn absent(e: Errno) -> bool {
    matches!(e, Errno::NOSYS | Errno::PERM)
}

/// Sets attributes and makes the mount private.
fn set_attr(fd: BorrowedFd<'_>, attrs: MountAttrFlags) -> rustix::io::Result<()> {
    change(fd, attrs, MS_PRIVATE, 0)
}

/// Makes the mount with the root `root` a slave of its peers: it still receives their mounts, and
/// they receive none of it. A mount without peers does not change. `false` if `root` is not a
/// mount's root.
fn make_slave(root: BorrowedFd<'_>) -> io::Result<bool> {
    let slave = match change(root, MountAttrFlags::empty(), MS_SLAVE, 0) {
        Err(e) if absent(e) => {
            let on = root.as_raw_fd().to_string();
            in_own_fds(|| rustix::mount::mount_change(on, MountPropagationFlags::DOWNSTREAM))
        }
        slave => slave.map_err(io::Error::from),
    };
    match slave {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        slave => slave.map(|()| true),
    }
}

/// Propagation types of linux/mount.h.
const MS_PRIVATE: u64 = 1 << 18;
const MS_SLAVE: u64 = 1 << 19;

/// `struct mount_attr` of linux/mount.h, first version (32 bytes).
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

impl MountAttr {
    fn new(attrs: MountAttrFlags, propagation: u64) -> Self {
        Self {
            attr_set: u64::from(attrs.bits()),
            attr_clr: 0,
            propagation,
            userns_fd: 0,
        }
    }
}

/// `mount_setattr(2)`; rustix has no wrapper yet.
fn change(
    fd: BorrowedFd<'_>,
    attrs: MountAttrFlags,
    propagation: u64,
    at_flags: libc::c_int,
) -> rustix::io::Result<()> {
    let attr = MountAttr::new(attrs, propagation);
    // SAFETY: the descriptor is borrowed for the call, the path is a C string, and `attr` is a live
    // struct of the size passed.
    let r = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | at_flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if r == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Runs `f` with the process's own descriptor directory as working directory, in which a
/// descriptor's number is a path. `mount(2)` takes no descriptors, and `/proc` may be the
/// container's by now.
fn in_own_fds<T>(f: impl FnOnce() -> rustix::io::Result<T>) -> io::Result<T> {
    rustix::process::fchdir(own_fds()?)?;
    let result = f();
    rustix::process::chdir(c"/")?;
    Ok(result?)
}

fn old_mount(
    source: Option<BorrowedFd<'_>>,
    target: BorrowedFd<'_>,
    fs: Option<&CStr>,
    flags: MountFlags,
    data: &CStr,
) -> io::Result<()> {
    let source = source.map_or_else(|| label().to_owned(), |s| s.as_raw_fd().to_string());
    let target = target.as_raw_fd().to_string();
    in_own_fds(|| rustix::mount::mount(source, target, fs.unwrap_or(c"none"), flags, Some(data)))
}

fn old_remount(on: BorrowedFd<'_>, flags: MountFlags) -> io::Result<()> {
    let on = on.as_raw_fd().to_string();
    in_own_fds(|| rustix::mount::mount_remount(on, flags, c""))
}

fn old_private(on: BorrowedFd<'_>) -> io::Result<()> {
    let on = on.as_raw_fd().to_string();
    in_own_fds(|| rustix::mount::mount_change(on, MountPropagationFlags::PRIVATE))
}

/// Pretends that the kernel has no new mount API, for tests of the fallback.
#[cfg(test)]
pub(crate) fn force_old_api(on: bool) {
    OLD_API.store(on, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::super::root::Root;
    use super::*;

    /// Runs `f` in a thread with its own mount namespace; `None` if that is not allowed.
    fn in_private_namespace(f: impl FnOnce() + Send + 'static) -> Option<bool> {
        let thread = std::thread::spawn(|| {
            let flags = rustix::thread::UnshareFlags::NEWNS;
            // SAFETY: only this thread's file-system context changes, and it ends with the test.
            unsafe { rustix::thread::unshare_unsafe(flags) }.ok()?;
            f();
            Some(true)
        });
        thread.join().unwrap_or(Some(false))
    }

    fn exercise(old: bool) {
        let ran = in_private_namespace(move || {
            force_old_api(old);
            let none = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            rustix::mount::mount_change("/", none).unwrap();
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("at")).unwrap();
            std::fs::write(dir.path().join("src"), "driver").unwrap();
            let root = Root::open(dir.path()).unwrap();
            let parent = root.resolve("/").unwrap();
            let source = root.resolve("src").unwrap();
            let bind = Detached::bind(&source, Restrict::FILE).unwrap();
            let tmpfs = Detached::tmpfs(
                1 << 20,
                None,
                Restrict {
                    read_only: false,
                    ..Restrict::FILE
                },
            )
            .unwrap();
            let top = tmpfs.attach(&parent, OsStr::new("at")).unwrap();
            top.write_file(OsStr::new("lib"), 0o444, b"").unwrap();
            bind.attach(&top, OsStr::new("lib")).unwrap();
            seal(&top, Restrict::FILE).unwrap();
            assert_eq!(std::fs::read(dir.path().join("at/lib")).unwrap(), b"driver");
            // Really read-only: checked by a write, not by the list of mounts.
            let e = std::fs::write(dir.path().join("at/lib"), "x").unwrap_err();
            assert_eq!(e.raw_os_error(), Some(libc::EROFS));
            let e = std::fs::write(dir.path().join("at/new"), "x").unwrap_err();
            assert_eq!(e.raw_os_error(), Some(libc::EROFS));
            assert_ne!(mount_id(top.as_fd()).unwrap(), mount_id(parent.as_fd()).unwrap());
            // A symbolic link is never a mount point.
            std::os::unix::fs::symlink("at", dir.path().join("link")).unwrap();
            let again = Detached::bind(&source, Restrict::FILE).unwrap();
            assert!(again.attach(&parent, OsStr::new("link")).is_err());
        });
        match ran {
            Some(ok) => assert!(ok, "see the panic above"),
            None => eprintln!("skipped: no right to make a mount namespace"),
        }
    }

    /// A directory with a tmpfs that `host` and `volume` share, and a file of it that is bound at
    /// `plain/file`.
    fn shared_world() -> (tempfile::TempDir, Root) {
        use rustix::mount::{mount, mount_bind, mount_change};
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for name in ["host", "volume", "plain"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        mount(c"shared", at("host"), c"tmpfs", MountFlags::empty(), None).unwrap();
        mount_change(at("host"), MountPropagationFlags::SHARED).unwrap();
        std::fs::create_dir_all(at("host/deep/below/dir")).unwrap();
        std::fs::create_dir(at("host/later")).unwrap();
        for file in ["host/deep/below/file", "host/file", "plain/file"] {
            std::fs::write(at(file), "theirs").unwrap();
        }
        mount_bind(at("host"), at("volume")).unwrap();
        mount_bind(at("host/file"), at("plain/file")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    fn stays_inside(old: bool) {
        let ran = in_private_namespace(move || {
            force_old_api(old);
            rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
                .unwrap();
            let (dir, root) = shared_world();
            let read = |path: &str| std::fs::read_to_string(dir.path().join(path)).unwrap();
            std::fs::write(dir.path().join("ours"), "ours").unwrap();
            let ours = root.resolve("ours").unwrap();
            let bind = |parent: &str, name: &str| {
                let tree = Detached::bind(&ours, Restrict::DATA).unwrap();
                tree.attach(&root.resolve(parent).unwrap(), OsStr::new(name))
                    .unwrap();
            };
            // In a volume, on a file that is one, and in the volume again.
            bind("volume/deep/below", "file");
            bind("plain", "file");
            let open = Restrict {
                read_only: false,
                ..Restrict::FILE
            };
            let below = root.resolve("volume/deep/below").unwrap();
            let top = Detached::tmpfs(1 << 20, None, open).unwrap();
            let top = top.attach(&below, OsStr::new("dir")).unwrap();
            top.placeholder(OsStr::new("lib")).unwrap();
            bind("volume/deep/below/dir", "lib");
            for path in [
                "volume/deep/below/file",
                "plain/file",
                "volume/deep/below/dir/lib",
            ] {
                assert_eq!(read(path), "ours", "{path}");
            }
            for path in ["host/deep/below/file", "host/file"] {
                assert_eq!(read(path), "theirs", "{path}");
            }
            assert!(!dir.path().join("host/deep/below/dir/lib").exists());
            // A mount on the host still arrives, and a mount on it stays inside too.
            rustix::mount::mount_bind(dir.path().join("host/deep"), dir.path().join("host/later")).unwrap();
            bind("volume/later/below", "file");
            assert_eq!(read("host/later/below/file"), "theirs");
        });
        match ran {
            Some(ok) => assert!(ok, "see the panic above"),
            None => eprintln!("SKIPPED: no right to make a mount namespace"),
        }
    }

    /// One after the other, since the API is a choice of the whole process.
    #[test]
    fn both_apis() {
        for old in [false, true] {
            exercise(old);
            stays_inside(old);
        }
        force_old_api(false);
    }
}
