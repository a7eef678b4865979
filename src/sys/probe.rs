//! Tries device nodes in a container's cgroup, and executes nothing of the container.
//!
//! A forked child joins the container's device cgroup and tries nodes that the parent found. It
//! then ends, so nothing stays in the cgroup, and it writes nothing.
//!
//! For a running container, [`open_as`] also takes the user, groups and capabilities of one of its
//! processes, and opens the nodes. For one that starts, [`access_in`] opens none: a driver may take
//! seconds.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Uid};
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::cgroup::DeviceCgroup;
use super::procfs;
use super::root::Node;

/// A driver may initialise a GPU for seconds when a node is opened; longer than this is a finding.
const LIMIT: Duration = Duration::from_secs(20);

/// The child has the process's rights after a millisecond, unless the container is paused.
const LIMIT_READY: Duration = Duration::from_secs(3);

/// A process may be in 65,536 groups, which fit into this many bytes of `status`.
const MAX_STATUS: u64 = 1 << 20;

/// The rights of a process.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Identity {
    /// The user for access to files, as an id of the caller's user namespace.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The other groups.
    pub groups: Vec<u32>,
    /// Effective capabilities, a bit each (capability.h).
    pub capabilities: u64,
    /// The process is in another user namespace, where capabilities grant nothing on the host's
    /// nodes.
    pub foreign: bool,
}

impl Identity {
    /// The rights of a process, from its `status` (proc(5)).
    ///
    /// # Errors
    /// Those of reading it; `EINVAL` if a line is missing.
    pub fn of(pid: u32) -> io::Result<Self> {
        let status = procfs::read(format!("/proc/{pid}/status"), MAX_STATUS)?;
        let mut identity = parse(&status).ok_or(Errno::INVAL)?;
        let own = std::fs::read_link("/proc/self/ns/user")?;
        identity.foreign = std::fs::read_link(format!("/proc/{pid}/ns/user"))? != own;
        Ok(identity)
    }

    /// Reduces the calling thread, the only one, to these rights.
    fn assume(&self) -> io::Result<()> {
        rustix::thread::set_keep_capabilities(true)?;
        let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
        nix::unistd::setgroups(&groups)?;
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        nix::unistd::setresgid(gid, gid, gid)?;
        nix::unistd::setresuid(uid, uid, uid)?;
        let own = capabilities(None)?;
        let kept = if self.foreign {
            CapabilitySet::empty()
        } else {
            own.permitted & CapabilitySet::from_bits_retain(self.capabilities)
        };
        let as_this = CapabilitySets {
            effective: kept,
            permitted: kept,
            ..own
        };
        Ok(set_capabilities(None, as_this)?)
    }
}

fn parse(status: &[u8]) -> Option<Identity> {
    let status = procfs::status(status)?;
    Some(Identity {
        uid: status.fuid,
        gid: status.fgid,
        groups: status.groups,
        capabilities: status.capeff,
        foreign: false,
    })
}

/// Opens each node with the rights of process `pid`: `None` if it opened, else its error;
/// `ETIMEDOUT` for nodes that were not reached in time.
///
/// # Errors
/// If no child can be made, or it cannot take the process's rights.
pub fn open_as(pid: u32, nodes: &[Node]) -> io::Result<Vec<Option<Errno>>> {
    // An ordinary user can join no other cgroup and become no other user; then the user's own
    // rights count.
    let privileged = rustix::process::geteuid().is_root();
    let stance = if privileged {
        let pid_number = i32::try_from(pid).map_err(|_| Errno::SRCH)?;
        Some((DeviceCgroup::of(Some(pid_number))?, Identity::of(pid)?))
    } else {
        None
    };
    let become_it = || match &stance {
        Some((cgroup, identity)) => cgroup.join().and_then(|()| identity.assume()),
        None => Ok(()),
    };
    in_child(become_it, open, nodes)
}

/// Checks access to each node in the cgroup that `join` enters: `None` if it may be opened, else
/// the error.
///
/// # Errors
/// If no child can be made, or it cannot join.
pub fn access_in(join: impl FnOnce() -> io::Result<()>, nodes: &[Node]) -> io::Result<Vec<Option<Errno>>> {
    in_child(join, access, nodes)
}

/// The path of an `O_PATH` descriptor's inode through the child's own `/proc/self/fd`, which
/// differs from the parent's.
fn path_of(node: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", node.as_raw_fd())
}

fn open(node: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path_of(node), flags, Mode::empty()).map(drop)
}

