//! Runs each check on a test engine with the fault, and on one without it.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::daemon::{Daemon, Program, of_snap};
use super::docker::Docker;
use super::*;
use crate::doctor::Check;
use crate::engine::flags::{Flags, Running};
use crate::sys::daemon as process;

/// A root with nvoci under its names, and another's program.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        machine.program("usr/bin/nvoci");
        machine.program("usr/bin/vendor");
        machine.link("usr/bin/nvoci-runtime");
        machine.link("usr/bin/nvidia-container-runtime-hook");
        machine
    }

    fn file(&self, path: &str, text: &str) {
        let at = self.0.path().join(path);
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::write(at, text).unwrap();
    }

    fn program(&self, path: &str) {
        self.file(path, "#!");
        std::fs::set_permissions(self.0.path().join(path), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn link(&self, path: &str) {
        symlink("nvoci", self.0.path().join(path)).unwrap();
    }

    fn root(&self) -> Root {
        Root::open(self.0.path()).unwrap()
    }

    fn daemon(&self) -> Daemon {
        Daemon {
            running: Running {
                process: process::Daemon::made_up(0, &[]),
                flags: Flags::default(),
            },
            path: Some("/usr/sbin:/usr/bin".to_owned()),
            nvidia: Vec::new(),
            started: SystemTime::now().checked_add(Duration::from_secs(60)),
            nofile: Some(1024),
            root: Some(self.root()),
        }
    }

    /// A Docker without faults.
    fn docker(&self) -> Docker {
        let daemon = self.daemon();
        Docker {
            hook: daemon.program("nvidia-container-runtime-hook"),
            cdi_hook: None,
            info: Some(Ok(info())),
            file: "/etc/docker/daemon.json".into(),
            config: Some(Ok(
                json!({"runtimes": {"nvidia": {"path": "/usr/bin/nvoci-runtime"}}}),
            )),
            daemon: Some(daemon),
            context: None,
            specs: true,
            root: Some(self.root()),
        }
    }
}

fn info() -> Value {
    json!({
        "ServerVersion": "28.5.2+dfsg1", "CgroupDriver": "systemd", "DefaultRuntime": "runc",
        "Runtimes": {"runc": {"path": "runc"}, "nvidia": {"path": "/usr/bin/nvoci-runtime"}},
        "CDISpecDirs": ["/etc/cdi"], "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=all"}],
    })
}

fn worst(found: &[Finding], check: &Check) -> Option<Severity> {
    found
        .iter()
        .filter(|f| f.check == check)
        .map(|f| f.severity)
        .max()
}

fn changed(change: impl FnOnce(&mut Docker)) -> Vec<Finding> {
    let machine = Machine::new();
    let mut docker = machine.docker();
    change(&mut docker);
    docker.judge()
}

fn with_info(change: impl FnOnce(&mut Value)) -> Vec<Finding> {
    changed(|d| {
        let mut info = info();
        change(&mut info);
        d.info = Some(Ok(info));
    })
}

#[test]
fn a_healthy_docker_is_well() {
    let found = changed(|_| {});
    assert!(found.iter().all(|f| f.severity == Severity::Ok), "{found:?}");
    let ways = &found.iter().find(|f| f.check == &WAYS).unwrap().cause;
    assert_eq!(
        ways,
        "ways to a GPU: --runtime nvidia (nvoci), --gpus (nvoci), --device nvidia.com/gpu=…"
    );
}

#[test]
fn a_file_newer_than_the_daemon_needs_a_reload() {
    let found = with_info(|i| i["Runtimes"] = json!({"runc": {"path": "runc"}}));
    let restart = found.iter().find(|f| f.check == &RESTART).unwrap();
    assert!(
        restart.severity == Severity::Fail && restart.fix.contains("reload"),
        "{restart:?}"
    );
    let found = with_info(|i| i["Runtimes"]["nvidia"]["path"] = json!("/usr/bin/vendor"));
    assert_eq!(worst(&found, &RESTART), Some(Severity::Fail));
    let found = changed(|d| d.config = Some(Ok(json!({"features": {"cdi": false}}))));
    assert_eq!(worst(&found, &RESTART), Some(Severity::Warn));
    let found = changed(|d| d.config = Some(Ok(json!({"default-runtime": "nvidia"}))));
    assert_eq!(worst(&found, &DEFAULT), Some(Severity::Warn));
    let found = changed(|d| d.config = Some(Err("line 3".to_owned())));
    assert_eq!(worst(&found, &FILE), Some(Severity::Fail));
}

