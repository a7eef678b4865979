//! Specifications of recorded and made-up hosts beside the vendor's, registries, checks and edits.
//!
//! `tests/cdi/vendor` has the output of `nvidia-ctk cdi generate` 1.20: over a made-up root
//! (`{{root}}`), and on an H100 host with driver 580.

mod format;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::explicit::{Mode, explicit};
use super::generate::{Explicit, Naming, Options, dynamic};
use super::read::{self, Format};
use super::registry::{Registry, Standing, Trust};
use super::types::{CdiSpec, DeviceNode, Edits, Hook, Mount};
use super::validate::Valid;
use super::version::Version;
use super::{check, edit, emit, transform};
use crate::error::{Code, Result};
use crate::host::testhost::TestHost;
use crate::oci::{Spec, Stage};
use crate::request::CdiName;
use crate::sys::budget::Budget;

fn parse(bytes: &[u8], format: Format, name: &str) -> Result<CdiSpec> {
    read::parse(bytes, format, name, &Budget::default())
}

fn vendors(name: &str, root: &Path) -> CdiSpec {
    let at = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/cdi/vendor")
        .join(name);
    let text = fs::read_to_string(at)
        .unwrap()
        .replace("{{root}}", &root.display().to_string());
    parse(text.as_bytes(), Format::Yaml, name).unwrap()
}

fn options() -> Options {
    Options {
        kind: "nvidia.com/gpu".to_owned(),
        naming: vec![Naming::Index, Naming::Uuid],
        all: true,
        hook_path: "/usr/bin/nvidia-cdi-hook".to_owned(),
        additional_gids: true,
        ids: Vec::new(),
        explicit: Explicit::default(),
        extra: Vec::new(),
    }
}

fn made(host: &TestHost, mode: Mode) -> CdiSpec {
    explicit(&host.discover(), &host.roots(), &options(), mode)
        .unwrap()
        .0
}

/// The recorded H100 host; `None` where this process may not make device nodes.
fn h100() -> Option<TestHost> {
    let host = TestHost::recorded("h100-580");
    let nodes = [
        ("nvidia0", 195, 0, 0o666),
        ("nvidiactl", 195, 255, 0o666),
        ("nvidia-uvm", 238, 0, 0o666),
        ("nvidia-uvm-tools", 238, 1, 0o666),
        ("nvidia-caps/nvidia-cap1", 241, 1, 0o400),
        ("nvidia-caps/nvidia-cap2", 241, 2, 0o444),
    ];
    nodes
        .iter()
        .all(|(path, major, minor, mode)| host.device(path, *major, *minor, *mode))
        .then_some(host)
}

