//! Checks WSL2 link by link: device, adapter, Windows' driver, driver package, stubs, and
//! obstacles.

use super::{Finding, Inputs, LINUX_DRIVER, Severity, WSL};
use crate::doctor::packages::Packages;
use crate::host::wsl::Fault;
use crate::host::{FileKind, Wsl};

/// The links in order. A fault breaks one; the state of the later ones is unknown.
const LINKS: [&str; 5] = ["WSL2", "/dev/dxg", "adapter", "driver package", "loader stubs"];

pub(super) fn findings(inputs: &Inputs<'_>, packages: &Packages) -> Vec<Finding> {
    let Some(wsl) = &inputs.host.wsl else {
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
        found.push(Finding::new(&WSL, Severity::Ok, *name, seen(inputs, wsl, at)));
    }
    found.extend(linux_driver(inputs, packages));
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

/// The link that a fault breaks.
fn link(fault: &Fault) -> usize {
    match fault {
        Fault::Wsl1 => 0,
        Fault::NoDevice | Fault::Closed(_) | Fault::Denied => 1,
        Fault::NoAdapter | Fault::OtherVendors | Fault::TooOld(_) => 2,
        Fault::NoStub(_) => 4,
        _ => 3,
    }
}

fn seen(inputs: &Inputs<'_>, wsl: &Wsl, at: usize) -> String {
    match at {
        0 => format!("the kernel is {}", super::release(inputs)),
        1 => "it opens".to_owned(),
        2 => match (wsl.nvidia().next(), wsl.version()) {
            (Some(adapter), Some(version)) => format!("{adapter}, Windows driver {version}"),
            (Some(adapter), None) => adapter.to_string(),
            (None, _) => "not queried: the device has another protocol".to_owned(),
        },
        3 => wsl
            .stores
            .iter()
            .map(|s| s.display().to_string())
            .collect::<Vec<_>>()
            .join(", "),
        _ => {
            let stubs = inputs
                .host
                .files
                .iter()
                .filter(|f| matches!(f.kind, FileKind::Library { .. }));
            format!("{} libraries", stubs.count())
        }
    }
}

/// Packages with a Linux driver's libcuda.
fn linux_driver(inputs: &Inputs<'_>, packages: &Packages) -> Option<Finding> {
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
        inputs
            .host
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
    .fix("remove these packages (`apt purge 'libnvidia-*' 'nvidia-driver*' 'libcuda1'`), then `ldconfig`; install no part of the driver in WSL");
    finding.evidence = strangers;
    Some(finding)
}
