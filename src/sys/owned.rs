//! Files that only root can have written.
//!
//! Configuration decides what containers get, so a file of it is read only when neither it nor any
//! directory or symbolic link on the way to it could have been put there by somebody else.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use rustix::io::Errno;

use crate::error::{Code, Error, IoContext, Result};

use super::root::{Node, Root};

/// The most symbolic links that are followed, as in the kernel.
pub(super) const MAX_LINKS: usize = 40;

pub(super) const STICKY: u32 = 0o1000;
pub(super) const OTHERS_WRITE: u32 = 0o022;

/// Finds `path`, an absolute path of the host, walking component by component; `None` when it does not exist.
///
/// Every directory, link and the last component must belong to root, or to whom this process runs as, and not be
/// writable by group or others.
/// A directory with the sticky bit may be: in it nobody else can replace what belongs to root.
///
/// In a user namespace, where the host's root is shown as the overflow user, that user counts as root: a
/// process there has no rights that the file could extend.
///
/// # Errors
/// [`Code::UnsafeOwner`], naming the component.
pub fn find(path: &Path) -> Result<Option<Node>> {
    walk(path, trusted_users(), Sticky::Counts)
}

/// Like [`find`], for a name that others may not even have been first to take: no directory with the sticky bit either.
///
/// # Errors
/// [`Code::UnsafeOwner`], naming the component.
pub fn find_in_private(path: &Path) -> Result<Option<Node>> {
    walk(path, trusted_users(), Sticky::IsNothing)
}

/// Whether the sticky bit makes a directory safe that others may write to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sticky {
    Counts,
    IsNothing,
}

/// Checks one inode that was found otherwise; `path` is for the message.
///
/// # Errors
/// [`Code::UnsafeOwner`].
pub fn check(node: &Node, path: &Path) -> Result<()> {
    check_by(node, path, trusted_users(), Sticky::Counts)
}

fn walk(path: &Path, users: &[u32], sticky: Sticky) -> Result<Option<Node>> {
    let failed = |e: &io::Error| Error::io(Code::System, path.display().to_string(), e);
    let root = || Root::open("/").and_then(|root| root.resolve("/"));
    let mut todo = components(path);
    // The directories from the root to here, with their names.
    let mut trail = vec![(OsString::from("/"), root().map_err(|e| failed(&e))?)];
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name == ".." {
            if trail.len() > 1 {
                trail.pop();
            }
            continue;
        }
        let here = shown(&trail, &name);
        let Some((_, dir)) = trail.last() else {
            return Ok(None);
        };
        check_by(dir, here.parent().unwrap_or(&here), users, sticky)?;
        let node = match dir.child(&name) {
            Ok(node) => node,
            Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::NOENT | Errno::NOTDIR)) => {
                return Ok(None);
            }
            Err(e) => return Err(failed(&e)),
        };
        if !node.is_symlink() {
            trail.push((name, node));
            continue;
        }
        check_by(&node, &here, users, sticky)?;
        links += 1;
        if links > MAX_LINKS {
            return Err(failed(&Errno::LOOP.into()));
        }
        let target = node
            .read_link()
            .context(Code::System, || here.display().to_string())?;
        if target.is_absolute() {
            trail.truncate(1);
        }
        todo.extend(components(&target));
    }
    let Some((_, node)) = trail.pop() else {
        return Ok(None);
    };
    check_by(&node, path, users, sticky)?;
    Ok(Some(node))
}

fn check_by(node: &Node, path: &Path, users: &[u32], sticky: Sticky) -> Result<()> {
    let stat = node.stat();
    let why = if !users.contains(&stat.st_uid) {
        format!("it belongs to user {}, not to root", stat.st_uid)
    } else if node.is_symlink() || (sticky == Sticky::Counts && node.is_dir() && stat.st_mode & STICKY != 0) {
        // A link has no mode of its own.
        return Ok(());
    } else if stat.st_mode & OTHERS_WRITE != 0 {
        format!("mode {:04o} lets others write to it", stat.st_mode & 0o7777)
    } else {
        return Ok(());
    };
    Err(Error::new(Code::UnsafeOwner, path.display().to_string(), why))
}