/// The made-up root of the other goldens, made from the files that they name.
fn made_up() -> Option<(TestHost, Vec<UnixListener>)> {
    let host = TestHost::bare();
    let golden = vendors("nvml.yaml", host.path());
    host.module("570.10.20", 0);
    host.file(
        "proc/devices",
        "Character devices:\n195 nvidia\n226 drm\n231 infiniband_verbs\n504 nvidia-nvswitch\n505 gdrdrv\n\
         506 nvidia-fs\n507 nvidia-caps-imex-channels\n508 nvidia-uvm\n511 nvidia-caps\n\nBlock devices:\n",
    );
    for (minor, digit) in ['1', '2'].into_iter().enumerate() {
        let of = |n: usize| digit.to_string().repeat(n);
        host.file(
            &format!("proc/driver/nvidia/gpus/0000:0{digit}:00.0/information"),
            format!(
                "Model: \t\t NVIDIA\nGPU UUID: \t GPU-{}-{}-{}-{}-{}\nBus Location: \t 0000:0{digit}:00.0\n\
                 Device Minor: \t {minor}\nGPU Excluded:\t No\n",
                of(8),
                of(4),
                of(4),
                of(4),
                of(12)
            ),
        );
    }
    for (name, minor, mode) in [("config", 1, 256), ("monitor", 2, 292)] {
        host.file(
            &format!("proc/driver/nvidia/capabilities/mig/{name}"),
            format!("DeviceFileMinor: {minor}\nDeviceFileMode: {mode}\nDeviceFileModify: 1\n"),
        );
    }
    host.file("proc/driver/nvidia-caps/mig-minors", "config 1\nmonitor 2\n");

    let links = link_set(&golden);
    let mut sockets = Vec::new();
    for mount in &golden.edits.mounts {
        let below = Path::new(&mount.host_path).strip_prefix(host.path()).unwrap();
        let (path, name) = (
            below.to_str().unwrap(),
            below.file_name().unwrap().to_str().unwrap(),
        );
        if name == "socket" {
            fs::create_dir_all(host.path().join(below).parent().unwrap()).unwrap();
            sockets.push(UnixListener::bind(host.path().join(below)).unwrap());
        } else if name.contains(".so") {
            // The vendor's tool links a soname only where the host has that link.
            let soname = links.iter().find_map(|l| {
                let at = l.strip_prefix(&format!("{name}::/usr/lib/x86_64-linux-gnu/"))?;
                (at.contains(".so.") && !at.contains("indirect")).then(|| at.to_owned())
            });
            host.library(path, soname.as_deref(), 64);
        } else if path.contains("/bin/") {
            host.library(path, None, 64);
        } else {
            host.file(path, "x");
        }
    }
    host.file("etc/cufile.json", "{}");
    fs::create_dir_all(host.path().join("run/udev/data")).unwrap();
    let nodes = [
        ("nvidia0", 195, 0, 0o666),
        ("nvidia1", 195, 1, 0o666),
        ("nvidiactl", 195, 255, 0o666),
        ("nvidia-modeset", 195, 254, 0o666),
        ("nvidia-uvm", 508, 0, 0o666),
        ("nvidia-uvm-tools", 508, 1, 0o666),
        ("nvidia-caps/nvidia-cap1", 511, 1, 0o400),
        ("nvidia-caps/nvidia-cap2", 511, 2, 0o444),
        ("nvidia-caps-imex-channels/channel0", 507, 0, 0o666),
        ("nvidia-caps-imex-channels/channel7", 507, 7, 0o666),
        ("nvidia-fs0", 506, 0, 0o644),
        ("gdrdrv", 505, 0, 0o600),
        ("nvidia-nvswitch0", 504, 0, 0o644),
        ("nvidia-nvswitchctl", 504, 255, 0o644),
        ("infiniband/uverbs0", 231, 192, 0o660),
        ("infiniband/rdma_cm", 10, 60, 0o666),
    ];
    nodes
        .iter()
        .all(|(path, major, minor, mode)| host.device(path, *major, *minor, *mode))
        .then_some((host, sockets))
}

/// Every link of every create-symlinks hook, as it is on the command line.
fn link_set(spec: &CdiSpec) -> BTreeSet<String> {
    let hooks = spec
        .edits
        .hooks
        .iter()
        .filter(|h| h.args.iter().any(|a| a == "create-symlinks"));
    hooks
        .flat_map(|h| h.args.iter().filter(|a| a.contains("::")).cloned())
        .collect()
}

/// The other hooks, with their arguments.
fn other_hooks(spec: &CdiSpec) -> Vec<&Hook> {
    let links = |h: &&Hook| h.args.iter().all(|a| a != "create-symlinks");
    spec.edits.hooks.iter().filter(links).collect()
}

fn mount_set(spec: &CdiSpec) -> BTreeSet<(String, String, String)> {
    let one = |m: &Mount| (m.host_path.clone(), m.container_path.clone(), m.options.join(","));
    spec.edits.mounts.iter().map(one).collect()
}

/// Asserts that two sets differ in exactly what is listed: only ours, only the vendor's.
fn differ(what: &str, ours: &BTreeSet<String>, theirs: &BTreeSet<String>, plus: &[&str], minus: &[&str]) {
    let set = |list: &[&str]| list.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    assert_eq!(ours - theirs, set(plus), "{what}: only ours");
    assert_eq!(theirs - ours, set(minus), "{what}: only the vendor's");
}

