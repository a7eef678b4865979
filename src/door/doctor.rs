//! `nvoci doctor`: which area looks, and how its report is shown.

use std::ffi::OsString;
use std::process::ExitCode;

use lexopt::Arg;

use crate::doctor::render::wants_colour;
use crate::doctor::{self, Report};
use crate::error::{Code, Error, Result};
use crate::host::{Host, Roots};

const HELP: &str = "\
Usage: nvoci doctor [AREA] [--json]

Names the broken link of the chain from the driver to the framework, its cause, and the one fix. Only reads.

Areas
  host     driver, device nodes, kernel (the default)

  --json   as one JSON document: verdict and findings, with stable keys
  --help   this text

Exit status: 0 all is well, 1 warnings, 2 something cannot work.
";

/// Runs the command on the arguments after `doctor`.
///
/// # Errors
/// [`Code::Usage`] for an unknown area or option. What an area finds is no error, but its exit status.
pub fn run(args: impl Iterator<Item = OsString>) -> Result<ExitCode> {
    let mut parser = lexopt::Parser::from_args(args);
    let (mut area, mut as_json) = (None, false);
    while let Some(arg) = parser.next().map_err(|e| usage(e.to_string()))? {
        match arg {
            Arg::Long("json") => as_json = true,
            Arg::Long("help") | Arg::Short('h') => {
                super::print(HELP)?;
                return Ok(ExitCode::SUCCESS);
            }
            Arg::Value(name) if area.is_none() => area = Some(name),
            other => return Err(usage(other.unexpected().to_string())),
        }
    }
    match area.as_deref().map(|a| a.to_string_lossy()).as_deref() {
        None | Some("host") => host(as_json),
        Some(other) => Err(usage(format!("there is no area `{other}`"))),
    }
}

fn usage(why: String) -> Error {
    Error::new(Code::Usage, "nvoci doctor", why).fix("see `nvoci doctor --help`")
}

fn host(as_json: bool) -> Result<ExitCode> {
    let locations = super::locations(&super::load_config(None)?);
    let host = Host::discover(&Roots::open(&locations)?, &locations)?;
    show(&doctor::host::report(&host), as_json)
}

/// Shows a report; the exit status is its verdict.
fn show(report: &Report, as_json: bool) -> Result<ExitCode> {
    if as_json {
        super::print(&format!("{:#}\n", report.to_json()))?;
    } else {
        super::print(&report.to_text(wants_colour()))?;
    }
    Ok(ExitCode::from(report.status()))
}
