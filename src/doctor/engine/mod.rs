//! Checks the engines: the running daemon against its files, and which ways to a GPU work.
//!
//! nvoci queries a daemon over its socket, reads the rest from files and procfs, and executes
//! nothing. For example, a runtime in daemon.json that the daemon has not loaded gets a finding and
//! `systemctl reload docker`.

mod containerd;
mod crio;
mod daemon;
mod docker;
mod podman;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde_json::Value;

use super::check::checks;
use super::{Finding, Report, Severity};
use crate::cdi::Registry;
use crate::cdi::registry::Trust;
use crate::config::Config;
use crate::engine::Engine;
use crate::sys::budget::Budget;
use crate::sys::root::Root;

checks! {
    ABSENT = 7201, "engine.not-found", "The engine is not installed here.";
    STOPPED = 7202, "engine.not-running", "The engine is installed but not running.";
    SILENT = 7203, "engine.no-answer", "The daemon's socket does not answer, or not to this user.";
    FILE = 7204, "engine.file", "A configuration file of the engine is broken.";
    RESTART = 7205, "engine.restart", "The running daemon has not read its present files or programs.";
    RUNTIME = 7206, "engine.runtime-path", "A registered runtime is not a program.";
    GPUS_FLAG = 7207, "engine.gpus-flag", "`docker run --gpus` finds no driver: no program with a known name is on the daemon's PATH.";
    SNAP = 7208, "engine.snap", "The daemon is a snap: it cannot run a runtime or hook of the host.";
    ROOTLESS = 7209, "engine.rootless", "The daemon runs without root, with files of its own.";
    CONTEXT = 7210, "engine.context", "Docker's command line uses another daemon than this host's.";
    DESKTOP = 7211, "engine.desktop", "Docker Desktop runs the containers, in a virtual machine.";
    CDI = 7212, "engine.cdi", "CDI is off in the engine, or it has no NVIDIA device.";
    CDI_NAME = 7213, "engine.cdi-hook-without-spec", "dockerd turns --gpus into CDI, but there is no specification.";
    DOUBLE = 7214, "engine.double-injection", "Two different toolkits inject into the same container.";
    RELOAD = 7215, "engine.daemon-reload", "GPUs that are given by the hook alone are lost at the next `systemctl daemon-reload`.";
    HOOK = 7216, "engine.hook", "A hooks.d file names a missing hook, or is in a directory that the engine does not read.";
    DEFAULT = 7217, "engine.default-runtime", "The default runtime does not exist.";
    NOFILE = 7218, "engine.nofile", "The daemon's limit on open files makes NVML slow.";
    UNKNOWN = 7219, "engine.not-registered", "The engine has no way to a GPU.";
    ENVIRONMENT = 7220, "engine.environment", "NVIDIA_* variables of the daemon leak into hooks.";
    CGROUP_DRIVER = 7221, "engine.cgroup-driver", "The NVIDIA runtime and the default one have different cgroup drivers.";
    WAYS = 7222, "engine.ways", "The ways to a GPU that work.";
    NOT_A_DAEMON = 7223, "engine.not-a-daemon", "A process has a daemon's name but is not this host's daemon.";
}

/// The source of an engine's presence.
const INSTALLED: &str = "its program in /usr/bin, /usr/sbin or /usr/local";

/// Checks one engine, or all that are installed.
pub fn report(engine: Option<Engine>, config: &Config) -> Report {
    let mut report = Report::new(engine.map_or("engines", Engine::name));
    let all = Engine::ALL;
    let wanted: &[Engine] = engine.as_ref().map_or(&all, std::slice::from_ref);
    let site = Site::discover(config);
    for each in wanted {
        let found = match each {
            Engine::Docker => docker::findings(&site, &mut report),
            Engine::Podman => podman::findings(&site, &mut report),
            Engine::Containerd => containerd::findings(&site, &mut report),
            Engine::Crio => crio::findings(&site, &mut report),
        };
        match found {
            Some(found) => found.into_iter().for_each(|f| report.add(f)),
            None if engine.is_some() => report.add(Finding::new(
                &ABSENT,
                Severity::Warn,
                each.name(),
                "it is not installed here",
            )),
            None => {}
        }
    }
    if report.findings.is_empty() {
        report.add(Finding::new(
            &ABSENT,
            Severity::Info,
            "engines",
            "none is installed here",
        ));
    }
    report
}

/// The inputs that all engines share.
#[derive(Debug)]
struct Site {
    system: Option<Root>,
    /// Whether a specification names `nvidia.com/gpu`.
    specs: bool,
}

impl Site {
    fn discover(config: &Config) -> Self {
        let registry = Registry::load(&config.cdi_spec_dirs, Trust::Anyone, &Budget::default());
        Self {
            system: Root::open("/").ok(),
            specs: registry
                .devices()
                .keys()
                .any(|name| name.starts_with("nvidia.com/gpu=")),
        }
    }

    /// Whether one of the programs is installed.
    fn installed(&self, programs: &[&str]) -> bool {
        const DIRS: [&str; 4] = ["usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin"];
        programs
            .iter()
            .any(|p| DIRS.iter().any(|d| self.exists(&format!("{d}/{p}"))))
    }

    fn exists(&self, path: &str) -> bool {
        self.system.as_ref().is_some_and(|s| s.exists(path))
    }
}

/// The owner of the program at a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Whose {
    /// nvoci, by any name.
    Ours,
    /// Another program.
    Theirs,
    /// Nothing executable.
    Nobody,
}

/// The owner of the program at `path`, below a root.
fn whose(root: &Root, path: &Path) -> Whose {
    let Ok(node) = root.resolve(path) else {
        return Whose::Nobody;
    };
    if !node.is_file() || node.stat().st_mode & 0o111 == 0 {
        return Whose::Nobody;
    }
    let ours = node
        .path()
        .is_ok_and(|p| p.file_name().is_some_and(|n| n == "nvoci"));
    if ours { Whose::Ours } else { Whose::Theirs }
}

/// The finding for a registered runtime that is no program.
fn broken_runtime(engine: &str, name: &str, path: &str) -> Finding {
    Finding::new(
        &RUNTIME,
        Severity::Fail,
        engine,
        format!("its runtime `{name}` is {path}, which is not a program: containers with it do not start"),
    )
    .fix(format!("install it, or register nvoci: `nvoci install {engine}`"))
}

fn not_registered(engine: &str) -> Finding {
    Finding::new(
        &UNKNOWN,
        Severity::Warn,
        engine,
        "it knows no NVIDIA runtime, no hook and no CDI device: no container of it can have a GPU",
    )
    .fix(format!("`nvoci install {engine}`"))
}

/// A text value at a path of keys.
fn text<'a>(value: &'a Value, keys: &[&str]) -> Option<&'a str> {
    keys.iter().try_fold(value, |v, key| v.get(*key))?.as_str()
}