#[test]
fn h100_is_the_vendors_specification() {
    let Some(host) = h100() else { return };
    let mut ours = made(&host, Mode::Gpus);
    // The vendor's was made where the driver's root is the host's.
    transform::root(&mut ours, host.path(), Path::new(""), transform::Side::Host);
    let theirs = vendors("h100-nvml.yaml", Path::new(""));
    assert_eq!(ours.devices, theirs.devices);
    assert_eq!(ours.edits.device_nodes, theirs.edits.device_nodes);
    assert_eq!(ours.edits.env, theirs.edits.env);
    assert_eq!(ours.version, theirs.version);
    assert_eq!(other_hooks(&ours), other_hooks(&theirs));
    assert_eq!(link_set(&ours), link_set(&theirs));

    let shown = |spec: &CdiSpec| {
        let mounts = mount_set(spec);
        mounts
            .into_iter()
            .map(|(host, container, options)| format!("{host} {container} {options}"))
            .collect::<BTreeSet<_>>()
    };
    let share = "ro,nosuid,nodev,rbind,rprivate";
    let line = |host: &str, container: &str| format!("{host} {container} {share}");
    let plus = [
        // This driver has its files beside its libraries, and those in /usr/share may be another
        // driver's remains. (Here both are the same text, and the recorded tree has only the
        // first.)
        line(
            "/usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json",
            "/etc/vulkan/icd.d/nvidia_icd.json",
        ),
        line(
            "/usr/local/nvidia/share/glvnd/egl_vendor.d/10_nvidia.json",
            "/usr/share/glvnd/egl_vendor.d/10_nvidia.json",
        ),
        // The vendor's tool does not search for the layers beside the libraries.
        line(
            "/usr/local/nvidia/share/vulkan/implicit_layer.d/nvidia_layers.json",
            "/etc/vulkan/implicit_layer.d/nvidia_layers.json",
        ),
    ];
    let minus = [
        line(
            "/usr/share/vulkan/icd.d/nvidia_icd.json",
            "/etc/vulkan/icd.d/nvidia_icd.json",
        ),
        line(
            "/usr/share/glvnd/egl_vendor.d/10_nvidia.json",
            "/usr/share/glvnd/egl_vendor.d/10_nvidia.json",
        ),
    ];
    differ(
        "mounts",
        &shown(&ours),
        &shown(&theirs),
        &plus.each_ref().map(String::as_str),
        &minus.each_ref().map(String::as_str),
    );
}

#[test]
fn h100_is_managed_as_by_the_vendors_specification() {
    let Some(host) = h100() else { return };
    let mut ours = made(&host, Mode::Management);
    transform::root(&mut ours, host.path(), Path::new(""), transform::Side::Host);
    let theirs = vendors("h100-management.yaml", Path::new(""));
    assert_eq!(ours.devices, theirs.devices);
    assert_eq!(ours.edits.env, theirs.edits.env);
    assert_eq!(other_hooks(&ours), other_hooks(&theirs));
    assert_eq!(link_set(&ours), link_set(&theirs));
    assert_eq!(mount_set(&ours), mount_set(&theirs));
    // Without the test's own root it needs no more than the vendor's.
    assert_eq!(Version::needed_by(&ours), theirs.version);
}

#[test]
fn a_whole_desktop_driver_is_the_vendors_specification() {
    let Some((host, _sockets)) = made_up() else { return };
    let ours = made(&host, Mode::Gpus);
    let theirs = vendors("nvml.yaml", host.path());
    assert_eq!(ours.devices, theirs.devices);
    assert_eq!(ours.edits.device_nodes, theirs.edits.device_nodes);
    assert_eq!(ours.edits.env, theirs.edits.env);
    assert_eq!(mount_set(&ours), mount_set(&theirs));
    assert_eq!(link_set(&ours), link_set(&theirs));
    assert_eq!(other_hooks(&ours), other_hooks(&theirs));
    assert_eq!(ours.version, theirs.version);
}

