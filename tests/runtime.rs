//! The runtime entry from outside: the real binary, with a script in the place of runc.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A directory with a bundle and a stand-in for `runc`, which records its call.
struct Bench {
    dir: tempfile::TempDir,
}

/// Writes its path, its arguments, one each line, and the content of descriptor 7 if it is open.
const RUNC: &str = r#"#!/bin/sh
d=${0%/*}
{ echo "$0"; for a in "$@"; do echo "$a"; done; } >"$d/called"
env >"$d/env"
if [ -e /proc/$$/fd/7 ]; then cat <&7 >"$d/fd7"; fi
echo "out of runc"
exit 42
"#;

const SPEC: &str = "{\n\t\"ociVersion\": \"1.3.7\", \"future\": {\"n\": 0.10, \"a\": 18446744073709551616},\n\
    \"process\": {\"env\": [\"NO_EQUALS\", \"A=1\"], \"capabilities\": {\"bounding\": [\"CAP_NEW\"]}}, \"root\": {\"path\": \"rootfs\"}}\n";

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bundle")).unwrap();
        let bench = Self { dir };
        bench.script("runc", RUNC);
        fs::write(bench.config(), SPEC).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self) -> PathBuf {
        self.path("bundle/config.json")
    }

    fn script(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs a command line in which `@` is the directory.
    fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    fn command(&self, line: &str) -> Command {
        let dir = self.dir.path().display().to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_nvoci"));
        command
            .arg0("nvidia-container-runtime")
            .args(line.split_whitespace().map(|w| w.replace('@', &dir)))
            .env("PATH", format!("{dir}:/usr/bin:/bin"))
            .current_dir(&dir);
        command
    }

    /// The arguments of runc; `None` if it was not started.
    fn called(&self) -> Option<Vec<String>> {
        let text = fs::read_to_string(self.path("called")).ok()?;
        let mut lines = text.lines().map(str::to_owned);
        assert_eq!(lines.next().as_deref(), self.path("runc").to_str());
        let called = lines.collect();
        fs::remove_file(self.path("called")).unwrap();
        Some(called)
    }
}

/// Exactly one line on standard error.
fn one_line(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.matches('\n').count(), 1, "{text}");
    text.trim_end().to_owned()
}

#[test]
fn every_command_passes_through_untouched() {
    let bench = Bench::new();
    for line in [
        "features",
        "--version",
        "-v",
        "state c1",
        "start create",
        "--root /r --log /nonexistent/log --log-format json delete --force c1",
        "exec --pid-file @/pid c1 create --bundle @/nonexistent",
        "create --help",
        "",
        "no-such-command --bundle",
    ] {
        let output = bench.run(line);
        assert_eq!(output.status.code(), Some(42), "{line}");
        assert_eq!(output.stdout, b"out of runc\n", "{line}");
        assert_eq!(output.stderr, b"", "{line}");
        let dir = bench.dir.path().display().to_string();
        let words: Vec<String> = line.split_whitespace().map(|w| w.replace('@', &dir)).collect();
        assert_eq!(bench.called().unwrap(), words);
    }
    assert_eq!(fs::read_to_string(bench.config()).unwrap(), SPEC);
}

#[test]
fn arguments_environment_and_descriptors_are_the_callers() {
    let bench = Bench::new();
    fs::write(bench.path("seven"), "through").unwrap();
    let shell = format!("exec \"$0\" \"$@\" 7<{}", bench.path("seven").display());
    let output = Command::new("/bin/sh")
        .args([
            "-c",
            &shell,
            env!("CARGO_BIN_EXE_nvoci"),
            "runtime",
            "exec",
            "--preserve-fds",
            "5",
        ])
        .arg(OsStr::from_bytes(b"odd \xff\n"))
        .env_clear()
        .env("PATH", format!("{}:/bin", bench.dir.path().display()))
        .env("ODD", OsStr::from_bytes(b"a\xffb"))
        .env("LD_PRELOAD_X", "kept")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(42));
    assert_eq!(fs::read(bench.path("fd7")).unwrap(), b"through");
    let called = fs::read(bench.path("called")).unwrap();
    assert!(called.ends_with(b"\nexec\n--preserve-fds\n5\nodd \xff\n\n"));
    let env = fs::read(bench.path("env")).unwrap();
    assert!(
        env.windows(8).any(|w| w == b"ODD=a\xffb\n") && env.windows(17).any(|w| w == b"LD_PRELOAD_X=kept")
    );
}

/// The vendor's TestGoodInput: a good bundle starts runc with the same words. This spec also has
/// fields that no released runtime-spec defines, and an env entry without `=`. Both stop the
/// vendor's runtime.
#[test]
fn good_input_reaches_runc_and_stays_as_it_was() {
    let bench = Bench::new();
    for line in [
        "run --bundle @/bundle c1",
        "--root /r --log @/log --log-format json create --bundle @/bundle --pid-file @/pid c1",
        "create -b=@/bundle c1",
    ] {
        let output = bench.run(line);
        assert_eq!(output.status.code(), Some(42), "{output:?}");
        assert_eq!(bench.called().unwrap().last().unwrap(), "c1");
    }
    // Without a request and without --bundle.
    let output = bench
        .command("create c1")
        .current_dir(bench.path("bundle"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(42));
    assert_eq!(fs::read_to_string(bench.config()).unwrap(), SPEC);
    assert!(!bench.path("log").exists());
}

/// The vendor's TestBadInput, and similar cases: runc is not started, the status is 1, and the log
/// has the reason.
#[test]
fn bad_input_never_reaches_runc() {
    let bench = Bench::new();
    let bad = |bundle: &str, spec: Option<&[u8]>| {
        let dir = bench.path(bundle);
        fs::create_dir(&dir).unwrap();
        if let Some(spec) = spec {
            fs::write(dir.join("config.json"), spec).unwrap();
        }
    };
    bad("empty", None);
    bad("truncated", Some(&SPEC.as_bytes()[..40]));
    bad("array", Some(b"[]"));
    bad("latin", Some(b"{\"a\":\"\xe9\"}"));
    bad("deep", Some("{\"a\":".repeat(10_000).as_bytes()));
    let cases = [
        ("create --bundle", "NVOCI-1001"),
        ("create --bundle @/nonexistent c1", "NVOCI-1102"),
        ("create --bundle @/runc c1", "NVOCI-1102"),
        ("create c1", "NVOCI-1102"),
        ("run --bundle @/empty c1", "NVOCI-1102"),
        ("create --bundle @/truncated c1", "NVOCI-1102"),
        ("create --bundle @/array c1", "NVOCI-1102"),
        ("create --bundle @/latin c1", "NVOCI-1102"),
        ("create --bundle @/deep c1", "NVOCI-1102"),
    ];
    for (line, code) in cases {
        let output = bench.run(&format!("--log @/log.json --log-format json {line}"));
        assert_eq!(output.status.code(), Some(1), "{line}");
        let message = one_line(&output);
        assert!(
            message.starts_with("nvoci: ") && message.ends_with(&format!("[{code}]")),
            "{message}"
        );
        assert_eq!(bench.called(), None, "{line}");
        let log = fs::read_to_string(bench.path("log.json")).unwrap();
        let entry: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        assert_eq!(
            (&entry["level"], &entry["msg"]),
            (&"error".into(), &message.as_str().into())
        );
    }
}

#[test]
fn a_runtime_by_our_own_name_is_passed_over() {
    let bench = Bench::new();
    let first = bench.path("first");
    fs::create_dir(&first).unwrap();
    symlink(env!("CARGO_BIN_EXE_nvoci"), first.join("runc")).unwrap();
    let path = format!("{}:{}:/bin", first.display(), bench.dir.path().display());
    let output = bench.command("state c1").env("PATH", path).output().unwrap();
    assert_eq!(output.status.code(), Some(42));
    assert_eq!(bench.called().unwrap(), ["state", "c1"]);
}

#[test]
fn a_runtime_that_cannot_be_started_is_an_error() {
    let bench = Bench::new();
    bench.script("runc", "#!/nonexistent/interpreter\n");
    let output = bench.run("--log @/log state c1");
    assert_eq!(output.status.code(), Some(1));
    assert!(one_line(&output).ends_with("[NVOCI-5004]"));
    assert!(
        fs::read_to_string(bench.path("log"))
            .unwrap()
            .contains("level=error msg=\"nvoci: low-level runtime")
    );
    assert!(Path::new(&bench.config()).exists());
}
