//! A process that reads an image and can do nothing else.
//!
//! Loader caches, ELF files and version files of an image are an attacker's bytes. They are parsed in a child that has
//! nothing to lose: what it says is a list of byte strings, bounded in number and size, and the parent takes none of them
//! for more than a text or the content of a file in that same image.
//!
//! | what | in the child |
//! |---|---|
//! | file system | a copy of the rootfs with all its mounts, attached nowhere, read-only, without devices and programs; Landlock (Linux 5.13) lets it read there and nothing else |
//! | root directory | its own descriptor directory: no path and no `..` leads anywhere else |
//! | user | 65534, where the caller may change its user |
//! | capabilities | `CAP_DAC_READ_SEARCH`: a rootfs belongs to any user |
//! | descriptors | two pipes, the copy, its own descriptor directory |
//! | system calls | those for reading files and for memory ([`super::seccomp`]) |
//! | bounds | 20 s, kept by SIGKILL; 8 s of processor time; 512 MB of memory, no byte into a file, no core |
//!
//! The time runs first of all, and nothing of the image is touched before all of this is in force:
//! its file system may never answer. A kernel or an outer container that forbids one of them leaves
//! the others. Without `openat2` (Linux 5.6) the copy is the root directory, without `open_tree`
//! (Linux 5.2) the rootfs itself is.

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

use super::mount::{detached, sealed_copy};
use super::process::{bound, close_all_but, end_at_faults, keep_to_enter, keep_to_read, kill_after};
use super::root::{Root, own_fds_of, proc_root, use_as_own_fds};
use super::seccomp;

/// Seconds after which a child ends itself: a file system of the image may never answer, and then only a deadly signal ends
/// the wait. The parent could not send it, nor would the kernel at the parent's end: the child is another user.
const PATIENCE: u32 = if cfg!(test) { 1 } else { 20 };
/// How much longer the parent waits: a server of FUSE that has taken a request and does not answer
/// it holds whoever asks in a wait that no signal ends.
const GRACE: Duration = Duration::from_secs(1);
/// Address space, in bytes: the largest cache and configuration that are read, several times over.
const MAX_MEMORY: u64 = 512 << 20;
/// Processor time, in seconds: more than a scan takes until it gives up by itself.
const MAX_CPU: u64 = 8;
/// A message, in bytes: the largest cache, extended.
const MAX_MESSAGE: usize = 32 << 20;
/// The parts of one.
const MAX_PARTS: usize = 1 << 17;
/// What is small: it is said in one call with what it belongs to, and read with what follows it.
const AHEAD: usize = 4096;
/// What a pipe holds, in bytes, so that most answers are given in one piece; the kernel's limit for everybody.
const PIPE: usize = 1 << 20;
/// The kernel's overflow user, `nobody` in most distributions: who owns nothing.
const NOBODY: u32 = 65534;

/// The parent's side. The child ends when this is dropped, or when its time is up.
#[derive(Debug)]
pub struct Reader {
    port: Port,
    /// `None` when it is known to have ended, or cannot.
    child: Option<Pid>,
    /// When its time is up.
    limit: Instant,
}

/// One side of the conversation.
#[derive(Debug)]
pub struct Port {
    from: File,
    /// `None` when all is said.
    to: Option<File>,
    /// Until when to wait for the other side; for ever in the child, whose time is limited.
    until: Option<Instant>,
    /// What was read and not taken yet: a buffer, and how much of it is taken.
    ahead: (Vec<u8>, usize),
}

