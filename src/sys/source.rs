//! What may be bound into a container, or named in a specification: [`Source`].
//!
//! A host path is a source only when nobody but root can have chosen the inode that it leads to. [`Walk::find`] is
//! the only constructor. It goes from the root directory component by component and holds each by its descriptor:
//!
//! - Every directory belongs to root, and neither group nor others may write to it. In a directory with the sticky
//!   bit (`/tmp`) an entry counts only if it is root's and no link.
//! - A symbolic link on the way belongs to root and is in a directory that only root can write to.
//! - The inode has the type, owner and mode that [`Use::rule`] asks for.
//!
//! Each directory is proved once for each [`Walk`]. In it a file costs what a plain lookup costs: `openat` and
//! `fstat`; a soname's link two calls more, any other four.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::mount::{Restrict, mount_id};
use super::owned::{self, MAX_LINKS, OTHERS_WRITE, STICKY};
use super::root::{DeviceNumber, Node, Root};
use crate::error::{Code, Error, IoContext as _, Result};

/// What a source is for, which decides what it must be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Use {
    /// A device node, by number: it says what the node is, wherever the inode lies and whoever owns it.
    Device(DeviceNumber),
    /// A directory of data.
    Directory,
    /// A file of the driver.
    File,
    /// A driver package of Windows.
    Package,
    /// The directory of MPS's pipes and sockets, and the user who may own it besides root.
    Pipes(Option<u32>),
    /// What a site or a Jetson names.
    Site,
    /// A daemon's socket.
    Socket,
}

/// See [`Use::rule`].
#[derive(Clone, Copy, Debug)]
struct Rule {
    types: &'static [FileType],
    expected: &'static str,
    restrict: Restrict,
    /// Whether a directory is searched for sockets, which a read-only mount does not protect.
    no_sockets: bool,
}

impl Use {
    /// The one table of what is bound, and how. No row is writable: clients connect to sockets and write to pipes
    /// through a read-only mount (measured with MPS on an H200, 580, as root and as another user).
    const fn rule(self) -> Rule {
        use FileType as T;
        let (types, expected, restrict, no_sockets): (&[T], _, _, _) = match self {
            Self::Device(..) => (
                &[T::CharacterDevice],
                "a character device",
                Restrict::DEVICE,
                false,
            ),
            Self::Directory => (&[T::Directory], "a directory", Restrict::DATA, true),
            Self::File => (&[T::RegularFile], "a regular file", Restrict::FILE, false),
            Self::Package => (&[T::Directory], "a directory", Restrict::FILE, false),
            Self::Pipes(_) => (&[T::Directory], "a directory", Restrict::DATA, false),
            Self::Site => (
                &[T::RegularFile, T::Directory],
                "a file or a directory",
                Restrict::FILE,
                true,
            ),
            Self::Socket => (&[T::Socket], "a socket", Restrict::DATA, false),
        };
        Rule {
            types,
            expected,
            restrict,
            no_sockets,
        }
    }
}

/// An inode of the host that may be bound, and its path without links.
#[derive(Debug)]
pub struct Source {
    node: Node,
    path: PathBuf,
    restrict: Restrict,
    lasting: bool,
}

impl Source {
    /// The inode.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The path on the host, all links resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a mount of it forbids.
    pub(super) fn restrict(&self) -> Restrict {
        self.restrict
    }

    /// The path for a file that is read later, by others, and by name.
    ///
    /// # Errors
    /// [`Code::UnsafeOwner`] where somebody other than root can put something else there by then: below a directory with
    /// the sticky bit, whose entries go, and below a daemon's own directory.
    pub fn lasting(&self) -> Result<&Path> {
        if self.lasting {
            return Ok(&self.path);
        }
        let why = "a user other than root can put a link there later, and a static specification is followed by name";
        Err(
            Error::new(Code::UnsafeOwner, self.path.display().to_string(), why)
                .fix("use a specification without --static: its hook binds what it has checked"),
        )
    }
}

/// A directory that is proved.
#[derive(Debug)]
struct Dir {
    node: Node,
    /// From the root of the walk, links resolved.
    path: PathBuf,
    parent: Option<Rc<Self>>,
    /// Whether no other user can put an entry there; else it is world-writable with the sticky bit, or a configured user's.
    firm: bool,
    /// [`Dir::firm`], and so are all that it is in.
    lasting: bool,
}

/// Where a path leads.
enum Place {
    Dir(Rc<Dir>),
    /// Anything else, in this directory.
    Other(Rc<Dir>, Node, PathBuf),
}

