//! The layers of an image: the changes of each, and the root that they merge into.
//!
//! Facts: "Image Layer Filesystem Changeset" of the OCI image specification (whiteouts, opaque
//! directories, hard links). For example, `.wh.foo` in a layer deletes `foo` of the layers below
//! it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::Progress;
use super::keep::{self, Keep};
use super::scratch::{INODE, Scratch};
use super::tar::{Forward, Header, Kind, Tar};
use crate::sys::budget::Budget;
use crate::sys::root::{Node, Root};

/// The longest path, and the longest target of a link.
const MAX_PATH: usize = 4095;
/// The deepest nesting of directories; no search goes deeper.
const MAX_DEPTH: usize = 128;
/// The memory of an entry besides its texts, in bytes: a node of the tree and the allocator's
/// overhead.
const ENTRY: usize = 160;
/// The memory of a path in the merged tree, in bytes.
const MERGED: u64 = 64;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// A layer's entry at a path.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Entry {
    Directory,
    /// The number of its kept parts.
    File(usize),
    /// A hard link to the file at this path.
    HardLink(Box<[u8]>),
    SymbolicLink(Box<[u8]>),
}

/// Why an entry is left out.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Reason {
    Device,
    Link,
    Name,
    Place,
    Sparse,
    Type,
}

impl Reason {
    fn text(self) -> &'static str {
        match self {
            Self::Device => "a device node or FIFO",
            Self::Link => "a link whose target is empty or too long",
            Self::Name => "a name with `..` or control characters, or too long or too deep",
            Self::Place => "a place that another entry takes",
            Self::Sparse => "a sparse file of GNU tar",
            Self::Type => "an unknown type",
        }
    }
}

/// The number of skipped entries, by reason.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LeftOut(BTreeMap<Reason, usize>);

impl LeftOut {
    fn add(&mut self, reason: Reason) {
        *self.0.entry(reason).or_insert(0) += 1;
    }

    /// Adds another layer's counts.
    pub fn join(&mut self, other: &Self) {
        for (reason, n) in &other.0 {
            *self.0.entry(*reason).or_insert(0) += n;
        }
    }

    /// One line for a person; `None` if no entry was skipped.
    pub fn note(&self) -> Option<String> {
        let all: usize = self.0.values().sum();
        let reasons: Vec<String> = self
            .0
            .iter()
            .map(|(reason, n)| format!("{n} of {}", reason.text()))
            .collect();
        (all > 0).then(|| format!("{all} entries were left out: {}", reasons.join(", ")))
    }
}

/// The changes of one layer.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    entries: BTreeMap<Box<[u8]>, Entry>,
    /// Paths that it deletes from the layers below.
    whiteouts: Vec<Box<[u8]>>,
    /// Directories that hide all entries of the layers below.
    opaque: Vec<Box<[u8]>>,
    /// Skipped entries.
    pub left_out: LeftOut,
    broken: bool,
}

impl Layer {
    /// Stands for an unreadable layer.
    pub fn broken() -> Self {
        Self {
            broken: true,
            ..Self::default()
        }
    }

    /// Whether it is [`Layer::broken`].
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Reads a layer, and keeps the parts that later readers need.
    pub fn read(
        source: impl Forward,
        scratch: &mut Scratch,
        budget: &Budget,
        progress: &mut dyn Progress,
    ) -> io::Result<Self> {
        let mut layer = Self::default();
        let mut tar = Tar::new(source, budget);
        let mut count = 0;
        while let Some(header) = tar.advance()? {
            count += 1;
            progress.entries(count);
            match clean(&header.path) {
                Ok(None) => {}
                Ok(Some(path)) => layer.take(path, &header, &mut tar, scratch, budget)?,
                Err(reason) => layer.left_out.add(reason),
            }
        }
        Ok(layer)
    }

