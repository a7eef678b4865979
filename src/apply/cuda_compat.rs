//! Whether an image's CUDA forward-compatibility libraries are to be used with this host's driver: the look into the
//! container. The decision is [`crate::compat::forward`]'s.

//!
//! A container that uses them finds them through the driver directory: the links there by which libcuda is found lead
//! to the image's files. So they come first for the loader's cache and for `LD_LIBRARY_PATH` alike, which official
//! CUDA images set to the driver directory, and nothing of the image is ever mounted.

use std::path::{Path, PathBuf};

use super::container::Container;
use crate::compat::forward::{DEFAULT_DIR, HostDriver, Note, OWNER, Package, SECTION, wanted};
use crate::ldso::note;
use crate::plan::{Forward, Link, Place, Plan};
use crate::sys::root::Node;

/// Entries of the directory that are looked at.
const MAX_ENTRIES: usize = 4096;
/// Libraries of a package: there are six.
const MAX_LIBRARIES: usize = 64;

/// What a look into a container found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Found {
    /// Nothing, or nothing newer than the host's driver.
    Nothing,
    /// Newer libraries that do not work here, and why.
    Unsuited(String),
    /// The directory with the libraries to use, with all links resolved.
    Use(PathBuf),
}

/// Looks for compatibility libraries at `at` in `container`. They are read as data.
pub fn find(container: &Container, at: &Path, host: HostDriver) -> Found {
    look(container, at, host).unwrap_or(Found::Nothing)
}

fn look(container: &Container, at: &Path, host: HostDriver) -> Option<Found> {
    let root = container.root();
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
                "{}: {} versions of libcuda are there, and which is meant cannot be known",
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
        None => "without a note of their own they need an older branch".to_owned(),
    };
    Some(Found::Unsuited(format!(
        "{}: the image's CUDA compatibility libraries {} are not used with driver {driver}: {why}",
        at.display(),
        package.version
    )))
}

/// The plan as it is to be applied to this container: with the image's compatibility libraries first, if they are
/// to be used. The second value says what the user should know.
pub(super) fn prefer(container: &Container, plan: &Plan) -> (Option<(PathBuf, Plan)>, Option<String>) {
    let (driver, refused) = match &plan.forward {
        Forward::Off => return (None, None),
        Forward::Allowed => (&plan.driver_version, None),
        Forward::Refused(why) => (&plan.driver_version, Some(why)),
    };
    let host = HostDriver {
        driver: driver.parse().ok(),
        cuda: None,
    };
    let dir = match find(container, Path::new(DEFAULT_DIR), host) {
        Found::Nothing => return (None, None),
        Found::Unsuited(why) => return (None, Some(why)),
        Found::Use(dir) => dir,
    };
    if let Some(why) = refused {
        let line = format!(
            "{}: the image's CUDA compatibility libraries are newer than the driver and not used: {why}",
            dir.display()
        );
        return (None, Some(line));
    }
    let names = libraries(container, &dir);
    if !names.iter().any(|n| n == "libcuda.so.1") {
        let line = format!("{}: no libcuda.so.1; not used", dir.display());
        return (None, Some(line));
    }
    let mut plan = plan.clone();
    let lib = Path::new(Place::Lib64.dir());
    for name in names {
        let at = lib.join(&name);
        let target = dir.join(&name);
        match plan.links.iter_mut().find(|l| l.at == at) {
            Some(link) => link.target = target,
            None => plan.links.push(Link { at, target }),
        }
    }
    (Some((dir, plan)), None)
}

/// The names by which programs ask for a library of the directory: `libcuda.so.1` and `libcuda.so`, no full versions.
fn libraries(container: &Container, dir: &Path) -> Vec<String> {
    let entries = container.root().read_dir(dir, MAX_ENTRIES).unwrap_or_default();
    let mut names: Vec<String> = entries
        .into_iter()
        .filter_map(|e| e.name.into_string().ok())
        .filter(|name| {
            name.starts_with("lib")
                && name.split_once(".so").is_some_and(|(_, rest)| {
                    rest.is_empty() || (rest.starts_with('.') && !rest[1..].contains('.'))
                })
        })
        .filter(|name| {
            container
                .root()
                .resolve(dir.join(name))
                .is_ok_and(|n| n.is_file())
        })
        .take(MAX_LIBRARIES)
        .collect();
    names.sort_unstable();
    names
}
