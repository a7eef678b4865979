//! Landlock: a process restricts its own access to files until it ends. Sources: landlock(7),
//! linux/landlock.h.
//!
//! The `landlock` crate is not used: it calls `fstat` on the directory of a rule (0.4.8), so a FUSE
//! server at the image's root could block the child before it is confined.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// Access rights of version 1: execute, write, make and remove.
const CHANGES: u64 = 0b1_1111_1111_0011;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
/// Rights of later versions with their version: move to another directory, truncate, device ioctls.
const LATER: [(libc::c_long, u64); 3] = [(2, 1 << 13), (3, 1 << 14), (5, 1 << 15)];

/// `LANDLOCK_CREATE_RULESET_VERSION`
const VERSION: u32 = 1;
/// `LANDLOCK_RULE_PATH_BENEATH`
const PATH_BENEATH: u32 = 1;

/// `struct landlock_ruleset_attr`, first version.
#[repr(C)]
struct Ruleset {
    handled_access_fs: u64,
}

/// `struct landlock_path_beneath_attr`
#[repr(C, packed)]
struct Beneath {
    allowed_access: u64,
    parent_fd: i32,
}

/// Allows only reads below `dir` from now on. The caller has set `no_new_privs`.
///
/// # Errors
/// `ENOSYS` before Linux 5.13, `EOPNOTSUPP` if Landlock is switched off.
pub(super) fn only_read_below(dir: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: queries the version: no pointer, no size.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<Ruleset>(),
            0_usize,
            VERSION,
        )
    };
    if version < 0 {
        return Err(io::Error::last_os_error());
    }
    let later = LATER.iter().filter(|(since, _)| *since <= version);
    let attr = Ruleset {
        handled_access_fs: later.fold(CHANGES | READ_FILE | READ_DIR, |all, (_, right)| all | right),
    };
    // SAFETY: a live struct of the size passed.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attr,
            size_of::<Ruleset>(),
            0_u32,
        )
    };
    let rules = match i32::try_from(fd) {
        // SAFETY: a descriptor that the kernel has just made.
        Ok(fd) if fd >= 0 => unsafe { OwnedFd::from_raw_fd(fd) },
        _ => return Err(io::Error::last_os_error()),
    };
    let rule = Beneath {
        allowed_access: READ_FILE | READ_DIR,
        parent_fd: dir.as_raw_fd(),
    };
    // SAFETY: live descriptors and a live struct of the type's layout.
    let added = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            rules.as_raw_fd(),
            PATH_BENEATH,
            &raw const rule,
            0_u32,
        )
    };
    if added != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a live descriptor of a rule set; changes this thread alone.
    let restricted = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0_u32) };
    if restricted == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use rustix::fs::{Mode, OFlags};

    use super::only_read_below;
    use crate::sys::seccomp::{in_child, refuse};

    #[test]
    fn the_directory_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(dir.path(), flags, Mode::empty()).unwrap();
        let calls = [libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx];
        assert!(in_child(|| {
            let prepared = rustix::thread::set_no_new_privs(true).is_ok() && refuse(&calls).is_ok();
            prepared
                && match only_read_below(root.as_fd()) {
                    Ok(()) => std::fs::File::open("/proc/self/stat").is_err(),
                    // This kernel has no Landlock.
                    Err(e) => matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EOPNOTSUPP)),
                }
        }));
    }
}