fn access(node: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let mode = Access::READ_OK | Access::WRITE_OK;
    rustix::fs::accessat(CWD, path_of(node), mode, AtFlags::empty())
}

/// The results of `attempt` on each node in a child that `prepare` has changed.
fn in_child(
    prepare: impl FnOnce() -> io::Result<()>,
    attempt: impl Fn(BorrowedFd<'_>) -> rustix::io::Result<()>,
    nodes: &[Node],
) -> io::Result<Vec<Option<Errno>>> {
    let answers = answers_of(prepare, attempt, nodes)?;
    let mut answers = answers.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b));
    match answers.next() {
        Some(0) => {}
        Some(errno) => return Err(io::Error::from_raw_os_error(errno)),
        None => return Err(Errno::TIMEDOUT.into()),
    }
    let mut found: Vec<Option<Errno>> = answers
        .map(|e| (e != 0).then(|| Errno::from_raw_os_error(e)))
        .collect();
    found.resize(nodes.len(), Some(Errno::TIMEDOUT));
    Ok(found)
}

/// The bytes that a forked child sends within the limit: error numbers, 0 for none, of `prepare`
/// and then of each node.
fn answers_of(
    prepare: impl FnOnce() -> io::Result<()>,
    attempt: impl Fn(BorrowedFd<'_>) -> rustix::io::Result<()>,
    nodes: &[Node],
) -> io::Result<Vec<u8>> {
    let (mut ours, mut theirs) = UnixStream::pair()?;
    // SAFETY: the child makes system calls and allocates, which musl's fork allows; it leaves by
    // _exit.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        drop(ours);
        let ready = prepare()
            .err()
            .map_or(0, |e| e.raw_os_error().unwrap_or(libc::EIO));
        let mut send = |errno: i32| theirs.write_all(&errno.to_le_bytes()).is_ok();
        // Without a parent nobody needs the other results.
        let _ = send(ready)
            && ready == 0
            && nodes
                .iter()
                .all(|n| send(attempt(n.as_fd()).err().map_or(0, Errno::raw_os_error)));
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(0) }
    }
    drop(theirs);
    let mut end = Instant::now() + LIMIT_READY;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        ours.set_read_timeout(Some(left))?;
        match ours.read(&mut part) {
            Ok(0) => break,
            Ok(n) => {
                if answer.is_empty() {
                    end = Instant::now() + LIMIT;
                }
                answer.extend_from_slice(part.get(..n).unwrap_or_default());
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    reap(pid);
    Ok(answer)
}

/// Kills a child that still runs. One that hangs in a driver cannot be waited for.
fn reap(pid: libc::pid_t) {
    let end = Instant::now() + Duration::from_secs(1);
    loop {
        // SAFETY: the number is that of our own child, which was not waited for yet.
        let done = unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
        if done != 0 || Instant::now() > end {
            return;
        }
        // SAFETY: as above: the number cannot be another process's before the wait.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::root::Root;

    #[test]
    fn the_status_of_a_process() {
        let text = procfs::recorded::STATUS
            .replace("Uid:\t0\t0\t0\t0", "Uid:\t1\t2\t3\t4")
            .replace("Gid:\t0\t0\t0\t0", "Gid:\t5\t6\t7\t8")
            .replace("Groups:\t ", "Groups:\t9 10 ")
            .replace("CapEff:\t000001fffeffffff", "CapEff:\t00000000a80425fb");
        let identity = parse(text.as_bytes()).unwrap();
        assert_eq!((identity.uid, identity.gid), (4, 8));
        assert_eq!(identity.groups, [9, 10]);
        assert_eq!(identity.capabilities, 0xa804_25fb);
        assert!(parse(b"Uid:\t1\n").is_none());
        let name = [&b"Name:\t\xff\n"[..], text.split_once('\n').unwrap().1.as_bytes()].concat();
        assert_eq!(parse(&name), Some(identity));
    }

    #[test]
    fn a_child_opens_permitted_nodes() {
        let root = Root::open("/").unwrap();
        let nodes = [root.resolve("/dev/null").unwrap(), root.resolve("/dev").unwrap()];
        let errors = [None, Some(Errno::ISDIR)];
        assert_eq!(in_child(|| Ok(()), open, &nodes).unwrap(), errors);
        assert_eq!(access_in(|| Ok(()), &nodes).unwrap(), [None, None]);
        let failed = access_in(|| Err(Errno::PERM.into()), &nodes).unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(libc::EPERM));
    }
}
