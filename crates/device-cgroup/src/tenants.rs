//! Whether a cgroup belongs to one container alone.
//!
//! An engine may leave a container in the cgroup of its caller (`podman run --cgroups=disabled`),
//! or put two into one. Nothing changes the rules of such a cgroup, since they apply to others too.
//! A process belongs to the container if it is in the container's mount namespace, which no caller
//! is in.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};

use inroot::root::{path_of, read_proc};

use super::{
    Allowed, DeviceCgroup, DeviceRule, Hierarchy, bpf, list_of, mounted, open_below, parse, rules, unified,
};

/// The most bytes of `cgroup.procs` that are read: some ten thousand processes.
const MAX_PROCS: usize = 64 * 1024;
/// The bytes of the first read, enough for a new container; a power of two below [`MAX_PROCS`].
/// Each page of a buffer costs page faults, some of them again after the fork.
const FIRST_READ: usize = 4 * 1024;
/// The most cgroups below a container's that are searched; each holds a descriptor open.
const MAX_BELOW: usize = 512;
/// The most levels between a unit's own cgroup and a container's; crun makes one more.
const MAX_DEPTH: usize = 8;

/// A device cgroup by its members.
#[derive(Debug)]
pub enum Tenancy {
    /// Only the container is in it.
    Own(OwnCgroup),
    /// Others are in it too.
    Shared(SharedCgroup),
}

/// A device cgroup with no process but the container's. Only such a cgroup's rules are ever
/// changed.
#[derive(Debug)]
pub struct OwnCgroup(DeviceCgroup);

/// A device cgroup that has processes other than the container's, itself or in one below it.
#[derive(Debug)]
pub struct SharedCgroup {
    cgroup: DeviceCgroup,
    why: String,
    has_caller: bool,
}

impl DeviceCgroup {
    /// Finds out whether only the container is in this cgroup, which must be that of `pid`: the
    /// container's first process, or `None` for a caller in the container's namespaces.
    ///
    /// # Errors
    /// Those of searching the cgroup.
    pub fn claim(self, pid: Option<i32>) -> io::Result<Tenancy> {
        let own = getpid().as_raw_pid();
        let mut has_caller = pid.is_none();
        let why = first_found(&self.dir, |members| {
            has_caller |= numbers(members).any(|n| n == own);
            match stranger(members, pid) {
                // Linux 5.2 and older have no descriptors of processes.
                Err(Errno::NOSYS) => self.stranger_in_proc(),
                found => Ok(found?),
            }
        });
        let why = match why {
            Err(e) if Errno::from_io_error(&e) == Some(Errno::FBIG) => {
                Some("it has more processes or cgroups than a new container".to_owned())
            }
            why => why?,
        };
        let why = match why {
            // v1 leaves out a process of another PID namespace, where v2 writes 0.
            None if pid.is_none() && self.is_v1() => self.stranger_in_proc()?,
            why => why,
        };
        Ok(match why {
            None => Tenancy::Own(OwnCgroup(self)),
            Some(why) => Tenancy::Shared(SharedCgroup {
                cgroup: self,
                why,
                has_caller,
            }),
        })
    }

    /// The first process of this cgroup or of one below it outside the caller's mount namespace, by
    /// a search of `/proc`. A caller in the container's namespaces still has the host's `/proc`.
    fn stranger_in_proc(&self) -> io::Result<Option<String>> {
        let container = mount_namespace("self")?;
        let is_here = |name: &str| {
            let list = list_of(name).unwrap_or_default();
            parse(&list, !self.is_v1()).is_some_and(|c| is_below(&c.pathname, &self.path))
        };
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name().into_string().unwrap_or_default();
            if name.starts_with(|c: char| c.is_ascii_digit()) && is_here(&name) && !is_in(&name, container)? {
                return Ok(Some(format!("process {name} is in it")));
            }
        }
        Ok(None)
    }
}

