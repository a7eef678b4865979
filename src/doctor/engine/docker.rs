//! Checks Docker: the daemon's `/info`, daemon.json, programs on its PATH, and the command line's
//! context.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::daemon::{self, Daemon, Program};
use super::{
    CDI, CDI_NAME, CONTEXT, DEFAULT, DESKTOP, DOUBLE, FILE, Finding, GPUS_FLAG, RELOAD, RESTART, ROOTLESS,
    Report, SILENT, SNAP, STOPPED, Severity, Site, WAYS, Whose, broken_runtime, not_registered, text, whose,
};
use crate::engine::{Engine, api};
use crate::sys::owned;
use crate::sys::root::Root;

const MAX_FILE: u64 = 4 << 20;
const RESTART_FIX: &str = "`systemctl restart docker` (it stops containers unless live-restore is on)";

/// The inputs of Docker's checks.
#[derive(Debug, Default)]
pub(super) struct Docker {
    pub(super) daemon: Option<Daemon>,
    /// The daemon's answer, or why there is none.
    pub(super) info: Option<Result<Value, String>>,
    pub(super) file: PathBuf,
    /// The content of the file; null if there is none.
    pub(super) config: Option<Result<Value, String>>,
    /// The daemon's programs for `--gpus`, as it finds them.
    pub(super) hook: Option<Program>,
    pub(super) cdi_hook: Option<Program>,
    /// The context of this user's command line, if it is not this host's socket.
    pub(super) context: Option<String>,
    /// Whether a CDI specification names an NVIDIA GPU.
    pub(super) specs: bool,
    /// The root for runtimes' paths.
    pub(super) root: Option<Root>,
}

pub(super) fn findings(site: &Site, report: &mut Report) -> Option<Vec<Finding>> {
    let (daemons, not_daemons) = daemon::find(Engine::Docker);
    let daemon = daemons.into_iter().next();
    if daemon.is_none() && not_daemons.as_ref().is_some_and(|f| f.check == &SNAP) {
        return Some(not_daemons.into_iter().collect());
    }
    if daemon.is_none() && !site.installed(&["dockerd", "docker"]) {
        return None;
    }
    let mut docker = Docker {
        context: context(),
        specs: site.specs,
        ..Docker::default()
    };
    if let Some(daemon) = daemon {
        docker.file = config_file(&daemon);
        docker.config = daemon.root.as_ref().map(|root| read(root, &docker.file));
        docker.info = Some(
            query(&socket(&daemon, docker.config.as_ref())).map_err(|e| match e.kind() {
                ErrorKind::PermissionDenied => {
                    "this user may not connect to it: run as root, or join the group docker".to_owned()
                }
                _ => e.to_string(),
            }),
        );
        docker.hook = daemon.program("nvidia-container-runtime-hook");
        docker.cdi_hook = daemon.program("nvidia-cdi-hook");
        docker.root = daemon.running.process.root().ok();
        docker.daemon = Some(daemon);
    }
    if let Some(Ok(info)) = &docker.info {
        for (name, key) in [
            ("docker", "ServerVersion"),
            ("docker cgroup driver", "CgroupDriver"),
        ] {
            if let Some(value) = text(info, &[key]) {
                report.fact(name, value, format!("{key} of GET /info on Docker's socket"));
            }
        }
    }
    let mut found = docker.judge();
    found.extend(not_daemons);
    Some(found)
}

/// The daemon's `/info`. Only root's socket counts: another user could put a socket of their own
/// there.
fn query(socket: &Path) -> std::io::Result<Value> {
    let own = rustix::process::geteuid().as_raw();
    let foreign = |why: String| std::io::Error::new(ErrorKind::InvalidData, why);
    let dir = socket.parent().unwrap_or(socket);
    match owned::find(dir) {
        Ok(Some(dir)) => {
            let node = dir.child(socket.file_name().unwrap_or_default())?;
            if !node.is_symlink() && ![0, own].contains(&node.stat().st_uid) {
                let why = format!("{} belongs to user {}", socket.display(), node.stat().st_uid);
                return Err(foreign(why));
            }
            api::get(socket, "/info")
        }
        Ok(None) => Err(ErrorKind::NotFound.into()),
        Err(e) => Err(foreign(format!("{}: {}", e.what(), e.why()))),
    }
}

fn config_file(daemon: &Daemon) -> PathBuf {
    if let Some(file) = daemon.running.flags.get("config-file") {
        return file.into();
    }
    let user = nix::unistd::User::from_uid(daemon.running.process.uid.into())
        .ok()
        .flatten();
    match user.filter(|_| daemon.running.process.uid != 0) {
        Some(user) => user.dir.join(".config/docker/daemon.json"),
        None => "/etc/docker/daemon.json".into(),
    }
}