/// Finds sources below one root directory, and keeps the directories that it has proved.
#[derive(Debug)]
pub struct Walk<'r> {
    root: &'r Root,
    /// Where the root is on the host.
    at: PathBuf,
    /// Proved directories by the paths that led to them.
    dirs: RefCell<Vec<(PathBuf, Rc<Dir>)>>,
    /// A user who counts as root does, by the configuration.
    also: Option<u32>,
}

impl<'r> Walk<'r> {
    /// A walk below `root`, which is at `at` on the host.
    pub fn new(root: &'r Root, at: &Path) -> Self {
        Self {
            root,
            at: at.to_owned(),
            dirs: RefCell::default(),
            also: None,
        }
    }

    /// Finds `path`, absolute from the root, and proves that it may be bound for `wanted`.
    ///
    /// # Errors
    /// [`Code::NoLibraries`] when it is missing, [`Code::UnsafePath`] when it is of another type, and
    /// [`Code::UnsafeOwner`], naming the component that somebody other than root could have put there.
    pub fn find(&self, path: &Path, wanted: Use) -> Result<Source> {
        match wanted {
            Use::Device(number) => self.device(path, number),
            Use::Pipes(Some(user)) => {
                // What is proved with the help of a user is no proof for anything else.
                let walk = Self {
                    dirs: RefCell::default(),
                    also: Some(user),
                    at: self.at.clone(),
                    root: self.root,
                };
                walk.pipes(path, wanted)
            }
            Use::Pipes(_) => self.pipes(path, wanted),
            Use::Socket => self.socket(path),
            Use::Directory | Use::File | Use::Package | Use::Site => self.plain(path, wanted),
        }
    }

    fn plain(&self, path: &Path, wanted: Use) -> Result<Source> {
        let mut links = 0;
        let (dir, node, real) = match self.follow(path, &mut links)? {
            Place::Dir(dir) => {
                let node = dir.node.try_clone().context(Code::System, || shown(path))?;
                let real = dir.path.clone();
                (dir, node, real)
            }
            Place::Other(dir, node, real) => {
                self.check(&dir, &node, &real)?;
                (dir, node, real)
            }
        };
        if node.is_dir() && node.stat().st_mode & OTHERS_WRITE != 0 {
            return Err(self.writable(&real, &node));
        }
        let rule = wanted.rule();
        self.check_type(&real, &node, &rule)?;
        if rule.no_sockets && node.is_dir() {
            self.check_no_sockets(&real, &node)?;
        }
        Ok(self.source(node, &real, &rule, dir.lasting))
    }

    /// A device node is what its number says.
    fn device(&self, path: &Path, number: DeviceNumber) -> Result<Source> {
        let what = || format!("device node {}", self.shown(path));
        let node = self.root.resolve_nofollow(path).context(Code::DeviceNode, what)?;
        if node.kind() != FileType::CharacterDevice || node.rdev() != number {
            return Err(Error::new(
                Code::DeviceNode,
                what(),
                format!("it is not the character device {number}"),
            ));
        }
        let rule = Use::Device(DeviceNumber::default()).rule();
        Ok(self.source(node, path, &rule, true))
    }

    /// A socket belongs to whom its directory belongs to: root, or the daemon that root made the directory for. A second
    /// name of another daemon's socket, or a mount of one, is not what the name says.
    fn socket(&self, path: &Path) -> Result<Source> {
        let (at, name) = super::root::split(path).context(Code::System, || shown(path))?;
        let (above, own) = super::root::split(at).context(Code::System, || shown(path))?;
        let above = self.dir(above, &mut 0)?;
        let real = above.path.join(own);
        let dir = self.child(&above, own, &real)?;
        if !above.firm {
            return Err(self.refused(
                &above.path,
                "users other than root can put entries there".to_owned(),
            ));
        }
        if !dir.is_dir() {
            return Err(self.wrong_type(&real, &dir, "a directory"));
        }
        if dir.stat().st_mode & OTHERS_WRITE != 0 {
            return Err(self.writable(&real, &dir));
        }
        let real = real.join(name);
        let node = dir.child(name).map_err(|e| self.missing(&real, &e))?;
        let rule = Use::Socket.rule();
        self.check_type(&real, &node, &rule)?;
        let (user, owner) = (node.stat().st_uid, dir.stat().st_uid);
        let roots = owned::trusted_users();
        let of_root = roots.contains(&owner);
        if user != owner && !(of_root && roots.contains(&user)) {
            let why = format!("it belongs to user {user}, and its directory to user {owner}");
            return Err(self.refused(&real, why));
        }
        let mount = |node: &Node| mount_id(node.as_fd()).context(Code::System, || self.shown(&real));
        if node.stat().st_nlink != 1 || mount(&node)? != mount(&dir)? {
            let why = "it is another socket, linked or mounted there".to_owned();
            return Err(self
                .refused(&real, why)
                .fix("restart the daemon, so that it makes a socket of its own"));
        }
        Ok(self.source(node, &real, &rule, above.lasting && of_root))
    }

