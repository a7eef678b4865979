//! The low-level runtime: which file it is, and that it may be trusted.
//!
//! It runs with all our rights, so it must be a file that only root (or, for a rootless engine, the same user) can have
//! put there. It is never ourselves, under whatever name, or we would exec ourselves for ever.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Stat};

use crate::error::{Code, Error, Result};
use crate::sys::ns::in_user_namespace;

/// Where a name is looked for after PATH. These are the system's own, whatever their mode: some distributions let a
/// group write to `/usr/local`.
const FIXED: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// The owner that a user namespace shows for an id it does not map; the kernel's default.
const OVERFLOW_UID: u32 = 65_534;

/// The first of `candidates` that is there, as an absolute path.
///
/// A name is looked for in the directories of PATH that only root can write to, as k3s and NixOS need, then in the
/// usual ones.
pub(super) fn runtime(candidates: &[String]) -> Result<PathBuf> {
    first(candidates, std::env::var_os("PATH").as_deref())
}

fn first(candidates: &[String], path: Option<&OsStr>) -> Result<PathBuf> {
    let own = stat(Path::new("/proc/self/exe")).ok();
    let mut refused = None;
    for candidate in candidates {
        let mut consider = |file: PathBuf, checked_dir: bool| match examine(&file, checked_dir, own.as_ref())
        {
            Ok(true) => Some(file),
            Ok(false) => None,
            Err(e) => {
                refused.get_or_insert(e);
                None
            }
        };
        let found = if candidate.contains('/') {
            consider(PathBuf::from(candidate), true)
        } else {
            let of_path = path.into_iter().flat_map(std::env::split_paths);
            of_path
                .filter(|d| d.is_absolute())
                .chain(FIXED.iter().map(PathBuf::from))
                .find_map(|d| consider(d.join(candidate), !FIXED.iter().any(|f| d == Path::new(f))))
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

/// Whether `file` is a runtime to use. `false` if there is none or it is ourselves; an error if it is there but must
/// not be used.
fn examine(file: &Path, check_dir: bool, own: Option<&Stat>) -> Result<bool> {
    let Ok(found) = stat(file) else { return Ok(false) };
    if own.is_some_and(|own| (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino)) {
        return Ok(false);
    }
    let refuse = |what: &Path, why: &str| {
        Err(Error::new(
            Code::UnsafeOwner,
            format!("low-level runtime {}", what.display()),
            why,
        ))
    };
    if !file.is_absolute() {
        return refuse(file, "its path is not absolute");
    }
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile || found.st_mode & 0o111 == 0 {
        return Ok(false);
    }
    if !safe(&found) {
        return refuse(file, "it is not owned by root, or others may write to it");
    }
    // The engine's PATH may hold a directory of somebody else's.
    if check_dir {
        for dir in file.ancestors().skip(1) {
            if !stat(dir).is_ok_and(|d| safe(&d)) {
                return refuse(
                    dir,
                    "the directory is not owned by root, or others may write to it",
                );
            }
        }
    }
    Ok(true)
}

/// Whether only root, or who we are, can change what `stat` is of. Who may write to a sticky directory can still not
/// replace what others own in it.
fn safe(stat: &Stat) -> bool {
    let sticky_dir =
        FileType::from_raw_mode(stat.st_mode) == FileType::Directory && stat.st_mode & 0o1000 != 0;
    let by_others = stat.st_mode & 0o002 != 0 || (stat.st_mode & 0o020 != 0 && stat.st_gid != 0);
    trusted_owner(stat.st_uid) && (sticky_dir || !by_others)
}

fn trusted_owner(uid: u32) -> bool {
    // A rootless engine runs us in a user namespace, where the host's root has no id of its own.
    uid == 0 || uid == rustix::process::geteuid().as_raw() || (uid == OVERFLOW_UID && in_user_namespace())
}

fn stat(path: &Path) -> io::Result<Stat> {
    Ok(rustix::fs::statat(CWD, path, AtFlags::empty())?)
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
        first(&candidates, Some(path.as_os_str()))
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
        // The usual directories are searched without PATH.
        assert!(first(&["sh".into()], None).unwrap().is_absolute());
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
            // A later candidate that is safe is used all the same.
            let b = executable(dir.path(), "low-b");
            assert_eq!(find(&["low-a", "low-b"], dir.path()).unwrap(), b);
        }
        // Nothing is relative to the working directory, which is the bundle as often as not.
        assert_eq!(refused("./low-a"), Code::Runtime);
        assert_eq!(find(&["low-z"], Path::new("")).unwrap_err().code(), Code::Runtime);
    }
}
