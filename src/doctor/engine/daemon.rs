//! A running daemon, as procfs shows it.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{ENVIRONMENT, Finding, NOFILE, Severity, Whose, whose};
use crate::engine::ask;
use crate::sys::root::Root;

const MAX_TEXT: u64 = 1 << 20;
/// The limit that made NVML's client loop for 24 s (NVIDIA/nvidia-container-toolkit issue 1053).
const TRAP: u64 = 1_000_000_000;

/// What is known of it.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) process: ask::Daemon,
    /// Its program, as the kernel names it.
    pub(super) exe: PathBuf,
    /// Its user, as the host has it.
    pub(super) uid: u32,
    pub(super) cgroup: String,
    /// What it looks programs up in; `None` where the environment may not be read.
    pub(super) path: Option<String>,
    /// `NVIDIA_*` variables.
    pub(super) nvidia: Vec<String>,
    pub(super) started: Option<SystemTime>,
    /// The soft limit on open files; unlimited is the highest number.
    pub(super) nofile: Option<u64>,
    pub(super) root: Option<Root>,
}

/// The running daemons of that name (as `comm` has it, 15 bytes at most): those of this root, and those of snaps, which
/// have one of their own. A daemon in a container serves another host.
pub(super) fn find(name: &str) -> Vec<Daemon> {
    let id = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    let own = id(Path::new("/"));
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|e| {
            let pid: i32 = e.file_name().to_str()?.parse().ok()?;
            let comm = fs::read_to_string(e.path().join("comm")).ok()?;
            (comm.trim_end() == name).then(|| look(pid, &e.path()))?
        })
        .filter(|d| {
            let root = id(Path::new(&format!("/proc/{}/root/.", d.process.pid)));
            // An ordinary user sees no other's root.
            root.is_none() || root == own || d.is_snap()
        })
        .collect()
}

fn look(pid: i32, dir: &Path) -> Option<Daemon> {
    let args = fs::read(dir.join("cmdline")).ok()?;
    let args: Vec<String> = args
        .split(|b| *b == 0)
        .skip(1)
        .map(|a| String::from_utf8_lossy(a).into_owned())
        .filter(|a| !a.is_empty())
        .collect();
    let process = ask::Daemon { pid, args };
    let environ = read(&dir.join("environ"));
    let variables: Vec<&str> = environ.split('\0').collect();
    let path = variables
        .iter()
        .find_map(|v| v.strip_prefix("PATH="))
        .map(str::to_owned);
    let nvidia = variables
        .iter()
        .filter(|v| v.starts_with("NVIDIA_"))
        .map(|v| (*v).to_owned());
    let age = process.age();
    Some(Daemon {
        exe: fs::read_link(dir.join("exe")).unwrap_or_default(),
        uid: fs::metadata(dir).ok()?.uid(),
        cgroup: read(&dir.join("cgroup")),
        path,
        nvidia: nvidia.collect(),
        started: age.and_then(|age| SystemTime::now().checked_sub(age)),
        nofile: nofile(&read(&dir.join("limits"))),
        root: Root::open(dir.join("root/.")).ok(),
        process,
    })
}

/// `Max open files            1048576              1048576              files` (proc(5)).
fn nofile(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|l| l.strip_prefix("Max open files"))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = fs::File::open(path) {
        // What cannot be read is not known.
        let _ = file.take(MAX_TEXT).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A program on a daemon's PATH.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) whose: Whose,
    /// It (or the link that is its name) came after the daemon started.
    pub(super) newer: bool,
}

impl Daemon {
    pub(super) fn is_snap(&self) -> bool {
        self.exe.starts_with("/snap") || self.cgroup.contains("snap.docker")
    }

    /// What the daemon finds by that name.
    pub(super) fn program(&self, name: &str) -> Option<Program> {
        let root = self.root.as_ref()?;
        // What Go's LookPath falls back on is nothing; systemd gives its services this.
        let path = self
            .path
            .as_deref()
            .unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        path.split(':').filter(|d| d.starts_with('/')).find_map(|dir| {
            let at = Path::new(dir).join(name);
            let whose = whose(root, &at);
            (whose != Whose::Nobody).then(|| Program {
                newer: self.is_newer(&at),
                path: at,
                whose,
            })
        })
    }

    /// Whether a file's attributes last changed after the daemon started: a link is one file, what it names another.
    pub(super) fn is_newer(&self, path: &Path) -> bool {
        let (Some(root), Some(started)) = (&self.root, self.started) else {
            return false;
        };
        let Ok(started) = started.duration_since(SystemTime::UNIX_EPOCH) else {
            return false;
        };
        // Its age is known to the second only.
        let after = |seconds: i64| u64::try_from(seconds).is_ok_and(|s| s > started.as_secs() + 1);
        root.resolve_nofollow(path)
            .is_ok_and(|n| after(n.stat().st_ctime))
    }

    /// What is wrong with the process itself.
    pub(super) fn findings(&self, engine: &str) -> Vec<Finding> {
        let mut found = Vec::new();
        if !self.nvidia.is_empty() {
            let finding = Finding::new(
                &ENVIRONMENT,
                Severity::Warn,
                engine,
                "the daemon has NVIDIA_* variables, which hooks that it starts inherit",
            )
            .fix("take them out of its unit or drop-ins");
            found.push(self.nvidia.iter().fold(finding, |f, v| f.evidence(v.clone())));
        }
        if self.nofile.is_some_and(|n| n >= TRAP) {
            found.push(
                Finding::new(
                    &NOFILE,
                    Severity::Info,
                    engine,
                    "the daemon's limit on open files is a thousand million: containers inherit it, and NVML's client can then take half a minute to start",
                )
                .fix("set LimitNOFILE=1048576 in a drop-in of its unit"),
            );
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_on_open_files() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max open files            1048576              524288               files     \n";
        assert_eq!(nofile(text), Some(1_048_576));
        assert_eq!(
            nofile("Max open files            unlimited unlimited files"),
            Some(u64::MAX)
        );
        assert_eq!(nofile(""), None);
    }
}
