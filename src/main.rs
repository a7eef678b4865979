//! The one binary. Which door is opened depends on the name it was called by, else on its first word.

use std::process::ExitCode;

fn main() -> ExitCode {
    nvoci::door::open(std::env::args_os())
}
