//! A child process that reads an image and can do nothing else.
//!
//! An image's loader caches, ELF files and version files are untrusted bytes, so a child without
//! rights parses them. The parent bounds the size of its messages, parses them with [`parse`], and
//! uses their values only as texts or as content of files in that same image. For example, a child
//! that a crafted ELF file has taken over can send a wrong soname.
//!
//! | resource | in the child |
//! |---|---|
//! | file system | a clone of the rootfs with all its mounts, attached nowhere, read-only, without devices and programs; Landlock (Linux 5.13) allows reads below it only |
//! | root directory | its own descriptor directory: no path and no `..` leads anywhere else |
//! | user | 65534, if the caller may change its user |
//! | capabilities | `CAP_DAC_READ_SEARCH`: a rootfs belongs to any user |
//! | descriptors | two pipes, the clone, its own descriptor directory |
//! | system calls | those for reading files and for memory (`seccomp.rs`) |
//! | bounds | 20 s, kept by SIGKILL; 8 s of processor time; 512 MB of memory, no byte into a file, no core |
//!
//! The timer starts first, and the child touches nothing of the image before all this is in force,
//! since the image's file system may never answer. If a kernel or an outer container forbids one
//! measure, the others remain. Without `openat2` (Linux 5.6) the clone is the root directory;
//! without `open_tree` (Linux 5.2) the rootfs itself is.

mod landlock;

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::process::{Pid, Resource, WaitOptions, WaitStatus, waitpid};
use rustix::thread::{Gid, Uid};
use serde::{Deserialize, Serialize};

use super::held::close_gathered;
use super::mount::{detached, sealed_copy};
use super::process::{bound, close_all_but, end_at_faults, keep_to_enter, keep_to_read, kill_after};
use super::root::{Root, own_fds_of, proc_root, use_as_own_fds};
use super::seccomp;

/// Seconds after which the child's timer kills it: a file system of the image may never answer, and
/// only a deadly signal ends such a wait. The parent may not send it, since the child is another
/// user.
const PATIENCE: u32 = match (cfg!(test), option_env!("NVOCI_TEST_EMULATED")) {
    (true, None) => 1,
    // Tests of a development build in an emulated machine (integration/machines) need more.
    (true, Some(_)) => 8,
    (false, _) => 20,
};
/// Time that the parent waits longer: a FUSE server that has taken a request and does not answer
/// holds the caller in a wait that no signal ends.
const GRACE: Duration = Duration::from_secs(1);
/// Address space, in bytes: several times the largest cache and configuration that are read.
const MAX_MEMORY: u64 = 512 << 20;
/// Processor time, in seconds: more than a scan takes before its own budget ends it.
const MAX_CPU: u64 = 8;
/// The longest message, in bytes: the largest cache with additions.
pub const MAX_MESSAGE: usize = 32 << 20;
/// The bytes of a message's length.
const LENGTH: usize = 4;
/// Capacity of the pipe, in bytes, so that most messages fit at once; the kernel's limit for
/// unprivileged users.
const PIPE: usize = 1 << 20;
/// The kernel's overflow user, `nobody` in most distributions, which owns no files.
const NOBODY: u32 = 65534;

/// The parent's side. The child ends when this is dropped or when its time is up.
#[derive(Debug)]
pub struct Reader {
    port: Port,
    /// `None` if the child has ended, or cannot be waited for.
    child: Option<Pid>,
    /// When the child's time is up.
    limit: Instant,
}

/// One side's ends of the two pipes.
#[derive(Debug)]
pub struct Port {
    from: File,
    /// `None` if nothing more is sent.
    to: Option<File>,
    /// Deadline for the other side; `None` in the child, whose own time is limited.
    until: Option<Instant>,
}

