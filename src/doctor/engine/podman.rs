//! Checks Podman, which has no daemon: containers.conf and the hooks directories.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{
    CDI, DEFAULT, DOUBLE, FILE, Finding, HOOK, ROOTLESS, Report, Severity, Site, WAYS, Whose, broken_runtime,
    not_registered, text, whose,
};
use crate::engine::sources;
use crate::sys::root::Root;

/// The default hooks directories of root's Podman; the second has precedence (oci-hooks(5)).
const HOOKS: [&str; 2] = ["/usr/share/containers/oci/hooks.d", "/etc/containers/oci/hooks.d"];
const MAX_FILES: usize = 256;
const MAX_HOOK: u64 = 1 << 20;

pub(super) fn findings(site: &Site, report: &mut Report) -> Option<Vec<Finding>> {
    if !site.installed(&["podman"]) {
        return None;
    }
    let root = site.system.as_ref()?;
    report.fact("podman", "installed", super::INSTALLED);
    let user = (!rustix::process::geteuid().is_root())
        .then(std::env::home_dir)
        .flatten();
    Some(judge(root, user.as_deref(), site.specs))
}

/// The merged containers.conf files, later ones over earlier ones (containers.conf(5)).
fn configuration(root: &Root, user: Option<&Path>, found: &mut Vec<Finding>) -> Value {
    let mut files = vec![
        PathBuf::from("/usr/share/containers/containers.conf"),
        "/etc/containers/containers.conf".into(),
    ];
    files.extend(drop_ins(root, Path::new("/etc/containers/containers.conf.d")));
    if let Some(home) = user {
        let own = home.join(".config/containers");
        files.push(own.join("containers.conf"));
        files.extend(drop_ins(root, &own.join("containers.conf.d")));
    }
    let mut all = Value::Null;
    for file in files {
        match sources::parse(root, &file) {
            Ok(value) => sources::overlay(&mut all, &value),
            Err(e) => found.push(
                Finding::new(
                    &FILE,
                    Severity::Fail,
                    file.display().to_string(),
                    format!("no podman command works: {}", e.why()),
                )
                .fix("correct the file"),
            ),
        }
    }
    all
}

fn drop_ins(root: &Root, dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = root
        .read_dir(dir, MAX_FILES)
        .unwrap_or_default()
        .into_iter()
        .map(|e| dir.join(e.name))
        .filter(|p| p.extension().is_some_and(|e| e == "conf"))
        .collect();
    found.sort();
    found
}

pub(super) fn judge(root: &Root, user: Option<&Path>, specs: bool) -> Vec<Finding> {
    let mut found = Vec::new();
    let config = configuration(root, user, &mut found);
    let mut ways = Vec::new();
    let runtimes = config["engine"]["runtimes"].as_object();
    for (name, paths) in runtimes.into_iter().flatten() {
        let paths: Vec<&str> = paths
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let nvidia =
            name.contains("nvidia") || name.contains("nvoci") || paths.iter().any(|p| p.contains("nvidia"));
        let owner = paths
            .iter()
            .map(|p| whose(root, Path::new(p)))
            .find(|w| *w != Whose::Nobody);
        match owner {
            None if nvidia => found.push(broken_runtime("podman", name, &paths.join(", "))),
            Some(Whose::Ours) => ways.push(format!("--runtime {name} (nvoci)")),
            Some(_) if nvidia => ways.push(format!("--runtime {name} (not nvoci)")),
            _ => {}
        }
    }
    let default = text(&config, &["engine", "runtime"]);
    if let Some(name) = default.filter(|d| d.contains("nvidia") || d.contains("nvoci"))
        && runtimes.is_none_or(|r| !r.contains_key(name))
    {
        found.push(
            Finding::new(
                &DEFAULT,
                Severity::Fail,
                "podman",
                format!("the default runtime `{name}` is not among its runtimes: no container starts"),
            )
            .fix("`nvoci install podman`, or take `runtime` out of containers.conf"),
        );
    }
    hooks(root, &config, user.is_some(), &mut found, &mut ways);
    if specs {
        ways.push("--device nvidia.com/gpu=… (CDI)".to_owned());
    } else {
        found.push(
            Finding::new(
                &CDI,
                Severity::Info,
                "podman",
                "no CDI specification names nvidia.com/gpu: `--gpus` and `--device nvidia.com/gpu=all` fail",
            )
            .fix("`nvoci cdi generate --output /etc/cdi/nvidia.yaml`"),
        );
    }
    found.push(if ways.is_empty() {
        not_registered("podman")
    } else {
        Finding::new(
            &WAYS,
            Severity::Ok,
            "podman",
            format!("ways to a GPU: {}", ways.join(", ")),
        )
    });
    found
}

