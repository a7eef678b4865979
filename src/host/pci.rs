//! NVIDIA's devices on the PCI bus, from sysfs, with or without a driver.

use crate::sys::root::Root;
use crate::vocabulary::PciAddress;

/// PCI vendor number.
const NVIDIA: u32 = 0x10de;
/// PCI base class of display controllers (PCI Code and ID Assignment Specification).
const DISPLAY: u32 = 0x03;
/// PCI class "other bridge": NVSwitches up to Hopper's report it.
const OTHER_BRIDGE: u32 = 0x0680;
/// The most devices that are read; a large server has some hundred.
const MAX_DEVICES: usize = 8192;

/// A GPU or an NVSwitch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Device {
    /// Its PCI address.
    pub address: PciAddress,
    /// PCI device number.
    pub id: u32,
    /// The kernel driver that is bound to it.
    pub driver: Option<String>,
}

/// NVIDIA's devices on the bus.
#[derive(Debug, Default)]
pub struct Bus {
    /// Display controllers in bus order; `None` if sysfs has no PCI bus.
    pub gpus: Option<Vec<Device>>,
    /// NVSwitches up to Hopper's.
    pub switches: Vec<Device>,
}

impl Bus {
    /// Reads the bus below `sys`, a sysfs.
    pub fn read(sys: &Root) -> Self {
        let Ok(entries) = sys.read_dir("bus/pci/devices", MAX_DEVICES) else {
            return Self::default();
        };
        let (mut gpus, mut switches) = (Vec::new(), Vec::new());
        for entry in entries {
            let name = entry.name.to_string_lossy();
            let Ok(address) = name.parse::<PciAddress>() else {
                continue;
            };
            let dir = format!("bus/pci/devices/{name}");
            if hex(sys, &format!("{dir}/vendor")) != Some(NVIDIA) {
                continue;
            }
            let Some(class) = hex(sys, &format!("{dir}/class")) else {
                continue;
            };
            let device = || Device {
                address,
                id: hex(sys, &format!("{dir}/device")).unwrap_or_default(),
                driver: bound(sys, &dir),
            };
            if class >> 16 == DISPLAY {
                gpus.push(device());
            } else if class >> 8 == OTHER_BRIDGE {
                switches.push(device());
            }
        }
        gpus.sort_by_key(|d| d.address);
        Self {
            gpus: Some(gpus),
            switches,
        }
    }

    /// GPUs that are not bound to NVIDIA's driver.
    pub fn undriven(&self) -> impl Iterator<Item = &Device> {
        self.gpus
            .iter()
            .flatten()
            .filter(|d| d.driver.as_deref() != Some("nvidia"))
    }
}

fn hex(sys: &Root, path: &str) -> Option<u32> {
    let text = sys.read_text(path, 64).ok()?;
    u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

fn bound(sys: &Root, dir: &str) -> Option<String> {
    let target = sys.read_link(format!("{dir}/driver")).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}
