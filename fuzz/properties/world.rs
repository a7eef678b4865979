//! The world of the commands' targets: a host, directories of their own, and inputs in parts.

#![allow(dead_code, reason = "each target uses some of it")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use nvoci::error::Error;
use nvoci::host::{Host, Locations, Roots};

#[path = "../../src/host/testhost.rs"]
mod testhost;

use testhost::TestHost;
pub(crate) use testhost::elf;

/// The separator of an input's parts.
pub(crate) const SEPARATOR: &[u8] = b"\n%%\n";

/// The parts of an input, which has at least one.
pub(crate) fn parts(mut input: &[u8]) -> Vec<&[u8]> {
    const MAX: usize = 64;
    let mut all = Vec::new();
    while all.len() + 1 < MAX
        && let Some(at) = input.windows(SEPARATOR.len()).position(|w| w == SEPARATOR)
    {
        all.push(&input[..at]);
        input = &input[at + SEPARATOR.len()..];
    }
    all.push(input);
    all
}

/// The part with that number, or `default` if it is empty or missing.
pub(crate) fn part<'a>(parts: &[&'a [u8]], number: usize, default: &'a [u8]) -> &'a [u8] {
    parts
        .get(number)
        .copied()
        .filter(|p| !p.is_empty())
        .unwrap_or(default)
}

/// A part's first line, and the rest.
pub(crate) fn titled(part: &[u8]) -> (&[u8], &[u8]) {
    match part.iter().position(|b| *b == b'\n') {
        Some(at) => (&part[..at], &part[at + 1..]),
        None => (part, b""),
    }
}

/// This process's own directory, in memory if possible.
pub(crate) fn dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let shm = Path::new("/dev/shm");
        let base = if shm.is_dir() {
            shm.to_owned()
        } else {
            std::env::temp_dir()
        };
        let dir = base.join(format!("nvoci-fuzz-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory to work in");
        dir
    })
}

/// `dir()/name`, empty.
pub(crate) fn fresh(name: &str) -> PathBuf {
    let at = dir().join(name);
    let _ = fs::remove_dir_all(&at);
    fs::create_dir_all(&at).expect("an empty directory");
    at
}

/// A path below `root` from an input's name; `None` for a name that no file can have.
pub(crate) fn inside(root: &Path, name: &[u8]) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = Path::new(OsStr::from_bytes(name));
    let names: PathBuf = path
        .components()
        .filter(|c| matches!(c, Component::Normal(_)))
        .collect();
    let fits = names.components().count() <= 12
        && names.iter().all(|n| n.len() < 200)
        && !name.contains(&0)
        && !names.as_os_str().is_empty();
    fits.then(|| root.join(names))
}

/// Makes a part's file: `PATH` and the content from the next line on, or `PATH -> TARGET`.
pub(crate) fn make(root: &Path, part: &[u8]) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    let (title, content) = titled(part);
    let arrow = title.windows(4).position(|w| w == b" -> ");
    let name = arrow.map_or(title, |at| &title[..at]);
    let Some(path) = inside(root, name) else {
        return false;
    };
    let made = path.parent().is_some_and(|p| fs::create_dir_all(p).is_ok());
    match arrow {
        Some(at) => made && symlink(OsStr::from_bytes(&title[at + 4..]), path).is_ok(),
        // Never writes through a link that an earlier part made.
        None => made && fs::symlink_metadata(&path).is_err() && fs::write(path, content).is_ok(),
    }
}

/// The lines of `text` that `accepts` takes together, found in their order with few calls. A whole
/// text that is refused for one line would teach the fuzzer nothing.
pub(crate) fn repaired(text: &str, accepts: impl Fn(&[&str]) -> bool) -> Vec<&str> {
    const TRIES: usize = 48;
    let lines: Vec<&str> = text.lines().collect();
    let mut kept: Vec<&str> = Vec::new();
    let mut todo = vec![lines.as_slice()];
    for _ in 0..TRIES {
        let Some(some) = todo.pop() else { break };
        let before = kept.len();
        kept.extend(some);
        if !accepts(&kept) {
            kept.truncate(before);
            if some.len() > 1 {
                let (first, second) = some.split_at(some.len() / 2);
                todo.extend([second, first]);
            }
        }
    }
    kept
}

/// Two GPUs, the second divided, a whole driver, and nodes if this process may make them.
pub(crate) fn host() -> Locations {
    const DRIVER: &str = "580.95.05";
    const LIBRARIES: &[(&str, &str)] = &[
        ("libcuda", "libcuda.so.1"),
        ("libnvidia-ml", "libnvidia-ml.so.1"),
        ("libnvidia-ptxjitcompiler", "libnvidia-ptxjitcompiler.so.1"),
        ("libnvcuvid", "libnvcuvid.so.1"),
        ("libnvidia-encode", "libnvidia-encode.so.1"),
        ("libEGL_nvidia", "libEGL_nvidia.so.0"),
        ("libGLX_nvidia", "libGLX_nvidia.so.0"),
        ("libnvidia-glcore", "libnvidia-glcore.so.580.95.05"),
    ];
    static HOST: OnceLock<TestHost> = OnceLock::new();
    let host = HOST.get_or_init(|| {
        let host = TestHost::bare();
        host.module(DRIVER, 2);
        let lib = "usr/lib/x86_64-linux-gnu";
        host.driver(lib, DRIVER, LIBRARIES);
        let paths: Vec<(String, String)> = LIBRARIES
            .iter()
            .map(|(_, soname)| ((*soname).to_owned(), format!("/{lib}/{soname}")))
            .collect();
        let entries: Vec<(&str, &str)> = paths.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        host.cache(&entries);
        host.library("usr/bin/nvidia-smi", None, 64);
        host.file(
            "proc/devices",
            "Character devices:\n195 nvidia\n236 nvidia-caps-imex-channels\n237 nvidia-caps\n510 nvidia-uvm\n\nBlock devices:\n259 blkext\n",
        );
        let mut nodes = vec![
            ("nvidia0".to_owned(), 195, 0),
            ("nvidia1".to_owned(), 195, 1),
            ("nvidiactl".to_owned(), 195, 255),
            ("nvidia-uvm".to_owned(), 510, 0),
            ("nvidia-uvm-tools".to_owned(), 510, 1),
            ("nvidia-caps-imex-channels/channel0".to_owned(), 236, 0),
        ];
        for (path, minor) in [("gpu1/mig/gi7/access", 201), ("gpu1/mig/gi7/ci0/access", 202), ("mig/config", 1)] {
            host.file(
                &format!("proc/driver/nvidia/capabilities/{path}"),
                format!("DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n"),
            );
            nodes.push((format!("nvidia-caps/nvidia-cap{minor}"), 237, minor));
        }
        for (name, major, minor) in nodes {
            host.device(&name, major, minor, 0o666);
        }
        host
    });
    host.locations()
}

/// Removes the files of [`host`] and [`dir`].
pub(crate) fn clean() {
    let _ = fs::remove_dir_all(dir());
    let _ = fs::remove_dir_all(host().driver_root);
}

/// Checks that an error is one line with a code and without control characters.
pub(crate) fn check_error(e: &Error) {
    let line = e.to_string();
    assert!(!line.contains(char::is_control), "{line:?}");
    assert!(line.ends_with(']') && line.contains("[NVOCI-"), "{line}");
}

/// Checks that a text for a terminal has no control characters but line ends.
pub(crate) fn check_text(text: &str) {
    let bad = |c: char| c.is_control() && c != '\n';
    assert!(!text.contains(bad), "{text:?}");
}
