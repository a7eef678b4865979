//! Applies a plan to an OCI spec: the devices, where the low-level runtime and systemd know of them, and
//! one hook, which brings the files when the container is created.

use std::path::Path;

use crate::error::Result;
use crate::oci::{Access, DeviceKind, DeviceRule, DeviceSpec, Hook, HookSpec, RuleKind, Spec, Stage};
use crate::plan::{Device, Plan};

/// Where the hook is installed; a container definition outlives the build that wrote it.
pub const HOOK_PATH: &str = "/usr/bin/nvoci";

/// Hooks of the vendor's that would inject a second time.
const VENDOR_HOOKS: [&str; 2] = ["nvidia-container-runtime-hook", "nvidia-container-toolkit"];

/// What the hook entry is called with. `--devices-in-spec` tells it that the device nodes and their
/// cgroup rules are the runtime's business.
const HOOK_ARGS: [&str; 4] = ["nvoci", "hook", "--devices-in-spec", "createContainer"];

/// Edits `spec` so that the container gets what `plan` says; `hook` is this program, by an absolute path.
/// Doing it twice changes nothing more.
pub fn apply(plan: &Plan, additional_gids: bool, hook: &Path, spec: &mut Spec) -> Result<()> {
    for device in &plan.devices {
        let access = Access::RWM;
        spec.add_device(&DeviceSpec {
            path: device.path.to_string_lossy().into_owned(),
            kind: DeviceKind::Char,
            major: device.major,
            minor: device.minor,
            file_mode: Some(device.mode & 0o777),
            uid: Some(device.uid),
            gid: Some(device.gid),
        })?;
        spec.allow_device(&DeviceRule::allow(
            RuleKind::Char,
            device.major,
            device.minor,
            access,
        ))?;
        if additional_gids && needs_group(device) {
            spec.add_additional_gid(device.gid)?;
        }
    }
    remove_vendor_hooks(spec);
    let args = HOOK_ARGS.map(str::to_owned).to_vec();
    // A hook without an environment gets the image's from an old runc.
    let hook = HookSpec::new(
        hook.to_string_lossy(),
        args,
        "PATH",
        "/usr/sbin:/usr/bin:/sbin:/bin",
    );
    spec.add_hook(Stage::CreateContainer, &hook)
}

/// Removes the hooks that would inject a second time.
pub fn remove_vendor_hooks(spec: &mut Spec) {
    spec.remove_hooks(Stage::Prestart, is_vendors);
}

/// A node that not everybody may use, but its group may.
fn needs_group(device: &Device) -> bool {
    device.gid != 0 && device.mode & 0o006 != 0o006 && device.mode & 0o060 != 0
}

fn is_vendors(hook: &Hook) -> bool {
    Path::new(&hook.path)
        .file_name()
        .is_some_and(|name| VENDOR_HOOKS.iter().any(|vendor| name == *vendor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let device = |path: &str, minor, mode, gid| Device {
            path: path.into(),
            major: 195,
            minor,
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
    fn the_vendors_hook_goes_and_others_stay() {
        let mut s = spec();
        apply(&plan(), true, Path::new(HOOK_PATH), &mut s).unwrap();
        let left = s.hooks(Stage::Prestart);
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].path, "/opt/mine");
    }
}
