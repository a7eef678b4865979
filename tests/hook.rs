//! Bad input to the hook, as from a runtime: one line, a stable code, a status by class, and no
//! change.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs `nvoci hook STAGE` with a state on standard input.
fn hook(stage: &str, state: &[u8]) -> Output {
    hook_with(&[stage], state)
}

/// Runs `nvoci hook ARGS` with a state on standard input.
fn hook_with(args: &[&str], state: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_nvoci"))
        .arg("hook")
        .args(args)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A hook that fails early closes its end.
    let _ = child.stdin.take().unwrap().write_all(state);
    child.wait_with_output().unwrap()
}

fn refused(output: &Output, code: &str, status: i32) {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(status), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("nvoci: ") && text.contains("; fix: "), "{text}");
    assert!(text.trim_end().ends_with(&format!("[NVOCI-{code}]")), "{text}");
    assert!(output.stdout.is_empty());
}

fn bundle(config: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    dir
}

fn state(bundle: &Path) -> Vec<u8> {
    format!(
        r#"{{"ociVersion":"1.0.2","id":"nvoci-test","status":"creating","pid":4194303,"bundle":"{}"}}"#,
        bundle.display()
    )
    .into_bytes()
}

const GPU: &str =
    r#"{"ociVersion":"1.0.2","process":{"env":["NVIDIA_VISIBLE_DEVICES=all"]},"root":{"path":"ROOT"}}"#;

#[test]
fn broken_states() {
    for bad in [
        &b""[..],
        b"{",
        b"[]",
        b"null",
        b"{\"bundle\":1}",
        b"{\"id\":\"x\"}",
        &[0xff, 0xfe],
    ] {
        refused(&hook("createContainer", bad), "1101", 10);
    }
    let mut long = b"{\"bundle\":\"/x\",\"id\":\"".to_vec();
    long.resize(5 << 20, b'a');
    refused(&hook("createContainer", &long), "1101", 10);
}

#[test]
fn missing_and_broken_bundles() {
    refused(
        &hook("createContainer", &state(Path::new("/nonexistent"))),
        "1102",
        10,
    );
    for bad in ["", "{", "[]", "42"] {
        refused(&hook("createContainer", &state(bundle(bad).path())), "1102", 10);
    }
}

#[test]
fn a_huge_config_is_not_read() {
    let dir = bundle("");
    let file = std::fs::File::options()
        .write(true)
        .open(dir.path().join("config.json"))
        .unwrap();
    file.set_len(100 << 20).unwrap();
    refused(&hook("createContainer", &state(dir.path())), "1102", 10);
}

#[test]
fn unsafe_roots() {
    for root in ["/", "..", "../..", "a/../../b", "", "//", "/."] {
        let dir = bundle(&GPU.replace("ROOT", root));
        refused(&hook("createRuntime", &state(dir.path())), "4001", 13);
    }
}

#[test]
fn a_container_without_a_request_is_left_alone() {
    let dir =
        bundle(r#"{"ociVersion":"1.0.2","process":{"env":["A=b"]},"root":{"path":"/"},"odd":{"x":[1]}}"#);
    for stage in ["prestart", "createRuntime", "createContainer", "poststop"] {
        let output = hook(stage, &state(dir.path()));
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
}

/// `crun --config FILE` creates the container from another file than the hook reads.
#[test]
fn a_definition_that_the_runtime_did_not_edit() {
    let without = r#"{"ociVersion":"1.0.2","process":{"env":["A=b"]},"root":{"path":"/"}}"#;
    let with = |args: &[&str]| {
        let dir = bundle(without);
        hook_with(args, &state(dir.path()))
    };
    for stage in ["createRuntime", "createContainer"] {
        refused(&with(&["--devices-in-spec", stage]), "1102", 10);
    }
    let output = with(&["--devices-in-spec", "poststop"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn unknown_stages_and_options() {
    refused(&hook("precreate", b"{}"), "1001", 2);
    refused(&hook("--frobnicate", b"{}"), "1001", 2);
}

#[test]
fn malformed_requests() {
    for (env, code) in [
        ("NVIDIA_VISIBLE_DEVICES=../../etc", "3004"),
        ("NVIDIA_VISIBLE_DEVICES=0;rm -rf", "3004"),
        (
            "NVIDIA_VISIBLE_DEVICES=0\",\"NVIDIA_DRIVER_CAPABILITIES=compute,computee",
            "3002",
        ),
        ("NVIDIA_VISIBLE_DEVICES=0\",\"NVIDIA_REQUIRE_CUDA=cuda>=", "3004"),
    ] {
        let dir = bundle(
            &GPU.replace("ROOT", "rootfs")
                .replace("NVIDIA_VISIBLE_DEVICES=all", env),
        );
        refused(&hook("createRuntime", &state(dir.path())), code, 12);
    }
}
