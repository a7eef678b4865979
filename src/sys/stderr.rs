//! The standard error that a container's first process has, while it is still the runtime's.
//!
//! Before the runtime executes the container's program, its process runs no code of the image. So
//! its descriptors are those that the engine gave it. A hook's own standard error is a pipe of the
//! runtime, which discards it when the hook succeeds. [`pipe_of`] reopens the process's descriptor
//! if it is an anonymous pipe, as engines give. The new descriptor has flags of its own: it is
//! non-blocking while the container's is not.
//!
//! Other files are left alone. On a terminal a write can stop a process in the background (tty(4),
//! `TOSTOP`). A regular file needs the container's position. A FIFO or a file may be on a user's
//! FUSE file system.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

/// The largest write that a pipe takes whole or not at all (pipe(7), `PIPE_BUF`).
const ATOMIC: usize = 4096;

/// A pipe that is a container's standard error.
#[derive(Debug)]
pub struct StderrPipe(OwnedFd);

impl StderrPipe {
    /// Writes a line; `false` if the pipe has no room or no reader, or the line is too long.
    pub fn write_line(&self, line: &str) -> bool {
        let text = format!("{line}\n");
        text.len() <= ATOMIC && rustix::io::write(&self.0, text.as_bytes()).is_ok()
    }
}

/// The standard error of the process `pid`, if it is an anonymous pipe.
pub fn pipe_of(pid: i32) -> Option<StderrPipe> {
    open(&format!("/proc/{pid}/fd/2")).ok().flatten()
}

fn open(path: &str) -> io::Result<Option<StderrPipe>> {
    // The kernel's name of the file shows its kind without a request to its file system.
    let name = rustix::fs::readlink(path, Vec::new())?;
    if !name.as_bytes().starts_with(b"pipe:[") {
        return Ok(None);
    }
    // The link's mode shows how the process opened it (proc_pid_fd(5)): nobody writes into an end
    // that is for reading.
    let mode = rustix::fs::statat(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW)?.st_mode;
    if !Mode::from_raw_mode(mode).contains(Mode::WUSR) {
        return Ok(None);
    }
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let pipe = rustix::fs::open(path, flags, Mode::empty())?;
    let is_pipe = FileType::from_raw_mode(rustix::fs::fstat(&pipe)?.st_mode) == FileType::Fifo;
    Ok(is_pipe.then_some(StderrPipe(pipe)))
}

/// The number of this process's parent in the visible procfs. In a container's process namespace
/// `getppid` returns another number than the host's procfs has.
pub fn parent() -> Option<i32> {
    /// The field is one of the first lines.
    const MAX: u64 = 16 << 10;
    let status = super::procfs::read("/proc/self/status", MAX).ok()?;
    let line = status
        .split(|b| *b == b'\n')
        .find_map(|line| line.strip_prefix(b"PPid:"))?;
    let pid: i32 = std::str::from_utf8(line).ok()?.trim().parse().ok()?;
    (pid > 0).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    /// [`open`] of one of this process's own descriptors.
    fn of(fd: &impl std::os::fd::AsRawFd) -> Option<StderrPipe> {
        open(&format!("/proc/self/fd/{}", fd.as_raw_fd())).ok().flatten()
    }

    #[test]
    fn a_line_reaches_the_pipe_once_and_never_waits() {
        let (mut reader, writer) = io::pipe().unwrap();
        let pipe = of(&writer).unwrap();
        assert!(pipe.write_line("nvoci: a line"));
        assert!(!pipe.write_line(&"x".repeat(ATOMIC)));
        let mut text = [0; 64];
        let n = reader.read(&mut text).unwrap();
        assert_eq!(&text[..n], b"nvoci: a line\n");
        // A reader that does not read: whole lines, then none.
        let line = "y".repeat(ATOMIC - 1);
        let written = (0..1000).filter(|_| pipe.write_line(&line)).count();
        assert!((1..1000).contains(&written));
        // The container's own descriptor still blocks.
        let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
        assert!(!flags.contains(OFlags::NONBLOCK));
        drop(reader);
        assert!(!pipe.write_line("nobody reads"));
    }

    #[test]
    fn other_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("pipe:[1]")).unwrap();
        assert!(of(&file).is_none());
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let fifo = std::fs::File::options()
            .read(true)
            .write(true)
            .open(&fifo)
            .unwrap();
        assert!(of(&fifo).is_none());
        let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
        assert!(of(&null).is_none());
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(of(&socket).is_none());
        assert!(pipe_of(i32::MAX).is_none());
    }

    #[test]
    fn the_parent_has_a_number() {
        let expected = rustix::process::getppid().map(rustix::process::Pid::as_raw_nonzero);
        assert_eq!(parent(), expected.map(core::num::NonZeroI32::get));
    }
}
