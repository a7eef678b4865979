//! Finds the driver's libraries and their version.
//!
//! The driver root's `ld.so.cache` lists nearly all of them, so on an ordinary host nvoci reads no
//! directory. If the cache lacks `libcuda` or `libnvidia-ml` of the kernel module's version, nvoci
//! reads the configured directories, then those of distributions, installers and Kubernetes. A file
//! belongs to the driver if its real name ends in the driver's version (`libcuda.so.580.159.04`),
//! or if NVIDIA gives it a version of its own (`OWN_VERSION`).

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::FileType;

use super::driver;
use super::{Bits, DriverFile, FileKind, Host, Locations, Roots, absent};
use crate::compat::Version;
use crate::ldso::abi::{self, Arch};
use crate::ldso::cache::{self, Cache, Entry};
use crate::ldso::elf;
use crate::sys::root::{Node, Root};
use crate::sys::source::{Stamp, Trace, Traced, Walk};

/// Prefixes of the driver's library names.
const PREFIXES: &[&str] = &[
    "libcuda.so.",
    "libcudadebugger.so.",
    "libnvidia-",
    "libnvcuvid.so.",
    "libnvoptix.so.",
    "libnvsdm.so.",
    "libvdpau_nvidia.so.",
    "libEGL_nvidia.so.",
    "libGLESv1_CM_nvidia.so.",
    "libGLESv2_nvidia.so.",
    "libGLX_nvidia.so.",
];

/// Libraries of the driver that have a version of their own.
const OWN_VERSION: &[&str] = &[
    "libnvidia-api.so.",
    "libnvidia-egl-gbm.so.",
    "libnvidia-egl-wayland.so.",
    "libnvidia-egl-wayland2.so.",
    "libnvidia-egl-xcb.so.",
    "libnvidia-egl-xlib.so.",
    "libnvidia-nvvm70.so.",
];

/// Directories of drivers that are in no loader cache. `{triplet}` is the multiarch name; `/*`
/// stands for each subdirectory.
const KNOWN_DIRS: &[&str] = &[
    "usr/lib/{triplet}",
    "usr/lib/{triplet}/nvidia/current",
    "usr/lib/{triplet}/nvidia/*",
    "usr/lib64",
    "usr/lib64/nvidia",
    "usr/lib",
    "usr/lib/nvidia",
    "lib64",
    "usr/local/nvidia/lib64",
    "usr/local/nvidia/lib",
    "run/nvidia/driver/usr/lib/{triplet}",
    "run/nvidia/driver/usr/lib64",
    "run/opengl-driver/lib",
    "home/kubernetes/bin/nvidia/lib64",
    "opt/nvidia/lib64",
    "opt/nvidia/lib",
    "opt/bin/nvidia/lib64",
    "usr/lib/{triplet32}",
    "usr/lib/{triplet32}/nvidia/current",
    "usr/lib32",
    "run/opengl-driver-32/lib",
];

/// The multiarch name of the 32-bit programs that this machine runs.
const TRIPLET_32: &str = if cfg!(target_arch = "aarch64") {
    "arm-linux-gnueabihf"
} else {
    "i386-linux-gnu"
};

/// The libraries that every container needs; their names end in the driver's version.
const VERSION_LIBRARIES: [&str; 2] = ["libcuda.so.", "libnvidia-ml.so."];

/// The most entries of a library directory; a distribution's has a few thousand.
const MAX_ENTRIES: usize = 65_536;
/// The most candidates that are examined.
const MAX_CANDIDATES: usize = 4096;

