//! A bundle directory and its config.json.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use super::Spec;
use crate::error::{Code, Error, IoContext as _, Result};
use crate::sys::root::{Node, split};

/// The largest config.json that is read, in bytes. Engines write 10 KiB to 1 MiB.
const MAX: u64 = 64 << 20;

const CONFIG: &str = "config.json";

/// An open bundle directory.
///
/// It belongs to the engine, not to the image, so its path is looked up as the runtime itself looks it up.
#[derive(Debug)]
pub struct Bundle {
    path: PathBuf,
    config: PathBuf,
    dir: Node,
    name: OsString,
    mode: u32,
    owner: (u32, u32),
}

impl Bundle {
    /// Opens the bundle at `path` and reads its config.json.
    ///
    /// # Errors
    /// [`Code::Bundle`] when the directory or the file is missing, the file is not a regular one, is larger than
    /// 64 MiB, or is not a JSON object (of at most 128 levels).
    pub fn open(path: &Path) -> Result<(Self, Spec)> {
        Self::open_config(path, &path.join(CONFIG))
    }

    /// Like [`Bundle::open`], with the configuration in another file, as crun's `--config` has it.
    pub fn open_config(path: &Path, config: &Path) -> Result<(Self, Spec)> {
        let absolute =
            |p: &Path| std::path::absolute(p).context(Code::Bundle, || format!("bundle {}", p.display()));
        let (path, config) = (absolute(path)?, absolute(config)?);
        let what = || config.display().to_string();
        let (parent, name) = split(&config).context(Code::Bundle, what)?;
        let dir = look_up(CWD, parent, OFlags::DIRECTORY)
            .context(Code::Bundle, || format!("bundle {}", parent.display()))?;
        let file = look_up(&dir, Path::new(name), OFlags::empty()).context(Code::Bundle, what)?;
        if !file.is_file() {
            return Err(Error::new(Code::Bundle, what(), "it is not a regular file"));
        }
        let bytes = file.read(MAX).map_err(|e| {
            if e.raw_os_error() == Some(Errno::FBIG.raw_os_error()) {
                Error::new(Code::Bundle, what(), "it is larger than 64 MiB")
            } else {
                Error::io(Code::Bundle, what(), &e)
            }
        })?;
        let spec = Spec::parse(&bytes).map_err(|e| Error::new(Code::Bundle, what(), e.why()))?;
        let bundle = Self {
            mode: file.stat().st_mode & 0o7777,
            owner: (file.stat().st_uid, file.stat().st_gid),
            name: name.to_owned(),
            path,
            config,
            dir,
        };
        Ok((bundle, spec))
    }

    /// The directory, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces config.json by `spec`, with the mode and owner it had; does nothing if no edit changed anything.
    ///
    /// A reader sees the old file or the new one. It is not synced to disk: a bundle is of no use after a crash of
    /// the host, and most are in a tmpfs.
    pub fn write(&self, spec: &Spec) -> Result<()> {
        if !spec.is_changed() {
            return Ok(());
        }
        let what = || self.config.display().to_string();
        let bytes = spec.to_bytes();
        let own = (geteuid().as_raw(), getegid().as_raw());
        if self.owner == own {
            self.dir.write_file(&self.name, self.mode, &bytes)
        } else {
            self.dir.write_file_of(&self.name, self.mode, self.owner, &bytes)
        }
        .context(Code::Bundle, what)
    }
}

/// Looks a path up as the runtime would, links followed, without opening what it names.
fn look_up(at: impl AsFd, path: &Path, flags: OFlags) -> io::Result<Node> {
    let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
    Node::from_fd(rustix::fs::openat(at, path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    fn bundle(config: &[u8]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(CONFIG), config).unwrap();
        dir
    }

    #[test]
    fn mode_and_owner_survive_and_nothing_else_is_left() {
        let dir = bundle(br#"{"process":{"env":["A=1"]},"x":0.10}"#);
        let file = dir.path().join(CONFIG);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        if geteuid().is_root() {
            std::os::unix::fs::chown(&file, Some(1234), Some(4321)).unwrap();
        }
        let before = std::fs::metadata(&file).unwrap();

        let (bundle, mut spec) = Bundle::open(dir.path()).unwrap();
        bundle.write(&spec).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().ino(), before.ino(), "unchanged");

        spec.set_env("A", "2").unwrap();
        bundle.write(&spec).unwrap();
        let after = std::fs::metadata(&file).unwrap();
        assert_eq!(
            (after.mode(), after.uid(), after.gid()),
            (before.mode(), before.uid(), before.gid())
        );
        assert_eq!(
            std::fs::read_to_string(&file).unwrap(),
            r#"{"process":{"env":["A=2"]},"x":0.10}"#
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_bad_bundle_is_one_line_with_the_bundle_code() {
        let missing = tempfile::tempdir().unwrap();
        let deep = "[".repeat(10_000);
        let dirs = [
            bundle(b""),
            bundle(b"{"),
            bundle(b"[]"),
            bundle(b"null"),
            bundle(b"{\"a\":\"\xff\"}"),
            bundle(format!("{{\"a\":{deep}").as_bytes()),
            missing,
        ];
        for dir in &dirs {
            let e = Bundle::open(dir.path()).unwrap_err();
            assert_eq!(e.code(), Code::Bundle);
            assert!(
                !e.to_string().contains('\n') && e.to_string().contains(CONFIG),
                "{e}"
            );
        }
        assert_eq!(
            Bundle::open(Path::new("/nonexistent/b")).unwrap_err().code(),
            Code::Bundle
        );
    }

    #[test]
    fn only_a_regular_file_of_bounded_size_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(CONFIG);
        std::fs::create_dir(&file).unwrap();
        assert!(Bundle::open(dir.path()).unwrap_err().why().contains("regular"));
        std::fs::remove_dir(&file).unwrap();

        rustix::fs::mknodat(
            CWD,
            &file,
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(Bundle::open(dir.path()).unwrap_err().why().contains("regular"));
        std::fs::remove_file(&file).unwrap();

        std::fs::File::create(&file).unwrap().set_len(MAX + 1).unwrap();
        assert!(Bundle::open(dir.path()).unwrap_err().why().contains("64 MiB"));
    }
}
