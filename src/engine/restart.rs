//! Makes a running engine use its new configuration, and lists the containers that a restart stops.

use std::path::Path;
use std::time::Duration;

use crate::error::{Code, Error, Result, counted};
use crate::sys::daemon::Daemon;
use crate::sys::program::Program;

use super::model::Engine;
use super::place::{Place, Session};
use super::{exec, flags};

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
    use crate::sys::root::Root;

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
}