    /// MPS's directory holds sockets, and a program connects to what has the right name: only its owner may put one there.
    fn pipes(&self, path: &Path, wanted: Use) -> Result<Source> {
        let (at, name) = super::root::split(path).context(Code::System, || shown(path))?;
        let above = self.dir(at, &mut 0)?;
        let real = above.path.join(name);
        let node = self.child(&above, name, &real)?;
        let rule = wanted.rule();
        self.check_type(&real, &node, &rule)?;
        if let Err(e) = self.check_owner(&above, &node, &real) {
            return Err(e.fix(format!(
                "if this user's MPS daemon is meant for containers, set `mps-dir` and `mps-user = {}` in /etc/nvoci/config.toml",
                node.stat().st_uid
            )));
        }
        if node.stat().st_mode & OTHERS_WRITE != 0 {
            let fix = format!(
                "`chmod 0755 {}`: the daemon and its clients of all users go on working",
                self.shown(&real)
            );
            return Err(self.writable(&real, &node).fix(fix));
        }
        let of_root = owned::trusted_users().contains(&node.stat().st_uid);
        Ok(self.source(node, &real, &rule, above.lasting && of_root))
    }

    /// A FUSE that a user mounted on a directory of his says what it likes of owners and modes, and may never answer. So this
    /// asks the kernel alone.
    fn check_mount(&self, dir: &Dir, entry: BorrowedFd<'_>, real: &Path) -> Result<()> {
        let id = |fd: BorrowedFd<'_>| mount_id(fd).context(Code::System, || self.shown(real));
        let on = id(entry)?;
        if on == id(dir.node.as_fd())? || kind_of_mount(on).is_some_and(|kind| !kind.starts_with("fuse")) {
            return Ok(());
        }
        Err(self
            .refused(real, "a user's file system may be mounted on it".to_owned())
            .fix("unmount it"))
    }

    fn source(&self, node: Node, real: &Path, rule: &Rule, lasting: bool) -> Source {
        Source {
            node,
            path: self.on_host(real),
            restrict: rule.restrict,
            lasting,
        }
    }

    /// The proved directory that `path` leads to.
    fn dir(&self, path: &Path, links: &mut usize) -> Result<Rc<Dir>> {
        let known = |(at, _): &&(PathBuf, Rc<Dir>)| at.as_os_str() == path.as_os_str();
        if let Some((_, dir)) = self.dirs.borrow().iter().find(known) {
            return Ok(Rc::clone(dir));
        }
        let dir = match path.parent() {
            None => self.root_dir()?,
            Some(_) => match self.follow(path, links)? {
                Place::Dir(dir) => dir,
                Place::Other(_, node, real) => return Err(self.wrong_type(&real, &node, "a directory")),
            },
        };
        if path.as_os_str() != dir.path.as_os_str() || path.parent().is_none() {
            self.dirs.borrow_mut().push((path.to_owned(), Rc::clone(&dir)));
        }
        Ok(dir)
    }

    fn root_dir(&self) -> Result<Rc<Dir>> {
        let node = self.root.resolve("/").context(Code::System, || shown(&self.at))?;
        if self.at != Path::new("/") {
            // The way to the root is the administrator's, and nobody else may have made any of it.
            let found = owned::find(&self.at)?;
            if found.is_none_or(|found| found.id() != node.id()) {
                let why = "it was replaced while it was looked at".to_owned();
                return Err(Error::new(Code::UnsafeOwner, shown(&self.at), why));
            }
        }
        self.proved(node, PathBuf::from("/"), None)
    }