    fn take(
        &mut self,
        path: Box<[u8]>,
        header: &Header,
        tar: &mut Tar<'_, impl Forward>,
        scratch: &mut Scratch,
        budget: &Budget,
    ) -> io::Result<()> {
        if self.removes(&path, budget)? {
            return Ok(());
        }
        let of_interest = || keep::of(&path) != Keep::Nothing;
        let link_of = |target: &[u8]| Box::<[u8]>::from(target);
        let entry = match header.kind {
            Kind::Directory => Ok(Entry::Directory),
            Kind::SymbolicLink if header.link.is_empty() || header.link.len() > MAX_PATH => Err(Reason::Link),
            Kind::SymbolicLink if header.link.contains(&0) => Err(Reason::Link),
            Kind::SymbolicLink => Ok(Entry::SymbolicLink(link_of(&header.link))),
            Kind::File | Kind::HardLink | Kind::Sparse if !of_interest() => return Ok(()),
            Kind::HardLink => match clean(&header.link) {
                Ok(Some(target)) => Ok(Entry::HardLink(target)),
                _ => Err(Reason::Link),
            },
            Kind::File => {
                let mut out = scratch.file(budget)?;
                keep::store(&mut tar.data(), header.size, keep::of(&path), &mut out)?;
                Ok(Entry::File(scratch.done(out)?))
            }
            Kind::Device => Err(Reason::Device),
            Kind::Sparse => Err(Reason::Sparse),
            Kind::Other => Err(Reason::Type),
        };
        match entry {
            Ok(entry) => {
                let link = match &entry {
                    Entry::HardLink(target) | Entry::SymbolicLink(target) => target.len(),
                    Entry::Directory | Entry::File(_) => 0,
                };
                charge(budget, path.len() + link)?;
                self.entries.insert(path, entry);
            }
            Err(reason) => self.left_out.add(reason),
        }
        Ok(())
    }

    /// Records a whiteout; `false` for any other path.
    fn removes(&mut self, path: &[u8], budget: &Budget) -> io::Result<bool> {
        let at = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
        let (dir, name) = path.split_at(at);
        if name == OPAQUE {
            charge(budget, dir.len())?;
            self.opaque.push(dir.into());
        } else if let Some(name) = name.strip_prefix(WHITEOUT) {
            charge(budget, path.len())?;
            self.whiteouts.push([dir, name].concat().into());
        } else {
            return Ok(false);
        }
        Ok(true)
    }
}

/// Charges an entry with `bytes` of text; the allocator's size classes are up to a quarter larger.
fn charge(budget: &Budget, bytes: usize) -> io::Result<()> {
    Ok(budget.keep((ENTRY + bytes + bytes / 4) as u64)?)
}

/// Normalises a path below the root: no `.`, no empty components. `None` for the root itself.
fn clean(path: &[u8]) -> Result<Option<Box<[u8]>>, Reason> {
    const MAX_NAME: usize = 255;
    if path.len() > MAX_PATH || path.iter().any(u8::is_ascii_control) {
        return Err(Reason::Name);
    }
    let mut out = Vec::with_capacity(path.len());
    let mut depth = 0;
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return Err(Reason::Name),
            _ => depth += 1,
        }
        if part.len() > MAX_NAME || depth > MAX_DEPTH {
            return Err(Reason::Name);
        }
        if !out.is_empty() {
            out.push(b'/');
        }
        out.extend_from_slice(part);
    }
    Ok((!out.is_empty()).then(|| out.into_boxed_slice()))
}

/// The merged paths of several layers.
struct Merged<'l> {
    all: BTreeMap<&'l [u8], &'l Entry>,
    budget: &'l Budget,
}

impl<'l> Merged<'l> {
    fn add(&mut self, layer: &'l Layer) -> io::Result<()> {
        for dir in &layer.opaque {
            self.remove_below(dir)?;
        }
        for path in &layer.whiteouts {
            self.remove(path);
            self.remove_below(&[path, &b"/"[..]].concat())?;
        }
        for (path, entry) in &layer.entries {
            let entry = match entry {
                Entry::HardLink(target) => {
                    let below = || self.all.get(&target[..]).copied();
                    match layer.entries.get(target).or_else(below) {
                        Some(found @ (Entry::File(_) | Entry::SymbolicLink(_))) => found,
                        _ => continue,
                    }
                }
                other => other,
            };
            if *entry != Entry::Directory {
                self.remove_below(&[path, &b"/"[..]].concat())?;
            }
            if self.all.insert(path, entry).is_none() {
                self.budget.keep(MERGED)?;
            }
            self.budget.step()?;
        }
        Ok(())
    }