fn read(root: &Root, file: &Path) -> Result<Value, String> {
    match root.read(file, MAX_FILE) {
        Ok(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => Ok(Value::Null),
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| e.to_string()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Value::Null),
        Err(e) => Err(e.to_string()),
    }
}

/// `-H unix://…`, `hosts` of the file, or the default path.
fn socket(daemon: &Daemon, config: Option<&Result<Value, String>>) -> PathBuf {
    let flag = daemon.running.flags.get("host");
    let hosts = config
        .and_then(|c| c.as_ref().ok())
        .and_then(|c| c["hosts"].as_array());
    let listed = hosts.into_iter().flatten().filter_map(Value::as_str);
    let named = flag
        .into_iter()
        .chain(listed)
        .find_map(|h| h.strip_prefix("unix://"));
    match named {
        Some(path) if path.starts_with('/') => path.into(),
        _ if daemon.running.process.uid != 0 => {
            format!("/run/user/{}/docker.sock", daemon.running.process.uid).into()
        }
        _ => "/run/docker.sock".into(),
    }
}

/// `DOCKER_HOST`, or the `currentContext` of `~/.docker/config.json`.
fn context() -> Option<String> {
    if let Some(host) = api::docker_host() {
        let host = host.to_string_lossy().into_owned();
        let usual = ["unix:///var/run/docker.sock", "unix:///run/docker.sock"].contains(&&*host);
        return (!usual).then(|| format!("DOCKER_HOST={host}"));
    }
    let home = std::env::home_dir()?;
    let root = Root::open("/").ok()?;
    let bytes = root.read(home.join(".docker/config.json"), MAX_FILE).ok()?;
    let value: Value = serde_json::from_slice(&bytes).ok()?;
    let current = text(&value, &["currentContext"])?;
    (!matches!(current, "" | "default")).then(|| current.to_owned())
}

impl Docker {
    pub(super) fn judge(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        if let Some(context) = &self.context {
            found.push(other_daemon(context));
        }
        let Some(daemon) = &self.daemon else {
            found.push(
                Finding::new(&STOPPED, Severity::Info, "docker", "no dockerd is running")
                    .fix("`systemctl start docker`"),
            );
            return found;
        };
        if daemon.running.process.uid != 0 {
            found.push(
                Finding::new(
                    &ROOTLESS,
                    Severity::Info,
                    "docker",
                    format!("it runs as user {}, with {}: device nodes are bound, and no hook can change its device cgroup", daemon.running.process.uid, self.file.display()),
                ),
            );
        }
        if let Some(Err(why)) = &self.config {
            found.push(
                Finding::new(
                    &FILE,
                    Severity::Fail,
                    self.file.display().to_string(),
                    format!("it is broken: {why}; dockerd does not start with it"),
                )
                .fix("correct it; `dockerd --validate` names the place"),
            );
        }
        match &self.info {
            Some(Ok(info)) => found.extend(self.live(info)),
            Some(Err(why)) => found.push(
                Finding::new(
                    &SILENT,
                    Severity::Info,
                    "docker",
                    format!("the daemon did not answer: {why}"),
                )
                .fix("run it as root; check where the daemon listens (`hosts` of its file, -H of its command line)"),
            ),
            None => {}
        }
        found.extend(daemon.findings("docker"));
        found
    }

    /// Compares the daemon's answer with the files.
    fn live(&self, info: &Value) -> Vec<Finding> {
        let mut found = Vec::new();
        if text(info, &["OperatingSystem"]).is_some_and(|os| os.contains("Docker Desktop")) {
            found.push(Finding::new(
                &DESKTOP,
                Severity::Warn,
                "docker",
                "it is Docker Desktop, in a virtual machine: nothing that is installed here has an effect",
            ));
        }
        let version = version(info);
        found.extend(self.runtimes(info));
        found.extend(self.gpus_flag(version));
        found.extend(self.cdi(info, version));
        found.extend(self.double(info));
        found.extend(self.reload(info, version));
        let ways = self.ways(info, version);
        found.push(if ways.is_empty() {
            not_registered("docker")
        } else {
            Finding::new(
                &WAYS,
                Severity::Ok,
                "docker",
                format!("ways to a GPU: {}", ways.join(", ")),
            )
        });
        found
    }