impl Reader {
    /// Starts a child that runs `work` on the root that `open` opens there, and ends. The child has
    /// a copy of everything that the closures hold, and the right to mount while it opens the root.
    /// The caller has one thread.
    ///
    /// # Errors
    /// If no process can be made, or the child's descriptors cannot be separated from this
    /// process's.
    pub fn start(
        open: impl FnOnce() -> io::Result<Root>,
        work: impl FnOnce(&Root, &mut Port) -> io::Result<()>,
    ) -> io::Result<Self> {
        let (request_from, request_to) = pipe_with(PipeFlags::CLOEXEC)?;
        let (answer_from, answer_to) = pipe_with(PipeFlags::CLOEXEC)?;
        // A smaller pipe works too, with more switches between the processes.
        let _ = fcntl_setpipe_size(&answer_to, PIPE);
        rustix::io::ioctl_fionbio(&answer_from, true)?;
        let proc = proc_root()?;
        // The child closes all descriptors by their numbers, so it must not own the gathered ones.
        close_gathered();
        let limit = Instant::now() + Duration::from_secs(PATIENCE.into());
        // SAFETY: a hook and the commands that call this have one thread, so no lock is held by
        // another. The child ends by `_exit` and never returns into the parent's frames.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                let narrowed = narrow(open, &proc, [request_from, answer_to]);
                let done = narrowed.and_then(|(root, mut port)| work(&root, &mut port));
                let status = i32::from(done.is_err());
                // SAFETY: ends the child without running or flushing anything of the parent's.
                unsafe { libc::_exit(status) }
            }
            child => Ok(Self {
                port: Port {
                    from: answer_from.into(),
                    to: Some(request_to.into()),
                    until: Some(limit + GRACE),
                },
                child: Pid::from_raw(child),
                limit,
            }),
        }
    }

    /// The parent's ends of the pipes, to send to the child.
    pub fn port(&mut self) -> &mut Port {
        &mut self.port
    }

    /// Closes the pipe to the child; the parent sends nothing more.
    pub fn close(&mut self) {
        self.port.to = None;
    }

    /// Receives a message of at most `max` bytes.
    ///
    /// # Errors
    /// `ETIMEDOUT` after the time limit, `EFBIG` if the kernel killed the child at its limit of
    /// processor time or memory, `UnexpectedEof` if the child ended without a message,
    /// `InvalidData` for a message that is too long.
    pub fn recv(&mut self, max: usize) -> io::Result<Vec<u8>> {
        let received = self.port.recv(max);
        match received.as_ref().map_err(io::Error::kind) {
            Err(io::ErrorKind::UnexpectedEof) => {
                let signal = self.end().and_then(WaitStatus::terminating_signal);
                let is_limit = matches!(signal, Some(libc::SIGKILL | libc::SIGALRM | libc::SIGXCPU));
                if is_limit && Instant::now() >= self.limit {
                    return Err(Errno::TIMEDOUT.into());
                }
                // Before the time limit only the kernel sends these: at a limit of resources.
                if matches!(signal, Some(libc::SIGKILL | libc::SIGXCPU)) {
                    return Err(Errno::FBIG.into());
                }
            }
            // The child has been killed and does not end.
            Err(io::ErrorKind::TimedOut) => self.child = None,
            _ => {}
        }
        received
    }

    /// Waits for the child, which has closed its pipe and is about to end.
    fn end(&mut self) -> Option<WaitStatus> {
        let ended = waitpid(Some(self.child.take()?), WaitOptions::empty()).ok()??;
        Some(ended.1)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.close();
        // A container's first process would inherit a zombie that its hook leaves behind.
        if self.child.is_some() {
            let mut rest = [0; 4096];
            let end = loop {
                match self.port.some(&mut rest) {
                    Ok(0) => break true,
                    Ok(_) => {}
                    Err(_) => break false,
                }
            };
            if end {
                self.end();
            }
        }
    }
}

