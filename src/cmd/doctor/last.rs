//! `nvoci doctor --last`.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::cmd::print;
use crate::doctor::last;
use crate::error::{Code, IoContext as _, Result};
use crate::sys::root::Root;

/// The number of refusals, and of warnings, that are shown by default.
pub(super) const DEFAULT: usize = 1;

/// Shows the last `count` refusals and warnings.
pub(super) fn run(count: usize, as_json: bool) -> Result<ExitCode> {
    let system = Root::open("/").context(Code::System, || "open /")?;
    let last = last::last(&system, count)?;
    if as_json {
        print(&format!("{:#}\n", last::to_json(&last)))?;
    } else {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        print(&last::to_text(&last, now.as_secs()))?;
    }
    Ok(ExitCode::SUCCESS)
}
