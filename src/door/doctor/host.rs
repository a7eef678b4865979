//! `nvoci doctor host`.

use std::process::ExitCode;

use lexopt::Arg;

use super::{next, show, usage};
use crate::config::Config;
use crate::doctor::Report;
use crate::doctor::host::{self, Look};
use crate::door::inject::kept_gpus;
use crate::door::{load_config, locations, print};
use crate::error::{Code, IoContext as _, Result};
use crate::host::{Host, Roots};
use crate::sys::root::Root;

const HELP: &str = "\
Usage: nvoci doctor host [--json]

Looks at the driver, the device nodes and what is around them: GPUs without a driver, module against
libraries, a pending reboot, uvm, permissions, SELinux, secure boot, persistence, fabric manager,
WSL2 link by link, CDI specifications, the policy file, known-vulnerable runtimes and toolkits.
Works without root; what could not be looked at is said.

  --json   as one JSON document
  --help   this text
";

/// Runs the area on the arguments after its name.
pub(super) fn run(mut args: lexopt::Parser) -> Result<ExitCode> {
    let mut as_json = false;
    while let Some(arg) = next(&mut args)? {
        match arg {
            Arg::Long("json") => as_json = true,
            Arg::Long("help") | Arg::Short('h') => {
                print(HELP)?;
                return Ok(ExitCode::SUCCESS);
            }
            other => return Err(usage(other.unexpected().to_string())),
        }
    }
    show(&look()?, as_json)
}

/// What is found on this host.
///
/// # Errors
/// What [`Host::discover`] cannot go on without.
pub(super) fn look() -> Result<Report> {
    let config = load_config(None);
    // A broken policy is a finding; the rest is looked at by the defaults.
    let defaults = Config::default();
    let locations = locations(config.as_ref().unwrap_or(&defaults));
    let system = Root::open("/").context(Code::System, || "open /")?;
    let roots = match Roots::open(&locations) {
        Ok(roots) => roots,
        Err(e) => return Ok(host::unreachable(&e)),
    };
    let found = Host::discover(&roots, &locations)?;
    let look = Look {
        roots: &roots,
        host: &found,
        believed: &Host::begin(&roots, &mut kept_gpus()).gpus,
        config: &config,
        system: &system,
    };
    Ok(host::report(&look))
}
