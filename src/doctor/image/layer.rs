//! The layers of an image: what one changes, and the root that they make together.
//!
//! Facts: "Image Layer Filesystem Changeset" of the OCI image specification (whiteouts, opaque directories, hard links).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::AtFlags;

use super::Progress;
use super::keep::{self, Keep};
use super::tar::{Forward, Kind, Tar};
use crate::sys::root::{Node, Root};

/// Entries of one layer that are taken.
const MAX_ENTRIES: usize = 4 << 20;
/// Files that are kept of all layers.
const MAX_FILES: usize = 1 << 20;
/// Bytes of a compressed layer once it is unpacked: more is no image but an attack.
const MAX_UNPACKED: u64 = 1 << 40;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// A place on disk for what is kept of an image, removed when it is dropped.
#[derive(Debug)]
pub struct Scratch {
    dir: PathBuf,
    files: usize,
}

impl Scratch {
    /// Makes one that only we may enter.
    pub fn new() -> io::Result<Self> {
        let dir = nix::unistd::mkdtemp("/tmp/nvoci-doctor-XXXXXX")?;
        let scratch = Self { dir, files: 0 };
        for name in ["files", "root"] {
            std::fs::create_dir(scratch.dir.join(name))?;
        }
        Ok(scratch)
    }

    /// A new file for what is kept, and its number.
    fn file(&mut self) -> io::Result<(usize, File)> {
        if self.files == MAX_FILES {
            return Err(io::Error::other("too many files are of interest"));
        }
        let number = self.files;
        self.files += 1;
        let path = self.dir.join("files").join(number.to_string());
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        Ok((number, file))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Links in it are removed, never followed.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// What a layer has at a path.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Entry {
    Directory,
    /// What is kept of it, by number.
    File(usize),
    /// A second name of the file at this path.
    HardLink(Vec<u8>),
    SymbolicLink(Vec<u8>),
}

/// What one layer changes.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    entries: BTreeMap<Vec<u8>, Entry>,
    /// Paths that it removes from the layers below.
    whiteouts: Vec<Vec<u8>>,
    /// Directories of which nothing below shows.
    opaque: Vec<Vec<u8>>,
}

impl Layer {
    /// Reads a layer, keeping of it what is looked at later.
    pub fn read(
        source: impl Forward,
        scratch: &mut Scratch,
        progress: &mut dyn Progress,
    ) -> io::Result<Self> {
        let mut layer = Self::default();
        let mut tar = Tar::new(source);
        let (mut count, mut bytes) = (0, 0_u64);
        while let Some(header) = tar.advance()? {
            count += 1;
            bytes = bytes.saturating_add(header.size);
            if count > MAX_ENTRIES || bytes > MAX_UNPACKED {
                return Err(io::Error::other("the layer is too large"));
            }
            progress.entries(count);
            let Some(path) = clean(&header.path) else {
                continue;
            };
            if layer.removes(&path) {
                continue;
            }
            let entry = match header.kind {
                Kind::Directory => Entry::Directory,
                Kind::SymbolicLink => Entry::SymbolicLink(header.link),
                Kind::HardLink => match clean(&header.link) {
                    Some(target) if keep::of(&path) != Keep::Nothing => Entry::HardLink(target),
                    _ => continue,
                },
                Kind::File => match keep::of(&path) {
                    Keep::Nothing => continue,
                    how => {
                        let (number, file) = scratch.file()?;
                        keep::store(&mut tar.data(), header.size, how, &file)?;
                        Entry::File(number)
                    }
                },
                Kind::Other => continue,
            };
            layer.entries.insert(path, entry);
        }
        Ok(layer)
    }

    /// Notes a whiteout; `false` of any other path.
    fn removes(&mut self, path: &[u8]) -> bool {
        let at = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
        let (dir, name) = path.split_at(at);
        if name == OPAQUE {
            self.opaque.push(dir.to_vec());
        } else if let Some(name) = name.strip_prefix(WHITEOUT) {
            self.whiteouts.push([dir, name].concat());
        } else {
            return false;
        }
        true
    }
}

/// A path below the root, without `.`, slashes at the ends or doubled; `None` of the root itself and of one that climbs.
fn clean(path: &[u8]) -> Option<Vec<u8>> {
    const MAX: usize = 4096;
    let mut out = Vec::with_capacity(path.len());
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return None,
            _ if part.contains(&0) || part.len() > 255 => return None,
            _ => {}
        }
        if !out.is_empty() {
            out.push(b'/');
        }
        out.extend_from_slice(part);
    }
    (!out.is_empty() && out.len() <= MAX).then_some(out)
}

