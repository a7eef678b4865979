//! Checks the host: driver, device nodes, and their environment.
//!
//! | module | checks |
//! |---|---|
//! | `pci` | NVIDIA's devices on the bus, and the driver bound to each |
//! | `driver` | module and libraries: one version, several versions, pending changes |
//! | `nodes` | device nodes: missing, wrong number, closed to users |
//! | `services` | persistence daemon, fabric manager |
//! | `system` | secure boot, SELinux, an outer container, cgroups, leaked mounts |
//! | `denials` | accesses that a security module denied, in the logs |
//! | `wsl` | the chain from Windows' driver to the stubs, link by link |
//! | `site` | the policy file, CDI specifications, a second toolkit |
//! | `advisories` | installed runtimes and toolkits with a known vulnerability |

mod advisories;
mod denials;
mod driver;
mod modinfo;
mod nodes;
mod pci;
mod services;
mod site;
mod system;
#[cfg(test)]
mod tests;
mod wsl;

use super::check::checks;
use super::packages::Packages;
use super::{Finding, Report, Severity};
use crate::apply::record::RUN_DIR;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::kept;
use crate::host::pci::Bus;
use crate::host::{Gpu, Host, Roots};
use crate::sys::root::Root;
use crate::vocabulary::or_empty;

checks! {
    DRIVER = 7101, "host.driver", "The driver's kernel module or libraries are missing, or their versions differ.";
    BUS = 7102, "host.gpu-without-driver", "A GPU on the PCI bus is not bound to NVIDIA's kernel module, or the bus has no GPU.";
    PENDING = 7103, "host.pending-reboot", "The module on disk and the loaded one differ in version: the next boot causes or ends a mismatch.";
    SEVERAL = 7104, "host.several-drivers", "Libraries of more than one driver version are in the loader's directories.";
    NODES = 7105, "host.device-nodes", "A device node is missing or has another number than the driver's.";
    UVM = 7106, "host.uvm", "The module nvidia_uvm is not loaded or its node is missing: CUDA fails with error 999.";
    PERMISSIONS = 7107, "host.permissions", "Device nodes are not open to everybody.";
    SELINUX = 7108, "host.selinux", "SELinux is enforcing and its policy does not let containers use devices.";
    PERSISTENCE = 7109, "host.persistence", "No process keeps the driver initialized, so the first open of each GPU takes seconds.";
    FABRIC = 7110, "host.fabric-manager", "The fabric manager does not fit the machine: missing, of another version, or without NVSwitches.";
    SECURE_BOOT = 7111, "host.secure-boot", "Secure boot is on and the module, which is on disk, is not loaded.";
    WSL = 7112, "host.wsl", "A link of the chain from Windows' driver to the container is broken.";
    LINUX_DRIVER = 7113, "host.linux-driver-in-wsl", "A Linux driver is installed inside WSL and may hide Windows' own.";
    NESTED = 7114, "host.nested", "This host is itself a container.";
    VULNERABLE = 7115, "host.known-vulnerable", "An installed runtime, engine or toolkit has a published vulnerability.";
    TWO_TOOLKITS = 7116, "host.two-toolkits", "The vendor's toolkit and nvoci are both installed.";
    CDI = 7117, "host.cdi", "A CDI specification is stale, unsafe or in conflict.";
    CGROUPS = 7118, "host.cgroups", "The device cgroup is missing, or in a layout that some runtimes refuse.";
    CONFIG = 7119, "host.config", "nvoci's configuration could not be read.";
    NOT_IN_EFFECT = 7120, "host.config-not-in-effect", "A configured key has no effect.";
    LEAK = 7121, "host.mount-leak", "Driver files are mounted over and over on the host.";
    ODD = 7122, "host.odd", "Discovery of the driver found something unusual.";
    UNREAD = 7123, "host.not-looked-at", "Something could not be read, so it was not judged.";
    KEPT = 7124, "host.kept-gpus", "The record of a GPU differs from its kernel module.";
    DENIED = 7125, "host.denied", "A security module denied an access to the driver, or something to nvoci, in the last day.";
}

/// The inputs of this area's checks.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// The driver root, procfs and sysfs.
    pub roots: &'a Roots,
    /// The host that was discovered through them.
    pub host: &'a Host,
    /// The GPUs that a start uses, which come from the record of an earlier discovery.
    pub believed: &'a [Gpu],
    /// The policy, or the error of its file.
    pub config: &'a Result<Config>,
    /// The host's own root: package databases, modules, configuration.
    pub system: &'a Root,
}

