//! Finds each engine's configuration, also for other packagings of it, such as microk8s's
//! containerd.

use std::os::unix::fs::MetadataExt as _;
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

/// Directories in which packages and administrators put an engine's program.
const PROGRAM_DIRS: [&str; 3] = ["/usr/bin", "/usr/sbin", "/usr/local/bin"];
/// The end of the path of the containerd configuration that k3s and RKE2 generate, in any data
/// directory.
const RANCHERS_FILE: &str = "agent/etc/containerd/config.toml";

/// A Kubernetes distribution of Rancher's, whose own containerd finds the runtime by itself.
#[derive(Debug)]
struct Rancher {
    name: &'static str,
    data: &'static str,
    /// Other files that only this distribution has, but for its units.
    signs: &'static [&'static str],
    /// Its services' units: of a server, then of an agent.
    units: [&'static str; 2],
}

const RANCHERS: [Rancher; 2] = [
    Rancher {
        name: "k3s",
        data: "/var/lib/rancher/k3s",
        signs: &[
            "/etc/rancher/k3s",
            "/usr/local/bin/k3s",
            "/usr/bin/k3s",
            "/opt/bin/k3s",
        ],
        units: ["k3s", "k3s-agent"],
    },
    Rancher {
        name: "RKE2",
        data: "/var/lib/rancher/rke2",
        signs: &[
            "/etc/rancher/rke2",
            "/usr/local/bin/rke2",
            "/usr/bin/rke2",
            "/opt/rke2/bin/rke2",
        ],
        units: ["rke2-server", "rke2-agent"],
    },
];

/// Finds the engine's files, or fails with the reason and the alternative.
///
/// # Errors
/// [`Code::Engine`] for snap Docker, k3s, RKE2, an engine that needs root, and a user without a
/// rootless Docker. [`Code::DaemonFile`] for the file of a daemon's command line.
pub fn find(engine: Engine, root: &Root, session: &Session, requested: Option<&Path>) -> Result<Place> {
    if let Some(file) = requested {
        refuse_file(engine, root, file)?;
    }
    if let Some(user) = &session.user {
        if engine == Engine::Docker && requested.is_none() {
            check_rootless_docker(root, session, user)?;
        }
        return user_place(engine, user, requested);
    }
    let mut notes = Vec::new();
    let config = match (requested, engine) {
        (Some(file), _) => file.to_owned(),
        (None, Engine::Docker) => docker(root, session, &mut notes)?,
        (None, Engine::Containerd) => containerd(root, session, &mut notes)?,
        (None, Engine::Crio | Engine::Podman) => usual(engine).into(),
    };
    if requested.is_none() && session.live {
        notes.extend(missing(engine, root, &config));
    }
    Ok(system_place(engine, config, requested.is_none(), notes))
}

/// The engine's files for a removal, which [`find`]'s refusals do not stop: the record of the
/// registration names what to revert.
///
/// # Errors
/// [`Code::Engine`] for an engine that needs root, and for a file that [`find`] refuses.
pub fn find_registered(
    engine: Engine,
    root: &Root,
    session: &Session,
    requested: Option<&Path>,
) -> Result<Place> {
    match find(engine, root, session, requested) {
        Err(e) if requested.is_none() && matches!(e.code(), Code::DaemonFile | Code::Engine) => {
            match &session.user {
                Some(user) => user_place(engine, user, None),
                None => Ok(system_place(engine, usual(engine).into(), true, Vec::new())),
            }
        }
        found => found,
    }
}

/// The file of an engine whose daemon names no other.
const fn usual(engine: Engine) -> &'static str {
    match engine {
        Engine::Docker => "/etc/docker/daemon.json",
        Engine::Podman => "/etc/containers/containers.conf.d/50-nvoci.conf",
        Engine::Containerd => "/etc/containerd/config.toml",
        Engine::Crio => "/etc/crio/crio.conf.d/99-nvoci.conf",
    }
}

