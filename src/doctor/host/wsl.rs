//! WSL2, link by link: the device, the adapter, Windows' driver, its package, the stubs, and what is in the way.

use super::{Finding, LINUX_DRIVER, Look, Severity, WSL};
use crate::doctor::packages::Packages;
use crate::host::wsl::Fault;
use crate::host::{FileKind, Wsl};

/// The links in order; a fault breaks one, and nothing is known of those behind it.
const LINKS: [&str; 5] = ["WSL2", "/dev/dxg", "adapter", "driver package", "loader stubs"];

pub(super) fn findings(look: &Look<'_>, packages: &Packages) -> Vec<Finding> {
    let Some(wsl) = &look.host.wsl else {
        return Vec::new();
    };
    let broken = wsl.fault.as_ref().map(link);
    let mut found = Vec::new();
    for (at, name) in LINKS.iter().enumerate() {
        if Some(at) == broken {
            if let Err(e) = wsl.check() {
                found.push(Finding::new(&WSL, Severity::Fail, *name, e.why()).fix(e.fix_text()));
            }
            break;
        }
        found.push(Finding::new(&WSL, Severity::Ok, *name, seen(look, wsl, at)));
    }
    found.extend(linux_driver(look, packages));
    if wsl.docker_desktop {
        found.push(Finding::new(
            &WSL,
            Severity::Info,
            "Docker Desktop",
            "it serves this distribution: its engine runs in a distribution of its own, with its own toolkit, so nvoci has no part in its containers",
        ));
    }
    found
}

/// Which link a fault breaks.
fn link(fault: &Fault) -> usize {
    match fault {
        Fault::Wsl1 => 0,
        Fault::NoDevice | Fault::Closed(_) => 1,
        Fault::NoAdapter | Fault::OtherVendors | Fault::TooOld(_) => 2,
        Fault::NoStub(_) => 4,
        _ => 3,
    }
}

fn seen(look: &Look<'_>, wsl: &Wsl, at: usize) -> String {
    match at {
        0 => format!("the kernel is {}", super::release(look)),
        1 => "it opens".to_owned(),
        2 => match (wsl.nvidia().next(), wsl.version()) {
            (Some(adapter), Some(version)) => format!("{adapter}, Windows driver {version}"),
            (Some(adapter), None) => adapter.to_string(),
            (None, _) => "not asked: the device speaks another protocol".to_owned(),
        },
        3 => wsl
            .stores
            .iter()
            .map(|s| s.display().to_string())
            .collect::<Vec<_>>()
            .join(", "),
        _ => {
            let stubs = look
                .host
                .files
                .iter()
                .filter(|f| matches!(f.kind, FileKind::Library { .. }));
            format!("{} libraries", stubs.count())
        }
    }
}

/// Packages that carry a Linux driver's libcuda.
fn linux_driver(look: &Look<'_>, packages: &Packages) -> Option<Finding> {
    const STEMS: [&str; 6] = [
        "libcuda1",
        "libnvidia-compute-",
        "nvidia-driver",
        "nvidia-kernel-",
        "nvidia-utils",
        "xserver-xorg-video-nvidia",
    ];
    let mut strangers: Vec<String> = packages
        .iter()
        .filter(|p| STEMS.iter().any(|stem| p.name.starts_with(stem)))
        .map(|p| format!("package {} {}", p.name, p.version))
        .collect();
    strangers.extend(
        look.host
            .warnings
            .iter()
            .filter(|w| w.contains("Linux driver"))
            .cloned(),
    );
    if strangers.is_empty() {
        return None;
    }
    let mut finding = Finding::new(
        &LINUX_DRIVER,
        Severity::Warn,
        "Linux driver",
        "a Linux driver is installed inside WSL, where the driver is Windows' own: its libcuda may be found first and has no kernel module",
    )
    .fix("remove these packages (`apt purge 'libnvidia-*' 'nvidia-driver*' 'libcuda1'`), then `ldconfig`; nothing of the driver is to be installed in WSL");
    finding.evidence = strangers;
    Some(finding)
}
