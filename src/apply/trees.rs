//! Directories that must be at one absolute path of the container: WSL2's driver packages.
//!
//! The path may be inside a volume that shows the same directory (`-v /usr/lib/wsl:/usr/lib/wsl`);
//! then nothing is left to do. Other content of the image at the path, usually another tool's
//! leftovers, is covered with a warning, since the driver works at no other path.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::container::Container;
use super::sources::TreeSource;
use crate::error::{Code, Error, IoContext as _, Result};
use crate::plan::Tree;
use crate::sys::mount::{Detached, Restrict, seal};
use crate::sys::root::{Node, split};

/// Room for the directories on the way, in bytes.
const SIZE: u64 = 1 << 20;

/// Attaches the directories. Returns warnings for the user.
pub(super) fn attach_trees(
    container: &Container,
    sources: Vec<TreeSource>,
    label: Option<&str>,
) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    let mut ways = Vec::new();
    for source in sources {
        let TreeSource { tree, mount, id } = source;
        let refuse = |e: io::Error| refuse(&tree, &e);
        match container.root().resolve_nofollow(&tree.at) {
            Ok(there) if there.id() == id => continue,
            Ok(there) if there.is_dir() && !there.is_empty_dir().map_err(refuse)? => warnings.push(format!(
                "{} of the image is covered by the host's driver of that path",
                tree.at.display()
            )),
            _ => {}
        }
        let (dir, name) = split(&tree.at).map_err(refuse)?;
        let parent = way(container, dir, label, &mut ways).map_err(refuse)?;
        let place = parent.mkdir(name, 0o755).map_err(refuse)?;
        if !container.owns(&place).map_err(refuse)? && !ways.iter().any(|w| is_on(w, &place)) {
            return Err(refuse(Errno::ROFS.into()));
        }
        mount.attach(&parent, name).context(Code::Mount, || {
            format!("directory {} in the container", tree.at.display())
        })?;
    }
    for way in ways {
        seal(&way, Restrict::FILE).context(Code::Mount, || "driver package directory in the container")?;
    }
    Ok(warnings)
}

/// The directory that holds a tree's place: a tmpfs of ours, so that the image layer keeps no
/// package's name, or the image's own directory if that is not empty.
///
/// If the rootfs is read-only, an empty directory on the way is enough.
fn way(container: &Container, dir: &Path, label: Option<&str>, ways: &mut Vec<Node>) -> io::Result<Node> {
    match container.own_dir(dir) {
        Ok(node) if !node.is_empty_dir()? => return Ok(node),
        Ok(_) => {}
        Err(e) if e.raw_os_error() == Some(libc::EROFS) => {}
        Err(e) => return Err(e),
    }
    let mut missing: Vec<&OsStr> = Vec::new();
    let mut at = dir;
    loop {
        match container.root().resolve_nofollow(at) {
            Ok(node) if ways.iter().any(|w| is_on(w, &node)) => return descend(node, &missing),
            Ok(node) if !node.is_dir() => return Err(Errno::NOTDIR.into()),
            Ok(node) if !container.owns(&node)? || !node.is_empty_dir()? => {
                return Err(Errno::ROFS.into());
            }
            Ok(_) => break,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                let (parent, name) = split(at)?;
                missing.push(name);
                at = parent;
            }
            Err(e) => return Err(e),
        }
    }
    let (parent, name) = split(at)?;
    let parent = container.root().resolve(parent)?;
    let open = Restrict {
        read_only: false,
        ..Restrict::FILE
    };
    ways.push(Detached::tmpfs(SIZE, label, open)?.attach(&parent, name)?);
    descend(container.root().resolve(at)?, &missing)
}

/// Makes the rest of the path, whose last component comes first.
fn descend(mut node: Node, missing: &[&OsStr]) -> io::Result<Node> {
    for name in missing.iter().rev() {
        node = node.mkdir(name, 0o755)?;
    }
    Ok(node)
}

/// Whether both are on one file system; each tmpfs that we make is a separate one.
fn is_on(way: &Node, node: &Node) -> bool {
    way.id().0 == node.id().0
}

fn refuse(tree: &Tree, e: &io::Error) -> Error {
    let what = format!("directory {} in the container", tree.at.display());
    let top: PathBuf = tree.at.iter().take(4).collect();
    match e.raw_os_error() {
        Some(libc::EROFS) => Error::new(
            Code::Mount,
            what,
            "it cannot be made: the rootfs is read-only, or a volume is in the way",
        )
        .fix(format!(
            "have an empty directory {0} in the image, or mount the host's: -v {0}:{0}:ro",
            top.display()
        )),
        Some(libc::ELOOP | libc::EXDEV | libc::ENOTDIR) => Error::new(
            Code::UnsafePath,
            what,
            "a link or special file of the image is in the way",
        ),
        _ => Error::io(Code::Mount, what, e),
    }
}
