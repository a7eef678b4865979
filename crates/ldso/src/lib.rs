//! Reads and writes glibc's loader cache as ldconfig does, and executes nothing. For example, it
//! puts `/usr/local/nvidia/lib64/libcuda.so.1` first in an image's `/etc/ld.so.cache`.
//!
//! | modules | contents |
//! |---|---|
//! | `abi`, `order` | architectures, flags, the order of names |
//! | `elf`, `section`, `note`, `conf`, `glob`, `dirs`, `scan` | the files that ldconfig reads |
//! | `lookup` | lookups through an image's links within a budget |
//! | `cache`, `write`, `merge`, `current` | the cache: reading, writing, extending, and its age |
//! | `flavor`, `musl`, `resolve` | a root's loader, and the libraries that it finds |
//!
//! An image controls everything below a root, so the crate opens it by descriptor only, within
//! bounds of size, count and work. A bad file is skipped with a warning.

#![forbid(unsafe_code)]

pub mod abi;
pub mod cache;
pub mod conf;
pub mod current;
pub mod dirs;
pub mod elf;
pub mod flavor;
pub mod glob;
pub mod lookup;
pub mod merge;
pub mod musl;
pub mod note;
pub mod order;
pub mod resolve;
pub mod scan;
pub mod section;
pub mod write;

#[cfg(test)]
mod tests;
mod warnings;

#[cfg(any(test, feature = "fixtures"))]
pub mod fixtures;

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

pub use elf::ElfInfo;
pub use flavor::{Flavor, flavor};
pub use resolve::{Found, LibraryPath, LoaderEnv, Reaction, resolve};
pub use scan::{Change, Links};
pub use warnings::Warnings;

use self::abi::Arch;
use self::current::Time;
use self::dirs::SearchDirs;
use self::merge::Addition;
use inroot::root::Root;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The path of glibc's loader cache.
pub const CACHE: &str = "/etc/ld.so.cache";

/// The parameters of a cache update.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    /// Directories whose libraries come first, in order. The caller lists their libraries; the
    /// directories need not exist in the root yet and are not scanned.
    pub first: &'a [FirstDir],
    /// The name of the file in `/etc/ld.so.conf.d` that lists those directories for a later
    /// ldconfig run in the container; it must sort first there.
    pub conf_name: &'a str,
    /// The name of the libraries of `first` in warnings: "the driver's libraries".
    pub libraries: &'a str,
    /// The warning for a root of musl libc, which may not load them.
    pub on_musl: &'a str,
}

/// A directory that comes first.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FirstDir {
    /// The container path.
    pub path: PathBuf,
    /// The libraries in it.
    pub libs: Vec<Lib>,
}

/// A library in a [`FirstDir`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lib {
    /// The name that programs open.
    pub soname: String,
    /// The file's (or link's) name in the directory. A later ldconfig run writes the soname here.
    pub file: String,
    /// Whether it is a 64-bit object.
    pub is_64: bool,
    /// `e_machine`.
    pub machine: u16,
}

/// The new cache.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CacheOutcome {
    /// The whole file for `target`; empty with [`How::None`].
    pub bytes: Vec<u8>,
    /// The container path of the file.
    pub target: &'static str,
    /// The way it was made.
    pub how: How,
    /// Warnings about the image, one line each.
    pub warnings: Vec<String>,
}

/// The way in which a new cache was made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum How {
    /// The image's own cache, extended.
    Merged,
    /// A cache from a scan of the image's libraries.
    Rebuilt {
        /// The reason why the image's cache was not enough.
        reason: String,
    },
    /// musl has a list of directories instead of a cache.
    MuslPath,
    /// None: the root has no loader.
    None,
}

/// The place of a loader's cache or path file, if `path` is one: the possible targets of a
/// [`CacheOutcome`].
pub fn cache_place(path: &[u8]) -> Option<&'static str> {
    let musl = abi::ARCHES.iter().map(|arch| arch.musl.1);
    musl.chain([CACHE]).find(|place| place.as_bytes() == path)
}

/// Computes the loader's cache for a root with some directories first. Reads only.
pub fn updated_cache(root: &Root, update: &Update<'_>) -> CacheOutcome {
    let mut warnings = Warnings::default();
    let (bytes, target, how) = match flavor(root) {
        Flavor::Glibc(arch) => {
            let (bytes, how) = glibc_cache(root, arch, update, &mut warnings);
            (bytes, CACHE, how)
        }
        Flavor::Musl(arch) => {
            warnings.add(format_args!("the image is of musl libc: {}", update.on_musl));
            let dirs = update.first.iter().map(|dir| dir.path.as_path());
            (musl::path_file(root, arch, dirs), arch.musl.1, How::MuslPath)
        }
        Flavor::None => (Vec::new(), CACHE, How::None),
    };
    CacheOutcome {
        bytes,
        target,
        how,
        warnings: warnings.into_lines(),
    }
}