fn system_place(engine: Engine, config: PathBuf, is_usual: bool, notes: Vec<String>) -> Place {
    let restart = if engine == Engine::Containerd && config == Path::new(MICROK8S) {
        vec!["snap", "restart", "microk8s.daemon-containerd"]
    } else {
        vec!["systemctl", "restart", engine.name()]
    };
    Place {
        config,
        hook: (engine == Engine::Podman && is_usual).then(|| PathBuf::from(HOOK)),
        state: PathBuf::from(STATE_DIR),
        restart,
        user: false,
        notes,
    }
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

/// Refuses a user whose only Docker is the system's, since that reads no file of the user's.
fn check_rootless_docker(root: &Root, session: &Session, user: &User) -> Result<()> {
    if is_snap_docker(root) {
        return Err(snap_docker());
    }
    let is_set_up = root.exists(user.config.join("systemd/user/docker.service"))
        || root.exists(user.config.join("docker/daemon.json"))
        || running(session, Engine::Docker, &mut Vec::new(), false)
            .next()
            .is_some();
    if is_set_up || !root.exists("/run/docker.sock") {
        return Ok(());
    }
    Err(Error::new(
        Code::Engine,
        "docker",
        "this user has no rootless Docker, and the system's Docker reads only root's files",
    )
    .fix("run `sudo nvoci install docker`; for rootless Docker run `dockerd-rootless-setuptool.sh install` first"))
}

fn refuse_file(engine: Engine, root: &Root, file: &Path) -> Result<()> {
    if engine == Engine::Docker && (file.starts_with(SNAP_DOCKER) || file.starts_with("/snap/docker")) {
        return Err(snap_docker());
    }
    if engine == Engine::Containerd {
        let of = RANCHERS.iter().find(|r| file.starts_with(r.data));
        if let Some(rancher) = of.or_else(|| file.ends_with(RANCHERS_FILE).then(|| present(root)).flatten()) {
            return Err(rancher.refused(root));
        }
        if file.ends_with(RANCHERS_FILE) {
            return Err(Error::new(
                Code::Engine,
                file.display().to_string(),
                "k3s and RKE2 have such a file in their data directory, and generate it at every start",
            )
            .fix(
                "link /usr/local/nvidia/toolkit/nvidia-container-runtime to nvoci, and restart the service",
            ));
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

/// Whether Docker's snap is the only Docker of this host.
fn is_snap_docker(root: &Root) -> bool {
    let snap = root.exists(SNAP_DOCKER) || root.exists("/snap/docker/current");
    snap && !has_program(root, "dockerd")
}

fn has_program(root: &Root, name: &str) -> bool {
    PROGRAM_DIRS
        .iter()
        .any(|dir| root.exists(Path::new(dir).join(name)))
}

/// A note for a host that has neither the engine's program nor its file.
fn missing(engine: Engine, root: &Root, config: &Path) -> Option<String> {
    let program = flags::program(engine).unwrap_or(engine.name());
    let absent = !has_program(root, program) && !root.exists(config);
    absent.then(|| {
        format!(
            "{program} is not in {}: this file has an effect once the engine is installed",
            PROGRAM_DIRS.join(", ")
        )
    })
}

fn docker(root: &Root, session: &Session, notes: &mut Vec<String>) -> Result<PathBuf> {
    if is_snap_docker(root) {
        return Err(snap_docker());
    }
    let all: Vec<Running> = running(session, Engine::Docker, notes, true).collect();
    Ok(the_one(Engine::Docker, &all)?.unwrap_or_else(|| usual(Engine::Docker).into()))
}

fn containerd(root: &Root, session: &Session, notes: &mut Vec<String>) -> Result<PathBuf> {
    let usual = Path::new(usual(Engine::Containerd));
    // Docker's own containerd reads no CRI configuration, and k3s and RKE2 generate theirs at every
    // start.
    let of_others = |r: &Running| {
        let file = r.flags.get("config").map(Path::new);
        let of_docker = |f: &Path| f.starts_with("/var/run/docker") || f.starts_with("/run/docker");
        file.is_some_and(|f| refuse_file(Engine::Containerd, root, f).is_err() || of_docker(f))
    };
    let mut all: Vec<Running> = running(session, Engine::Containerd, notes, true).collect();
    all.retain(|r| !of_others(r));
    let rancher = present(root);
    let microk8s = Path::new(MICROK8S);
    let file = if let Some(file) = the_one(Engine::Containerd, &all)? {
        // microk8s generates its file from this template at every start.
        if file.starts_with("/var/snap/microk8s") {
            return Ok(microk8s.to_owned());
        }
        file
    } else if root.exists(usual) || has_program(root, "containerd") {
        usual.to_owned()
    } else if let Some(rancher) = rancher {
        return Err(rancher.refused(root));
    } else {
        return Ok(if root.exists(microk8s) { microk8s } else { usual }.to_owned());
    };
    if let Some(rancher) = rancher {
        let refused = rancher.refused(root);
        notes.push(format!(
            "{} is another: {}; {}",
            refused.what(),
            refused.why(),
            refused.fix_text()
        ));
    }
    if root.exists(microk8s) {
        notes.push(format!(
            "microk8s has a containerd of its own: `nvoci install containerd --config {MICROK8S}` registers with it"
        ));
    }
    Ok(file)
}

/// The daemons of the system, or of the user who runs this.
fn running(
    session: &Session,
    engine: Engine,
    notes: &mut Vec<String>,
    of_system: bool,
) -> impl Iterator<Item = Running> {
    let mut found = if session.live {
        flags::daemons(engine)
    } else {
        flags::Daemons::default()
    };
    notes.append(&mut found.notes);
    let all = found.running.into_iter();
    all.filter(move |r| (r.process.uid == 0) == of_system)
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

/// The distribution of Rancher's that this host has. One with a service comes first: a program
/// alone may be left over.
fn present(root: &Root) -> Option<&'static Rancher> {
    let has_unit = |r: &&Rancher| r.units.iter().any(|unit| has_unit(root, unit));
    let has_sign = |r: &&Rancher| root.exists(r.data) || r.signs.iter().any(|sign| root.exists(sign));
    RANCHERS
        .iter()
        .find(has_unit)
        .or_else(|| RANCHERS.iter().find(has_sign))
}

/// Whether the host has this service: the files of k3s's script, RKE2's tarball and its packages.
fn has_unit(root: &Root, unit: &str) -> bool {
    [
        "/etc/systemd/system",
        "/etc/systemd/system/multi-user.target.wants",
        "/usr/local/lib/systemd/system",
        "/usr/lib/systemd/system",
    ]
    .iter()
    .any(|dir| root.has_entry(Path::new(dir).join(format!("{unit}.service"))))
}

/// The program that k3s and RKE2 register as the runtime `nvidia`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Found {
    Nvoci,
    Other,
    Nothing,
}

impl Rancher {
    /// The refusal, with the one thing that is left to do.
    fn refused(&self, root: &Root) -> Error {
        let [server, agent] = self.units;
        let is_agent = [
            "/etc/systemd/system",
            "/etc/systemd/system/multi-user.target.wants",
        ]
        .iter()
        .any(|dir| root.has_entry(Path::new(dir).join(format!("{agent}.service"))));
        let restart = format!("`systemctl restart {}`", if is_agent { agent } else { server });
        let (at, found) = runtime(root);
        let (finding, fix) = match found {
            Found::Nvoci => (
                "which is nvoci's: nothing is left to register".to_owned(),
                restart,
            ),
            Found::Other => (
                "which is another program than nvoci".to_owned(),
                format!(
                    "`nvoci-alternatives choose nvoci`, or replace {at} by a link to nvoci; then {restart}"
                ),
            ),
            Found::Nothing => (
                "which does not exist".to_owned(),
                format!("install nvoci's package, or link {at} to nvoci; then {restart}"),
            ),
        };
        Error::new(
            Code::Engine,
            format!("containerd of {}", self.name),
            format!(
                "{} generates its configuration at every start, and registers {at} by itself, {finding}",
                self.name
            ),
        )
        .fix(format!(
            "{fix}; pods name `runtimeClassName: nvidia`, or the service has --default-runtime nvidia"
        ))
    }
}

/// The first runtime in the order of k3s (pkg/agent/containerd): the operator's, the package's.
fn runtime(root: &Root) -> (&'static str, Found) {
    const OPERATORS: &str = "/usr/local/nvidia/toolkit/nvidia-container-runtime";
    const PACKAGES: &str = "/usr/bin/nvidia-container-runtime";
    let id = |path: &Path| root.resolve(path).ok().map(|node| node.id());
    for at in [OPERATORS, PACKAGES] {
        let at_path = Path::new(at);
        let Some(there) = id(at_path) else {
            continue;
        };
        // nvoci's links are beside the program, wherever that was installed.
        let target = root.read_link(at_path).unwrap_or_default();
        let own = [
            Path::new("/usr/bin/nvoci").to_owned(),
            Path::new("/usr/local/bin/nvoci").to_owned(),
            at_path.with_file_name("nvoci"),
            at_path.with_file_name(target).with_file_name("nvoci"),
        ];
        let is_running = std::fs::metadata("/proc/self/exe").is_ok_and(|own| (own.dev(), own.ino()) == there);
        let nvoci = is_running || own.iter().any(|path| id(path) == Some(there));
        return (at, if nvoci { Found::Nvoci } else { Found::Other });
    }
    (PACKAGES, Found::Nothing)
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

    fn user(live: bool) -> Session {
        Session {
            live,
            user: Some(User {
                config: "/h/.config".into(),
                state: "/h/.local/state".into(),
            }),
        }
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
        let session = user(true);
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

    #[test]
    fn a_user_of_the_systems_docker_is_refused() {
        let docker = |files: &[&str]| {
            let (_dir, root) = root(files);
            find(Engine::Docker, &root, &user(false), None).map(|p| p.config)
        };
        let e = docker(&["/run/docker.sock", "/usr/bin/dockerd"]).unwrap_err();
        assert_eq!(e.code(), Code::Engine);
        assert!(e.fix_text().starts_with("run `sudo nvoci install docker`"), "{e}");
        let rootless = ["/run/docker.sock", "/h/.config/systemd/user/docker.service"];
        assert_eq!(
            docker(&rootless).unwrap(),
            Path::new("/h/.config/docker/daemon.json")
        );
        assert!(docker(&["/run/docker.sock", "/h/.config/docker/daemon.json"]).is_ok());
        assert!(docker(&[]).is_ok());
        let e = docker(&["/snap/docker/current/bin/dockerd"]).unwrap_err();
        assert!(e.why().contains("snap"), "{e}");
    }

    #[test]
    fn k3s_and_rke2_are_refused_with_the_step_that_is_left() {
        let refused = |files: &[&str], link: Option<(&str, &str)>| {
            let (dir, root) = root(files);
            if let Some((at, target)) = link {
                let at = dir.path().join(at.trim_start_matches('/'));
                std::fs::create_dir_all(at.parent().unwrap()).unwrap();
                std::os::unix::fs::symlink(target, at).unwrap();
            }
            find(Engine::Containerd, &root, &Session::default(), None)
                .unwrap_err()
                .to_string()
        };
        let name = "/usr/bin/nvidia-container-runtime";
        let nothing = refused(&["/usr/local/bin/k3s"], None);
        assert!(
            nothing.contains(&format!("link {name} to nvoci; then `systemctl restart k3s`")),
            "{nothing}"
        );
        let own = refused(
            &[
                "/etc/rancher/k3s/config.yaml",
                "/etc/systemd/system/k3s-agent.service",
                "/usr/bin/nvoci",
            ],
            Some((name, "/usr/bin/nvoci")),
        );
        assert!(own.contains("nothing is left to register"), "{own}");
        assert!(
            own.contains("fix: `systemctl restart k3s-agent`; pods name"),
            "{own}"
        );
        let vendors = refused(&["/opt/rke2/bin/rke2", name, "/usr/bin/nvoci"], None);
        assert!(vendors.contains("containerd of RKE2"), "{vendors}");
        assert!(vendors.contains("`nvoci-alternatives choose nvoci`"), "{vendors}");
        assert!(
            vendors.contains("then `systemctl restart rke2-server`"),
            "{vendors}"
        );
        // The operator's directory comes first in k3s's search.
        let operators = "/usr/local/nvidia/toolkit/nvidia-container-runtime";
        let both = refused(
            &["/var/lib/rancher/k3s/x", operators, "/usr/bin/nvoci"],
            Some((name, "nvoci")),
        );
        assert!(both.contains(&format!("replace {operators}")), "{both}");
        // The DaemonSet's prefix, and toolkit.sh's directory.
        for (program, target) in [
            ("/data/nvoci/bin/nvoci", "/data/nvoci/bin/nvoci"),
            ("/usr/local/nvidia/toolkit/nvoci", "nvoci"),
        ] {
            let own = refused(&["/var/lib/rancher/k3s/x", program], Some((operators, target)));
            assert!(own.contains("nothing is left to register"), "{own}");
        }
        // A program that an earlier distribution left.
        let rke2 = refused(
            &[
                "/usr/local/bin/k3s",
                "/usr/local/lib/systemd/system/rke2-server.service",
            ],
            None,
        );
        assert!(rke2.contains("`systemctl restart rke2-server`"), "{rke2}");
        let agent = refused(&["/opt/bin/k3s", "/etc/systemd/system/k3s-agent.service"], None);
        assert!(agent.contains("`systemctl restart k3s-agent`"), "{agent}");
    }

    #[test]
    fn a_removal_needs_no_engine() {
        let config = |engine: Engine, files: &[&str], session: &Session| {
            let (_dir, root) = root(files);
            find_registered(engine, &root, session, None).map(|p| p.config)
        };
        for (engine, file) in [
            (Engine::Docker, "/snap/docker/current/bin/dockerd"),
            (Engine::Containerd, "/var/lib/rancher/k3s/x"),
        ] {
            let found = config(engine, &[file], &Session::default());
            assert_eq!(found.unwrap(), Path::new(usual(engine)));
        }
        let found = config(Engine::Docker, &["/run/docker.sock"], &user(false));
        assert_eq!(found.unwrap(), Path::new("/h/.config/docker/daemon.json"));
        assert!(config(Engine::Crio, &[], &user(false)).is_err());
    }

    #[test]
    fn a_second_containerd_is_named() {
        let (_dir, root) = root(&["/usr/bin/containerd", "/var/lib/rancher/k3s/x", MICROK8S]);
        let place = find(Engine::Containerd, &root, &Session::default(), None).unwrap();
        assert_eq!(place.config, Path::new("/etc/containerd/config.toml"));
        let [k3s, microk8s] = place.notes.as_slice() else {
            panic!("{:?}", place.notes);
        };
        assert!(k3s.starts_with("containerd of k3s is another: "), "{k3s}");
        assert!(microk8s.contains(MICROK8S), "{microk8s}");
        // A data directory of its own.
        let generated = Path::new("/data/k3s/agent/etc/containerd/config.toml");
        let found = find(Engine::Containerd, &root, &Session::default(), Some(generated));
        assert!(found.unwrap_err().why().contains("at every start"));
        // Also where nothing else shows k3s.
        let (_dir, root) = self::root(&[]);
        let found = find(Engine::Containerd, &root, &Session::default(), Some(generated));
        assert!(found.unwrap_err().why().contains("at every start"));
    }

    #[test]
    fn an_engine_that_is_not_there_is_noted() {
        let live = Session {
            live: true,
            user: None,
        };
        for (engine, program) in [
            (Engine::Crio, "/usr/bin/crio"),
            (Engine::Podman, "/usr/bin/podman"),
        ] {
            let notes = |files: &[&str]| {
                let (_dir, root) = root(files);
                find(engine, &root, &live, None).unwrap().notes
            };
            assert_eq!(notes(&[]).len(), 1, "{program}");
            assert!(notes(&[program]).is_empty(), "{program}");
        }
    }
}
