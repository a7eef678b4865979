//! The device cgroup of a running container: v1's `devices.allow`, v2's eBPF program.
//!
//! The crate mounts a new cgroup file system for this process alone ([`inroot::mount::cgroupfs`]),
//! so it trusts neither the host's mount layout nor the rootfs. On v2 all programs of a cgroup must
//! agree, so another program cannot allow a device. Instead one new program, built from the
//! container's own rules and ours, replaces the runtime's. For example, a GPU needs the rule `c
//! 195:0 rw`. The crate reads nothing back from the old bytecode, which a hardened kernel returns
//! blinded. Programs that are neither the runtime's nor systemd's stay attached.

#[allow(unsafe_code)]
mod bpf;
mod procfs;
mod program;
pub mod rules;
mod tenants;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use procfs_core::ProcessCGroup;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

pub use procfs::cgroups;
pub use program::Program;
pub use rules::{Access, DeviceRule, RuleKind};
pub use tenants::{OwnCgroup, SharedCgroup, Tenancy, holds_host_processes};

/// The most bytes of a process's list of cgroups: each path has at most 4096 bytes.
const MAX_LIST: u64 = 1 << 20;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The device cgroup of a process. Only [`DeviceCgroup::claim`] gives access to its rules.
#[derive(Debug)]
pub struct DeviceCgroup {
    hierarchy: Hierarchy,
    dir: OwnedFd,
    /// Its path in the caller's cgroup namespace.
    path: String,
}

/// The version of a cgroup hierarchy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Hierarchy {
    /// v1's `devices`.
    V1,
    /// The unified hierarchy.
    V2,
}

/// Result of [`OwnCgroup::allow`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Allowed {
    /// Rules were added to the v1 cgroup.
    V1,
    /// A new program replaced those of the runtime and of systemd.
    V2,
    /// The cgroup has no program of a runtime or of systemd, so its rules refuse no device.
    Unrestricted,
}

impl Allowed {
    /// The number of programs that [`OwnCgroup::allow`] attached.
    fn programs(self) -> usize {
        usize::from(self == Self::V2)
    }
}

impl DeviceCgroup {
    /// The device cgroup of `pid`, or of the caller for `None`.
    ///
    /// # Errors
    /// `ENODEV` if the process is in no device cgroup.
    pub fn of(pid: Option<i32>) -> io::Result<Self> {
        let list = list_of(&pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string()))?;
        let cgroup = parse(&list, unified()).ok_or(Errno::NODEV)?;
        Ok(Self {
            hierarchy: hierarchy_of(&cgroup),
            dir: open_member(&cgroup, pid)?,
            path: cgroup.pathname,
        })
    }

    /// Whether the processes of the cgroup of `pid` are frozen or about to be; a process that joins
    /// them would stop too.
    ///
    /// # Errors
    /// Those of reading the cgroup's files.
    pub fn is_frozen(pid: i32) -> io::Result<bool> {
        let unified = unified();
        let has_freezer = |c: &ProcessCGroup| match hierarchy_of(c) {
            Hierarchy::V1 => !unified && c.controllers.iter().any(|c| c == "freezer"),
            Hierarchy::V2 => unified,
        };
        let list = list_of(&pid.to_string())?;
        let Some(cgroup) = cgroups(&list).find(has_freezer) else {
            return Ok(false);
        };
        let lines = |dir: &OwnedFd, name| tenants::read(dir, name);
        match hierarchy_of(&cgroup) {
            Hierarchy::V1 => {
                let dir = open_below(&fresh(&cgroup)?, &cgroup.pathname)?;
                // The file has FROZEN, FREEZING or THAWED.
                Ok(!lines(&dir, c"freezer.state")?.starts_with("THAWED"))
            }
            Hierarchy::V2 => {
                let dir = open_member(&cgroup, Some(pid))?;
                // The first file also shows a frozen cgroup above; the second changes before the
                // last process has stopped.
                Ok(lines(&dir, c"cgroup.events")?.lines().any(|l| l == "frozen 1")
                    || lines(&dir, c"cgroup.freeze")?.trim() == "1")
            }
        }
    }

    /// Whether it is in v1's `devices` hierarchy.
    pub fn is_v1(&self) -> bool {
        self.hierarchy == Hierarchy::V1
    }

    /// Moves the caller into this cgroup, whose filter then applies to it.
    ///
    /// # Errors
    /// Those of writing `cgroup.procs`.
    pub fn join(&self) -> io::Result<()> {
        let file = rustix::fs::openat(
            &self.dir,
            c"cgroup.procs",
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        // 0 stands for the writing process (cgroups(7)).
        rustix::io::write(&file, b"0")?;
        Ok(())
    }
}

/// The cgroups of the process `name` of `/proc`.
fn list_of(name: &str) -> io::Result<Vec<u8>> {
    procfs::read(format!("/proc/{name}/cgroup"), MAX_LIST)
}

fn hierarchy_of(cgroup: &ProcessCGroup) -> Hierarchy {
    if cgroup.controllers.is_empty() {
        Hierarchy::V2
    } else {
        Hierarchy::V1
    }
}

