//! Jetson boards: CSV files list the driver's files by path, since they have no common version.
//!
//! A line is `TYPE, PATH`, such as `lib, /usr/lib/aarch64-linux-gnu/tegra/libcuda.so`. The types
//! are `dev` (device node), `dir` (directory), `lib` (library or other file) and `sym` (symbolic
//! link). Blanks are ignored and a path may have wildcards. One set of files serves several boards,
//! so many of the paths do not exist. Source: the toolkit's csv mode
//! (`internal/platform-support/tegra/csv`). A board with NVML is discovered like any other host,
//! unless a person names CSV files ([`Choice`]), which are then read.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use super::libs::{Facts, below, facts, parent};
use super::{DriverFile, FileKind, Host, Locations, Roots};
use crate::ldso::glob::{self, Allowance};
use crate::sys::root::{Node, Root};
use crate::sys::source::Walk;

/// The files that are read unless a container requests all of them.
const BASE: &[&str] = &["l4t.csv", "drivers.csv", "devices.csv"];

const MAX_FILES: usize = 64;
const MAX_BYTES: u64 = 1 << 20;
const MAX_LINES: usize = 4096;

/// The CSV files that a person names, and the links that are left out.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Choice {
    /// Paths of the host. Empty: the base files of [`Locations::csv_dir`].
    pub files: Vec<PathBuf>,
    /// Patterns of the links that are left out.
    pub ignored: Vec<String>,
}

impl Choice {
    /// Whether a pattern matches the link at `path`: the whole path, or after `**/` its name. As in
    /// a shell, `*` matches no `/`.
    fn ignores(&self, path: &Path) -> bool {
        let fits = |pattern: &OsStr, name: &OsStr| glob::matches(pattern.as_bytes(), name.as_bytes());
        self.ignored.iter().any(|pattern| {
            if let Some(pattern) = pattern.strip_prefix("**/") {
                return path
                    .file_name()
                    .is_some_and(|name| fits(OsStr::new(pattern), name));
            }
            let (patterns, names) = (Path::new(pattern).components(), path.components());
            let (patterns, names): (Vec<_>, Vec<_>) = (patterns.collect(), names.collect());
            let mut pairs = patterns.iter().zip(&names);
            patterns.len() == names.len() && pairs.all(|(p, n)| fits(p.as_os_str(), n.as_os_str()))
        })
    }
}

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

/// Whether the board is an Orin, by the compatible names of its device tree.
pub fn is_orin(roots: &Roots) -> bool {
    const PATH: &str = "firmware/devicetree/base/compatible";
    let names = roots
        .sys
        .as_ref()
        .and_then(|sys| sys.read_kernel(PATH, 4096).ok());
    names.is_some_and(|names| names.split(|b| *b == 0).any(|name| name == b"nvidia,tegra234"))
}

/// Reads the CSV files and finds their entries on the host.
pub(super) fn find(roots: &Roots, loc: &Locations, host: &mut Host) {
    let Ok(base) = roots.driver.path() else { return };
    let default = Choice::default();
    let mut finder = Finder {
        roots,
        base,
        patterns: Allowance::default(),
        seen: BTreeSet::new(),
        found: Tegra::default(),
        choice: loc.csv.as_ref().unwrap_or(&default),
        host,
    };
    match &loc.csv {
        None => finder.directory(&loc.csv_dir),
        Some(Choice { files, .. }) if files.is_empty() => {
            for name in BASE {
                finder.file(&roots.walk(), &loc.csv_dir.join(name), true);
            }
        }
        // The user's paths are of the host, whichever directory the driver's root is.
        Some(Choice { files, .. }) => match Root::open("/") {
            Ok(root) => {
                if files.len() > MAX_FILES {
                    finder
                        .host
                        .warn(format!("only the first {MAX_FILES} CSV files are read"));
                }
                for file in files.iter().take(MAX_FILES) {
                    finder.file(&Walk::new(&root, Path::new("/")), file, true);
                }
            }
            Err(e) => finder.host.warn(format!("open /: {e}")),
        },
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
    choice: &'a Choice,
    host: &'a mut Host,
}

impl Finder<'_> {
    /// All files of a Jetson's directory.
    fn directory(&mut self, dir: &Path) {
        let files = match self.roots.driver.read_dir(dir, MAX_FILES) {
            Ok(files) => files,
            Err(e) => {
                return self.host.warn(format!(
                    "{}: {e}; without its CSV files this Jetson's driver cannot be found",
                    dir.display()
                ));
            }
        };
        let mut names: Vec<String> = files
            .into_iter()
            .filter_map(|e| e.name.into_string().ok())
            .filter(|n| n.len() > 4 && n.to_ascii_lowercase().ends_with(".csv"))
            .collect();
        names.sort_unstable();
        for name in &names {
            self.file(&self.roots.walk(), &dir.join(name), BASE.contains(&name.as_str()));
        }
    }

    fn file(&mut self, walk: &Walk<'_>, path: &Path, base: bool) {
        let bytes = match walk.read(path, MAX_BYTES) {
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
                let left_out = kind.trim() == "sym" && self.choice.ignores(&path);
                if left_out || self.seen.contains(&path) {
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
pub fn lexical(path: &Path) -> PathBuf {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_with_two_stars_covers_a_name_and_another_the_whole_path() {
        let covers = |pattern: &str, path: &str| {
            let choice = Choice {
                ignored: vec![pattern.to_owned()],
                ..Choice::default()
            };
            choice.ignores(Path::new(path))
        };
        for (pattern, path, wanted) in [
            ("**/libfoo.so*", "/usr/lib/libfoo.so.1", true),
            ("**/libfoo.so", "/usr/lib/libfoo.so.1", false),
            ("**/lib/libfoo.so", "/usr/lib/libfoo.so", false),
            ("/usr/lib/*", "/usr/lib/libfoo.so", true),
            ("/usr/*", "/usr/lib/libfoo.so", false),
            ("libfoo.so", "/usr/lib/libfoo.so", false),
            ("", "/usr/lib/libfoo.so", false),
        ] {
            assert_eq!(covers(pattern, path), wanted, "{pattern} {path}");
        }
    }
}
