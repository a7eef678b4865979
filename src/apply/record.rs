//! The record of an injection, in the container's driver directory, and records of refusals, in
//! `/run/nvoci/errors`, since some runtimes discard a hook's messages.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Mode, OFlags};
use serde_json::{Value, json};

use crate::error::Error;
use crate::findings::Finding;
use crate::plan::Plan;
use crate::sys::owned;
use crate::sys::root::{Entry, Node};
use crate::vocabulary::or_empty;

/// The directory of state that lasts until the next boot.
pub const RUN_DIR: &str = "/run/nvoci";
/// The directory of refusals.
pub const ERRORS_DIR: &str = "/run/nvoci/errors";

/// The most refusals that are kept; the oldest are removed first.
const MAX_ERRORS: usize = 64;

/// The result of an injection.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The driver directory in the container.
    pub driver_dir: String,
    /// The result of the loader's update.
    pub loader: String,
    /// Device nodes of the container.
    pub devices: Vec<String>,
    /// The image's CUDA compatibility libraries that come before the driver's.
    pub cuda_compat: Option<String>,
    /// Number of driver files.
    pub files: usize,
    /// Warnings for the user.
    pub warnings: Vec<String>,
    /// The preflight's findings, the worst first; each is a line of `warnings` too.
    pub findings: Vec<Finding>,
    /// An earlier hook of this container had done everything.
    pub already_there: bool,
    /// Time from reading the request to the end.
    pub took: Duration,
}

impl Record {
    /// The record in the form that the doctor reads.
    pub fn to_json(&self, plan: &Plan) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "driver": plan.driver_text(),
            "driverDir": self.driver_dir,
            "gpus": plan.gpus.iter().map(|g| json!({
                "index": g.index, "minor": g.minor, "uuid": or_empty(g.uuid), "pci": or_empty(g.pci), "name": g.name,
            })).collect::<Vec<_>>(),
            "devices": self.devices,
            "files": plan.files.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(),
            "directories": plan.trees.iter().map(|t| &t.at).collect::<Vec<_>>(),
            "cudaCompat": self.cuda_compat,
            "loader": self.loader,
            "warnings": self.warnings,
            "microseconds": u64::try_from(self.took.as_micros()).unwrap_or(u64::MAX),
        })
    }
}

/// The directory of refusals, opened before the host's `/run` is out of reach.
#[derive(Debug)]
pub struct Errors {
    dir: Node,
}

impl Errors {
    /// Opens the directory, and makes it if it is missing.
    pub fn open() -> io::Result<Self> {
        Self::below(&run_dir()?)
    }

    /// Opens the directory below `run`, and makes it if it is missing.
    pub fn below(run: &Node) -> io::Result<Self> {
        own_dir(run, "errors", 0o755).map(|dir| Self { dir })
    }

    /// Records a refusal for container `id`.
    pub fn keep(&self, id: &str, error: &Error) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let text = json!({
            "container": id,
            "time": now.as_secs(),
            "code": error.code().to_string(),
            "status": error.code().class().status(),
            "what": error.what(),
            "why": error.why(),
            "fix": error.fix_text(),
            "line": format!("nvoci: {error}"),
        });
        self.prune();
        let name = format!("{}.json", file_name(id));
        self.dir
            .write_file(OsStr::new(&name), 0o644, text.to_string().as_bytes())
    }

    /// Removes the record of container `id`, if there is one.
    pub fn forget(&self, id: &str) {
        let name = format!("{}.json", file_name(id));
        let _ = rustix::fs::unlinkat(&self.dir, name, AtFlags::empty());
    }

    fn prune(&self) {
        let Ok(entries) = self.dir.read_dir(100_000) else {
            return;
        };
        if entries.len() >= MAX_ERRORS {
            remove_oldest(&self.dir, &entries, entries.len() + 1 - MAX_ERRORS);
        }
    }
}