/// Whether runtimes use the unified hierarchy. They decide by the file system of `/sys/fs/cgroup`
/// and put the device filter there. A kernel with a v1 `devices` hierarchy lists it for every
/// process, mounted or not.
fn unified() -> bool {
    rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|fs| fs.f_type == CGROUP2_SUPER_MAGIC)
}

/// linux/magic.h.
const CGROUP2_SUPER_MAGIC: rustix::fs::FsWord = 0x6367_7270;
const CGROUP_SUPER_MAGIC: rustix::fs::FsWord = 0x0027_e0eb;

/// The hierarchy of a cgroup, mounted for this process alone.
fn fresh(cgroup: &ProcessCGroup) -> io::Result<OwnedFd> {
    let controllers: Vec<&str> = cgroup.controllers.iter().map(String::as_str).collect();
    inroot::mount::cgroupfs(&controllers)
}

/// The directory of a cgroup of `pid`.
///
/// Before Linux 5.2, and under a seccomp profile without `fsopen`, it is found below the host's
/// usual mount. That mount may belong to another cgroup namespace, in which `path` names another
/// cgroup, so the process must be a member of it.
fn open_member(cgroup: &ProcessCGroup, pid: Option<i32>) -> io::Result<OwnedFd> {
    match fresh(cgroup) {
        Ok(root) => return open_below(&root, &cgroup.pathname),
        Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::NOSYS | Errno::PERM)) => {}
        Err(e) => return Err(e),
    }
    let dir = open_below(&mounted(hierarchy_of(cgroup))?, &cgroup.pathname)?;
    let members = rustix::fs::openat(
        &dir,
        c"cgroup.procs",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let pid = pid.unwrap_or(rustix::process::getpid().as_raw_pid());
    let members = io::read_to_string(fs::File::from(members))?;
    if members.lines().any(|line| line.parse() == Ok(pid)) {
        Ok(dir)
    } else {
        Err(Errno::NODEV.into())
    }
}

/// The hierarchy's usual mount on a host.
fn mounted(hierarchy: Hierarchy) -> io::Result<OwnedFd> {
    let (place, kind) = match hierarchy {
        Hierarchy::V1 => (c"/sys/fs/cgroup/devices", CGROUP_SUPER_MAGIC),
        Hierarchy::V2 => (c"/sys/fs/cgroup", CGROUP2_SUPER_MAGIC),
    };
    let dir = rustix::fs::open(
        place,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    if rustix::fs::fstatfs(&dir)?.f_type == kind {
        Ok(dir)
    } else {
        Err(Errno::NODEV.into())
    }
}

/// The device cgroup in `/proc/PID/cgroup`. Unless `unified`, a v1 `devices` hierarchy takes
/// precedence.
fn parse(list: &[u8], unified: bool) -> Option<ProcessCGroup> {
    let is_v1 = |c: &ProcessCGroup| c.controllers.iter().any(|c| c == "devices");
    let is_v2 = |c: &ProcessCGroup| hierarchy_of(c) == Hierarchy::V2;
    let v1 = (!unified).then(|| cgroups(list).find(is_v1)).flatten();
    v1.or_else(|| cgroups(list).find(is_v2))
}

fn open_below(root: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    let path = path.trim_start_matches('/');
    // A name that is not UTF-8 was replaced, and the path may now be another cgroup's.
    if path.contains(char::REPLACEMENT_CHARACTER) {
        return Err(Errno::ILSEQ.into());
    }
    // A path with `..` is outside our cgroup namespace.
    if path.split('/').any(|c| c == "..") {
        return Err(Errno::XDEV.into());
    }
    let path = if path.is_empty() { "." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(root, path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_devices_hierarchy_wins_where_runtimes_use_it() {
        let hybrid = "5:devices:/docker/abc\n1:name=systemd:/docker/abc\n0::/docker/abc\n";
        let found = |list: &str, unified| {
            let cgroup = parse(list.as_bytes(), unified)?;
            Some((
                hierarchy_of(&cgroup),
                cgroup.controllers.join(","),
                cgroup.pathname,
            ))
        };
        let v1 =
            |controllers: &str, path: &str| Some((Hierarchy::V1, controllers.to_owned(), path.to_owned()));
        let v2 = |path: &str| Some((Hierarchy::V2, String::new(), path.to_owned()));
        assert_eq!(found(hybrid, false), v1("devices", "/docker/abc"));
        assert_eq!(found("0::/x:y\n", false), v2("/x:y"));
        assert_eq!(found(hybrid, true), v2("/docker/abc"));
        assert_eq!(found("3:cpu,devices:/a\n", false), v1("cpu,devices", "/a"));
        assert!(found("", true).is_none() && found("garbage\n", false).is_none());
    }

    #[test]
    fn a_name_that_is_not_utf8_loses_itself_alone() {
        let list = b"7:pids:/\xff\n5:devices:/a\n0::/\xfe\n";
        assert_eq!(parse(list, false).unwrap().pathname, "/a");
        // Another cgroup may have the replacement's name.
        let replaced = parse(list, true).unwrap().pathname;
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("\u{fffd}")).unwrap();
        let top = OwnedFd::from(fs::File::open(dir.path()).unwrap());
        let e = open_below(&top, &replaced).unwrap_err();
        assert_eq!(Errno::from_io_error(&e), Some(Errno::ILSEQ));
    }
}
