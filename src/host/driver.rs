//! Facts from the kernel module's procfs files: version, device numbers, parameters, GPUs and MIG
//! devices.
//!
//! The formats are those of drivers 470 to 580, such as `GPU UUID: \t GPU-0a1b…`; tabs and blanks
//! pad the keys of `information`.

use super::kept::{Binding, Kept};
use super::{CapMinors, Gpu, Host, KernelModule, Majors, NodePolicy, Roots, absent, read_kernel};
use crate::compat::Version;
use crate::sys::procfs;
use crate::vocabulary::{MigDevice, PciAddress};

/// More GPUs than any machine has; later ones are ignored.
const MAX_GPUS: usize = 256;
/// GPU instances and compute instances of one GPU: the hardware has at most 8 of each.
const MAX_INSTANCES: usize = 64;

/// The drivers of `/proc/devices` that nvoci uses.
const CHAR_DRIVERS: &[&str] = &[
    "nvidia",
    "nvidia-frontend",
    "nvidia-modeset",
    "nvidiactl",
    "nvidia-uvm",
    "nvidia-caps",
    "nvidia-caps-imex-channels",
    "nvidia-nvswitch",
    "nvidia-nvlink",
    "nvidia-fs",
    "gdrdrv",
    "infiniband_verbs",
    "drm",
];

/// Fills in the facts of procfs; `kept` replaces files of GPUs that have not changed.
pub(super) fn find(roots: &Roots, host: &mut Host, kept: &mut Kept) {
    if let Some(text) = text(roots, host, "driver/nvidia/version", 4096) {
        host.kernel = kernel_module(&text);
        if host.kernel.is_none() {
            host.warn("/proc/driver/nvidia/version has no driver version");
        }
    }
    if let Some(list) = read_kernel(&roots.proc, "devices", 64 * 1024, host) {
        host.majors = majors(&list);
    }
    if let Some(bytes) = read_kernel(&roots.proc, "driver/nvidia/params", 64 * 1024, host) {
        let (policy, modify) = node_policy(&String::from_utf8_lossy(&bytes));
        host.node_policy = policy;
        host.modify_device_files = modify;
        host.params = Some(bytes);
    }
    host.gpus = gpus(roots, host, kept);
    host.caps = cap_minors(roots, host);
}

fn text(roots: &Roots, host: &mut Host, path: &str, max: u64) -> Option<String> {
    read_kernel(&roots.proc, path, max, host).map(|b| String::from_utf8_lossy(&b).into_owned())
}

/// Reads `NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  ...` and the open module's
/// `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  ...`.
fn kernel_module(text: &str) -> Option<KernelModule> {
    let line = text.lines().find_map(|l| l.strip_prefix("NVRM version:"))?;
    Some(KernelModule {
        version: line.split_ascii_whitespace().find_map(version)?,
        open: line.contains("Open Kernel Module"),
    })
}

/// Parses a driver version: two to four numbers with dots, the first with two digits or more.
pub(super) fn version(text: &str) -> Option<Version> {
    let has_form = text.len() <= 20 && text.find('.')? >= 2;
    text.parse().ok().filter(|_| has_form)
}

/// The character devices in [`CHAR_DRIVERS`].
fn majors(list: &[u8]) -> Majors {
    let matter = procfs::char_devices(list).filter(|d| CHAR_DRIVERS.contains(&d.name.as_str()));
    Majors(matter.take(64).map(|d| (d.name, d.major)).collect())
}

/// `key: value` lines, the value without the padding around it.
fn fields(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines()
        .filter_map(|l| l.split_once(':'))
        .map(|(k, v)| (k.trim(), v.trim()))
}

/// The policy for device nodes, and `ModifyDeviceFiles` if present. Numbers are decimal (438 is
/// 0666).
fn node_policy(text: &str) -> (NodePolicy, Option<bool>) {
    let mut policy = NodePolicy::default();
    let mut modify = None;
    for (key, value) in fields(text) {
        let Ok(number) = value.parse::<u32>() else {
            continue;
        };
        match key {
            "ModifyDeviceFiles" | "DeviceFileModify" => modify = Some(number == 1),
            "DeviceFileUID" => policy.uid = number,
            "DeviceFileGID" => policy.gid = number,
            "DeviceFileMode" => policy.mode = number & 0o777,
            _ => {}
        }
    }
    policy.modify = modify.unwrap_or(true);
    (policy, modify)
}

