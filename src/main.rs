//! Which door: argv[0], else the first word.

use std::process::ExitCode;

use nvoci::error::{Code, Error};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let done = match args.next().as_deref().and_then(|a| a.to_str()) {
        Some("list") => nvoci::door::list::run(args),
        _ => Err(Error::new(Code::Usage, "nvoci", "unknown command")),
    };
    done.unwrap_or_else(|e| {
        eprintln!("nvoci: {e}");
        ExitCode::from(e.code().class().status())
    })
}
