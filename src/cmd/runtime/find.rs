//! Finds the low-level runtime, and proves that only root could have written it.
//!
//! It runs with nvoci's rights, so it must be root's. It is never nvoci itself under another name,
//! which would execute itself forever.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};

use crate::error::{Code, Error, Result};
use crate::sys::owned;
use crate::sys::root::Node;

/// The first existing one of `candidates`, as an absolute path.
///
/// A name is searched in PATH, as k3s and NixOS need, then in `dirs`. The caller's PATH is not
/// trusted: a file from there, or one that is configured by path, must have only root's directories
/// above it. `dirs` are the host's own, whatever their mode: some distributions let a group write
/// to `/usr/local`.
pub(super) fn runtime(candidates: &[String], dirs: &[PathBuf]) -> Result<PathBuf> {
    first(candidates, std::env::var_os("PATH").as_deref(), dirs)
}

fn first(candidates: &[String], path: Option<&OsStr>, dirs: &[PathBuf]) -> Result<PathBuf> {
    let own = lookup(Path::new("/proc/self/exe")).ok();
    let mut refused = None;
    for candidate in candidates {
        let mut usable = |file: &PathBuf, dir_is_ours: bool| {
            examine(file, dir_is_ours, own.as_ref()).unwrap_or_else(|e| {
                refused.get_or_insert(e);
                false
            })
        };
        let found = if candidate.contains('/') {
            Some(PathBuf::from(candidate)).filter(|f| usable(f, false))
        } else {
            let of_path = path.into_iter().flat_map(std::env::split_paths);
            of_path
                .filter(|d| d.is_absolute())
                .chain(dirs.iter().cloned())
                .map(|d| (d.join(candidate), dirs.contains(&d)))
                .find_map(|(file, ours)| usable(&file, ours).then_some(file))
        };
        if let Some(file) = found {
            return Ok(file);
        }
    }
    Err(refused.unwrap_or_else(|| {
        let list = candidates.join(", ");
        Error::new(
            Code::Runtime,
            "low-level runtime",
            format!("none of [{list}] was found"),
        )
    }))
}

/// Whether `file` is a usable runtime. `false` if it is missing or nvoci itself; an error if it
/// exists but is unsafe.
fn examine(file: &Path, dir_is_ours: bool, own: Option<&Node>) -> Result<bool> {
    let Ok(found) = lookup(file) else {
        return Ok(false);
    };
    let ourselves = own.is_some_and(|own| own.id() == found.id());
    if ourselves || !found.is_file() || found.stat().st_mode & 0o111 == 0 || !file.is_absolute() {
        return Ok(false);
    }
    if dir_is_ours {
        owned::check(&found, file)?;
        return Ok(true);
    }
    Ok(owned::find(file)?.is_some())
}

fn lookup(path: &Path) -> io::Result<Node> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Node::from_fd(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    fn executable(dir: &Path, name: &str) -> PathBuf {
        let file = dir.join(name);
        std::fs::write(&file, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        file
    }

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn find(candidates: &[&str], path: &Path) -> Result<PathBuf> {
        let candidates: Vec<String> = candidates.iter().map(|c| (*c).to_owned()).collect();
        first(&candidates, Some(path.as_os_str()), &[])
    }

    #[test]
    fn the_first_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (executable(dir.path(), "low-a"), executable(dir.path(), "low-b"));
        assert_eq!(find(&["low-b", "low-a"], dir.path()).unwrap(), b);
        assert_eq!(find(&["missing", "low-a"], dir.path()).unwrap(), a);
        assert_eq!(
            find(&["/nonexistent/runc", a.to_str().unwrap()], dir.path()).unwrap(),
            a
        );
        // The host's own directories are searched without PATH.
        assert!(
            first(&["sh".into()], None, &["/bin".into()])
                .unwrap()
                .is_absolute()
        );
        let none = find(&["missing", "/nonexistent/runc"], dir.path()).unwrap_err();
        assert_eq!(none.code(), Code::Runtime);
        assert!(none.why().contains("missing, /nonexistent/runc"));
        assert_eq!(find(&[], dir.path()).unwrap_err().code(), Code::Runtime);
        // A directory, or a file that is not executable, is no runtime.
        mode(&a, 0o644);
        std::fs::create_dir(dir.path().join("low-c")).unwrap();
        assert_eq!(
            find(&["low-a", "low-c"], dir.path()).unwrap_err().code(),
            Code::Runtime
        );
    }

    #[test]
    fn never_ourselves() {
        let dir = tempfile::tempdir().unwrap();
        let own = std::env::current_exe().unwrap();
        symlink(&own, dir.path().join("low-a")).unwrap();
        symlink("low-a", dir.path().join("low-b")).unwrap();
        let c = executable(dir.path(), "low-c");
        assert_eq!(find(&["low-a", "low-b", "low-c"], dir.path()).unwrap(), c);
        assert_eq!(
            find(&[own.to_str().unwrap()], dir.path()).unwrap_err().code(),
            Code::Runtime
        );
    }

    #[test]
    fn what_others_can_change_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let a = executable(dir.path(), "low-a");
        let refused = |candidate: &str| find(&[candidate], dir.path()).unwrap_err().code();
        for candidate in ["low-a", a.to_str().unwrap()] {
            mode(&a, 0o757);
            assert_eq!(refused(candidate), Code::UnsafeOwner);
            mode(&a, 0o755);
            mode(dir.path(), 0o757);
            assert_eq!(refused(candidate), Code::UnsafeOwner);
            mode(dir.path(), 0o1757);
            assert_eq!(find(&[candidate], dir.path()).unwrap(), a);
            mode(dir.path(), 0o755);
        }
        if rustix::process::geteuid().is_root() {
            chown(&a, Some(1000), None).unwrap();
            assert_eq!(refused("low-a"), Code::UnsafeOwner);
            // A later safe candidate is still used.
            let b = executable(dir.path(), "low-b");
            assert_eq!(find(&["low-a", "low-b"], dir.path()).unwrap(), b);
        }
        // No path is relative to the working directory, which is often the bundle.
        assert_eq!(refused("./low-a"), Code::Runtime);
        assert_eq!(find(&["low-z"], Path::new("")).unwrap_err().code(), Code::Runtime);
    }
}