#[test]
fn a_runtime_must_be_a_program() {
    let found = with_info(|i| i["Runtimes"]["old"] = json!({"path": "/usr/bin/nvidia-container-runtime"}));
    assert_eq!(worst(&found, &RUNTIME), Some(Severity::Fail));
}

#[test]
fn the_gpus_flag_needs_a_name_on_the_path_before_the_daemon_starts() {
    let found = changed(|d| d.hook = None);
    assert_eq!(worst(&found, &GPUS_FLAG), Some(Severity::Warn));
    let found = changed(|d| d.hook.as_mut().unwrap().newer = true);
    assert_eq!(worst(&found, &RESTART), Some(Severity::Warn));
    assert_eq!(worst(&found, &GPUS_FLAG), None);
    let machine = Machine::new();
    let mut daemon = machine.daemon();
    assert!(!daemon.program("nvidia-container-runtime-hook").unwrap().newer);
    daemon.started = SystemTime::now().checked_sub(Duration::from_secs(3600));
    assert!(daemon.program("nvidia-container-runtime-hook").unwrap().newer);
    daemon.path = Some("/opt".to_owned());
    assert!(daemon.program("nvidia-container-runtime-hook").is_none());
}

#[test]
fn cdi_off_unknown_or_promised_without_a_specification() {
    let found = with_info(|i| i["CDISpecDirs"] = json!([]));
    assert_eq!(worst(&found, &CDI), Some(Severity::Info));
    let found = with_info(|i| i["DiscoveredDevices"] = json!([]));
    assert_eq!(worst(&found, &CDI), Some(Severity::Warn));
    let ours = |newer| Program {
        path: "/usr/bin/nvidia-cdi-hook".into(),
        whose: Whose::Ours,
        newer,
    };
    let found = changed(|d| {
        let mut info = info();
        info["ServerVersion"] = json!("29.2.0");
        (d.info, d.cdi_hook, d.specs) = (Some(Ok(info)), Some(ours(false)), false);
    });
    assert_eq!(worst(&found, &CDI_NAME), Some(Severity::Fail));
    // Before 29.2 Docker does not use the name.
    let found = changed(|d| (d.cdi_hook, d.specs) = (Some(ours(false)), false));
    assert_eq!(worst(&found, &CDI_NAME), None);
}

#[test]
fn two_toolkits_and_a_hook_without_systemd() {
    let theirs = |d: &mut Docker| d.hook.as_mut().unwrap().whose = Whose::Theirs;
    let found = changed(theirs);
    assert_eq!(worst(&found, &DOUBLE), Some(Severity::Warn));
    assert_eq!(worst(&found, &RELOAD), Some(Severity::Warn));
    let found = changed(|d| {
        theirs(d);
        let mut info = info();
        info["CgroupDriver"] = json!("cgroupfs");
        d.info = Some(Ok(info));
    });
    assert_eq!(worst(&found, &RELOAD), None);
}

#[test]
fn which_docker_it_is() {
    let snap = [of_snap(Engine::Docker, "/snap/docker/1/bin/dockerd")];
    assert_eq!(worst(&snap, &SNAP), Some(Severity::Fail));
    let found = changed(|d| d.daemon.as_mut().unwrap().running.process.uid = 1000);
    assert_eq!(worst(&found, &ROOTLESS), Some(Severity::Info));
    let found = changed(|d| d.context = Some("remote".to_owned()));
    assert_eq!(worst(&found, &CONTEXT), Some(Severity::Warn));
    let found = changed(|d| d.context = Some("desktop-linux".to_owned()));
    assert_eq!(
        (worst(&found, &DESKTOP), worst(&found, &CONTEXT)),
        (Some(Severity::Warn), None)
    );
    let found = with_info(|i| i["OperatingSystem"] = json!("Docker Desktop"));
    assert_eq!(worst(&found, &DESKTOP), Some(Severity::Warn));
    let found = changed(|d| d.info = Some(Err("no".to_owned())));
    assert_eq!(worst(&found, &SILENT), Some(Severity::Info));
    assert_eq!(
        worst(&changed(|d| d.daemon = None), &STOPPED),
        Some(Severity::Info)
    );
}