/// Fills in the version and the libraries whose names `library` accepts. Returns the loader cache's
/// file if it has been read.
pub(super) fn find(
    roots: &Roots,
    loc: &Locations,
    host: &mut Host,
    library: &dyn Fn(&str) -> bool,
) -> Option<Stamp> {
    let Ok(base) = roots.driver.path() else {
        host.warn("the driver root has no path");
        return None;
    };
    let mut search = Search {
        root: &roots.driver,
        walk: roots.walk(),
        base,
        library,
        seen: HashMap::new(),
        found: Vec::new(),
    };
    let wanted = host.kernel.as_ref().map(|k| k.version);

    let cache = search.cache(&loc.ldcache, host);
    if !search.complete(wanted) {
        search.walk.keep_nothing();
        for dir in loc.library_dirs.iter().cloned().chain(search.known_dirs()) {
            search.list(&dir, true, host);
        }
    }
    let version = search.version(wanted)?;
    search.private_dirs(version, host);
    search.vdpau(version);

    let mut names = HashSet::new();
    for candidate in search.found {
        if !candidate.belongs_to(version) {
            continue;
        }
        let Some(Facts { bits, soname }) = candidate.elf else {
            host.warn(format!(
                "{}: not a library for this machine",
                candidate.path.display()
            ));
            continue;
        };
        let subdir = (candidate.path.parent().and_then(Path::file_name) == Some("vdpau".as_ref()))
            .then(|| "vdpau".to_owned());
        // The loader takes the first of two files with one name, so nvoci does too.
        if names.insert((candidate.name.clone(), bits, subdir.is_some())) {
            host.files.push(DriverFile {
                kind: FileKind::Library { soname, bits, subdir },
                name: candidate.name,
                path: candidate.path,
                found: candidate.found,
                text: None,
            });
        }
    }
    host.user_version = Some(version);
    cache
}

/// Whether a directory, from the driver root, holds the driver's libraries and none of the
/// distribution's.
pub(super) fn private(dir: &Path) -> bool {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let system = ["lib", "lib64", "lib32", "libx32"].contains(&name.as_ref())
        && matches!(
            dir.parent().and_then(Path::to_str),
            Some("/" | "/usr" | "/usr/local")
        );
    !system && !name.contains("-linux-gnu")
}

/// The facts of a library's file.
#[derive(Eq, PartialEq)]
pub(super) struct Facts {
    pub(super) bits: Bits,
    /// `DT_SONAME`.
    pub(super) soname: Option<String>,
}

/// A library's facts from the host's own cache, if they are unambiguous. ldconfig has read the
/// file, and its soname is the name in the cache. Reading a dozen large files is most of a cold
/// discovery.
fn cached_facts(entry: &Entry<'_>) -> Option<Facts> {
    let arch = Arch::native();
    let bits = match entry.flags {
        flags if flags == arch.flags => Bits::B64,
        abi::FLAG_LIBC6 => Bits::B32,
        _ => return None,
    };
    Some(Facts {
        bits,
        soname: Some(String::from_utf8(entry.soname.to_vec()).ok()?),
    })
}

/// Word size and soname of a library for this machine; `None` for any other file.
pub(super) fn facts(file: &File) -> Option<Facts> {
    let info = elf::identify(file).ok()?;
    let arch = Arch::native();
    let bits = if info.machine == arch.machine {
        // x32 is a 32-bit ABI on 64-bit machines; no driver was ever built for it.
        info.is_64.then_some(Bits::B64)?
    } else {
        arch.flags_of(info.machine, info.is_64, info.flags)?;
        Bits::B32
    };
    let soname = info.soname.and_then(|s| String::from_utf8(s).ok());
    Some(Facts { bits, soname })
}

/// A library file that may belong to the driver.
struct Candidate {
    name: String,
    path: PathBuf,
    found: PathBuf,
    /// Word size and soname; `None` for a file that is not a library for this machine.
    elf: Option<Facts>,
}

impl Candidate {
    /// The driver version at the end of the name.
    fn version(&self) -> Option<Version> {
        let (_, version) = self.name.split_once(".so.")?;
        driver::version(version)
    }

    fn belongs_to(&self, version: Version) -> bool {
        self.version() == Some(version) || OWN_VERSION.iter().any(|p| self.name.starts_with(p))
    }
}

/// A file of the driver that was found.
pub(super) enum Located {
    /// By a path that root alone can change, so that a bind needs no second lookup.
    Proved(Traced),
    Open(Node),
}

impl Located {
    pub(super) fn is_file(&self) -> bool {
        match self {
            Self::Proved(traced) => traced.is_file(),
            Self::Open(node) => node.is_file(),
        }
    }

    /// Its path from the driver root, all links resolved.
    pub(super) fn path(&self, base: &Path) -> Option<PathBuf> {
        match self {
            Self::Proved(traced) => Some(traced.path().to_owned()),
            Self::Open(node) => below(base, &node.path().ok()?),
        }
    }

