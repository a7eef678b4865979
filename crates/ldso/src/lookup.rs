//! Lookups in an image whose cost depends on the image's links, within a fixed amount of work.
//!
//! One lookup by the kernel may follow 40 links of 4096 bytes each, which takes up to 2 ms, and an image can have
//! thousands of names that lead through other such links. So the kernel does the first lookups of a run, more than
//! nearly every image needs. The walk by components here does the rest, and counts what it does.
//! The amount of work is counted, not timed: two runs over one image find the same files.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::io::Errno;

use super::elf::ReadAt;
use inroot::root::{Node, Root};

/// Links of one lookup, as in the kernel.
const MAX_LINKS: usize = 40;
/// Directories between the root and what is found: each is held open for a `..`.
const MAX_DEPTH: usize = 128;
/// What a component costs: opening it, reading its attributes, closing it.
const COMPONENT: u32 = 2;
/// Bytes that are read in the time of one unit of work.
const BYTES: usize = 512;

/// How much may still be done. One unit is one or two short system calls, 1 to 2 µs.
#[derive(Debug)]
pub struct Work {
    left: Cell<u32>,
    spent: Cell<bool>,
}

impl Work {
    /// `units` of work.
    pub fn new(units: u32) -> Self {
        Self {
            left: Cell::new(units),
            spent: Cell::new(false),
        }
    }

    /// Takes `units`.
    ///
    /// # Errors
    /// `EFBIG` where less is left; then nothing is.
    pub fn take(&self, units: u32) -> io::Result<()> {
        if let Some(left) = self.left.get().checked_sub(units) {
            self.left.set(left);
            return Ok(());
        }
        self.left.set(0);
        self.spent.set(true);
        Err(Errno::FBIG.into())
    }

    /// What is left.
    pub fn left(&self) -> u32 {
        self.left.get()
    }

    /// Whether more was wanted than there was.
    pub fn is_spent(&self) -> bool {
        self.spent.get()
    }
}

/// A file of which each read is counted.
#[derive(Debug)]
pub struct Counted<'a> {
    /// The file.
    pub file: &'a File,
    /// What pays for it.
    pub work: &'a Work,
}

impl ReadAt for Counted<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let units = buf.len() / BYTES + 1;
        self.work.take(u32::try_from(units).unwrap_or(u32::MAX))?;
        self.file.read_at(buf, offset)
    }
}

/// The lookups of one run.
#[derive(Debug)]
pub struct Lookups<'a> {
    root: &'a Root,
    /// How many more the kernel does.
    by_kernel: u32,
    /// What the others cost.
    pub work: Work,
}

/// A path, and how much of it has been walked.
struct Text {
    path: Vec<u8>,
    /// Where the next component starts; behind the end when there is none.
    at: usize,
}

impl<'a> Lookups<'a> {
    /// Lookups in `root`: `by_kernel` by the kernel, whatever they cost, and `units` of work for the others.
    pub fn new(root: &'a Root, by_kernel: u32, units: u32) -> Self {
        Self {
            root,
            by_kernel,
            work: Work::new(units),
        }
    }

    /// Finds what `path` names, as [`Root::resolve`] does.
    ///
    /// # Errors
    /// As of [`Root::resolve`], and `EFBIG` when the work is used up.
    pub fn resolve(&mut self, path: &Path) -> io::Result<Node> {
        match self.by_kernel.checked_sub(1) {
            Some(rest) => {
                self.by_kernel = rest;
                self.root.resolve(path)
            }
            None => self.walk(path),
        }
    }

    /// The walk by components. Links and `..` stay in the root, since no name but a plain one is looked up.
    fn walk(&self, path: &Path) -> io::Result<Node> {
        let mut links = 0;
        let mut above: Vec<Node> = Vec::new();
        let mut at = self.top()?;
        let mut todo = vec![Text::new(path.as_os_str().as_bytes().to_vec())];
        while let Some(text) = todo.last_mut() {
            let Some(name) = text.next() else {
                todo.pop();
                continue;
            };
            self.work.take(COMPONENT)?;
            if !at.is_dir() {
                return Err(Errno::NOTDIR.into());
            }
            match name {
                b"" | b"." => continue,
                b".." => {
                    if let Some(parent) = above.pop() {
                        at = parent;
                    }
                    continue;
                }
                _ => {}
            }
            let child = at.child(OsStr::from_bytes(name))?;
            if !child.is_symlink() {
                if above.len() >= MAX_DEPTH {
                    return Err(Errno::NAMETOOLONG.into());
                }
                above.push(std::mem::replace(&mut at, child));
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::LOOP.into());
            }
            self.work.take(COMPONENT)?;
            let target = child.read_link()?.into_os_string();
            if target.as_bytes().first() == Some(&b'/') {
                above.clear();
                at = self.top()?;
            }
            todo.push(Text::new(target.as_bytes().to_vec()));
        }
        Ok(at)
    }

    fn top(&self) -> io::Result<Node> {
        self.work.take(COMPONENT)?;
        self.root.resolve("/")
    }
}

