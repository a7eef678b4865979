//! `nvoci doctor --last`.

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::cmd::print;
use crate::doctor::last;
use crate::error::{Code, IoContext as _, Result};
use crate::sys::root::Root;

/// The number of refusals, and of warnings, that are shown by default.
pub(super) const DEFAULT: NonZeroUsize = NonZeroUsize::MIN;

/// Shows the last `count` refusals and warnings.
pub(super) fn run(count: NonZeroUsize, as_json: bool) -> Result<ExitCode> {
    let system = Root::open("/").context(Code::System, || "open /")?;
    let last = last::last(&system, count.get())?;
    if as_json {
        print(&format!("{:#}\n", last::to_json(&last)))?;
    } else {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        print(&last::to_text(&last, now.as_secs()))?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::super::COMMAND;

    #[test]
    fn at_least_one_is_shown() {
        let parse = |number: &str| COMMAND.parse(["--last".into(), number.into()]);
        assert!(parse("1").is_ok());
        for number in ["0", "-1", "x", ""] {
            assert!(parse(number).is_err(), "{number}");
        }
    }
}
