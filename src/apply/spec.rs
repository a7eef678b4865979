//! Applies a plan to an OCI spec. It adds the devices, so that the low-level runtime and systemd
//! allow them, and one hook, which binds the files when the container is created.

use std::path::Path;

use crate::error::Result;
use crate::oci::{Access, DeviceKind, DeviceRule, DeviceSpec, Hook, HookSpec, RuleKind, Spec, Stage};
use crate::plan::{Device, DriverFile, Place, Plan};
use crate::sys::ns::in_user_namespace;

/// The hook's installed path. A definition outlives the build that wrote it, so the path must not
/// change.
pub const HOOK_PATH: &str = "/usr/bin/nvoci";

/// Programs that inject a second time; Docker's `--gpus` and hooks directories add them.
const HOOK_NAMES: [&str; 2] = ["nvidia-container-runtime-hook", "nvidia-container-toolkit"];

/// The hook's arguments at a stage. With `--devices-in-spec` the hook leaves device nodes and
/// cgroup rules to the runtime.
fn hook_args(stage: Stage) -> Vec<String> {
    ["nvoci", "hook", "--devices-in-spec", stage.key()]
        .map(str::to_owned)
        .to_vec()
}

/// The hook's stage: inside the container's mount namespace. Under a privileged engine nobody in a
/// container with a user namespace may read the bundle, so the hook starts outside.
fn hook_stage(spec: &Spec) -> Stage {
    if spec.has_user_namespace() && !in_user_namespace() {
        Stage::CreateRuntime
    } else {
        Stage::CreateContainer
    }
}

/// Edits `spec` so that the container gets the contents of `plan`. `hook` is the absolute path of
/// this program. A second call changes nothing.
pub fn apply(plan: &Plan, additional_gids: bool, hook: &Path, spec: &mut Spec) -> Result<()> {
    let mounts = spec.mounts();
    for device in &plan.devices {
        let access = Access::RWM;
        // Rootless Podman mounts the host's nodes; a runtime that made one on top would open the
        // device.
        if !mounts.iter().any(|m| Path::new(&m.destination) == device.path) {
            spec.add_device(&DeviceSpec {
                path: device.path.to_string_lossy().into_owned(),
                kind: DeviceKind::Char,
                major: device.number.major,
                minor: device.number.minor,
                file_mode: Some(device.mode & 0o777),
                uid: Some(device.uid),
                gid: Some(device.gid),
            })?;
        }
        spec.allow_device(&DeviceRule::allow(
            RuleKind::Char,
            device.number.major,
            device.number.minor,
            access,
        ))?;
        if additional_gids && needs_group(device) {
            spec.add_additional_gid(device.gid)?;
        }
    }
    for (name, value) in &plan.env {
        spec.set_env(name, value)?;
    }
    if let Some(dir) = libcuda_dir(plan, spec) {
        spec.set_env(LIBCUDA_DIR, &dir)?;
    }
    remove_other_hooks(spec);
    let stage = hook_stage(spec);
    // Old versions of runc give a hook without an environment the image's.
    let hook = HookSpec::new(
        hook.to_string_lossy(),
        hook_args(stage),
        "PATH",
        "/usr/sbin:/usr/bin:/sbin:/bin",
    );
    spec.add_hook(stage, &hook)
}

/// The variable with the directory of libcuda, for programs that read it. The vendor's
/// specifications set it.
const LIBCUDA_DIR: &str = "NVIDIA_CTK_LIBCUDA_DIR";