fn glibc_cache(root: &Root, arch: &Arch, update: &Update<'_>, warnings: &mut Warnings) -> (Vec<u8>, How) {
    let search = dirs::collect(
        root,
        arch,
        &[],
        update.first,
        Some(Path::new(conf::DEFAULT)),
        warnings,
    );
    later_runs(update, &search, warnings);
    let additions = additions(arch, update);
    let merged = read_current(root, search.newest, &additions).and_then(|bytes| {
        let replaced: Vec<_> = update.first.iter().map(|dir| path_bytes(&dir.path)).collect();
        merge::merge(bytes, &additions, &replaced)
    });
    match merged {
        Ok(bytes) => (bytes, How::Merged),
        Err(reason) => {
            let reason = format!("{CACHE}: {reason}");
            (
                rebuild(root, arch, &additions, &search, warnings),
                How::Rebuilt { reason },
            )
        }
    }
}

/// The image's cache with room for `additions`, if it is newer than all directories and files that
/// it describes.
fn read_current(root: &Root, newest: Time, additions: &[Addition]) -> Result<Vec<u8>, String> {
    let node = root.resolve(CACHE).map_err(|e| e.to_string())?;
    if !Time::of(node.stat()).describes(newest) {
        return Err("older than a library directory or the configuration".to_owned());
    }
    let room = (merge::room(additions), merge::room_behind(additions));
    node.read_between(room, cache::MAX_BYTES)
        .map_err(|e| e.to_string())
}

/// Scans the image's directories and puts the libraries that come first before them.
fn rebuild(
    root: &Root,
    arch: &Arch,
    ours: &[Addition],
    search: &SearchDirs,
    warnings: &mut Warnings,
) -> Vec<u8> {
    let mut builder = write::Builder::default();
    for library in ours {
        let slash = library.path.iter().rposition(|&b| b == b'/').unwrap_or(0);
        let (dir, file) = (&library.path[..slash], &library.path[slash + 1..]);
        builder.add(dir, file, &library.soname, library.flags, None);
    }
    scan::Scanner::new(root, arch, Links::Leave).scan_all(search.dirs.iter(), &mut builder, warnings);
    builder.prefer(ours);
    builder.encode()
}

/// The parameters of a plain ldconfig run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Directories to scan before all others.
    pub dirs: Vec<PathBuf>,
    /// The configuration file; `None` to scan `dirs` only.
    pub conf: Option<PathBuf>,
    /// The handling of missing and stale soname links.
    pub links: Links,
}

/// Scans a root as ldconfig does. Returns the cache that ldconfig would write, and the changes of
/// [`Links::Record`].
pub fn scan_root(root: &Root, run: &Run, warnings: &mut Warnings) -> (Vec<u8>, Vec<Change>) {
    let arch = match flavor(root) {
        Flavor::Glibc(arch) => arch,
        // A root without a loader may still receive libraries.
        Flavor::Musl(_) | Flavor::None => Arch::native(),
    };
    let search = dirs::collect(root, arch, &run.dirs, &[], run.conf.as_deref(), warnings);
    let mut builder = write::Builder::default();
    let mut scanner = scan::Scanner::new(root, arch, run.links);
    scanner.scan_all(search.dirs.iter(), &mut builder, warnings);
    (builder.encode(), scanner.into_changes())
}

/// The libraries that come first, as cache entries.
fn additions(arch: &Arch, update: &Update<'_>) -> Vec<Addition> {
    let mut all = Vec::new();
    for dir in update.first {
        for lib in &dir.libs {
            let Some(flags) = arch.flags_of(lib.machine, lib.is_64, 0) else {
                continue;
            };
            let mut path = path_bytes(&dir.path).to_vec();
            path.push(b'/');
            path.extend_from_slice(lib.file.as_bytes());
            all.push(Addition {
                soname: lib.soname.clone().into_bytes(),
                path,
                flags,
            });
        }
    }
    all
}

/// Warns if an ldconfig run in the container would put other directories before ours.
fn later_runs(update: &Update<'_>, search: &SearchDirs, warnings: &mut Warnings) {
    let conf = &search.conf;
    let Some(before) = conf.first_include else {
        warnings.add(format_args!(
            "{}: no include line, so a later ldconfig run in the container drops {}",
            conf::DEFAULT,
            update.libraries
        ));
        return;
    };
    for dir in &conf.dirs[..before] {
        let same = |d: &&dirs::SearchDir| d.path.as_os_str() == dir.path.as_os_str();
        let Some(found) = search.dirs.iter().find(same) else {
            continue;
        };
        let mut libs = update.first.iter().flat_map(|first| &first.libs);
        let clash = libs.find(|lib| found.node.child(&lib.soname).is_ok());
        if let Some(lib) = clash {
            warnings.add(format_args!(
                "{}/{}: listed in {} before {}, so a later ldconfig run in the container prefers it",
                dir.path.display(),
                lib.soname,
                dir.from.display(),
                update.conf_name
            ));
        }
    }
}

/// A directory's path without trailing slashes.
fn path_bytes(path: &Path) -> &[u8] {
    let bytes = path.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|&b| b != b'/').map_or(0, |i| i + 1);
    &bytes[..end]
}