impl Text {
    fn new(path: Vec<u8>) -> Self {
        Self { path, at: 0 }
    }

    /// The next component: empty before a leading slash, between two and behind the last.
    fn next(&mut self) -> Option<&[u8]> {
        let rest = self.path.get(self.at..)?;
        let len = rest.iter().position(|&b| b == b'/').unwrap_or(rest.len());
        self.at += len + 1;
        rest.get(..len)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    /// A link to `next` that is as long as links can be.
    fn long(next: &str) -> String {
        let mut text = "./".repeat((4095 - next.len()) / 2);
        text.push_str(next);
        text
    }

    #[test]
    fn links_of_thousands_of_components_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        symlink(long("file"), dir.path().join("l0")).unwrap();
        for i in 1..40 {
            symlink(long(&format!("l{}", i - 1)), dir.path().join(format!("l{i}"))).unwrap();
        }
        let root = Root::open(dir.path()).unwrap();
        let end = Path::new("l39");
        let mut lookups = Lookups::new(&root, 0, u32::MAX);
        assert_eq!(
            lookups.resolve(end).unwrap().id(),
            root.resolve(end).unwrap().id()
        );
        let cost = u32::MAX - lookups.work.left();
        assert!(
            (40 * 2000 * COMPONENT..40 * 2100 * COMPONENT).contains(&cost),
            "{cost}"
        );
        let mut lookups = Lookups::new(&root, 1, cost - 1);
        lookups.resolve(end).unwrap();
        assert!(!lookups.work.is_spent());
        let refused = lookups.resolve(end).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EFBIG));
        assert!(lookups.work.is_spent());
    }

    #[test]
    fn a_deep_tree_holds_few_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let deep = "d/".repeat(MAX_DEPTH + 1);
        std::fs::create_dir_all(dir.path().join(&deep)).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let found = Lookups::new(&root, 0, u32::MAX).resolve(Path::new(&deep));
        assert_eq!(found.unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
    }

    /// What a lookup of either kind leads to.
    fn answer(found: io::Result<Node>) -> Result<(u64, u64), Option<i32>> {
        found.map(|node| node.id()).map_err(|e| e.raw_os_error())
    }

    proptest! {
        /// The walk finds what the kernel finds.
        #[test]
        fn it_is_the_kernels_walk(
            links in prop::collection::vec(
                (0..6_usize, prop::collection::vec(prop::sample::select(vec!["..", ".", "", "a", "b", "f", "l0", "l1", "l2"]), 1..5), any::<bool>()),
                0..4,
            ),
            path in prop::collection::vec(prop::sample::select(vec!["..", "", "a", "b", "f", "g", "l0", "l1", "l2"]), 1..6),
        ) {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(dir.path().join("a/b/a")).unwrap();
            std::fs::create_dir_all(dir.path().join("b/a")).unwrap();
            std::fs::write(dir.path().join("f"), "").unwrap();
            std::fs::write(dir.path().join("a/f"), "").unwrap();
            for (i, (place, target, absolute)) in links.into_iter().enumerate() {
                let place = ["", "a", "a/b", "b", "b/a", "a"][place];
                let slash = if absolute { "/" } else { "" };
                let target = format!("{slash}{}", target.join("/"));
                let target = if target.is_empty() { "." } else { &target };
                let _ = symlink(target, dir.path().join(place).join(format!("l{}", i % 3)));
            }
            let root = Root::open(dir.path()).unwrap();
            let path = format!("/{}", path.join("/"));
            let path = Path::new(&path);
            let walked = answer(Lookups::new(&root, 0, u32::MAX).resolve(path));
            prop_assert_eq!(walked, answer(root.resolve(path)));
        }
    }
}
