//! `nvoci doctor --last`.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use lexopt::Arg;

use super::{next, usage};
use crate::doctor::last;
use crate::door::print;
use crate::error::{Code, IoContext as _, Result};
use crate::sys::root::Root;

/// So many refusals are shown when no number is given.
const DEFAULT: usize = 1;

/// Runs on all arguments: `--last`, a number, `--json`.
pub(super) fn run(mut args: lexopt::Parser) -> Result<ExitCode> {
    let (mut as_json, mut count) = (false, DEFAULT);
    while let Some(arg) = next(&mut args)? {
        match arg {
            Arg::Long("last") => {}
            Arg::Long("json") => as_json = true,
            Arg::Value(number) => {
                let number = number.to_string_lossy();
                count = number
                    .parse()
                    .map_err(|_| usage(format!("`{number}` is no number of refusals")))?;
            }
            other => return Err(usage(other.unexpected().to_string())),
        }
    }
    let system = Root::open("/").context(Code::System, || "open /")?;
    let refusals = last::refusals(&system, count)?;
    if as_json {
        print(&format!("{:#}\n", last::to_json(&refusals)))?;
    } else {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        print(&last::to_text(&refusals, now.as_secs()))?;
    }
    Ok(ExitCode::SUCCESS)
}
