//! Hostile input to each command: the command ends in bounded memory and processor time, with an
//! answer or one line.
//!
//! The kernel enforces the bounds (`prlimit`): a command beyond them is killed or aborts, and its
//! test fails. `cargo test` runs the development build with ten times the processor time. `make
//! bounds` runs the release build (`NVOCI_BOUNDS_BIN`) with the bounds themselves.

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

/// The limits of a command.
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

/// The tested program.
pub fn program() -> OsString {
    release().unwrap_or_else(|| OsString::from(env!("CARGO_BIN_EXE_nvoci")))
}

/// Runs `nvoci ARGS` below `bounds` with `input` as its standard input. Fails the test if it is
/// killed.
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
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    let shown = || {
        let args: Vec<_> = args.iter().map(|a| a.as_ref().to_string_lossy()).collect();
        format!("nvoci {}: {}: {:.600}", args.join(" "), output.status, message)
    };
    let status = output.status.code().unwrap_or_else(|| panic!("{}", shown()));
    // 124 is a time-out. From 128 on it is a signal, which timeout passes on as a status.
    assert!(status < 100, "{}", shown());
    assert!(
        !message.contains("panicked") && !message.contains("allocation"),
        "{}",
        shown()
    );
    assert!(
        message.len() < 20_000,
        "{} bytes of messages: {}",
        message.len(),
        shown()
    );
    output
}

/// Like [`run`]; the command must fail with one line and `code`.
pub fn refused<S: AsRef<OsStr>>(bounds: Bounds, args: &[S], input: Option<&Path>, code: &str) {
    let output = run(bounds, args, input);
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "it succeeded");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.contains("; fix: "), "{message}");
    assert!(
        message.trim_end().ends_with(&format!("[NVOCI-{code}]")),
        "{message}"
    );
}
