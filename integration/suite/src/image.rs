//! The file system of a container, in the hands of the image's author. Each verb replaces what is
//! at its path, and makes the directories above it.

use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dev, FileType, Mode, makedev, mknodat};

/// A mounted rootfs.
#[derive(Debug)]
pub(crate) struct Image {
    root: PathBuf,
}

impl Image {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// A path of the image on the host.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        symlink(target, self.free(path)?)
    }

    pub(crate) fn fifo(&mut self, path: &str) -> io::Result<()> {
        self.node(path, FileType::Fifo, 0)
    }

    pub(crate) fn character_device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.node(path, FileType::CharacterDevice, makedev(major, minor))
    }

    pub(crate) fn block_device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.node(path, FileType::BlockDevice, makedev(major, minor))
    }

    pub(crate) fn socket(&mut self, path: &str) -> io::Result<()> {
        UnixListener::bind(self.free(path)?).map(drop)
    }

    pub(crate) fn file(&mut self, path: &str, contents: impl AsRef<[u8]>) -> io::Result<()> {
        fs::File::create(self.free(path)?)?.write_all(contents.as_ref())
    }

    pub(crate) fn directory(&mut self, path: &str) -> io::Result<()> {
        fs::create_dir(self.free(path)?)
    }

    fn node(&mut self, path: &str, kind: FileType, device: Dev) -> io::Result<()> {
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
        Ok(mknodat(CWD, self.free(path)?, kind, mode, device)?)
    }

    /// Removes what is at `path`, and makes the directories above it.
    fn free(&mut self, path: &str) -> io::Result<PathBuf> {
        let at = self.at(path);
        remove(&at)?;
        if let Some(above) = at.parent() {
            fs::create_dir_all(above)?;
        }
        Ok(at)
    }
}

/// Removes a file, or a directory with all in it. Nothing there is no error, and what is mounted
/// below it stays.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => remove_on(path, &metadata, metadata.dev()),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(()),
        Err(e) => Err(e),
    }
}

fn remove_on(path: &Path, metadata: &Metadata, device: u64) -> io::Result<()> {
    if !metadata.is_dir() {
        return fs::remove_file(path);
    }
    if metadata.dev() != device {
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        remove_on(&entry.path(), &entry.metadata()?, device)?;
    }
    fs::remove_dir(path)
}