/// The components of a path, last first.
fn components(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        _ => None,
    });
    names.collect()
}

fn shown(trail: &[(OsString, Node)], name: &OsStr) -> PathBuf {
    trail
        .iter()
        .map(|(name, _)| name.as_os_str())
        .chain([name])
        .collect()
}

/// Who counts as root, in this order: user 0, ourselves, since nobody gains rights by that, and in a user namespace whoever has no
/// name there.
///
/// Found once: a process does not change its user namespace here, and this is asked for every driver file.
pub(super) fn trusted_users() -> &'static [u32] {
    static USERS: OnceLock<Vec<u32>> = OnceLock::new();
    USERS.get_or_init(find_trusted_users)
}

fn find_trusted_users() -> Vec<u32> {
    const IDENTITY: [&str; 3] = ["0", "0", "4294967295"];
    const OVERFLOW: u32 = 65534;
    let own = rustix::process::geteuid().as_raw();
    let Ok(proc) = Root::open("/proc") else {
        return vec![0, own];
    };
    let map = proc
        .read_text("thread-self/uid_map", 64 * 1024)
        .unwrap_or_default();
    if map.split_whitespace().eq(IDENTITY) || map.is_empty() {
        return vec![0, own];
    }
    let overflow = proc.read_text("sys/kernel/overflowuid", 64);
    vec![
        0,
        own,
        overflow
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(OVERFLOW),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn me() -> Vec<u32> {
        vec![0, rustix::process::geteuid().as_raw()]
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        mode(&dir.path().join("etc"), 0o755);
        fs::write(dir.path().join("etc/conf"), "x").unwrap();
        mode(&dir.path().join("etc/conf"), 0o644);
        dir
    }

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_file_of_root_below_directories_of_root() {
        let dir = tree();
        let found = walk(&dir.path().join("etc/conf"), &me(), Sticky::Counts)
            .unwrap()
            .unwrap();
        assert_eq!(found.read(8).unwrap(), b"x");
        assert!(
            walk(&dir.path().join("etc/none"), &me(), Sticky::Counts)
                .unwrap()
                .is_none()
        );
        assert!(
            walk(&dir.path().join("none/conf"), &me(), Sticky::Counts)
                .unwrap()
                .is_none()
        );
        assert!(
            walk(&dir.path().join("etc/conf/x"), &me(), Sticky::Counts)
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn links_are_followed_where_root_made_them() {
        let dir = tree();
        symlink("etc", dir.path().join("static")).unwrap();
        symlink("../static/conf", dir.path().join("etc/link")).unwrap();
        symlink(dir.path().join("static/link"), dir.path().join("abs")).unwrap();
        let found = walk(&dir.path().join("abs"), &me(), Sticky::Counts)
            .unwrap()
            .unwrap();
        assert_eq!(found.read(8).unwrap(), b"x");
        symlink("loop", dir.path().join("loop")).unwrap();
        assert_eq!(
            walk(&dir.path().join("loop"), &me(), Sticky::Counts)
                .unwrap_err()
                .os(),
            Some(libc::ELOOP)
        );
    }

    #[test]
    fn what_others_could_have_written_is_refused() {
        let dir = tree();
        let file = dir.path().join("etc/conf");
        let refused = |needle: &str| {
            let e = walk(&file, &me(), Sticky::Counts).unwrap_err();
            assert_eq!(e.code(), Code::UnsafeOwner);
            assert!(e.to_string().contains(needle), "{e}");
        };
        mode(&file, 0o664);
        refused("0664");
        mode(&file, 0o644);
        mode(&dir.path().join("etc"), 0o777);
        refused("0777");
        mode(&dir.path().join("etc"), 0o1777);
        assert!(walk(&file, &me(), Sticky::Counts).unwrap().is_some());
        let private = walk(&file, &me(), Sticky::IsNothing).unwrap_err();
        assert!(private.to_string().contains("1777"), "{private}");
        assert_eq!(
            walk(&file, &[4_000_000_000], Sticky::Counts).unwrap_err().code(),
            Code::UnsafeOwner
        );
    }
}
