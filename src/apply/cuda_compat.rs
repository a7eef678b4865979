//! Finds an image's CUDA forward-compatibility libraries. [`crate::compat::forward`] decides
//! whether they suit the host's driver.
//!
//! If they do, the driver directory's links (`libcuda.so.1`) lead to the image's files. So both the
//! loader's cache and `LD_LIBRARY_PATH`, which official CUDA images set to the driver directory,
//! find them first. Nothing of the image is ever mounted.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::compat::forward::{DEFAULT_DIR, HostDriver, Note, OWNER, Package, SECTION, wanted};
use crate::ldso::lookup::Lookups;
use crate::ldso::note;
use crate::plan::{Forward, Link, Place, Plan};
use crate::sys::root::{Node, Root};

/// The most entries of the directory that are read.
const MAX_ENTRIES: usize = 4096;
/// Libraries of a package: NVIDIA's has six.
pub(super) const MAX_LIBRARIES: usize = 64;
/// Work units for lookups that the kernel does not resolve at once (see [`Lookups`]).
const MAX_WORK: u32 = 1 << 16;

/// Result of the search in an image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Found {
    /// No libraries, or none newer than the host's driver.
    Nothing,
    /// Newer libraries that do not work here, with the reason.
    Unsuited(String),
    /// The directory of the libraries to use, with all links resolved.
    Use(PathBuf),
}

/// Finds compatibility libraries at `at` in the image. They are read as data and never executed.
pub fn find(root: &Root, at: &Path, host: HostDriver) -> Found {
    find_package(root, at, host).unwrap_or(Found::Nothing)
}

fn find_package(root: &Root, at: &Path, host: HostDriver) -> Option<Found> {
    let dir = root.resolve(at).ok().filter(Node::is_dir)?;
    let mut versions = Vec::new();
    for entry in dir.read_dir(MAX_ENTRIES).ok()? {
        let name = entry.name.to_str().unwrap_or_default();
        let version = name.strip_prefix("libcuda.so.").filter(|v| v.contains('.'));
        if let Some(version) = version.filter(|_| dir.child(&entry.name).is_ok_and(|n| n.is_file())) {
            versions.push(version.to_owned());
        }
    }
    let version = match versions.as_slice() {
        [] => return None,
        [version] => version,
        several => {
            return Some(Found::Unsuited(format!(
                "{}: the image's CUDA compatibility libraries are not used: there are {} versions of libcuda",
                at.display(),
                several.len()
            )));
        }
    };
    let file = dir
        .child(format!("libcuda.so.{version}"))
        .ok()?
        .open_read()
        .ok()?;
    let package = Package {
        version: version.parse().ok()?,
        note: note::find(&file, SECTION, OWNER).and_then(|bytes| Note::parse(&bytes)),
    };
    if wanted(&package, host) {
        let base = root.path().ok()?;
        let resolved = dir.path().ok()?;
        return Some(Found::Use(Path::new("/").join(resolved.strip_prefix(base).ok()?)));
    }
    let driver = host.driver.filter(|driver| package.version > *driver)?;
    let why = match &package.note {
        Some(note) => {
            let branches: Vec<String> = note.branches.iter().map(ToString::to_string).collect();
            format!("they are for driver branches {}", branches.join(", "))
        }
        None => "they have no list of driver branches, so they need an older one".to_owned(),
    };
    Some(Found::Unsuited(format!(
        "{}: the image's CUDA compatibility libraries {} are not used with driver {driver}: {why}",
        at.display(),
        package.version
    )))
}

/// The consequence of an image's compatibility libraries for the plan.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Preferred {
    /// The image has none, or none newer than the driver.
    Nothing,
    /// They are not used, for this reason.
    Refused(String),
    /// They come before the driver's.
    Use {
        /// Their directory.
        dir: PathBuf,
        /// The sonames and link names that programs open.
        names: Vec<OsString>,
    },
}

impl Preferred {
    /// Returns the plan for this container: with links to the image's libraries if they are used.
    pub(super) fn plan<'p>(&self, plan: &'p Plan) -> Cow<'p, Plan> {
        let Self::Use { dir, names } = self else {
            return Cow::Borrowed(plan);
        };
        let mut plan = plan.clone();
        let lib = Path::new(Place::Lib64.dir());
        for name in names {
            let at = lib.join(name);
            let target = dir.join(name);
            match plan.links.iter_mut().find(|l| l.at == at) {
                Some(link) => link.target = target,
                None => plan.links.push(Link { at, target }),
            }
        }
        Cow::Owned(plan)
    }
}

/// Finds the libraries that come before the driver's, if the plan allows them.
pub(super) fn find_preferred(root: &Root, plan: &Plan) -> Preferred {
    let refused = match &plan.forward {
        Forward::Off => return Preferred::Nothing,
        Forward::Allowed => None,
        Forward::Refused(why) => Some(why),
    };
    let host = HostDriver {
        driver: plan.driver_version,
        cuda: None,
    };
    let dir = match find(root, Path::new(DEFAULT_DIR), host) {
        Found::Nothing => return Preferred::Nothing,
        Found::Unsuited(why) => return Preferred::Refused(why),
        Found::Use(dir) => dir,
    };
    if let Some(why) = refused {
        return Preferred::Refused(format!(
            "{}: the image's CUDA compatibility libraries are newer than the driver and not used: {why}",
            dir.display()
        ));
    }
    let names = libraries(root, &dir);
    if !names.iter().any(|n| n == "libcuda.so.1") {
        return Preferred::Refused(format!(
            "{}: the image's CUDA compatibility libraries are not used: no libcuda.so.1",
            dir.display()
        ));
    }
    Preferred::Use {
        dir,
        names: names.into_iter().map(OsString::from).collect(),
    }
}

/// The names that programs open, such as `libcuda.so.1` and `libcuda.so`, without full versions.
fn libraries(root: &Root, dir: &Path) -> Vec<String> {
    let entries = root.read_dir(dir, MAX_ENTRIES).unwrap_or_default();
    let mut lookups = Lookups::new(root, 16, MAX_WORK);
    let mut names: Vec<String> = entries
        .into_iter()
        .filter_map(|e| e.name.into_string().ok())
        .filter(|name| {
            name.starts_with("lib")
                && name.split_once(".so").is_some_and(|(_, rest)| {
                    rest.is_empty() || (rest.starts_with('.') && !rest[1..].contains('.'))
                })
        })
        .filter(|name| lookups.resolve(&dir.join(name)).is_ok_and(|n| n.is_file()))
        .take(MAX_LIBRARIES)
        .collect();
    names.sort_unstable();
    names
}
