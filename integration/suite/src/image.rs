//! The file system of a container, in the hands of the image's author. Each verb replaces what is
//! at its path, and makes the directories above it.

use std::ffi::{CString, OsStr};
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Dev, FileType, Mode, makedev, mknodat};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::host::WORLD;
use crate::process::{run_silently, words};

/// A rootfs on the host's own file system.
pub(crate) const PLAIN_ROOT: &str = "/plainroot";

/// A mounted rootfs.
#[derive(Debug)]
pub(crate) struct Image {
    root: PathBuf,
}

impl Image {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Instead of an overlay, a directory on the host's own file system, where a file of the host
    /// can have another name. The definition's `root.path` is `PLAIN_ROOT`.
    pub(crate) fn move_to_plain_root(&mut self) -> io::Result<()> {
        unmount(&self.root, UnmountFlags::empty())?;
        let root = PathBuf::from(PLAIN_ROOT);
        remove(&root)?;
        let copy = words(&["cp", "-a", &format!("{WORLD}/images/slim"), PLAIN_ROOT]);
        run_silently(&copy, Duration::from_secs(60))?;
        fs::copy(format!("{WORLD}/probe/probe-static"), root.join("probe"))?;
        self.root = root;
        Ok(())
    }

    /// Puts the container's layer on a file system of its own, and fills it. `options` are those of
    /// tmpfs.
    pub(crate) fn move_to_full(&mut self, options: &str) -> io::Result<()> {
        let small = self.root.with_file_name("small");
        unmount(&self.root, UnmountFlags::empty())?;
        fs::create_dir(&small)?;
        let options = CString::new(options)?;
        mount("tmpfs", &small, "tmpfs", MountFlags::empty(), options.as_c_str())?;
        for directory in ["upper", "work"] {
            fs::create_dir(small.join(directory))?;
        }
        fs::copy(format!("{WORLD}/probe/probe-static"), small.join("upper/probe"))?;
        let options = format!(
            "lowerdir={WORLD}/images/bookworm,upperdir={0}/upper,workdir={0}/work",
            small.display()
        );
        let options = CString::new(options)?;
        mount(
            "overlay",
            &self.root,
            "overlay",
            MountFlags::empty(),
            options.as_c_str(),
        )?;
        // The runtime's own files and directories exist.
        for directory in ["dev", "proc", "sys", "run"] {
            fs::create_dir_all(self.at(directory))?;
        }
        let mut fill = fs::File::create(small.join("fill"))?;
        while fill.write_all(&[0; 4096]).is_ok() {}
        let mut names = (0..3000).map(|number| small.join(format!("i{number}")));
        while names.next().is_some_and(|name| fs::File::create(name).is_ok()) {}
        Ok(())
    }

    /// A path of the image on the host.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Where a path of a container leads: links are followed below its root.
    pub(crate) fn resolved(&self, path: &str) -> String {
        let mut left: Vec<String> = parts(path);
        let mut done: Vec<String> = Vec::new();
        // Links to links end, as the kernel's do.
        let mut links = 40;
        while let Some(part) = (!left.is_empty()).then(|| left.remove(0)) {
            if part == ".." {
                done.pop();
                continue;
            }
            done.push(part);
            if let Ok(target) = fs::read_link(self.at(&done.join("/")))
                && links > 0
            {
                links -= 1;
                done.pop();
                let target = target.to_string_lossy();
                if target.starts_with('/') {
                    done.clear();
                }
                left.splice(0..0, parts(&target));
            }
        }
        format!("/{}", done.join("/"))
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

    /// Makes a file longer, with nothing behind its end.
    pub(crate) fn grow(&mut self, path: &str, bytes: u64) -> io::Result<()> {
        let at = self.at(path);
        let mut open = fs::OpenOptions::new();
        open.write(true)
            .create(true)
            .truncate(false)
            .open(at)?
            .set_len(bytes)
    }

    /// Another name for a file of the host.
    pub(crate) fn hard_link(&mut self, path: &str, of: &str) -> io::Result<()> {
        fs::hard_link(of, self.free(path)?)
    }

    /// A copy of a file of the host.
    pub(crate) fn copy(&mut self, path: &str, of: &str) -> io::Result<()> {
        fs::copy(of, self.free(path)?).map(drop)
    }

    /// Empty files in a directory, beside those that are there.
    pub(crate) fn files<N: AsRef<OsStr>>(
        &mut self,
        directory: &str,
        names: impl Iterator<Item = N>,
    ) -> io::Result<()> {
        let directory = self.at(directory);
        fs::create_dir_all(&directory)?;
        for name in names {
            fs::File::create(directory.join(name.as_ref()))?;
        }
        Ok(())
    }

    /// Gives the directories where nvoci works to the root of a shifted user namespace.
    pub(crate) fn give_to_shifted_root(&mut self) -> io::Result<()> {
        fs::create_dir_all(self.at("usr/local"))?;
        for directory in ["", "etc", "usr/local"] {
            chown(self.at(directory), Some(100_000), Some(100_000))?;
        }
        Ok(())
    }

    /// A name for a volume's file to be mounted on, where there is none.
    pub(crate) fn place(&mut self, path: &str) -> io::Result<()> {
        if !self.at(path).exists() {
            self.file(path, "")?;
        }
        Ok(())
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

fn parts(path: &str) -> Vec<String> {
    let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
    parts.map(str::to_owned).collect()
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.root == Path::new(PLAIN_ROOT) {
            let _ = remove(&self.root);
        }
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
