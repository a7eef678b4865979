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
//! The path may be a bare name: Docker passes on what `daemon.json` has, and the monitor searches
//! its `PATH`. For a runtime with `runtimeArgs` Docker passes the path of a script of its own.
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
use crate::sys::daemon::{self, Daemon, Fault, Refused};
use crate::sys::owned;
use crate::sys::program;
use crate::sys::root::{Node, Root};

const SHIMS: [&str; 2] = ["containerd-shim-runc-v2", "containerd-shim-runc-v1"];
const CONMONS: [&str; 2] = ["conmon", "conmonrs"];
/// The limits of a shim's options, and of the containers of one namespace of containerd.
const MAX_OPTIONS: u64 = 64 << 10;
const MAX_CONTAINERS: usize = 1 << 16;
/// The limit of a script that is a runtime.
const MAX_SCRIPT: u64 = 64 << 10;
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

    /// Whether `text` is a runtime that executes the file: its path, a name that leads to it in one
    /// of `dirs`, or a script that has such a word.
    fn runs(self, text: &str, dirs: &[&str]) -> bool {
        paths(text, dirs).any(|path| {
            self.is_at(&path)
                || script(&path).is_some_and(|script| {
                    let mut words = script.split([' ', '\t', '\n', '"', '\'', '`', ';', '=', '(', ')']);
                    words.any(|word| paths(word, dirs).any(|path| self.is_at(&path)))
                })
        })
    }

    fn is_at(self, path: &Path) -> bool {
        Self::of(path).is_ok_and(|there| there == self)
    }
}

/// The files that a runtime's text can mean.
fn paths(text: &str, dirs: &[&str]) -> impl Iterator<Item = PathBuf> {
    let dirs: &[&str] = match text {
        "" => &[],
        _ if text.starts_with('/') => &["/"],
        _ if text.contains('/') => &[],
        _ => dirs,
    };
    dirs.iter().map(move |dir| Path::new(dir).join(text))
}

/// The text of a script that only root can have written.
fn script(path: &Path) -> Option<String> {
    let node = owned::find(path).ok().flatten().filter(Node::is_file)?;
    let text = node.read(MAX_SCRIPT).ok()?;
    text.starts_with(b"#!")
        .then(|| String::from_utf8_lossy(&text).into_owned())
}