/// The directory in which the container gets libcuda, unless a mount of the definition covers it or
/// the layout is native. The hook chooses later, and takes another directory if the image has
/// content in this one or its file system cannot be written.
fn libcuda_dir(plan: &Plan, spec: &Spec) -> Option<String> {
    let first = plan.driver_dirs.first().filter(|_| !plan.native_layout)?;
    let is_libcuda = |f: &&DriverFile| f.place == Place::Lib64 && f.soname.as_deref() == Some("libcuda.so.1");
    let libcuda = plan.files.iter().find(is_libcuda)?;
    let mounts = spec.mounts();
    // Old definitions have relative destinations.
    let mut mounts = mounts.iter().map(|m| Path::new("/").join(&m.destination));
    let taken = mounts.any(|m| m.starts_with(first) || m != Path::new("/") && first.starts_with(m));
    (!taken).then(|| first.join(libcuda.dir()).display().to_string())
}

/// Removes the hooks that would inject a second time: the vendor's, and other forms of ours.
pub fn remove_other_hooks(spec: &mut Spec) {
    for stage in [Stage::Prestart, Stage::CreateRuntime, Stage::CreateContainer] {
        spec.remove_hooks(stage, |hook| injects_again(hook, stage));
    }
}

/// A node that its group may use but not everybody.
fn needs_group(device: &Device) -> bool {
    device.gid != 0 && device.mode & 0o006 != 0o006 && device.mode & 0o060 != 0
}