    fn runtimes(&self, info: &Value) -> Vec<Finding> {
        let mut found = Vec::new();
        let active = info["Runtimes"].as_object();
        let config = match &self.config {
            Some(Ok(config)) => config,
            _ => &Value::Null,
        };
        for (name, runtime) in config["runtimes"].as_object().into_iter().flatten() {
            let now = active.and_then(|a| a.get(name));
            let (configured, has) = (text(runtime, &["path"]), now.and_then(|r| text(r, &["path"])));
            let cause = match (now, configured, has) {
                (None, ..) => format!(
                    "{} has the runtime `{name}`, but the running daemon has not loaded it",
                    self.file.display()
                ),
                (Some(_), Some(configured), Some(has)) if configured != has => {
                    format!(
                        "{} sets {configured} for the runtime `{name}`, but the running daemon uses {has}",
                        self.file.display()
                    )
                }
                _ => continue,
            };
            found.push(
                Finding::new(&RESTART, Severity::Fail, "docker", cause).fix(
                    "`systemctl reload docker`: a reload is enough for a runtime, no container is touched",
                ),
            );
        }
        for (name, runtime) in active.into_iter().flatten() {
            if let (Some(path), Some(root)) = (
                text(runtime, &["path"]).filter(|p| p.starts_with('/')),
                &self.root,
            ) && whose(root, Path::new(path)) == Whose::Nobody
            {
                found.push(broken_runtime("docker", name, path));
            }
        }
        let (wants, has) = (
            text(config, &["default-runtime"]),
            text(info, &["DefaultRuntime"]),
        );
        if let (Some(wants), Some(has)) = (wants, has)
            && wants != has
        {
            found.push(
                Finding::new(
                    &DEFAULT,
                    Severity::Warn,
                    "docker",
                    format!(
                        "{} sets the default runtime `{wants}`, but the daemon uses `{has}`",
                        self.file.display()
                    ),
                )
                .fix("`systemctl reload docker`"),
            );
        }
        found
    }

    /// The programs that this version searches when it starts.
    fn known_names(&self, version: (u32, u32)) -> impl Iterator<Item = &Program> {
        let cdi = (version >= (29, 2)).then_some(self.cdi_hook.as_ref()).flatten();
        cdi.into_iter().chain(&self.hook)
    }

    fn gpus_flag(&self, version: (u32, u32)) -> Option<Finding> {
        const WORDS: &str = "`docker run --gpus` fails with `could not select device driver`";
        let names: Vec<&Program> = self.known_names(version).collect();
        if names.is_empty() {
            let path = self
                .daemon
                .as_ref()
                .and_then(|d| d.path.clone())
                .unwrap_or_default();
            return Some(
                Finding::new(&GPUS_FLAG, Severity::Warn, "docker", format!("{WORDS}: neither nvidia-container-runtime-hook nor nvidia-cdi-hook is on the daemon's PATH"))
                    .fix(format!("install nvoci's package, then {RESTART_FIX}"))
                    .evidence(format!("PATH={path}")),
            );
        }
        // dockerd searches once, at its start.
        let late: Vec<&&Program> = names.iter().filter(|p| p.newer).collect();
        (late.len() == names.len()).then(|| {
            let finding = Finding::new(&RESTART, Severity::Warn, "docker", format!("{WORDS} if the hook was not there before: it is newer than the daemon, which searches for it only at its start"))
                .fix(RESTART_FIX);
            late.iter().fold(finding, |f, p| f.evidence(p.path.display().to_string()))
        })
    }

    fn cdi(&self, info: &Value, version: (u32, u32)) -> Option<Finding> {
        if version < (25, 0) {
            return None;
        }
        let wants = match &self.config {
            Some(Ok(config)) => config["features"]["cdi"].as_bool(),
            _ => None,
        };
        let on = info["CDISpecDirs"]
            .as_array()
            .is_some_and(|dirs| !dirs.is_empty());
        if let Some(wants) = wants.filter(|w| *w != on) {
            let (configured, is) = if wants { ("on", "off") } else { ("off", "on") };
            return Some(
                Finding::new(
                    &RESTART,
                    Severity::Warn,
                    "docker",
                    format!(
                        "{} turns CDI {configured}, but in the running daemon it is {is}",
                        self.file.display()
                    ),
                )
                .fix(RESTART_FIX),
            );
        }
        if !on {
            return Some(
                Finding::new(
                    &CDI,
                    Severity::Info,
                    "docker",
                    "CDI is off: `--device nvidia.com/gpu=all` fails",
                )
                .fix(format!("`nvoci install docker --cdi`, then {RESTART_FIX}")),
            );
        }
        let by_name = version >= (29, 2) && self.cdi_hook.is_some();
        if by_name && !self.specs {
            return Some(
                Finding::new(&CDI_NAME, Severity::Fail, "docker", "since nvidia-cdi-hook is on its PATH it turns `--gpus` into CDI devices, and no specification names nvidia.com/gpu")
                    .fix("`nvoci cdi generate --output /etc/cdi/nvidia.yaml`"),
            );
        }
        if !self.specs {
            return Some(
                Finding::new(
                    &CDI,
                    Severity::Info,
                    "docker",
                    "CDI is on, but no specification names nvidia.com/gpu",
                )
                .fix("`nvoci cdi generate --output /etc/cdi/nvidia.yaml`"),
            );
        }
        // From 28.2 on the daemon lists the devices that it found.
        let dirs: Vec<&str> = info["CDISpecDirs"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let devices = info["DiscoveredDevices"].as_array();
        let found = devices.is_none_or(|d| {
            d.iter()
                .any(|d| text(d, &["ID"]).is_some_and(|id| id.starts_with("nvidia.com/gpu=")))
        });
        (version >= (28, 2) && !found).then(|| {
            Finding::new(
                &CDI,
                Severity::Warn,
                "docker",
                "a specification names nvidia.com/gpu, but the daemon has not found it",
            )
            .fix("see `nvoci cdi check`, and that the file is in one of the daemon's directories")
            .evidence(format!("its directories: {}", dirs.join(", ")))
        })
    }

    /// The owners of the runtimes with NVIDIA's names.
    fn registered<'a>(&'a self, info: &'a Value) -> impl Iterator<Item = (&'a str, Whose)> {
        let runtimes = info["Runtimes"].as_object().into_iter().flatten();
        runtimes.filter_map(|(name, runtime)| {
            let path = text(runtime, &["path"])?;
            let theirs = path.contains("nvidia-container-runtime");
            let whose = match &self.root {
                Some(root) if path.starts_with('/') => whose(root, Path::new(path)),
                _ => self
                    .daemon
                    .as_ref()
                    .and_then(|d| d.program(path))
                    .map_or(Whose::Nobody, |p| p.whose),
            };
            (whose == Whose::Ours || theirs).then_some((name.as_str(), whose))
        })
    }