/// All GPUs, usable ones first, each group in PCI bus order.
fn gpus(roots: &Roots, host: &mut Host, kept: &mut Kept) -> Vec<Gpu> {
    let entries = match roots.proc.read_dir("driver/nvidia/gpus", MAX_GPUS) {
        Ok(entries) => entries,
        Err(e) => {
            if !absent(&e) {
                host.warn(format!("/proc/driver/nvidia/gpus: {e}"));
            }
            return Vec::new();
        }
    };
    let mut gpus = Vec::with_capacity(entries.len());
    for entry in entries {
        let name = entry.name.to_string_lossy();
        let Ok(pci) = name.parse::<PciAddress>() else {
            host.warn(format!("/proc/driver/nvidia/gpus/{name}: not a PCI address"));
            continue;
        };
        let path = format!("driver/nvidia/gpus/{name}/information");
        let binding = Binding::of(roots, &name);
        if let Some(gpu) = binding.as_ref().and_then(|binding| gpu(pci, kept.get(binding)?)) {
            gpus.push(gpu);
            continue;
        }
        let Some(info) = text(roots, host, &path, 16 * 1024) else {
            host.warn(format!("/proc/{path}: missing; the GPU is left out"));
            continue;
        };
        match gpu(pci, &info) {
            Some(gpu) => {
                // The module has the UUID once the GPU has been used.
                if let Some(binding) = binding.filter(|_| gpu.uuid.is_some()) {
                    kept.add(binding, info);
                }
                gpus.push(gpu);
            }
            None => host.warn(format!("/proc/{path}: no device minor; the GPU is left out")),
        }
    }
    gpus.sort_by_key(|g| (g.excluded, g.pci));
    for (index, gpu) in (0..).zip(&mut gpus) {
        gpu.index = index;
    }
    for gpu in &mut gpus {
        if gpu.uuid.is_none() {
            host.warn(format!(
                "GPU {}: the driver reports its UUID only after its first use",
                gpu.pci
            ));
        }
        gpu.mig_devices = mig_devices(roots, gpu.minor, host);
    }
    gpus
}

fn gpu(pci: PciAddress, info: &str) -> Option<Gpu> {
    let mut gpu = Gpu {
        index: 0,
        minor: u32::MAX,
        uuid: None,
        pci,
        name: String::new(),
        excluded: false,
        mig_devices: Vec::new(),
    };
    for (key, value) in fields(info) {
        match key {
            "Model" => value
                .chars()
                .take(128)
                .collect::<String>()
                .clone_into(&mut gpu.name),
            // The module prints question marks until it has the UUID.
            "GPU UUID" => gpu.uuid = value.parse().ok(),
            "Device Minor" => gpu.minor = value.parse().ok()?,
            "GPU Excluded" | "GPU Blacklisted" => gpu.excluded = value.eq_ignore_ascii_case("yes"),
            _ => {}
        }
    }
    // 255 is /dev/nvidiactl and 254 /dev/nvidia-modeset; minors above 1023 are not GPUs either.
    (gpu.minor < 1024 && gpu.minor != 254 && gpu.minor != 255).then_some(gpu)
}

/// The MIG devices of a GPU, from `capabilities/gpu<minor>/mig/gi<N>/ci<M>/access`.
///
/// These files hold the minor numbers themselves, so nvoci need not read the long
/// `nvidia-caps/mig-minors`, which lists every possible instance.
fn mig_devices(roots: &Roots, minor: u32, host: &mut Host) -> Vec<MigDevice> {
    let base = format!("driver/nvidia/capabilities/gpu{minor}/mig");
    let mut devices = Vec::new();
    for gi in instances(roots, &base, "gi", host) {
        let dir = format!("{base}/gi{gi}");
        let compute = instances(roots, &dir, "ci", host);
        if compute.is_empty() {
            continue;
        }
        let Some(gi_minor) = cap_minor(roots, &format!("{dir}/access"), host) else {
            host.warn(format!(
                "/proc/{dir}/access: no minor number; its MIG devices are left out"
            ));
            continue;
        };
        for ci in compute {
            match cap_minor(roots, &format!("{dir}/ci{ci}/access"), host) {
                Some(ci_minor) => devices.push(MigDevice {
                    index: 0,
                    gi,
                    ci,
                    gi_minor,
                    ci_minor,
                    uuid: None,
                }),
                None => host.warn(format!(
                    "/proc/{dir}/ci{ci}/access: no minor number; the MIG device is left out"
                )),
            }
        }
    }
    for (index, device) in (0..).zip(&mut devices) {
        device.index = index;
    }
    devices
}

/// The numbers behind `prefix` of the directories in `dir`, sorted.
fn instances(roots: &Roots, dir: &str, prefix: &str, host: &mut Host) -> Vec<u32> {
    match roots.proc.read_dir(dir, MAX_INSTANCES) {
        Ok(entries) => {
            let mut ids: Vec<u32> = entries
                .iter()
                .filter_map(|e| e.name.to_str()?.strip_prefix(prefix)?.parse().ok())
                .collect();
            ids.sort_unstable();
            ids
        }
        Err(e) => {
            if !absent(&e) {
                host.warn(format!("/proc/{dir}: {e}"));
            }
            Vec::new()
        }
    }
}

fn cap_minors(roots: &Roots, host: &mut Host) -> CapMinors {
    CapMinors {
        mig_config: cap_minor(roots, "driver/nvidia/capabilities/mig/config", host),
        mig_monitor: cap_minor(roots, "driver/nvidia/capabilities/mig/monitor", host),
        fabric_mgmt: cap_minor(roots, "driver/nvidia-nvlink/capabilities/fabric-mgmt", host),
        fabric_imex_mgmt: cap_minor(roots, "driver/nvidia/capabilities/fabric-imex-mgmt", host),
    }
}

/// `DeviceFileMinor` of a capability file. Records the policy for its node.
fn cap_minor(roots: &Roots, path: &str, host: &mut Host) -> Option<u32> {
    let text = text(roots, host, path, 4096)?;
    let minor = fields(&text)
        .find(|(key, _)| *key == "DeviceFileMinor")
        .and_then(|(_, value)| value.parse().ok())
        .filter(|m| *m < 1 << 20)?;
    let (policy, _) = node_policy(&text);
    host.cap_policies.push((minor, policy));
    Some(minor)
}
