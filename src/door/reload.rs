//! A device that a hook allows in the cgroup behind systemd's back is gone at the next `systemctl daemon-reload`.

use crate::oci::Spec;
use crate::plan::Device;
use crate::sys::cgroup::DeviceRule;
use crate::sys::systemd;

/// Where systemd keeps the container's device rules, makes it keep those of `devices` too. Returns what the user should
/// know where that is not possible.
pub(super) fn tell_systemd(spec: &Spec, devices: &[Device]) -> Option<String> {
    let unit = systemd::scope_of(spec.cgroups_path()?)?;
    let numbers: Vec<(u32, u32)> = devices.iter().map(|d| (d.major, d.minor)).collect();
    // systemd applies its own list at once, so it must be able to hold every rule that the container has.
    let majors = std::fs::read_to_string("/proc/devices").unwrap_or_default();
    let why = match spec.device_rules().iter().find(|r| !can_keep(r, &majors)) {
        Some(rule) => format!("it cannot keep the rule `{rule}`"),
        None => systemd::allow_devices(&unit, &numbers).err()?.to_string(),
    };
    Some(format!(
        "systemd could not be told of the devices of {unit} ({why}): `systemctl daemon-reload` takes the GPU away \
         from this container; the runtime door and CDI have no such trouble"
    ))
}

/// Whether systemd can hold a rule: it names all minors of a major by the driver's name in `/proc/devices`.
fn can_keep(rule: &DeviceRule, devices: &str) -> bool {
    let named = |major: u32| {
        let mut first_words = devices.lines().filter_map(|l| l.split_whitespace().next());
        first_words.any(|word| word.parse() == Ok(major))
    };
    match (rule.major, rule.minor) {
        (Some(major), None) => !rule.allow || named(major),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::cgroup::{Access, RuleKind};

    #[test]
    fn systemd_keeps_whole_majors_by_name() {
        let devices = "Character devices:\n  1 mem\n136 pts\n\nBlock devices:\n  8 sd\n";
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