    fn double(&self, info: &Value) -> Option<Finding> {
        let hook = self.hook.as_ref()?.whose;
        let (name, _) = self
            .registered(info)
            .find(|(_, whose)| *whose != hook && *whose != Whose::Nobody)?;
        let (one, other) = if hook == Whose::Ours {
            ("nvoci's", "the vendor's")
        } else {
            ("the vendor's", "nvoci's")
        };
        Some(
            Finding::new(&DOUBLE, Severity::Warn, "docker", format!("the hook of `--gpus` is {one} and the runtime `{name}` is {other}: with both, a container is injected twice"))
                .fix("remove the vendor's toolkit, or register one of them for both (`nvoci install docker`)"),
        )
    }

    /// Only a hook that registers devices with systemd survives a reload; nvoci's does.
    fn reload(&self, info: &Value, version: (u32, u32)) -> Option<Finding> {
        let systemd = text(info, &["CgroupDriver"]) == Some("systemd");
        let by_hook = version < (29, 2) || self.cdi_hook.is_none();
        let theirs = self.hook.as_ref()?.whose == Whose::Theirs;
        (systemd && by_hook && theirs).then(|| {
            Finding::new(&RELOAD, Severity::Warn, "docker", "`--gpus` uses the vendor's hook, and systemd keeps the cgroups: `systemctl daemon-reload` takes the GPUs from running containers")
                .fix("use nvoci's hook, which registers the devices with systemd, or `--runtime` or CDI")
        })
    }

    fn ways(&self, info: &Value, version: (u32, u32)) -> Vec<String> {
        let mut ways: Vec<String> = self
            .registered(info)
            .filter(|(_, whose)| *whose != Whose::Nobody)
            .map(|(name, whose)| format!("--runtime {name} ({})", owner(whose)))
            .collect();
        if let Some(program) = self.known_names(version).next() {
            ways.push(format!("--gpus ({})", owner(program.whose)));
        }
        let on = info["CDISpecDirs"]
            .as_array()
            .is_some_and(|dirs| !dirs.is_empty());
        if on && self.specs {
            ways.push("--device nvidia.com/gpu=…".to_owned());
        }
        ways
    }
}

fn owner(whose: Whose) -> &'static str {
    if whose == Whose::Ours {
        "nvoci"
    } else {
        "not nvoci"
    }
}

/// The daemon's version, major and minor.
fn version(info: &Value) -> (u32, u32) {
    let mut parts = text(info, &["ServerVersion"])
        .unwrap_or_default()
        .split(|c: char| !c.is_ascii_digit());
    let mut next = || parts.next().and_then(|p| p.parse().ok()).unwrap_or(0);
    (next(), next())
}

/// The finding that the command line uses another daemon.
fn other_daemon(context: &str) -> Finding {
    if context.contains("desktop") {
        return Finding::new(
            &DESKTOP,
            Severity::Warn,
            "docker",
            format!(
                "the command line uses Docker Desktop (`{context}`), whose machine has a GPU on Windows only"
            ),
        )
        .fix("`docker context use default` for the engine of this host");
    }
    Finding::new(
        &CONTEXT,
        Severity::Warn,
        "docker",
        format!("this user's command line uses another daemon: `{context}`"),
    )
    .fix("`docker context use default`, or unset DOCKER_HOST; else run this on that daemon's host")
}
