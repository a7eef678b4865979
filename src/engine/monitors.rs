//! Finds the running containers whose engine calls this program again: to execute a command in
//! them, to signal them, and to delete them.
//!
//! Monitors of containers keep the path of the runtime that started a container.
//!
//! | monitor | where the path is |
//! |---|---|
//! | `containerd-shim-runc-v2` (containerd, Docker, k3s, microk8s) | `options.json` of each container, beside the shim's working directory |
//! | `conmon` (Podman, CRI-O) | its arguments |
//!
//! Only monitors of this host's root count. Rootless engines are not examined: any user could start
//! a process of that name.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Code, Error, Escaped, Result, counted};
use crate::sys::daemon::{self, Daemon};
use crate::sys::owned;
use crate::sys::root::Root;

const SHIMS: [&str; 2] = ["containerd-shim-runc-v2", "containerd-shim-runc-v1"];
const CONMONS: [&str; 2] = ["conmon", "conmonrs"];
/// The limits of a shim's options, and of the containers of one namespace of containerd.
const MAX_OPTIONS: u64 = 64 << 10;
const MAX_CONTAINERS: usize = 1 << 16;
/// The most containers that a message names.
const MAX_NAMED: usize = 3;

/// A file, by its inode.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Inode(u64, u64);

impl Inode {
    /// The file at the end of all links.
    fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|meta| Self(meta.dev(), meta.ino()))
    }

    /// Whether `text` is a path of the file. Engines resolve a runtime's name before they pass it
    /// to a monitor.
    fn is_at(self, text: &str) -> bool {
        text.starts_with('/') && Self::of(Path::new(text)).is_ok_and(|there| there == self)
    }
}

/// Fails if a running container was started through this program, by any of its names.
///
/// # Errors
/// [`Code::InUse`] with the number of these containers.
pub fn refuse_use() -> Result<()> {
    let program = Inode::of(Path::new("/proc/self/exe"))
        .map_err(|e| Error::new(Code::System, "/proc/self/exe", e.to_string()))?;
    let found = containers_of(program);
    if found.is_empty() {
        return Ok(());
    }
    let mut names: Vec<&str> = found.iter().take(MAX_NAMED).map(String::as_str).collect();
    if found.len() > MAX_NAMED {
        names.push("…");
    }
    let started = counted(
        found.len(),
        "running container was started through it",
        "running containers were started through it",
    );
    let names = names.join(", ");
    let why = format!(
        "{started} ({}), and the engine executes commands in containers, and stops them, by their runtime",
        Escaped(&names)
    );
    Err(Error::new(Code::InUse, "nvoci-runtime", why))
}

/// The ids of the containers whose monitors call `program`.
fn containers_of(program: Inode) -> Vec<String> {
    let all =
        |names: &[&str]| -> Vec<Daemon> { names.iter().flat_map(|n| daemon::find(n).daemons).collect() };
    let mut dirs: Vec<PathBuf> = all(&SHIMS).iter().filter_map(directory_of).collect();
    dirs.sort();
    dirs.dedup();
    let mut found: Vec<String> = dirs.iter().flat_map(|dir| of_shims(dir, program)).collect();
    found.extend(all(&CONMONS).iter().filter_map(|c| of_conmon(&c.args, program)));
    found.sort();
    found.dedup();
    found
}

/// The directory with the containers of a shim's namespace. The shim of a pod has several, and its
/// working directory is that of the first one.
fn directory_of(shim: &Daemon) -> Option<PathBuf> {
    shim.working_directory().ok()?.parent().map(Path::to_path_buf)
}

fn of_shims(dir: &Path, program: Inode) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(root) = Root::open(dir) else {
        return found;
    };
    for entry in root.read_dir("/", MAX_CONTAINERS).unwrap_or_default() {
        let id = entry.name.to_string_lossy().into_owned();
        if of_shim(&root, &id).is_some_and(|options| names(&options, program)) {
            found.push(id);
        }
    }
    found
}

