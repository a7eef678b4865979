//! Finds each engine's configuration, also for other packagings of it, such as microk8s's
//! containerd.

use std::path::{Path, PathBuf};

use crate::error::{Code, Error, Result};
use crate::sys::root::Root;

use super::flags::{self, Running};
use super::model::{Engine, HOOK, STATE_DIR};

/// The files of one engine, below the root.
#[derive(Clone, Debug)]
pub struct Place {
    /// The file that is edited (for containerd, the main file).
    pub config: PathBuf,
    /// Podman's hooks.d file, if Podman reads one.
    pub hook: Option<PathBuf>,
    /// The directory of the records.
    pub state: PathBuf,
    /// The command that restarts the engine.
    pub restart: Vec<&'static str>,
    /// Whether the engine belongs to a user and not to the system.
    pub user: bool,
    /// Notes for the user on how the files were found.
    pub notes: Vec<String>,
}

/// The facts of the machine and its user.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Whether the root is this machine's own, so that its running daemons count.
    pub live: bool,
    /// The directories of an ordinary user who runs the command.
    pub user: Option<User>,
}

/// An ordinary user's directories.
#[derive(Clone, Debug)]
pub struct User {
    /// `$XDG_CONFIG_HOME` or `~/.config`.
    pub config: PathBuf,
    /// `$XDG_STATE_HOME` or `~/.local/state`.
    pub state: PathBuf,
}

const SNAP_DOCKER: &str = "/var/snap/docker";
const MICROK8S: &str = "/var/snap/microk8s/current/args/containerd-template.toml";
const RANCHER: [&str; 2] = ["/var/lib/rancher/k3s", "/var/lib/rancher/rke2"];

/// Finds the engine's files, or fails with the reason and the alternative.
///
/// # Errors
/// [`Code::Engine`] for snap Docker, k3s, RKE2, and an engine that needs root.
pub fn find(engine: Engine, root: &Root, session: &Session, requested: Option<&Path>) -> Result<Place> {
    if let Some(user) = &session.user {
        return user_place(engine, user, requested);
    }
    if let Some(file) = requested {
        refuse_file(engine, file)?;
    }
    let mut restart = vec!["systemctl", "restart", engine.name()];
    let mut notes = Vec::new();
    let config = match (requested, engine) {
        (Some(file), _) => {
            if file == Path::new(MICROK8S) {
                restart = vec!["snap", "restart", "microk8s.daemon-containerd"];
            }
            file.to_owned()
        }
        (None, Engine::Docker) => docker(root, session, &mut notes)?,
        (None, Engine::Containerd) => {
            let file = containerd(root, session, &mut notes)?;
            if file == Path::new(MICROK8S) {
                restart = vec!["snap", "restart", "microk8s.daemon-containerd"];
            }
            file
        }
        (None, Engine::Crio) => PathBuf::from("/etc/crio/crio.conf.d/99-nvoci.conf"),
        (None, Engine::Podman) => PathBuf::from("/etc/containers/containers.conf.d/50-nvoci.conf"),
    };
    Ok(Place {
        config,
        hook: (engine == Engine::Podman && requested.is_none()).then(|| PathBuf::from(HOOK)),
        state: PathBuf::from(STATE_DIR),
        restart,
        user: false,
        notes,
    })
}

/// The files of a user's own rootless Docker or Podman. Rootless Podman reads no hooks.d.
fn user_place(engine: Engine, user: &User, requested: Option<&Path>) -> Result<Place> {
    let (file, restart) = match engine {
        Engine::Docker => (
            "docker/daemon.json",
            vec!["systemctl", "--user", "restart", "docker"],
        ),
        Engine::Podman => ("containers/containers.conf.d/50-nvoci.conf", Vec::new()),
        Engine::Containerd | Engine::Crio => {
            return Err(
                Error::new(Code::Engine, engine.name(), "its configuration belongs to root")
                    .fix(format!("run `sudo nvoci install {}`", engine.name())),
            );
        }
    };
    Ok(Place {
        config: requested.map_or_else(|| user.config.join(file), Path::to_owned),
        hook: None,
        state: user.state.join("nvoci/install"),
        restart,
        user: true,
        notes: Vec::new(),
    })
}

fn refuse_file(engine: Engine, file: &Path) -> Result<()> {
    if engine == Engine::Docker && (file.starts_with(SNAP_DOCKER) || file.starts_with("/snap/docker")) {
        return Err(snap_docker());
    }
    if engine == Engine::Containerd {
        if RANCHER.iter().any(|d| file.starts_with(d)) {
            return Err(rancher());
        }
        if file.extension().is_some_and(|e| e == "tmpl") {
            return Err(Error::new(
                Code::Engine,
                file.display().to_string(),
                "a template, which is not TOML and cannot be edited safely",
            )
            .fix("edit the template by hand: a runtime `nvidia` with runtime_type io.containerd.runc.v2 and options.BinaryName /usr/bin/nvoci-runtime"));
        }
    }
    Ok(())
}

fn docker(root: &Root, session: &Session, notes: &mut Vec<String>) -> Result<PathBuf> {
    let packaged = ["/usr/bin/dockerd", "/usr/sbin/dockerd", "/usr/local/bin/dockerd"];
    let snap = root.exists(SNAP_DOCKER) || root.exists("/snap/docker/current");
    if snap && !packaged.iter().any(|p| root.exists(p)) {
        return Err(snap_docker());
    }
    let running = running(session, Engine::Docker, notes);
    let usual = PathBuf::from("/etc/docker/daemon.json");
    Ok(the_one(Engine::Docker, &running)?.unwrap_or(usual))
}

