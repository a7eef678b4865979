//! Scans directories as ldconfig does: one entry per soname, such as `libcuda.so.1`.
//!
//! The rules are glibc's. It reads only files with a library's name. A link with the name of its
//! target's soname, or with the development name, gets an entry of its own. Of several files with
//! one soname a file takes precedence over a link, and the greater version over the smaller. A file
//! costs an `O_PATH` open, `fstat`, open, two or three reads; a link to a file of the same
//! directory costs one `readlink`.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FileType;

use super::abi::{Arch, contains, is_dso_name};
use super::dirs::SearchDir;
use super::elf::{self, Bad};
use super::lookup::{Counted, Lookups};
use super::order;
use super::write::Builder;
use super::{FirstDir, Lib, Warnings};
use inroot::root::{Node, Root};

/// The most names of a directory; a larger one is skipped.
const MAX_NAMES: usize = 1 << 18;
/// The most names in a directory that comes first.
const MAX_FIRST: usize = 4096;
/// The most libraries in all directories.
const MAX_LIBRARIES: usize = 1 << 16;
/// The most links that are followed within a directory before the kernel resolves the rest.
const MAX_HOPS: usize = 8;
/// The longest soname, in bytes: no file name is longer.
const MAX_SONAME: usize = 255;
/// The lookups by the kernel of links that leave their directory: more than most images have.
const BY_KERNEL: u32 = 64;
/// The work units of a scan: [`MAX_LIBRARIES`] libraries of six reads each.
const MAX_WORK: u32 = 1 << 19;
/// Names that are listed in the time of one unit.
const NAMES: usize = 8;
/// The time after which a scan on a slow file system stops.
const DEADLINE: Duration = Duration::from_secs(if cfg!(test) { 600 } else { 5 });

/// Scans directories into a [`Builder`].
#[derive(Debug)]
pub struct Scanner<'a> {
    root: &'a Root,
    arch: &'a Arch,
    links: Links,
    changes: Vec<Change>,
    lookups: Lookups<'a>,
    deadline: Instant,
    files: usize,
}

/// The handling of missing and stale soname links.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Links {
    /// They stay as they are.
    Leave,
    /// They are made and removed at once, as ldconfig does without `-X`.
    Make,
    /// The changes are recorded for a process that may write.
    Record,
}

/// A link to make or to remove.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// Its directory, a path in the root.
    pub dir: PathBuf,
    /// Its name there.
    pub name: OsString,
    /// The target in the same directory; `None` to remove a link without a target.
    pub target: Option<OsString>,
}

impl Change {
    /// Applies it in `dir`, the node of its directory in `root`. It replaces only a link,
    /// removes only a link without a target, and leaves all else.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn make(&self, root: &Root, dir: &Node) -> std::io::Result<()> {
        let there = dir.child(&self.name);
        match &self.target {
            Some(_) if there.as_ref().is_ok_and(|node| !node.is_symlink()) => {
                Err(std::io::Error::other("is not a symbolic link"))
            }
            Some(target) => dir.symlink(&self.name, Path::new(target)),
            None if there?.is_symlink() && leads_nowhere(&root.resolve(self.dir.join(&self.name))) => {
                dir.unlink(&self.name)
            }
            None => Ok(()),
        }
    }
}

fn leads_nowhere(found: &std::io::Result<Node>) -> bool {
    matches!(found, Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ELOOP)))
}

/// A name in the directory.
#[derive(Clone, Copy, Debug)]
struct Name<'n> {
    text: &'n CStr,
    kind: FileType,
}

/// The facts for a cache entry.
#[derive(Clone, Debug)]
struct Library {
    soname: Option<Vec<u8>>,
    flags: u32,
    isa_level: u32,
}

/// The contents of a directory, by the index of each name.
#[derive(Debug)]
struct Contents {
    /// The library of each name.
    libraries: Vec<Option<Library>>,
    /// The file of this directory to which each link leads.
    leads_to: Vec<Option<usize>>,
}

impl Contents {
    /// Each link with the file of this directory to which it leads.
    fn links<'n>(&self, names: &[Name<'n>]) -> HashSet<(&'n [u8], &'n [u8])> {
        let text = |at: usize| names[at].text.to_bytes();
        let links = self.leads_to.iter().enumerate();
        links
            .filter_map(|(at, to)| Some((text(at), text((*to)?))))
            .collect()
    }
}

