//! The specifications of a host: directories, priorities, conflicts, names.
//!
//! Of two directories the later one has priority: its devices hide others of the same name. Two
//! devices of one name in one directory are in conflict, and neither is available. Subdirectories
//! are not read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::read::{self, Format};
use super::types::{CdiSpec, Device};
use crate::error::{Code, Error, IoContext as _, Result};
use crate::request::CdiName;
use crate::sys::budget::Budget;
use crate::sys::owned;
use crate::sys::root::{Node, Root};

/// The most files of one directory.
const MAX_FILES: usize = 4096;

/// The files that may be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trust {
    /// Files that nobody but root can have written: to be applied.
    Root,
    /// All files: to be checked.
    Anyone,
}

/// A specification and its file.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The path of the file.
    pub path: PathBuf,
    /// The place of its directory in the list; a later one hides an earlier one.
    pub priority: usize,
    /// The contents.
    pub spec: CdiSpec,
}

/// All specifications of a list of directories.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    /// The valid ones, in the order of directories and names.
    pub loaded: Vec<Loaded>,
    /// The others, with the reason.
    pub problems: Vec<(PathBuf, Error)>,
}

/// The source of a device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Standing {
    /// The specification of this number.
    Good(usize),
    /// Several specifications of the same priority have it.
    Conflict(Vec<usize>),
}

impl Registry {
    /// Reads all directories; a missing one has no specifications. A broken file is a problem and
    /// no error, since other vendors' devices must stay available. So is a file for which `budget`
    /// does not suffice.
    pub fn load(dirs: &[PathBuf], trust: Trust, budget: &Budget) -> Self {
        let mut registry = Self::default();
        for (priority, dir) in dirs.iter().enumerate() {
            for path in registry.files(dir, trust) {
                match spec_file(&path, trust, budget) {
                    Ok(Some(spec)) => registry.loaded.push(Loaded { path, priority, spec }),
                    Ok(None) => {}
                    Err(e) => registry.problems.push((path, e)),
                }
            }
        }
        registry
    }

    /// Every device with its source, sorted by name.
    pub fn devices(&self) -> BTreeMap<String, Standing> {
        let mut all: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (i, loaded) in self.loaded.iter().enumerate() {
            for device in &loaded.spec.devices {
                let at = all
                    .entry(format!("{}={}", loaded.spec.kind, device.name))
                    .or_default();
                let best = at.first().map_or(0, |&j| self.loaded[j].priority);
                if loaded.priority > best {
                    at.clear();
                }
                at.push(i);
            }
        }
        all.into_iter()
            .map(|(name, at)| match at.as_slice() {
                [one] => (name, Standing::Good(*one)),
                _ => (name, Standing::Conflict(at)),
            })
            .collect()
    }

    /// The device that a name stands for, with its specification.
    pub fn find(&self, name: &CdiName) -> Option<(&Loaded, &Device)> {
        let kind = format!("{}/{}", name.vendor, name.class);
        let mut best: Option<(&Loaded, &Device)> = None;
        let mut conflict = false;
        for loaded in self.loaded.iter().filter(|l| l.spec.kind == kind) {
            let Some(device) = loaded.spec.devices.iter().find(|d| d.name == name.device) else {
                continue;
            };
            conflict = best.is_some_and(|(other, _)| other.priority == loaded.priority);
            best = Some((loaded, device));
        }
        best.filter(|_| !conflict)
    }

    /// The error for missing devices: the request, the existing devices, and a broken file. The
    /// names come from files, so the text is bounded.
    pub fn unresolvable(&self, names: &[&CdiName], dirs: &[PathBuf]) -> Error {
        let wanted: Vec<String> = names.iter().map(ToString::to_string).collect();
        let what = format!("CDI device {}", wanted.join(", "));
        let devices = self.devices();
        let there: Vec<&str> = devices
            .iter()
            .filter(|(_, standing)| matches!(standing, Standing::Good(_)))
            .map(|(name, _)| name.as_str())
            .take(24)
            .collect();
        let dirs: Vec<String> = dirs.iter().map(|d| d.display().to_string()).collect();
        let mut why = if there.is_empty() {
            format!("no specification in {} has any device", dirs.join(", "))
        } else {
            format!("not in {}, which have {}", dirs.join(", "), there.join(", "))
        };
        for name in &wanted {
            if let Some(Standing::Conflict(at)) = devices.get(name) {
                let files: Vec<String> = at
                    .iter()
                    .map(|&i| self.loaded[i].path.display().to_string())
                    .collect();
                why = format!("{name} is in conflict: {} all have it", files.join(", "));
            }
        }
        if let Some((path, e)) = self.problems.first() {
            why = format!("{why}; {} was not read ({})", path.display(), e.why());
        }
        let error = Error::new(Code::Cdi, what, why);
        if names.iter().any(|name| name.vendor.starts_with("management.")) {
            return error.fix(
                "`nvoci cdi generate --mode=management --vendor=management.nvidia.com --class=gpu --output \
                 /var/run/cdi/management.nvidia.com-gpu.yaml` writes the specification",
            );
        }
        error.fix("`nvoci cdi generate --output /var/run/cdi/nvidia.yaml` writes the one for this host; `nvoci cdi check` looks at all")
    }

    fn files(&mut self, dir: &Path, trust: Trust) -> Vec<PathBuf> {
        let entries = match open(dir, trust) {
            Ok(None) => return Vec::new(),
            Ok(Some(node)) => node
                .read_dir(MAX_FILES)
                .context(Code::Cdi, || dir.display().to_string()),
            Err(e) => Err(e),
        };
        match entries {
            Ok(entries) => {
                let mut files: Vec<PathBuf> = entries
                    .iter()
                    .map(|e| dir.join(&e.name))
                    .filter(|p| Format::of(p).is_some())
                    .collect();
                files.sort_unstable();
                files
            }
            Err(e) => {
                self.problems.push((dir.to_owned(), e));
                Vec::new()
            }
        }
    }
}

/// Reads a specification file; `None` if it no longer exists, or is a directory.
pub fn spec_file(path: &Path, trust: Trust, budget: &Budget) -> Result<Option<CdiSpec>> {
    let what = || format!("CDI specification {}", path.display());
    let Some(node) = open(path, trust)?.filter(|n| !n.is_dir()) else {
        return Ok(None);
    };
    let bytes = node.read(read::MAX_SIZE).context(Code::Cdi, what)?;
    let format = Format::of(path).unwrap_or(Format::Yaml);
    read::parse(&bytes, format, &path.display().to_string(), budget).map(Some)
}

fn open(path: &Path, trust: Trust) -> Result<Option<Node>> {
    if trust == Trust::Root {
        return owned::find(path);
    }
    let root = Root::open("/").context(Code::System, || "open /")?;
    match root.resolve(path) {
        Ok(node) => Ok(Some(node)),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(Error::io(Code::Cdi, path.display().to_string(), &e)),
    }
}
