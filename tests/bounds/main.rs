//! Hostile input to each command: it ends in bounded memory and processor time, by itself, with an answer or one line.
//!
//! The kernel holds the bounds (`prlimit`): a command that needs more is killed by a signal or aborts, and its test fails.
//! `cargo test` runs the development build, which is allowed ten times the processor time; `make bounds` runs the release
//! build (`NVOCI_BOUNDS_BIN`) under the bounds themselves.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a test"
)]

mod archives;
mod links;
mod output;
mod texts;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What a command may use.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Address space, in MiB.
    pub memory: u64,
    /// Processor time, in seconds.
    pub cpu: u64,
}

/// Any input of 1 MiB.
pub const TEXT: Bounds = Bounds { memory: 256, cpu: 2 };
/// Any image archive.
pub const ARCHIVE: Bounds = Bounds { memory: 256, cpu: 20 };

/// The release build, if its bounds are tested.
fn release() -> Option<OsString> {
    std::env::var_os("NVOCI_BOUNDS_BIN")
}

/// The program that is tested.
pub fn program() -> OsString {
    release().unwrap_or_else(|| OsString::from(env!("CARGO_BIN_EXE_nvoci")))
}

/// Runs `nvoci ARGS` below `bounds` with `input` as its standard input; fails the test if it did not end by itself.
pub fn run<S: AsRef<OsStr>>(bounds: Bounds, args: &[S], input: Option<&Path>) -> Output {
    let slower = if release().is_some() { 1 } else { 10 };
    let Bounds { memory, cpu } = bounds;
    let output = Command::new("timeout")
        .args(["-k", "1", &(cpu * slower * 10).to_string(), "prlimit"])
        .args([
            format!("--as={}", memory << 20),
            format!("--cpu={}", cpu * slower),
            "--core=0".to_owned(),
        ])
        .arg(program())
        .args(args)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(input.map_or_else(Stdio::null, |path| File::open(path).unwrap().into()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let shown = || {
        let args: Vec<_> = args.iter().map(|a| a.as_ref().to_string_lossy()).collect();
        format!("nvoci {}: {}: {:.600}", args.join(" "), output.status, said)
    };
    let status = output.status.code().unwrap_or_else(|| panic!("{}", shown()));
    // 124: too long. From 128: a signal, which timeout hands on as a status.
    assert!(status < 100, "{}", shown());
    assert!(
        !said.contains("panicked") && !said.contains("allocation"),
        "{}",
        shown()
    );
    assert!(
        said.len() < 20_000,
        "{} bytes of messages: {}",
        said.len(),
        shown()
    );
    output
}

/// [`run`], and it is refused in one line with `code`.
pub fn refused<S: AsRef<OsStr>>(bounds: Bounds, args: &[S], input: Option<&Path>, code: &str) {
    let output = run(bounds, args, input);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "it succeeded");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("; fix: "), "{said}");
    assert!(said.trim_end().ends_with(&format!("[NVOCI-{code}]")), "{said}");
}
