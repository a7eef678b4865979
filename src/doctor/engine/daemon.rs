//! A running daemon's properties in procfs.

use std::path::Path;
use std::time::SystemTime;

use procfs_core::process::LimitValue;

use super::{ENVIRONMENT, Finding, NOFILE, NOT_A_DAEMON, SNAP, Severity, Whose, whose};
use crate::engine::Engine;
use crate::engine::flags::{self, Running};
use crate::sys::daemon::Fault;
use crate::sys::procfs;
use crate::sys::root::Root;

/// The limit with which NVML's client looped for 24 s (NVIDIA/nvidia-container-toolkit issue 1053).
const TRAP: u64 = 1_000_000_000;
/// The most processes that are named as evidence.
const MAX_NAMED: usize = 5;

/// The properties of a daemon.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) running: Running,
    /// Its search path for programs; `None` if its environment cannot be read.
    pub(super) path: Option<String>,
    /// Its `NVIDIA_*` variables.
    pub(super) nvidia: Vec<String>,
    pub(super) started: Option<SystemTime>,
    /// The soft limit on open files; unlimited is the highest number.
    pub(super) nofile: Option<u64>,
    pub(super) root: Option<Root>,
}

/// The engine's running daemons, the system's own first, and a finding about processes that only
/// have the name.
pub(super) fn find(engine: Engine) -> (Vec<Daemon>, Option<Finding>) {
    let found = flags::daemons(engine);
    let mut daemons: Vec<Daemon> = found.running.into_iter().map(daemon_of).collect();
    daemons.sort_by_key(|d| d.running.process.uid);
    let name = flags::program(engine).unwrap_or_default();
    let (snaps, others): (Vec<_>, Vec<_>) = found.of_others.iter().partition(|r| r.fault == Fault::Snap);
    if let Some(snap) = snaps.first() {
        return (daemons, Some(of_snap(engine, &snap.why)));
    }
    let others = others.iter().take(MAX_NAMED);
    let others = others.map(|r| format!("process {}: {}", r.pid, r.why));
    let evidence: Vec<String> = found.notes.into_iter().take(MAX_NAMED).chain(others).collect();
    let finding = (!evidence.is_empty()).then(|| {
        let finding = Finding::new(
            &NOT_A_DAEMON,
            Severity::Info,
            engine.name(),
            format!("processes are named {name} but are not this host's daemon; nvoci ignored them"),
        )
        .fix("if one of them is a user's own daemon, run this as that user");
        evidence.iter().fold(finding, |f, line| f.evidence(line.clone()))
    });
    (daemons, finding)
}

/// The snap's daemon has another root directory, so nvoci reads nothing else of it.
pub(super) fn of_snap(engine: Engine, exe: &str) -> Finding {
    Finding::new(
        &SNAP,
        Severity::Fail,
        engine.name(),
        "it is the snap package, which is confined and cannot run a runtime or hook of the host",
    )
    .fix("`snap remove docker`, then install docker.io or docker-ce")
    .evidence(exe)
}

fn daemon_of(running: Running) -> Daemon {
    let process = &running.process;
    let environ = process.text("environ");
    let variables: Vec<&str> = environ.split('\0').collect();
    let path = variables
        .iter()
        .find_map(|v| v.strip_prefix("PATH="))
        .map(str::to_owned);
    let nvidia = variables
        .iter()
        .filter(|v| v.starts_with("NVIDIA_"))
        .map(|v| (*v).to_owned());
    Daemon {
        path,
        nvidia: nvidia.collect(),
        started: process.age().and_then(|age| SystemTime::now().checked_sub(age)),
        nofile: nofile(&process.text("limits")),
        root: process.root().ok(),
        running,
    }
}

/// The limit on a process's open files.
fn nofile(limits: &str) -> Option<u64> {
    match procfs::limits(limits.as_bytes())?.max_open_files.soft_limit {
        LimitValue::Unlimited => Some(u64::MAX),
        LimitValue::Value(files) => Some(files),
    }
}

/// A program on a daemon's PATH.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) path: std::path::PathBuf,
    pub(super) whose: Whose,
    /// It, or the link of its name, is newer than the daemon.
    pub(super) newer: bool,
}

impl Daemon {
    /// The program that the daemon finds by that name.
    pub(super) fn program(&self, name: &str) -> Option<Program> {
        let root = self.root.as_ref()?;
        // Go's LookPath has no fallback; this is systemd's default for services.
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

    /// Whether a file's attributes changed after the daemon started. A link counts as itself.
    pub(super) fn is_newer(&self, path: &Path) -> bool {
        let (Some(root), Some(started)) = (&self.root, self.started) else {
            return false;
        };
        let Ok(started) = started.duration_since(SystemTime::UNIX_EPOCH) else {
            return false;
        };
        // The daemon's age is known in whole seconds.
        let after = |seconds: i64| u64::try_from(seconds).is_ok_and(|s| s > started.as_secs() + 1);
        root.resolve_nofollow(path)
            .is_ok_and(|n| after(n.stat().st_ctime))
    }

    /// Findings about the process itself.
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
                    "the daemon's limit on open files is 1,000,000,000: containers inherit it, and NVML's client can then take half a minute to start",
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
        let text = procfs::recorded::LIMITS;
        assert_eq!(nofile(text), Some(1_048_576));
        assert_eq!(nofile(&text.replace("1048576", "unlimited")), Some(u64::MAX));
        assert_eq!(nofile(&text.replace("1048576", "many")), None);
        assert_eq!(nofile(""), None);
    }
}