    fn remove(&mut self, path: &[u8]) {
        if self.all.remove(path).is_some() {
            self.budget.release(MERGED);
        }
    }

    /// Removes paths with the prefix `prefix`, which is empty or ends with a slash.
    fn remove_below(&mut self, prefix: &[u8]) -> io::Result<()> {
        use std::ops::Bound;
        self.budget.step()?;
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let below: Vec<&[u8]> = self
            .all
            .range::<[u8], _>(from)
            .map(|(path, _)| *path)
            .take_while(|path| path.starts_with(prefix))
            .collect();
        for path in below {
            self.remove(path);
        }
        Ok(())
    }
}

/// Merges `layers`, the lowest first, into a root. Counts the entries that have no place in it.
pub fn merge(layers: &[&Layer], scratch: &Scratch, budget: &Budget) -> io::Result<(Root, LeftOut)> {
    let mut merged = Merged {
        all: BTreeMap::new(),
        budget,
    };
    for layer in layers {
        merged.add(layer)?;
    }
    lay_out(&merged, scratch)
}

/// Makes directories, files and links. A link is made before the entries behind it, and followed
/// inside the root, as a container's kernel follows it.
fn lay_out(merged: &Merged<'_>, scratch: &Scratch) -> io::Result<(Root, LeftOut)> {
    let root = scratch.root()?;
    let budget = merged.budget;
    let mut left_out = LeftOut::default();
    let mut last: Option<(PathBuf, Node)> = None;
    let pass = |entry: &Entry| match entry {
        Entry::SymbolicLink(_) => 0,
        Entry::Directory => 1,
        Entry::File(_) | Entry::HardLink(_) => 2,
    };
    for now in 0..=2 {
        for (path, entry) in &merged.all {
            budget.step()?;
            if pass(entry) != now {
                continue;
            }
            let path = Path::new(OsStr::from_bytes(path));
            let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
                continue;
            };
            if **entry == Entry::Directory && !is_kept_empty(path) {
                continue;
            }
            let charge = || Ok(budget.keep(INODE)?);
            if last.as_ref().is_none_or(|(known, _)| known != dir) {
                // Chained links with long targets make it slow.
                budget.check()?;
                match root.mkdir_all_by(Path::new("/").join(dir), 0o700, charge) {
                    Ok(node) => last = Some((dir.to_owned(), node)),
                    // The link's target is missing or a file, so nothing can be below it.
                    Err(e) if of_the_entry(&e) => continue,
                    Err(e) => return Err(e),
                }
            }
            let Some((_, node)) = &last else { continue };
            charge()?;
            let made = match entry {
                Entry::SymbolicLink(target) => node.symlink(name, Path::new(OsStr::from_bytes(target))),
                Entry::File(number) => scratch.link(*number, node, name),
                Entry::Directory => node.mkdir(name, 0o700).map(drop),
                Entry::HardLink(_) => Ok(()),
            };
            match made {
                Ok(()) => {}
                // Two layers may name one path in two ways, through a link; the first name stays.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EEXIST | libc::ENOTDIR)) => {}
                Err(e) if of_the_entry(&e) => left_out.add(Reason::Place),
                Err(e) => return Err(e),
            }
        }
    }
    Ok((root, left_out))
}

/// Whether the entry is at fault, not the machine.
fn of_the_entry(e: &io::Error) -> bool {
    const ERRNOS: [i32; 9] = [
        libc::EEXIST,
        libc::EINVAL,
        libc::EISDIR,
        libc::ELOOP,
        libc::EMLINK,
        libc::ENAMETOOLONG,
        libc::ENOENT,
        libc::ENOTDIR,
        libc::EXDEV,
    ];
    e.raw_os_error().is_some_and(|errno| ERRNOS.contains(&errno))
}

