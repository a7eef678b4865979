//! [`Source`]: a file of the host that may be bound into a container or named in a specification.
//!
//! A path is a source only if nobody but root can have chosen the inode that it leads to. [`Walk`]
//! is the only constructor. It goes from the root directory component by component:
//!
//! - Every directory belongs to root, and neither group nor others may write to it. In a directory
//!   with the sticky bit (`/tmp`) an entry counts only if it belongs to root and is not a link.
//! - A symbolic link on the way belongs to root and is in a directory that only root can write to.
//! - The inode has the type, owner and mode that `Use::rule` requires.
//!
//! For example, `/usr/lib/libcuda.so.1` takes one call for each new directory, two for the link and
//! one for its target. Each directory is proved once. If root alone can change a directory and all
//! above it, no other user can change its path's meaning, so nothing is held open. In any other
//! directory (`/tmp`, a daemon's, the Nix store) each step is by descriptor.

mod checks;
mod recorded;
mod sockets;
mod special;
mod trace;
mod uses;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::mount::{Detached, HostPlace, mount_id};
use super::owned::{self, MAX_LINKS, OTHERS_WRITE, STICKY};
use super::root::{Node, Root};
use crate::error::{Code, Error, IoContext as _, Result};
pub use recorded::{Recorded, Stamp};
pub use trace::{Trace, Traced};
pub use uses::Use;

/// An inode of the host that may be bound, and its path without links.
#[derive(Debug)]
pub struct Source {
    stat: Stat,
    path: PathBuf,
    /// The walk's root directory on the host.
    root: PathBuf,
    lasting: bool,
}

impl Source {
    /// Device and inode number.
    pub fn id(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }

    /// The path on the host, all links resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path, for a consumer that opens it later by name.
    ///
    /// # Errors
    /// [`Code::UnsafeOwner`] if a user other than root can replace the file by then: below a
    /// directory with the sticky bit, whose entries may be removed, or below a daemon's own
    /// directory. The walk's root may be in such a directory.
    pub fn lasting(&self) -> Result<&Path> {
        let root_lasts = || {
            self.root == Path::new("/") || owned::find_lasting(&self.root).is_ok_and(|root| root.is_some())
        };
        if self.lasting && root_lasts() {
            return Ok(&self.path);
        }
        let why = "a user other than root can make a link there later, and a static specification is opened by name";
        Err(
            Error::new(Code::UnsafeOwner, self.path.display().to_string(), why)
                .fix("use a specification without --static: its hook binds the file that it has checked"),
        )
    }
}

/// A proved directory.
#[derive(Debug)]
struct Dir {
    /// From the walk's root, links resolved.
    path: PathBuf,
    /// Device and inode number.
    id: (u64, u64),
    /// The inode's last change, which every change of its entries is.
    stamp: Stamp,
    parent: Option<Rc<Self>>,
    /// Whether root alone can put an entry there. Otherwise it is sticky and world-writable, or a
    /// configured user's.
    firm: bool,
    /// Whether this directory and all above it are [`Dir::firm`] and keep their entries.
    lasting: bool,
    /// The descriptor, unless root alone can change the meaning of its path and its entries.
    held: Option<Node>,
}

/// An entry of a proved directory that is not a directory itself. Held if the directory is.
#[derive(Debug)]
struct Entry {
    stat: Stat,
    held: Option<Node>,
}

/// Opens or clones the proved inode and returns its attributes, or `None` if it does nothing. The
/// code is for errors.
struct Take<'t>(Code, &'t mut dyn FnMut(HostPlace<'_>) -> io::Result<Option<Stat>>);

/// The target of a path.
enum Place {
    Dir(Rc<Dir>),
    /// Any other type, in this directory.
    Other(Rc<Dir>, Box<Entry>, PathBuf),
}

/// The proofs below one root directory, by path. Entries of directories that are not held are kept
/// too.
#[derive(Debug, Default)]
pub struct Proved {
    /// Directories by the paths that led to them.
    dirs: Vec<(PathBuf, Rc<Dir>)>,
    /// Targets of root's links.
    links: BTreeMap<OsString, PathBuf>,
    /// Attributes of other entries.
    others: BTreeMap<OsString, Stat>,
    /// Names that do not exist.
    missing: Vec<PathBuf>,
    /// Directories of which all entries were read.
    listed: Vec<PathBuf>,
    /// A path was not proved, so a result may depend on more than the other fields.
    is_partial: bool,
    /// Links and other entries that an earlier process proved, in directories that have not changed
    /// since. Only [`Walk::bind`] uses them.
    recorded: Recorded,
}

/// Finds sources below one root directory, and caches its proofs.
#[derive(Debug)]
pub struct Walk<'r> {
    root: &'r Root,
    /// The root's path on the host.
    at: PathBuf,
    proved: Rc<RefCell<Proved>>,
    /// A user whom the configuration trusts like root.
    also: Option<u32>,
    /// The path's inode will be opened and checked, so that a record of it is enough until then.
    binds: Cell<bool>,
}

