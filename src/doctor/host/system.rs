//! Checks the driver's environment: firmware, SELinux, an outer container, cgroups, the mount
//! table.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use super::{CGROUPS, Finding, Inputs, LEAK, NESTED, SELINUX, Severity};
use crate::error::Code;
use crate::sys::ns::in_user_namespace;
use crate::sys::procfs;
use crate::sys::root::selinux_label;
use crate::sys::selinux::{DEVICE, Policy};

/// The firmware's variable, with the GUID of the global variables (UEFI 2.10, 3.3).
const SECURE_BOOT: &str = "firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// The number of mounts of one file on a host that proves a leak: a container's mounts belong in
/// its own namespace.
const LEAKING: usize = 8;
const MAX_MOUNTINFO: u64 = 64 << 20;

pub(super) fn findings(inputs: &Inputs<'_>) -> Vec<Finding> {
    [
        selinux(inputs),
        nested(inputs),
        cgroup_finding(inputs),
        leak(inputs),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Whether secure boot is on; `None` without UEFI. Four bytes of attributes come first.
pub(super) fn secure_boot(inputs: &Inputs<'_>) -> Option<bool> {
    let bytes = inputs.roots.sys.as_ref()?.read(SECURE_BOOT, 64).ok()?;
    Some(bytes.get(4) == Some(&1))
}

/// The type of a container's processes in container-selinux and the reference policy.
const CONTAINER: &str = "system_u:system_r:container_t:s0";
/// Booleans of container-selinux that let containers use devices.
const BOOLEANS: [&str; 2] = ["container_use_devices", "container_use_xserver_devices"];

fn selinux(inputs: &Inputs<'_>) -> Option<Finding> {
    let policy = Policy::enforcing(inputs.roots.sys.as_ref()?)?;
    let node = inputs.roots.dev.resolve("nvidiactl").ok();
    let label = node.and_then(|node| selinux_label(node.as_fd()));
    let denied = label
        .as_deref()
        .map(|label| policy.denied(CONTAINER, label, DEVICE));
    let (is_allowed, why) = match (label, denied) {
        (Some(label), Some(Ok(denied))) => {
            let (to, on) = (
                "a container's processes (container_t)",
                format!("the GPUs' nodes ({label})"),
            );
            (
                denied.is_empty(),
                format!("enforcing, and denies {} to {to} on {on}", denied.join(", ")),
            )
        }
        // The policy has no such type, or cannot be queried.
        _ => (
            BOOLEANS.iter().any(|name| policy.boolean(name) == Some(true)),
            "enforcing, and its policy keeps containers with a label from GPU nodes".to_owned(),
        ),
    };
    if is_allowed {
        let cause = "enforcing, and containers may use devices";
        return Some(Finding::new(&SELINUX, Severity::Ok, "SELinux", cause));
    }
    let fix = match policy.boolean(BOOLEANS[0]) {
        Some(_) => {
            "`setsebool -P container_use_devices 1`, or start containers with `--security-opt label=disable`"
        }
        None => Code::Selinux.default_fix(),
    };
    let why = format!("{why}: NVML gives `Insufficient Permissions`");
    Some(Finding::new(&SELINUX, Severity::Warn, "SELinux", &why).fix(fix))
}

/// Finds the marks that container managers leave inside their containers.
fn nested(inputs: &Inputs<'_>) -> Option<Finding> {
    const MARKS: [(&str, &str); 3] = [
        (".dockerenv", "docker"),
        ("run/.containerenv", "podman"),
        ("dev/.lxc", "lxc"),
    ];
    // container_interface of systemd.io: the manager's name.
    let named = inputs.system.read_text("run/systemd/container", 64).ok();
    let named = named.map(|n| n.trim().to_owned()).filter(|n| !n.is_empty());
    let kind = named
        .or_else(|| {
            let mark = MARKS.iter().find(|(file, _)| inputs.system.exists(file));
            mark.map(|(_, kind)| (*kind).to_owned())
        })
        .filter(|kind| kind != "wsl")?;
    let finding = if in_user_namespace() {
        Finding::new(
            &NESTED,
            Severity::Warn,
            "container",
            format!("this host is itself an unprivileged container ({kind}): nvoci can neither make nodes nor change device cgroups here"),
        )
        .fix("give this container the GPU nodes from outside (LXC: `lxc.mount.entry` and `lxc.cgroup2.devices.allow`), and set `no-cgroups = true` and `load-kmods = false` in /etc/nvoci/config.toml")
    } else {
        Finding::new(
            &NESTED,
            Severity::Info,
            "container",
            format!(
                "this host is itself a container ({kind}): driver and nodes are those that its host gave it"
            ),
        )
    };
    Some(finding)
}

/// How the cgroup hierarchies are mounted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Cgroups {
    /// Version 1 only.
    V1,
    /// Version 1 with version 2 beside it.
    Hybrid,
    /// Version 2 only.
    V2,
    /// None is visible.
    None,
}

impl Cgroups {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::Hybrid => "hybrid v1",
            Self::V2 => "v2",
            Self::None => "none",
        }
    }
}

