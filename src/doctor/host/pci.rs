//! Finds GPUs on the PCI bus without a driver of NVIDIA's.

use super::{BUS, Finding, Inputs, Severity};
use crate::compat::gpu::sm_of_pci;
use crate::host::pci::{Bus, Device};
use crate::host::{Host, Platform};

pub(super) fn findings(inputs: &Inputs<'_>, bus: &Bus) -> Vec<Finding> {
    let host = inputs.host;
    let Some(gpus) = &bus.gpus else {
        return Vec::new();
    };
    if gpus.is_empty() {
        // The GPUs of a Jetson and of Windows are not on this bus; a virtual one may be hidden.
        let elsewhere = host.wsl.is_some() || host.platform == Platform::Tegra || host.kernel.is_some();
        return if elsewhere {
            Vec::new()
        } else {
            vec![nothing(inputs)]
        };
    }
    let usable = host.usable_gpus().count();
    let mut found: Vec<Finding> = bus.undriven().map(|d| undriven(inputs, d, usable)).collect();
    if found.is_empty() {
        let text = format!("{} on the bus, each driven by NVIDIA's module", gpus.len());
        found.push(Finding::new(&BUS, Severity::Ok, "GPUs", text));
    }
    found
}

fn nothing(inputs: &Inputs<'_>) -> Finding {
    let finding = Finding::new(&BUS, Severity::Fail, "PCI bus", "there is no NVIDIA GPU on it");
    let virtual_machine = inputs
        .roots
        .proc
        .read_text("cpuinfo", 4 << 20)
        .is_ok_and(|text| cpu_flags(&text).any(|flag| flag == "hypervisor"));
    if virtual_machine {
        finding
            .fix("this is a virtual machine: pass a GPU through to it, or choose an instance type with one")
    } else {
        finding.fix("check that the card sits in its slot, has power, and is not disabled in the firmware")
    }
}

/// The flags of the first processor in `/proc/cpuinfo` (proc(5)).
fn cpu_flags(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .find_map(|l| l.strip_prefix("flags")?.split_once(':'))
        .into_iter()
        .flat_map(|(_, flags)| flags.split_ascii_whitespace())
}

fn undriven(inputs: &Inputs<'_>, device: &Device, usable: usize) -> Finding {
    let others = if usable == 0 {
        Severity::Fail
    } else {
        Severity::Warn
    };
    let loaded = inputs.host.kernel.is_some();
    let (severity, cause, fix) = match (device.driver.as_deref(), loaded) {
        (Some(name @ ("nouveau" | "nova_core" | "nova-core")), _) => (
            others,
            format!("the free driver {name} is bound to it"),
            "install NVIDIA's driver, which blacklists the free one, run `update-initramfs -u` or `dracut -f`, and reboot",
        ),
        (Some(name @ ("vfio-pci" | "pci-stub" | "xen-pciback")), _) => (
            others,
            format!("{name} is bound to it: it is set aside for virtual machines"),
            "take it out of the options of vfio-pci (kernel command line, /etc/modprobe.d), or leave it to the virtual machine",
        ),
        (Some(name), _) => (
            others,
            format!("the driver {name} is bound to it"),
            "unbind it, and load the module nvidia",
        ),
        (None, true) => (
            others,
            format!(
                "NVIDIA's module is loaded, but did not bind to it{}",
                why_not_taken(inputs.host, device)
            ),
            "see `dmesg | grep NVRM`, and install the flavor of the module or the driver branch that supports this GPU",
        ),
        (None, false) => (
            Severity::Fail,
            "no driver is bound to it".to_owned(),
            "install the NVIDIA driver for this kernel and load its module (`modprobe nvidia`)",
        ),
    };
    Finding::new(&BUS, severity, format!("GPU {}", device.address), cause)
        .fix(fix)
        .evidence(format!("PCI id 10de:{:04x}", device.id))
}

/// Why the loaded module does not support a GPU, if the tables have the reason.
///
/// The open module supports Turing and later (README of NVIDIA/open-gpu-kernel-modules). Blackwell
/// and later have no other (developer.nvidia.com, "NVIDIA Transitions Fully Towards Open-Source GPU
/// Kernel Modules").
fn why_not_taken(host: &Host, device: &Device) -> String {
    const TURING: u32 = 75;
    const BLACKWELL: u32 = 100;
    let Some(kernel) = &host.kernel else {
        return String::new();
    };
    let sm = u16::try_from(device.id).ok().and_then(sm_of_pci);
    let Some((sm, architecture)) = sm.and_then(|sm| Some((sm.number(), sm.architecture()?))) else {
        return String::new();
    };
    let branch = kernel.version.major();
    let name = architecture.name;
    match architecture.last_driver {
        Some(last) if branch > last => {
            format!(": drivers for {name} end with the branch {last}, and this is {branch}")
        }
        _ if sm >= BLACKWELL && !kernel.open => {
            format!(": {name} needs the open module, and this is the proprietary one")
        }
        _ if sm < TURING && kernel.open => {
            format!(": {name} needs the proprietary module, and this is the open one")
        }
        _ => String::new(),
    }
}