fn containerd(root: &Root, session: &Session, notes: &mut Vec<String>) -> Result<PathBuf> {
    let usual = Path::new("/etc/containerd/config.toml");
    let mut running = running(session, Engine::Containerd, notes);
    // Docker's own containerd reads no CRI configuration, and k3s and RKE2 generate theirs at every
    // start.
    running.retain(|r| {
        let file = r.flags.get("config").map(Path::new);
        let of_docker = |f: &Path| f.starts_with("/var/run/docker") || f.starts_with("/run/docker");
        file.is_none_or(|f| refuse_file(Engine::Containerd, f).is_ok() && !of_docker(f))
    });
    if let Some(file) = the_one(Engine::Containerd, &running)? {
        // microk8s generates its file from this template at every start.
        let microk8s = file.starts_with("/var/snap/microk8s");
        return Ok(if microk8s { PathBuf::from(MICROK8S) } else { file });
    }
    let packaged = [
        "/usr/bin/containerd",
        "/usr/sbin/containerd",
        "/usr/local/bin/containerd",
    ];
    if root.exists(usual) || packaged.iter().any(|p| root.exists(p)) {
        return Ok(usual.to_owned());
    }
    if RANCHER.iter().any(|d| root.exists(d)) {
        return Err(rancher());
    }
    let microk8s = Path::new(MICROK8S);
    Ok(if root.exists(microk8s) { microk8s } else { usual }.to_owned())
}

/// The system's daemons.
fn running(session: &Session, engine: Engine, notes: &mut Vec<String>) -> Vec<Running> {
    if !session.live {
        return Vec::new();
    }
    let mut found = flags::daemons(engine);
    notes.append(&mut found.notes);
    found.running.retain(|r| r.process.uid == 0);
    found.running
}

/// The file of the running daemons' command lines, if they have one.
///
/// # Errors
/// [`Code::DaemonFile`] if it may not be edited without `--config`, or they have different ones.
fn the_one(engine: Engine, running: &[Running]) -> Result<Option<PathBuf>> {
    let mut named: Option<PathBuf> = None;
    for each in running {
        let Some(file) = flags::configuration(engine, each)? else {
            continue;
        };
        if let Some(other) = named.as_ref().filter(|n| **n != file) {
            return Err(Error::new(
                Code::DaemonFile,
                engine.name(),
                format!(
                    "its daemons were started with {} and with {}",
                    other.display(),
                    file.display()
                ),
            )
            .fix(format!(
                "pass one: `nvoci install {} --config FILE`",
                engine.name()
            )));
        }
        named = Some(file);
    }
    Ok(named)
}

fn snap_docker() -> Error {
    Error::new(
        Code::Engine,
        "docker",
        "it is the snap package, which is confined and cannot run a runtime or hook of the host",
    )
    .fix("`snap remove docker`, install docker.io or docker-ce, then run this again")
}

fn rancher() -> Error {
    Error::new(
        Code::Engine,
        "containerd of k3s or RKE2",
        "its configuration is generated at every start, and it registers /usr/bin/nvidia-container-runtime by itself",
    )
    .fix("make sure /usr/bin/nvidia-container-runtime is nvoci's link, then restart k3s or rke2; for a default runtime start it with --default-runtime nvidia")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[&str]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    fn at(engine: Engine, files: &[&str]) -> Result<PathBuf> {
        let (_dir, root) = root(files);
        find(engine, &root, &Session::default(), None).map(|p| p.config)
    }

    #[test]
    fn snap_docker_is_refused_unless_another_is_there() {
        assert!(at(Engine::Docker, &["/var/snap/docker/current/config/daemon.json"]).is_err());
        let both = ["/var/snap/docker/x", "/usr/bin/dockerd"];
        assert_eq!(
            at(Engine::Docker, &both).unwrap(),
            Path::new("/etc/docker/daemon.json")
        );
    }

    #[test]
    fn kubernetes_distributions_are_handled() {
        let e = at(
            Engine::Containerd,
            &["/var/lib/rancher/k3s/agent/etc/containerd/config.toml"],
        )
        .unwrap_err();
        assert!(e.fix_text().contains("/usr/bin/nvidia-container-runtime"), "{e}");
        assert_eq!(at(Engine::Containerd, &[MICROK8S]).unwrap(), Path::new(MICROK8S));
        let both = ["/var/lib/rancher/rke2/x", "/usr/bin/containerd"];
        assert_eq!(
            at(Engine::Containerd, &both).unwrap(),
            Path::new("/etc/containerd/config.toml")
        );
        let (_dir, root) = root(&[]);
        for file in [
            "/var/lib/rancher/k3s/agent/etc/containerd/config.toml.tmpl",
            "/x/config.toml.tmpl",
        ] {
            assert!(
                find(
                    Engine::Containerd,
                    &root,
                    &Session::default(),
                    Some(Path::new(file))
                )
                .is_err()
            );
        }
    }

    #[test]
    fn a_user_has_files_of_their_own() {
        let (_dir, root) = root(&[]);
        let session = Session {
            live: true,
            user: Some(User {
                config: "/h/.config".into(),
                state: "/h/.local/state".into(),
            }),
        };
        let docker = find(Engine::Docker, &root, &session, None).unwrap();
        assert_eq!(docker.config, Path::new("/h/.config/docker/daemon.json"));
        assert_eq!(docker.restart, ["systemctl", "--user", "restart", "docker"]);
        assert!(
            find(Engine::Podman, &root, &session, None)
                .unwrap()
                .hook
                .is_none()
        );
        assert!(find(Engine::Crio, &root, &session, None).is_err());
    }
}
