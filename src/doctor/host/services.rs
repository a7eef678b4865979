//! The driver's daemons: persistence, and the fabric manager of NVSwitch machines.

use super::{FABRIC, Finding, Look, ODD, PERSISTENCE, Severity};
use crate::doctor::packages::Packages;
use crate::host::pci::Bus;
use crate::host::{DriverFile, FileKind, NodeKind};
use crate::sys::daemon::{Caller, Fault};
use crate::vocabulary::or_empty;

const FABRIC_MANAGER: &str = "nv-fabricmanager";

pub(super) fn findings(look: &Look<'_>, bus: &Bus, packages: &Packages) -> Vec<Finding> {
    if look.host.kernel.is_none() {
        return Vec::new();
    }
    let mut found = vec![persistence(look)];
    found.extend(fabric(look, bus, packages));
    found.extend(left_out(look));
    found
}

/// Files of the driver and its daemons that no container gets, because somebody other than root could have put them there.
fn left_out(look: &Look<'_>) -> impl Iterator<Item = Finding> {
    let walk = look.roots.walk();
    let files = look.host.files.iter();
    files.filter_map(move |file| {
        let e = walk.find(&file.found, file.wanted()).err()?;
        let cause = format!(
            "{} is given to no container: {}: {}",
            file.name,
            e.what(),
            e.why()
        );
        Some(Finding::new(&ODD, Severity::Warn, "driver files", cause).fix(e.fix_text()))
    })
}

fn socket(look: &Look<'_>, name: &str) -> bool {
    let is_it = |f: &&DriverFile| f.kind == FileKind::Socket && f.name == name;
    let file = look.host.files.iter().find(is_it);
    file.is_some_and(|f| look.roots.walk().find(&f.found, f.wanted()).is_ok())
}

fn persistence(look: &Look<'_>) -> Finding {
    if socket(look, "nvidia-persistenced") {
        return Finding::new(
            &PERSISTENCE,
            Severity::Ok,
            "persistence",
            "nvidia-persistenced is there",
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

/// Fabric manager and driver must be of one version, and CUDA waits for it (error 802).
fn fabric(look: &Look<'_>, bus: &Bus, packages: &Packages) -> Option<Finding> {
    let switches = bus.switches.len().max(
        look.host
            .nodes
            .iter()
            .filter(|n| matches!(n.kind, NodeKind::NvSwitch(_)))
            .count(),
    );
    let installed = packages
        .iter()
        .find(|p| p.name.starts_with("nvidia-fabricmanager") && !p.name.contains("dev"));
    if switches == 0 {
        // Before B200 a switch is always seen; there it is hidden behind network adapters.
        return installed
            .filter(|_| socket(look, "nvidia-fabricmanager"))
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
    let driver = or_empty(look.host.driver_version());
    if !running(look) {
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
                    "it is of {} and the driver of {driver}; both must be the same",
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

/// On the host or, as Kubernetes' GPU operator has it, in a container of root's. No other user's process counts.
fn running(look: &Look<'_>) -> bool {
    let scan = Caller::of(&look.roots.proc).and_then(|caller| caller.find(FABRIC_MANAGER));
    scan.is_ok_and(|s| !s.daemons.is_empty() || s.refused.iter().any(|r| r.fault == Fault::Root))
}
