//! Jetson boards: CSV files list the driver's files by path, since they have no common version.
//!
//! A line is `TYPE, PATH`, such as `lib, /usr/lib/aarch64-linux-gnu/tegra/libcuda.so`. The types
//! are `dev` (device node), `dir` (directory), `lib` (library or other file) and `sym` (symbolic
//! link). Blanks are ignored and a path may have wildcards. One set of files serves several boards,
//! so many of the paths do not exist. Source: the toolkit's csv mode
//! (`internal/platform-support/tegra/csv`). A board with NVML is discovered like any other host.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::libs::{Facts, below, facts, parent};
use super::{DriverFile, FileKind, Host, Locations, Roots};
use crate::ldso::glob::{self, Allowance};
use crate::sys::root::Node;

/// The files that are read unless a container requests all of them.
const BASE: &[&str] = &["l4t.csv", "drivers.csv", "devices.csv"];

const MAX_FILES: usize = 64;
const MAX_BYTES: u64 = 1 << 20;
const MAX_LINES: usize = 4096;

/// Entries of the CSV files that exist on this host.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tegra {
    /// Device nodes, files and directories that must be at their own paths, and links.
    pub entries: Vec<Entry>,
}

impl Tegra {
    /// The library at a path, also through links that the files list.
    pub fn library_at(&self, path: &Path) -> Option<&Path> {
        const MAX_LINKS: usize = 8;
        let mut path = path;
        for _ in 0..MAX_LINKS {
            match &self.entries.iter().find(|e| e.at == path)?.kind {
                EntryKind::Library(library) => return Some(library),
                EntryKind::Link(to) => path = to,
                _ => return None,
            }
        }
        None
    }

    /// Whether a base file lists the library.
    pub fn in_base(&self, library: &Path) -> bool {
        self.entries
            .iter()
            .any(|e| e.base && matches!(&e.kind, EntryKind::Library(path) if path == library))
    }
}

/// An entry of a CSV file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Its kind.
    pub kind: EntryKind,
    /// Its path in a container: the one in the CSV file.
    pub at: PathBuf,
    /// Whether it is in one of the base files.
    pub base: bool,
}

/// See [`Entry::kind`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EntryKind {
    /// A device node.
    Device,
    /// A library that the loader finds; it is among [`Host::files`] by this path.
    Library(PathBuf),
    /// A file or a directory of the host.
    Place {
        /// Links resolved.
        source: PathBuf,
        /// The path in the CSV file.
        found: PathBuf,
    },
    /// A link to this path of the container.
    Link(PathBuf),
}

/// Whether the host is such a board.
pub(super) fn is(roots: &Roots) -> bool {
    roots.driver.exists("etc/nv_tegra_release")
        || roots.sys.as_ref().is_some_and(|sys| {
            sys.read_text("devices/soc0/family", 256)
                .is_ok_and(|t| t.to_ascii_lowercase().starts_with("tegra"))
        })
}

/// Reads the CSV files and finds their entries on the host.
pub(super) fn find(roots: &Roots, loc: &Locations, host: &mut Host) {
    let Ok(base) = roots.driver.path() else { return };
    let files = match roots.driver.read_dir(&loc.csv_dir, MAX_FILES) {
        Ok(files) => files,
        Err(e) => {
            return host.warn(format!(
                "{}: {e}; without its CSV files this Jetson's driver cannot be found",
                loc.csv_dir.display()
            ));
        }
    };
    let mut names: Vec<String> = files
        .into_iter()
        .filter_map(|e| e.name.into_string().ok())
        .filter(|n| n.len() > 4 && n.to_ascii_lowercase().ends_with(".csv"))
        .collect();
    names.sort_unstable();
    let mut finder = Finder {
        roots,
        base,
        patterns: Allowance::default(),
        seen: BTreeSet::new(),
        found: Tegra::default(),
        host,
    };
    for name in &names {
        finder.file(&loc.csv_dir.join(name), BASE.contains(&name.as_str()));
    }
    let found = finder.found;
    host.tegra = Some(found);
}

struct Finder<'a> {
    roots: &'a Roots,
    base: PathBuf,
    patterns: Allowance,
    seen: BTreeSet<PathBuf>,
    found: Tegra,
    host: &'a mut Host,
}