#[test]
fn the_daemons_own_surroundings() {
    let found =
        changed(|d| d.daemon.as_mut().unwrap().nvidia = vec!["NVIDIA_VISIBLE_DEVICES=all".to_owned()]);
    assert_eq!(worst(&found, &ENVIRONMENT), Some(Severity::Warn));
    let found = changed(|d| d.daemon.as_mut().unwrap().nofile = Some(1 << 30));
    assert_eq!(worst(&found, &NOFILE), Some(Severity::Info));
}

#[test]
fn an_engine_without_any_way_is_reported() {
    let found = changed(|d| {
        d.info = Some(Ok(
            json!({"ServerVersion": "20.10.24", "Runtimes": {"runc": {"path": "runc"}}}),
        ));
        (d.hook, d.specs, d.config) = (None, false, Some(Ok(Value::Null)));
    });
    assert_eq!(worst(&found, &UNKNOWN), Some(Severity::Warn));
}

const HOOKS: &str = "usr/share/containers/oci/hooks.d";

fn hook(program: &str) -> String {
    json!({"version": "1.0.0", "hook": {"path": program}, "when": {"always": true}, "stages": ["createContainer"]}).to_string()
}

#[test]
fn podmans_hooks_and_runtimes() {
    let machine = Machine::new();
    let judge = |specs| podman::judge(&machine.root(), None, specs);
    assert_eq!(worst(&judge(false), &UNKNOWN), Some(Severity::Warn));
    assert_eq!(worst(&judge(false), &CDI), Some(Severity::Info));
    machine.file(&format!("{HOOKS}/oci-nvoci.json"), &hook("/usr/bin/nvoci"));
    let well = judge(true);
    assert!(well.iter().all(|f| f.severity == Severity::Ok), "{well:?}");
    machine.program("usr/bin/nvidia-hook");
    machine.file(
        &format!("{HOOKS}/oci-nvidia-hook.json"),
        &hook("/usr/bin/nvidia-hook"),
    );
    assert_eq!(worst(&judge(true), &DOUBLE), Some(Severity::Warn));
    machine.file(&format!("{HOOKS}/oci-nvidia-hook.json"), &hook("/usr/bin/gone"));
    let found = judge(true);
    assert_eq!(
        (worst(&found, &HOOK), worst(&found, &DOUBLE)),
        (Some(Severity::Warn), None)
    );
    machine.file("usr/bin/gone", "no program");
    assert_eq!(worst(&judge(true), &HOOK), Some(Severity::Fail));
    std::fs::remove_file(machine.0.path().join(HOOKS).join("oci-nvidia-hook.json")).unwrap();

    machine.file(
        "etc/containers/containers.conf",
        "[engine]\nhooks_dir = [\"/opt/hooks\"]\nruntime = \"nvidia\"\n",
    );
    let found = judge(true);
    assert_eq!(
        (worst(&found, &HOOK), worst(&found, &DEFAULT)),
        (Some(Severity::Info), Some(Severity::Fail))
    );
    machine.file(
        "etc/containers/containers.conf.d/50.conf",
        "[engine.runtimes]\nnvidia = [\"/usr/bin/gone\"]\n",
    );
    let found = judge(true);
    assert_eq!(
        (worst(&found, &RUNTIME), worst(&found, &DEFAULT)),
        (Some(Severity::Fail), None)
    );
    machine.file("etc/containers/containers.conf.d/50.conf", "[engine");
    assert_eq!(worst(&judge(true), &FILE), Some(Severity::Fail));
}

