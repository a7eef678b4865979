//! The one binary. Which door is opened depends on the name it was called by, else on its first word.

use std::process::ExitCode;

#[global_allocator]
static MEMORY: nvoci::sys::alloc::Arena = nvoci::sys::alloc::Arena::new();

fn main() -> ExitCode {
    nvoci::door::open(std::env::args_os())
}