/// Runs all checks of the host.
pub fn report(inputs: &Inputs<'_>) -> Report {
    let mut report = Report::new("host");
    let packages = Packages::read(inputs.system);
    facts(inputs, &mut report);
    let bus = inputs.roots.sys.as_ref().map(Bus::read).unwrap_or_default();
    let areas = [
        pci::findings(inputs, &bus),
        driver::findings(inputs, &bus),
        nodes::findings(inputs),
        wsl::findings(inputs, &packages),
        services::findings(inputs, &bus, &packages),
        system::findings(inputs),
        denials::findings(inputs),
        site::findings(inputs),
        advisories::findings(&packages),
        odd(inputs, &packages),
        kept_gpus(inputs).into_iter().collect(),
    ];
    for finding in areas.into_iter().flatten() {
        report.add(finding);
    }
    report
}

/// The report if even the configured directories are missing.
pub fn unreachable(error: &Error) -> Report {
    let mut report = Report::new("host");
    let cause = format!("{}: {}", error.what(), error.why());
    report.add(Finding::new(&DRIVER, Severity::Fail, "driver", cause).fix(error.fix_text()));
    report
}

fn facts(inputs: &Inputs<'_>, report: &mut Report) {
    let host = inputs.host;
    let (driver, gpus) = match host.wsl {
        Some(_) => ("/dev/dxg", "/dev/dxg"),
        None => ("/proc/driver/nvidia/version", "/proc/driver/nvidia/gpus"),
    };
    report.fact("platform", host.platform.name(), "/proc and /dev");
    if let Some(version) = host.driver_version() {
        report.fact("driver", version.to_string(), driver);
    }
    if let Some(kernel) = &host.kernel {
        report.fact(
            "module",
            if kernel.open {
                "open kernel module"
            } else {
                "proprietary kernel module"
            },
            driver,
        );
    }
    if let Some(version) = host.user_version.filter(|_| host.wsl.is_none()) {
        report.fact("libraries", version.to_string(), "the name of libcuda.so");
    }
    report.fact("kernel", release(inputs), "/proc/sys/kernel/osrelease");
    for gpu in &host.gpus {
        report.fact(
            format!("GPU {}", gpu.index),
            format!("{} at {}", gpu.name, gpu.pci),
            gpus,
        );
    }
    report.fact("cgroups", system::cgroups(inputs).name(), "/sys/fs/cgroup");
}

/// The running kernel's release, as `uname -r` prints it.
fn release(inputs: &Inputs<'_>) -> String {
    let text = inputs.roots.proc.read_text("sys/kernel/osrelease", 256);
    text.unwrap_or_default().trim().to_owned()
}

/// Checks that a start uses the GPUs that the host has.
fn kept_gpus(inputs: &Inputs<'_>) -> Option<Finding> {
    let believed = |gpu: &Gpu| inputs.believed.iter().find(|b| b.pci == gpu.pci);
    let is = inputs.host.gpus.iter().find(|gpu| believed(gpu) != Some(gpu))?;
    let describe = |gpu: &Gpu| format!("{} {}, minor {}", gpu.name, or_empty(gpu.uuid), gpu.minor);
    let file = format!("{RUN_DIR}/{}", kept::NAME);
    let finding = Finding::new(
        &KEPT,
        Severity::Fail,
        format!("GPU {}", is.pci),
        format!("{file} says of it what its kernel module does not: containers get another device, or none"),
    );
    let finding = finding
        .fix(format!("rm {file}"))
        .evidence(format!("module: {}", describe(is)));
    Some(finding.evidence(believed(is).map_or_else(
        || "kept: nothing".to_owned(),
        |b| format!("kept: {}", describe(b)),
    )))
}

/// Findings of discovery that no other check has, and parts that could not be read.
fn odd(inputs: &Inputs<'_>, packages: &Packages) -> Vec<Finding> {
    let mut found: Vec<Finding> = inputs
        .host
        .warnings
        .iter()
        .filter(|w| !w.starts_with("/dev/"))
        .map(|w| Finding::new(&ODD, Severity::Info, "discovery", w.clone()))
        .collect();
    if let Some(why) = packages.unread() {
        found.push(Finding::new(&UNREAD, Severity::Info, "packages", why));
    }
    if !rustix::process::geteuid().is_root() {
        found.push(Finding::new(
            &UNREAD,
            Severity::Info,
            "privilege",
            "not run as root: the users of the GPUs, and files that only root may read, were not checked",
        ));
    }
    found
}
