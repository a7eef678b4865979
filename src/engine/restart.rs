//! Makes a running engine use its new configuration, and lists the containers that a restart stops.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::error::{Code, Error, Result, counted};
use crate::sys::daemon::Daemon;
use crate::sys::program::Program;
use crate::sys::root::Root;

use super::job::Job;
use super::model::{Engine, SPEC, Settings};
use super::place::{Place, Session};
use super::{exec, flags, store};

const QUERY_LIMIT: Duration = Duration::from_secs(5);
const RESTART_LIMIT: Duration = Duration::from_secs(120);
/// The most containers that are listed by name.
const MAX_NAMED: usize = 20;

/// The action that makes a running engine use a change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Need {
    /// None: it reads its files at every start of a container.
    Nothing,
    /// SIGHUP.
    Reload,
    /// A restart.
    Restart,
}

/// The action, its reason and its consequences.
#[derive(Clone, Debug)]
pub struct Activation {
    /// The action.
    pub need: Need,
    /// The command for it; empty if none is needed.
    pub command: Vec<String>,
    /// The reasons, and the effect on containers.
    pub notes: Vec<String>,
    /// Running containers that it stops.
    pub hit: Vec<String>,
}

/// The keys that the running engine has not read yet, after a job that changed no file: an earlier
/// restart failed, or was left out. Docker reloads its file, so its daemon's answer counts and not
/// its age.
pub fn unread(job: &Job, place: &Place, files: &[PathBuf], installing: bool) -> Vec<Vec<String>> {
    if !job.session.live || place.user {
        return Vec::new();
    }
    match job.engine {
        Engine::Podman => Vec::new(),
        Engine::Docker => {
            let info = Program::find("docker").and_then(|program| {
                let args = ["info", "--format", "{{json .}}"];
                let answer = exec::run(&program, &args, &[], QUERY_LIMIT)
                    .ok()
                    .filter(|a| a.ok)?;
                serde_json::from_str(&answer.stdout).ok()
            });
            let Some(info) = info else {
                return Vec::new();
            };
            if installing {
                return unread_by_docker(&job.settings, &info);
            }
            let file = store::load(&job.root, &place.config)
                .ok()
                .and_then(|file| file.text);
            let file = file.map_or(Ok(Value::Null), |text| serde_json::from_str(&text));
            let is_late = file.is_ok_and(|file| keeps_removed(&job.settings, &info, &file));
            if is_late {
                vec![vec!["runtimes".to_owned()]]
            } else {
                Vec::new()
            }
        }
        Engine::Containerd | Engine::Crio => {
            let changed: Vec<SystemTime> = std::iter::once(&place.config)
                .chain(files.iter().filter(|file| file.as_path() != Path::new(SPEC)))
                .filter_map(|file| changed_at(&job.root, file))
                .collect();
            let serves = |r: &flags::Running| {
                // Another containerd of this host, such as Docker's own, reads another file.
                let file = r.flags.get("config").map(Path::new);
                job.engine == Engine::Crio || file.is_none_or(|file| file == place.config)
            };
            let running = flags::daemons(job.engine).running;
            let mut ages = running
                .iter()
                .filter(|r| serves(r))
                .filter_map(|r| r.process.age());
            let is_late = ages.any(|age| is_late(age, &changed, SystemTime::now()));
            if is_late {
                vec![vec!["plugins".to_owned()]]
            } else {
                Vec::new()
            }
        }
    }
}

