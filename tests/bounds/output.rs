//! Standard output and error that are closed, full, or a pipe without a reader.

use std::fs::File;
use std::process::{Command, Stdio};

use crate::program;

/// Every command that has output on any machine.
const COMMANDS: &[&[&str]] = &[
    &["--help"],
    &["--version"],
    &["hook", "--help"],
    &["cdi-hook", "--help"],
    &["cdi", "--help"],
    &["cdi", "list", "--spec-dir", "/nonexistent"],
    &["cdi", "list", "--json", "--spec-dir", "/nonexistent"],
    &["cdi", "check", "--spec-dir", "/nonexistent"],
    &["config"],
    &["config", "--json"],
    &["doctor", "--help"],
    &["doctor", "explain", "3001"],
    &["install", "--help"],
    &["ldconfig", "--help"],
    &["list", "--help"],
    &["plan", "--help"],
    &["plan"],
    &["plan", "--json"],
    &["ps", "--help"],
    &["ps"],
    &["no-such-command"],
];

fn nvoci(args: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(args).stdin(Stdio::null());
    command
}

fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

#[test]
fn a_full_output_is_an_error_and_no_crash() {
    for args in COMMANDS {
        let normal = nvoci(args).output().unwrap();
        let output = nvoci(args).stdout(full()).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        // A command that fails has its own status; the output is the same error as JSON.
        let failed = String::from_utf8_lossy(&normal.stderr).contains(" [NVOCI-");
        if normal.stdout.is_empty() || failed {
            assert_eq!(output.status, normal.status, "{args:?}");
            assert_eq!(message.contains(" [NVOCI-"), failed, "{args:?}: {message}");
            continue;
        }
        assert_eq!(output.status.code(), Some(14), "{args:?}: {message}");
        assert!(message.contains("standard output"), "{args:?}: {message}");
        assert!(
            message.trim_end().ends_with("[NVOCI-5001]"),
            "{args:?}: {message}"
        );
    }
}

#[test]
fn a_full_or_closed_standard_error_changes_nothing() {
    for args in COMMANDS {
        let normal = nvoci(args).output().unwrap();
        let output = nvoci(args).stderr(full()).output().unwrap();
        assert_eq!(output.status, normal.status, "{args:?}");
        let closed = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 2>&- <&-"])
            .arg(program())
            .args(*args)
            .output()
            .unwrap();
        assert_eq!(closed.status, normal.status, "{args:?}");
    }
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    for args in COMMANDS {
        let normal = nvoci(args).output().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = nvoci(args).stdout(writer).output().unwrap();
        assert_eq!(output.status, normal.status, "{args:?}");
        assert_eq!(output.stderr, normal.stderr, "{args:?}");
    }
}
