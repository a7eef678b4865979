//! Inspects a running container from outside.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use procfs_core::process::MMapPath;
use rustix::fs::FileType;
use rustix::io::Errno;

use super::granted;
use crate::apply::Grant;
use crate::containers::{self, Container};
use crate::host::{Host, NodeKind};
use crate::ldso;
use crate::sys::cgroup::DeviceCgroup;
use crate::sys::root::{Node, Root};
use crate::sys::{probe, procfs, systemd};
use crate::vocabulary::DeviceNumber;

/// The largest file of one process that is read, in bytes.
const MAX_TEXT: u64 = 4 << 20;
/// The most processes whose mappings are read.
const MAX_PROCESSES: usize = 512;
/// systemd's directories of a unit's runtime settings.
const UNIT_DIRS: [&str; 2] = ["/run/systemd/transient", "/run/systemd/system.control"];

/// An inspected container.
#[derive(Debug)]
pub struct Seen {
    /// The container.
    pub container: Container,
    /// The host's record of its devices, or why no record counts.
    pub(super) grant: Result<Grant, String>,
    /// The environment of its first process, if it can be read.
    pub(super) env: Option<BTreeMap<String, String>>,
    /// The host's nodes, and their state in the container.
    pub(super) nodes: Vec<Seat>,
    /// Its processes are frozen, so no node was opened.
    pub(super) paused: bool,
    /// Why no node was opened, if none was.
    pub(super) unopened: Option<String>,
    /// The loader's `libcuda.so.1`.
    pub(super) libcuda: Option<Library>,
    /// The driver's libraries that its processes use.
    pub(super) mapped: Vec<Mapped>,
    /// systemd's scope of the container.
    pub(super) unit: Option<Unit>,
}

/// A node of the host, and its path in the container.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    pub(super) kind: NodeKind,
    pub(super) path: PathBuf,
    /// The number of the host's node.
    pub(super) number: DeviceNumber,
    pub(super) state: State,
    /// Whether the host's grant has it.
    pub(super) granted: bool,
}

/// The state of a node in the container.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum State {
    /// Not in the container.
    Absent,
    /// It exists with another number, or is no device.
    Wrong,
    /// It exists; nvoci did not open it.
    Untried,
    /// It opens.
    Opens,
    /// It does not open.
    Fails(Errno),
}

/// A library that the loader finds.
#[derive(Clone, Debug)]
pub(super) struct Library {
    /// The path in the container.
    pub(super) path: PathBuf,
    /// The path without links; its name has the version.
    pub(super) real: Option<PathBuf>,
    /// The part of the search path that has it.
    pub(super) via: String,
}

/// A library that a process uses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Mapped {
    pub(super) pid: u32,
    pub(super) command: String,
    pub(super) path: PathBuf,
    pub(super) deleted: bool,
}

/// A systemd scope and its device rules.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) name: String,
    /// The text of all the unit's files.
    pub(super) text: String,
}

impl Seen {
    /// Inspects a running container from outside.
    pub fn inspect(container: Container, host: &Host) -> Self {
        let dir = Path::new("/proc").join(container.pid.to_string());
        let root = Root::open(dir.join("root/.")).ok();
        let env = environment(&dir);
        granted::prune();
        let mut seen = Self {
            env,
            nodes: Vec::new(),
            // A process that joins a frozen cgroup to open nodes freezes too.
            paused: i32::try_from(container.pid)
                .is_ok_and(|pid| DeviceCgroup::is_frozen(pid).unwrap_or(false)),
            unopened: None,
            libcuda: None,
            mapped: mapped(container.pid),
            unit: unit(&container.cgroup),
            grant: granted::find(&container),
            container,
        };
        match root {
            Some(root) => {
                seen.nodes(&root, host);
                seen.libcuda = seen.libcuda(&root);
            }
            None => seen.unopened = Some("its root cannot be read".to_owned()),
        }
        seen
    }

    /// Finds the host's nodes in the container, and opens those that are the same device.
    fn nodes(&mut self, root: &Root, host: &Host) {
        let granted = self.grant.as_ref().map_or(&[][..], |grant| &grant.devices);
        let mut tried: Vec<(usize, Node)> = Vec::new();
        for node in host.nodes.iter().filter(|n| is_gpus(n.kind)) {
            let found = root.resolve_nofollow(&node.path).ok();
            let state = match &found {
                None => State::Absent,
                Some(f) if f.kind() == FileType::CharacterDevice && f.rdev() == node.number => State::Untried,
                Some(_) => State::Wrong,
            };
            if let (State::Untried, Some(found)) = (state, found) {
                tried.push((self.nodes.len(), found));
            }
            self.nodes.push(Seat {
                kind: node.kind,
                path: node.path.clone(),
                number: node.number,
                state,
                granted: granted.contains(&(node.path.clone(), node.number)),
            });
        }
        let (places, nodes): (Vec<usize>, Vec<Node>) = tried.into_iter().unzip();
        if nodes.is_empty() || self.paused {
            return;
        }
        match probe::open_as(self.container.pid, &nodes) {
            Ok(answers) => {
                for (place, answer) in places.into_iter().zip(answers) {
                    if let Some(seat) = self.nodes.get_mut(place) {
                        seat.state = answer.map_or(State::Opens, State::Fails);
                    }
                }
            }
            Err(e) => self.unopened = Some(format!("a child could not enter the container: {e}")),
        }
    }

