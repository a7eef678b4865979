//! The warnings that hooks kept on this host: containers that started and cannot compute on their
//! GPU.
//!
//! They count only if no user can have written them: the directory is root's and closed to others.
//! A warning belongs to a container by its mount namespace and its time, as a grant does; the id is
//! only a name.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::apply::Warning;
use crate::apply::warning::WARNINGS_DIR;
use crate::containers;
use crate::sys::owned;
use crate::sys::root::Node;

/// The most files that are listed; a hook keeps fewer.
const MAX_FILES: usize = 1024;
/// The longest warning that is read.
const MAX_SIZE: u64 = 64 << 10;

/// The kept warnings, the newest first.
///
/// # Errors
/// The reason for which they cannot be read or do not count.
pub fn warnings() -> Result<Vec<Warning>, String> {
    read_in(Path::new(WARNINGS_DIR))
}

fn read_in(dir: &Path) -> Result<Vec<Warning>, String> {
    let shown = dir.display();
    let Some(node) = owned::find(dir).map_err(|e| format!("{}: {}", e.what(), e.why()))? else {
        return Ok(Vec::new());
    };
    if !node.is_dir() || node.stat().st_mode & 0o077 != 0 {
        return Err(format!("{shown} is not a directory of root's alone"));
    }
    let entries = node.read_dir(MAX_FILES).map_err(|e| match e.kind() {
        ErrorKind::PermissionDenied => format!("only root can read {shown}"),
        _ => format!("{shown}: {e}"),
    })?;
    let mut found: Vec<Warning> = entries
        .iter()
        .filter_map(|entry| read(&node, &entry.name))
        .collect();
    found.sort_by_key(|w| core::cmp::Reverse((w.time, w.since_boot)));
    Ok(found)
}

fn read(dir: &Node, name: &OsStr) -> Option<Warning> {
    name.to_str().filter(|name| name.ends_with(".json"))?;
    Warning::parse(&dir.child(name).ok()?.read(MAX_SIZE).ok()?)
}

/// The inode number of the mount namespace that a kept warning is about.
pub(super) fn namespace_of(dir: &Node, name: &OsStr) -> Option<u64> {
    read(dir, name).map(|warning| warning.namespace.1)
}

/// The warning of the running container of process `pid`.
pub fn of_process<'w>(proc: &Path, pid: u32, warnings: &'w [Warning]) -> Option<&'w Warning> {
    let namespace = fs::metadata(proc.join(pid.to_string()).join("ns/mnt")).ok()?;
    let namespace = (namespace.dev(), namespace.ino());
    let warning = warnings.iter().find(|w| w.namespace == namespace)?;
    // The kernel reuses the number of a namespace that is gone. Its later processes are younger.
    let members = containers::members(proc, pid).unwrap_or_default();
    let began = members
        .iter()
        .filter_map(|pid| containers::start_of(proc, *pid))
        .min()?;
    warning
        .since_boot
        .is_some_and(|time| began <= time)
        .then_some(warning)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::Warnings;
    use crate::apply::grant::since_boot;
    use crate::apply::warning::tests::warning;
    use crate::sys::root::Root;
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
    use std::time::Duration;

    #[test]
    fn the_newest_comes_first_and_only_roots_count() {
        let run = tempfile::tempdir().unwrap();
        let dir = run.path().join("warnings");
        assert_eq!(read_in(&dir), Ok(Vec::new()));
        let kept = Warnings::below(&Root::open(run.path()).unwrap().resolve("/").unwrap()).unwrap();
        for (id, time) in [("old", 100), ("new", 200), ("middle", 150)] {
            kept.keep(&Warning { time, ..warning(id) }).unwrap();
        }
        fs::write(dir.join("rubbish.json"), "{").unwrap();
        fs::write(dir.join("other"), "{}").unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.join("fifo.json"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let ids = |found: &[Warning]| found.iter().map(|w| w.container.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&read_in(&dir).unwrap()), ["new", "middle", "old"]);

        let mode = |mode| fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o755);
        assert!(read_in(&dir).is_err());
        mode(0o700);
        let link = run.path().join("link");
        symlink(&dir, &link).unwrap();
        assert_eq!(read_in(&link).unwrap().len(), 3);
        if rustix::process::geteuid().is_root() {
            chown(&dir, Some(1000), None).unwrap();
            assert!(read_in(&dir).unwrap_err().contains("user 1000"));
        }
    }

    #[test]
    fn a_warning_is_of_its_own_container() {
        let namespace = fs::metadata("/proc/self/ns/mnt").unwrap();
        let own = Warning {
            namespace: (namespace.dev(), namespace.ino()),
            since_boot: Some(since_boot()),
            ..warning("own")
        };
        let pid = std::process::id();
        let of = |w: Warning| of_process(Path::new("/proc"), pid, &[w]).is_some();
        assert!(of(own.clone()));
        assert!(!of(warning("other")));
        let before = Some(Duration::from_millis(1));
        assert!(!of(Warning {
            since_boot: before,
            ..own.clone()
        }));
        assert!(!of(Warning {
            since_boot: None,
            ..own
        }));
    }
}