/// Makes the root that `layers` make, the lowest first.
pub fn merge(layers: &[&Layer], scratch: &Scratch) -> io::Result<Root> {
    let mut all: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
    for layer in layers {
        for dir in &layer.opaque {
            remove_below(&mut all, dir);
        }
        for path in &layer.whiteouts {
            all.remove(path);
            remove_below(&mut all, &[path, &b"/"[..]].concat());
        }
        for (path, entry) in &layer.entries {
            let entry = match entry {
                Entry::HardLink(target) => match layer.entries.get(target).or_else(|| all.get(target)) {
                    Some(found @ (Entry::File(_) | Entry::SymbolicLink(_))) => found.clone(),
                    _ => continue,
                },
                other => other.clone(),
            };
            if entry != Entry::Directory {
                remove_below(&mut all, &[path, &b"/"[..]].concat());
            }
            all.insert(path.clone(), entry);
        }
    }
    lay_out(&all, scratch)
}

/// Removes what begins with `prefix`, which ends with a slash or is empty.
fn remove_below(all: &mut BTreeMap<Vec<u8>, Entry>, prefix: &[u8]) {
    let below: Vec<Vec<u8>> = all
        .range(prefix.to_vec()..)
        .map(|(path, _)| path)
        .take_while(|path| path.starts_with(prefix))
        .cloned()
        .collect();
    for path in below {
        all.remove(&path);
    }
}

/// Makes the directories, files and links. A link is made before what lies behind it, and followed as a container's
/// kernel would: in the root.
fn lay_out(all: &BTreeMap<Vec<u8>, Entry>, scratch: &Scratch) -> io::Result<Root> {
    let root = Root::open(scratch.dir.join("root"))?;
    let files = File::open(scratch.dir.join("files"))?;
    let mut last: Option<(PathBuf, Node)> = None;
    let pass = |entry: &Entry| match entry {
        Entry::SymbolicLink(_) => 0,
        Entry::Directory => 1,
        Entry::File(_) | Entry::HardLink(_) => 2,
    };
    for now in 0..=2 {
        for (path, entry) in all {
            if pass(entry) != now {
                continue;
            }
            let path = Path::new(OsStr::from_bytes(path));
            let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
                continue;
            };
            if *entry == Entry::Directory && !is_looked_for(path) {
                continue;
            }
            if last.as_ref().is_none_or(|(known, _)| known != dir) {
                // A link to nowhere, or to a file: what is below it is nobody's.
                let Ok(node) = root.mkdir_all(Path::new("/").join(dir), 0o700) else {
                    continue;
                };
                last = Some((dir.to_owned(), node));
            }
            let Some((_, node)) = &last else { continue };
            let made = match entry {
                Entry::SymbolicLink(target) => node.symlink(name, Path::new(OsStr::from_bytes(target))),
                Entry::File(number) => {
                    rustix::fs::linkat(&files, number.to_string(), node, name, AtFlags::empty())
                        .map_err(io::Error::from)
                }
                Entry::Directory => node.mkdir(name, 0o700).map(drop),
                Entry::HardLink(_) => Ok(()),
            };
            // Two layers may name one place by two ways, through a link; the first name stays.
            if let Err(e) = made
                && e.kind() != io::ErrorKind::AlreadyExists
                && e.kind() != io::ErrorKind::NotADirectory
            {
                return Err(e);
            }
        }
    }
    Ok(root)
}

/// Directories that count even when nothing is kept of what is in them: packages, and those that links lead to.
fn is_looked_for(path: &Path) -> bool {
    const SHALLOW: usize = 3;
    let site = |name: &OsStr| name == "site-packages" || name == "dist-packages";
    path.components().count() <= SHALLOW || path.parent().and_then(Path::file_name).is_some_and(site)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::image::Silent;
    use crate::doctor::image::tar::tests::{archive, entry};

    fn merged(layers: &[Vec<Vec<u8>>]) -> (Scratch, Root) {
        let mut scratch = Scratch::new().unwrap();
        let layers: Vec<Layer> = layers
            .iter()
            .map(|entries| Layer::read(archive(entries).as_slice(), &mut scratch, &mut Silent).unwrap())
            .collect();
        let root = merge(&layers.iter().collect::<Vec<_>>(), &scratch).unwrap();
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
        let (scratch, root) = merged(&[
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
        let dir = scratch.dir.clone();
        drop(scratch);
        assert!(!dir.exists());
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
}
