//! Mount namespaces: identify the one of a process, and enter it. Errors are the kernel's, unless a
//! function lists others.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::root::read_proc;

/// A mount namespace, held by a descriptor.
#[derive(Debug)]
pub struct MountNs {
    fd: OwnedFd,
    id: (u64, u64),
}

impl MountNs {
    /// The caller's mount namespace.
    pub fn own() -> io::Result<Self> {
        Self::open("/proc/self/ns/mnt")
    }

    /// The mount namespace of the process `pid`, which must be alive before and after the lookup: a
    /// reused number cannot name another process's namespace.
    ///
    /// # Errors
    /// `EINVAL` for 0, 1 and negative numbers: no container's first process has them as seen from
    /// the host.
    pub fn of(pid: i32) -> io::Result<Self> {
        let p = (pid > 1)
            .then(|| Pid::from_raw(pid))
            .flatten()
            .ok_or(Errno::INVAL)?;
        // Without pidfds (Linux 5.3) the open below fails for a process that is gone.
        let handle = match pidfd_open(p, PidfdFlags::empty()) {
            Ok(fd) => Some(fd),
            Err(Errno::NOSYS | Errno::PERM) => None,
            Err(e) => return Err(e.into()),
        };
        let ns = Self::open(&format!("/proc/{pid}/ns/mnt"))?;
        match handle {
            Some(fd) if has_exited(&fd)? => Err(Errno::SRCH.into()),
            _ => Ok(ns),
        }
    }

    /// The namespace of process 1: the host's, if `/proc` is the host's.
    pub fn of_first_process() -> io::Result<Self> {
        Self::open("/proc/1/ns/mnt")
    }

    /// Whether both are the same namespace.
    pub fn is(&self, other: &Self) -> bool {
        self.id == other.id
    }

    /// Device and inode number, which no two existing namespaces share.
    pub fn id(&self) -> (u64, u64) {
        self.id
    }

    /// Moves the calling thread, the only one, into this namespace. Its root and working directory
    /// become the namespace's root.
    pub fn enter(&self) -> io::Result<()> {
        nix::sched::setns(self.fd.as_fd(), nix::sched::CloneFlags::CLONE_NEWNS)?;
        Ok(())
    }

    /// The id of this process's mount namespace, without opening it.
    pub fn own_id() -> io::Result<(u64, u64)> {
        Self::id_at("/proc/self/ns/mnt")
    }

    /// The id of process 1's mount namespace.
    pub fn id_of_first_process() -> io::Result<(u64, u64)> {
        Self::id_at("/proc/1/ns/mnt")
    }

    fn id_at(path: &str) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::stat(path)?;
        Ok((stat.st_dev, stat.st_ino))
    }

    fn open(path: &str) -> io::Result<Self> {
        let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Self {
            fd,
            id: (stat.st_dev, stat.st_ino),
        })
    }
}

/// The user and group that are 0 in the user namespace of `pid`, as ids of the caller's; `None` if
/// they are 0 there too.
///
/// # Errors
/// `EINVAL` if the namespace does not map 0.
pub fn root_of(pid: i32) -> io::Result<Option<(u32, u32)>> {
    let outside = |file: &str| {
        let map = read_proc(format!("/proc/{pid}/{file}"), 64 << 10)?;
        map_zero(&map).ok_or_else(|| io::Error::from(Errno::INVAL))
    };
    let ids = (outside("uid_map")?, outside("gid_map")?);
    Ok((ids != (0, 0)).then_some(ids))
}

/// The outside id of 0 in a map of lines `inside outside count` (user_namespaces(7)).
fn map_zero(map: &str) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
        match (numbers.next()?, numbers.next()?) {
            (Ok(0), Ok(outside)) => Some(outside),
            _ => None,
        }
    })
}

fn has_exited(pidfd: &OwnedFd) -> io::Result<bool> {
    use std::os::fd::AsRawFd as _;
    let mut poll = libc::pollfd {
        fd: pidfd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one live pollfd, no waiting.
    let n = unsafe { libc::poll(&raw mut poll, 1, 0) };
    if n < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(n > 0)
    }
}

/// Whether the caller is in a user namespace that does not map all of the host's users.
pub fn in_user_namespace() -> bool {
    // The initial namespace's map is one line, 0 0 4294967295 (user_namespaces(7)).
    match read_proc("/proc/self/uid_map", 64 << 10) {
        Ok(map) => map.split_ascii_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"],
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_found_in_a_map() {
        assert_eq!(map_zero("         0          0 4294967295\n"), Some(0));
        assert_eq!(map_zero("1 100000 10\n0 1500 1\n"), Some(1500));
        assert_eq!(map_zero("5 100000 65536\n"), None);
        assert_eq!(map_zero("garbage"), None);
    }

    #[test]
    fn own_is_own_and_odd_pids_are_refused() {
        let own = MountNs::own().unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(own.is(&MountNs::of(pid).unwrap()));
        for pid in [0, 1, -1, i32::MAX] {
            assert!(MountNs::of(pid).is_err(), "{pid}");
        }
    }
}
