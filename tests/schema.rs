//! The JSON of every command against its schema in `docs/schema`: recorded outputs, and live ones on
//! this machine, which may have no GPU. `NVOCI_SCHEMA_BIN` names another program to run.

#![allow(clippy::panic, clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nvoci::config::{Config, Dialect};
use serde_json::{Value, json};

#[path = "schema/validator.rs"]
mod validator;
use validator::Schema;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path, ending));
        } else if path.to_str().unwrap().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The schemas of the commands, from the table in `docs/schema/README.md`.
fn table() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(repository().join("docs/schema/README.md")).unwrap();
    let rows = text.lines().filter_map(|line| {
        let (command, rest) = line.strip_prefix("| `nvoci ")?.split_once("` | [")?;
        Some((command.to_owned(), rest.split_once(']')?.0.to_owned()))
    });
    rows.collect()
}

fn program() -> OsString {
    std::env::var_os("NVOCI_SCHEMA_BIN").unwrap_or_else(|| OsString::from(env!("CARGO_BIN_EXE_nvoci")))
}

/// Runs the program with `args`; its standard output must be one JSON document.
fn run(args: &[&str]) -> (Output, Value) {
    let program =
        std::env::var_os("NVOCI_SCHEMA_BIN").unwrap_or_else(|| OsString::from(env!("CARGO_BIN_EXE_nvoci")));
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"));
    (output, value)
}

