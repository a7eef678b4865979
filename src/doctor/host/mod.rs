//! The host: driver, device nodes, and what is around them.
//!
//! | module | looks at |
//! |---|---|
//! | `pci` | NVIDIA's devices on the bus, and which driver is bound to them |
//! | `driver` | module and libraries: of one version, of several, about to change |
//! | `nodes` | device nodes: missing, wrong number, not for everybody |
//! | `services` | persistence, fabric manager |
//! | `system` | secure boot, SELinux, containers around us, cgroups, leaked mounts |
//! | `wsl` | the chain from Windows' driver to the stubs, link by link |
//! | `site` | the policy file, CDI specifications, a second toolkit |
//! | `advisories` | installed runtimes and toolkits with a known vulnerability |

mod advisories;
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
    DRIVER = 7101, "host.driver", "The kernel module and the libraries of the driver are not both there, or not of one version.";
    BUS = 7102, "host.gpu-without-driver", "A GPU on the PCI bus is not driven by NVIDIA's kernel module, or there is none.";
    PENDING = 7103, "host.pending-reboot", "The module on disk is of another version than the loaded one: the next boot brings a mismatch or ends one.";
    SEVERAL = 7104, "host.several-drivers", "Libraries of more than one driver version are in the loader's directories.";
    NODES = 7105, "host.device-nodes", "A device node is missing or has a number that is not the driver's.";
    UVM = 7106, "host.uvm", "The module nvidia_uvm is not loaded or its node is missing: CUDA fails with error 999.";
    PERMISSIONS = 7107, "host.permissions", "Device nodes are not open to everybody.";
    SELINUX = 7108, "host.selinux", "SELinux is enforcing and its policy does not let containers use devices.";
    PERSISTENCE = 7109, "host.persistence", "Nothing keeps the driver initialised, so that the first open of each GPU takes seconds.";
    FABRIC = 7110, "host.fabric-manager", "The fabric manager does not fit the machine: missing, of another version, or without NVSwitches.";
    SECURE_BOOT = 7111, "host.secure-boot", "Secure boot is on and the module, which is on disk, is not loaded.";
    WSL = 7112, "host.wsl", "A link of the chain from Windows' driver to the container is broken.";
    LINUX_DRIVER = 7113, "host.linux-driver-in-wsl", "A Linux driver is installed inside WSL and gets in the way of Windows' own.";
    NESTED = 7114, "host.nested", "This host is itself a container.";
    VULNERABLE = 7115, "host.known-vulnerable", "An installed runtime, engine or toolkit has a published vulnerability.";
    TWO_TOOLKITS = 7116, "host.two-toolkits", "The vendor's toolkit and nvoci are both in place.";
    CDI = 7117, "host.cdi", "A CDI specification is stale, unsafe or in conflict.";
    CGROUPS = 7118, "host.cgroups", "The device cgroup is missing, or in a layout that some runtimes refuse.";
    CONFIG = 7119, "host.config", "nvoci's configuration could not be read.";
    NOT_IN_EFFECT = 7120, "host.config-not-in-effect", "A configured key has no effect.";
    LEAK = 7121, "host.mount-leak", "Driver files are mounted over and over on the host.";
    ODD = 7122, "host.odd", "Something unusual was seen while looking for the driver.";
    UNREAD = 7123, "host.not-looked-at", "Something could not be read, so it was not judged.";
    KEPT = 7124, "host.kept-gpus", "What was kept of a GPU is not what its kernel module says.";
}

/// What this area looks at.
#[derive(Debug)]
pub struct Look<'a> {
    /// The driver root, procfs and sysfs.
    pub roots: &'a Roots,
    /// What was discovered through them.
    pub host: &'a Host,
    /// The GPUs as a start sees them, which believes what was kept of them.
    pub believed: &'a [Gpu],
    /// The policy, or why there is none.
    pub config: &'a Result<Config>,
    /// The host's own root: package databases, modules, configuration.
    pub system: &'a Root,
}

/// Looks at the host.
pub fn report(look: &Look<'_>) -> Report {
    let mut report = Report::new("host");
    let packages = Packages::read(look.system);
    facts(look, &mut report);
    let bus = look.roots.sys.as_ref().map(Bus::read).unwrap_or_default();
    let areas = [
        pci::findings(look, &bus),
        driver::findings(look, &bus),
        nodes::findings(look),
        wsl::findings(look, &packages),
        services::findings(look, &bus, &packages),
        system::findings(look),
        site::findings(look),
        advisories::findings(&packages),
        odd(look, &packages),
        kept_gpus(look).into_iter().collect(),
    ];
    for finding in areas.into_iter().flatten() {
        report.add(finding);
    }
    report
}

/// The report where not even the configured directories are there.
pub fn unreachable(error: &Error) -> Report {
    let mut report = Report::new("host");
    let cause = format!("{}: {}", error.what(), error.why());
    report.add(Finding::new(&DRIVER, Severity::Fail, "driver", cause).fix(error.fix_text()));
    report
}

fn facts(look: &Look<'_>, report: &mut Report) {
    let host = look.host;
    let (driver, gpus) = match host.wsl {
        Some(_) => ("/dev/dxg", "/dev/dxg"),
        None => ("/proc/driver/nvidia/version", "/proc/driver/nvidia/gpus"),
    };
    report.fact("platform", host.platform.name(), "/proc and /dev");
    if let Some(version) = host.driver_version() {
        report.fact("driver", version, driver);
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
    if let Some(version) = host.user_version.as_ref().filter(|_| host.wsl.is_none()) {
        report.fact("libraries", version, "the name of libcuda.so");
    }
    report.fact("kernel", release(look), "/proc/sys/kernel/osrelease");
    for gpu in &host.gpus {
        report.fact(
            format!("GPU {}", gpu.index),
            format!("{} at {}", gpu.name, gpu.pci),
            gpus,
        );
    }
    report.fact("cgroups", system::cgroups(look).name(), "/sys/fs/cgroup");
}

/// The running kernel's release, as `uname -r` prints it.
fn release(look: &Look<'_>) -> String {
    let text = look.roots.proc.read_text("sys/kernel/osrelease", 256);
    text.unwrap_or_default().trim().to_owned()
}

/// Whether a start sees the GPUs that there are.
fn kept_gpus(look: &Look<'_>) -> Option<Finding> {
    let believed = |gpu: &Gpu| look.believed.iter().find(|b| b.pci == gpu.pci);
    let is = look.host.gpus.iter().find(|gpu| believed(gpu) != Some(gpu))?;
    let told = |gpu: &Gpu| format!("{} {}, minor {}", gpu.name, or_empty(gpu.uuid), gpu.minor);
    let file = format!("{RUN_DIR}/{}", kept::NAME);
    let finding = Finding::new(
        &KEPT,
        Severity::Fail,
        format!("GPU {}", is.pci),
        format!("{file} says of it what its kernel module does not: containers get another device, or none"),
    );
    let finding = finding
        .fix(format!("rm {file}"))
        .evidence(format!("module: {}", told(is)));
    Some(
        finding.evidence(
            believed(is).map_or_else(|| "kept: nothing".to_owned(), |b| format!("kept: {}", told(b))),
        ),
    )
}

/// What discovery found odd and no other check has named, and what could not be looked at.
fn odd(look: &Look<'_>, packages: &Packages) -> Vec<Finding> {
    let mut found: Vec<Finding> = look
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
            "not run as root: who holds the GPUs, and files that only root may read, were not looked at",
        ));
    }
    found
}
