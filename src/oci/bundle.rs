//! A bundle directory and its config.json.

use std::ffi::OsString;
use std::io::{self, BufReader, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use serde_json::Value;

use super::Spec;
use super::digest::{Bad, Interest, digest};
use crate::error::{Code, Error, IoContext as _, Result};
use crate::sys::budget::Budget;
use crate::sys::root::{Node, split};

/// The largest config.json that is parsed as a whole, in bytes. Engines write 10 KiB to 1 MiB.
const MAX_WHOLE: u64 = 4 << 20;
/// The largest file that is streamed for a digest.
const MAX: u64 = 64 << 20;
/// A document of at most so many bytes is parsed whatever the number of its values.
const SMALL: usize = 1 << 20;
/// An estimated limit, in bytes, on the memory of a larger document's values.
const MAX_VALUES: usize = 128 << 20;

/// The definition's file in a bundle.
pub const CONFIG: &str = "config.json";

/// An open bundle directory.
///
/// It belongs to the engine and not to the image, so its path is resolved as the runtime resolves
/// it: links are followed.
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
    /// Opens the bundle at `path` and reads its config.json. Of a file that is too large it keeps
    /// only `interest` ([`Spec::is_digest`]).
    ///
    /// # Errors
    /// [`Code::Bundle`] if the directory or the file is missing, or the file is not a regular one
    /// or not a JSON object of at most 128 levels. [`Code::TooLarge`] if it is larger than 64 MiB,
    /// or the texts of interest exceed `budget`.
    pub fn open(path: &Path, interest: Interest<'_>, budget: &Budget) -> Result<(Self, Spec)> {
        Self::open_config(path, &path.join(CONFIG), interest, budget)
    }

    /// Like [`Bundle::open`], with the configuration in another file, as for crun's `--config`.
    pub fn open_config(
        path: &Path,
        config: &Path,
        interest: Interest<'_>,
        budget: &Budget,
    ) -> Result<(Self, Spec)> {
        let absolute =
            |p: &Path| std::path::absolute(p).context(Code::Bundle, || format!("bundle {}", p.display()));
        let (path, config) = (absolute(path)?, absolute(config)?);
        let what = || config.display().to_string();
        let (parent, name) = split(&config).context(Code::Bundle, what)?;
        let dir = open_path(CWD, parent, OFlags::DIRECTORY)
            .context(Code::Bundle, || format!("bundle {}", parent.display()))?;
        let file = open_path(&dir, Path::new(name), OFlags::empty()).context(Code::Bundle, what)?;
        let spec = spec_in(&file, interest, budget, what)?;
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

    /// Replaces config.json by `spec` and keeps its mode and owner; does nothing if no edit changed
    /// the document.
    ///
    /// Other processes see the old file or the new one. It is not synced to disk: most bundles are
    /// in a tmpfs, and none survives a crash of the host.
    pub fn write(&self, spec: &Spec) -> Result<()> {
        if !spec.is_changed() {
            return Ok(());
        }
        spec.whole()?;
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

/// An upper bound, in bytes, on the memory of a JSON document's values without their text.
pub(crate) fn memory_of(bytes: &[u8]) -> usize {
    let weights = bytes.iter().map(|byte| match byte {
        b'[' => 4 * size_of::<Value>(),
        b'{' => 8 * size_of::<Value>(),
        b',' => 2 * size_of::<Value>(),
        _ => 0,
    });
    weights.sum()
}

/// Parses the definition in an open file; `what` is its name for errors.
///
/// # Errors
/// As [`Bundle::open`]; [`Code::TooLarge`] if only a digest of it could be read.
pub fn whole_in(file: &Node, what: impl Fn() -> String + Copy) -> Result<Spec> {
    let spec = spec_in(file, Interest::NOTHING, &Budget::default(), what)?;
    spec.whole()?;
    Ok(spec)
}

fn spec_in(
    file: &Node,
    interest: Interest<'_>,
    budget: &Budget,
    what: impl Fn() -> String + Copy,
) -> Result<Spec> {
    if !file.is_file() {
        return Err(Error::new(Code::Bundle, what(), "it is not a regular file"));
    }
    match file.read(MAX_WHOLE) {
        Ok(bytes) if bytes.len() <= SMALL || memory_of(&bytes) <= MAX_VALUES => {
            Spec::parse(&bytes).map_err(|e| Error::new(Code::Bundle, what(), e.why()))
        }
        Ok(bytes) => part(&bytes[..], interest, budget, what),
        Err(e) if e.raw_os_error() == Some(Errno::FBIG.raw_os_error()) => {
            let file = file.open_read().context(Code::Bundle, what)?;
            part(BufReader::new(file), interest, budget, what)
        }
        Err(e) => Err(Error::io(Code::Bundle, what(), &e)),
    }
}

/// Reads a digest of a document.
fn part(
    document: impl Read,
    interest: Interest<'_>,
    budget: &Budget,
    what: impl Fn() -> String,
) -> Result<Spec> {
    let mut document = document.take(MAX + 1);
    let read = digest(&mut document, interest, budget);
    if document.limit() == 0 {
        return Err(Error::new(Code::TooLarge, what(), "it is larger than 64 MiB"));
    }
    read.map(Spec::of_digest).map_err(|bad| match bad {
        Bad::Broken(why) => Error::new(Code::Bundle, what(), why),
        Bad::Exceeded(exceeded) => exceeded.of(what()),
    })
}

/// Opens a path as the runtime would, links followed, as an `O_PATH` descriptor.
fn open_path(at: impl AsFd, path: &Path, flags: OFlags) -> io::Result<Node> {
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

    fn open(path: &Path) -> Result<(Bundle, Spec)> {
        Bundle::open(path, Interest::NOTHING, &Budget::default())
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

        let (bundle, mut spec) = open(dir.path()).unwrap();
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
            let e = open(dir.path()).unwrap_err();
            assert_eq!(e.code(), Code::Bundle);
            assert!(
                !e.to_string().contains('\n') && e.to_string().contains(CONFIG),
                "{e}"
            );
        }
        assert_eq!(
            open(Path::new("/nonexistent/b")).unwrap_err().code(),
            Code::Bundle
        );
    }

    #[test]
    fn only_a_regular_file_of_bounded_size_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(CONFIG);
        std::fs::create_dir(&file).unwrap();
        assert!(open(dir.path()).unwrap_err().why().contains("regular"));
        std::fs::remove_dir(&file).unwrap();

        rustix::fs::mknodat(
            CWD,
            &file,
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(open(dir.path()).unwrap_err().why().contains("regular"));
        std::fs::remove_file(&file).unwrap();

        std::fs::File::create(&file).unwrap().set_len(MAX + 1).unwrap();
        let refused = open(dir.path()).unwrap_err();
        assert_eq!(refused.code(), Code::Bundle, "zeros are no JSON: {refused}");
        std::fs::write(&file, " ".repeat((64 << 20) + 1)).unwrap();
        let refused = open(dir.path()).unwrap_err();
        assert_eq!(refused.code(), Code::TooLarge);
        assert!(refused.why().contains("64 MiB"));
    }

    #[test]
    fn a_large_document_is_a_digest_that_is_never_written() {
        let pad = "x".repeat(5 << 20);
        let values = "[0],".repeat(400_000);
        for config in [
            format!(r#"{{"root":{{"path":"r"}},"x":"{pad}"}}"#),
            format!(r#"{{"root":{{"path":"r"}},"x":[{values}0]}}"#),
        ] {
            let dir = bundle(config.as_bytes());
            let (bundle, mut spec) = open(dir.path()).unwrap();
            assert!(spec.is_digest());
            bundle.write(&spec).unwrap();
            spec.set_env("A", "1").unwrap();
            spec.add_additional_gid(1).unwrap();
            assert_eq!(bundle.write(&spec).unwrap_err().code(), Code::TooLarge);
            assert_eq!(std::fs::read(dir.path().join(CONFIG)).unwrap(), config.as_bytes());
        }
        let dir = bundle(format!(r#"{{"x":"{}"}}"#, &pad[..3 << 20]).as_bytes());
        assert!(!open(dir.path()).unwrap().1.is_digest());
    }

    #[test]
    fn of_a_key_that_is_given_twice_the_last_counts_in_a_large_document_too() {
        let interest = Interest {
            variables: &|_| true,
            annotations: &|_| true,
            mounts: &|_| true,
        };
        let twice = r#""process":{"env":["A=1"],"env":["A=2"]},"annotations":{"a":"1"},"annotations":{"a":"2"},
            "mounts":[],"mounts":[{"destination":"/1","destination":"/2"}],"root":{"path":"1","path":"2"}"#;
        for size in [0, 5 << 20] {
            let pad = "x".repeat(size);
            let dir = bundle(format!(r#"{{{twice},"x":"{pad}"}}"#).as_bytes());
            let (_, spec) = Bundle::open(dir.path(), interest, &Budget::default()).unwrap();
            assert_eq!(spec.is_digest(), size > 0);
            assert_eq!(spec.env(), [("A".into(), "2".into())]);
            assert_eq!(spec.annotations(), [("a".into(), "2".into())]);
            assert_eq!(spec.mounts()[0].destination, "/2");
            assert_eq!(spec.root_path(Path::new("/b")).unwrap(), Path::new("/b/2"));
        }
    }
}
