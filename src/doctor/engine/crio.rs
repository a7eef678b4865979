//! CRI-O: the runtimes and hook directories of its files, against when it started.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::daemon::{self, Daemon};
use super::{
    DEFAULT, FILE, Finding, RESTART, Report, STOPPED, Severity, Site, WAYS, Whose, broken_runtime,
    not_registered, podman, text, whose,
};
use crate::engine::{Engine, sources};
use crate::sys::root::Root;

/// The directory that CRI-O reads without being told.
const HOOKS: &str = "/usr/share/containers/oci/hooks.d";

pub(super) fn findings(site: &Site, report: &mut Report) -> Option<Vec<Finding>> {
    if !site.installed(&["crio"]) {
        return None;
    }
    report.fact("crio", "installed");
    let (daemons, not_daemons) = daemon::find(Engine::Crio);
    let mut found = judge(site.system.as_ref()?, daemons.first(), site.specs);
    found.extend(not_daemons);
    Some(found)
}

pub(super) fn judge(root: &Root, daemon: Option<&Daemon>, specs: bool) -> Vec<Finding> {
    let files = match sources::crio_files(root) {
        Ok(files) => files,
        Err(e) => {
            return vec![
                Finding::new(
                    &FILE,
                    Severity::Fail,
                    e.what(),
                    format!("CRI-O does not start with it: {}", e.why()),
                )
                .fix("correct the file"),
            ];
        }
    };
    let mut all = Value::Null;
    for file in &files {
        sources::overlay(&mut all, file);
    }
    let mut found = Vec::new();
    match daemon {
        Some(daemon) => {
            let dirs = ["/etc/crio/crio.conf", "/etc/crio/crio.conf.d"];
            if dirs.iter().any(|d| daemon.is_newer(Path::new(d))) {
                found.push(
                    Finding::new(
                        &RESTART,
                        Severity::Warn,
                        "crio",
                        "its configuration is newer than the running daemon",
                    )
                    .fix("`systemctl restart crio`; containers keep running"),
                );
            }
            found.extend(daemon.findings("crio"));
        }
        None => found.push(
            Finding::new(&STOPPED, Severity::Info, "crio", "it is not running").fix("`systemctl start crio`"),
        ),
    }
    let runtime = &all["crio"]["runtime"];
    let mut ways = Vec::new();
    for (name, entry) in runtime["runtimes"].as_object().into_iter().flatten() {
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
    if let Some(default) =
        text(runtime, &["default_runtime"]).filter(|d| !d.is_empty() && !matches!(*d, "runc" | "crun"))
        && runtime["runtimes"].get(default).is_none()
    {
        found.push(
            Finding::new(
                &DEFAULT,
                Severity::Fail,
                "crio",
                format!("the default runtime `{default}` is not among its runtimes: CRI-O does not start"),
            )
            .fix("`nvoci install crio`, or correct default_runtime"),
        );
    }
    let set = runtime["hooks_dir"].as_array();
    let dirs: Vec<PathBuf> = match set {
        Some(dirs) => dirs.iter().filter_map(Value::as_str).map(PathBuf::from).collect(),
        None => vec![PathBuf::from(HOOKS)],
    };
    let hooks = podman::hooks_of(root, &dirs, "crio", &mut found);
    ways.extend(hooks.iter().map(|(file, _)| format!("hook {}", file.display())));
    if specs {
        ways.push("CDI".to_owned());
    }
    found.push(if ways.is_empty() {
        not_registered("crio")
    } else {
        Finding::new(
            &WAYS,
            Severity::Ok,
            "crio",
            format!("ways to a GPU: {}", ways.join(", ")),
        )
    });
    found
}
