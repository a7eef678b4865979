//! Whether SELinux will let the container use the nodes that it gets.
//!
//! The kernel denies a process without a word to anybody: the container starts, libcuda loads, and
//! NVML gives `Insufficient Permissions`. So the loaded policy is asked before anything is changed.

use crate::error::{Code, Error, Result};
use crate::oci::Spec;
use crate::plan::Device;
use crate::sys::root::Root;
use crate::sys::selinux::{DEVICE, Policy};

/// A boolean of container-selinux (Fedora, RHEL); Debian's policy does not have it.
const BOOLEAN: &str = "container_use_devices";

/// Refuses a container whose processes the policy would keep from one of its devices.
///
/// A device without a label is a node that the runtime has made, which has the label of the container's files.
///
/// # Errors
/// [`Code::Selinux`].
pub(super) fn check<'a>(
    spec: &Spec,
    sys: Option<&Root>,
    devices: impl Iterator<Item = (&'a Device, Option<String>)>,
) -> Result<()> {
    // Without a label a process stays in the runtime's domain.
    let Some(process) = spec.process_label() else {
        return Ok(());
    };
    let Some(policy) = sys.and_then(Policy::enforcing) else {
        return Ok(());
    };
    let mut allowed = String::new();
    for (device, label) in devices {
        let Some(label) = label.or_else(|| spec.mount_label().map(str::to_owned)) else {
            continue;
        };
        if label == allowed {
            continue;
        }
        match policy.denied(process, &label, DEVICE) {
            Ok(denied) if denied.is_empty() => allowed = label,
            Ok(denied) => return Err(refusal(&policy, process, device, &label, &denied)),
            Err(e) => log::debug!("SELinux on {}: {e}", device.path.display()),
        }
    }
    Ok(())
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
    match policy.boolean(BOOLEAN) {
        Some(false) => error.fix(
            "`setsebool -P container_use_devices 1`, or start the container with `--security-opt label=disable`",
        ),
        _ => error,
    }
}