/// Fails if a running container was started through this program, by any of its names.
///
/// # Errors
/// [`Code::InUse`] with the number of these containers, or with a monitor that cannot be examined.
/// [`Code::Usage`] for a user other than root.
pub fn refuse_use() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        let why = "only root can examine the monitors of containers";
        return Err(Error::new(Code::Usage, "--if-unused", why).fix("run it as root"));
    }
    let program = Inode::of(Path::new("/proc/self/exe"))
        .map_err(|e| Error::new(Code::System, "/proc/self/exe", e.to_string()))?;
    let (found, unknown) = containers_of(program);
    if found.is_empty() {
        return unknown.map_or(Ok(()), Err);
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

/// The ids of the containers whose monitors call `program`, and the error for a monitor that cannot
/// be examined.
fn containers_of(program: Inode) -> (Vec<String>, Option<Error>) {
    let mut unknown = None;
    let mut all = |names: &[&str]| -> Vec<Daemon> {
        let scans = names.iter().map(|name| (name, daemon::find(name)));
        scans
            .flat_map(|(name, scan)| {
                let refused = scan.refused.iter().find_map(|r| unexamined(name, r));
                unknown = unknown.take().or(refused);
                scan.daemons
            })
            .collect()
    };
    let mut dirs: Vec<PathBuf> = all(&SHIMS).iter().filter_map(directory_of).collect();
    let conmons = all(&CONMONS);
    dirs.sort();
    dirs.dedup();
    let mut found: Vec<String> = dirs
        .iter()
        .flat_map(|dir| of_shims(dir, program, &program::DIRS))
        .collect();
    found.extend(
        conmons
            .iter()
            .filter_map(|c| of_conmon(&c.args, program, &program::DIRS)),
    );
    found.sort();
    found.dedup();
    (found, unknown)
}

/// The error for root's own monitor whose program other users could replace: its containers are
/// unknown. A process is no monitor if its program has another name, such as that of Kata's shim.
fn unexamined(name: &str, refused: &Refused) -> Option<Error> {
    let exe = fs::read_link(format!("/proc/{}/exe", refused.pid)).ok()?;
    let file = exe.file_name()?.to_str()?;
    let is_monitor =
        refused.fault == Fault::Program && file.strip_suffix(" (deleted)").unwrap_or(file) == name;
    is_monitor.then(|| {
        let why = format!(
            "process {} is a container's monitor, and cannot be examined: {}",
            refused.pid, refused.why
        );
        Error::new(Code::InUse, name, why).fix(
            "correct the mode and the owner of that path, or stop its container, then remove nvoci again",
        )
    })
}

/// The directory with the containers of a shim's namespace. The shim of a pod has several, and its
/// working directory is that of the first one.
fn directory_of(shim: &Daemon) -> Option<PathBuf> {
    shim.working_directory().ok()?.parent().map(Path::to_path_buf)
}

fn of_shims(dir: &Path, program: Inode, dirs: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(root) = Root::open(dir) else {
        return found;
    };
    for entry in root.read_dir("/", MAX_CONTAINERS).unwrap_or_default() {
        let id = entry.name.to_string_lossy().into_owned();
        if of_shim(&root, &id).is_some_and(|options| names(&options, program, dirs)) {
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

/// Whether any text of the options is a runtime that executes the program.
fn names(options: &Value, inode: Inode, dirs: &[&str]) -> bool {
    match options {
        Value::String(text) => inode.runs(text, dirs),
        Value::Array(all) => all.iter().any(|v| names(v, inode, dirs)),
        Value::Object(all) => all.values().any(|v| names(v, inode, dirs)),
        _ => false,
    }
}

/// The container of a conmon (conmon(8): `-c ID -r RUNTIME`), if its runtime is the program.
fn of_conmon(args: &[Vec<u8>], program: Inode, dirs: &[&str]) -> Option<String> {
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
        .runs(&runtime, dirs)
        .then(|| value("-c", "--cid").unwrap_or_else(|| "conmon".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

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
        // Docker writes such a script for a runtime with arguments.
        let script = |name: &str, runtime: &str, mode: u32| {
            let path = dir.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{runtime} --debug $@\n")).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            format!("{{\"binary_name\":\"{}\"}}", path.display())
        };
        for (id, options) in [
            ("pod", format!("{{\"binary_name\":\"{}\"}}", ours.display())),
            (
                "nested",
                format!("{{\"a\":[{{\"BinaryName\":\"{}\"}}]}}", ours.display()),
            ),
            ("plain", "{\"binary_name\":\"/usr/bin/runc\"}".to_owned()),
            ("name", "{\"binary_name\":\"nvoci-runtime\"}".to_owned()),
            ("relative", "{\"binary_name\":\"./nvoci-runtime\"}".to_owned()),
            ("args", script("args", &ours.display().to_string(), 0o755)),
            (
                "quoted",
                script("quoted", &format!("'{}'", ours.display()), 0o755),
            ),
            ("named", script("named", "exec nvoci-runtime", 0o755)),
            ("loose", script("loose", &ours.display().to_string(), 0o757)),
            ("runc", script("runc", "/usr/bin/runc", 0o755)),
            ("broken", "{".to_owned()),
        ] {
            fs::create_dir_all(tasks.join(id)).unwrap();
            fs::write(tasks.join(id).join("options.json"), options).unwrap();
        }
        fs::create_dir(tasks.join("none")).unwrap();
        fs::create_dir(tasks.join("link")).unwrap();
        symlink("../pod/options.json", tasks.join("link/options.json")).unwrap();
        let dirs = ["/nowhere", dir.path().to_str().unwrap()];
        let mut found = of_shims(&tasks, program, &dirs);
        found.sort();
        assert_eq!(found, ["args", "name", "named", "nested", "pod", "quoted"]);
        assert!(of_shims(&dir.path().join("absent"), program, &dirs).is_empty());
    }

    #[test]
    fn conmons_of_this_runtime_are_found_by_their_arguments() {
        let dir = tempfile::tempdir().unwrap();
        let program = program(dir.path());
        let ours = dir.path().join("nvoci-runtime").display().to_string();
        let of = |args: &[&str]| {
            let args: Vec<Vec<u8>> = args.iter().map(|a| a.as_bytes().to_vec()).collect();
            of_conmon(&args, program, &[dir.path().to_str().unwrap()])
        };
        assert_eq!(of(&["-c", "abc", "-r", &ours]).as_deref(), Some("abc"));
        let joined = format!("--runtime={ours}");
        assert_eq!(of(&[&joined, "--cid", "abc"]).as_deref(), Some("abc"));
        assert_eq!(of(&["-c", "abc", "-r", "/usr/bin/env"]), None);
        assert_eq!(of(&["-c", "abc", "-r", "nvoci-runtime"]).as_deref(), Some("abc"));
        // Another option's value is not a runtime.
        assert_eq!(of(&["-c", "abc", "-b", &ours]), None);
        assert_eq!(of(&["-c", "abc", "-r"]), None);
        assert_eq!(of(&[]), None);
    }
}