#[test]
fn the_other_modes_are_the_vendors() {
    let Some((host, _sockets)) = made_up() else { return };
    for (name, mode) in [
        ("gds.yaml", Mode::Gds),
        ("gdrcopy.yaml", Mode::Gdrcopy),
        ("nvswitch.yaml", Mode::Nvswitch),
        ("imex.yaml", Mode::Imex),
    ] {
        let (ours, mut theirs) = (made(&host, mode), vendors(name, host.path()));
        // The vendor's has the whole of /run/udev, with the control socket of udevd.
        let mounts = theirs.devices.iter_mut().flat_map(|d| &mut d.edits.mounts);
        for mount in mounts.filter(|m| m.container_path == "/run/udev") {
            mount.host_path += "/data";
            mount.container_path += "/data";
        }
        assert_eq!(ours.devices, theirs.devices, "{name}");
        assert_eq!(ours.edits, theirs.edits, "{name}");
        assert_eq!(ours.version, theirs.version, "{name}");
    }
    // The made-up root's node belonged to a group.
    let chown = rustix::fs::chown(
        host.path().join("dev/infiniband/uverbs0"),
        None,
        Some(rustix::fs::Gid::from_raw(27)),
    );
    assert!(chown.is_ok());
    assert_eq!(made(&host, Mode::Mofed), vendors("mofed.yaml", host.path()));

    let (ours, theirs) = (
        made(&host, Mode::Management),
        vendors("management.yaml", host.path()),
    );
    assert_eq!(ours.devices, theirs.devices);
    assert_eq!(mount_set(&ours), mount_set(&theirs));
    assert_eq!(link_set(&ours), link_set(&theirs));
    assert_eq!(other_hooks(&ours), other_hooks(&theirs));
}

#[test]
fn the_dynamic_form_names_no_file_no_version_and_no_number() {
    let Some(host) = h100() else { return };
    let mut options = options();
    options.hook_path = "/usr/bin/nvoci".to_owned();
    options.additional_gids = false;
    let mut spec = dynamic(&host.discover(), &host.roots(), &options);
    transform::root(&mut spec, host.path(), Path::new(""), transform::Side::Host);
    let names: Vec<&str> = spec.devices.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(names, ["0", "GPU-fff409e8-6d09-4804-74aa-d9624af686c0", "all"]);
    let text = emit::yaml(&Valid::of(spec.clone()).unwrap());
    for word in ["580", "lib", "major", "minor", "195", "mounts"] {
        assert!(!text.contains(word), "{word} in\n{text}");
    }
    assert!(text.starts_with("---\ncdiVersion: \"0.5.0\"\nkind: nvidia.com/gpu\ndevices:\n- name: \"0\"\n"));
    let [hook] = spec.edits.hooks.as_slice() else {
        panic!("{text}");
    };
    assert_eq!(hook.path, "/usr/bin/nvoci");
    assert_eq!(
        hook.args,
        ["nvoci", "hook", "--cdi", "--devices-in-spec", "createRuntime"]
    );
    assert!(!hook.env.is_empty());
    assert_eq!(spec.edits.env, ["NVIDIA_VISIBLE_DEVICES=void"]);
}

#[test]
fn before_there_is_a_driver_all_is_the_hook_alone() {
    let host = TestHost::bare();
    let spec = dynamic(&host.discover(), &host.roots(), &options());
    super::validate::validate(&spec).unwrap();
    assert_eq!(spec.version, Version::V0_3);
    let [device] = spec.devices.as_slice() else {
        panic!("{spec:?}");
    };
    assert_eq!(device.name, "all");
    assert_eq!(
        device.edits.hooks[0].args,
        ["nvoci", "hook", "--cdi", "--devices", "all", "createRuntime"]
    );
    let refused = explicit(&host.discover(), &host.roots(), &options(), Mode::Gpus).unwrap_err();
    assert_eq!(refused.code(), Code::NoDriver);
}

#[test]
fn only_the_requested_devices_are_named() {
    let host = TestHost::bare();
    host.module("550.1.2", 3);
    for minor in 0..3 {
        host.device(&format!("nvidia{minor}"), 195, minor, 0o666);
    }
    let found = host.discover();
    let uuid = found.gpus[1].uuid.unwrap().to_string();
    let named = |ids: &[&str]| {
        let options = Options {
            ids: ids.iter().map(|i| (*i).to_owned()).collect(),
            all: !ids.contains(&"none"),
            ..options()
        };
        assert_eq!(options.unknown_id(&found), None, "{ids:?}");
        let spec = dynamic(&found, &host.roots(), &options);
        super::validate::validate(&spec).unwrap();
        spec.devices
    };
    let names = |ids: &[&str]| -> Vec<String> { named(ids).into_iter().map(|d| d.name).collect() };
    assert_eq!(names(&["2"]).len(), 3);
    assert_eq!(names(&["2"])[0], "2");
    assert_eq!(names(&["0", &uuid])[..2], ["0", "1"]);
    let none = named(&["none"]);
    assert_eq!(none.len(), 1);
    assert_eq!(
        (none[0].name.as_str(), none[0].edits.env.as_slice()),
        ("none", &["NVCT_EMPTY_DEVICE=".to_owned()][..])
    );
    assert!(none[0].edits.device_nodes.is_empty());
    for id in ["3", "0:0", "GPU-", "gpu0"] {
        let options = Options {
            ids: vec![id.to_owned()],
            ..options()
        };
        assert_eq!(options.unknown_id(&found), Some(id));
    }
}