/// The options of one container's shim, in the form of containerd's type `Options` of runc.
fn of_shim(root: &Root, id: &str) -> Option<Value> {
    let node = root.resolve_nofollow(Path::new(id).join("options.json")).ok()?;
    owned::check(&node, Path::new(id)).ok()?;
    serde_json::from_slice(&node.read(MAX_OPTIONS).ok()?).ok()
}

/// Whether any text of the options is a path of the program.
fn names(options: &Value, program: Inode) -> bool {
    match options {
        Value::String(text) => program.is_at(text),
        Value::Array(all) => all.iter().any(|v| names(v, program)),
        Value::Object(all) => all.values().any(|v| names(v, program)),
        _ => false,
    }
}

/// The container of a conmon (conmon(8): `-c ID -r RUNTIME`), if its runtime is the program.
fn of_conmon(args: &[Vec<u8>], program: Inode) -> Option<String> {
    let value = |short: &str, long: &str| {
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let arg = Path::new(std::ffi::OsStr::from_bytes(arg)).to_str()?;
            if arg == short || arg == long {
                let next = args.next()?;
                return Some(String::from_utf8_lossy(next).into_owned());
            }
            if let Some(value) = arg.strip_prefix(long).and_then(|rest| rest.strip_prefix('=')) {
                return Some(value.to_owned());
            }
        }
        None
    };
    let runtime = value("-r", "--runtime")?;
    program
        .is_at(&runtime)
        .then(|| value("-c", "--cid").unwrap_or_else(|| "conmon".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn program(dir: &Path) -> Inode {
        fs::write(dir.join("nvoci"), "").unwrap();
        symlink("nvoci", dir.join("nvoci-runtime")).unwrap();
        Inode::of(&dir.join("nvoci")).unwrap()
    }

    #[test]
    fn shims_of_this_runtime_are_found_by_their_options() {
        let dir = tempfile::tempdir().unwrap();
        let program = program(dir.path());
        let ours = dir.path().join("nvoci-runtime");
        let tasks = dir.path().join("k8s.io");
        for (id, options) in [
            ("pod", format!("{{\"binary_name\":\"{}\"}}", ours.display())),
            (
                "nested",
                format!("{{\"a\":[{{\"BinaryName\":\"{}\"}}]}}", ours.display()),
            ),
            ("plain", "{\"binary_name\":\"/usr/bin/runc\"}".to_owned()),
            ("name", "{\"binary_name\":\"nvoci-runtime\"}".to_owned()),
            ("broken", "{".to_owned()),
        ] {
            fs::create_dir_all(tasks.join(id)).unwrap();
            fs::write(tasks.join(id).join("options.json"), options).unwrap();
        }
        fs::create_dir(tasks.join("none")).unwrap();
        fs::create_dir(tasks.join("link")).unwrap();
        symlink("../pod/options.json", tasks.join("link/options.json")).unwrap();
        let mut found = of_shims(&tasks, program);
        found.sort();
        assert_eq!(found, ["nested", "pod"]);
        assert!(of_shims(&dir.path().join("absent"), program).is_empty());
    }

    #[test]
    fn conmons_of_this_runtime_are_found_by_their_arguments() {
        let dir = tempfile::tempdir().unwrap();
        let program = program(dir.path());
        let ours = dir.path().join("nvoci-runtime").display().to_string();
        let of = |args: &[&str]| {
            let args: Vec<Vec<u8>> = args.iter().map(|a| a.as_bytes().to_vec()).collect();
            of_conmon(&args, program)
        };
        assert_eq!(of(&["-c", "abc", "-r", &ours]).as_deref(), Some("abc"));
        let joined = format!("--runtime={ours}");
        assert_eq!(of(&[&joined, "--cid", "abc"]).as_deref(), Some("abc"));
        assert_eq!(of(&["-c", "abc", "-r", "/usr/bin/env"]), None);
        // Another option's value is not a runtime.
        assert_eq!(of(&["-c", "abc", "-b", &ours]), None);
        assert_eq!(of(&["-c", "abc", "-r"]), None);
        assert_eq!(of(&[]), None);
    }
}