impl<'r> Walk<'r> {
    /// A walk below `root`, which is at `at` on the host.
    pub fn new(root: &'r Root, at: &Path) -> Self {
        Self::with(root, at, Rc::default())
    }

    /// A walk that continues with the proofs of an earlier one of the same root and process.
    pub fn with(root: &'r Root, at: &Path, proved: Rc<RefCell<Proved>>) -> Self {
        Self {
            root,
            at: at.to_owned(),
            proved,
            also: None,
            binds: Cell::new(false),
        }
    }

    /// Finds `path`, absolute from the root, and proves that it may be bound for `wanted`.
    ///
    /// # Errors
    /// [`Code::NoLibraries`] if it is missing, [`Code::UnsafePath`] if it has another type, and
    /// [`Code::UnsafeOwner`] with the component that a user other than root could have put there.
    pub fn find(&self, path: &Path, wanted: Use) -> Result<Source> {
        self.located(path, wanted, Take(Code::System, &mut |_| Ok(None)))
    }

    /// Finds `path` as [`Walk::find`] does and reads at most `max` bytes of it.
    ///
    /// # Errors
    /// As of [`Walk::find`]; [`Code::File`] if it cannot be read.
    pub fn read(&self, path: &Path, max: u64) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        let mut read = |at: HostPlace<'_>| {
            let opened;
            let node = match at {
                HostPlace::Node(node) => node,
                HostPlace::Path(dir, path) => {
                    opened = open_at(dir, path)?;
                    &opened
                }
            };
            content = node.read(max)?;
            Ok(Some(*node.stat()))
        };
        self.located(path, Use::File, Take(Code::File, &mut read))?;
        Ok(content)
    }

    /// Finds `path` as [`Walk::find`] does and clones it as a detached bind mount.
    ///
    /// # Errors
    /// As of [`Walk::find`]; [`Code::Mount`] if it cannot be cloned.
    pub fn bind(&self, path: &Path, wanted: Use) -> Result<(Source, Detached)> {
        let mut mount = None;
        let mut clone = |at: HostPlace<'_>| {
            let (detached, stat) = Detached::of_host(at, wanted.rule().restrict)?;
            mount = Some(detached);
            Ok(Some(stat))
        };
        self.binds.set(true);
        let source = self.located(path, wanted, Take(Code::Mount, &mut clone));
        self.binds.set(false);
        let source = source?;
        match mount {
            Some(mount) => Ok((source, mount)),
            None => Err(self.missing(path, &Errno::NOENT.into())),
        }
    }

    /// Proves `path`, calls `take` on the inode, and checks the attributes that `take` returns.
    fn located(&self, path: &Path, wanted: Use, take: Take<'_>) -> Result<Source> {
        match wanted {
            Use::Device(number) => self.device(path, number, take),
            Use::Pipes(Some(user)) => {
                // A proof that trusts this user must not serve other uses.
                let walk = Self {
                    also: Some(user),
                    ..Self::new(self.root, &self.at)
                };
                walk.pipes(path, wanted, take)
            }
            Use::Pipes(_) => self.pipes(path, wanted, take),
            Use::Socket => self.socket(path, take),
            Use::Directory | Use::File | Use::Package | Use::Site => self.plain(path, wanted, take),
        }
    }

    fn plain(&self, path: &Path, wanted: Use, take: Take<'_>) -> Result<Source> {
        let mut links = 0;
        let rule = wanted.rule();
        match self.follow(path, &mut links)? {
            Place::Dir(dir) => {
                let node = self.open_dir(&dir)?;
                if node.stat().st_mode & OTHERS_WRITE != 0 {
                    return Err(self.writable(&dir.path, node.stat()));
                }
                self.check_type(&dir.path, node.stat(), &rule)?;
                if rule.no_sockets {
                    self.check_no_sockets(&dir.path, &node)?;
                }
                self.taken(HostPlace::Node(&node), node.stat(), &dir.path, dir.lasting, take)
            }
            Place::Other(dir, mut entry, real) => {
                // A site may name a mount point, which could be a user's FUSE; the driver's files
                // are none.
                if wanted == Use::Site && entry.stat.st_dev != dir.id.0 && entry.held.is_none() {
                    *entry = self.held_file(&dir, &real)?;
                }
                self.check(&dir, &entry.stat, &real)?;
                self.check_type(&real, &entry.stat, &rule)?;
                let below = below(&real);
                let at = match &entry.held {
                    Some(node) => HostPlace::Node(node),
                    None => HostPlace::Path(self.root.as_fd(), below),
                };
                let source = self.taken(at, &entry.stat, &real, dir.lasting, take)?;
                // `take` opened the path again, so its attributes are the ones that count.
                self.check(&dir, &source.stat, &real)?;
                self.check_type(&real, &source.stat, &rule)?;
                Ok(source)
            }
        }
    }

    /// Refuses a FUSE mount on an entry. A user's FUSE server reports any owner and mode and may
    /// never answer, so only the kernel is queried.
    fn check_mount(&self, dir: BorrowedFd<'_>, entry: BorrowedFd<'_>, real: &Path) -> Result<()> {
        let id = |fd: BorrowedFd<'_>| mount_id(fd).context(Code::System, || self.shown(real));
        let on = id(entry)?;
        if on == id(dir)? || kind_of_mount(on).is_some_and(|kind| !kind.starts_with("fuse")) {
            return Ok(());
        }
        Err(self
            .refused(real, "a user's file system may be mounted on it".to_owned())
            .fix("unmount it"))
    }

    /// Refuses a user's FUSE mount on that user's entry in root's directory, such as a home
    /// directory.
    fn check_crossing(&self, dir: &Dir, entry: &Node, real: &Path) -> Result<()> {
        if entry.id().0 == dir.id.0 || !owned::is_users_fuse(entry) {
            return Ok(());
        }
        Err(self.refused(real, owned::USERS_FUSE.to_owned()).fix("unmount it"))
    }

    fn taken(
        &self,
        at: HostPlace<'_>,
        stat: &Stat,
        real: &Path,
        lasting: bool,
        take: Take<'_>,
    ) -> Result<Source> {
        let Take(code, take) = take;
        let taken = take(at).context(code, || self.shown(real))?;
        let stat = taken.unwrap_or(*stat);
        Ok(self.source(stat, real, lasting))
    }

    fn source(&self, stat: Stat, real: &Path, lasting: bool) -> Source {
        Source {
            stat,
            path: self.on_host(real),
            root: self.at.clone(),
            lasting,
        }
    }

    /// The proved directory that `path` leads to.
    fn dir(&self, path: &Path, links: &mut usize) -> Result<Rc<Dir>> {
        if let Some(dir) = self.known(path) {
            return Ok(dir);
        }
        let dir = match path.parent() {
            None => self.root_dir()?,
            Some(_) => match self.follow(path, links)? {
                Place::Dir(dir) => dir,
                Place::Other(_, entry, real) => {
                    return Err(self.wrong_type(&real, &entry.stat, "a directory"));
                }
            },
        };
        if path.as_os_str() != dir.path.as_os_str() || path.parent().is_none() {
            self.keep(path, &dir);
        }
        Ok(dir)
    }

    fn known(&self, path: &Path) -> Option<Rc<Dir>> {
        let proved = self.proved.borrow();
        let found = proved
            .dirs
            .iter()
            .find(|(at, _)| at.as_os_str() == path.as_os_str());
        found.map(|(_, dir)| Rc::clone(dir))
    }

    fn keep(&self, path: &Path, dir: &Rc<Dir>) {
        self.proved
            .borrow_mut()
            .dirs
            .push((path.to_owned(), Rc::clone(dir)));
    }

    fn known_link(&self, real: &Path) -> Option<PathBuf> {
        let proved = self.proved.borrow();
        let known = proved.links.get(real.as_os_str());
        let recorded = || proved.recorded.link(real).filter(|_| self.binds.get());
        known.or_else(recorded).cloned()
    }

    fn keep_link(&self, real: &Path, target: &Path) {
        let (real, target) = (real.as_os_str().to_owned(), target.to_owned());
        self.proved.borrow_mut().links.insert(real, target);
    }

    fn known_other(&self, real: &Path) -> Option<Stat> {
        let proved = self.proved.borrow();
        let known = proved.others.get(real.as_os_str()).copied();
        let recorded = || proved.recorded.entry(real).filter(|_| self.binds.get());
        known.or_else(recorded)
    }

    fn keep_other(&self, real: &Path, stat: Stat) {
        self.proved
            .borrow_mut()
            .others
            .insert(real.as_os_str().to_owned(), stat);
    }

    fn keep_missing(&self, real: &Path, e: Errno) {
        let mut proved = self.proved.borrow_mut();
        if e == Errno::NOENT {
            proved.missing.push(real.to_owned());
        } else {
            proved.is_partial = true;
        }
    }

    fn root_dir(&self) -> Result<Rc<Dir>> {
        let stat = rustix::fs::fstat(self.root).map_err(io::Error::from);
        let stat = stat.context(Code::System, || shown(&self.at))?;
        if self.at != Path::new("/") {
            // The administrator chose the path to the root, but no other user may have made any of
            // it.
            let found = owned::find(&self.at)?;
            if found.is_none_or(|found| found.id() != (stat.st_dev, stat.st_ino)) {
                let why = "it was replaced during the check".to_owned();
                return Err(Error::new(Code::UnsafeOwner, shown(&self.at), why));
            }
        }
        let open = || self.root.resolve("/").context(Code::System, || shown(&self.at));
        self.proved(stat, None, PathBuf::from("/"), None, &open)
    }

    /// Follows `path`, and proves each directory once.
    fn follow(&self, path: &Path, links: &mut usize) -> Result<Place> {
        let Ok((at, name)) = super::root::split(path) else {
            // `/`, or a path that ends in `..`.
            let from = self.dir(Path::new("/"), links)?;
            return self.steps(from, path, links);
        };
        let dir = self.dir(at, links)?;
        self.steps(dir, Path::new(name), links)
    }

    /// Follows the components of `path` from a directory, or from the root if it is absolute.
    fn steps(&self, from: Rc<Dir>, path: &Path, links: &mut usize) -> Result<Place> {
        let mut here = Place::Dir(from);
        for component in path.components() {
            let dir = match here {
                Place::Dir(dir) => dir,
                Place::Other(_, entry, real) => {
                    return Err(self.wrong_type(&real, &entry.stat, "a directory"));
                }
            };
            here = match component {
                Component::RootDir => Place::Dir(self.dir(Path::new("/"), links)?),
                Component::ParentDir => Place::Dir(dir.parent.clone().unwrap_or(dir)),
                Component::Normal(name) => self.step(dir, name, links)?,
                Component::CurDir | Component::Prefix(_) => Place::Dir(dir),
            };
        }
        Ok(here)
    }

    fn step(&self, dir: Rc<Dir>, name: &OsStr, links: &mut usize) -> Result<Place> {
        let real = dir.path.join(name);
        if let Some(found) = self.known(&real) {
            return Ok(Place::Dir(found));
        }
        if dir.held.is_none() {
            return self.step_by_path(dir, real, links);
        }
        let node = self.child(&dir, name, &real)?;
        let stat = *node.stat();
        if node.is_dir() {
            let found = self.proved(stat, Some(node), real.clone(), Some(dir), &|| {
                Err(self.missing(&real, &Errno::NOENT.into()))
            })?;
            self.keep(&real, &found);
            return Ok(Place::Dir(found));
        }
        if !node.is_symlink() {
            let entry = Entry {
                stat,
                held: Some(node),
            };
            return Ok(Place::Other(dir, Box::new(entry), real));
        }
        if !dir.firm {
            let why = "it is a symbolic link in a directory that others can write to".to_owned();
            return Err(self.refused(&real, why));
        }
        self.check_user(&dir, stat.st_uid, &real)?;
        let target = node.read_link().context(Code::System, || self.shown(&real))?;
        self.link(dir, &real, &target, links)
    }

    /// A step in a directory that root alone can change: nothing is opened.
    fn step_by_path(&self, dir: Rc<Dir>, real: PathBuf, links: &mut usize) -> Result<Place> {
        if let Some(target) = self.known_link(&real) {
            return self.link(dir, &real, &target, links);
        }
        if let Some(stat) = self.known_other(&real) {
            return Ok(Place::Other(dir, Box::new(Entry { stat, held: None }), real));
        }
        let path = below(&real);
        let missing = |e: Errno| {
            self.keep_missing(&real, e);
            self.missing(&real, &e.into())
        };
        let stat = rustix::fs::statat(self.root, path, AtFlags::SYMLINK_NOFOLLOW).map_err(missing)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let open = || open_at(self.root.as_fd(), path).map_err(|e| self.missing(&real, &e));
                let found = self.proved(stat, None, real.clone(), Some(dir), &open)?;
                self.keep(&real, &found);
                Ok(Place::Dir(found))
            }
            FileType::Symlink => {
                self.check_user(&dir, stat.st_uid, &real)?;
                let target =
                    rustix::fs::readlinkat(self.root, path, Vec::with_capacity(256)).map_err(missing)?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                self.keep_link(&real, &target);
                self.link(dir, &real, &target, links)
            }
            _ => {
                self.keep_other(&real, stat);
                Ok(Place::Other(dir, Box::new(Entry { stat, held: None }), real))
            }
        }
    }

    fn link(&self, dir: Rc<Dir>, real: &Path, target: &Path, links: &mut usize) -> Result<Place> {
        *links += 1;
        if *links > MAX_LINKS {
            return Err(Error::io(Code::System, self.shown(real), &Errno::LOOP.into()));
        }
        self.steps(dir, target, links)
    }

    fn child(&self, dir: &Dir, name: &OsStr, real: &Path) -> Result<Node> {
        let missing = |e: io::Error| self.missing(real, &e);
        if dir.firm {
            let entry = match &dir.held {
                Some(held) => held.child(name),
                None => open_at(self.root.as_fd(), below(real)),
            };
            let entry = entry.map_err(missing)?;
            self.check_crossing(dir, &entry, real)?;
            return Ok(entry);
        }
        let Some(held) = &dir.held else {
            return Err(missing(Errno::NOENT.into()));
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let entry = rustix::fs::openat(held.as_fd(), name, flags, Mode::empty());
        let entry = entry.map_err(|e| missing(e.into()))?;
        self.check_mount(held.as_fd(), entry.as_fd(), real)?;
        Node::from_fd(entry).map_err(missing)
    }

    /// Opens a file whose device number may be that of a mount on it.
    fn held_file(&self, dir: &Dir, real: &Path) -> Result<Entry> {
        let node = open_at(self.root.as_fd(), below(real)).map_err(|e| self.missing(real, &e))?;
        self.check_crossing(dir, &node, real)?;
        Ok(Entry {
            stat: *node.stat(),
            held: Some(node),
        })
    }

    /// Opens a proved directory.
    fn open_dir(&self, dir: &Dir) -> Result<Node> {
        let opened = match &dir.held {
            Some(node) => node.try_clone(),
            None if dir.parent.is_none() => self.root.resolve("/"),
            None => open_at(self.root.as_fd(), below(&dir.path)),
        };
        let opened = opened.context(Code::System, || self.shown(&dir.path))?;
        self.check_same(&dir.path, &opened, dir.id)?;
        Ok(opened)
    }

    /// Checks that the opened inode is the one whose attributes were proved.
    fn check_same(&self, path: &Path, opened: &Node, id: (u64, u64)) -> Result<()> {
        if opened.id() == id {
            return Ok(());
        }
        Err(self.refused(path, "it was replaced during the check".to_owned()))
    }

    /// Proves a directory by its attributes. It calls `open` if the directory must be held and
    /// `held` is not it.
    fn proved(
        &self,
        stat: Stat,
        held: Option<Node>,
        path: PathBuf,
        parent: Option<Rc<Dir>>,
        open: &dyn Fn() -> Result<Node>,
    ) -> Result<Rc<Dir>> {
        match &parent {
            Some(parent) => self.check_user(parent, stat.st_uid, &path)?,
            None if owned::trusted_users().contains(&stat.st_uid) => {}
            None => return Err(self.foreign(&path, stat.st_uid)),
        }
        let mode = stat.st_mode;
        if mode & OTHERS_WRITE != 0 && mode & STICKY == 0 {
            return Err(self.writable(&path, &stat));
        }
        // The sticky bit keeps root's entries; a group that root chose (Nix's builders) is not
        // everybody.
        let firm = mode & 0o002 == 0 && owned::trusted_users().contains(&stat.st_uid);
        // A user without a name in this user namespace, or such a group, may change a path's
        // meaning.
        let by_path = firm
            && mode & OTHERS_WRITE == 0
            && known_users().contains(&stat.st_uid)
            && parent.as_ref().is_none_or(|parent| parent.held.is_none());
        // A directory on another file system has another device number.
        let crossed = parent.as_ref().filter(|parent| parent.id.0 != stat.st_dev);
        let held = match held {
            _ if by_path && crossed.is_none() => None,
            Some(node) => Some(node),
            None => {
                let node = open()?;
                self.check_same(&path, &node, (stat.st_dev, stat.st_ino))?;
                Some(node)
            }
        };
        if let (Some(parent), Some(held)) = (crossed, &held) {
            self.check_crossing(parent, held, &path)?;
        }
        let held = held.filter(|_| !by_path);
        Ok(Rc::new(Dir {
            firm,
            lasting: firm && owned::keeps(&path, mode) && parent.as_ref().is_none_or(|parent| parent.lasting),
            path,
            id: (stat.st_dev, stat.st_ino),
            stamp: Stamp::of(&stat),
            parent,
            held,
        }))
    }
}

