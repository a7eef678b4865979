//! The one binary. Its name on the command line selects the entry point, or else its first
//! argument.

use std::process::ExitCode;

/// musl's allocator maps and unmaps memory for each few kilobytes: 104 system calls of a start.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    nvoci::cmd::main(std::env::args_os())
}