/// toolkit-features 12, quirk 20: `--enable-hook=chmod` gave every device a hook without a path.
#[test]
fn quirk_20_a_requested_hook_has_something_to_do() {
    let Some(host) = h100() else { return };
    let hooks = |explicit_options: Explicit| -> Vec<String> {
        let options = Options {
            explicit: explicit_options,
            ..options()
        };
        let (spec, _) = explicit(&host.discover(), &host.roots(), &options, Mode::Gpus).unwrap();
        let devices = spec.devices.iter().flat_map(|d| &d.edits.hooks);
        let all = devices.chain(&spec.edits.hooks);
        all.map(|h| {
            assert!(
                h.args.len() > 2 || h.args[1].starts_with("disable-") || h.args[1].starts_with("update-app")
            );
            h.args[1].clone()
        })
        .collect()
    };
    let usual = hooks(Explicit::default());
    for name in ["create-symlinks", "enable-cuda-compat", "update-ldcache"] {
        assert!(usual.iter().any(|h| h == name), "{name}");
    }
    assert!(!usual.iter().any(|h| h == "chmod"));
    // No node of this host's GPU is in a directory.
    let with_chmod = hooks(Explicit {
        enabled_hooks: vec!["chmod".to_owned()],
        ..Explicit::default()
    });
    assert_eq!(with_chmod, usual);
    let off = hooks(Explicit {
        disabled_hooks: vec!["all".to_owned()],
        enabled_hooks: vec!["update-ldcache".to_owned()],
        ..Explicit::default()
    });
    assert_eq!(off, ["update-ldcache"]);
}

#[test]
fn mig_devices_are_named_and_their_gpu_is_not() {
    let host = TestHost::bare();
    host.module("550.1.2", 2);
    host.driver(
        "usr/lib64",
        "550.1.2",
        &[("libcuda", "libcuda.so.1"), ("libnvidia-ml", "libnvidia-ml.so.1")],
    );
    for (gi, cis) in [(1, &[0][..]), (2, &[0, 1])] {
        for ci in cis {
            let minor = 10 * gi + ci + 1;
            let dir = format!("proc/driver/nvidia/capabilities/gpu0/mig/gi{gi}");
            let text = |m| format!("DeviceFileMinor: {m}\nDeviceFileMode: 292\nDeviceFileModify: 1\n");
            host.file(&format!("{dir}/access"), text(10 * gi));
            host.file(&format!("{dir}/ci{ci}/access"), text(minor));
            let made = host.device(&format!("nvidia-caps/nvidia-cap{minor}"), 511, minor, 0o444);
            if !made {
                return;
            }
        }
        host.device(&format!("nvidia-caps/nvidia-cap{}", 10 * gi), 511, 10 * gi, 0o444);
    }
    for (path, minor) in [("nvidia0", 0), ("nvidia1", 1), ("nvidiactl", 255)] {
        host.device(path, 195, minor, 0o666);
    }
    let mig = "MIG-abcdef01-0000-0000-0000-000000000000";
    let mut found = host.discover();
    let mut options = options();
    options.naming.push(Naming::TypeIndex);
    found.gpus[0].mig_devices[1].uuid = mig.parse().ok();
    let spec = dynamic(&found, &host.roots(), &options);
    let names: Vec<&str> = spec.devices.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "0:0",
            "0:1",
            "0:2",
            "1",
            "GPU-00000001-0000-0000-0000-000000000000",
            mig,
            "gpu1",
            "mig0:0",
            "mig0:1",
            "mig0:2",
            "all"
        ]
    );
    // By its own name a GPU with MIG devices is given as a whole.
    for (id, wanted) in [("0", vec!["0", "all"]), (mig, vec!["0:1", mig, "all"])] {
        options.naming = vec![Naming::Index, Naming::Uuid];
        options.ids = vec![id.to_owned()];
        let named = dynamic(&found, &host.roots(), &options);
        let named: Vec<&str> = named.devices.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(
            named
                .iter()
                .filter(|n| !n.starts_with("GPU-"))
                .copied()
                .collect::<Vec<_>>(),
            wanted
        );
    }
    let nodes: Vec<&str> = spec.devices[1]
        .edits
        .device_nodes
        .iter()
        .map(|n| n.path.as_str())
        .collect();
    assert_eq!(
        nodes,
        [
            "/dev/nvidia0",
            "/dev/nvidia-caps/nvidia-cap20",
            "/dev/nvidia-caps/nvidia-cap21"
        ]
    );
}

