//! `nvoci doctor host`.

use std::process::ExitCode;

use lexopt::Arg;

use super::{next, show, usage};
use crate::doctor;
use crate::door::{load_config, locations, print};
use crate::error::Result;
use crate::host::{Host, Roots};

const HELP: &str = "\
Usage: nvoci doctor host [--json]

Looks at the driver, the device nodes and what is around them.

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
    let locations = locations(&load_config(None)?);
    let host = Host::discover(&Roots::open(&locations)?, &locations)?;
    show(&doctor::host::report(&host), as_json)
}