pub(super) fn cgroups(inputs: &Inputs<'_>) -> Cgroups {
    let there = |path: &str| inputs.roots.sys.as_ref().is_some_and(|sys| sys.exists(path));
    if there("fs/cgroup/cgroup.controllers") {
        Cgroups::V2
    } else if there("fs/cgroup/unified/cgroup.controllers") {
        Cgroups::Hybrid
    } else if there("fs/cgroup/devices") || there("fs/cgroup/systemd") {
        Cgroups::V1
    } else {
        Cgroups::None
    }
}

fn cgroup_finding(inputs: &Inputs<'_>) -> Option<Finding> {
    let devices = inputs.roots.sys.as_ref().is_some_and(|sys| {
        sys.exists("fs/cgroup/devices/devices.list") || sys.exists("fs/cgroup/devices/cgroup.procs")
    });
    match cgroups(inputs) {
        Cgroups::V2 => None,
        Cgroups::None => Some(
            Finding::new(
                &CGROUPS,
                Severity::Warn,
                "cgroups",
                "no hierarchy is mounted at /sys/fs/cgroup",
            )
            .fix("mount cgroup2 there; engines cannot keep containers from devices otherwise"),
        ),
        _ if !devices => Some(
            Finding::new(
                &CGROUPS,
                Severity::Warn,
                "cgroups",
                "the v1 hierarchy `devices` is not mounted: engines cannot keep containers from devices",
            )
            .fix("boot with `systemd.unified_cgroup_hierarchy=1`, or mount the hierarchy"),
        ),
        Cgroups::Hybrid => Some(
            Finding::new(
                &CGROUPS,
                Severity::Info,
                "cgroups",
                "v1 and v2 side by side: crun refuses this layout where controllers are on v2, runc takes v1",
            )
            .fix("boot with `systemd.unified_cgroup_hierarchy=1` for v2 alone"),
        ),
        Cgroups::V1 => None,
    }
}

/// Finds driver files that a faulty injection mounted on the host itself, more with each container.
fn leak(inputs: &Inputs<'_>) -> Option<Finding> {
    let text = inputs.roots.proc.read("1/mountinfo", MAX_MOUNTINFO).ok()?;
    let mut counts: HashMap<PathBuf, usize> = HashMap::new();
    for mount in procfs::mounts(&text) {
        let name = mount.mount_point.file_name().and_then(OsStr::to_str);
        if name.is_some_and(|name| name.starts_with("libnvidia-") || name.starts_with("libcuda.so")) {
            *counts.entry(mount.mount_point).or_default() += 1;
        }
    }
    let (point, count) = counts.into_iter().max_by_key(|(_, n)| *n)?;
    let point = point.display();
    (count >= LEAKING).then(|| {
        Finding::new(
            &LEAK,
            Severity::Warn,
            "mounts",
            format!("{point} is mounted {count} times on the host: another injection leaked through a shared volume, and it will reach the kernel's limit on mounts"),
        )
        .fix("stop the containers with `rshared` or Bidirectional volumes, unmount the copies, and update the vendor's toolkit to 1.17 or later")
    })
}
