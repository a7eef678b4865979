//! The device cgroup of a running container: v1's `devices.allow`, v2's eBPF program.
//!
//! The cgroup file system is mounted afresh and privately ([`inroot::mount::cgroupfs`]), so neither the
//! host's mount layout nor anything in the rootfs is trusted. On v2 all programs attached to a cgroup
//! must agree, so a device cannot be allowed by adding a program: the container's own rules and ours
//! become one new program that replaces the attached ones. Nothing is read back from the old bytecode,
//! which a hardened kernel hands out blinded.

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

/// What is read of the list of a process's cgroups: each path has at most 4096 bytes.
const MAX_LIST: u64 = 1 << 20;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The device cgroup of a process. Its rules can be changed by way of [`DeviceCgroup::claim`] alone.
#[derive(Debug)]
pub struct DeviceCgroup {
    hierarchy: Hierarchy,
    dir: OwnedFd,
    /// As the caller's cgroup namespace has it.
    path: String,
}

/// Where a cgroup is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Hierarchy {
    /// v1's `devices`.
    V1,
    /// The unified one.
    V2,
}

/// What [`OwnCgroup::allow`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Allowed {
    /// Rules were added to the v1 cgroup.
    V1,
    /// A new program replaced the attached ones.
    V2,
    /// No program is attached: every device is allowed already.
    Unrestricted,
}

impl DeviceCgroup {
    /// The device cgroup of `pid`, or of the caller for `None`.
    ///
    /// # Errors
    /// `ENODEV` when the process is in no device cgroup.
    pub fn of(pid: Option<i32>) -> io::Result<Self> {
        let list = list_of(&pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string()))?;
        let cgroup = parse(&list, unified()).ok_or(Errno::NODEV)?;
        Ok(Self {
            hierarchy: hierarchy_of(&cgroup),
            dir: open_member(&cgroup, pid)?,
            path: cgroup.pathname,
        })
    }

    /// Whether the processes of the cgroup of `pid` are frozen, or are to be: who joins them stops as well.
    ///
    /// # Errors
    /// Why that cannot be read.
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
                // FROZEN, FREEZING, THAWED.
                Ok(!lines(&dir, c"freezer.state")?.starts_with("THAWED"))
            }
            Hierarchy::V2 => {
                let dir = open_member(&cgroup, Some(pid))?;
                // The first is so for a cgroup above it too, the second before the last process has stopped.
                Ok(lines(&dir, c"cgroup.events")?.lines().any(|l| l == "frozen 1")
                    || lines(&dir, c"cgroup.freeze")?.trim() == "1")
            }
        }
    }

    /// Whether it is one of v1's `devices` hierarchy.
    pub fn is_v1(&self) -> bool {
        self.hierarchy == Hierarchy::V1
    }

    /// Moves the caller into this cgroup: what it opens from now on is filtered as for those in it.
    pub fn join(&self) -> io::Result<()> {
        let file = rustix::fs::openat(
            &self.dir,
            c"cgroup.procs",
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        // 0 is the writer itself (cgroups(7)).
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

/// Whether runtimes use the unified hierarchy: they look at the file system of `/sys/fs/cgroup`, and the
/// device filter is where they put it. A kernel that knows a v1 `devices` hierarchy lists it for every
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

/// The directory of a cgroup that `pid` is in.
///
/// Before Linux 5.2, and under a seccomp profile that does not know `fsopen`, it is looked for where all hosts have the
/// hierarchy mounted: the caller has the host's `/sys` in sight. The mount may be another cgroup namespace's, and `path`
/// mean something else in it, so the process must be a member of what was found.
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

/// The hierarchy where all hosts have it mounted.
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

/// The device cgroup in `/proc/PID/cgroup`. Unless `unified`, a v1 `devices` hierarchy wins.
fn parse(list: &[u8], unified: bool) -> Option<ProcessCGroup> {
    let is_v1 = |c: &ProcessCGroup| c.controllers.iter().any(|c| c == "devices");
    let is_v2 = |c: &ProcessCGroup| hierarchy_of(c) == Hierarchy::V2;
    let v1 = (!unified).then(|| cgroups(list).find(is_v1)).flatten();
    v1.or_else(|| cgroups(list).find(is_v2))
}

fn open_below(root: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    let path = path.trim_start_matches('/');
    // A name that is not UTF-8 was replaced, and this may be another cgroup's.
    if path.contains(char::REPLACEMENT_CHARACTER) {
        return Err(Errno::ILSEQ.into());
    }
    // A path with `..` means that the process is outside of our cgroup namespace.
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
        // Another cgroup may have the name that is put in its place.
        let replaced = parse(list, true).unwrap().pathname;
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("\u{fffd}")).unwrap();
        let top = OwnedFd::from(fs::File::open(dir.path()).unwrap());
        let e = open_below(&top, &replaced).unwrap_err();
        assert_eq!(Errno::from_io_error(&e), Some(Errno::ILSEQ));
    }
}
