//! The driver directory: a tmpfs that nvoci makes and attaches at one place of the rootfs,
//! `/usr/local/nvidia` in most images.

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::apply::container::Container;
use crate::error::{Code, Error, IoContext as _, Result};
use crate::plan::{DriverFile, Link};
use crate::sys::held::close_together;
use crate::sys::mount::{Detached, Placed, Restrict};
use crate::sys::root::{Node, split};
use crate::vocabulary::{LAST_RESORTS, RECORD};

/// Room for links, generated texts and the record, in bytes. Driver files are bound and take no
/// room.
const SIZE: u64 = 4 << 20;

/// The most descriptors that are kept open to be closed together.
const MAX_OPEN: usize = 128;

/// The attached driver directory.
#[derive(Debug)]
pub(super) struct DriverDir {
    /// Its path in the container.
    pub(super) path: PathBuf,
    /// Its root.
    pub(super) top: Node,
    /// Directories below it by path: dozens of files share a few.
    dirs: RefCell<Vec<(PathBuf, Rc<Node>)>>,
}

/// Result of [`DriverDir::attach`].
#[derive(Debug)]
pub(super) enum Attached {
    /// A new, empty directory.
    New(DriverDir),
    /// An earlier hook of this container has made the directory at this path.
    AlreadyThere(PathBuf),
}

impl DriverDir {
    /// Attaches an empty tmpfs at the first free path of `candidates`. Content of the image or of a
    /// volume is never covered.
    pub(super) fn attach(
        container: &Container,
        candidates: &[PathBuf],
        mounts: Option<&[PathBuf]>,
        label: Option<&str>,
        notes: &mut Vec<String>,
    ) -> Result<Attached> {
        let resorts = LAST_RESORTS.iter().map(Path::new);
        for (i, path) in candidates.iter().map(PathBuf::as_path).chain(resorts).enumerate() {
            let place = match Place::find(container, path, mounts, i >= candidates.len()) {
                Found::Free(place) => place,
                Found::Ours => return Ok(Attached::AlreadyThere(path.to_owned())),
                Found::Taken(why) => {
                    notes.push(format!("{} is not used for the driver: {why}", path.display()));
                    continue;
                }
            };
            let what = || format!("driver directory {}", path.display());
            let open = Restrict {
                read_only: false,
                ..Restrict::FILE
            };
            let tmpfs = Detached::tmpfs(SIZE, label, open).context(Code::Mount, what)?;
            let top = tmpfs
                .attach(&place.parent, &place.name)
                .context(Code::Mount, what)?;
            return Ok(Attached::New(Self {
                path: path.to_owned(),
                top,
                dirs: RefCell::default(),
            }));
        }
        Err(Error::new(Code::Mount, "driver directory", notes.join(", "))
            .fix("set `driver-dirs` in /etc/nvoci/config.toml to a path that is free in this image"))
    }

    /// Whether the directory is at `path`, or may come there. Nothing is changed.
    pub(super) fn may_be_at(container: &Container, path: &Path, mounts: Option<&[PathBuf]>) -> bool {
        let state = State::of(container, path, mounts);
        matches!(state, Ok(State::Missing | State::Empty | State::Ours))
    }

    /// Binds the driver files. Returns a warning for each optional file that cannot be bound.
    pub(super) fn fill(&self, files: Vec<(DriverFile, Detached)>) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        let mut done = Vec::new();
        for (file, tree) in files {
            let bound = self
                .bind(&file, tree)
                .context(Code::Mount, || format!("driver file {}", file.source.display()));
            match bound {
                Err(e) if !file.required => warnings.push(e.to_string()),
                bound => done.extend(bound?),
            }
            if done.len() >= MAX_OPEN {
                close_together(std::mem::take(&mut done));
            }
        }
        close_together(done);
        Ok(warnings)
    }

    /// Binds one file to its place. Returns the descriptors to close.
    fn bind(&self, file: &DriverFile, tree: Detached) -> std::io::Result<Vec<OwnedFd>> {
        let dir = self.dir(&file.dir())?;
        let name = OsStr::new(&file.name);
        if tree.is_dir() {
            dir.mkdir(name, 0o755)?;
            tree.attach(&dir, name)?;
            return Ok(Vec::new());
        }
        Placed::make(&dir, name)?.attach(tree)
    }

    /// Makes the links.
    pub(super) fn link(&self, links: &[Link]) -> Result<()> {
        for link in links {
            let what = || format!("link {}", link.at.display());
            let (dir, name) = split(&link.at).context(Code::Mount, what)?;
            let dir = self.dir(dir).context(Code::Mount, what)?;
            match dir.symlink_new(name, &link.target) {
                // A driver file of that name is better than a link to another one.
                Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
                made => made.context(Code::Mount, what)?,
            }
        }
        Ok(())
    }

    /// Writes a generated file at the directory's root, in place of an existing one.
    pub(super) fn write(&self, name: &str, data: &[u8]) -> std::io::Result<()> {
        let name = OsStr::new(name);
        match self.top.create_file(name, 0o444, data) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => self.top.write_file(name, 0o444, data),
            created => created,
        }
    }

    /// Writes a file as [`DriverDir::write`] does and returns it.
    pub(super) fn written(&self, name: &str, data: &[u8]) -> std::io::Result<Node> {
        self.write(name, data)?;
        self.top.child(name)
    }

    /// The directory `path` below the driver directory, made if it is missing.
    pub(super) fn dir(&self, path: &Path) -> std::io::Result<Rc<Node>> {
        let known = self
            .dirs
            .borrow()
            .iter()
            .find(|(at, _)| at.as_os_str() == path.as_os_str())
            .map(|(_, node)| Rc::clone(node));
        if let Some(node) = known {
            return Ok(node);
        }
        let (above, name) = split(path)?;
        let made = match above.as_os_str().as_encoded_bytes() {
            b"" | b"/" => self.top.mkdir(name, 0o755)?,
            _ => self.dir(above)?.mkdir(name, 0o755)?,
        };
        let made = Rc::new(made);
        self.dirs.borrow_mut().push((path.to_owned(), Rc::clone(&made)));
        Ok(made)
    }
}

