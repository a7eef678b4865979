//! The versions of the format. A reader refuses a file whose version it does not know, so a writer declares the lowest
//! one that has all it uses: an engine of last year must read what is written today.

use core::fmt;

use super::types::{CdiSpec, Edits};

/// A released version; later ones are greater.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Version(u8);

const KNOWN: [&str; 10] = [
    "0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0",
];

impl Version {
    /// The oldest that readers still take.
    pub const V0_3: Self = Self(2);
    /// Mounts with a type.
    pub const V0_4: Self = Self(3);
    /// Nodes with another path on the host; device names that begin with a digit.
    pub const V0_5: Self = Self(4);
    /// Annotations; a dot in the class.
    pub const V0_6: Self = Self(5);
    /// Supplementary groups, `intelRdt`.
    pub const V0_7: Self = Self(6);
    /// The last one without network devices.
    pub const V1_0: Self = Self(8);
    /// Network devices, more of `intelRdt`.
    pub const V1_1: Self = Self(9);

    /// Reads `0.5.0` or `v0.5.0`; `None` for a version that is not known here.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let index = KNOWN.iter().position(|known| *known == text)?;
        u8::try_from(index).ok().map(Self)
    }

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

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(KNOWN.get(usize::from(self.0)).unwrap_or(&KNOWN[0]))
    }
}
