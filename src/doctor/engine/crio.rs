//! Checks CRI-O: runtimes and hook directories in its files, and whether the files are newer than
//! the daemon.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::daemon::{self, Daemon};
use super::{
    DEFAULT, FILE, Finding, RESTART, Report, STOPPED, Severity, Site, WAYS, Whose, broken_runtime,
    not_registered, podman, text, whose,
};
use crate::engine::{Engine, sources};
use crate::sys::root::Root;

/// CRI-O's default directory of hooks.
const HOOKS: &str = "/usr/share/containers/oci/hooks.d";

pub(super) fn findings(site: &Site, report: &mut Report) -> Option<Vec<Finding>> {
    if !site.installed(&["crio"]) {
        return None;
    }
    report.fact("crio", "installed", super::INSTALLED);
    let (daemons, not_daemons) = daemon::find(Engine::Crio);
    let mut found = judge(site.system.as_ref()?, daemons.first(), site.specs);
    found.extend(not_daemons);
    Some(found)
}

pub(super) fn judge(root: &Root, daemon: Option<&Daemon>, specs: bool) -> Vec<Finding> {
    let all = match merged(root) {
        Ok(all) => all,
        Err(finding) => return vec![finding],
    };
    let runtime = &all["crio"]["runtime"];
    let mut found = daemon_findings(daemon);
    let mut ways = runtime_ways(root, &runtime["runtimes"], &mut found);
    found.extend(undefined_default(runtime));
    ways.extend(hook_ways(root, &runtime["hooks_dir"], &mut found));
    ways.extend(specs.then(|| "CDI".to_owned()));
    found.push(summary(&ways));
    found
}

/// CRI-O's files as CRI-O merges them; a finding if it cannot read one.
fn merged(root: &Root) -> Result<Value, Finding> {
    let files = sources::crio_files(root).map_err(|e| {
        let why = format!("CRI-O does not start with it: {}", e.why());
        Finding::new(&FILE, Severity::Fail, e.what(), why).fix("correct the file")
    })?;
    let mut all = Value::Null;
    for file in &files {
        sources::overlay(&mut all, file);
    }
    Ok(all)
}

/// Checks that CRI-O runs, and that its files are not newer.
fn daemon_findings(daemon: Option<&Daemon>) -> Vec<Finding> {
    let Some(daemon) = daemon else {
        let stopped = Finding::new(&STOPPED, Severity::Info, "crio", "it is not running");
        return vec![stopped.fix("`systemctl start crio`")];
    };
    let mut found = Vec::new();
    let files = ["/etc/crio/crio.conf", "/etc/crio/crio.conf.d"];
    if files.iter().any(|f| daemon.is_newer(Path::new(f))) {
        let why = "its configuration is newer than the running daemon";
        found.push(
            Finding::new(&RESTART, Severity::Warn, "crio", why)
                .fix("`systemctl restart crio`; containers keep running"),
        );
    }
    found.extend(daemon.findings("crio"));
    found
}

/// The runtimes that give a GPU. One without a binary becomes a finding.
fn runtime_ways(root: &Root, runtimes: &Value, found: &mut Vec<Finding>) -> Vec<String> {
    let mut ways = Vec::new();
    for (name, entry) in runtimes.as_object().into_iter().flatten() {
        let Some(path) = text(entry, &["runtime_path"]).filter(|p| !p.is_empty()) else {
            continue;
        };
        match whose(root, Path::new(path)) {
            Whose::Nobody => found.push(broken_runtime("crio", name, path)),
            Whose::Ours => ways.push(format!("runtime class `{name}` (nvoci)")),
            Whose::Theirs if path.contains("nvidia") => {
                ways.push(format!("runtime class `{name}` (not nvoci)"));
            }
            Whose::Theirs => {}
        }
    }
    ways
}

/// A default runtime that is neither defined nor built in.
fn undefined_default(runtime: &Value) -> Option<Finding> {
    let default = text(runtime, &["default_runtime"])?;
    let built_in = matches!(default, "" | "runc" | "crun");
    if built_in || runtime["runtimes"].get(default).is_some() {
        return None;
    }
    let why = format!("the default runtime `{default}` is not among its runtimes: CRI-O does not start");
    Some(
        Finding::new(&DEFAULT, Severity::Fail, "crio", why)
            .fix("`nvoci install crio`, or correct default_runtime"),
    )
}

/// The hooks in the configured directories, else in the default one.
fn hook_ways(root: &Root, configured: &Value, found: &mut Vec<Finding>) -> Vec<String> {
    let dirs: Vec<PathBuf> = match configured.as_array() {
        Some(dirs) => dirs.iter().filter_map(Value::as_str).map(PathBuf::from).collect(),
        None => vec![PathBuf::from(HOOKS)],
    };
    let hooks = podman::hooks_of(root, &dirs, "crio", found);
    let line = |(file, _): &(PathBuf, _)| format!("hook {}", file.display());
    hooks.iter().map(line).collect()
}

fn summary(ways: &[String]) -> Finding {
    if ways.is_empty() {
        return not_registered("crio");
    }
    let why = format!("ways to a GPU: {}", ways.join(", "));
    Finding::new(&WAYS, Severity::Ok, "crio", why)
}
