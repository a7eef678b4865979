//! `nvoci install ENGINE` and `nvoci uninstall ENGINE` on the engine's files. A second run does
//! nothing, a dry run writes nothing, and uninstalling restores every byte.
//!
//! The first byte chooses engine and options. Part 0 is the edited file, part 1 another that the
//! engine reads. With bit 6 set, the edited file has only the lines that form a valid one: for
//! Docker the members of an object.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use nvoci::cmd::fuzzing;
use nvoci::engine::edit::{Editor, Format};
use serde_json::Value;

use crate::count::reached;
use crate::world::{self, check_error};

/// The name on the command line, the edited file, and another one that is read.
const ENGINES: [(&str, &str, &str); 4] = [
    ("docker", "etc/docker/daemon.json", "etc/docker/other.json"),
    (
        "containerd",
        "etc/containerd/config.toml",
        "etc/containerd/conf.d/10-other.toml",
    ),
    ("crio", "etc/crio/crio.conf.d/99-nvoci.conf", "etc/crio/crio.conf"),
    (
        "podman",
        "etc/containers/containers.conf",
        "etc/containers/containers.conf.d/50-nvoci.conf",
    ),
];

/// Holds for every input.
pub(crate) fn check(input: &[u8]) {
    let Some((&form, rest)) = input.split_first() else {
        return;
    };
    reached("run");
    let root = world::fresh("root");
    let (engine, edited, other) = ENGINES[usize::from(form & 3)];
    let mut parts = world::parts(rest);
    let whole;
    if form & 64 != 0 {
        whole = mended(engine, parts[0]);
        parts[0] = whole.as_bytes();
    }
    for (file, text) in [
        ("usr/bin/nvoci", b"".as_slice()),
        ("usr/bin/nvoci-runtime", b""),
        (edited, parts[0]),
    ] {
        put(&root, file, text);
    }
    if let Some(text) = parts.get(1) {
        put(&root, other, text);
    }
    let place = root.display().to_string();
    let mut args = vec![engine, "--root", &place];
    if form & 4 != 0 {
        args.push("--set-as-default");
    }
    if form & 8 != 0 {
        args.push("--cdi");
    }
    // Podman's usual file is our own as a whole.
    if engine == "podman" && form & 16 == 0 {
        args.extend(["--config", edited]);
    }
    if form & 32 != 0 {
        args.extend(["--runtime-name", "a.b-c"]);
    }

    let before = contents(&root);
    let dry: Vec<&str> = [args.as_slice(), &["--dry-run"]].concat();
    let planned = run(false, &dry);
    assert!(contents(&root) == before, "a dry run wrote something");
    let Some(outcome) = run(false, &args) else {
        assert!(contents(&root) == before, "a refused edit wrote something");
        return;
    };
    assert_eq!(planned.as_deref(), Some(outcome.as_str()));
    reached("accepted");
    reached(engine);
    reached(if outcome == "registered" {
        "registered"
    } else {
        "was registered"
    });
    let installed = contents(&root);
    assert_eq!(run(false, &args).as_deref(), Some("already registered"));
    assert!(contents(&root) == installed, "a second run wrote something");
    if outcome == "registered" {
        assert_eq!(run(true, &args).as_deref(), Some("removed"));
        assert!(contents(&root) == before, "{}", shown(&before, &contents(&root)));
        reached("reverted");
    }
}

/// A file from those lines of `text` that form a valid one.
fn mended(engine: &str, text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let (format, of): (Format, fn(&[&str]) -> String) = if engine == "docker" {
        (Format::Json, |lines| {
            format!(
                "{{{}}}",
                lines
                    .iter()
                    .map(|l| l.trim().trim_end_matches(','))
                    .collect::<Vec<_>>()
                    .join(",\n")
            )
        })
    } else {
        (Format::Toml, |lines| lines.join("\n"))
    };
    of(&world::repaired(&text, |lines| {
        Editor::open("f", format, &of(lines)).is_ok()
    }))
}

/// The outcome as text; `None` if the command was refused.
fn run(uninstall: bool, args: &[&str]) -> Option<String> {
    match fuzzing::install(uninstall, args) {
        Ok(all) => {
            let (value, text): &(Value, String) = all.first()?;
            assert!(!text.is_empty());
            Some(value["outcome"].as_str().unwrap_or_default().to_owned())
        }
        Err(e) => {
            check_error(&e);
            None
        }
    }
}

fn put(root: &Path, file: &str, text: &[u8]) {
    let path = root.join(file);
    fs::create_dir_all(path.parent().unwrap_or(root)).expect("a directory");
    fs::write(path, text).expect("a file");
}

/// Every file with its content, without directories such as `/var/lib/nvoci`.
fn contents(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                todo.push(path);
            } else {
                let text = fs::read(&path).unwrap_or_default();
                all.insert(path, text);
            }
        }
    }
    all
}

fn shown(before: &BTreeMap<PathBuf, Vec<u8>>, after: &BTreeMap<PathBuf, Vec<u8>>) -> String {
    let text = |files: &BTreeMap<PathBuf, Vec<u8>>| {
        files
            .iter()
            .map(|(p, t)| format!("{}:\n{:?}\n", p.display(), String::from_utf8_lossy(t)))
            .collect::<String>()
    };
    format!("not restored; before:\n{}after:\n{}", text(before), text(after))
}