    /// Follows `path`, each directory of which is proved once.
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
                Place::Other(_, node, real) => return Err(self.wrong_type(&real, &node, "a directory")),
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
        let known = |(at, _): &&(PathBuf, Rc<Dir>)| *at == real;
        if let Some((_, found)) = self.dirs.borrow().iter().find(known) {
            return Ok(Place::Dir(Rc::clone(found)));
        }
        if dir.firm
            && is_soname(name)
            && let Some((user, target)) = dir.node.link_of(name).map_err(|e| self.missing(&real, &e))?
        {
            self.check_user(&dir, user, &real)?;
            return self.link(dir, &real, &target, links);
        }
        let node = self.child(&dir, name, &real)?;
        if node.is_dir() {
            let found = self.proved(node, real.clone(), Some(dir))?;
            self.dirs.borrow_mut().push((real, Rc::clone(&found)));
            return Ok(Place::Dir(found));
        }
        if !node.is_symlink() {
            return Ok(Place::Other(dir, node, real));
        }
        if !dir.firm {
            let why = "it is a symbolic link in a directory that others can write to".to_owned();
            return Err(self.refused(&real, why));
        }
        self.check_owner(&dir, &node, &real)?;
        let target = node.read_link().context(Code::System, || self.shown(&real))?;
        self.link(dir, &real, &target, links)
    }

    fn link(&self, dir: Rc<Dir>, real: &Path, target: &Path, links: &mut usize) -> Result<Place> {
        *links += 1;
        if *links > MAX_LINKS {
            return Err(Error::io(Code::System, self.shown(real), &Errno::LOOP.into()));
        }
        self.steps(dir, target, links)
    }

    fn child(&self, dir: &Dir, name: &OsStr, real: &Path) -> Result<Node> {
        if dir.firm {
            return dir.node.child(name).map_err(|e| self.missing(real, &e));
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let entry = rustix::fs::openat(dir.node.as_fd(), name, flags, Mode::empty());
        let entry = entry.map_err(|e| self.missing(real, &e.into()))?;
        self.check_mount(dir, entry.as_fd(), real)?;
        Node::from_fd(entry).map_err(|e| self.missing(real, &e))
    }

    fn proved(&self, node: Node, path: PathBuf, parent: Option<Rc<Dir>>) -> Result<Rc<Dir>> {
        match &parent {
            Some(parent) => self.check_owner(parent, &node, &path)?,
            None if owned::trusted_users().contains(&node.stat().st_uid) => {}
            None => return Err(self.foreign(&path, node.stat().st_uid)),
        }
        let mode = node.stat().st_mode;
        if mode & OTHERS_WRITE != 0 && mode & STICKY == 0 {
            return Err(self.writable(&path, &node));
        }
        // With the sticky bit, what root put there stays, and a group of root's choice (Nix's builders) is not everybody.
        let firm = mode & 0o002 == 0 && owned::trusted_users().contains(&node.stat().st_uid);
        Ok(Rc::new(Dir {
            firm,
            lasting: firm && owned::keeps(&path, mode) && parent.as_ref().is_none_or(|parent| parent.lasting),
            node,
            path,
            parent,
        }))
    }

    /// The owner and the mode of what is no directory.
    fn check(&self, dir: &Dir, node: &Node, real: &Path) -> Result<()> {
        self.check_owner(dir, node, real)?;
        if node.stat().st_mode & OTHERS_WRITE != 0 {
            return Err(self.writable(real, node));
        }
        Ok(())
    }

    fn check_owner(&self, dir: &Dir, node: &Node, real: &Path) -> Result<()> {
        self.check_user(dir, node.stat().st_uid, real)
    }

    /// The overflow user may be anybody: that is no proof where anybody can put an entry.
    fn check_user(&self, dir: &Dir, user: u32, real: &Path) -> Result<()> {
        let known = owned::trusted_users();
        let known = if dir.firm {
            known
        } else {
            known.get(..2).unwrap_or(known)
        };
        if known.contains(&user) || self.also == Some(user) {
            return Ok(());
        }
        Err(self.foreign(real, user))
    }

    fn check_type(&self, real: &Path, node: &Node, rule: &Rule) -> Result<()> {
        if rule.types.contains(&node.kind()) {
            return Ok(());
        }
        Err(self.wrong_type(real, node, rule.expected))
    }

    fn check_no_sockets(&self, real: &Path, node: &Node) -> Result<()> {
        let mut left = MAX_SEARCHED;
        match search(node, &mut left, 0) {
            Ok(None) => Ok(()),
            Ok(Some(socket)) => {
                let why = format!(
                    "it holds the socket {}, and a read-only mount does not stop a container from connecting",
                    socket.display()
                );
                let e = Error::new(Code::UnsafePath, self.shown(real), why);
                Err(e.fix("name the files that containers need instead of the directory"))
            }
            Err(e) => Err(Error::io(Code::UnsafePath, self.shown(real), &e)
                .fix("name a smaller directory, or its files: the whole of it is searched for sockets")),
        }
    }

    fn wrong_type(&self, real: &Path, node: &Node, expected: &str) -> Error {
        let why = format!("expected {expected}, found {}", name_of(node.kind()));
        let fix = format!("remove it, or put {expected} there; a link is not followed");
        Error::new(Code::UnsafePath, self.shown(real), why).fix(fix)
    }

    fn writable(&self, real: &Path, node: &Node) -> Error {
        let mode = node.stat().st_mode & 0o7777;
        self.refused(real, format!("mode {mode:04o} lets others write to it"))
    }

    fn foreign(&self, real: &Path, user: u32) -> Error {
        self.refused(real, format!("it belongs to user {user}, not to root"))
    }

    fn refused(&self, real: &Path, why: String) -> Error {
        Error::new(Code::UnsafeOwner, self.shown(real), why)
    }

    fn missing(&self, real: &Path, e: &io::Error) -> Error {
        Error::io(Code::NoLibraries, self.shown(real), e)
    }

    fn on_host(&self, real: &Path) -> PathBuf {
        self.at.join(real.strip_prefix("/").unwrap_or(real))
    }

    fn shown(&self, real: &Path) -> String {
        shown(&self.on_host(real))
    }
}

