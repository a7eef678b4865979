//! Checks whether SELinux lets the container use its nodes.
//!
//! The kernel denies access without a message: the container starts, libcuda loads, and NVML fails
//! with `Insufficient Permissions`. So the hook queries the loaded policy before it changes
//! anything.

use crate::apply::NodeLabel;
use crate::error::{Code, Error, Result};
use crate::oci::Spec;
use crate::plan::Device;
use crate::sys::ns::in_user_namespace;
use crate::sys::root::Root;
use crate::sys::selinux::{DEVICE, Policy};

/// A boolean of container-selinux (Fedora, RHEL); Debian's policy does not have it.
const BOOLEAN: &str = "container_use_devices";

/// Nodes that a container can do without. A policy may give them another type than a GPU's node.
const OPTIONAL: [&str; 3] = ["/dev/dri", "/dev/nvidia-modeset", "/dev/nvidia-uvm-tools"];
/// The types of the packages' SELinux module.
const MODULE: (&str, &str) = ("container_t", "xserver_misc_device_t");

/// Refuses a container if the policy denies its processes a device that it needs. Returns a warning
/// for each other denied device.
///
/// A node that the runtime made has the label of the container's files. In a user namespace
/// runtimes bind the host's node instead, whose label is unknown here.
///
/// # Errors
/// [`Code::Selinux`].
pub(super) fn check<'a>(
    spec: &Spec,
    sys: Option<&Root>,
    devices: impl Iterator<Item = (&'a Device, NodeLabel)>,
) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    // Without a label a process stays in the runtime's domain.
    let Some(process) = spec.process_label() else {
        return Ok(warnings);
    };
    let Some(policy) = sys.and_then(Policy::enforcing) else {
        return Ok(warnings);
    };
    let may_make_nodes = !spec.has_user_namespace() && !in_user_namespace();
    let mut allowed = String::new();
    for (device, label) in devices {
        let label = match label {
            NodeLabel::Known(label) => Some(label),
            NodeLabel::OfRuntime if may_make_nodes => spec.mount_label().map(str::to_owned),
            NodeLabel::OfRuntime | NodeLabel::Unknown => None,
        };
        let Some(label) = label.filter(|label| *label != allowed) else {
            continue;
        };
        match policy.denied(process, &label, DEVICE) {
            Ok(denied) if denied.is_empty() => allowed = label,
            Ok(denied) => {
                let refusal = refusal(&policy, process, device, &label, &denied);
                if !OPTIONAL.iter().any(|optional| device.path.starts_with(optional)) {
                    return Err(refusal);
                }
                warnings.push(format!("{}: {}", refusal.what(), refusal.why()));
            }
            Err(e) => log::debug!("SELinux on {}: {e}", device.path.display()),
        }
    }
    Ok(warnings)
}

fn refusal(policy: &Policy, process: &str, device: &Device, label: &str, denied: &[&str]) -> Error {
    let why = format!(
        "SELinux denies {} to the container's processes ({process}) on the node ({label})",
        denied.join(", ")
    );
    let error = Error::new(
        Code::Selinux,
        format!("device node {}", device.path.display()),
        why,
    );
    if policy.boolean(BOOLEAN) == Some(false) {
        return error.fix(
            "`setsebool -P container_use_devices 1`, or start the container with `--security-opt label=disable`",
        );
    }
    if (type_of(process), type_of(label)) == (Some(MODULE.0), Some(MODULE.1)) {
        return error;
    }
    error.fix(
        "check that the node has its usual label (`restorecon -RFv /dev`), allow it in the policy, or start the container \
         with `--security-opt label=disable`",
    )
}

/// The third part of a label, `user:role:type:level`.
fn type_of(label: &str) -> Option<&str> {
    label.split(':').nth(2)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use serde_json::{Value, json};

    use super::*;
    use crate::vocabulary::DeviceNumber;

    const PROCESS: &str = "u:r:container_t:s0";
    const NODE: &str = "u:object_r:device_t:s0";

    /// A policy that denies everything on labels as long as [`NODE`]: the fake interface returns
    /// the bytes behind the query as its answer.
    fn denying() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let fs = dir.path().join("fs/selinux");
        fs::create_dir_all(fs.join("class/chr_file/perms")).unwrap();
        fs::write(fs.join("enforce"), "1").unwrap();
        fs::write(fs.join("class/chr_file/index"), "7").unwrap();
        fs::write(fs.join("class/chr_file/perms/open"), "1").unwrap();
        let question = format!("{PROCESS} {NODE} 7").len();
        fs::write(
            fs.join("access"),
            " ".repeat(question) + "0 ffffffff 0 ffffffff 6 0",
        )
        .unwrap();
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    fn checked(spec: &Value, path: &str, label: NodeLabel) -> Result<Vec<String>> {
        let (_dir, sys) = denying();
        let device = Device {
            path: PathBuf::from(path),
            number: DeviceNumber { major: 195, minor: 0 },
            mode: 0o666,
            uid: 0,
            gid: 0,
            reason: String::new(),
        };
        let spec = Spec::parse(spec.to_string().as_bytes()).unwrap();
        check(&spec, Some(&sys), [(&device, label)].into_iter())
    }

    fn labelled() -> Value {
        json!({"process": {"selinuxLabel": PROCESS}, "linux": {"mountLabel": NODE}})
    }

    #[test]
    fn only_a_device_that_is_needed_is_refused() {
        let known = || NodeLabel::Known(NODE.to_owned());
        let refused = checked(&labelled(), "/dev/nvidia0", known()).unwrap_err();
        assert_eq!(refused.code(), Code::Selinux);
        // The packages' module does not allow this type.
        assert!(refused.to_string().contains("restorecon"), "{refused}");
        let warnings = checked(&labelled(), "/dev/dri/card0", known()).unwrap();
        assert!(
            warnings.len() == 1 && warnings[0].contains("/dev/dri/card0"),
            "{warnings:?}"
        );
    }

    #[test]
    fn an_unknown_label_refuses_nothing() {
        let of_runtime = || NodeLabel::OfRuntime;
        assert!(
            checked(&labelled(), "/dev/nvidia0", NodeLabel::Unknown)
                .unwrap()
                .is_empty()
        );
        if !in_user_namespace() {
            assert!(checked(&labelled(), "/dev/nvidia0", of_runtime()).is_err());
        }
        // There the runtime binds the host's node.
        let mut spec = labelled();
        spec["linux"]["namespaces"] = json!([{"type": "user"}]);
        assert!(checked(&spec, "/dev/nvidia0", of_runtime()).unwrap().is_empty());
        for label in [
            json!(5),
            json!({}),
            json!(null),
            json!(""),
            json!("u:r:container_t:s0\n"),
            json!("a b"),
        ] {
            let mut spec = labelled();
            spec["process"]["selinuxLabel"] = label;
            assert!(
                checked(&spec, "/dev/nvidia0", NodeLabel::Known(NODE.to_owned()))
                    .unwrap()
                    .is_empty()
            );
        }
    }
}
