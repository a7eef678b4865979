//! Checks the driver's daemons: persistence, and the fabric manager of NVSwitch machines.

use super::{FABRIC, Finding, Inputs, ODD, PERSISTENCE, Severity};
use crate::doctor::packages::Packages;
use crate::host::pci::Bus;
use crate::host::{DriverFile, FileKind, NodeKind};
use crate::sys::daemon::{Caller, Fault};
use crate::vocabulary::or_empty;

const FABRIC_MANAGER: &str = "nv-fabricmanager";

pub(super) fn findings(inputs: &Inputs<'_>, bus: &Bus, packages: &Packages) -> Vec<Finding> {
    if inputs.host.kernel.is_none() {
        return Vec::new();
    }
    let mut found = vec![persistence(inputs)];
    found.extend(fabric(inputs, bus, packages));
    found.extend(left_out(inputs));
    found
}

/// Findings about files of the driver and its daemons that no container gets, since a user other
/// than root could have written them.
fn left_out(inputs: &Inputs<'_>) -> impl Iterator<Item = Finding> {
    let walk = inputs.roots.walk();
    let files = inputs.host.files.iter();
    files.filter_map(move |file| {
        let e = walk.find(&file.found, file.wanted()).err()?;
        let cause = format!("no container gets {}: {}: {}", file.name, e.what(), e.why());
        Some(Finding::new(&ODD, Severity::Warn, "driver files", cause).fix(e.fix_text()))
    })
}

fn socket(inputs: &Inputs<'_>, name: &str) -> bool {
    let is_it = |f: &&DriverFile| f.kind == FileKind::Socket && f.name == name;
    let file = inputs.host.files.iter().find(is_it);
    file.is_some_and(|f| inputs.roots.walk().find(&f.found, f.wanted()).is_ok())
}

fn persistence(inputs: &Inputs<'_>) -> Finding {
    if socket(inputs, "nvidia-persistenced") {
        return Finding::new(
            &PERSISTENCE,
            Severity::Ok,
            "persistence",
            "the socket of nvidia-persistenced exists",
        );
    }
    Finding::new(
        &PERSISTENCE,
        Severity::Info,
        "persistence",
        "nvidia-persistenced is not running: where nothing else holds the GPUs open, each first open initialises them anew, for seconds",
    )
    .fix("`systemctl enable --now nvidia-persistenced`")
}

/// Checks that the fabric manager runs with the driver's version; CUDA waits for it (error 802).
fn fabric(inputs: &Inputs<'_>, bus: &Bus, packages: &Packages) -> Option<Finding> {
    let switches = bus.switches.len().max(
        inputs
            .host
            .nodes
            .iter()
            .filter(|n| matches!(n.kind, NodeKind::NvSwitch(_)))
            .count(),
    );
    let installed = packages
        .iter()
        .find(|p| p.name.starts_with("nvidia-fabricmanager") && !p.name.contains("dev"));
    if switches == 0 {
        // Before B200, switches are on the bus; there they are behind network adapters.
        return installed
            .filter(|_| socket(inputs, "nvidia-fabricmanager"))
            .map(|p| {
                Finding::new(
                    &FABRIC,
                    Severity::Info,
                    "fabric manager",
                    format!(
                        "{} runs, but no NVSwitch is on the PCI bus: only some machines need it",
                        p.name
                    ),
                )
            });
    }
    let driver = or_empty(inputs.host.driver_version());
    if !running(inputs) {
        return Some(
            Finding::new(
                &FABRIC,
                Severity::Fail,
                "fabric manager",
                format!("this machine has {switches} NVSwitches and no fabric manager runs: CUDA fails with error 802 while nvidia-smi works"),
            )
            .fix(format!(
                "install the fabric manager of exactly {driver} and run `systemctl enable --now nvidia-fabricmanager`"
            )),
        );
    }
    match installed {
        Some(p) if p.upstream() != driver => Some(
            Finding::new(
                &FABRIC,
                Severity::Fail,
                "fabric manager",
                format!(
                    "its version is {} and the driver's {driver}; they must be equal",
                    p.upstream()
                ),
            )
            .fix(format!(
                "install the package of {driver} and restart nvidia-fabricmanager"
            ))
            .evidence(format!("{} {}", p.name, p.version)),
        ),
        _ => Some(Finding::new(
            &FABRIC,
            Severity::Ok,
            "fabric manager",
            format!("it runs, for {switches} NVSwitches"),
        )),
    }
}

/// Whether root runs it on the host or in a container, as Kubernetes' GPU operator does. Other
/// users' processes do not count.
fn running(inputs: &Inputs<'_>) -> bool {
    let scan = Caller::of(&inputs.roots.proc).and_then(|caller| caller.find(FABRIC_MANAGER));
    scan.is_ok_and(|s| !s.daemons.is_empty() || s.refused.iter().any(|r| r.fault == Fault::Root))
}
