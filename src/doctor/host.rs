//! The host: driver, device nodes, and what is around them.

use super::{Check, Finding, Report, Severity};
use crate::host::Host;

/// What is checked here.
pub const CHECKS: &[Check] = &[DRIVER];

const DRIVER: Check = Check {
    number: 7101,
    name: "host.driver",
    summary: "The kernel module and the libraries of the driver are not both there, or not of one version.",
};

/// Looks at the host.
pub fn report(host: &Host) -> Report {
    let mut report = Report::new("host");
    report.fact("platform", host.platform.name());
    if let Some(version) = host.driver_version() {
        report.fact("driver", version);
    }
    report.add(match host.check_versions() {
        Ok(()) => Finding::new(
            &DRIVER,
            Severity::Ok,
            "driver",
            "kernel module and libraries are of one version",
        ),
        Err(e) => Finding::new(&DRIVER, Severity::Fail, "driver", e.why()).fix(e.fix_text()),
    });
    report
}
