//! Whether an image's CUDA forward-compatibility libraries are to be used with this host's driver: the look into the
//! container. The decision is [`crate::compat::forward`]'s.

use std::path::{Path, PathBuf};

use super::container::Container;
use crate::compat::forward::{HostDriver, Note, OWNER, Package, SECTION, wanted};
use crate::ldso::note;
use crate::sys::root::Node;

/// Entries of the directory that are looked at.
const MAX_ENTRIES: usize = 4096;

/// The directory of compatibility libraries that `container` should use before the driver's own, with all links
/// resolved; `None` where there is none or the host's driver is as good.
pub fn find(container: &Container, at: &Path, host: HostDriver) -> Option<PathBuf> {
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
    // Of several nobody can say which is meant.
    let [version] = versions.as_slice() else {
        return None;
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
    if !wanted(&package, host) {
        return None;
    }
    let base = root.path().ok()?;
    let resolved = dir.path().ok()?;
    Some(Path::new("/").join(resolved.strip_prefix(base).ok()?))
}