const SMALL: &str =
    "cdiVersion: 0.5.0\nkind: a.b/cd\ndevices:\n- name: 0\n  containerEdits:\n    env: [A=1]\n";

/// Directories of specifications.
struct Dirs {
    top: tempfile::TempDir,
}

impl Dirs {
    fn new(files: &[(&str, &str)]) -> Self {
        let top = tempfile::tempdir_in("/var/lib")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        for dir in ["etc", "run"] {
            fs::create_dir(top.path().join(dir)).unwrap();
        }
        for (name, text) in files {
            fs::write(top.path().join(name), text).unwrap();
        }
        Self { top }
    }

    fn list(&self) -> Vec<PathBuf> {
        ["etc", "run"].iter().map(|d| self.top.path().join(d)).collect()
    }
}

fn with(kind: &str, device: &str, env: &str) -> String {
    SMALL
        .replace("a.b/cd", kind)
        .replace("name: 0", &format!("name: '{device}'"))
        .replace("A=1", env)
}

fn name(text: &str) -> CdiName {
    CdiName::parse(text).unwrap()
}

#[test]
fn later_directories_win_and_equals_are_in_conflict() {
    let dirs = Dirs::new(&[
        ("etc/a.yaml", &with("v.com/gpu", "0", "A=etc")),
        ("etc/b.yaml", &with("v.com/gpu", "1", "A=b")),
        ("etc/c.yaml", &with("v.com/gpu", "1", "A=c")),
        ("etc/d.yml", &with("v.com/gpu", "2", "A=d")),
        ("etc/broken.yaml", "kind: ["),
        ("run/a.yaml", &with("v.com/gpu", "0", "A=run")),
    ]);
    let registry = Registry::load(&dirs.list(), Trust::Anyone, &Budget::default());
    assert_eq!(registry.problems.len(), 1);
    let (_, device) = registry.find(&name("v.com/gpu=0")).unwrap();
    assert_eq!(device.edits.env, ["A=run"]);
    for missing in ["v.com/gpu=1", "v.com/gpu=2", "w.com/gpu=0"] {
        assert!(registry.find(&name(missing)).is_none(), "{missing}");
    }
    assert!(matches!(registry.devices()["v.com/gpu=1"], Standing::Conflict(_)));

    let e = edit::edits_of(
        &registry,
        &[name("v.com/gpu=0"), name("v.com/gpu=7")],
        &dirs.list(),
    )
    .unwrap_err();
    assert_eq!(e.code(), Code::Cdi);
    assert!(
        e.what().ends_with("v.com/gpu=7") && e.why().contains("v.com/gpu=0"),
        "{e}"
    );
    assert!(e.why().contains("broken.yaml was not read"), "{e}");
    let e = edit::edits_of(&registry, &[name("v.com/gpu=1")], &dirs.list()).unwrap_err();
    assert!(e.why().contains("conflict"), "{e}");

    let found = check::check(
        &dirs.list(),
        &[check::Engine::of("podman", "4.3.1").unwrap()],
        &Budget::default(),
    );
    let has = |severity, part: &str| {
        assert!(
            found
                .iter()
                .any(|f| f.severity == severity && f.text.contains(part)),
            "{part}: {found:?}"
        );
    };
    has(check::Severity::Error, "no engine can read it");
    has(check::Severity::Error, "v.com/gpu=1 is in");
    has(check::Severity::Warning, "hidden by");
    has(check::Severity::Warning, ".yaml or .json");
}

