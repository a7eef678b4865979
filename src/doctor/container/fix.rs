//! Restores the device rules that a `daemon-reload` removed.
//!
//! It restores only nodes of the host's grant. A node, a mount or a record inside the container
//! proves nothing.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use super::inspect::{Seen, State};
use crate::sys::cgroup::{Access, DeviceCgroup, DeviceRule, RuleKind, Tenancy, holds_host_processes};
use crate::sys::systemd::{self, AllowOutcome};
use crate::vocabulary::DeviceNumber;

/// A possible repair.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Repair {
    /// The refused nodes.
    pub devices: Vec<(PathBuf, DeviceNumber)>,
    pid: u32,
    /// systemd's scope of the container; without one, nvoci writes to the v1 cgroup.
    unit: Option<String>,
}

impl Repair {
    /// The repair for the inspected container; `None` if it needs none.
    pub fn plan(seen: &Seen) -> Option<Self> {
        let devices: Vec<_> = seen
            .nodes
            .iter()
            .filter(|s| s.granted && s.state == State::Fails(Errno::PERM))
            .map(|s| (s.path.clone(), s.number))
            .collect();
        (!devices.is_empty()).then(|| Self {
            devices,
            pid: seen.container.pid,
            unit: seen.unit.as_ref().map(|u| u.name.clone()),
        })
    }

    /// The equivalent commands, one a line.
    pub fn describe(&self) -> Vec<String> {
        let line = |(path, number): &(PathBuf, DeviceNumber)| match &self.unit {
            Some(unit) => format!(
                "systemctl set-property --runtime {unit} DeviceAllow='/dev/char/{number} rw'  ({})",
                path.display()
            ),
            None => format!(
                "echo 'c {number} rw' > devices.allow of process {}  ({})",
                self.pid,
                path.display()
            ),
        };
        self.devices.iter().map(line).collect()
    }

    /// Applies the repair, which lasts as long as the container. Changes nothing else.
    ///
    /// # Errors
    /// Why the repair failed.
    pub fn apply(&self) -> Result<(), String> {
        if let Some(unit) = &self.unit {
            let numbers: Vec<DeviceNumber> = self.devices.iter().map(|(_, number)| *number).collect();
            // systemd inside the container may have made cgroups below it, so several are possible.
            let is_own = |control_group: &str| {
                let same = control_group.ends_with(&format!("/{unit}"));
                Ok(same && !holds_host_processes(control_group)?)
            };
            return match systemd::allow_devices(unit, &numbers, is_own) {
                Ok(AllowOutcome::Kept) => Ok(()),
                Ok(AllowOutcome::NotItsOwn) => Err(format!("{unit} contains more than this container")),
                Ok(AllowOutcome::Unrestricted) => {
                    Err(format!("{unit} allows every device; something else denies them"))
                }
                Err(e) => Err(format!("systemd refused: {e}")),
            };
        }
        let pid = i32::try_from(self.pid).map_err(|_| "no such process".to_owned())?;
        let unopened = |e: io::Error| format!("its device cgroup cannot be opened: {e}");
        let cgroup = DeviceCgroup::of(Some(pid)).map_err(unopened)?;
        let is_v1 = cgroup.is_v1();
        let own = match cgroup.claim(Some(pid)).map_err(unopened)? {
            Tenancy::Own(own) => own,
            Tenancy::Shared(shared) => {
                return Err(format!("its device cgroup is not its own: {}", shared.why()));
            }
        };
        if !is_v1 {
            return Err(
                "its rules are an eBPF program of the runtime's that only the runtime can rebuild".to_owned(),
            );
        }
        let rules: Vec<DeviceRule> = self
            .devices
            .iter()
            .map(|(_, n)| DeviceRule::allow(RuleKind::Char, n.major, n.minor, Access::RW))
            .collect();
        own.allow(&[], &rules)
            .map(drop)
            .map_err(|e| format!("devices.allow: {e}"))
    }
}