/// A candidate for a soname.
#[derive(Clone, Copy, Debug)]
struct Candidate<'n> {
    soname: &'n [u8],
    file: &'n [u8],
    is_link: bool,
    flags: u32,
    isa_level: u32,
}

impl<'a> Scanner<'a> {
    /// A scanner for libraries of `arch`.
    pub fn new(root: &'a Root, arch: &'a Arch, links: Links) -> Self {
        Self {
            root,
            arch,
            links,
            changes: Vec::new(),
            lookups: Lookups::new(root, BY_KERNEL, MAX_WORK),
            deadline: Instant::now() + DEADLINE,
            files: 0,
        }
    }

    /// The changes that [`Links::Record`] has recorded.
    pub fn into_changes(self) -> Vec<Change> {
        self.changes
    }

    /// Adds the libraries of `dirs` to `builder`, up to the limits.
    pub fn scan_all<'d>(
        &mut self,
        dirs: impl Iterator<Item = &'d SearchDir>,
        builder: &mut Builder,
        warnings: &mut Warnings,
    ) {
        for dir in dirs {
            if !self.scan(dir, builder, warnings) {
                break;
            }
        }
    }

    /// Adds the libraries of `dir` to `builder`. `false` if a limit was reached and the scan must
    /// end.
    fn scan(&mut self, dir: &SearchDir, builder: &mut Builder, warnings: &mut Warnings) -> bool {
        let mut text = Vec::new();
        let mut kinds = Vec::new();
        let mut listed_names = 0;
        let listed = dir.node.visit(MAX_NAMES, |name, kind| {
            listed_names += 1;
            let may_be_library = matches!(
                kind,
                FileType::RegularFile | FileType::Symlink | FileType::Unknown
            );
            if may_be_library && is_dso_name(name.to_bytes()) && !is_temporary(name.to_bytes()) {
                text.extend_from_slice(name.to_bytes_with_nul());
                kinds.push(kind);
            }
        });
        let listing = u32::try_from(listed_names / NAMES).unwrap_or(u32::MAX);
        if self.lookups.work.take(listing).is_err() {
            return self.stop(dir, warnings);
        }
        if let Err(e) = listed {
            warnings.add(format_args!("{}: skipped: {e}", dir.path.display()));
            return true;
        }
        let names: Vec<Name<'_>> = text
            .split_inclusive(|&b| b == 0)
            .filter_map(|name| CStr::from_bytes_with_nul(name).ok())
            .zip(kinds)
            .map(|(text, kind)| Name { text, kind })
            .collect();
        let Some(found) = self.read_all(dir, &names, warnings) else {
            return self.stop(dir, warnings);
        };
        let candidates = choose(&names, &found.libraries);
        let linked = if self.links == Links::Leave {
            HashSet::new()
        } else {
            found.links(&names)
        };
        for chosen in candidates.iter().rev() {
            let there = chosen.is_link || linked.contains(&(chosen.soname, chosen.file));
            if self.links != Links::Leave && dir.hwcaps.is_none() && !there {
                self.link(dir, chosen, warnings);
            }
            // A hwcaps directory gets no links, so its entries name the files.
            let file = if dir.hwcaps.is_some() {
                chosen.file
            } else {
                chosen.soname
            };
            let hwcaps = dir.hwcaps.as_deref().map(|name| (name, chosen.isa_level));
            builder.add(
                dir.path.as_os_str().as_bytes(),
                file,
                chosen.soname,
                chosen.flags,
                hwcaps,
            );
        }
        !self.lookups.work.is_spent() || self.stop(dir, warnings)
    }

    /// Warns that a limit was reached.
    fn stop(&self, dir: &SearchDir, warnings: &mut Warnings) -> bool {
        let why = if self.lookups.work.is_spent() {
            "the rest is left out: its links and libraries take too much work"
        } else {
            "the rest is left out: too many libraries, or a slow file system"
        };
        warnings.add(format_args!("{}: {why}", dir.path.display()));
        false
    }

    /// Reads each name's library, in the directory's order. `None` if a limit was reached.
    fn read_all(&mut self, dir: &SearchDir, names: &[Name<'_>], warnings: &mut Warnings) -> Option<Contents> {
        let mut libraries: Vec<Option<Library>> = Vec::with_capacity(names.len());
        let mut links = Vec::new();
        for (i, name) in names.iter().enumerate() {
            self.files += 1;
            if self.files > MAX_LIBRARIES || self.files.is_multiple_of(64) && Instant::now() > self.deadline {
                return None;
            }
            self.lookups.work.take(1).ok()?;
            let mut library = None;
            if name.kind == FileType::Symlink {
                links.push(i);
            } else {
                match dir.node.child_c(name.text) {
                    Ok(node) if node.is_symlink() => links.push(i),
                    Ok(node) if node.is_file() => library = self.library(dir, name.text, &node, warnings),
                    _ => {}
                }
            }
            libraries.push(library);
        }
        let mut found = Contents {
            libraries,
            leads_to: vec![None; names.len()],
        };
        if links.is_empty() {
            return Some(found);
        }
        let places: HashMap<&[u8], usize> = names.iter().map(|n| n.text.to_bytes()).zip(0..).collect();
        // The target of each link that stays in the directory; a file's target is itself.
        let mut targets: Vec<Option<usize>> = (0..names.len()).map(Some).collect();
        for &link in &links {
            // A target that was cut off is longer than any name of this directory.
            let mut space = [0; MAX_SONAME + 1];
            let target = dir.node.child_link(names[link].text, &mut space).ok();
            targets[link] = target.and_then(|target| places.get(target).copied());
        }
        for &link in &links {
            let mut place = targets[link];
            for _ in 0..MAX_HOPS {
                match place.map(|at| (at, targets[at])) {
                    Some((at, next)) if next != Some(at) => place = next,
                    _ => break,
                }
            }
            let file = place.filter(|&at| targets[at] == Some(at) && at != link);
            found.libraries[link] = match file {
                Some(at) => found.libraries[at].clone(),
                None => self.elsewhere(dir, names[link].text, warnings),
            };
            found.leads_to[link] = file;
        }
        (!self.lookups.work.is_spent()).then_some(found)
    }

    /// The library of a link that leaves the directory or has no target.
    fn elsewhere(&mut self, dir: &SearchDir, name: &CStr, warnings: &mut Warnings) -> Option<Library> {
        let os_name = OsStr::from_bytes(name.to_bytes());
        let found = self.lookups.resolve(&dir.path.join(os_name));
        if self.links != Links::Leave && leads_nowhere(&found) && contains(name.to_bytes(), b".so.") {
            // A link without a target that could not be removed does no harm.
            let _ = self.change(dir, os_name, None);
        }
        let node = found.ok().filter(Node::is_file)?;
        self.library(dir, name, &node, warnings)
    }

    /// Makes a change, or records it.
    fn change(&mut self, dir: &SearchDir, name: &OsStr, target: Option<&OsStr>) -> std::io::Result<()> {
        let change = Change {
            dir: dir.path.clone(),
            name: name.to_owned(),
            target: target.map(OsStr::to_owned),
        };
        match self.links {
            Links::Leave => Ok(()),
            Links::Make => change.make(self.root, &dir.node),
            Links::Record => {
                self.changes.push(change);
                Ok(())
            }
        }
    }

    fn library(&self, dir: &SearchDir, name: &CStr, node: &Node, warnings: &mut Warnings) -> Option<Library> {
        let mut skip = |why: &dyn std::fmt::Display| {
            let name = name.to_string_lossy();
            warnings.add(format_args!("{}/{name}: skipped: {why}", dir.path.display()));
        };
        let file = match node.open_read() {
            Ok(file) => file,
            Err(e) => {
                skip(&e);
                return None;
            }
        };
        let counted = Counted {
            file: &file,
            work: &self.lookups.work,
        };
        let info = match elf::identify(&counted) {
            Ok(info) => info,
            Err(Bad::Script) => return None,
            Err(Bad::NotElf) if name.to_bytes().ends_with(b"-gdb.py") => return None,
            Err(Bad::NotElf) => {
                skip(&"not an ELF file");
                return None;
            }
            Err(Bad::Broken) => {
                skip(&"not a well-formed shared object");
                return None;
            }
        };
        let Some(flags) = self.arch.flags_of(info.machine, info.is_64, info.flags) else {
            skip(&format_args!("for unknown machine {}", info.machine));
            return None;
        };
        // The loader never searches for a name with a slash, and no file can have it.
        if info
            .soname
            .as_deref()
            .is_some_and(|s| s.is_empty() || s.len() > MAX_SONAME || s.contains(&b'/'))
        {
            skip(&"its soname is not a file name");
            return None;
        }
        Some(Library {
            soname: info.soname,
            flags,
            isa_level: info.isa_level,
        })
    }

    /// Makes the soname a link to the library, unless it leads there already or is a file.
    fn link(&mut self, dir: &SearchDir, chosen: &Candidate<'_>, warnings: &mut Warnings) {
        let soname = OsStr::from_bytes(chosen.soname);
        let file = OsStr::from_bytes(chosen.file);
        if soname == file {
            return;
        }
        let mut identity = |name: &OsStr| {
            let found = self.lookups.resolve(&dir.path.join(name));
            found.ok().map(|node| node.id())
        };
        let there = identity(soname);
        let is_made = there.is_some() && there == identity(file);
        if is_made || self.lookups.work.is_spent() {
            return;
        }
        if let Err(e) = self.change(dir, soname, Some(file)) {
            let soname = soname.display();
            warnings.add(format_args!(
                "{}/{soname}: the link was not made: {e}",
                dir.path.display()
            ));
        }
    }
}

