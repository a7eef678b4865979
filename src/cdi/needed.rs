//! The version of the format that a content needs.

use super::types::{CdiSpec, Edits};
use super::version::Version;

impl Version {
    /// The lowest version that has everything `spec` uses.
    pub fn needed_by(spec: &CdiSpec) -> Self {
        let mut needed = Self::V0_3;
        let mut at_least = |version: Self, used: bool| {
            if used {
                needed = needed.max(version);
            }
        };
        let class = spec.kind.split_once('/').map_or("", |(_, class)| class);
        let annotated =
            !spec.annotations.is_empty() || spec.devices.iter().any(|d| !d.annotations.is_empty());
        at_least(Self::V0_6, annotated || class.contains('.'));
        let digit = |name: &str| name.starts_with(|c: char| c.is_ascii_digit());
        at_least(Self::V0_5, spec.devices.iter().any(|d| digit(&d.name)));
        for edits in spec.devices.iter().map(|d| &d.edits).chain([&spec.edits]) {
            at_least(Self::V0_4, edits.mounts.iter().any(|m| m.typ.is_some()));
            at_least(
                Self::V0_5,
                edits.device_nodes.iter().any(|n| n.host_path.is_some()),
            );
            at_least(
                Self::V0_7,
                edits.intel_rdt.is_some() || !edits.additional_gids.is_empty(),
            );
            at_least(Self::V1_1, !edits.net_devices.is_empty() || newest_rdt(edits));
        }
        needed
    }
}

fn newest_rdt(edits: &Edits) -> bool {
    edits
        .intel_rdt
        .as_ref()
        .is_some_and(|rdt| !rdt.schemata.is_empty() || rdt.enable_monitoring.is_some())
}