impl Reader {
    /// Starts a child that runs `work` with its side of the conversation on the root that `open`
    /// opens there, and ends. It has a copy of everything that the closures hold, and while it
    /// opens the root it may mount. The process has one thread.
    ///
    /// # Errors
    /// When no process can be made, or the child cannot be cut off from this process's descriptors.
    pub fn start(
        open: impl FnOnce() -> io::Result<Root>,
        work: impl FnOnce(&Root, &mut Port) -> io::Result<()>,
    ) -> io::Result<Self> {
        let (ask_from, ask_to) = pipe_with(PipeFlags::CLOEXEC)?;
        let (answer_from, answer_to) = pipe_with(PipeFlags::CLOEXEC)?;
        // Smaller pieces take a little longer.
        let _ = fcntl_setpipe_size(&answer_to, PIPE);
        rustix::io::ioctl_fionbio(&answer_from, true)?;
        let proc = proc_root()?;
        let limit = Instant::now() + Duration::from_secs(PATIENCE.into());
        // SAFETY: a hook and the commands that get here have one thread, so no lock is held by another; the child ends
        // by `_exit` and never returns into the parent's frames.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                let narrowed = narrow(open, &proc, [ask_from, answer_to]);
                let done = narrowed.and_then(|(root, mut port)| work(&root, &mut port));
                let status = i32::from(done.is_err());
                // SAFETY: ends the child; nothing of the parent's is run or flushed.
                unsafe { libc::_exit(status) }
            }
            child => Ok(Self {
                port: Port {
                    from: answer_from.into(),
                    to: Some(ask_to.into()),
                    until: Some(limit + GRACE),
                    ahead: (Vec::new(), 0),
                },
                child: Pid::from_raw(child),
                limit,
            }),
        }
    }

    /// Says something to the child.
    pub fn say(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        self.port.say(parts)
    }

    /// Tells the child that nothing more will be said.
    pub fn say_no_more(&mut self) {
        self.port.to = None;
    }

    /// The next answer.
    ///
    /// # Errors
    /// `ETIMEDOUT` when it takes too long, `EFBIG` when it was killed for what it uses, `UnexpectedEof` when the child
    /// has ended without one, `InvalidData` for what is no message.
    pub fn hear(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let said = self.port.hear();
        match said.as_ref().map_err(io::Error::kind) {
            Err(io::ErrorKind::UnexpectedEof) => {
                let signal = self.end().and_then(WaitStatus::terminating_signal);
                let is_limit = matches!(signal, Some(libc::SIGKILL | libc::SIGALRM | libc::SIGXCPU));
                if is_limit && Instant::now() >= self.limit {
                    return Err(Errno::TIMEDOUT.into());
                }
                // Before the timer's end the kernel sends these, for what the child uses.
                if matches!(signal, Some(libc::SIGKILL | libc::SIGXCPU)) {
                    return Err(Errno::FBIG.into());
                }
            }
            // It has been killed, and does not end.
            Err(io::ErrorKind::TimedOut) => self.child = None,
            _ => {}
        }
        said
    }

    /// Waits for the child's end, which is at hand: nothing more is heard of it.
    fn end(&mut self) -> Option<WaitStatus> {
        let ended = waitpid(Some(self.child.take()?), WaitOptions::empty()).ok()??;
        Some(ended.1)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.say_no_more();
        // A container's first process would inherit what its hook leaves behind, so nothing is left.
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
    /// Says something: a few byte strings.
    pub fn say(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        let size: usize = parts.iter().map(|part| part.len() + 4).sum();
        let mut head = Vec::with_capacity(8 + 4 * parts.len());
        head.extend(word(size)?);
        head.extend(word(parts.len())?);
        for part in parts {
            head.extend(word(part.len())?);
        }
        let to = self.to.as_mut().ok_or(Errno::PIPE)?;
        // What is small goes in one call.
        let mut small = head;
        for part in parts {
            if part.len() <= AHEAD {
                small.extend_from_slice(part);
                continue;
            }
            to.write_all(&small)?;
            small.clear();
            to.write_all(part)?;
        }
        to.write_all(&small)
    }

    /// Waits for something to be said.
    ///
    /// # Errors
    /// See [`Reader::hear`].
    pub fn hear(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let [size, count] = self.words()?;
        if size > MAX_MESSAGE || count > MAX_PARTS {
            return Err(no_message());
        }
        let mut lengths = Vec::with_capacity(count);
        for raw in self.take(4 * count)?.chunks_exact(4) {
            lengths.push(number(raw));
        }
        if lengths.iter().map(|len| len + 4).sum::<usize>() != size {
            return Err(no_message());
        }
        lengths.into_iter().map(|len| self.take(len)).collect()
    }

    /// [`Port::hear`]; nothing when the other side will say no more.
    ///
    /// # Errors
    /// As of [`Port::hear`].
    pub fn hear_if_any(&mut self) -> io::Result<Option<Vec<Vec<u8>>>> {
        match self.hear() {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            heard => heard.map(Some),
        }
    }

    fn words(&mut self) -> io::Result<[usize; 2]> {
        let raw = self.take(8)?;
        Ok([number(&raw[..4]), number(&raw[4..])])
    }

    /// The next `len` bytes.
    fn take(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(len);
        while out.len() < len {
            let left = len - out.len();
            if self.ahead.1 == self.ahead.0.len() {
                // Of what is small as much as is there.
                let mut some = vec![0; left.max(AHEAD)];
                match self.some(&mut some)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    n => some.truncate(n),
                }
                self.ahead = (some, 0);
            }
            let (some, taken) = &mut self.ahead;
            let rest = some.get(*taken..).unwrap_or_default();
            let now = rest.get(..left).unwrap_or(rest);
            out.extend_from_slice(now);
            *taken += now.len();
        }
        Ok(out)
    }

    /// Some bytes; none at the end.
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

