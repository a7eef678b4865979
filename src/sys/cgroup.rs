//! The device cgroup of a running container: v1's `devices.allow`, v2's eBPF program.
//!
//! The cgroup file system is mounted afresh and privately ([`super::mount::cgroupfs`]), so neither the
//! host's mount layout nor anything in the rootfs is trusted. On v2 all programs attached to a cgroup
//! must agree, so a device cannot be allowed by adding a program: the container's own rules and ours
//! become one new program that replaces the attached ones. Nothing is read back from the old bytecode,
//! which a hardened kernel hands out blinded.

mod bpf;
pub mod rules;
mod tenants;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::root::read_proc;

pub use rules::{Access, DeviceRule, RuleKind};
pub use tenants::{OwnCgroup, SharedCgroup, Tenancy, holds_host_processes};

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
        let path = pid.map_or_else(|| "/proc/self/cgroup".to_owned(), |p| format!("/proc/{p}/cgroup"));
        let text = read_proc(path, MAX_MEMBERSHIPS)?;
        let (hierarchy, controllers, path) = match parse(&text, unified()) {
            Some(Membership::V1 { controllers, path }) => {
                (Hierarchy::V1, controllers.split(',').collect(), path)
            }
            Some(Membership::V2 { path }) => (Hierarchy::V2, Vec::new(), path),
            None => return Err(Errno::NODEV.into()),
        };
        Ok(Self {
            hierarchy,
            dir: open_member(hierarchy, &controllers, path, pid)?,
            path: path.to_owned(),
        })
    }

    /// Whether the processes of the cgroup of `pid` are frozen, or are to be: who joins them stops as well.
    ///
    /// # Errors
    /// Why that cannot be read.
    pub fn is_frozen(pid: i32) -> io::Result<bool> {
        let text = read_proc(format!("/proc/{pid}/cgroup"), MAX_MEMBERSHIPS)?;
        let found = memberships(&text).find(|m| match m {
            Membership::V1 { controllers, .. } => {
                !unified() && controllers.split(',').any(|c| c == "freezer")
            }
            Membership::V2 { .. } => unified(),
        });
        let lines = |dir: &OwnedFd, name| tenants::read(dir, name);
        match found {
            Some(Membership::V1 { controllers, path }) => {
                let names: Vec<&str> = controllers.split(',').collect();
                let dir = open_below(&super::mount::cgroupfs(&names)?, path)?;
                // FROZEN, FREEZING, THAWED.
                Ok(!lines(&dir, c"freezer.state")?.starts_with("THAWED"))
            }
            Some(Membership::V2 { path }) => {
                let dir = open_member(Hierarchy::V2, &[], path, Some(pid))?;
                // The first is so for a cgroup above it too, the second before the last process has stopped.
                Ok(lines(&dir, c"cgroup.events")?.lines().any(|l| l == "frozen 1")
                    || lines(&dir, c"cgroup.freeze")?.trim() == "1")
            }
            None => Ok(false),
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

/// What is read of `/proc/PID/cgroup`, in bytes: a line for each hierarchy, whose path the kernel bounds.
const MAX_MEMBERSHIPS: u64 = 1 << 20;

enum Membership<'a> {
    V1 { controllers: &'a str, path: &'a str },
    V2 { path: &'a str },
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

/// The directory `path` of the hierarchy with these v1 controllers, or of the unified one for none.
///
/// Before Linux 5.2, and under a seccomp profile that does not know `fsopen`, it is looked for where all hosts have the
/// hierarchy mounted: the caller has the host's `/sys` in sight. The mount may be another cgroup namespace's, and `path`
/// mean something else in it, so the process must be a member of what was found.
fn open_member(
    hierarchy: Hierarchy,
    controllers: &[&str],
    path: &str,
    pid: Option<i32>,
) -> io::Result<OwnedFd> {
    match super::mount::cgroupfs(controllers) {
        Ok(root) => return open_below(&root, path),
        Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::NOSYS | Errno::PERM)) => {}
        Err(e) => return Err(e),
    }
    let dir = open_below(&mounted(hierarchy)?, path)?;
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
fn parse(text: &str, unified: bool) -> Option<Membership<'_>> {
    let is_v1 = |m: &Membership<'_>| match m {
        Membership::V1 { controllers, .. } => controllers.split(',').any(|c| c == "devices"),
        Membership::V2 { .. } => false,
    };
    let v1 = memberships(text).find(|m| !unified && is_v1(m));
    v1.or_else(|| memberships(text).find(|m| matches!(m, Membership::V2 { .. })))
}

/// The lines of `/proc/PID/cgroup`, cgroups(7): `ID:controllers:path`.
fn memberships(text: &str) -> impl Iterator<Item = Membership<'_>> {
    text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        match (parts.next()?, parts.next()?) {
            ("", path) => Some(Membership::V2 { path }),
            (controllers, path) => Some(Membership::V1 { controllers, path }),
        }
    })
}

fn open_below(root: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    let path = path.trim_start_matches('/');
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
        assert!(matches!(
            parse(hybrid, false),
            Some(Membership::V1 {
                controllers: "devices",
                path: "/docker/abc"
            })
        ));
        assert!(matches!(
            parse("0::/x:y\n", false),
            Some(Membership::V2 { path: "/x:y" })
        ));
        assert!(matches!(
            parse(hybrid, true),
            Some(Membership::V2 { path: "/docker/abc" })
        ));
        let joint = "3:cpu,devices:/a\n";
        assert!(matches!(
            parse(joint, false),
            Some(Membership::V1 {
                controllers: "cpu,devices",
                path: "/a"
            })
        ));
        assert!(parse("", true).is_none() && parse("garbage\n", false).is_none());
    }
}
