//! Lets one `nvoci install` or `uninstall` run at a time.
//!
//! The lock is `flock` on a file that only root can open, since any process that can open a file
//! can lock it for ever. The kernel releases the lock when its holder ends, however that happens.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::owned;
use super::root::{Node, Root};

/// The directory of root's lock, below `/run`.
const DIR: &str = "nvoci";
const NAME: &str = "lock";
const MODE: u32 = 0o600;
const PAUSE: Duration = Duration::from_millis(20);

/// A held lock; dropping it releases it.
#[derive(Debug)]
pub struct Lock {
    _fd: OwnedFd,
}

impl Lock {
    /// Root's lock of this machine, for changes below any root directory.
    ///
    /// # Errors
    /// `ETIMEDOUT` if another process holds it for longer than `patience`; `EPERM` if another user
    /// could have made the file; otherwise the error of making it.
    pub fn of_machine(patience: Duration) -> io::Result<Self> {
        Self::of_machine_at(Path::new("/run"), patience)
    }

    fn of_machine_at(run: &Path, patience: Duration) -> io::Result<Self> {
        let end = Instant::now() + patience;
        let run_dir = Root::open(run)?.resolve("/")?;
        loop {
            let dir = run_dir.mkdir(OsStr::new(DIR), 0o755)?;
            owned::check(&dir, &run.join(DIR)).map_err(|_| io::Error::from(Errno::PERM))?;
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = match rustix::fs::openat(&dir, NAME, flags, Mode::from_raw_mode(MODE)) {
                Ok(fd) => Node::from_fd(fd)?,
                // The package's removal deletes the directory.
                Err(Errno::NOENT) if Instant::now() < end => continue,
                Err(e) => return Err(e.into()),
            };
            let stat = file.stat();
            let mine = stat.st_uid == rustix::process::geteuid().as_raw();
            if !file.is_file() || !mine || stat.st_mode & 0o7777 != MODE {
                return Err(Errno::PERM.into());
            }
            let (lock, id) = Self::wait(file, end)?;
            // After a removal only a lock on the new file counts.
            let there = run_dir.child(DIR).and_then(|dir| dir.child(NAME));
            if there.is_ok_and(|there| there.id() == id) {
                return Ok(lock);
            }
            if Instant::now() > end {
                return Err(Errno::TIMEDOUT.into());
            }
        }
    }

    /// A lock on a directory, for users who change their own files: only those who can open it can
    /// hold it.
    ///
    /// # Errors
    /// As [`Lock::of_machine`].
    pub fn of_directory(dir: &Root, patience: Duration) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, ".", flags, Mode::empty())?;
        Self::wait(Node::from_fd(fd)?, Instant::now() + patience).map(|(lock, _)| lock)
    }

    fn wait(file: Node, end: Instant) -> io::Result<(Self, (u64, u64))> {
        let id = file.id();
        let fd = file.into_fd();
        loop {
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok((Self { _fd: fd }, id)),
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < end => std::thread::sleep(PAUSE),
                Err(Errno::WOULDBLOCK | Errno::INTR) => return Err(Errno::TIMEDOUT.into()),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    const SHORT: Duration = Duration::from_millis(60);

    fn lock(run: &Path) -> io::Result<Lock> {
        Lock::of_machine_at(run, SHORT)
    }

    #[test]
    fn one_holder_at_a_time() {
        let run = tempfile::tempdir().unwrap();
        let first = lock(run.path()).unwrap();
        let e = lock(run.path()).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::ETIMEDOUT));
        drop(first);
        let held = lock(run.path()).unwrap();
        // The package's removal: a waiter for the old file must not hold the new one.
        fs::remove_dir_all(run.path().join(DIR)).unwrap();
        let again = lock(run.path()).unwrap();
        drop((held, again));
        let root = Root::open(run.path()).unwrap();
        let first = Lock::of_directory(&root, SHORT).unwrap();
        assert!(Lock::of_directory(&root, SHORT).is_err());
        drop(first);
        assert!(Lock::of_directory(&root, SHORT).is_ok());
    }

    #[test]
    fn a_lock_that_others_could_hold_is_refused() {
        let made = |make: &dyn Fn(&Path)| {
            let run = tempfile::tempdir().unwrap();
            fs::create_dir(run.path().join(DIR)).unwrap();
            fs::set_permissions(run.path().join(DIR), Permissions::from_mode(0o755)).unwrap();
            make(&run.path().join(DIR).join(NAME));
            lock(run.path()).is_err()
        };
        assert!(made(&|at| symlink("/dev/null", at).unwrap()));
        assert!(made(&|at| fs::create_dir(at).unwrap()));
        assert!(made(&|at| {
            fs::write(at, "").unwrap();
            fs::set_permissions(at, Permissions::from_mode(0o666)).unwrap();
        }));
        assert!(made(&|at| {
            let fifo = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, at, fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        }));
        assert!(made(&|at| {
            let dir = at.parent().unwrap();
            fs::set_permissions(dir, Permissions::from_mode(0o777)).unwrap();
        }));
    }
}
