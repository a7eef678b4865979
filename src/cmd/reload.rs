//! Registers allowed devices with systemd. Without that, the next `systemctl daemon-reload` removes
//! the device rules that a hook has added.

use std::io;

use crate::plan::Device;
use crate::sys::cgroup::{DeviceRule, OwnCgroup};
use crate::sys::{procfs, systemd};
use crate::vocabulary::DeviceNumber;

/// The bytes of `/proc/devices` that are read.
const MAX_DEVICES: u64 = 1 << 20;

/// If systemd manages the rules of the container's cgroup, registers those of `devices` beside
/// `theirs`. Returns a warning if that is not possible.
pub(super) fn register_with_systemd(
    cgroup: &OwnCgroup,
    theirs: &[DeviceRule],
    devices: &[Device],
) -> Option<String> {
    let path = cgroup.path().ok()?;
    let unit = systemd::scope_of(path.to_str()?)?;
    let numbers: Vec<DeviceNumber> = devices.iter().map(|d| d.number).collect();
    let is_own = |control_group: &str| Ok(cgroup.is_all_of(control_group)? && keeps_all(theirs)?);
    let why = systemd::allow_devices(unit, &numbers, is_own).err()?;
    Some(format!(
        "systemd cannot keep the devices of {unit} ({why}): the next `systemctl daemon-reload` takes the GPU \
         from this container; use the runtime or CDI instead of the hook"
    ))
}

/// systemd applies its own list at once, so it must be able to express every rule of the container.
///
/// # Errors
/// The first rule that it cannot express.
fn keeps_all(rules: &[DeviceRule]) -> io::Result<bool> {
    let devices = procfs::read("/proc/devices", MAX_DEVICES).unwrap_or_default();
    let majors: Vec<u32> = procfs::majors(&devices).collect();
    match rules.iter().find(|r| !can_keep(r, &majors)) {
        Some(rule) => Err(io::Error::other(format!("it cannot keep the rule `{rule}`"))),
        None => Ok(true),
    }
}

/// Whether systemd can express a rule: it names all minors of a major by the driver's name in
/// `/proc/devices`.
fn can_keep(rule: &DeviceRule, majors: &[u32]) -> bool {
    match (rule.major, rule.minor) {
        (Some(major), None) => !rule.allow || majors.contains(&major),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::cgroup::{Access, RuleKind};

    #[test]
    fn systemd_keeps_whole_majors_by_name() {
        let devices = b"Character devices:\n  1 mem\n136 pts\n\nBlock devices:\n  8 sd\n";
        let devices: &[u32] = &procfs::majors(devices).collect::<Vec<_>>();
        let whole = |major| DeviceRule {
            minor: None,
            ..DeviceRule::allow(RuleKind::Char, major, 0, Access::RW)
        };
        assert!(can_keep(&whole(136), devices));
        assert!(!can_keep(&whole(13), devices));
        let denied = DeviceRule {
            allow: false,
            ..whole(13)
        };
        assert!(can_keep(&denied, devices));
        assert!(can_keep(
            &DeviceRule::allow(RuleKind::Char, 13, 2, Access::RW),
            devices
        ));
    }
}
