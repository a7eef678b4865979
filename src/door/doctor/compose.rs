//! `nvoci doctor compose`.

use std::process::ExitCode;

use lexopt::Arg;

use super::{next, read_text, show, usage};
use crate::doctor::Severity;
use crate::doctor::compose::{MAX_SIZE, STANZA, report};
use crate::door::print;
use crate::error::Result;
use crate::sys::budget::Budget;

const HELP: &str = "\
Usage: nvoci doctor compose FILE [--json]

Reads a Compose file (`-`: standard input) and says whether its services get the GPUs that they are meant to have; where
one does not, a stanza that does is printed.

  --json   as one JSON document
  --help   this text

Exit status: 0 all is well, 1 warnings, 2 something cannot work.
";

/// Runs the area on the arguments after its name.
pub(super) fn run(mut args: lexopt::Parser) -> Result<ExitCode> {
    let (mut file, mut as_json) = (None, false);
    while let Some(arg) = next(&mut args)? {
        match arg {
            Arg::Long("json") => as_json = true,
            Arg::Long("help") | Arg::Short('h') => {
                print(HELP)?;
                return Ok(ExitCode::SUCCESS);
            }
            Arg::Value(name) if file.is_none() => file = Some(name),
            other => return Err(usage(other.unexpected().to_string())),
        }
    }
    let file = file.ok_or_else(|| usage("which Compose file?"))?;
    let (name, text) = read_text(&file, MAX_SIZE)?;
    let report = report(&name, &text, &Budget::default())?;
    let status = show(&report, as_json)?;
    if !as_json && report.verdict() > Severity::Ok {
        print(&format!("\nA stanza that gives a service all GPUs:\n\n{STANZA}"))?;
    }
    Ok(status)
}
