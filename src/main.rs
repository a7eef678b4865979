//! Which door: argv[0], else the first word.

use std::process::ExitCode;

use nvoci::door::install::{Verb, run};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let verb = match args.next().as_deref().and_then(std::ffi::OsStr::to_str) {
        Some("install") => Verb::Install,
        Some("uninstall") => Verb::Uninstall,
        _ => return ExitCode::from(2),
    };
    run(verb, args).unwrap_or_else(|e| {
        eprintln!("nvoci: {e}");
        ExitCode::from(e.code().class().status())
    })
}