/// Whether `hook` does the same as ours and is not ours.
fn injects_again(hook: &Hook, stage: Stage) -> bool {
    let Some(name) = Path::new(&hook.path).file_name() else {
        return false;
    };
    let other_form =
        name == "nvoci" && hook.args.get(1).is_some_and(|a| a == "hook") && hook.args != hook_args(stage);
    other_form || HOOK_NAMES.iter().any(|known| name == *known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::source::Use;
    use crate::vocabulary::DeviceNumber;

    fn plan() -> Plan {
        let device = |path: &str, minor, mode, gid| Device {
            path: path.into(),
            number: DeviceNumber { major: 195, minor },
            mode,
            uid: 0,
            gid,
            reason: String::new(),
        };
        Plan {
            devices: vec![
                device("/dev/nvidia0", 0, 0o20666, 0),
                device("/dev/nvidiactl", 255, 0o20660, 44),
            ],
            ..Plan::default()
        }
    }

    fn spec() -> Spec {
        Spec::parse(
            br#"{"ociVersion":"1.0.2","process":{"env":["NVIDIA_VISIBLE_DEVICES=0"]},"root":{"path":"rootfs"},
                "hooks":{"prestart":[{"path":"/usr/bin/nvidia-container-runtime-hook","args":["x","prestart"]},
                                     {"path":"/opt/mine"}]},
                "linux":{"resources":{"devices":[{"allow":false,"access":"rwm"}]}}}"#,
        )
        .unwrap()
    }

    /// A plan that gives libcuda.
    fn with_libcuda() -> Plan {
        let libcuda = DriverFile {
            source: "/usr/lib/libcuda.so.550.1".into(),
            found: "/usr/lib/libcuda.so.1".into(),
            wanted: Use::File,
            place: Place::Lib64,
            subdir: None,
            name: "libcuda.so.550.1".to_owned(),
            soname: Some("libcuda.so.1".to_owned()),
            required: true,
            reason: String::new(),
        };
        Plan {
            files: vec![libcuda],
            driver_dirs: vec!["/usr/local/nvidia".into(), "/opt/nvidia".into()],
            ..Plan::default()
        }
    }

    #[test]
    fn the_directory_of_libcuda_is_named_where_it_can_be() {
        let named = |plan: &Plan, more: &str| {
            let text = format!(
                r#"{{"process":{{"env":["NVIDIA_CTK_LIBCUDA_DIR=/old","A=1"]}},"root":{{"path":"r"}}{more}}}"#
            );
            let mut spec = Spec::parse(text.as_bytes()).unwrap();
            apply(plan, false, Path::new(HOOK_PATH), &mut spec).unwrap();
            let env = spec.env();
            assert_eq!(env.len(), 2, "{env:?}");
            env.into_iter().find(|(name, _)| name == LIBCUDA_DIR).unwrap().1
        };
        let plan = with_libcuda();
        let dir = "/usr/local/nvidia/lib64";
        assert_eq!(named(&plan, ""), dir);
        let mounts = |at: &str| format!(r#","mounts":[{{"destination":"{at}"}}]"#);
        for at in ["/", "/usr/local/nvidia2", "/proc", "/usr/local/nvidi"] {
            assert_eq!(named(&plan, &mounts(at)), dir, "{at}");
        }
        // Nothing is written where another directory may be taken.
        for at in [
            "/usr",
            "/usr/local/",
            "/usr/local/nvidia",
            "/usr/local/nvidia/lib64",
        ] {
            assert_eq!(named(&plan, &mounts(at)), "/old", "{at}");
        }
        for other in [
            Plan {
                native_layout: true,
                ..with_libcuda()
            },
            Plan {
                files: Vec::new(),
                ..with_libcuda()
            },
            Plan {
                driver_dirs: Vec::new(),
                ..with_libcuda()
            },
        ] {
            assert_eq!(named(&other, ""), "/old");
        }
    }

    #[test]
    fn twice_is_once() {
        let mut once = spec();
        apply(&plan(), true, Path::new(HOOK_PATH), &mut once).unwrap();
        let first = once.to_bytes();
        apply(&plan(), true, Path::new(HOOK_PATH), &mut once).unwrap();
        assert_eq!(first, once.to_bytes());
        let hooks = once.hooks(Stage::CreateContainer);
        assert_eq!(hooks.len(), 1);
        assert!(!hooks[0].env.is_empty());
        assert_eq!(once.linux_devices().len(), 2);
        assert_eq!(once.device_rules().len(), 3);
        assert_eq!(once.process_user().additional_gids, [44]);
    }

    #[test]
    fn a_second_injection_goes_and_other_hooks_stay() {
        let mut s = spec();
        // The form that a hooks directory adds.
        for stage in [Stage::CreateRuntime, Stage::CreateContainer] {
            let args = ["nvoci", "hook", "createContainer"].map(str::to_owned).to_vec();
            s.add_hook(stage, &HookSpec::new("/usr/bin/nvoci", args, "PATH", "/bin"))
                .unwrap();
        }
        apply(&plan(), true, Path::new(HOOK_PATH), &mut s).unwrap();
        let left = s.hooks(Stage::Prestart);
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].path, "/opt/mine");
        assert!(s.hooks(Stage::CreateRuntime).is_empty());
        let ours = s.hooks(Stage::CreateContainer);
        assert_eq!(ours.len(), 1);
        assert_eq!(ours[0].args, hook_args(Stage::CreateContainer));
    }

    #[test]
    fn a_node_that_is_mounted_is_not_made() {
        let mut s = Spec::parse(
            br#"{"root":{"path":"r"},"mounts":[{"destination":"/dev/nvidia0","source":"/dev/nvidia0","type":"bind"}]}"#,
        )
        .unwrap();
        apply(&plan(), true, Path::new(HOOK_PATH), &mut s).unwrap();
        assert_eq!(s.linux_devices().len(), 1);
        assert_eq!(s.device_rules().len(), 2);
    }

    #[test]
    fn a_container_with_users_of_its_own_is_entered_from_outside() {
        let mut s =
            Spec::parse(br#"{"root":{"path":"r"},"linux":{"namespaces":[{"type":"user"}]}}"#).unwrap();
        apply(&plan(), true, Path::new(HOOK_PATH), &mut s).unwrap();
        let stage = if in_user_namespace() {
            Stage::CreateContainer
        } else {
            Stage::CreateRuntime
        };
        assert_eq!(s.hooks(stage)[0].args, hook_args(stage));
        let first = s.to_bytes();
        apply(&plan(), true, Path::new(HOOK_PATH), &mut s).unwrap();
        assert_eq!(first, s.to_bytes());
    }
}