impl OwnCgroup {
    /// Whether [`Self::allow`] keeps the container's other rules without their list. v1 does; on v2
    /// a container without a program has no rules.
    pub fn keeps_other_rules(&self) -> bool {
        match self.0.hierarchy {
            Hierarchy::V1 => true,
            Hierarchy::V2 => bpf::attached(&self.0.dir).is_ok_and(|attached| attached.ids.is_empty()),
        }
    }

    /// Allows `ours` in addition to the container's present devices. `spec` are the rules of its
    /// `linux.resources.devices`, in order; only v2 needs them.
    ///
    /// # Errors
    /// Those of writing `devices.allow`, or of `bpf(2)`: `EPERM` without the capabilities.
    pub fn allow(&self, spec: &[DeviceRule], ours: &[DeviceRule]) -> io::Result<Allowed> {
        let dir = &self.0.dir;
        match self.0.hierarchy {
            Hierarchy::V1 => {
                let file = rustix::fs::openat(
                    dir,
                    c"devices.allow",
                    OFlags::WRONLY | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                for rule in ours {
                    rustix::io::write(&file, rule.to_string().as_bytes())?;
                }
                Ok(Allowed::V1)
            }
            Hierarchy::V2 => {
                let attached = bpf::attached(dir)?;
                if attached.ids.is_empty() {
                    return Ok(Allowed::Unrestricted);
                }
                let replaced = bpf::replace(dir, &attached, &rules::program(spec, ours))?;
                Ok(if replaced {
                    Allowed::V2
                } else {
                    Allowed::Unrestricted
                })
            }
        }
    }

    /// Whether programs other than that of [`Self::allow`], whose result is `allowed`, filter the
    /// cgroup: those of others, and of cgroups above. v1 needs none: its cgroups above refuse the
    /// rule itself.
    ///
    /// # Errors
    /// Those of `bpf(2)`.
    pub fn has_other_filters(&self, allowed: Allowed) -> io::Result<bool> {
        match self.0.hierarchy {
            Hierarchy::V1 => Ok(false),
            Hierarchy::V2 => Ok(bpf::filters(&self.0.dir)? > allowed.programs()),
        }
    }

    /// The cgroups whose programs [`Self::has_other_filters`] counts, as paths in the caller's
    /// cgroup namespace. Those outside of it are not visible.
    pub fn other_filters(&self, allowed: Allowed) -> Vec<PathBuf> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut path = PathBuf::from(&self.0.path);
        let mut own = allowed.programs();
        let mut found = Vec::new();
        let mut dir = rustix::fs::openat(&self.0.dir, c".", flags, Mode::empty());
        while let Ok(at) = dir {
            if bpf::attached(&at).is_ok_and(|attached| attached.ids.len() > own) {
                found.push(path.clone());
            }
            own = 0;
            if !path.pop() {
                break;
            }
            dir = rustix::fs::openat(&at, c"..", flags, Mode::empty());
        }
        found
    }

    /// [`DeviceCgroup::join`].
    ///
    /// # Errors
    /// Those of writing `cgroup.procs`.
    pub fn join(&self) -> io::Result<()> {
        self.0.join()
    }

    /// Its path on the host: in the container's own cgroup namespace the kernel calls it `/`.
    ///
    /// # Errors
    /// As of [`Self::is_all_of`]; `EPERM` if file handles may not be opened.
    pub fn path(&self) -> io::Result<PathBuf> {
        if self.0.path != "/" {
            return Ok(PathBuf::from(&self.0.path));
        }
        let top = mounted(self.0.hierarchy)?;
        let found = inroot::handle::same_in(&self.0.dir, &top)?;
        let (top, found) = (path_of(top.as_fd())?, path_of(found.as_fd())?);
        let below = found.strip_prefix(top).map_err(|_| Errno::XDEV)?;
        Ok(Path::new("/").join(below))
    }