fn word(n: usize) -> io::Result<[u8; 4]> {
    u32::try_from(n).map(u32::to_le_bytes).map_err(|_| no_message())
}

fn number(raw: &[u8]) -> usize {
    raw.try_into()
        .map_or(usize::MAX, |raw| u32::from_le_bytes(raw) as usize)
}

fn no_message() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what it says is no answer")
}

/// Makes this process, a child just made, what the module says, with the root that `open` opens.
fn narrow(
    open: impl FnOnce() -> io::Result<Root>,
    proc: &OwnedFd,
    pipes: [OwnedFd; 2],
) -> io::Result<(Root, Port)> {
    // 0 and 1 are the pipes; 2 is one that nothing can be written to, so that no crafted text reaches a log.
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
    // What the parent holds is closed under its owners here; they are never used again, and never dropped.
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
        ahead: (Vec::new(), 0),
    };
    Ok((root, port))
}

/// Leaves nothing in sight but the tree at the root that `open` opens and the process's own
/// descriptors. Returns the root, and the number of the descriptor of the others' directory.
fn jail(open: impl FnOnce() -> io::Result<Root>, proc: &OwnedFd) -> io::Result<(Root, RawFd)> {
    let (own, has_openat2) = own_fds_of(proc)?;
    if !has_openat2 {
        // A copy of a mount has no parent, so no `..` leads out of the descriptor directory.
        let own = detached(&own, OpenTreeFlags::empty()).unwrap_or(own);
        let root = open()?;
        let root = sealed_copy(root.as_fd()).map_or(root, Root::from_fd);
        return Ok((as_root_directory(root)?, use_as_own_fds(&own)?));
    }
    let root = open()?;
    let Ok(copy) = sealed_copy(root.as_fd()) else {
        return Ok((as_root_directory(root)?, use_as_own_fds(&own)?));
    };
    // Nothing of the image is touched yet, as it would be by making the copy the root directory.
    let _ = rustix::process::fchdir(&own).and_then(|()| rustix::process::chroot(c"."));
    Ok((Root::of_detached(copy), use_as_own_fds(&own)?))
}

/// Makes `root` the process's root directory, where that is allowed.
fn as_root_directory(root: Root) -> io::Result<Root> {
    let jailed = rustix::process::fchdir(&root).and_then(|()| rustix::process::chroot(c"."));
    if jailed.is_ok() { root.as_own() } else { Ok(root) }
}

/// Makes `place` another number of `fd`, kept by nothing else.
fn place_at(fd: &OwnedFd, place: RawFd) -> io::Result<()> {
    // SAFETY: 0 to 2 are this process's standard descriptors, which no value owns.
    match unsafe { libc::dup2(fd.as_raw_fd(), place) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Becomes nobody, with the capabilities that it has. Where that is not allowed, or there is no such user, it stays who it is.
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