/// A free name in a directory of the container.
struct Place {
    parent: Node,
    name: OsString,
}

enum Found {
    Free(Place),
    Ours,
    Taken(String),
}

/// The state of a candidate, before anything is changed.
enum State {
    Missing,
    Empty,
    /// An earlier hook has made the directory.
    Ours,
    Taken(&'static str),
}

impl State {
    fn of(container: &Container, path: &Path, mounts: Option<&[PathBuf]>) -> std::io::Result<Self> {
        let (dir, _) = split(path)?;
        Ok(match container.root().resolve_nofollow(path) {
            Ok(node) if node.is_symlink() => Self::Taken("it is a symbolic link"),
            Ok(node) if !node.is_dir() => Self::Taken("it is not a directory"),
            Ok(node) if !container.owns(&node)? => {
                if mounts.is_some_and(|mounts| is_injections(container, dir, &node, mounts)) {
                    Self::Ours
                } else {
                    Self::Taken("a volume is there")
                }
            }
            Ok(node) if !node.is_empty_dir()? => Self::Taken("the image has files there"),
            Ok(_) => Self::Empty,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Self::Missing,
            Err(e) => return Err(e),
        })
    }
}

impl Place {
    fn find(container: &Container, path: &Path, mounts: Option<&[PathBuf]>, only_tmpfs: bool) -> Found {
        match Self::try_find(container, path, mounts, only_tmpfs) {
            Ok(found) => found,
            Err(e) => Found::Taken(Error::io(Code::System, "", &e).why().to_owned()),
        }
    }

    fn try_find(
        container: &Container,
        path: &Path,
        mounts: Option<&[PathBuf]>,
        only_tmpfs: bool,
    ) -> std::io::Result<Found> {
        let (dir, name) = split(path)?;
        let parent = match State::of(container, path, mounts)? {
            State::Ours => return Ok(Found::Ours),
            State::Taken(why) => return Ok(Found::Taken(why.to_owned())),
            State::Empty => container.root().resolve(dir)?,
            State::Missing => {
                let parent = container.own_dir(dir)?;
                if only_tmpfs && !container.on_tmpfs(&parent)? {
                    return Ok(Found::Taken("it is not on a tmpfs".to_owned()));
                }
                parent.mkdir(name, 0o755)?;
                parent
            }
        };
        Ok(Found::Free(Self {
            parent,
            name: name.to_owned(),
        }))
    }
}

/// Whether `node` is the driver directory of an earlier injection. A record alone proves nothing,
/// since a volume can have one. Ours is a tmpfs of this container alone, in a directory of its own,
/// and not a mount of the definition; no program of the container runs yet that could have mounted
/// it.
fn is_injections(container: &Container, dir: &Path, node: &Node, mounts: &[PathBuf]) -> bool {
    let record = node.child(RECORD);
    let recorded = record.is_ok_and(|r| r.is_file() && r.stat().st_uid == node.stat().st_uid);
    let on_own = || container.root().resolve(dir).and_then(|dir| container.owns(&dir));
    recorded
        && on_own().is_ok_and(|own| own)
        && container.on_made(node)
        && node.mount_id().is_ok_and(|id| {
            let of_spec = |path: &PathBuf| {
                let there = container.root().resolve(path);
                there.and_then(|there| there.mount_id()).is_ok_and(|m| m == id)
            };
            !mounts.iter().any(of_spec)
        })
}
