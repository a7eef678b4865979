//! Checks device nodes: present, with the driver's numbers, and open to their users.

use super::{Finding, Inputs, NODES, PERMISSIONS, Severity, UVM};
use crate::host::NodeKind;

/// The most nodes that are named.
const MAX_NAMED: usize = 16;

pub(super) fn findings(inputs: &Inputs<'_>) -> Vec<Finding> {
    let host = inputs.host;
    if host.kernel.is_none() {
        return Vec::new();
    }
    let mut found = vec![nodes(inputs), uvm(inputs)];
    found.extend(permissions(inputs));
    found
}

fn nodes(inputs: &Inputs<'_>) -> Finding {
    let host = inputs.host;
    let wrong: Vec<&String> = host.warnings.iter().filter(|w| w.starts_with("/dev/")).collect();
    // uvm has a check of its own. Of the capabilities, only MIG devices' are needed to compute.
    let mig = |minor: u32| {
        let mut devices = host.gpus.iter().flat_map(|g| &g.mig_devices);
        devices.any(|m| m.gi_minor == minor || m.ci_minor == minor)
    };
    let needed = |kind| match kind {
        NodeKind::Ctl | NodeKind::Gpu(_) => true,
        NodeKind::Cap(minor) => mig(minor),
        _ => false,
    };
    let missing: Vec<_> = host
        .nodes
        .iter()
        .filter(|n| !n.present && needed(n.kind))
        .collect();
    if wrong.is_empty() && missing.is_empty() {
        let text = format!(
            "{} nodes, all with the driver's numbers",
            host.nodes.iter().filter(|n| n.present).count()
        );
        return Finding::new(&NODES, Severity::Ok, "device nodes", text);
    }
    let only_caps = wrong.is_empty() && missing.iter().all(|n| matches!(n.kind, NodeKind::Cap(_)));
    let severity = if only_caps { Severity::Warn } else { Severity::Fail };
    let mut cause = Vec::new();
    if !wrong.is_empty() {
        cause.push(format!("{} with a number that is not the driver's", wrong.len()));
    }
    if !missing.is_empty() {
        cause.push(format!("{} missing", missing.len()));
    }
    let fix = if host.modify_device_files == Some(false) {
        "the module's parameter NVreg_ModifyDeviceFiles=0 forbids making them: make them by udev, or remove the parameter from /etc/modprobe.d"
    } else if wrong.is_empty() {
        "run `nvidia-modprobe -u -c 0` (with -f CAPABILITY-FILE for MIG), or `nvidia-smi`, as root at every boot"
    } else {
        "remove the wrong nodes and run `nvidia-modprobe -u -c 0`; numbers of uvm and MIG change from boot to boot, so no tool may keep nodes over a boot"
    };
    let mut finding = Finding::new(&NODES, severity, "device nodes", cause.join(", ")).fix(fix);
    finding
        .evidence
        .extend(wrong.into_iter().take(MAX_NAMED).cloned());
    let missing = missing.iter().take(MAX_NAMED);
    finding
        .evidence
        .extend(missing.map(|n| format!("{}: missing, should be {}", n.path.display(), n.number)));
    finding
}

fn uvm(inputs: &Inputs<'_>) -> Finding {
    let host = inputs.host;
    if host.node(NodeKind::Uvm).is_some_and(|n| n.present) {
        return Finding::new(&UVM, Severity::Ok, "nvidia-uvm", "loaded, and its node is there");
    }
    let loaded = host.majors.get("nvidia-uvm").is_some();
    let cause = if loaded {
        "the module is loaded, but /dev/nvidia-uvm is missing or wrong"
    } else {
        "the module is not loaded"
    };
    let made = inputs.config.as_ref().is_ok_and(|c| c.load_kmods.value);
    let cause = if made {
        format!("{cause}; the hook mends that for containers of root, not for rootless ones")
    } else {
        format!("{cause}, and `load-kmods = false` forbids the hook to mend that")
    };
    let severity = if made { Severity::Warn } else { Severity::Fail };
    Finding::new(&UVM, severity, "nvidia-uvm", cause)
        .fix("run `nvidia-modprobe -u -c 0` as root at every boot, or `echo nvidia_uvm > /etc/modules-load.d/nvidia-uvm.conf`")
}

fn permissions(inputs: &Inputs<'_>) -> Option<Finding> {
    let basic = |kind| matches!(kind, NodeKind::Ctl | NodeKind::Gpu(_) | NodeKind::Uvm);
    let closed: Vec<_> = inputs
        .host
        .nodes
        .iter()
        .filter(|n| n.present && basic(n.kind) && n.mode & 0o006 != 0o006)
        .collect();
    let first = closed.first()?;
    let joins = inputs.config.as_ref().is_ok_and(|c| c.additional_gids.value);
    let how = if joins && first.mode & 0o060 == 0o060 {
        format!(
            "nvoci lets the user of a container join group {}; rootless containers need `--group-add keep-groups`",
            first.gid
        )
    } else {
        "a user other than root fails with `Insufficient Permissions`".to_owned()
    };
    let mut finding = Finding::new(
        &PERMISSIONS,
        Severity::Warn,
        "device nodes",
        format!("{} are not open to everybody: {how}", closed.len()),
    )
    .fix("set the module's parameter NVreg_DeviceFileMode=0666 in /etc/modprobe.d, or add the group to those who use GPUs");
    finding.evidence = closed
        .iter()
        .take(MAX_NAMED)
        .map(|n| {
            format!(
                "{}: mode {:04o}, owner {}:{}",
                n.path.display(),
                n.mode,
                n.uid,
                n.gid
            )
        })
        .collect();
    Some(finding)
}