/// Objects of a schema that allow any other property, by their places.
fn open_objects(schema: &Value, at: &str) -> Vec<String> {
    match schema {
        Value::Object(map) => {
            let is_object = map.get("type").is_some_and(|t| t == "object");
            let mut open: Vec<String> = map
                .iter()
                .flat_map(|(name, value)| open_objects(value, &format!("{at}/{name}")))
                .collect();
            if is_object && !map.contains_key("additionalProperties") {
                open.push(at.to_owned());
            }
            open
        }
        Value::Array(all) => all.iter().flat_map(|value| open_objects(value, at)).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn schemas_are_closed_and_named_in_the_table() {
    let mut named: Vec<String> = table().into_values().chain(["error.json".to_owned()]).collect();
    named.sort();
    named.dedup();
    let files = files_below(&repository().join("docs/schema"), ".json");
    let names: Vec<&str> = files
        .iter()
        .map(|f| f.file_name().unwrap().to_str().unwrap())
        .collect();
    assert_eq!(names, named);
    for file in &files {
        let schema = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        assert_eq!(
            open_objects(&schema, "#"),
            Vec::<String>::new(),
            "{}",
            file.display()
        );
    }
}

/// The validator itself: what each keyword must refuse.
#[test]
fn a_document_with_a_fault_is_refused() {
    let doctor = Schema::read("doctor.json");
    let good = json!({
        "title": "host", "verdict": "warn",
        "facts": [{"name": "driver", "value": "1", "source": "/proc"}, {"name": "driver", "value": "2", "source": ""}],
        "findings": [{"code": "NVOCI-7101", "name": "host.driver", "severity": "ok", "subject": "s", "cause": "c",
                      "fix": "", "evidence": ["e"]}],
    });
    doctor.assert_valid(&good);
    for (pointer, value) in [
        ("/title", json!(1)),
        ("/verdict", json!("info")),
        ("/facts", json!({"driver": "1"})),
        ("/facts/0", json!({"name": "driver", "value": "1"})),
        (
            "/facts/0",
            json!({"name": "driver", "value": "1", "source": "", "more": ""}),
        ),
        ("/findings/0/code", json!("NVOCI-71011")),
        ("/findings/0/code", json!("NVOCI-71")),
        ("/findings/0/name", json!("Host.driver")),
        ("/findings/0/evidence/0", Value::Null),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value;
        assert_eq!(doctor.faults(&bad).len(), 1, "{pointer}");
    }
    let mut more = good;
    more["more"] = json!(1);
    more["omitted"] = json!(0);
    assert_eq!(doctor.faults(&more).len(), 2);
    let plan = Schema::read("plan.json");
    plan.assert_valid(&json!({"gpu": false, "notes": []}));
    assert!(!plan.faults(&json!({"gpu": true, "notes": []})).is_empty());
}

#[test]
fn golden_plans() {
    let schema = Schema::read("plan.json");
    let files = files_below(&repository().join("tests/golden/plan"), ".json");
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        let faults = schema.faults(&serde_json::from_str(&text).unwrap());
        assert!(faults.is_empty(), "{}: {faults:#?}", file.display());
    }
    assert!(files.len() > 20, "{}", files.len());
}

#[test]
fn configurations() {
    let schema = Schema::read("config.json");
    schema.assert_valid(&Config::default().to_json());
    let own = "driver-root = \"/run/nvidia/driver\"\nunknown = 1\n\
        [[extra]]\ncapability = [\"compute\"]\nfiles = [\"/opt/x\"]\ndevices = [\"/dev/x\"]\nenv = { A = \"1\" }\n";
    let parsed = Config::parse(own, Path::new("/etc/nvoci/config.toml"), Dialect::Nvoci).unwrap();
    assert!(!parsed.extra.is_empty());
    schema.assert_valid(&parsed.to_json());
    let vendor =
        "disable-require = true\n[nvidia-container-cli]\nno-cgroups = true\nldconfig = \"@/sbin/ldconfig\"\n";
    let parsed = Config::parse(vendor, Path::new("/x"), Dialect::Nvidia).unwrap();
    schema.assert_valid(&parsed.to_json());
}

/// Engines' files of `tests/engine` as roots of `nvoci install --json`.
#[test]
fn installations() {
    let schema = Schema::read("install.json");
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_str().unwrap();
    std::fs::create_dir_all(dir.path().join("etc/docker")).unwrap();
    let program = ["--runtime-path", "/usr/bin/env"];
    let run = |words: &[&str]| {
        let (output, value) = run(&[words, &["--json", "--root", root], program.as_slice()].concat());
        if value.get("error").is_some() {
            Schema::read("error.json").assert_valid(&value);
        } else {
            schema.assert_valid(&value);
        }
        (output, value)
    };
    let (_, dry) = run(&["install", "docker", "podman", "--dry-run"]);
    assert!(
        dry[0]["diff"]
            .as_str()
            .is_some_and(|diff| diff.contains("nvidia")),
        "{dry}"
    );
    run(&["install", "docker"]);
    run(&["uninstall", "docker"]);
    // One engine's error is in the document, and the status is its.
    std::fs::write(dir.path().join("etc/docker/daemon.json"), "{").unwrap();
    let (output, both) = run(&["install", "docker", "podman", "--dry-run"]);
    assert_eq!(both.as_array().map(Vec::len), Some(2), "{both}");
    assert_eq!(output.status.code(), Some(15));
    assert_eq!(both[0]["error"]["status"], 15);
    assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 1);
}

/// Command lines of each command: some work, some fail.
fn command_lines(dir: &str) -> Vec<(&'static str, Vec<String>)> {
    let lines = [
        ("list", "list"),
        ("plan", "plan NVIDIA_VISIBLE_DEVICES=none"),
        ("plan", "plan NVIDIA_VISIBLE_DEVICES=all"),
        ("plan", "plan @/no-bundle"),
        ("ps", "ps"),
        ("config", "config"),
        ("config", "config --config @/none.toml"),
        ("cdi list", "cdi list --spec-dir @/cdi"),
        ("cdi check", "cdi check --spec-dir @/cdi"),
        (
            "install",
            "install docker --dry-run --root @ --runtime-path /usr/bin/env",
        ),
        ("uninstall", "uninstall docker --dry-run --root @"),
        ("doctor", "doctor"),
        ("doctor --last", "doctor --last 5"),
        ("doctor host", "doctor host"),
        ("doctor engine", "doctor engine"),
        ("doctor engine", "doctor engine docker"),
        ("doctor container", "doctor container no-such-container"),
        (
            "doctor image",
            "doctor image @/image --driver 535.183.01 --gpu sm_86",
        ),
        ("doctor image", "doctor image @/none"),
        (
            "doctor dockerfile",
            "doctor dockerfile @/Dockerfile --driver 470.82 --gpu sm_120",
        ),
        ("doctor dockerfile", "doctor dockerfile @/none"),
        ("doctor compose", "doctor compose @/compose.yaml"),
        ("doctor explain", "doctor explain 803"),
        ("doctor explain", "doctor explain nothing-that-is-known"),
    ];
    let words = |line: &str| line.split(' ').map(|word| word.replace('@', dir)).collect();
    lines.map(|(name, line)| (name, words(line))).into()
}