/// When the file's attributes or its content changed last.
fn changed_at(root: &Root, file: &Path) -> Option<SystemTime> {
    let seconds = u64::try_from(root.resolve_nofollow(file).ok()?.stat().st_ctime).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Whether a daemon of that age started before one of the changes. Both are in whole seconds.
fn is_late(age: Duration, changed: &[SystemTime], now: SystemTime) -> bool {
    let started = now.checked_sub(age);
    started.is_some_and(|started| changed.iter().any(|at| *at > started + Duration::from_secs(1)))
}

/// The part of the registration that `docker info` does not have.
fn unread_by_docker(settings: &Settings, info: &Value) -> Vec<Vec<String>> {
    let key = |name: &str| vec![name.to_owned()];
    let Some(runtimes) = info.get("Runtimes").and_then(Value::as_object) else {
        return Vec::new();
    };
    let path = runtimes
        .get(&settings.name)
        .and_then(|runtime| runtime.get("path"));
    let is_loaded = path.and_then(Value::as_str) == Some(&settings.runtime_path);
    let is_default = info.get("DefaultRuntime").and_then(Value::as_str) == Some(&settings.name);
    let mut keys = Vec::new();
    if !is_loaded || (settings.set_as_default && !is_default) {
        keys.push(key("runtimes"));
    }
    // Before Docker 25 there is no such key.
    let is_off = |dirs: &Value| dirs.as_array().is_none_or(Vec::is_empty);
    if settings.cdi && info.get("CDISpecDirs").is_some_and(is_off) {
        keys.push(key("features"));
    }
    keys
}

/// Whether the running Docker has a runtime of ours that its file does not have any more.
fn keeps_removed(settings: &Settings, info: &Value, file: &Value) -> bool {
    let runtimes = info.get("Runtimes").and_then(Value::as_object);
    runtimes.into_iter().flatten().any(|(name, runtime)| {
        let path = runtime.get("path").and_then(Value::as_str);
        path == Some(&settings.runtime_path) && file.get("runtimes").and_then(|r| r.get(name)).is_none()
    })
}

/// Decides on the action after the keys at `keys` changed.
pub fn plan(
    engine: Engine,
    place: &Place,
    session: &Session,
    keys: &[Vec<String>],
    installing: bool,
) -> Activation {
    let words = |w: &[&str]| w.iter().map(|s| (*s).to_owned()).collect::<Vec<String>>();
    let mut out = Activation {
        need: Need::Restart,
        command: words(&place.restart),
        notes: Vec::new(),
        hit: Vec::new(),
    };
    match engine {
        _ if installing && keys.is_empty() => {
            out.need = Need::Nothing;
            out.command.clear();
            out.notes
                .push("engines reload CDI specifications by themselves".to_owned());
        }
        Engine::Podman => {
            out.need = Need::Nothing;
            out.command.clear();
            out.notes.push("podman reads its files at every run".to_owned());
        }
        Engine::Docker => docker(place, session, keys, installing, &mut out),
        Engine::Containerd | Engine::Crio => {
            out.notes
                .push("running containers are kept by their own monitors and survive the restart".to_owned());
        }
    }
    out
}

/// dockerd adds a runtime and changes the default at SIGHUP, but removes no runtime. It reads the
/// CDI feature and finds the GPU hook of `--gpus` only at its start.
fn docker(place: &Place, session: &Session, keys: &[Vec<String>], installing: bool, out: &mut Activation) {
    let cdi = keys.iter().any(|k| k.first().is_some_and(|k| k == "features"));
    let daemon = if session.live && !place.user {
        host_daemons().into_iter().next()
    } else {
        None
    };
    let hook_is_newer = daemon.as_ref().and_then(started_before_hook);
    let why = if !installing {
        "a reload takes no runtime away from dockerd"
    } else if cdi {
        "CDI support is set up when dockerd starts"
    } else if hook_is_newer == Some(true) {
        "`docker run --gpus` uses the hook that dockerd found when it started; for --runtime a reload would do"
    } else {
        out.need = Need::Reload;
        for word in &mut out.command {
            if word == "restart" {
                "reload".clone_into(word);
            }
        }
        if hook_is_newer.is_none() {
            out.notes.push(
                "`docker run --gpus` needs dockerd to have started after nvoci was installed".to_owned(),
            );
        }
        "dockerd takes an added runtime and default-runtime from a reload (SIGHUP); no container is touched"
    };
    out.notes.push(why.to_owned());
    if out.need == Need::Restart && daemon.is_some() {
        (out.hit, out.notes) = containers(std::mem::take(&mut out.notes));
    }
}

/// The dockerd processes that serve this host.
fn host_daemons() -> Vec<Daemon> {
    let running = flags::daemons(Engine::Docker).running;
    running
        .into_iter()
        .map(|r| r.process)
        .filter(|p| p.uid == 0)
        .collect()
}

/// Whether dockerd started before the hook that `--gpus` needs was installed; `None` without a
/// hook.
fn started_before_hook(daemon: &Daemon) -> Option<bool> {
    let age = daemon.age()?;
    let newest = ["nvidia-container-runtime-hook", "nvidia-cdi-hook"]
        .iter()
        .filter_map(|n| {
            std::fs::symlink_metadata(Path::new("/usr/bin").join(n))
                .ok()?
                .created()
                .ok()?
                .elapsed()
                .ok()
        })
        .min()?;
    Some(newest < age)
}

/// The running containers that a restart stops, and the notes.
fn containers(mut notes: Vec<String>) -> (Vec<String>, Vec<String>) {
    let Some(program) = Program::find("docker") else {
        return (Vec::new(), notes);
    };
    let query = |args: &[&str]| exec::run(&program, args, &[], QUERY_LIMIT).ok().filter(|a| a.ok);
    let Some(list) = query(&["ps", "--format", "{{.ID}} {{.Names}}"]) else {
        notes.push("docker did not answer, so the containers that a restart stops are not known".to_owned());
        return (Vec::new(), notes);
    };
    let all: Vec<String> = list.stdout.lines().map(str::to_owned).collect();
    let live =
        query(&["info", "--format", "{{.LiveRestoreEnabled}}"]).is_some_and(|a| a.stdout.trim() == "true");
    if live && !all.is_empty() {
        notes.push(format!(
            "live-restore is on: {} will survive the restart",
            counted(all.len(), "running container", "running containers")
        ));
        return (Vec::new(), notes);
    }
    let more = all.len().saturating_sub(MAX_NAMED);
    let mut named: Vec<String> = all.into_iter().take(MAX_NAMED).collect();
    if more > 0 {
        named.push(format!("and {more} more"));
    }
    (named, notes)
}

/// Runs the action. Returns the command or the signal.
///
/// # Errors
/// [`Code::Engine`] if the engine cannot be reached or does not come back.
pub fn act(engine: Engine, activation: &Activation) -> Result<String> {
    let Some((name, args)) = activation.command.split_first() else {
        return Ok(String::new());
    };
    let shown = activation.command.join(" ");
    let failed = |why: String| {
        Error::new(Code::Engine, &shown, why).fix(format!(
            "restart {} yourself and read its log; the configuration is written",
            engine.name()
        ))
    };
    let program = Program::find(name);
    let booted = Path::new("/run/systemd/system").exists();
    if let Some(program) = program.filter(|_| booted || name != "systemctl") {
        // `systemctl --user` needs it to find the user's manager.
        let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").unwrap_or_default();
        let env = [("XDG_RUNTIME_DIR", runtime_dir.as_os_str())];
        let own = args.iter().any(|a| a == "--user");
        let env = if own { env.as_slice() } else { &[] };
        let answer = exec::run(&program, args, env, RESTART_LIMIT).map_err(|e| failed(e.to_string()))?;
        return if answer.ok {
            Ok(shown)
        } else {
            Err(failed(answer.complaint().to_owned()))
        };
    }
    if activation.need != Need::Reload {
        return Err(failed("no service manager runs here".to_owned()));
    }
    let all = host_daemons();
    let [daemon] = all.as_slice() else {
        return Err(failed(format!("expected 1 running dockerd, found {}", all.len())));
    };
    daemon
        .signal(rustix::process::Signal::HUP)
        .map_err(|e| failed(e.to_string()))?;
    Ok(format!("SIGHUP to dockerd ({})", daemon.pid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::place;
    use serde_json::json;

    #[test]
    fn a_reload_is_enough_for_dockers_runtimes_but_not_for_cdi() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let session = Session::default();
        let place = place::find(Engine::Docker, &root, &session, None).unwrap();
        let key = |k: &str| vec![vec![k.to_owned()]];
        let a = plan(Engine::Docker, &place, &session, &key("runtimes"), true);
        assert_eq!(
            (a.need, a.command.join(" ").as_str()),
            (Need::Reload, "systemctl reload docker")
        );
        let a = plan(Engine::Docker, &place, &session, &key("features"), true);
        assert_eq!(
            (a.need, a.command.join(" ").as_str()),
            (Need::Restart, "systemctl restart docker")
        );
        let a = plan(Engine::Docker, &place, &session, &key("runtimes"), false);
        assert_eq!(a.need, Need::Restart);
    }

    #[test]
    fn a_daemon_is_late_if_a_file_changed_after_its_start() {
        let now = SystemTime::now();
        let ago = |seconds| now - Duration::from_secs(seconds);
        let age = Duration::from_secs(100);
        assert!(is_late(age, &[ago(500), ago(20)], now));
        assert!(!is_late(age, &[ago(500), ago(100), ago(99)], now));
        assert!(!is_late(age, &[], now));
    }

    #[test]
    fn docker_answers_what_it_has_read() {
        let settings = |cdi: bool, set_as_default: bool| Settings {
            cdi,
            set_as_default,
            runtime_path: "/usr/bin/nvoci-runtime".to_owned(),
            ..Settings::default()
        };
        let runtime = json!({"path": "/usr/bin/nvoci-runtime"});
        let has = json!({"Runtimes": {"nvidia": runtime}, "DefaultRuntime": "runc", "CDISpecDirs": []});
        let old = json!({"Runtimes": {"nvidia": runtime}});
        let other = json!({"Runtimes": {"nvidia": {"path": "/usr/bin/nvidia-container-runtime"}}});
        let keys = |settings: &Settings, info: &Value| unread_by_docker(settings, info).concat().join(" ");
        for (settings, info, unread) in [
            (settings(false, false), &has, ""),
            (settings(true, false), &has, "features"),
            (settings(false, true), &has, "runtimes"),
            (settings(true, false), &old, ""),
            (settings(false, false), &other, "runtimes"),
            (settings(true, true), &json!({}), ""),
            (settings(false, false), &json!({"Runtimes": {}}), "runtimes"),
        ] {
            assert_eq!(keys(&settings, info), unread, "{info}");
        }
        // A removal is late while the daemon has the runtime.
        let keeps = |info: &Value, file: Value| keeps_removed(&settings(false, false), info, &file);
        assert!(keeps(&has, json!({})) && keeps(&has, Value::Null));
        // An administrator's entry is no registration.
        assert!(!keeps(&has, json!({"runtimes": {"nvidia": runtime}})));
        assert!(!keeps(&other, json!({})));
    }
}
