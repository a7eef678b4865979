//! How a container names GPUs: indices, ranges, UUIDs, PCI addresses, MIG devices, CDI names.

use core::fmt;

use crate::vocabulary::{PciAddress, decimal};

/// One entry of a device list.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Selector {
    /// A GPU by its place in PCI bus order, as `nvidia-smi` counts.
    Index(u32),
    /// Several GPUs by index, both ends included; the first is not above the second.
    Range(u32, u32),
    /// A GPU by UUID, or the beginning of one: lower-case hexadecimal digits and dashes, no `GPU-`.
    Uuid(String),
    /// A MIG device by its UUID, or the beginning of one: as for [`Selector::Uuid`], no `MIG-`.
    MigUuid(String),
    /// A MIG device by the UUID of its GPU (no `GPU-`), its GPU instance and its compute instance: the
    /// form `MIG-GPU-<uuid>/<gi>/<ci>` of drivers before 470.
    MigInstance {
        /// The GPU's UUID, as for [`Selector::Uuid`].
        gpu: String,
        /// The GPU instance id.
        gi: u32,
        /// The compute instance id.
        ci: u32,
    },
    /// A MIG device by the index of its GPU and its own index there: `0:1`.
    MigIndex {
        /// The GPU's index.
        gpu: u32,
        /// The MIG device's index on that GPU.
        mig: u32,
    },
    /// A GPU by PCI address.
    Pci(PciAddress),
}

impl Selector {
    /// Reads one entry, already trimmed; `None` when it has none of the forms.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(rest) = strip_prefix_ignore_case(text, "MIG-") {
            return mig(rest);
        }
        if let Some(rest) = strip_prefix_ignore_case(text, "GPU-") {
            return uuid_prefix(rest).map(Self::Uuid);
        }
        if text.contains('.') {
            // GPUs are function 0, their audio part is another.
            let address = PciAddress::from_short(text).filter(|a| a.function == 0);
            return address.map(Self::Pci);
        }
        if let Some((gpu, mig)) = text.split_once(':') {
            return Some(Self::MigIndex {
                gpu: decimal(gpu)?,
                mig: decimal(mig)?,
            });
        }
        if is_uuid(text) {
            // The integrated GPU of an Orin has a UUID without `GPU-`.
            return uuid_prefix(text).map(Self::Uuid);
        }
        match text.split_once('-') {
            Some((first, last)) => {
                let (first, last) = (decimal(first)?, decimal(last)?);
                (first <= last).then_some(Self::Range(first, last))
            }
            None => decimal(text).map(Self::Index),
        }
    }

    /// Whether it names a MIG device rather than a whole GPU.
    pub fn is_mig(&self) -> bool {
        matches!(
            self,
            Self::MigUuid(_) | Self::MigInstance { .. } | Self::MigIndex { .. }
        )
    }
}

impl fmt::Display for Selector {
    /// The entry in the form a container would write.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "{index}"),
            Self::Range(first, last) => write!(f, "{first}-{last}"),
            Self::Uuid(uuid) => write!(f, "GPU-{uuid}"),
            Self::MigUuid(uuid) => write!(f, "MIG-{uuid}"),
            Self::MigInstance { gpu, gi, ci } => write!(f, "MIG-GPU-{gpu}/{gi}/{ci}"),
            Self::MigIndex { gpu, mig } => write!(f, "{gpu}:{mig}"),
            Self::Pci(address) => write!(f, "{address}"),
        }
    }
}

/// The hexadecimal part of a UUID in the form that [`Selector::Uuid`] has.
pub(super) fn bare_uuid(uuid: &str) -> String {
    let bare = strip_prefix_ignore_case(uuid, "GPU-").or_else(|| strip_prefix_ignore_case(uuid, "MIG-"));
    bare.unwrap_or(uuid).to_ascii_lowercase()
}

/// The rest of `MIG-`: a UUID, or `GPU-<uuid>/<gi>/<ci>`.
fn mig(rest: &str) -> Option<Selector> {
    let Some(old) = strip_prefix_ignore_case(rest, "GPU-") else {
        return uuid_prefix(rest).map(Selector::MigUuid);
    };
    let (gpu, instances) = old.split_once('/')?;
    let (gi, ci) = instances.split_once('/')?;
    Some(Selector::MigInstance {
        gpu: uuid_prefix(gpu)?,
        gi: decimal(gi)?,
        ci: decimal(ci)?,
    })
}

/// Lower-cases what can be the beginning of a UUID: at most 36 characters, dashes where a UUID has them.
fn uuid_prefix(text: &str) -> Option<String> {
    let fits = text.bytes().enumerate().all(|(i, b)| match i {
        8 | 13 | 18 | 23 => b == b'-',
        _ => b.is_ascii_hexdigit(),
    });
    (fits && !text.is_empty() && text.len() <= 36).then(|| text.to_ascii_lowercase())
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && uuid_prefix(text).is_some()
}

fn strip_prefix_ignore_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "1c2d3e4f-0123-4567-89ab-cdef01234567";

    #[test]
    fn every_form() {
        let uuid = || UUID.to_owned();
        for (text, want) in [
            ("0", Selector::Index(0)),
            ("15", Selector::Index(15)),
            ("0-3", Selector::Range(0, 3)),
            ("2-2", Selector::Range(2, 2)),
            ("GPU-1c2D3e4f", Selector::Uuid("1c2d3e4f".into())),
            (&format!("gpu-{UUID}"), Selector::Uuid(uuid())),
            (UUID, Selector::Uuid(uuid())),
            (&format!("MIG-{UUID}"), Selector::MigUuid(uuid())),
            (
                &format!("MIG-GPU-{UUID}/7/0"),
                Selector::MigInstance {
                    gpu: uuid(),
                    gi: 7,
                    ci: 0,
                },
            ),
            ("0:1", Selector::MigIndex { gpu: 0, mig: 1 }),
            (
                "00000000:AF:00.0",
                Selector::Pci(PciAddress {
                    domain: 0,
                    bus: 0xaf,
                    device: 0,
                    function: 0,
                }),
            ),
            (
                "10000:01:1f.0",
                Selector::Pci(PciAddress {
                    domain: 0x10000,
                    bus: 1,
                    device: 31,
                    function: 0,
                }),
            ),
            (
                "65:00.0",
                Selector::Pci(PciAddress {
                    domain: 0,
                    bus: 0x65,
                    device: 0,
                    function: 0,
                }),
            ),
        ] {
            assert_eq!(Selector::parse(text), Some(want.clone()), "{text}");
            assert_eq!(Selector::parse(&want.to_string()), Some(want), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_device() {
        for text in [
            "",
            "-",
            "-1",
            "+1",
            "1-",
            "3-1",
            "0x1",
            "4294967296",
            "GPU-",
            "GPU-xyz",
            "GPU0-MIG0/0/1",
            "MIG-",
            "MIG-GPU-1c2d3e4f/7",
            "MIG-GPU-1c2d3e4f/7/0/0",
            "0:",
            ":1",
            "0:1:2",
            "0000:65:00.1",
            "65:20.0",
            "GPU-1c2d3e4f-0123-4567-89ab-cdef012345678",
            "1c2d3e4f",
            "all",
            "GPU-1c2d3e4f0",
            "٣",
        ] {
            assert_eq!(Selector::parse(text), None, "{text}");
        }
    }
}