/// The file system type of a mount, from `/proc/self/mountinfo`.
fn kind_of_mount(id: u64) -> Option<String> {
    let mounts = Root::open("/proc")
        .ok()?
        .read_text("thread-self/mountinfo", 16 << 20)
        .ok()?;
    let of_it = |line: &&str| line.split(' ').next().and_then(|n| n.parse().ok()) == Some(id);
    let (_, about) = mounts.lines().find(of_it)?.split_once(" - ")?;
    about.split(' ').next().map(str::to_owned)
}

/// The users who count as root and have a name in this user namespace.
fn known_users() -> &'static [u32] {
    let known = owned::trusted_users();
    known.get(..2).unwrap_or(known)
}

/// A path from the root as a path relative to its descriptor.
fn below(real: &Path) -> &Path {
    real.strip_prefix("/").unwrap_or(real)
}

/// Opens an entry of directories that root alone can change; a link at the end is not followed.
fn open_at(root: BorrowedFd<'_>, path: &Path) -> io::Result<Node> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Node::from_fd(rustix::fs::openat(root, path, flags, Mode::empty())?)
}

const fn name_of(kind: FileType) -> &'static str {
    match kind {
        FileType::BlockDevice => "a block device",
        FileType::CharacterDevice => "a character device",
        FileType::Directory => "a directory",
        FileType::Fifo => "a FIFO",
        FileType::RegularFile => "a regular file",
        FileType::Socket => "a socket",
        FileType::Symlink => "a symbolic link",
        FileType::Unknown => "something else",
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::super::root::DeviceNumber;
    use super::sockets::MAX_DEPTH;
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};
    use std::os::unix::net::UnixListener;

    const USER: u32 = 4_000_000;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn dir(&self, path: &str, mode: u32) -> &Self {
            fs::create_dir_all(self.at(path)).unwrap();
            self.mode(path, mode)
        }

        fn file(&self, path: &str) -> &Self {
            self.dir(path.rsplit_once('/').unwrap_or((".", "")).0, 0o755);
            fs::write(self.at(path), "x").unwrap();
            self.mode(path, 0o644)
        }

        fn socket(&self, path: &str) -> &Self {
            UnixListener::bind(self.at(path)).unwrap();
            self.mode(path, 0o777)
        }

        fn link(&self, target: &str, at: &str) -> &Self {
            symlink(target, self.at(at)).unwrap();
            self
        }

        fn mode(&self, path: &str, mode: u32) -> &Self {
            fs::set_permissions(self.at(path), Permissions::from_mode(mode)).unwrap();
            self
        }

        fn give(&self, path: &str) -> &Self {
            lchown(self.at(path), Some(USER), None).unwrap();
            self
        }

        fn find(&self, path: &str, wanted: Use) -> Result<PathBuf> {
            let root = Root::open(self.0.path()).unwrap();
            let found = Walk::new(&root, self.0.path()).find(Path::new(path), wanted)?;
            Ok(Path::new("/").join(found.path().strip_prefix(self.0.path()).unwrap()))
        }

        /// Checks that the source is refused for this reason.
        fn refused(&self, path: &str, wanted: Use, why: &str) {
            let e = self.find(path, wanted).unwrap_err();
            assert!(e.to_string().contains(why), "{e}");
        }

        fn lasting(&self, path: &str, wanted: Use) -> Result<()> {
            let root = Root::open(self.0.path()).unwrap();
            // Treats the test's root as the host's, whose directory is in `/tmp`.
            let walk = Walk::new(&root, Path::new("/"));
            walk.find(Path::new(path), wanted)?.lasting().map(drop)
        }
    }

    /// Tests that change a file's owner need root.
    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    #[test]
    fn links_of_root_are_followed_and_the_path_has_none() {
        let t = Tree::new();
        t.file("usr/lib/x/libcuda.so.1.2")
            .link("libcuda.so.1.2", "usr/lib/x/libcuda.so.1")
            .link("usr/lib", "lib")
            .dir("opt", 0o755)
            .link("../../usr/./lib/x/libcuda.so.1", "opt/climbs")
            .link("/opt/climbs", "absolute");
        for path in [
            "/lib/x/libcuda.so.1",
            "/opt/climbs",
            "/absolute",
            "/opt/../lib/x/libcuda.so.1",
        ] {
            let found = t.find(path, Use::File).unwrap();
            assert_eq!(found, Path::new("/usr/lib/x/libcuda.so.1.2"), "{path}");
            t.lasting(path, Use::File).unwrap();
        }
        t.link("loop", "loop");
        assert_eq!(t.find("/loop/x", Use::File).unwrap_err().os(), Some(libc::ELOOP));
        assert_eq!(
            t.find("/absolute/x", Use::File).unwrap_err().code(),
            Code::UnsafePath
        );
        assert_eq!(t.find("/none", Use::File).unwrap_err().os(), Some(libc::ENOENT));
    }

    #[test]
    fn no_component_is_another_users_or_writable() {
        if !is_root() {
            return;
        }
        let path = "/usr/lib/libcuda.so.1";
        let tree = || {
            let t = Tree::new();
            t.file("usr/lib/libcuda.so.2")
                .link("libcuda.so.2", "usr/lib/libcuda.so.1");
            t
        };
        for component in ["usr", "usr/lib", "usr/lib/libcuda.so.1", "usr/lib/libcuda.so.2"] {
            let t = tree();
            t.find(path, Use::File).unwrap();
            t.give(component)
                .refused(path, Use::File, &format!("belongs to user {USER}"));
        }
        for (component, mode) in [
            ("usr", 0o775),
            ("usr/lib", 0o757),
            ("usr/lib/libcuda.so.2", 0o664),
        ] {
            let t = tree();
            t.mode(component, mode)
                .refused(path, Use::File, "lets others write");
        }
    }

    #[test]
    fn a_sticky_directory_gives_only_roots_own_files() {
        if !is_root() {
            return;
        }
        let t = Tree::new();
        t.file("real")
            .dir("tmp", 0o1777)
            .file("tmp/d/file")
            .link("../real", "tmp/link");
        t.mode("tmp", 0o1777)
            .refused("/tmp/link", Use::File, "symbolic link in a directory");
        t.find("/tmp/d/file", Use::File).unwrap();
        assert!(t.lasting("/tmp/d/file", Use::File).is_err());
        t.give("tmp/d")
            .refused("/tmp/d/file", Use::File, "belongs to user");
        // Nix's store belongs to root, and its builders' group may add entries.
        t.file("nix/store/a/libcuda.so.1")
            .link("a", "nix/store/b")
            .mode("nix/store", 0o1775);
        t.find("/nix/store/b/libcuda.so.1", Use::File).unwrap();
        t.lasting("/nix/store/b/libcuda.so.1", Use::File).unwrap();
        t.mode("nix/store", 0o775)
            .refused("/nix/store/b/libcuda.so.1", Use::File, "lets others write");
        // The path to the driver root is proved too.
        let t = Tree::new();
        t.file("u/root/usr/lib/libcuda.so.1").give("u");
        let root = Root::open(t.at("u/root")).unwrap();
        let walk = Walk::new(&root, &t.at("u/root"));
        let e = walk
            .find(Path::new("/usr/lib/libcuda.so.1"), Use::File)
            .unwrap_err();
        assert_eq!(e.code(), Code::UnsafeOwner);
        // In `/tmp` another user may own the path by the time a specification is read.
        let t = Tree::new();
        t.file("tmp/root/usr/lib/libcuda.so.1").mode("tmp", 0o1777);
        let root = Root::open(t.at("tmp/root")).unwrap();
        let walk = Walk::new(&root, &t.at("tmp/root"));
        let found = walk.find(Path::new("/usr/lib/libcuda.so.1"), Use::File).unwrap();
        assert_eq!(found.lasting().unwrap_err().code(), Code::UnsafeOwner);
    }

    #[test]
    fn the_bound_inode_is_the_proved_one() {
        if !is_root() {
            return;
        }
        let t = Tree::new();
        t.dir("etc/site", 0o755).dir("etc/other", 0o755);
        let root = Root::open(t.0.path()).unwrap();
        let walk = Walk::new(&root, Path::new("/"));
        walk.find(Path::new("/etc/site"), Use::Directory).unwrap();
        fs::rename(t.at("etc/site"), t.at("etc/old")).unwrap();
        fs::rename(t.at("etc/other"), t.at("etc/site")).unwrap();
        t.give("etc/site");
        let e = walk.find(Path::new("/etc/site"), Use::Directory).unwrap_err();
        assert!(e.to_string().contains("replaced"), "{e}");
    }

    #[test]
    fn a_socket_is_its_daemons_own() {
        if !is_root() {
            return;
        }
        let tree = || {
            let t = Tree::new();
            t.dir("run/d", 0o755)
                .socket("run/d/socket")
                .socket("run/docker.sock")
                .link("run", "var");
            t
        };
        let found = |t: &Tree| t.find("/var/d/socket", Use::Socket);
        let t = tree();
        assert_eq!(found(&t).unwrap(), Path::new("/run/d/socket"));
        t.lasting("/run/d/socket", Use::Socket).unwrap();
        // The daemon's own user, as nvidia-persistenced has one.
        t.give("run/d")
            .refused("/run/d/socket", Use::Socket, "its directory to user");
        found(t.give("run/d/socket")).unwrap();
        assert!(t.lasting("/run/d/socket", Use::Socket).is_err());
        for mode in [0o775, 0o1777, 0o777] {
            t.mode("run/d", mode)
                .refused("/run/d/socket", Use::Socket, "lets others write");
        }
        t.mode("run/d", 0o755).mode("run", 0o1777);
        t.refused("/run/d/socket", Use::Socket, "other than root can put entries");

        let t = tree();
        fs::remove_file(t.at("run/d/socket")).unwrap();
        t.link("../docker.sock", "run/d/socket");
        t.refused("/run/d/socket", Use::Socket, "found a symbolic link");
        fs::remove_file(t.at("run/d/socket")).unwrap();
        fs::hard_link(t.at("run/docker.sock"), t.at("run/d/socket")).unwrap();
        t.refused("/run/d/socket", Use::Socket, "another socket");
        let t = tree();
        fs::rename(t.at("run/d"), t.at("run/e")).unwrap();
        t.link("e", "run/d")
            .refused("/run/d/socket", Use::Socket, "found a symbolic link");
        t.refused("/run/e", Use::Socket, "found a directory");
    }

    #[test]
    fn the_pipes_are_in_a_directory_that_its_owner_alone_writes_to() {
        if !is_root() {
            return;
        }
        let t = Tree::new();
        t.dir("tmp/mps", 0o755)
            .mode("tmp", 0o1777)
            .link("/", "tmp/link")
            .dir("home/u/mps", 0o700);
        let pipes = Use::Pipes(None);
        t.find("/tmp/mps", pipes).unwrap();
        assert!(t.lasting("/tmp/mps", pipes).is_err());
        t.refused("/tmp/link", pipes, "found a symbolic link");
        // The mode with which root's own daemon makes it.
        t.mode("tmp/mps", 0o777).refused("/tmp/mps", pipes, "chmod 0755");
        t.mode("tmp/mps", 0o1777)
            .refused("/tmp/mps", pipes, "lets others write");
        t.mode("tmp/mps", 0o755)
            .give("tmp/mps")
            .refused("/tmp/mps", pipes, "mps-user");
        t.find("/tmp/mps", Use::Pipes(Some(USER))).unwrap();
        t.refused("/tmp/mps", Use::Pipes(Some(USER + 1)), "belongs to user");
        t.give("home/u")
            .give("home/u/mps")
            .find("/home/u/mps", Use::Pipes(Some(USER)))
            .unwrap();
        t.refused("/home/u/mps", pipes, "belongs to user");
        t.link("/tmp/mps", "home/u/link").give("home/u/link");
        t.refused("/home/u/link", Use::Pipes(Some(USER)), "found a symbolic link");
        t.link("/tmp", "home/u/tmp").give("home/u/tmp");
        t.refused(
            "/home/u/tmp/mps",
            Use::Pipes(Some(USER)),
            "symbolic link in a directory",
        );
        // The configured user is trusted with the pipes only.
        let root = Root::open(t.0.path()).unwrap();
        let walk = Walk::new(&root, t.0.path());
        walk.find(Path::new("/home/u/mps"), Use::Pipes(Some(USER)))
            .unwrap();
        fs::write(t.at("home/u/file"), "").unwrap();
        chown(t.at("home/u/file"), Some(0), None).unwrap();
        assert!(walk.find(Path::new("/home/u/file"), Use::File).is_err());
    }

    #[test]
    fn a_directory_with_a_socket_is_no_source() {
        let t = Tree::new();
        t.file("run/udev/data/b259:0").socket("run/udev/control");
        t.find("/run/udev/data", Use::Directory).unwrap();
        for wanted in [Use::Directory, Use::Site] {
            t.refused("/run/udev", wanted, "holds the socket control");
            t.refused("/run", wanted, "holds the socket udev/control");
        }
        t.refused("/", Use::Site, "holds the socket run/udev/control");
        let deep = "a/".repeat(MAX_DEPTH + 2);
        fs::create_dir_all(t.at(&format!("deep/{deep}"))).unwrap();
        t.mode("deep", 0o755);
        assert_eq!(t.find("/deep", Use::Site).unwrap_err().code(), Code::UnsafePath);
    }

    #[test]
    fn nothing_is_bound_writable() {
        let all = [
            Use::Device(DeviceNumber::default()),
            Use::Directory,
            Use::File,
            Use::Package,
            Use::Pipes(None),
            Use::Site,
            Use::Socket,
        ];
        assert!(all.iter().all(|wanted| wanted.rule().restrict.read_only));
    }

    /// A record replaces lookups, never the checks of a file that is bound.
    #[test]
    fn a_recorded_file_is_checked_when_it_is_bound() {
        if !is_root() {
            return;
        }
        let (lib, link) = (
            Path::new("/usr/lib/libcuda.so.2"),
            Path::new("/usr/lib/libcuda.so.1"),
        );
        let t = Tree::new();
        t.file("usr/lib/libcuda.so.2")
            .link("libcuda.so.2", "usr/lib/libcuda.so.1");
        std::thread::sleep(std::time::Duration::from_secs(4));
        let root = Root::open(t.0.path()).unwrap();
        let walk = Walk::new(&root, t.0.path());
        assert!(matches!(walk.trace(link), Trace::Entry(_)));
        let now = i64::try_from(
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_secs(),
        )
        .unwrap();
        let record = walk.record(now, |path| path == lib).unwrap();
        let restored = || {
            let walk = Walk::new(&root, t.0.path());
            assert!(walk.restore(record.clone()));
            walk
        };
        let bound = restored().bind(link, Use::File);
        if bound.as_ref().is_err_and(|e| e.code() == Code::Mount) {
            eprintln!("SKIPPED: no right to mount");
            return;
        }
        assert_eq!(bound.unwrap().0.path(), t.at("usr/lib/libcuda.so.2"));
        t.mode("usr/lib/libcuda.so.2", 0o666);
        let e = restored().bind(link, Use::File).unwrap_err();
        assert!(e.to_string().contains("lets others write"), "{e}");
        // Other uses of the walk see nothing of the record.
        let e = restored().find(link, Use::File).unwrap_err();
        assert!(e.to_string().contains("lets others write"), "{e}");
        t.mode("usr/lib/libcuda.so.2", 0o644).give("usr/lib/libcuda.so.2");
        let e = restored().bind(link, Use::File).unwrap_err();
        assert!(e.to_string().contains("belongs to user"), "{e}");
        t.give("usr/lib");
        assert!(!Walk::new(&root, t.0.path()).restore(record.clone()));
    }
}
