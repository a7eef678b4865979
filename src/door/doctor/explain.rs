//! `nvoci doctor explain`.

use std::process::ExitCode;

use lexopt::Arg;

use super::{next, read_text, show, usage};
use crate::doctor::Report;
use crate::doctor::explain::{explain, unseen};
use crate::door::print;
use crate::error::Result;

/// The longest log that is taken from standard input, in bytes.
const MAX_LOG: u64 = 16 << 20;

const HELP: &str = "\
Usage: nvoci doctor explain TEXT... [--no-host] [--json]
       nvoci doctor explain -             the text is on standard input

Says what an error means: the likeliest cause first, how to tell it from the others, and what to do. TEXT is the
error as it was printed, as many lines as you like; or a number (803), a name (cudaErrorInsufficientDriver, NVML 18) or
one of nvoci's own codes (NVOCI-2003). Where the host could be the cause it is looked at too.

  --no-host  do not look at this host: the error is another's
  --json     as one JSON document
  --help     this text

Exit status: 0 the error is known, 1 it is not, or the host has warnings, 2 this host has a failure.
";

/// Runs the area on the arguments after its name.
pub(super) fn run(mut args: lexopt::Parser) -> Result<ExitCode> {
    let (mut words, mut as_json, mut with_host) = (Vec::new(), false, true);
    while let Some(arg) = next(&mut args)? {
        match arg {
            Arg::Long("json") => as_json = true,
            Arg::Long("no-host") => with_host = false,
            Arg::Long("help") | Arg::Short('h') => {
                print(HELP)?;
                return Ok(ExitCode::SUCCESS);
            }
            Arg::Value(word) => words.push(word.to_string_lossy().into_owned()),
            other => return Err(usage(other.unexpected().to_string())),
        }
    }
    let text = match words.as_slice() {
        [] => return Err(usage("explain needs a text, or `-` for standard input")),
        [only] if only == "-" => read_text(only.as_ref(), MAX_LOG)?.1,
        _ => words.join(" "),
    };
    let explained = explain(&text);
    let mut report = explained.report;
    let with_host = with_host && explained.areas.contains(&"host");
    let others: Vec<String> = explained
        .areas
        .iter()
        .filter(|area| !with_host || **area != "host")
        .map(|area| command(area))
        .collect();
    if !others.is_empty() {
        report.fact("look further", others.join("; "));
    }
    if !with_host {
        return show(&report, as_json);
    }
    let host = look();
    if as_json {
        report.facts.extend(host.facts);
        report.findings.extend(host.findings);
        return show(&report, true);
    }
    // What the error means stands first, however bad the host is.
    show(&report, false)?;
    print("\n")?;
    show(&host, false)
}

/// What a person types to look at an area.
fn command(area: &str) -> String {
    let subject = match area {
        "image" => " IMAGE",
        "container" => " ID",
        "dockerfile" | "compose" => " FILE",
        _ => "",
    };
    format!("nvoci doctor {area}{subject}")
}

/// What is found on this host, or that it could not be looked at.
fn look() -> Report {
    super::host::look().unwrap_or_else(|e| {
        let mut report = Report::new("host");
        report.add(unseen(e.why()).fix(e.fix_text()));
        report
    })
}
