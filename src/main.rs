//! Which door: argv[0], else the first word.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use nvoci::door::runtime::{self, Flavor, Target, Wiring};
use nvoci::error::{Error, Result};
use nvoci::oci::{Bundle, Spec};

struct Shim;

impl Wiring for Shim {
    fn runtimes(&self) -> Result<Vec<String>> {
        Ok(runtime::DEFAULT_RUNTIMES.map(str::to_owned).to_vec())
    }

    fn modify(&self, _: Flavor, _: &Target, _: &Bundle, _: &mut Spec) -> Result<()> {
        Ok(())
    }

    fn record(&self, _: Option<&Target>, _: &Error) {}
}

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    let name = if args.is_empty() {
        OsString::new()
    } else {
        args.remove(0)
    };
    let base = Path::new(&name).file_name().unwrap_or_default();
    if base == OsStr::new("nvoci") && args.first().is_some_and(|a| a == "runtime") {
        args.remove(0);
    }
    runtime::run(&name, &args, &Shim)
}