    fn libcuda(&self, root: &Root) -> Option<Library> {
        let env = ldso::LoaderEnv {
            library_path: self
                .env
                .as_ref()
                .and_then(|e| e.get("LD_LIBRARY_PATH"))
                .map(|p| p.clone().into_bytes()),
            ..ldso::LoaderEnv::default()
        };
        let found = ldso::resolve(root, "libcuda.so.1", &env)?;
        // Only the last name of the links matters; the kernel would return the host's path.
        let real = root.resolve(&found.path).and_then(|n| n.path()).ok();
        Some(Library {
            real: real.and_then(|r| Some(PathBuf::from(r.file_name()?))),
            via: found.via.to_string(),
            path: found.path,
        })
    }

    /// A variable of the first process.
    pub(super) fn var(&self, name: &str) -> Option<&str> {
        self.env.as_ref()?.get(name).map(String::as_str)
    }

    /// Whether it has a node of a GPU, or a GPU was injected.
    pub(super) fn has_gpu(&self) -> bool {
        let gpu = |s: &Seat| matches!(s.kind, NodeKind::Gpu(_) | NodeKind::Dxg) && s.state != State::Absent;
        self.nodes.iter().any(gpu) || !self.container.gpus.is_empty()
    }
}

/// Whether it is a kind of node that GPU containers have.
fn is_gpus(kind: NodeKind) -> bool {
    matches!(
        kind,
        NodeKind::Ctl
            | NodeKind::Gpu(_)
            | NodeKind::Uvm
            | NodeKind::UvmTools
            | NodeKind::Modeset
            | NodeKind::Cap(_)
            | NodeKind::Dxg
    )
}

fn environment(dir: &Path) -> Option<BTreeMap<String, String>> {
    let mut bytes = Vec::new();
    fs::File::open(dir.join("environ"))
        .ok()?
        .take(MAX_TEXT)
        .read_to_end(&mut bytes)
        .ok()?;
    let pairs = bytes.split(|b| *b == 0).filter_map(|entry| {
        let text = String::from_utf8_lossy(entry);
        let (name, value) = text.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    });
    Some(pairs.collect())
}

/// Every libcuda and libnvidia-ml in use, once a process.
fn mapped(pid: u32) -> Vec<Mapped> {
    let proc = Path::new("/proc");
    let mut found = Vec::new();
    for pid in containers::members(proc, pid)
        .unwrap_or_default()
        .into_iter()
        .take(MAX_PROCESSES)
    {
        let dir = proc.join(pid.to_string());
        let command = text(&dir.join("comm")).trim_end().to_owned();
        for (path, deleted) in libraries(&procfs::read_most(dir.join("maps"), MAX_TEXT)) {
            found.push(Mapped {
                pid,
                command: command.clone(),
                path,
                deleted,
            });
        }
    }
    found
}

/// The driver's libraries in `/proc/PID/maps`, and whether the file is deleted.
pub(super) fn libraries(maps: &[u8]) -> Vec<(PathBuf, bool)> {
    let mut found: Vec<(PathBuf, bool)> = Vec::new();
    for mapping in procfs::mappings(maps) {
        let MMapPath::Path(path) = mapping else { continue };
        let Some(path) = path.to_str() else { continue };
        let (path, deleted) = path
            .strip_suffix(" (deleted)")
            .map_or((path, false), |p| (p, true));
        let name = path.rsplit('/').next().unwrap_or_default();
        let entry = (PathBuf::from(path), deleted);
        if (name.starts_with("libcuda.so") || name.starts_with("libnvidia-ml.so")) && !found.contains(&entry)
        {
            found.push(entry);
        }
    }
    found
}

/// systemd's settings of a container's scope, if it has one.
fn unit(cgroup: &str) -> Option<Unit> {
    let name = systemd::scope_of(cgroup)?;
    let mut text = String::new();
    let mut known = false;
    for dir in UNIT_DIRS {
        let dir = Path::new(dir);
        known |= dir.join(name).exists();
        text += &self::text(&dir.join(name));
        let drop_ins = fs::read_dir(dir.join(format!("{name}.d")))
            .into_iter()
            .flatten()
            .flatten();
        for drop_in in drop_ins.take(64) {
            known = true;
            text += &self::text(&drop_in.path());
            text.push('\n');
        }
    }
    known.then(|| Unit {
        name: name.to_owned(),
        text,
    })
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&procfs::read_most(path, MAX_TEXT)).into_owned()
}
