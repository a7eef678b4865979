//! Checks containerd: the CRI plugin's runtimes in its files, and whether the files are newer than
//! the daemon.

use std::path::Path;

use serde_json::Value;

use super::daemon::{self, Daemon};
use super::{
    CDI, CGROUP_DRIVER, DEFAULT, FILE, Finding, RESTART, Report, SNAP, STOPPED, Severity, Site, UNKNOWN,
    WAYS, Whose, broken_runtime, not_registered, text, whose,
};
use crate::engine::place::{self, Session};
use crate::engine::{Engine, containerd, sources};
use crate::error::Code;
use crate::sys::root::Root;

pub(super) fn findings(site: &Site, report: &mut Report) -> Option<Vec<Finding>> {
    if !site.installed(&["containerd"]) {
        return None;
    }
    let root = site.system.as_ref()?;
    let session = Session {
        live: true,
        user: None,
    };
    let place = match place::find(Engine::Containerd, root, &session, None) {
        Ok(place) => place,
        Err(e) => {
            let finding = match e.code() {
                Code::DaemonFile => Finding::new(&FILE, Severity::Warn, e.what(), e.why()),
                // k3s and RKE2 generate their own files.
                _ => Finding::new(&SNAP, Severity::Info, "containerd", e.why()),
            };
            return Some(vec![finding.fix(e.fix_text())]);
        }
    };
    report.fact(
        "containerd",
        place.config.display().to_string(),
        "the running daemon, else its usual file",
    );
    // Docker's own containerd does not use the CRI configuration.
    let (daemons, not_daemons) = daemon::find(Engine::Containerd);
    let daemon = daemons.into_iter().find(|d| {
        !d.running
            .flags
            .get("config")
            .is_some_and(|f| f.contains("/docker/"))
    });
    let mut found = judge(root, &place.config, daemon.as_ref(), site.specs);
    found.extend(not_daemons);
    Some(found)
}

pub(super) fn judge(root: &Root, main: &Path, daemon: Option<&Daemon>, specs: bool) -> Vec<Finding> {
    let mut found = Vec::new();
    let files = match sources::imports(root, main) {
        Ok(files) => files,
        Err(e) => {
            return vec![
                Finding::new(
                    &FILE,
                    Severity::Fail,
                    e.what(),
                    format!("containerd does not start with it: {}", e.why()),
                )
                .fix("correct the file; `containerd config dump` names the place"),
            ];
        }
    };
    let all: Vec<_> = std::iter::once(main.to_owned()).chain(files).collect();
    let mut cri = Value::Null;
    let mut version = None;
    for file in &all {
        let Ok(value) = sources::parse(root, file) else {
            continue;
        };
        version = version.max(containerd::version(&value));
        if let Some(table) = containerd::cri(&value) {
            sources::overlay(&mut cri, table);
        }
    }
    match daemon {
        Some(daemon) => {
            let late: Vec<_> = all.iter().filter(|f| daemon.is_newer(f)).collect();
            if !late.is_empty() {
                let finding = Finding::new(&RESTART, Severity::Warn, "containerd", "files of its configuration are newer than the running daemon, which reads them when it starts")
                    .fix("`systemctl restart containerd`; containers keep running");
                found.push(
                    late.iter()
                        .fold(finding, |f, file| f.evidence(file.display().to_string())),
                );
            }
            found.extend(daemon.findings("containerd"));
        }
        None => found.push(
            Finding::new(
                &STOPPED,
                Severity::Info,
                "containerd",
                "it is not running, or only as Docker's own",
            )
            .fix("`systemctl start containerd`"),
        ),
    }
    found.extend(runtimes(root, &cri));
    // Version 3 of the file came with containerd 2.0, where CDI is on.
    if specs && version < Some(3) && cri_flag(root, &all) != Some(true) {
        found.push(
            Finding::new(
                &CDI,
                Severity::Info,
                "containerd",
                "before 2.0 CDI is off in the CRI plugin unless `enable_cdi = true`",
            )
            .fix("`nvoci install containerd --cdi`, then restart it"),
        );
    }
    found
}

/// `enable_cdi` beside the `containerd` table.
fn cri_flag(root: &Root, files: &[std::path::PathBuf]) -> Option<bool> {
    files.iter().rev().find_map(|file| {
        let value = sources::parse(root, file).ok()?;
        let plugins = value["plugins"].as_object()?;
        plugins.values().find_map(|p| p["enable_cdi"].as_bool())
    })
}

fn runtimes(root: &Root, cri: &Value) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut ways = Vec::new();
    let runtimes = cri["runtimes"].as_object();
    let default = text(cri, &["default_runtime_name"]).unwrap_or("runc");
    let driver = |name: &str| {
        cri["runtimes"][name]["options"]["SystemdCgroup"]
            .as_bool()
            .unwrap_or(false)
    };
    for (name, runtime) in runtimes.into_iter().flatten() {
        let Some(binary) = text(runtime, &["options", "BinaryName"]) else {
            continue;
        };
        let owner = whose(root, Path::new(binary));
        if owner == Whose::Nobody && binary.starts_with('/') {
            found.push(broken_runtime("containerd", name, binary));
            continue;
        }
        if owner != Whose::Ours && !binary.contains("nvidia") {
            continue;
        }
        ways.push(format!(
            "runtime class `{name}`{}",
            if owner == Whose::Ours {
                " (nvoci)"
            } else {
                " (not nvoci)"
            }
        ));
        if cri["runtimes"]["runc"].is_object() && driver(name) != driver("runc") {
            found.push(
                Finding::new(&CGROUP_DRIVER, Severity::Warn, "containerd", format!("`SystemdCgroup` of the runtime `{name}` is {} and of `runc` {}: the kubelet expects one for all", driver(name), driver("runc")))
                    .fix(format!("set SystemdCgroup = {} in the options of `{name}`", driver("runc"))),
            );
        }
    }
    if default != "runc" && runtimes.is_none_or(|r| !r.contains_key(default)) {
        found.push(
            Finding::new(
                &DEFAULT,
                Severity::Fail,
                "containerd",
                format!(
                    "the default runtime `{default}` is not among its runtimes: the CRI plugin does not load"
                ),
            )
            .fix("`nvoci install containerd`, or correct default_runtime_name"),
        );
    }
    found.push(if ways.is_empty() {
        // Docker uses containerd without the CRI plugin.
        Finding::new(
            &UNKNOWN,
            Severity::Info,
            "containerd",
            not_registered("containerd").cause,
        )
        .fix("`nvoci install containerd`, if Kubernetes or ctr uses it")
    } else {
        Finding::new(
            &WAYS,
            Severity::Ok,
            "containerd",
            format!("ways to a GPU: {}", ways.join(", ")),
        )
    });
    found
}