/// The libraries of a directory by the names that programs open: files, or links to them, named by
/// their soname.
///
/// # Errors
/// If the directory cannot be listed.
pub fn first_dir(root: &Root, path: &Path) -> std::io::Result<FirstDir> {
    let mut lookups = Lookups::new(root, BY_KERNEL, MAX_WORK);
    let mut libs = Vec::new();
    for entry in root.read_dir(path, MAX_FIRST)? {
        let name = entry.name;
        let mut open = || {
            let found = lookups.resolve(&path.join(&name));
            found.and_then(|node| node.open_read())
        };
        if !is_dso_name(name.as_bytes()) {
            continue;
        }
        let Some(info) = open().ok().and_then(|file| elf::identify(&file).ok()) else {
            continue;
        };
        if info
            .soname
            .as_deref()
            .is_none_or(|soname| soname == name.as_bytes())
            && let Some(name) = name.to_str()
        {
            libs.push(Lib {
                soname: name.to_owned(),
                file: name.to_owned(),
                is_64: info.is_64,
                machine: info.machine,
            });
        }
    }
    Ok(FirstDir {
        path: path.to_owned(),
        libs,
    })
}

/// Chooses one candidate per soname, in the order in which the sonames first appear.
fn choose<'n>(names: &'n [Name<'n>], libraries: &'n [Option<Library>]) -> Vec<Candidate<'n>> {
    let mut chosen: Vec<Candidate<'n>> = Vec::with_capacity(names.len());
    let mut places: HashMap<&[u8], usize> = HashMap::with_capacity(names.len());
    for (name, library) in names.iter().zip(libraries) {
        let Some(library) = library else { continue };
        let file = name.text.to_bytes();
        let soname = library.soname.as_deref().unwrap_or(file);
        let is_link = name.kind == FileType::Symlink
            && (file == soname || file.ends_with(b".so") && soname.starts_with(file));
        let new = Candidate {
            soname: if is_link { file } else { soname },
            file,
            is_link,
            flags: library.flags,
            isa_level: library.isa_level,
        };
        match places.get(new.soname) {
            None => {
                places.insert(new.soname, chosen.len());
                chosen.push(new);
            }
            Some(&at) => {
                let old = &mut chosen[at];
                let newer = old.is_link == is_link && order::compare(old.file, file).is_lt();
                if old.is_link && !is_link || newer {
                    // The flags stay those of the first file, as in glibc.
                    *old = Candidate {
                        flags: old.flags,
                        ..new
                    };
                }
            }
        }
    }
    chosen
}

/// Whether it is a package manager's temporary file: the names of prelink, dpkg and rpm (glibc 2.41
/// skips all of them, 2.36 only the first).
fn is_temporary(name: &[u8]) -> bool {
    const PRELINK: &[u8] = b".#prelink#";
    let tail = name.len().checked_sub(PRELINK.len() + 7).map(|at| &name[at..]);
    name.ends_with(PRELINK)
        || tail.is_some_and(|tail| tail.starts_with(PRELINK) && tail[PRELINK.len()] == b'.')
        || name.ends_with(b".dpkg-new")
        || name.ends_with(b".dpkg-tmp")
        || name.contains(&b';')
}
