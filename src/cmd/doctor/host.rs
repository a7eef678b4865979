//! `nvoci doctor host`.

use std::process::ExitCode;

use super::output::{Output, html_flag, json_flag};
use crate::cmd::cli::{Command, Page};
use crate::cmd::inject::kept_gpus;
use crate::cmd::{load_config, locations};
use crate::config::Config;
use crate::doctor::Report;
use crate::doctor::host::{self, Inputs};
use crate::doctor::html::Link;
use crate::error::{Code, IoContext as _, Result};
use crate::host::{Host, Roots};
use crate::sys::root::Root;

pub(super) static COMMAND: Command<Output> = Command {
    page: Page {
        name: "nvoci doctor host",
        summary: "check driver, device nodes and kernel (the default)",
        about: &[
            "Checks the driver, the device nodes and their surroundings: GPUs without a driver, module \
                  against libraries, a pending reboot, uvm, permissions, SELinux, secure boot, persistence, \
                  fabric manager, WSL2 link by link, CDI specifications, the policy file, known-vulnerable \
                  runtimes and toolkits. Works without root, and reports what it could not check.",
        ],
        ..Page::EMPTY
    },
    flags: &[json_flag(), html_flag()],
    ..Command::of(|output| run(&output))
};

pub(super) fn run(output: &Output) -> Result<ExitCode> {
    output.show_one(&check()?, Link::Host)
}

/// The findings about this host.
///
/// # Errors
/// Those of [`Host::discover`].
pub(in crate::cmd) fn check() -> Result<Report> {
    let config = load_config(None).map(|boxed| *boxed);
    // A broken policy is a finding; the other checks use the defaults.
    let defaults = Config::default();
    let locations = locations(config.as_ref().unwrap_or(&defaults));
    let system = Root::open("/").context(Code::System, || "open /")?;
    let roots = match Roots::open(&locations) {
        Ok(roots) => roots,
        Err(e) => return Ok(host::unreachable(&e)),
    };
    let found = Host::discover(&roots, &locations)?;
    let inputs = Inputs {
        roots: &roots,
        host: &found,
        believed: &Host::begin(&roots, &mut kept_gpus()).gpus,
        config: &config,
        system: &system,
    };
    Ok(host::report(&inputs))
}
