//! The names of GPUs in a request: indices, ranges, UUIDs, PCI addresses, MIG devices, CDI names.

use core::fmt;

use crate::vocabulary::{PciAddress, Uuid, UuidStart, decimal, strip_prefix_ignore_case};

/// One entry of a device list.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Selector {
    /// A GPU by its place in PCI bus order, as `nvidia-smi` counts.
    Index(u32),
    /// Several GPUs by index, both ends included; the first is not above the second.
    Range(u32, u32),
    /// A GPU by UUID, or the beginning of one.
    Uuid(UuidStart),
    /// A MIG device by its UUID, or the beginning of one.
    MigUuid(UuidStart),
    /// A MIG device by the UUID of its GPU, its GPU instance and its compute instance: the form
    /// `MIG-GPU-<uuid>/<gi>/<ci>` of drivers before 470.
    MigInstance {
        /// The GPU's UUID, or the beginning of it.
        gpu: UuidStart,
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
    /// Parses one trimmed entry; `None` if it has none of the forms.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(rest) = strip_prefix_ignore_case(text, "MIG-") {
            return mig(rest);
        }
        if let Some(rest) = strip_prefix_ignore_case(text, "GPU-") {
            return rest.parse().ok().map(Self::Uuid);
        }
        if text.contains('.') {
            // A GPU is function 0; its audio device is another function.
            let address = PciAddress::from_short(text).filter(|a| a.function == 0);
            return address.map(Self::Pci);
        }
        if let Some((gpu, mig)) = text.split_once(':') {
            return Some(Self::MigIndex {
                gpu: decimal(gpu)?,
                mig: decimal(mig)?,
            });
        }
        // The integrated GPU of an Orin has a UUID without `GPU-`.
        if let Ok(uuid) = text.parse::<Uuid>() {
            return Some(Self::Uuid(uuid.into()));
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
    /// The entry as a container writes it.
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

/// The rest of `MIG-`: a UUID, or `GPU-<uuid>/<gi>/<ci>`.
fn mig(rest: &str) -> Option<Selector> {
    let Some(old) = strip_prefix_ignore_case(rest, "GPU-") else {
        return rest.parse().ok().map(Selector::MigUuid);
    };
    let (gpu, instances) = old.split_once('/')?;
    let (gi, ci) = instances.split_once('/')?;
    Some(Selector::MigInstance {
        gpu: gpu.parse().ok()?,
        gi: decimal(gi)?,
        ci: decimal(ci)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "1c2d3e4f-0123-4567-89ab-cdef01234567";

    #[test]
    fn every_form() {
        let uuid = || UUID.parse().unwrap();
        for (text, want) in [
            ("0", Selector::Index(0)),
            ("15", Selector::Index(15)),
            ("0-3", Selector::Range(0, 3)),
            ("2-2", Selector::Range(2, 2)),
            ("GPU-1c2D3e4f", Selector::Uuid("1c2d3e4f".parse().unwrap())),
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
    fn malformed_names() {
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