#[test]
fn live_outputs_of_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let torch = at("image/usr/lib/python3/dist-packages/torch");
    std::fs::create_dir_all(&torch).unwrap();
    std::fs::write(
        torch.join("version.py"),
        "__version__ = '2.5.1+cu124'\ncuda = '12.4'\n",
    )
    .unwrap();
    std::fs::create_dir(at("cdi")).unwrap();
    std::fs::write(at("cdi/broken.yaml"), "cdiVersion: 7\n").unwrap();
    let spec = r#"{"cdiVersion": "0.5.0", "kind": "x.com/gpu", "devices": [{"name": "a",
        "containerEdits": {"env": ["A=1"]}}]}"#;
    std::fs::write(at("cdi/good.json"), spec).unwrap();
    std::fs::write(
        at("Dockerfile"),
        "FROM nvidia/cuda:latest\nRUN pip install torch==2.5.1\n",
    )
    .unwrap();
    std::fs::write(
        at("compose.yaml"),
        "services:\n  a:\n    image: x\n    gpus: all\n",
    )
    .unwrap();
    let table = table();
    let mut ran: Vec<&str> = Vec::new();
    for (name, words) in command_lines(dir.path().to_str().unwrap()) {
        ran.push(name);
        let schema = &table[&format!("{name} --json")];
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        words.push("--json");
        let (output, value) = run(&words);
        let error = value.get("error");
        if let Some(error) = error {
            Schema::read("error.json").assert_valid(&value);
            assert_eq!(
                error["status"].as_i64(),
                output.status.code().map(i64::from),
                "{words:?}"
            );
            let line = String::from_utf8(output.stderr).unwrap();
            assert_eq!(error["line"].as_str(), line.lines().last(), "{words:?}");
        } else {
            Schema::read(schema).assert_valid(&value);
        }
        println!(
            "{}: {}",
            words.join(" "),
            if error.is_some() { "error.json" } else { schema }
        );
    }
    ran.sort_unstable();
    ran.dedup();
    let all: Vec<String> = ran.iter().map(|name| format!("{name} --json")).collect();
    assert_eq!(all, table.into_keys().collect::<Vec<_>>());
}

#[test]
fn a_wrong_command_line_is_an_error_in_json() {
    let schema = Schema::read("error.json");
    for line in [
        "list --bogus --json",
        "list --json --bogus",
        "list --json word",
        "lits --json",
        "doctor imgae x --json",
        "doctor image --json",
        "doctor image x --driver old --json",
        "doctor host --json --html",
        "doctor --last --html /x --json",
        "doctor host --json --html /dev/null",
        "cdi lsit --json",
        "install --json",
    ] {
        let (output, value) = run(&line.split(' ').collect::<Vec<_>>());
        schema.assert_valid(&value);
        let status = value["error"]["status"].as_i64();
        assert_eq!(output.status.code().map(i64::from), status, "{line}");
        assert_eq!(
            String::from_utf8(output.stderr).unwrap().lines().count(),
            1,
            "{line}"
        );
    }
    // Without the flag, and where it is a value, standard output stays empty.
    for line in ["list --bogus", "list -- --json"] {
        let output = Command::new(program()).args(line.split(' ')).output().unwrap();
        assert!(output.stdout.is_empty() && !output.status.success(), "{line}");
    }
}