    /// Whether systemd's cgroup `control_group` is this one, or holds nothing but this one.
    ///
    /// # Errors
    /// `ENODEV` if the hierarchy is not mounted in its usual place; else those of searching the
    /// cgroup.
    pub fn is_all_of(&self, control_group: &str) -> io::Result<bool> {
        // One hierarchy has several superblocks, one for each cgroup namespace, so `st_dev`
        // differs.
        let own = rustix::fs::fstat(&self.0.dir)?.st_ino;
        let mut unit = open_below(&mounted(self.0.hierarchy)?, control_group)?;
        for _ in 0..MAX_DEPTH {
            if rustix::fs::fstat(&unit)?.st_ino == own {
                return Ok(true);
            }
            if !read(&unit, c"cgroup.procs")?.is_empty() {
                return Ok(false);
            }
            let mut below = children(&unit)?;
            let (Some(only), None) = (below.pop(), below.pop()) else {
                return Ok(false);
            };
            unit = only;
        }
        Ok(false)
    }
}

impl SharedCgroup {
    /// The process that makes it shared.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// Whether the caller is in it, so that the caller has the container's rights.
    pub fn has_caller(&self) -> bool {
        self.has_caller
    }

    /// Whether its members are refused any device.
    ///
    /// # Errors
    /// Those of reading the rules.
    pub fn is_restricted(&self) -> io::Result<bool> {
        match self.cgroup.hierarchy {
            Hierarchy::V1 => Ok(read(&self.cgroup.dir, c"devices.list")?.trim() != "a *:* rwm"),
            Hierarchy::V2 => Ok(bpf::filters(&self.cgroup.dir)? > 0),
        }
    }
}

/// Whether systemd's cgroup `control_group`, or one below it, has a process of the caller's mount
/// namespace. Then the cgroup is more than a running container's.
///
/// # Errors
/// Those of searching it; `EFBIG` if it has too many cgroups below.
pub fn holds_host_processes(control_group: &str) -> io::Result<bool> {
    let hierarchy = if unified() { Hierarchy::V2 } else { Hierarchy::V1 };
    let host = mount_namespace("self")?;
    let found = first_found(&open_below(&mounted(hierarchy)?, control_group)?, |members| {
        let is_host = |n: i32| n == 0 || mount_namespace(&n.to_string()).is_ok_and(|found| found == host);
        Ok(numbers(members).find(|n| is_host(*n)))
    })?;
    Ok(found.is_some())
}

/// The first result of `search` on the `cgroup.procs` of a cgroup and of those below it.
///
/// # Errors
/// `EFBIG` if there are too many cgroups below; else those of reading one.
fn first_found<T>(
    dir: &OwnedFd,
    mut search: impl FnMut(&str) -> io::Result<Option<T>>,
) -> io::Result<Option<T>> {
    let mut found = search(&read(dir, c"cgroup.procs")?)?;
    let mut rest = Vec::new();
    let mut below = children(dir)?;
    let mut visited = 0;
    while found.is_none() {
        rest.append(&mut below);
        let Some(dir) = rest.pop() else { break };
        visited += 1;
        if visited + rest.len() > MAX_BELOW {
            return Err(Errno::FBIG.into());
        }
        found = search(&read(&dir, c"cgroup.procs")?)?;
        below = children(&dir)?;
    }
    Ok(found)
}

/// The cgroups directly below one.
fn children(dir: &OwnedFd) -> io::Result<Vec<OwnedFd>> {
    let mut found = Vec::new();
    // A directory has two links and one more for each below it. The field's type differs by
    // machine.
    if rustix::fs::fstat(dir)?.st_nlink <= 2 {
        return Ok(found);
    }
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() != FileType::Directory || matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if found.len() > MAX_BELOW {
            return Err(Errno::FBIG.into());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        found.push(rustix::fs::openat(dir, name, flags, Mode::empty())?);
    }
    Ok(found)
}

/// Whether the cgroup `path` is `top` or below it. The kernel writes `..` for a path outside the
/// reader's namespace.
fn is_below(path: &str, top: &str) -> bool {
    let rest = path.strip_prefix(top.trim_end_matches('/'));
    rest.is_some_and(|rest| {
        (rest.is_empty() || rest.starts_with('/')) && rest.split('/').all(|part| part != "..")
    })
}