#[test]
fn a_specification_of_another_user_is_not_applied() {
    let dirs = Dirs::new(&[("run/a.yaml", &with("v.com/gpu", "0", "A=1"))]);
    fs::set_permissions(
        dirs.top.path().join("run/a.yaml"),
        fs::Permissions::from_mode(0o666),
    )
    .unwrap();
    let registry = Registry::load(&dirs.list(), Trust::Root, &Budget::default());
    assert!(registry.loaded.is_empty());
    assert_eq!(registry.problems[0].1.code(), Code::UnsafeOwner);
    assert_eq!(
        Registry::load(&dirs.list(), Trust::Anyone, &Budget::default())
            .loaded
            .len(),
        1
    );
}

#[test]
fn check_sees_what_the_host_lacks() {
    let text = "cdiVersion: 0.7.0\nkind: v.com/gpu\ndevices:\n- name: x\n  containerEdits:\n    deviceNodes:\n    \
                - {path: /dev/null, major: 1, minor: 9}\n    - {path: /dev/no-such}\n    mounts:\n    \
                - {hostPath: /no/such, containerPath: /x}\n    hooks:\n    \
                - {hookName: createContainer, path: /no/hook}\n    additionalGids: [5]\n";
    let dirs = Dirs::new(&[("run/a.yaml", text)]);
    fs::set_permissions(
        dirs.top.path().join("run/a.yaml"),
        fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    let old = check::Engine::of("podman", "4.9.3").unwrap();
    let found = check::check(&dirs.list(), &[old], &Budget::default());
    let texts: Vec<&str> = found.iter().map(|f| f.text.as_str()).collect();
    let all = texts.join("\n");
    for part in [
        "podman 4.9.3 takes 0.6.0",
        "/dev/null is 1:9, and it is 1:3",
        "/dev/no-such is not on the host",
        "/no/such is not on the host",
        "hook /no/hook is not on the host",
        "no environment",
        "rootless",
    ] {
        assert!(all.contains(part), "{part} in\n{all}");
    }
    let newer = check::Engine::of("podman", "5.8.6").unwrap();
    assert!(newer.takes >= Some(Version::V0_7));
    assert_eq!(check::Engine::of("podman", "3.0.1").unwrap().takes, None);
    assert_eq!(check::Engine::of("emacs", "29"), None);
}

/// toolkit-features 12, quirk 4: the vendor's leaves a variable beside its new value.
#[test]
fn quirk_04_edits_are_applied_as_an_engine_does_but_nothing_twice() {
    let text = "cdiVersion: 0.7.0\nkind: v.com/gpu\ndevices:\n- name: '0'\n  containerEdits:\n    env: [A=new, B=1]\n    \
                deviceNodes: [{path: /dev/mine, hostPath: /dev/null, permissions: rw}, {path: /dev/full, type: c, major: 9}]\n\
                containerEdits:\n  env: [NVIDIA_VISIBLE_DEVICES=void]\n  mounts:\n  \
                - {hostPath: /h, containerPath: /a/b/c, options: [ro, rbind]}\n  - {hostPath: /i, containerPath: /a}\n  \
                hooks: [{hookName: createContainer, path: /bin/true, timeout: 9}]\n  additionalGids: [0, 44]\n";
    let dirs = Dirs::new(&[("run/a.yaml", text)]);
    let registry = Registry::load(&dirs.list(), Trust::Anyone, &Budget::default());
    let edits = edit::edits_of(&registry, &[name("v.com/gpu=0"), name("v.com/gpu=0")], &[]).unwrap();
    let mut spec = Spec::parse(
        br#"{"process":{"env":["A=old","NVIDIA_VISIBLE_DEVICES=all"],"user":{"uid":7,"gid":8}},
            "mounts":[{"destination":"/x/y"},{"destination":"/proc"}]}"#,
    )
    .unwrap();
    edit::apply(&edits, &mut spec).unwrap();
    let env = spec.env();
    let env: Vec<String> = env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(env, ["A=new", "NVIDIA_VISIBLE_DEVICES=void", "B=1"]);
    let devices = spec.linux_devices();
    let shown: Vec<_> = devices
        .iter()
        .map(|d| (d.path.as_str(), d.major, d.minor, d.uid, d.gid))
        .collect();
    assert_eq!(
        shown,
        [
            ("/dev/mine", 1, 3, Some(7), Some(8)),
            ("/dev/full", 9, 0, Some(7), Some(8))
        ]
    );
    assert_eq!(spec.device_rules()[0].access.to_string(), "rw");
    let mounts = spec.mounts();
    let order: Vec<&str> = mounts.iter().map(|m| m.destination.as_str()).collect();
    assert_eq!(order, ["/proc", "/a", "/x/y", "/a/b/c"]);
    let hooks = spec.hooks(Stage::CreateContainer);
    assert!(!hooks[0].env.is_empty() && hooks[0].timeout == Some(9));
    assert_eq!(spec.process_user().additional_gids, [44]);
    let once = spec.to_bytes();
    edit::apply(&edits, &mut spec).unwrap();
    assert_eq!(spec.to_bytes(), once);

    let mut missing = Edits::default();
    missing.device_nodes.push(DeviceNode {
        path: "/dev/no-such".to_owned(),
        ..DeviceNode::default()
    });
    assert_eq!(
        edit::apply(&missing, &mut spec).unwrap_err().code(),
        Code::DeviceNode
    );
}