/// The type of the file system of a mount, as `/proc/self/mountinfo` has it.
fn kind_of_mount(id: u64) -> Option<String> {
    let mounts = Root::open("/proc")
        .ok()?
        .read_text("thread-self/mountinfo", 16 << 20)
        .ok()?;
    let of_it = |line: &&str| line.split(' ').next().and_then(|n| n.parse().ok()) == Some(id);
    let (_, about) = mounts.lines().find(of_it)?.split_once(" - ")?;
    about.split(' ').next().map(str::to_owned)
}

/// Whether a name is a soname, `libcuda.so.1`, which is nearly always a link to the file with the version.
fn is_soname(name: &OsStr) -> bool {
    let version = name.to_str().and_then(|name| name.split_once(".so."));
    version.is_some_and(|(_, version)| !version.contains('.'))
}

/// Entries of a directory that is searched for sockets, and how deep.
const MAX_SEARCHED: usize = 65_536;
const MAX_DEPTH: usize = 16;

/// The first socket below a directory; `EFBIG` when there is more than is searched.
fn search(dir: &Node, left: &mut usize, depth: usize) -> io::Result<Option<PathBuf>> {
    if depth > MAX_DEPTH {
        return Err(Errno::FBIG.into());
    }
    let mut below = Vec::new();
    let mut socket = None;
    let mut seen = 0;
    dir.visit(*left, |name, kind| {
        seen += 1;
        let name = || PathBuf::from(std::os::unix::ffi::OsStrExt::from_bytes(name.to_bytes()) as &OsStr);
        match kind {
            FileType::Socket => socket = Some(name()),
            // Some file systems do not say.
            FileType::Directory | FileType::Unknown => below.push(name()),
            _ => {}
        }
    })?;
    *left -= seen;
    for name in below {
        if socket.is_some() {
            break;
        }
        let node = dir.child(&name)?;
        match node.kind() {
            FileType::Socket => socket = Some(name),
            FileType::Directory => socket = search(&node, left, depth + 1)?.map(|found| name.join(found)),
            _ => {}
        }
    }
    Ok(socket)
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

        /// What is refused, and why.
        fn refused(&self, path: &str, wanted: Use, why: &str) {
            let e = self.find(path, wanted).unwrap_err();
            assert!(e.to_string().contains(why), "{e}");
        }

        fn lasting(&self, path: &str, wanted: Use) -> Result<()> {
            let root = Root::open(self.0.path()).unwrap();
            let walk = Walk::new(&root, self.0.path());
            walk.find(Path::new(path), wanted)?.lasting().map(drop)
        }
    }

    /// Tests that give files away need root.
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
    fn in_a_sticky_directory_only_what_is_roots_and_no_link() {
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
        // Nix's store: root's, and its builders' group may add to it.
        t.file("nix/store/a/libcuda.so.1")
            .link("a", "nix/store/b")
            .mode("nix/store", 0o1775);
        t.find("/nix/store/b/libcuda.so.1", Use::File).unwrap();
        t.lasting("/nix/store/b/libcuda.so.1", Use::File).unwrap();
        t.mode("nix/store", 0o775)
            .refused("/nix/store/b/libcuda.so.1", Use::File, "lets others write");
        // The way to the driver root is proved as well.
        let t = Tree::new();
        t.file("u/root/usr/lib/libcuda.so.1").give("u");
        let root = Root::open(t.at("u/root")).unwrap();
        let walk = Walk::new(&root, &t.at("u/root"));
        let e = walk
            .find(Path::new("/usr/lib/libcuda.so.1"), Use::File)
            .unwrap_err();
        assert_eq!(e.code(), Code::UnsafeOwner);
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
        // The daemon's user, as nvidia-persistenced has one.
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
        // As root's own daemon makes it.
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
        // What a user is trusted with is the pipes alone, and proves nothing for other files.
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
}
