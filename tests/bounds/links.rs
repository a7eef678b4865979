//! Root file systems whose links and libraries are slow to follow, and directories of files that
//! name many others.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;

use crate::{ARCHIVE, TEXT, refused, run};

/// A shared object that names itself at the end of a dynamic section of `entries` entries, below
/// `segments` property notes.
fn library(entries: usize, segments: u16) -> Vec<u8> {
    let le = |words: &[u64]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let dynamic = 64 + 56 * (u64::from(segments) + 2);
    let size = 16 * (entries as u64 + 3);
    let strings = dynamic + size;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([3, 0, 62, 0, 1, 0, 0, 0]);
    file.extend(le(&[0, 64, 0]));
    file.extend([0; 4]);
    for half in [64, 56, segments + 2, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut segment = |kind: u32, at: u64, size: u64| {
        file.extend(kind.to_le_bytes());
        file.extend([0; 4]);
        file.extend(le(&[at, at, at, size, size, 8]));
    };
    for _ in 0..segments {
        segment(0x6474_e553, strings + 4096, 1024);
    }
    segment(1, 0, 1 << 30);
    segment(2, dynamic, size);
    for _ in 0..entries {
        file.extend(le(&[0x6fff_fff0, 1]));
    }
    file.extend(le(&[14, 1, 5, strings, 0, 0]));
    file.extend(b"\0libx.so.1\0");
    file.resize(file.len() + 8192, 0);
    file
}

/// A root with a chain of 39 links of 4095 bytes at `/c/l38`. It leads to a library, or to the
/// library's directory.
fn root(to_directory: bool) -> TempDir {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for name in ["c/glibc-hwcaps", "d", "etc", "lib64", "usr/lib"] {
        fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("etc/ld.so.conf"), "/d\n").unwrap();
    for name in ["c/libend.so.1", "lib64/ld-linux-x86-64.so.2"] {
        fs::write(dir.path().join(name), library(0, 0)).unwrap();
    }
    let end = if to_directory { "." } else { "libend.so.1" };
    let long = |next: &str| format!("{}{next}", "e/../".repeat((4095 - next.len()) / 5));
    fs::create_dir(dir.path().join("c/e")).unwrap();
    symlink(long(end), dir.path().join("c/l0")).unwrap();
    for i in 1..39 {
        symlink(long(&format!("l{}", i - 1)), dir.path().join(format!("c/l{i}"))).unwrap();
    }
    dir
}

fn ldconfig(root: &Path, args: &[&str]) {
    let all: Vec<&OsStr> = ["ldconfig", "-N", "-r"]
        .into_iter()
        .map(OsStr::new)
        .chain([root.as_os_str()])
        .chain(args.iter().map(OsStr::new))
        .collect();
    let output = run(TEXT, &all, None);
    assert!(
        matches!(output.status.code(), Some(0 | 1)),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn names_that_lead_through_long_chains() {
    let dir = root(false);
    for i in 0..20_000 {
        symlink("/c/l38", dir.path().join(format!("d/lib{i}.so.1"))).unwrap();
    }
    ldconfig(dir.path(), &["-X"]);
    ldconfig(dir.path(), &[]);
    let dir = root(false);
    for i in 0..4000 {
        symlink("/c/l38", dir.path().join(format!("d/lib{i}.so.1"))).unwrap();
    }
    ldconfig(dir.path(), &["--first", "/d"]);
}

#[test]
fn directories_behind_long_chains() {
    let dir = root(true);
    let mut conf = String::new();
    for i in 0..600 {
        conf += &format!("/c/l38/{}\n", "./".repeat(i));
        symlink("/c/l38", dir.path().join(format!("c/glibc-hwcaps/{i}"))).unwrap();
    }
    fs::write(dir.path().join("etc/ld.so.conf"), &conf).unwrap();
    ldconfig(dir.path(), &["-X"]);
    // A process's environment has less room.
    let path: String = (0..250).map(|i| format!("/c/l38/{}:", "./".repeat(i))).collect();
    ldconfig(
        dir.path(),
        &[
            "--env",
            &format!("LD_LIBRARY_PATH={path}"),
            "--which",
            "libno.so.1",
        ],
    );
    let includes = (0..255).map(|i| format!("include /c/l38/{i}/*/x\n"));
    fs::write(dir.path().join("etc/ld.so.conf"), includes.collect::<String>()).unwrap();
    ldconfig(dir.path(), &["-X"]);
}

#[test]
fn libraries_with_large_tables() {
    let dir = root(false);
    for (name, bytes) in [("dynamic", library(4000, 0)), ("notes", library(0, 120))] {
        let first = dir.path().join(format!("d/lib{name}.so"));
        fs::write(&first, bytes).unwrap();
        for i in 0..30_000 {
            fs::hard_link(&first, dir.path().join(format!("d/lib{name}{i}.so"))).unwrap();
        }
    }
    ldconfig(dir.path(), &["-X"]);
    ldconfig(dir.path(), &[]);
}

#[test]
fn an_image_of_long_chains() {
    let dir = root(false);
    for i in 0..5_000 {
        symlink("/c/l38", dir.path().join(format!("usr/lib/libcuda{i}.so.1"))).unwrap();
        symlink("/c/l38", dir.path().join(format!("usr/lib/libcudart.so.{i}"))).unwrap();
    }
    for i in 0..2_000 {
        let site = dir.path().join(format!("opt/{i}/lib/python3.10/site-packages"));
        fs::create_dir_all(site.parent().unwrap()).unwrap();
        symlink("/c/l38", site).unwrap();
    }
    let args = ["doctor", "image"].map(OsStr::new);
    run(ARCHIVE, &[&args[..], &[dir.path().as_os_str()]].concat(), None);
}

const HEAD: &str = "cdiVersion: 0.6.0\nkind: nvidia.com/gpu\n";

/// A specification of `count` devices without nodes.
fn spec(count: usize) -> String {
    let devices = (0..count).map(|i| {
        format!("- {{name: \"{i}\", containerEdits: {{deviceNodes: [{{path: /dev/no-such-{i}}}]}}}}\n")
    });
    format!("{HEAD}devices:\n{}", devices.collect::<String>())
}

fn check(dirs: &[&Path], more: &[&str]) -> String {
    let mut args = vec![OsStr::new("cdi"), OsStr::new("check")];
    for dir in dirs {
        args.extend([OsStr::new("--spec-dir"), dir.as_os_str()]);
    }
    args.extend(more.iter().map(OsStr::new));
    let output = run(TEXT, &args, None);
    assert!(output.stdout.len() < 1 << 20, "{} bytes", output.stdout.len());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn output_of_cdi_check_is_bounded_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), spec(5000)).unwrap();
    let text = check(&[dir.path()], &[]);
    assert_eq!(text.lines().count(), 1001, "{text:.300}");
    let last = text.lines().last().unwrap();
    assert!(last.ends_with("more findings are left out"), "{last}");
    let json: serde_json::Value = serde_json::from_str(&check(&[dir.path()], &["--json"])).unwrap();
    let all = json.as_array().unwrap();
    assert_eq!(all.len(), 1001);
    let last = all.last().unwrap()["text"].as_str().unwrap();
    assert!(last.ends_with("more findings are left out"), "{last}");
}

#[test]
fn devices_that_hide_each_other_and_files_in_conflict() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for dir in &dirs {
        fs::write(dir.path().join("a.yaml"), spec(7000)).unwrap();
    }
    check(&[dirs[0].path(), dirs[1].path()], &[]);
    let dir = tempfile::tempdir().unwrap();
    for i in 0..1000 {
        let name = format!("{}{i}.yaml", "x".repeat(200));
        fs::write(dir.path().join(name), spec(12)).unwrap();
    }
    check(&[dir.path()], &[]);
    check(&[dir.path()], &["--json"]);
    let dir = tempfile::tempdir().unwrap();
    for i in 0..20_000 {
        fs::write(dir.path().join(format!("{i}.yml")), "").unwrap();
    }
    check(&[dir.path()], &[]);
}

#[test]
fn imports_of_thousands_of_patterns() {
    let dir = tempfile::tempdir().unwrap();
    let etc = dir.path().join("etc/containerd");
    fs::create_dir_all(etc.join("c")).unwrap();
    for i in 0..250 {
        fs::write(etc.join(format!("c/f{i}")), "").unwrap();
    }
    let patterns: String = (0..60_000).map(|i| format!("'c/*{i}x',")).collect();
    fs::write(
        etc.join("config.toml"),
        format!("version = 2\nimports = [{patterns}]\n"),
    )
    .unwrap();
    let args = [
        "install",
        "containerd",
        "--dry-run",
        "--runtime-path",
        "/usr/bin/nvoci-runtime",
        "--root",
    ];
    let args: Vec<&OsStr> = args
        .map(OsStr::new)
        .into_iter()
        .chain([dir.path().as_os_str()])
        .collect();
    refused(TEXT, &args, None, "6001");
}
