//! The simulated host that the suite runs in: its canary, its mounts, and what must not change.

pub(crate) mod left;
pub(crate) mod state;
pub(crate) mod watch;

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};

use crate::expect::{Cgroup, Root};
use crate::image::remove;

/// A directory of the host that no container may reach.
pub(crate) const CANARY: &str = "/canary";
/// The contents of `/canary/secret`.
pub(crate) const SECRET: &[u8] = b"a secret of the host\n";
/// Where nvoci's policy is.
pub(crate) const POLICY: &str = "/etc/nvoci/config.toml";
/// The cache of images and tools (`integration/world`).
pub(crate) const WORLD: &str = "/world";

/// The simulated host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) root: Root,
    pub(crate) cgroup: Cgroup,
    /// Every copy of the driver's libcuda.
    pub(crate) libcuda: Vec<PathBuf>,
}

impl Host {
    /// Discovers the host by what `simhost.sh` set.
    pub(crate) fn discover() -> io::Result<Self> {
        let driver = std::env::var("SIM_DRIVER").map_err(io::Error::other)?;
        let version = fs::read_to_string(format!("{WORLD}/drivers/{driver}/version"))?;
        let root = match std::env::var("SIM_ROOT").map_err(io::Error::other)?.as_str() {
            "bookworm" => Root::Bookworm,
            _ => Root::Sid,
        };
        let mut libcuda = Vec::new();
        find(
            Path::new("/usr"),
            &format!("libcuda.so.{}", version.trim()),
            &mut libcuda,
        )?;
        let is_v2 = std::env::var("SIM_CGROUP").is_ok_and(|version| version == "v2");
        let cgroup = if is_v2 { Cgroup::V2 } else { Cgroup::V1 };
        Ok(Self {
            root,
            cgroup,
            libcuda,
        })
    }
}

impl Host {
    /// `INODE SIZE` of every copy of the driver's libcuda.
    pub(crate) fn libcuda_files(&self) -> io::Result<Vec<String>> {
        let files = self.libcuda.iter().map(|path| {
            let metadata = path.metadata()?;
            Ok(format!("{} {}", metadata.ino(), metadata.size()))
        });
        files.collect()
    }
}

/// Makes the canary anew.
pub(crate) fn make_canary() -> io::Result<()> {
    let canary = Path::new(CANARY);
    remove(canary)?;
    fs::create_dir(canary)?;
    for directory in ["nvidia", "ld.so.conf.d", "lib", "bin", "volume"] {
        fs::create_dir(canary.join(directory))?;
    }
    let kept = [
        "ld.so.cache",
        "nvidia-smi",
        "ld.so.conf.d/keep",
        "nvidia/keep",
        "lib/keep",
        "volume/keep",
    ];
    for file in kept {
        fs::write(canary.join(file), "untouched\n")?;
    }
    fs::write(canary.join("secret"), SECRET)?;
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    Ok(rustix::fs::mknodat(
        rustix::fs::CWD,
        canary.join("fifo"),
        rustix::fs::FileType::Fifo,
        mode,
        0,
    )?)
}

/// Writes the administrator's policy.
pub(crate) fn set_policy(policy: &str) -> io::Result<()> {
    fs::create_dir_all("/etc/nvoci")?;
    fs::write(POLICY, policy)
}

/// Collects the files with a name on the file system of `directory`.
fn find(directory: &Path, name: &str, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            find(&entry.path(), name, found)?;
        } else if entry.file_name() == name {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// Changes the owner of a directory and all in it, links included, where `of` accepts the owner.
pub(crate) fn give(path: &Path, user: u32, of: fn(u32) -> bool) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), user, of)?;
        }
    }
    if of(metadata.uid()) {
        lchown(path, Some(user), Some(user))?;
    }
    Ok(())
}
