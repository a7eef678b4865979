//! Looks a path up without opening it, if root alone can change the path's meaning.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Place, Walk, below};
use crate::sys::root::read_sized;

/// Result of [`Walk::trace`].
#[derive(Debug)]
pub enum Trace {
    /// A directory: device and inode number.
    Dir((u64, u64)),
    /// Anything else.
    Entry(Traced),
    /// The path does not exist.
    Missing,
    /// A user other than root may control the path, or the check failed.
    Unproved,
}

/// A path in directories that root alone can change.
#[derive(Debug)]
pub struct Traced {
    real: PathBuf,
    stat: Stat,
}

impl Traced {
    /// All links resolved, from the root of the walk.
    pub fn path(&self) -> &Path {
        &self.real
    }

    /// Device and inode number.
    pub fn id(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == FileType::RegularFile
    }
}

impl Walk<'_> {
    /// The target of `path`, if root alone can change it. Nothing is opened.
    pub fn trace(&self, path: &Path) -> Trace {
        let found = self.try_trace(path);
        if matches!(found, Trace::Unproved) {
            self.proved.borrow_mut().is_partial = true;
        }
        found
    }

    fn try_trace(&self, path: &Path) -> Trace {
        match self.follow(path, &mut 0) {
            Ok(Place::Other(dir, entry, real)) => match self.check(&dir, &entry.stat, &real) {
                Ok(()) if entry.held.is_none() => Trace::Entry(Traced {
                    real,
                    stat: entry.stat,
                }),
                _ => Trace::Unproved,
            },
            Ok(Place::Dir(dir)) if dir.held.is_none() => Trace::Dir(dir.id),
            Err(e) if matches!(e.os(), Some(libc::ENOENT | libc::ENOTDIR)) => Trace::Missing,
            _ => Trace::Unproved,
        }
    }

    /// Opens a regular file that was traced.
    pub fn open_traced(&self, traced: &Traced) -> io::Result<File> {
        if !traced.is_file() {
            return Err(Errno::INVAL.into());
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.root, below(&traced.real), flags, Mode::empty())?;
        Ok(fd.into())
    }

    /// Reads at most `max` bytes of a regular file that was traced.
    pub fn read_traced(&self, traced: &Traced, max: u64) -> io::Result<Vec<u8>> {
        read_sized(self.open_traced(traced)?, traced.stat.st_size, (0, 0), max)
    }
}