#[test]
fn rootless_podman_reads_no_hooks() {
    let machine = Machine::new();
    machine.file(&format!("{HOOKS}/oci-nvoci.json"), &hook("/usr/bin/nvoci"));
    let found = podman::judge(&machine.root(), Some(Path::new("/home/u")), true);
    assert_eq!(worst(&found, &ROOTLESS), Some(Severity::Info));
    let found = podman::judge(&machine.root(), None, true);
    assert_eq!(worst(&found, &ROOTLESS), None);
}

#[test]
fn containerds_runtimes() {
    let machine = Machine::new();
    let main = Path::new("/etc/containerd/config.toml");
    let judge = || containerd::judge(&machine.root(), main, Some(&machine.daemon()), true);
    let config = |default: &str, binary: &str, systemd: bool| {
        format!(
            "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd]\ndefault_runtime_name = \"{default}\"\n\
             [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\nSystemdCgroup = true\n\
             [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.nvidia.options]\nBinaryName = \"{binary}\"\nSystemdCgroup = {systemd}\n"
        )
    };
    machine.file(
        "etc/containerd/config.toml",
        &config("runc", "/usr/bin/nvoci-runtime", true),
    );
    let well = judge();
    assert!(well.iter().all(|f| f.severity == Severity::Ok), "{well:?}");
    machine.file(
        "etc/containerd/config.toml",
        &config("runc", "/usr/bin/nvoci-runtime", false),
    );
    assert_eq!(worst(&judge(), &CGROUP_DRIVER), Some(Severity::Warn));
    machine.file(
        "etc/containerd/config.toml",
        &config("gone", "/usr/bin/gone", true),
    );
    assert_eq!(
        (worst(&judge(), &RUNTIME), worst(&judge(), &DEFAULT)),
        (Some(Severity::Fail), Some(Severity::Fail))
    );
    let mut old = machine.daemon();
    old.started = SystemTime::now().checked_sub(Duration::from_secs(3600));
    let found = containerd::judge(&machine.root(), main, Some(&old), true);
    assert_eq!(worst(&found, &RESTART), Some(Severity::Warn));
    machine.file("etc/containerd/config.toml", "version = 2\n");
    let found = containerd::judge(&machine.root(), main, None, true);
    assert_eq!(
        (worst(&found, &CDI), worst(&found, &STOPPED)),
        (Some(Severity::Info), Some(Severity::Info))
    );
    assert_eq!(worst(&found, &UNKNOWN), Some(Severity::Info));
    machine.file("etc/containerd/config.toml", "version = [");
    assert_eq!(worst(&judge(), &FILE), Some(Severity::Fail));
}

#[test]
fn crios_runtimes() {
    let machine = Machine::new();
    let judge = |daemon: Option<&Daemon>| crio::judge(&machine.root(), daemon, false);
    assert_eq!(worst(&judge(None), &UNKNOWN), Some(Severity::Warn));
    assert_eq!(worst(&judge(None), &STOPPED), Some(Severity::Info));
    let file = "etc/crio/crio.conf.d/99-nvoci.conf";
    machine.file(file, "[crio.runtime]\ndefault_runtime = \"nvidia\"\n[crio.runtime.runtimes.nvidia]\nruntime_path = \"/usr/bin/nvoci-runtime\"\n");
    let well = judge(Some(&machine.daemon()));
    assert!(well.iter().all(|f| f.severity == Severity::Ok), "{well:?}");
    machine.file(file, "[crio.runtime]\ndefault_runtime = \"nvidia\"\n[crio.runtime.runtimes.other]\nruntime_path = \"/usr/bin/gone\"\n");
    let found = judge(Some(&machine.daemon()));
    assert_eq!(
        (worst(&found, &RUNTIME), worst(&found, &DEFAULT)),
        (Some(Severity::Fail), Some(Severity::Fail))
    );
    let mut old = machine.daemon();
    old.started = SystemTime::now().checked_sub(Duration::from_secs(3600));
    assert_eq!(worst(&judge(Some(&old)), &RESTART), Some(Severity::Warn));
    machine.file(file, "[crio");
    assert_eq!(worst(&judge(None), &FILE), Some(Severity::Fail));
}