/// Removes the `count` oldest of the files `entries` of `dir`.
pub(super) fn remove_oldest(dir: &Node, entries: &[Entry], count: usize) {
    let age = |e: &Entry| {
        let stat = rustix::fs::statat(dir, e.name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some((stat.st_mtime, stat.st_mtime_nsec))
    };
    let mut by_age: Vec<_> = entries.iter().filter_map(|e| Some((age(e)?, &e.name))).collect();
    by_age.sort();
    for (_, name) in by_age.iter().take(count) {
        let _ = rustix::fs::unlinkat(dir, name.as_os_str(), AtFlags::empty());
    }
}

/// [`RUN_DIR`] with the records of earlier starts, if only root can have written there.
#[derive(Debug, Default)]
pub struct Earlier(Option<Node>);

impl Earlier {
    /// Opens the directory.
    pub fn open() -> Self {
        Self(owned::find(Path::new(RUN_DIR)).ok().flatten())
    }

    /// Whether there is such a directory.
    pub fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// Reads the file that [`keep`] wrote as `name`, if it has at most `max` bytes and only root
    /// can have written it.
    pub fn read(&self, name: &str, max: u64) -> Option<Vec<u8>> {
        let node = self.0.as_ref()?.child(name).ok()?;
        owned::check(&node, &Path::new(RUN_DIR).join(name)).ok()?;
        node.read(max).ok()
    }

    /// [`Self::read`] as text.
    pub fn read_text(&self, name: &str, max: u64) -> Option<String> {
        String::from_utf8(self.read(name, max)?).ok()
    }
}

/// Writes a file `name` into [`RUN_DIR`], which is made if it is missing.
///
/// # Errors
/// If the directory cannot be made or belongs to another user, or the file cannot be written.
pub fn keep(name: &str, content: &[u8]) -> io::Result<()> {
    run_dir()?.write_file(OsStr::new(name), 0o644, content)
}

/// [`RUN_DIR`], made if it is missing.
///
/// # Errors
/// If it cannot be made or belongs to another user.
pub fn run_dir() -> io::Result<Node> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if let Ok(fd) = rustix::fs::open(RUN_DIR, flags, Mode::empty()) {
        return trusted(Node::from_fd(fd)?, 0o755);
    }
    let run = Node::from_fd(rustix::fs::open(
        "/run",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)?;
    own_dir(&run, "nvoci", 0o755)
}

/// The directory `name` of `parent`, made with `mode` if it is missing. It fails if another user
/// owns it, or if others have more rights to it than `mode`.
pub(super) fn own_dir(parent: &Node, name: &str, mode: u32) -> io::Result<Node> {
    let dir = match parent.child(name) {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => parent.mkdir(OsStr::new(name), mode)?,
        found => found?,
    };
    trusted(dir, mode)
}

/// Returns `dir` if it is our directory and gives nobody more rights than `mode`.
fn trusted(dir: Node, mode: u32) -> io::Result<Node> {
    if !dir.is_dir() {
        return Err(rustix::io::Errno::NOTDIR.into());
    }
    let others = dir.stat().st_mode & 0o077 & !mode;
    if dir.stat().st_uid != rustix::process::geteuid().as_raw() || others != 0 {
        return Err(rustix::io::Errno::PERM.into());
    }
    Ok(dir)
}

/// A container id as a file name; an id may have characters that a file name must not.
pub(super) fn file_name(id: &str) -> String {
    const MAX: usize = 128;
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+') {
            c
        } else {
            '_'
        }
    };
    let name: String = id.chars().take(MAX).map(safe).collect();
    if name.is_empty() {
        "unknown".to_owned()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_never_leave_the_directory() {
        assert_eq!(file_name("../../etc/passwd"), "______etc_passwd");
        assert_eq!(file_name(""), "unknown");
        assert_eq!(file_name(&"a".repeat(4096)).len(), 128);
        assert_eq!(file_name("3f2a-b_c"), "3f2a-b_c");
    }
}