/// Directories that matter even if they are empty: packages, and possible targets of links.
fn is_kept_empty(path: &Path) -> bool {
    const SHALLOW: usize = 3;
    let site = |name: &OsStr| name == "site-packages" || name == "dist-packages";
    path.components().count() <= SHALLOW || path.parent().and_then(Path::file_name).is_some_and(site)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::image::Silent;
    use crate::doctor::image::tar::tests::{archive, entry};

    fn merged_with_notes(layers: &[Vec<Vec<u8>>]) -> (Scratch, Root, Vec<LeftOut>) {
        let budget = Budget::default();
        let mut scratch = Scratch::new().unwrap();
        let layers: Vec<Layer> = layers
            .iter()
            .map(|entries| {
                let bytes = archive(entries);
                Layer::read(bytes.as_slice(), &mut scratch, &budget, &mut Silent).unwrap()
            })
            .collect();
        let (root, places) = merge(&layers.iter().collect::<Vec<_>>(), &scratch, &budget).unwrap();
        let mut left_out: Vec<LeftOut> = layers.iter().map(|l| l.left_out.clone()).collect();
        left_out.push(places);
        (scratch, root, left_out)
    }

    fn merged(layers: &[Vec<Vec<u8>>]) -> (Scratch, Root) {
        let (scratch, root, _) = merged_with_notes(layers);
        (scratch, root)
    }

    const VERSION: &str = "opt/v/lib/python3.10/site-packages/torch/version.py";

    #[test]
    fn an_upper_layer_replaces_and_removes() {
        let file = |path: &str, text: &str| entry(path, b'0', "", text.as_bytes());
        let (_scratch, root) = merged(&[
            vec![
                file(VERSION, "old"),
                file("etc/ld.so.conf.d/a.conf", "a"),
                file("etc/ld.so.conf.d/b.conf", "b"),
                file("usr/lib/libcuda.so.1", "x"),
                file("usr/bin/bash", "not kept"),
            ],
            vec![
                file(VERSION, "new"),
                file("etc/ld.so.conf.d/.wh.a.conf", ""),
                file("usr/lib/.wh..wh..opq", ""),
                file("usr/lib/libcudart.so.12", "y"),
            ],
        ]);
        assert_eq!(root.read(VERSION, 9).unwrap(), b"new");
        assert!(!root.exists("etc/ld.so.conf.d/a.conf") && root.exists("etc/ld.so.conf.d/b.conf"));
        assert!(!root.exists("usr/lib/libcuda.so.1") && root.exists("usr/lib/libcudart.so.12"));
        assert!(!root.exists("usr/bin/bash"));
    }

    #[test]
    fn links_stay_in_the_root() {
        let (_scratch, root) = merged(&[
            vec![
                entry("lib", b'2', "usr/lib", b""),
                entry("usr/lib/", b'5', "", b""),
                entry("tmp/", b'5', "", b""),
                entry("etc", b'2', "/../../../../tmp", b""),
                entry("up", b'2', "../../..", b""),
                entry("../../outside/version.py", b'0', "", b"no"),
            ],
            vec![
                entry("lib/libcuda.so.1", b'0', "", b"by the link"),
                entry("usr/lib/libcuda.so", b'1', "lib/libcuda.so.1", b""),
                entry("etc/os-release", b'0', "", b"inside"),
                entry("up/alpine-release", b'0', "", b"inside"),
            ],
        ]);
        assert!(root.exists("usr/lib/libcuda.so.1") && root.exists("usr/lib/libcuda.so"));
        assert_eq!(root.read("tmp/os-release", 9).unwrap(), b"inside");
        assert_eq!(root.read("alpine-release", 9).unwrap(), b"inside");
        assert!(!Path::new("/tmp/os-release").exists());
    }

    #[test]
    fn packages_without_files_of_interest_are_there() {
        let (_scratch, root) = merged(&[vec![
            entry("v/lib/python3.10/site-packages/jaxlib/", b'5', "", b""),
            entry(
                "v/lib/python3.10/site-packages/jaxlib-0.4.30.dist-info/",
                b'5',
                "",
                b"",
            ),
            entry("usr/share/doc/bash/", b'5', "", b""),
        ]]);
        assert!(root.exists("v/lib/python3.10/site-packages/jaxlib-0.4.30.dist-info"));
        assert!(!root.exists("usr/share/doc/bash"));
    }

    #[test]
    fn an_entry_that_has_no_place_is_left_out_alone() {
        let pax = |key: &str, value: &str| {
            let text = format!(" {key}={value}\n");
            let mut len = text.len() + 1;
            while format!("{len}{text}").len() != len {
                len += 1;
            }
            entry("pax", b'x', "", format!("{len}{text}").as_bytes())
        };
        let long = "x".repeat(300);
        let (_scratch, root, left_out) = merged_with_notes(&[vec![
            entry("usr/lib/empty", b'2', "", b""),
            pax("linkpath", &"a/".repeat(3000)),
            entry("usr/lib/far", b'2', "x", b""),
            pax("linkpath", &"a/".repeat(2000)),
            entry("usr/lib/near", b'2', "x", b""),
            pax("path", &"a/".repeat(3000)),
            entry("x", b'5', "", b""),
            pax("path", &"a/".repeat(200)),
            entry("x", b'5', "", b""),
            pax("path", "usr/lib/a\0b"),
            entry("x", b'5', "", b""),
            entry("usr/lib/a\nb", b'5', "", b""),
            entry(&long, b'5', "", b""),
            entry("usr/../../etc", b'5', "", b""),
            entry("dev/null", b'3', "", b""),
            entry("dev/fifo", b'6', "", b""),
            entry("unknown", b'Q', "", b""),
            entry("usr/lib/libcuda.so.9", b'S', "", b""),
            entry("usr/lib/libcuda.so.8", b'1', "../x", b""),
            entry("/usr/lib/libcuda.so.1", b'0', "", b"absolute"),
            entry("./", b'5', "", b""),
        ]]);
        assert!(root.exists("usr/lib/libcuda.so.1"));
        assert_eq!(root.read_link("usr/lib/near").unwrap().as_os_str().len(), 4000);
        let counts: Vec<usize> = left_out[0].0.values().copied().collect();
        assert_eq!(counts, [2, 3, 6, 1, 1], "{:?}", left_out[0].note());
        let note = left_out[0].note().unwrap();
        assert!(
            note.starts_with("13 entries were left out: 2 of a device"),
            "{note}"
        );
        assert_eq!(left_out[1].note(), None);
    }

    /// A symbolic link in place of a directory, with files below it, in every order of layers.
    #[test]
    fn entries_below_a_file_are_left_out() {
        let (_scratch, root) = merged(&[
            vec![entry("a", b'2', "nowhere", b""), entry("b", b'2', "b", b"")],
            vec![
                entry("a/libcuda.so.1", b'0', "", b"x"),
                entry("b/libcuda.so.1", b'0', "", b"x"),
                entry("c/libcuda.so.1", b'0', "", b"x"),
            ],
        ]);
        assert!(root.exists("c/libcuda.so.1") && !root.exists("a/libcuda.so.1"));
    }

    #[test]
    fn each_part_of_a_layer_is_charged() {
        for (name, flag) in [
            ("usr/N", b'5'),
            ("usr/N", b'2'),
            ("usr/.wh.N", b'0'),
            ("usr/N/.wh..wh..opq", b'0'),
            ("N/version.py", b'0'),
        ] {
            let one = |i: usize| entry(&name.replace('N', &i.to_string()), flag, "target", b"");
            let limits = crate::sys::budget::Limits {
                kept: 100_000,
                ..crate::sys::budget::Limits::DEFAULT
            };
            let budget = Budget::new(limits);
            let bytes: Vec<u8> = (0..1000).flat_map(one).collect();
            let mut scratch = Scratch::new().unwrap();
            let read = Layer::read(bytes.as_slice(), &mut scratch, &budget, &mut Silent);
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::FileTooLarge, "{name}");
        }
    }
}
