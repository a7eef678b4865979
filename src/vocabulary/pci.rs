//! Addresses on the PCI bus.

use core::fmt;
use core::str::FromStr;

use super::{Malformed, hexadecimal};

/// A PCI address. Its order is the PCI bus order, which is NVML's index order.
///
/// A bus has 8 bits, a device 5, a function 3 (PCI Local Bus Specification 3.0, "Configuration
/// Space Decoding"). The domain is Linux's: 16 bits on most machines, up to 32 behind Intel's VMD
/// (from 0x10000, `drivers/pci/controller/vmd.c`). Hyper-V takes 16 bits from the device's serial
/// number (`pci-hyperv.c`).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PciAddress {
    /// Domain.
    pub domain: u32,
    /// Bus.
    pub bus: u8,
    /// Device, 0 to 31.
    pub device: u8,
    /// Function, 0 to 7; a GPU's audio part is another function of the same device.
    pub function: u8,
}

impl PciAddress {
    /// Parses a person's form, `[domain:]bus:device.function`, without leading zeros and domain 0.
    pub fn from_short(text: &str) -> Option<Self> {
        let (address, function) = text.rsplit_once('.')?;
        let (front, device) = address.rsplit_once(':')?;
        let (domain, bus) = front.rsplit_once(':').unwrap_or(("0", front));
        Some(Self {
            domain: hexadecimal(domain, 8)?,
            bus: u8::try_from(hexadecimal(bus, 2)?).ok()?,
            device: part(device, 2, 31)?,
            function: part(function, 1, 7)?,
        })
    }

    /// The form of NVML and `nvidia-smi`, upper case and with eight digits of domain:
    /// `00000000:3B:00.0` (`NVML_DEVICE_PCI_BUS_ID_FMT` in nvml.h).
    pub fn nvml(self) -> String {
        format!(
            "{:08X}:{:02X}:{:02X}.{:X}",
            self.domain, self.bus, self.device, self.function
        )
    }
}

impl FromStr for PciAddress {
    type Err = Malformed;

    /// Parses the full form of sysfs, `/proc/driver/nvidia/gpus` and NVML: `0000:06:00.0`, with
    /// four to eight digits of domain, in any case.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let domain = text.split(':').next().unwrap_or_default().len();
        let full = (4..=8).contains(&domain) && text.len() == domain + ":06:00.0".len();
        Self::from_short(text).filter(|_| full).ok_or(Malformed)
    }
}

impl fmt::Display for PciAddress {
    /// The form of sysfs and procfs: `0000:06:00.0` (`%04x:%02x:%02x.%d` in `pci_setup_device`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04x}:{:02x}:{:02x}.{:x}",
            self.domain, self.bus, self.device, self.function
        )
    }
}

fn part(text: &str, max_digits: usize, max: u8) -> Option<u8> {
    let number = u8::try_from(hexadecimal(text, max_digits)?).ok()?;
    (number <= max).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(domain: u32, bus: u8, device: u8, function: u8) -> PciAddress {
        PciAddress {
            domain,
            bus,
            device,
            function,
        }
    }

    #[test]
    fn the_full_form_with_domains_of_every_width() {
        for (text, address, shown, nvml) in [
            ("0000:06:00.0", at(0, 6, 0, 0), "0000:06:00.0", "00000000:06:00.0"),
            (
                "00000000:3B:1F.7",
                at(0, 0x3b, 31, 7),
                "0000:3b:1f.7",
                "00000000:3B:1F.7",
            ),
            // Intel VMD
            (
                "10000:00:01.0",
                at(0x1_0000, 0, 1, 0),
                "10000:00:01.0",
                "00010000:00:01.0",
            ),
            // Hyper-V
            (
                "b7a1:00:00.0",
                at(0xb7a1, 0, 0, 0),
                "b7a1:00:00.0",
                "0000B7A1:00:00.0",
            ),
            (
                "ffffffff:ff:1f.7",
                at(u32::MAX, 255, 31, 7),
                "ffffffff:ff:1f.7",
                "FFFFFFFF:FF:1F.7",
            ),
        ] {
            assert_eq!(text.parse(), Ok(address), "{text}");
            assert_eq!(PciAddress::from_short(text), Some(address), "{text}");
            assert_eq!(address.to_string(), shown);
            assert_eq!(address.nvml(), nvml);
            assert_eq!(shown.parse(), Ok(address));
        }
    }

    #[test]
    fn a_person_may_leave_zeros_out() {
        for (text, address) in [
            ("65:00.0", at(0, 0x65, 0, 0)),
            ("0:65:0.1", at(0, 0x65, 0, 1)),
            ("6:0.0", at(0, 6, 0, 0)),
            ("10000:1:1f.0", at(0x1_0000, 1, 31, 0)),
        ] {
            assert_eq!(PciAddress::from_short(text), Some(address), "{text}");
            assert_eq!(text.parse::<PciAddress>(), Err(Malformed), "{text}");
        }
    }

    #[test]
    fn nothing_else() {
        for text in [
            "",
            ":",
            ".",
            "0000:06:00",
            "0000:06:00.",
            "0000:06:20.0",
            "0000:06:00.8",
            "0000:06:00.00",
            "0000:06:00.0.0",
            "0000:+6:00.0",
            "+000:06:00.0",
            "-000:06:00.0",
            " 0000:06:00.0",
            "0000:06:00.0 ",
            "0000:06:00.0\n",
            "0000: 6:00.0",
            "000000000:06:00.0",
            "100000000:06:00.0",
            "0000:006:00.0",
            "0000:06:000.0",
            "0000:0000:06:00.0",
            "0000::06:00.0",
            "0x00:06:00.0",
            "0000:g6:00.0",
            "0000:\u{661}6:00.0",
            "0000:06:00.\u{660}",
            "0000:06:00.\u{ff10}",
            "pci-0000:06:00.0",
            "0000/06/00.0",
            "../../../etc.0",
        ] {
            assert_eq!(text.parse::<PciAddress>(), Err(Malformed), "{text:?}");
            assert_eq!(PciAddress::from_short(text), None, "{text:?}");
        }
    }

    #[test]
    fn in_the_order_of_the_bus() {
        let mut all = [at(1, 0, 0, 0), at(0, 0xaf, 0, 0), at(0, 3, 1, 0), at(0, 3, 0, 1)];
        all.sort_unstable();
        assert_eq!(
            all,
            [at(0, 3, 0, 1), at(0, 3, 1, 0), at(0, 0xaf, 0, 0), at(1, 0, 0, 0)]
        );
    }
}