#[test]
fn another_root_moves_whole_components() {
    let mut spec = vendors("gds.yaml", Path::new("/driver"));
    spec.edits.hooks.push(Hook {
        stage: "createContainer".to_owned(),
        path: "/driver/bin/hook".to_owned(),
        args: vec!["hook".to_owned(), "/driver/a::/driver-backup/b".to_owned()],
        env: vec!["A=1".to_owned()],
        timeout: None,
    });
    let before = spec.clone();
    transform::root(
        &mut spec,
        Path::new("/driver"),
        Path::new(""),
        transform::Side::Host,
    );
    assert_eq!(spec.devices[0].edits.device_nodes[0].host_path, None);
    assert_eq!(spec.devices[0].edits.mounts[0].host_path, "/etc/cufile.json");
    assert_eq!(spec.edits.hooks[0].path, "/bin/hook");
    assert_eq!(spec.edits.hooks[0].args, before.edits.hooks[0].args);
    transform::root(
        &mut spec,
        Path::new("/driver"),
        Path::new("/d"),
        transform::Side::Container,
    );
    assert_eq!(spec.edits.hooks[0].args[1], "/d/a::/driver-backup/b");
    let same = spec.clone();
    transform::root(
        &mut spec,
        Path::new("/dri"),
        Path::new("/x"),
        transform::Side::Host,
    );
    assert_eq!(spec, same);
}

#[test]
fn a_device_given_twice_is_given_once() {
    let mount = |to: &str, options: &[&str]| Mount {
        host_path: "/usr/lib/x".into(),
        container_path: to.into(),
        options: options.iter().map(|&o| o.to_owned()).collect(),
        ..Mount::default()
    };
    let edits = Edits {
        mounts: vec![
            mount("/usr/lib/x", &["rw"]),
            mount("/usr/lib//x/", &["ro"]),
            mount("/usr/lib/y", &["ro"]),
        ],
        ..Edits::default()
    };
    let mut once = Spec::parse(br#"{"ociVersion":"1.0.2","root":{"path":"r"}}"#).unwrap();
    edit::apply(&edits, &mut once).unwrap();
    let mut twice = Spec::parse(&once.to_bytes()).unwrap();
    edit::apply(&edits, &mut twice).unwrap();
    assert_eq!(once.value(), twice.value());
    let places: Vec<_> = once.mounts().into_iter().map(|m| m.destination).collect();
    assert_eq!(places, ["/usr/lib//x/", "/usr/lib/y"]);
}

#[test]
fn a_host_without_a_specification_is_noted_by_itself() {
    let dirs = Dirs::new(&[]);
    assert!(check::check(&dirs.list(), &[], &Budget::default()).is_empty());
    let note = check::missing(&dirs.list(), &Budget::default()).unwrap();
    assert_eq!(note.severity, check::Severity::Note);
    assert!(note.text.contains("cdi generate --output"), "{}", note.text);
    for text in [with("v.com/gpu", "0", "A=1"), "broken".to_owned()] {
        let dirs = Dirs::new(&[("run/a.yaml", &text)]);
        assert_eq!(check::missing(&dirs.list(), &Budget::default()), None);
    }
}