/// One file of a hooks directory.
struct Hook {
    file: PathBuf,
    program: String,
    whose: Whose,
}

/// The hooks in the directories; also for CRI-O, which has Podman's code.
pub(super) fn hooks_of(
    root: &Root,
    dirs: &[PathBuf],
    engine: &str,
    found: &mut Vec<Finding>,
) -> Vec<(PathBuf, bool)> {
    let mut nvidia = Vec::new();
    for dir in dirs {
        for hook in read(root, dir) {
            if hook.whose == Whose::Nobody {
                let (severity, what) = if root.exists(&hook.program) {
                    (Severity::Fail, "which is no program: no container starts")
                } else {
                    (
                        Severity::Warn,
                        "which is missing: the engine ignores the file without a message",
                    )
                };
                let cause = format!("{} names the hook {}, {what}", hook.file.display(), hook.program);
                found.push(
                    Finding::new(&HOOK, severity, engine, cause)
                        .fix("install the hook's package, or remove the file"),
                );
                continue;
            }
            let theirs = hook.program.contains("nvidia");
            if hook.whose == Whose::Ours || theirs {
                nvidia.push((hook.file, hook.whose == Whose::Ours));
            }
        }
    }
    if nvidia.iter().any(|(_, ours)| *ours) && nvidia.iter().any(|(_, ours)| !ours) {
        let finding = Finding::new(&DOUBLE, Severity::Warn, engine, "the hooks of nvoci and of the vendor's toolkit are both registered: each container is injected twice")
            .fix("remove the vendor's file");
        found.push(
            nvidia
                .iter()
                .fold(finding, |f, (file, _)| f.evidence(file.display().to_string())),
        );
    }
    nvidia
}

fn read(root: &Root, dir: &Path) -> Vec<Hook> {
    let mut found = Vec::new();
    for entry in root.read_dir(dir, MAX_FILES).unwrap_or_default() {
        let file = dir.join(&entry.name);
        let value: Option<Value> = root
            .read(&file, MAX_HOOK)
            .ok()
            .filter(|_| file.extension().is_some_and(|e| e == "json"))
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if let Some(program) = value.as_ref().and_then(|v| text(v, &["hook", "path"])) {
            found.push(Hook {
                whose: whose(root, Path::new(program)),
                program: program.to_owned(),
                file,
            });
        }
    }
    found.sort_by(|a, b| a.file.cmp(&b.file));
    found
}

fn hooks(root: &Root, config: &Value, rootless: bool, found: &mut Vec<Finding>, ways: &mut Vec<String>) {
    let set: Vec<PathBuf> = config["engine"]["hooks_dir"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(PathBuf::from)
        .collect();
    let usual: Vec<PathBuf> = HOOKS.iter().map(PathBuf::from).collect();
    let dirs = match (set.is_empty(), rootless) {
        (false, _) => set,
        (true, false) => usual.clone(),
        (true, true) => Vec::new(),
    };
    let read_ones = hooks_of(root, &dirs, "podman", found);
    ways.extend(read_ones.iter().map(|(_, ours)| {
        let owner = if *ours { "nvoci" } else { "not nvoci" };
        format!("-e NVIDIA_VISIBLE_DEVICES=… by hooks.d ({owner})")
    }));
    if read_ones.is_empty() {
        let unread = usual
            .iter()
            .filter(|d| !dirs.contains(d))
            .flat_map(|d| read(root, d));
        let ours: Vec<Hook> = unread.filter(|h| h.whose == Whose::Ours).collect();
        if let Some(hook) = ours.first() {
            let (check, cause) = if rootless {
                (&ROOTLESS, "rootless Podman does not read it")
            } else {
                (&HOOK, "`hooks_dir` of containers.conf names other directories")
            };
            found.push(
                Finding::new(
                    check,
                    Severity::Info,
                    "podman",
                    format!("{}: {cause}", hook.file.display()),
                )
                .fix("name its directory in `hooks_dir` of containers.conf, or use CDI"),
            );
        }
    }
}
