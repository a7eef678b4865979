//! Collects the directories that ldconfig scans, such as `/usr/lib/x86_64-linux-gnu`, in its order,
//! each once.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::abi::Arch;
use super::conf::{self, Conf};
use super::current::Time;
use super::lookup::Lookups;
use super::{FirstDir, Warnings};
use inroot::root::{Node, Root};

/// The most directories that are scanned, `glibc-hwcaps` ones included.
const MAX_DIRS: usize = 1024;
/// The most paths that are looked up for them.
const MAX_LOOKUPS: usize = 512;
/// The most names in a `glibc-hwcaps` directory.
const MAX_HWCAPS: usize = 256;
/// Lookups that the kernel does for the configuration and its directories: two or three times an
/// image's usual number.
const BY_KERNEL: u32 = 64;
/// The work units of all other lookups.
const MAX_WORK: u32 = 1 << 16;

/// A directory to scan.
#[derive(Debug)]
pub struct SearchDir {
    /// The container path, as it is written into the cache.
    pub path: PathBuf,
    /// The directory.
    pub node: Node,
    /// The name below `glibc-hwcaps`, for such a directory.
    pub hwcaps: Option<Vec<u8>>,
}

/// All directories with their configuration.
#[derive(Debug)]
pub struct SearchDirs {
    /// In ldconfig's order.
    pub dirs: Vec<SearchDir>,
    /// The newest modification time of a directory or configuration file.
    pub newest: Time,
    /// The configuration.
    pub conf: Conf,
}

/// Collects `extra` directories, then those of the configuration at `conf` and the system's.
///
/// Directories of `known` are left out, also from the time: the caller has their libraries, and
/// files that are added while the container is created prove nothing about the image.
pub fn collect(
    root: &Root,
    arch: &Arch,
    extra: &[PathBuf],
    known: &[FirstDir],
    conf: Option<&Path>,
    warnings: &mut Warnings,
) -> SearchDirs {
    let only_extra = conf.is_none();
    let mut links = Lookups::new(root, BY_KERNEL, MAX_WORK);
    let conf = conf.map_or_else(Conf::default, |path| conf::read(root, path, &mut links, warnings));
    let mut found = Collector {
        links,
        known,
        seen: known
            .iter()
            .filter_map(|dir| root.resolve(&dir.path).ok().map(|node| node.id()))
            .collect(),
        lookups: 0,
        all: SearchDirs {
            dirs: Vec::new(),
            newest: conf.newest,
            conf: Conf::default(),
        },
    };
    let mut named: Vec<&Path> = extra.iter().map(PathBuf::as_path).collect();
    named.extend(conf.dirs.iter().map(|dir| dir.path.as_path()));
    if !only_extra {
        named.extend(system_dirs(root, arch).iter().map(Path::new));
    }
    let mut seen = BTreeSet::new();
    for dir in named {
        // Most configurations name a system directory again.
        if seen.insert(dir.as_os_str()) {
            found.add(dir);
        }
    }
    let lookups_end = found.lookups > MAX_LOOKUPS || found.links.work.is_spent();
    if found.all.dirs.len() >= MAX_DIRS || lookups_end {
        warnings.add(format_args!("too many library directories; the rest is left out"));
    }
    found.all.conf = conf;
    found.all
}

/// The directories that the image's ldconfig scans and its loader searches by default.
pub fn system_dirs(root: &Root, arch: &Arch) -> &'static [&'static str] {
    let is_dir = |path: &&str| root.resolve(path).is_ok_and(|node| node.is_dir());
    if arch.debian_dirs[..2].iter().any(is_dir) {
        arch.debian_dirs
    } else {
        arch.system_dirs
    }
}

struct Collector<'a> {
    links: Lookups<'a>,
    known: &'a [FirstDir],
    seen: BTreeSet<(u64, u64)>,
    /// The number of lookups, or one more than is allowed.
    lookups: usize,
    all: SearchDirs,
}

impl Collector<'_> {
    /// Looks a path up within the limit.
    fn resolve(&mut self, path: &Path) -> std::io::Result<Node> {
        self.lookups = (self.lookups + 1).min(MAX_LOOKUPS + 1);
        if self.lookups > MAX_LOOKUPS {
            return Err(rustix::io::Errno::FBIG.into());
        }
        self.links.resolve(path)
    }

    fn add(&mut self, path: &Path) {
        // By its name too, since the first directory may be mounted at this moment.
        if self.known.iter().any(|dir| dir.path == path) {
            return;
        }
        let found = self.resolve(path);
        if let Some(index) = self.push(path.to_owned(), found, None) {
            self.add_hwcaps(index);
        }
    }

    /// Adds a directory unless it is in the list.
    fn push(&mut self, path: PathBuf, node: std::io::Result<Node>, hwcaps: Option<Vec<u8>>) -> Option<usize> {
        let node = node.ok().filter(Node::is_dir)?;
        if self.all.dirs.len() >= MAX_DIRS || !self.seen.insert(node.id()) {
            return None;
        }
        self.all.newest.note(node.stat());
        self.all.dirs.push(SearchDir { path, node, hwcaps });
        Some(self.all.dirs.len() - 1)
    }

    /// Adds the directories below `glibc-hwcaps`, if any.
    fn add_hwcaps(&mut self, index: usize) {
        let parent = &self.all.dirs[index];
        let Ok(mut node) = parent.node.child_c(c"glibc-hwcaps") else {
            return;
        };
        let path = parent.path.join("glibc-hwcaps");
        if node.is_symlink() {
            match self.resolve(&path) {
                Ok(target) => node = target,
                Err(_) => return,
            }
        }
        self.all.newest.note(node.stat());
        let mut names = Vec::new();
        // No loader supports more names.
        let _ = node.visit(MAX_HWCAPS, |name, kind| {
            let name = name.to_bytes();
            // The loader's list of names is separated by colons.
            if name[0] != b'.' && !name.contains(&b':') && kind != FileType::RegularFile {
                names.push(name.to_vec());
            }
        });
        for name in names {
            let path = path.join(OsStr::from_bytes(&name));
            let found = self.resolve(&path);
            self.push(path, found, Some(name));
        }
    }
}
