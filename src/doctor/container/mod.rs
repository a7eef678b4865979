//! Checks a running container: its nodes, libraries and requests, and why they fail.
//!
//! nvoci executes nothing of the container. A child with the container's rights in its device
//! cgroup opens the nodes ([`crate::sys::probe`]). All else is read inside the container's root,
//! bounded.

mod find;
mod fix;
mod granted;
mod inspect;
mod judge;
#[cfg(test)]
mod tests;

pub use find::{Found, find};
pub use fix::Repair;
pub use inspect::Seen;

use super::check::checks;
use super::{Finding, Report, Severity};
use crate::host::Host;

checks! {
    NONE = 7401, "container.none", "No such container is running here.";
    NO_GPU = 7402, "container.no-gpu", "The container has no GPU.";
    NODE = 7403, "container.node-refused", "A device node does not open: the device cgroup refuses it.";
    UVM = 7404, "container.uvm", "The container has GPUs but not /dev/nvidia-uvm: CUDA fails with error 999.";
    PERMISSION = 7405, "container.permission", "A device node does not open for the container's user.";
    DEAD = 7406, "container.node-dead", "No driver answers at a device node of the container.";
    MISSING = 7407, "container.node-missing", "A device node that every GPU container needs is missing.";
    CAPABILITIES = 7408, "container.capabilities", "NVIDIA_DRIVER_CAPABILITIES lacks `compute`, which CUDA needs.";
    LIBCUDA = 7409, "container.libcuda", "The loader would not find the host's libcuda.so.1, but another one or none.";
    MAPPED = 7410, "container.mapped", "A process has a libcuda in use that is not the host's.";
    CHANGED = 7411, "container.driver-changed", "The host's driver was changed while the container ran.";
    DELETED = 7412, "container.deleted", "A process has driver files in use that are deleted on the host.";
    VISIBLE = 7413, "container.visible", "The requested GPUs, the present ones and CUDA_VISIBLE_DEVICES do not fit.";
    RELOAD = 7414, "container.reload", "The container's GPUs are not registered with systemd: the next daemon-reload removes them.";
    WARNING = 7415, "container.warning", "The injection left a warning.";
    FIXED = 7416, "container.fix", "The result of --fix.";
    UNREAD = 7417, "container.not-looked-at", "Some part of the container could not be read.";
    PAUSED = 7452, "container.paused", "The container is paused, so none of its device nodes was opened.";
}

/// The report on an inspected container.
pub fn report(seen: &Seen, host: &Host) -> Report {
    let container = &seen.container;
    let mut report = Report::new(format!("container {}", container.id));
    let process = format!("/proc/{}", container.pid);
    report.fact(
        "engine",
        container.engine.unwrap_or("unknown"),
        format!("{process}/cgroup"),
    );
    report.fact("pid", container.pid.to_string(), "/proc");
    if let Some(dir) = &container.driver_dir {
        report.fact(
            "driver directory",
            dir.display().to_string(),
            format!("{process}/mountinfo"),
        );
    }
    if let Ok(grant) = &seen.grant {
        let devices = grant.devices.iter().map(|(path, ..)| path.display().to_string());
        report.fact(
            "granted",
            devices.collect::<Vec<_>>().join(" "),
            "/run/nvoci/grants",
        );
    }
    if let Some(version) = &container.driver {
        report.fact("driver given", version, "the record of the driver directory");
    }
    if let Some(version) = host.driver_version() {
        report.fact(
            "driver of the host",
            version.to_string(),
            "/proc/driver/nvidia/version",
        );
    }
    for finding in judge::findings(seen, host) {
        report.add(finding);
    }
    report
}

/// The report if no such container runs.
pub fn none(name: &str, why: &str) -> Report {
    let mut report = Report::new(format!("container {name}"));
    report.add(
        Finding::new(&NONE, Severity::Fail, "container", why)
            .fix("name a running one by its id, its name (Docker, Podman), or the number of one of its processes; `nvoci ps` lists those with GPUs"),
    );
    report
}

/// Why `--fix` cannot repair the nodes that do not open; `None` if all open.
pub fn refused(seen: &Seen) -> Option<Finding> {
    let refused = seen
        .nodes
        .iter()
        .any(|s| s.state == inspect::State::Fails(rustix::io::Errno::PERM));
    refused.then(|| {
        let why = match &seen.grant {
            Ok(_) => "the host's grant does not name the nodes that do not open",
            Err(why) => why.as_str(),
        };
        let cause = format!("nothing was done: {why}, and what is inside a container proves nothing");
        Finding::new(&FIXED, Severity::Fail, "--fix", cause)
            .fix("start the container again, with its GPUs given by the runtime or CDI")
    })
}

/// The result of a repair, as a finding for the report after it.
pub fn fixed(repair: &Repair, result: Result<(), String>) -> Finding {
    let finding = match result {
        Ok(()) => Finding::new(
            &FIXED,
            Severity::Ok,
            "--fix",
            format!("gave access back to {} nodes", repair.devices.len()),
        ),
        Err(why) => Finding::new(
            &FIXED,
            Severity::Fail,
            "--fix",
            format!("nothing could be done: {why}"),
        )
        .fix("restart the container"),
    };
    repair.describe().into_iter().fold(finding, Finding::evidence)
}