    /// Opens a regular file.
    pub(super) fn open(&self, walk: &Walk<'_>) -> io::Result<File> {
        match self {
            Self::Proved(traced) => walk.open_traced(traced),
            Self::Open(node) => node.open_read(),
        }
    }

    /// Reads a regular file.
    pub(super) fn read(&self, walk: &Walk<'_>, max: u64) -> io::Result<Vec<u8>> {
        match self {
            Self::Proved(traced) => walk.read_traced(traced, max),
            Self::Open(node) => node.read(max),
        }
    }
}

struct Search<'a> {
    root: &'a Root,
    walk: Walk<'a>,
    /// The driver root's own path, with which resolved paths begin.
    base: PathBuf,
    /// Selects libraries by name, besides [`VERSION_LIBRARIES`].
    library: &'a dyn Fn(&str) -> bool,
    /// Examined inodes, with the index in `found` of those that were taken.
    seen: HashMap<(u64, u64), Option<usize>>,
    found: Vec<Candidate>,
}

impl Search<'_> {
    /// Takes the driver's libraries from the loader cache.
    fn cache(&mut self, path: &Path, host: &mut Host) -> Option<Stamp> {
        let node = super::optional(path, self.root.resolve(path), host)?;
        let bytes = super::optional(path, node.read(cache::MAX_BYTES), host)?;
        let cache = match Cache::parse(&bytes) {
            Ok(cache) => cache,
            Err(e) => {
                host.warn(format!("{}: {e}", path.display()));
                return None;
            }
        };
        for entry in cache.entries() {
            if is_driver_name(entry.soname) && self.is_needed(entry.soname) {
                self.take(entry.os_path(), cached_facts(&entry));
            }
        }
        Some(Stamp::of(node.stat()))
    }

    fn is_needed(&self, name: &[u8]) -> bool {
        let has_version = VERSION_LIBRARIES
            .iter()
            .any(|prefix| name.starts_with(prefix.as_bytes()));
        has_version || std::str::from_utf8(name).is_ok_and(self.library)
    }

    /// Takes the libraries of a directory, with or without links.
    fn list(&mut self, dir: &Path, links_too: bool, host: &mut Host) {
        let entries = match self.root.read_dir(dir, MAX_ENTRIES) {
            Ok(entries) => entries,
            Err(e) => {
                if !absent(&e) {
                    host.warn(format!("{}: {e}", dir.display()));
                }
                return;
            }
        };
        let mut paths: Vec<PathBuf> = entries
            .into_iter()
            .filter(|e| e.kind != FileType::Directory && (links_too || e.kind != FileType::Symlink))
            .filter(|e| is_driver_name(e.name.as_bytes()) && self.is_needed(e.name.as_bytes()))
            .map(|e| Path::new("/").join(dir).join(e.name))
            // Comparing paths by components is slower, and both have the kernel's spelling.
            .filter(|path| !self.found.iter().any(|c| c.path.as_os_str() == path.as_os_str()))
            .collect();
        paths.sort_unstable();
        for path in paths {
            self.take(&path, None);
        }
    }

    /// Examines one path and skips a missing file or another type. It reads the file only if its
    /// facts are not known.
    fn take(&mut self, path: &Path, known: Option<Facts>) {
        if self.found.len() >= MAX_CANDIDATES {
            return;
        }
        let (located, id) = match self.walk.trace(path) {
            Trace::Entry(traced) if traced.is_file() => {
                let id = traced.id();
                (Located::Proved(traced), id)
            }
            Trace::Entry(_) | Trace::Dir(_) | Trace::Missing => return,
            Trace::Unproved => match self.root.resolve(path) {
                Ok(node) if node.is_file() => {
                    let id = node.id();
                    (Located::Open(node), id)
                }
                _ => return,
            },
        };
        if let Some(&index) = self.seen.get(&id) {
            // If a file has two names, only its content shows which is the soname.
            if let Some(before) = index.and_then(|i| self.found.get_mut(i))
                && known.is_some()
                && before.elf != known
            {
                before.elf = located.open(&self.walk).ok().and_then(|file| facts(&file));
            }
            return;
        }
        self.seen.insert(id, None);
        let Some(real) = located.path(&self.base) else {
            return;
        };
        let Some(name) = real.file_name().and_then(|n| n.to_str()).map(str::to_owned) else {
            return;
        };
        if !is_driver_name(name.as_bytes()) {
            return;
        }
        let elf = match known {
            Some(known) => Some(known),
            None => match located.open(&self.walk) {
                Ok(file) => facts(&file),
                Err(_) => return,
            },
        };
        self.seen.insert(id, Some(self.found.len()));
        self.found.push(Candidate {
            name,
            found: Path::new("/").join(path),
            path: real,
            elf,
        });
    }

    /// Whether both libraries that every container needs were found in the wanted version.
    fn complete(&self, wanted: Option<Version>) -> bool {
        let Some(version) = wanted.or_else(|| self.found.iter().find_map(Candidate::version)) else {
            return false;
        };
        VERSION_LIBRARIES.iter().all(|prefix| {
            self.found
                .iter()
                .any(|c| c.name.starts_with(prefix) && c.version() == Some(version))
        })
    }

    /// The version to use: the kernel module's, else that of the first library found.
    fn version(&self, wanted: Option<Version>) -> Option<Version> {
        let mut versions = VERSION_LIBRARIES.iter().flat_map(|prefix| {
            let named = self.found.iter().filter(move |c| c.name.starts_with(prefix));
            named.filter_map(Candidate::version)
        });
        wanted
            .filter(|wanted| versions.clone().any(|v| v == *wanted))
            .or_else(|| versions.next())
    }

    /// Reads the directories that only the driver uses: plug-ins there need not be in the cache.
    fn private_dirs(&mut self, version: Version, host: &mut Host) {
        for dir in self.dirs(version, |c| &c.path) {
            if private(&dir) {
                self.walk.keep_listed(&dir);
                self.list(&dir, false, host);
            }
        }
    }

    /// Takes VDPAU's back end from its own directory, which the loader does not search.
    fn vdpau(&mut self, version: Version) {
        if !self.is_needed(b"libvdpau_nvidia.so.1") {
            return;
        }
        for dir in self.dirs(version, |c| &c.path) {
            for suffix in [version.to_string(), "1".to_owned()] {
                self.take(&dir.join(format!("vdpau/libvdpau_nvidia.so.{suffix}")), None);
            }
        }
    }

    /// The directories of the driver's libraries, each once.
    fn dirs(&self, version: Version, of: impl Fn(&Candidate) -> &Path) -> Vec<PathBuf> {
        const MAX: usize = 8;
        let mut dirs: Vec<PathBuf> = Vec::new();
        for candidate in self.found.iter().filter(|c| c.belongs_to(version)) {
            if let Some(dir) = of(candidate).parent()
                && dirs.len() < MAX
                && !dirs.iter().any(|d| d == dir)
            {
                dirs.push(dir.to_owned());
            }
        }
        dirs
    }

    fn known_dirs(&self) -> Vec<PathBuf> {
        let mut dirs = Vec::with_capacity(KNOWN_DIRS.len());
        for pattern in KNOWN_DIRS {
            let path = pattern
                .replace("{triplet}", Arch::native().triplet)
                .replace("{triplet32}", TRIPLET_32);
            let Some(parent) = path.strip_suffix("/*") else {
                dirs.push(PathBuf::from(path));
                continue;
            };
            let mut children: Vec<PathBuf> = self
                .root
                .read_dir(parent, 64)
                .unwrap_or_default()
                .into_iter()
                .map(|e| Path::new(parent).join(e.name))
                .collect();
            children.sort_unstable();
            dirs.append(&mut children);
        }
        dirs
    }
}

/// Whether a file or soname may be the driver's. A name without a version (`libcuda.so`) is only a
/// link for compilers, and `libnvidia-container` belongs to the vendor's toolkit.
fn is_driver_name(name: &[u8]) -> bool {
    PREFIXES.iter().any(|p| name.starts_with(p.as_bytes()))
        && name.windows(4).any(|w| w == b".so.")
        && !name.starts_with(b"libnvidia-container")
}

/// The directory of a path.
pub(super) fn parent(path: &Path) -> PathBuf {
    path.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned)
}

/// `path` relative to `base`, as an absolute path.
pub(super) fn below(base: &Path, path: &Path) -> Option<PathBuf> {
    let rest = path.strip_prefix(base).ok()?;
    debug_assert!(!rest.components().any(|c| c == Component::ParentDir));
    Some(Path::new("/").join(rest))
}
