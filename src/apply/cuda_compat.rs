//! Whether an image's CUDA forward-compatibility libraries are to be used with this host's driver: the look into the
//! container. The decision is [`crate::compat::forward`]'s.
//!
//! A container that uses them finds them through the driver directory: the links there by which libcuda is found lead
//! to the image's files. So they come first for the loader's cache and for `LD_LIBRARY_PATH` alike, which official
//! CUDA images set to the driver directory, and nothing of the image is ever mounted.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::compat::forward::{DEFAULT_DIR, HostDriver, Note, OWNER, Package, SECTION, wanted};
use crate::ldso::lookup::Lookups;
use crate::ldso::note;
use crate::plan::{Forward, Link, Place, Plan};
use crate::sys::root::{Node, Root};

/// Entries of the directory that are looked at.
const MAX_ENTRIES: usize = 4096;
/// Libraries of a package: there are six.
pub(super) const MAX_LIBRARIES: usize = 64;
/// The work of looking the libraries up, for those that the kernel does not look up at once.
const MAX_WORK: u32 = 1 << 16;

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

/// Looks for compatibility libraries at `at` in the image. They are read as data.
pub fn find(root: &Root, at: &Path, host: HostDriver) -> Found {
    look(root, at, host).unwrap_or(Found::Nothing)
}

fn look(root: &Root, at: &Path, host: HostDriver) -> Option<Found> {
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

/// What is made of an image's compatibility libraries.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Preferred {
    /// There are none, or none that matter.
    Nothing,
    /// They are not used, and this is why.
    Refused(String),
    /// They come first.
    Use {
        /// Their directory.
        dir: PathBuf,
        /// The names by which programs ask for them.
        names: Vec<OsString>,
    },
}

impl Preferred {
    /// The plan as it is to be applied to this container: with the image's libraries first, if they are to be used.
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

/// Looks for libraries that are to come before the driver's, as the plan allows it.
pub(super) fn look_for(root: &Root, plan: &Plan) -> Preferred {
    let (driver, refused) = match &plan.forward {
        Forward::Off => return Preferred::Nothing,
        Forward::Allowed => (&plan.driver_version, None),
        Forward::Refused(why) => (&plan.driver_version, Some(why)),
    };
    let host = HostDriver {
        driver: driver.parse().ok(),
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
        return Preferred::Refused(format!("{}: no libcuda.so.1; not used", dir.display()));
    }
    Preferred::Use {
        dir,
        names: names.into_iter().map(OsString::from).collect(),
    }
}

/// The names by which programs ask for a library of the directory: `libcuda.so.1` and `libcuda.so`, no full versions.
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
