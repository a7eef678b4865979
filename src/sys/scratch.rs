//! A private directory for one command, of which nothing stays behind.
//!
//! | caller | directory | after the process was killed |
//! |---|---|---|
//! | root with `CAP_SYS_ADMIN`, Linux 5.2 | a tmpfs that is attached nowhere | the kernel has freed it with its last descriptor |
//! | everybody else | `/tmp/nvoci-doctor-XXXXXX`, mode 0700, under a lock | the next command of this user removes it |
//!
//! `TMPDIR` is not read: another user may rename entries of such a directory, and these files are
//! looked up by path.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

use super::root::Node;

const PARENT: &str = "/tmp";
const PREFIX: &str = "nvoci-doctor-";
/// The most entries of the parent that are searched for directories of killed commands.
const MAX_LISTED: usize = 1 << 16;
/// Directories of killed commands that one command removes.
const MAX_CLEARED: usize = 64;

/// The directory, which is removed when this is dropped.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    /// Its path; `None` for a tmpfs that is attached nowhere.
    path: Option<PathBuf>,
}

impl Directory {
    /// Makes a directory that only this user may enter. A tmpfs is limited to `bytes` and `files`.
    pub fn new(bytes: u64, files: u64) -> io::Result<Self> {
        clear(Path::new(PARENT));
        if let Ok(fd) = detached(bytes, files) {
            return Ok(Self { fd, path: None });
        }
        Self::named(Path::new(PARENT))
    }

    /// A locked directory in `parent`.
    fn named(parent: &Path) -> io::Result<Self> {
        const TRIES: usize = 16;
        for _ in 0..TRIES {
            let path = nix::unistd::mkdtemp(&parent.join(format!("{PREFIX}XXXXXX")))?;
            // Between creation and lock another command may have removed it as a killed command's.
            if let Ok(fd) = lock(&path)
                && rustix::fs::fstat(&fd)?.st_nlink > 0
            {
                return Ok(Self { fd, path: Some(path) });
            }
        }
        Err(Errno::AGAIN.into())
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Links in it are removed and never followed.
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

fn detached(bytes: u64, files: u64) -> rustix::io::Result<OwnedFd> {
    let fs = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, c"source", c"nvoci")?;
    fsconfig_set_string(&fs, c"mode", c"0700")?;
    fsconfig_set_string(&fs, c"size", bytes.to_string())?;
    fsconfig_set_string(&fs, c"nr_inodes", files.to_string())?;
    fsconfig_create(&fs)?;
    let attrs = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let fd = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attrs)?;
    // A sandbox's kernel may allow the mount and then fail lookups in it.
    rustix::fs::mkdirat(&fd, c"probe", Mode::from_raw_mode(0o700))?;
    rustix::fs::unlinkat(&fd, c"probe", AtFlags::REMOVEDIR)?;
    Ok(fd)
}

/// Opens and locks the directory at `path`; the kernel releases the lock when the process ends.
fn lock(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty())?;
    rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
    Ok(fd)
}

/// Removes directories of this user's killed commands: those whose lock nobody holds.
fn clear(parent: &Path) {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(Ok(node)) = rustix::fs::open(parent, flags, Mode::empty()).map(Node::from_fd) else {
        return;
    };
    let mut found: Vec<String> = Vec::new();
    let _ = node.visit(MAX_LISTED, |name, _| {
        let random = name.to_bytes().strip_prefix(PREFIX.as_bytes());
        let ours = random.is_some_and(|r| r.len() == 6 && r.iter().all(u8::is_ascii_alphanumeric));
        if ours && found.len() < MAX_CLEARED {
            found.extend(name.to_str().ok().map(str::to_owned));
        }
    });
    for name in found {
        let private = node.child(&name).is_ok_and(|found| {
            found.is_dir()
                && found.stat().st_mode & 0o7777 == 0o700
                && found.stat().st_uid == rustix::process::geteuid().as_raw()
        });
        // In a sticky directory nobody else can replace our entry.
        let path = parent.join(name);
        if private && let Ok(_lock) = lock(&path) {
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_directory_of_a_killed_command_is_removed_and_no_other() {
        let parent = tempfile::tempdir().unwrap();
        let at = |name: &str| parent.path().join(name);
        let running = Directory::named(parent.path()).unwrap();
        for (name, mode) in [
            ("nvoci-doctor-killed", 0o700),
            ("nvoci-doctor-others", 0o755),
            ("nvoci-doctor-too-long", 0o700),
            ("other", 0o700),
        ] {
            std::fs::create_dir(at(name)).unwrap();
            std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        std::fs::create_dir(at("target")).unwrap();
        std::fs::write(at("target/kept"), "").unwrap();
        std::os::unix::fs::symlink(at("target"), at("nvoci-doctor-killed/link")).unwrap();
        std::os::unix::fs::symlink(at("target"), at("nvoci-doctor-linked")).unwrap();
        clear(parent.path());
        assert!(!at("nvoci-doctor-killed").exists());
        for name in [
            "nvoci-doctor-others",
            "nvoci-doctor-too-long",
            "other",
            "target/kept",
            "nvoci-doctor-linked",
        ] {
            assert!(at(name).exists(), "{name}");
        }
        let path = running.path.clone().unwrap();
        assert!(path.exists());
        drop(running);
        assert!(!path.exists());
    }

    #[test]
    fn one_without_a_name_is_bounded_by_the_kernel() {
        let Ok(fd) = detached(64 << 10, 8) else {
            let _ = writeln!(io::stderr(), "SKIP: no mount without a place here");
            return;
        };
        let made = (0..9)
            .take_while(|i| rustix::fs::mkdirat(&fd, i.to_string(), Mode::from_raw_mode(0o700)).is_ok())
            .count();
        assert_eq!(made, 7, "the root is one of them");
    }
}
