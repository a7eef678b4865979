//! Classifies the `libcuda` that a program of the image would load: the driver's, a stub, a
//! compatibility package's, or one in the image.
//!
//! The driver directory comes first in the loader's cache, and NVIDIA's images have it in
//! `LD_LIBRARY_PATH`. So only a directory before it in that variable can hide the driver's library.

use std::path::{Path, PathBuf};

use crate::compat::forward::{OWNER, SECTION};
use crate::ldso::resolve::Via;
use crate::ldso::{LoaderEnv, note, resolve};
use crate::sys::root::Root;

/// The largest stub, in bytes: stubs have some tens of kB, and every driver's library over a
/// megabyte.
const MAX_STUB: i64 = 1 << 20;
/// The default driver directory.
pub const DRIVER_DIR: &str = "/usr/local/nvidia";

/// The origin of a `libcuda`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A stub for linking: every call fails with error 34.
    Stub,
    /// A `cuda-compat` package.
    Compat,
    /// A driver.
    Driver,
    /// An empty file, which older container tools leave behind.
    Empty,
}

/// A `libcuda` of the image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Libcuda {
    /// Its path.
    pub path: PathBuf,
    /// Its origin.
    pub kind: Kind,
    /// The driver version in its real name.
    pub version: Option<String>,
    /// The compatibility package's note, JSON.
    pub note: Option<Vec<u8>>,
}

impl Libcuda {
    /// Classifies the file at `path`; `None` if there is none.
    pub fn at(root: &Root, path: &Path) -> Option<Self> {
        let node = root.resolve(path).ok().filter(crate::sys::root::Node::is_file)?;
        let real = node.path().ok();
        let real = real.as_deref().unwrap_or(path);
        let version = version_in_name(real).or_else(|| version_in_name(path));
        let size = node.stat().st_size;
        let note = node
            .open_read()
            .ok()
            .and_then(|file| note::find(&file, SECTION, OWNER));
        let in_dir = |name: &str| {
            [path, real]
                .iter()
                .any(|p| p.parent().is_some_and(|d| d.ends_with(name)))
        };
        let kind = if size == 0 {
            Kind::Empty
        } else if note.is_some() || in_dir("compat") {
            Kind::Compat
        } else if in_dir("stubs") || version.is_none() && size < MAX_STUB {
            Kind::Stub
        } else {
            Kind::Driver
        };
        Some(Self {
            path: path.to_owned(),
            kind,
            version: version.map(str::to_owned),
            note,
        })
    }
}

/// The library that hides the driver's `soname`, because a directory of `library_path`
/// (`LD_LIBRARY_PATH`) comes before `driver_dir`; `None` if the loader finds the driver's.
pub fn hides_the_driver(root: &Root, library_path: &str, soname: &str, driver_dir: &Path) -> Option<Libcuda> {
    let mut dirs = library_path.split([':', ';']).filter(|dir| dir.starts_with('/'));
    let dirs = dirs
        .by_ref()
        .take(64)
        .take_while(|dir| !Path::new(dir).starts_with(driver_dir));
    for dir in dirs {
        let env = LoaderEnv {
            library_path: Some(dir.as_bytes().to_vec()),
            ..LoaderEnv::default()
        };
        let path = Path::new(dir).join(soname);
        if !root.exists(&path) {
            continue;
        }
        // The loader skips a file that is no library for its architecture.
        let found = resolve(root, soname, &env).filter(|found| found.via == Via::LibraryPath)?;
        return Libcuda::at(root, &found.path);
    }
    None
}

/// The version in a driver library's name: three digits, then one or two more numbers.
pub fn version_in_name(path: &Path) -> Option<&str> {
    let (_, version) = path.file_name()?.to_str()?.split_once(".so.")?;
    let mut parts = version.split('.');
    let branch = parts.next()?;
    let numeric = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    (branch.len() >= 3 && numeric(branch) && parts.clone().count() >= 1 && parts.all(numeric))
        .then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_in_a_name() {
        for (path, version) in [
            ("/x/libcuda.so.535.104.05", Some("535.104.05")),
            ("/x/libcuda.so.1", None),
        ] {
            assert_eq!(version_in_name(Path::new(path)), version, "{path}");
        }
    }
}