impl Finder<'_> {
    fn file(&mut self, path: &Path, base: bool) {
        let bytes = match self.roots.walk().read(path, MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(e) => return self.host.warn(e.to_string()),
        };
        let text = String::from_utf8_lossy(&bytes);
        let mut missing = Vec::new();
        for line in text.lines().take(MAX_LINES) {
            let Some((kind, pattern)) = line.split_once(',') else {
                continue;
            };
            let pattern = Path::new(pattern.trim());
            let usable = pattern.is_absolute() && !pattern.components().any(|c| c == Component::ParentDir);
            let paths = if usable {
                glob::expand(&self.roots.driver, pattern, &mut self.patterns)
            } else {
                Vec::new()
            };
            let before = self.found.entries.len();
            let mut known = false;
            for path in paths {
                if self.seen.contains(&path) {
                    known = true;
                } else if let Some(kind) = self.entry(kind.trim(), &path) {
                    self.seen.insert(path.clone());
                    self.found.entries.push(Entry { kind, at: path, base });
                }
            }
            if self.found.entries.len() == before && !known {
                missing.push(line.trim());
            }
        }
        if !missing.is_empty() {
            const SHOWN: usize = 3;
            let more = if missing.len() > SHOWN { ", …" } else { "" };
            let (are, were) = match missing.len() {
                1 => ("is not", "was"),
                _ => ("are not", "were"),
            };
            self.host.warn(format!(
                "{}: {} of its entries {} on this host and {} skipped: {}{more}",
                path.display(),
                missing.len(),
                are,
                were,
                missing[..missing.len().min(SHOWN)].join("; ")
            ));
        }
    }

    /// The kind of the entry at a path, if it has the line's type.
    fn entry(&mut self, kind: &str, path: &Path) -> Option<EntryKind> {
        if kind == "dev" {
            // Nodes are searched for in the dev root.
            path.strip_prefix("/dev").ok()?;
            return Some(EntryKind::Device);
        }
        let node = self.roots.driver.resolve(path).ok();
        let real = |node: &Node| below(&self.base, &node.path().ok()?);
        match kind {
            "dir" => {
                let node = node.filter(Node::is_dir)?;
                Some(self.place(&real(&node)?, path))
            }
            "lib" => {
                let node = node.filter(Node::is_file)?;
                let real = real(&node)?;
                Some(
                    self.library(&node, &real, path)
                        .unwrap_or_else(|| self.place(&real, path)),
                )
            }
            "sym" => {
                let target = self.roots.driver.read_link(path).ok()?;
                // A link's target comes with it if it is a file.
                if let Some(file) = node.filter(Node::is_file)
                    && let Some(real) = real(&file)
                    && !self.seen.contains(&real)
                {
                    let kind = self
                        .library(&file, &real, path)
                        .unwrap_or_else(|| self.place(&real, path));
                    self.seen.insert(real.clone());
                    self.found.entries.push(Entry {
                        kind,
                        at: real,
                        base: true,
                    });
                }
                Some(EntryKind::Link(lexical(&parent(path).join(target))))
            }
            _ => None,
        }
    }

    /// A shared library for this machine; it is added to [`Host::files`].
    fn library(&mut self, node: &Node, real: &Path, found: &Path) -> Option<EntryKind> {
        let name = real.file_name()?.to_str()?.to_owned();
        if !(name.starts_with("lib") && name.contains(".so")) {
            return None;
        }
        let Facts { bits, soname } = facts(&node.open_read().ok()?)?;
        if !self.host.files.iter().any(|f| f.path == real) {
            self.host.files.push(DriverFile {
                kind: FileKind::Library {
                    soname,
                    bits,
                    subdir: None,
                },
                found: found.to_owned(),
                name,
                path: real.to_owned(),
                text: None,
            });
        }
        Some(EntryKind::Library(real.to_owned()))
    }

    fn place(&self, real: &Path, found: &Path) -> EntryKind {
        EntryKind::Place {
            source: self.on_host(real),
            found: self.on_host(found),
        }
    }

    fn on_host(&self, path: &Path) -> PathBuf {
        let below = path.strip_prefix("/").unwrap_or(path);
        self.roots.driver_path.join(below)
    }
}

/// Normalises `/a/b/../c` to `/a/c`, for the text of a link in the container.
fn lexical(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}