/// Reads one file of a cgroup, within a limit.
pub(super) fn read(dir: &OwnedFd, name: &CStr) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let mut text = Vec::new();
    let mut length = 0;
    loop {
        if length == text.len() {
            if length >= MAX_PROCS {
                return Err(Errno::FBIG.into());
            }
            text.resize(length + FIRST_READ.max(length), 0);
        }
        match rustix::io::read(&file, text.get_mut(length..).unwrap_or_default())? {
            0 => break,
            n => length += n,
        }
    }
    text.truncate(length);
    String::from_utf8(text).map_err(|_| Errno::ILSEQ.into())
}

fn numbers(members: &str) -> impl Iterator<Item = i32> {
    // Malformed lines count as a process of another namespace.
    members
        .lines()
        .map(|line| line.parse().map_or(0, |n: i32| n.max(0)))
}

/// A description of the first process of `cgroup.procs` that is not the container's.
///
/// # Errors
/// `ENOSYS` if `/proc` has other numbers; else those of examining a process.
fn stranger(members: &str, pid: Option<i32>) -> rustix::io::Result<Option<String>> {
    let known = pid.unwrap_or_else(|| getpid().as_raw_pid());
    let mut others = numbers(members).filter(|n| *n != known).peekable();
    if others.peek().is_none() {
        return Ok(None);
    }
    let container = mount_namespace(&pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string()))?;
    for n in others {
        let Some(pid_of_member) = Pid::from_raw(n) else {
            return Ok(Some("a process of another PID namespace is in it".to_owned()));
        };
        let number = match pidfd_open(pid_of_member, PidfdFlags::empty()) {
            // For a caller in the container's namespaces `/proc` is the host's and has other
            // numbers.
            Ok(pidfd) => number_in_proc(&pidfd).unwrap_or(0),
            Err(Errno::SRCH) => continue,
            Err(_) if pid.is_some() => n,
            Err(_) => return Err(Errno::NOSYS),
        };
        if number == 0 || (number > 0 && !is_in(&number.to_string(), container)?) {
            return Ok(Some(format!("process {n} is in it")));
        }
    }
    Ok(None)
}

/// Whether the process `name` of `/proc` is in that mount namespace, or has ended.
fn is_in(name: &str, namespace: (u64, u64)) -> rustix::io::Result<bool> {
    match mount_namespace(name) {
        Err(Errno::NOENT | Errno::SRCH) => Ok(true),
        found => Ok(found? == namespace),
    }
}

/// The number of a process in `/proc`: 0 if it is not visible there, -1 if it has ended
/// (proc_pid_fdinfo(5)).
fn number_in_proc(pidfd: &OwnedFd) -> Option<i32> {
    let info = read_proc(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()), 64 << 10).ok()?;
    let number = info.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    number.trim().parse().ok()
}

/// The identity of a process's mount namespace.
fn mount_namespace(name: &str) -> rustix::io::Result<(u64, u64)> {
    let stat = rustix::fs::stat(format!("/proc/{name}/ns/mnt"))?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_outside_of_the_namespace_is_not_below() {
        assert!(
            is_below("/", "/") && is_below("/a/b", "/") && is_below("/a/b", "/a") && is_below("/a", "/a")
        );
        assert!(!is_below("/../a", "/") && !is_below("/ab", "/a") && !is_below("/", "/a"));
    }

    #[test]
    fn processes_of_other_namespaces_are_strangers() {
        let me = getpid().as_raw_pid();
        let found = |others: &str| stranger(&format!("{me}\n{others}"), Some(me)).unwrap();
        assert_eq!(found(""), None);
        // A process of another PID namespace, and a malformed number.
        assert!(found("0\n").unwrap().contains("another PID namespace"));
        assert!(found("x\n").is_some() && found("-1\n").is_some());
        // It has ended.
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert_eq!(found(&format!("{pid}\n")), None);
        // In the mount namespace of the container's first process, which in this test is this one.
        let parent = rustix::process::getppid().unwrap().as_raw_pid();
        assert_eq!(found(&format!("{parent}\n")), None);
    }
}