impl Port {
    /// Sends a message: its length, then postcard's bytes, in one write.
    pub fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let mut frame = postcard::to_extend(message, vec![0; LENGTH]).map_err(io::Error::other)?;
        let length = u32::try_from(frame.len() - LENGTH).map_err(io::Error::other)?;
        frame[..LENGTH].copy_from_slice(&length.to_le_bytes());
        self.to.as_mut().ok_or(Errno::PIPE)?.write_all(&frame)
    }

    /// Receives a message of at most `max` bytes, for [`parse`].
    ///
    /// # Errors
    /// See [`Reader::recv`].
    pub fn recv(&mut self, max: usize) -> io::Result<Vec<u8>> {
        let mut length = [0; LENGTH];
        self.fill(&mut length)?;
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > max {
            return Err(malformed());
        }
        let mut message = vec![0; length];
        self.fill(&mut message)?;
        Ok(message)
    }

    /// [`Port::recv`]; `None` if the other side has closed the pipe.
    ///
    /// # Errors
    /// As of [`Port::recv`].
    pub fn recv_if_any(&mut self, max: usize) -> io::Result<Option<Vec<u8>>> {
        match self.recv(max) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            received => received.map(Some),
        }
    }

    /// Fills `out` with the next bytes.
    fn fill(&mut self, out: &mut [u8]) -> io::Result<()> {
        let mut got = 0;
        while got < out.len() {
            match self.some(&mut out[got..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => got += n,
            }
        }
        Ok(())
    }

    /// Reads some bytes; 0 at the end.
    fn some(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match (self.from.read(out), self.until) {
                (Err(e), _) if e.kind() == io::ErrorKind::Interrupted => {}
                (Err(e), Some(until)) if e.kind() == io::ErrorKind::WouldBlock => self.wait(until)?,
                (read, _) => return read,
            }
        }
    }

    /// Waits until there is something to read.
    fn wait(&self, until: Instant) -> io::Result<()> {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&self.from, PollFlags::IN)], Some(&left)) {
            Ok(0) => Err(Errno::TIMEDOUT.into()),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

/// Parses a received message to its last byte. Values borrow from `message`. A type with lists must
/// limit their length, since a list's elements may take more memory than their bytes.
///
/// # Errors
/// `InvalidData` for anything else than one `T`.
pub fn parse<'m, T: Deserialize<'m>>(message: &'m [u8]) -> io::Result<T> {
    match postcard::take_from_bytes(message) {
        Ok((parsed, [])) => Ok(parsed),
        _ => Err(malformed()),
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the message is malformed or too long")
}

/// Confines this process, a new child, as the module describes. `open` opens its root.
fn narrow(
    open: impl FnOnce() -> io::Result<Root>,
    proc: &OwnedFd,
    pipes: [OwnedFd; 2],
) -> io::Result<(Root, Port)> {
    // 0 and 1 are the pipes. 2 is a pipe that cannot be written to, so that no crafted text reaches
    // a log.
    let [from, to] = pipes;
    for (fd, place) in [(&from, 0), (&to, 1), (&from, 2)] {
        place_at(fd, place)?;
    }
    kill_after(PATIENCE);
    let none = [Resource::Core, Resource::Fsize, Resource::Nproc].map(|resource| (resource, 0));
    for (resource, most) in none
        .into_iter()
        .chain([(Resource::As, MAX_MEMORY), (Resource::Cpu, MAX_CPU)])
    {
        bound(resource, most);
    }
    end_at_faults();
    keep_to_enter();
    let (root, own) = jail(open, proc)?;
    close_all_but(&[root.as_fd().as_raw_fd(), own]);
    // The numbers were closed under their owners; neither may be dropped later.
    std::mem::forget((from, to));
    give_up_user();
    keep_to_read();
    let _ = landlock::only_read_below(root.as_fd());
    let _ = seccomp::allow_reading();
    let [from, to] = [0, 1].map(|fd: RawFd| {
        // SAFETY: placed there above, and owned by nothing else.
        File::from(unsafe { OwnedFd::from_raw_fd(fd) })
    });
    let port = Port {
        from,
        to: Some(to),
        until: None,
    };
    Ok((root, port))
}

/// Leaves only the tree at `open`'s root and the process's own descriptors reachable. Returns the
/// root, and the descriptor number of the directory of descriptors.
fn jail(open: impl FnOnce() -> io::Result<Root>, proc: &OwnedFd) -> io::Result<(Root, RawFd)> {
    let (own, has_openat2) = own_fds_of(proc)?;
    if !has_openat2 {
        // A clone of a mount has no parent, so no `..` leads out of the descriptor directory.
        let own = detached(&own, OpenTreeFlags::empty()).unwrap_or(own);
        let root = open()?;
        let root = sealed_copy(root.as_fd()).map_or(root, Root::from_fd);
        return Ok((as_root_directory(root)?, use_as_own_fds(&own)?));
    }
    let root = open()?;
    let Ok(copy) = sealed_copy(root.as_fd()) else {
        return Ok((as_root_directory(root)?, use_as_own_fds(&own)?));
    };
    // To make the clone the root directory would touch the image, so the descriptor directory
    // becomes it.
    let _ = rustix::process::fchdir(&own).and_then(|()| rustix::process::chroot(c"."));
    Ok((Root::of_detached(copy), use_as_own_fds(&own)?))
}

/// Makes `root` the process's root directory, if that is allowed.
fn as_root_directory(root: Root) -> io::Result<Root> {
    let jailed = rustix::process::fchdir(&root).and_then(|()| rustix::process::chroot(c"."));
    if jailed.is_ok() { root.as_own() } else { Ok(root) }
}

/// Duplicates `fd` to the number `place`.
fn place_at(fd: &OwnedFd, place: RawFd) -> io::Result<()> {
    // SAFETY: 0 to 2 are this process's standard descriptors, which no value owns.
    match unsafe { libc::dup2(fd.as_raw_fd(), place) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Becomes nobody and keeps its capabilities. If that is not allowed or there is no such user, it
/// keeps its user.
fn give_up_user() {
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    let _ = rustix::thread::set_keep_capabilities(true);
    let _ = rustix::thread::set_thread_groups(&[]);
    let _ = rustix::thread::set_thread_res_gid(group, group, group);
    let _ = rustix::thread::set_thread_res_uid(user, user, user);
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
