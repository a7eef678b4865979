//! Lookups in an image within a fixed amount of work.
//!
//! One lookup by the kernel may follow 40 links of 4096 bytes each, which takes up to 2 ms, and an
//! image can have thousands of names behind such links. So the kernel does the first lookups of a
//! run, such as 64, more than nearly every image needs. The walk by components here does the rest
//! and counts its work. Work is counted and not timed, so that two runs over one image find the
//! same files.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::io::Errno;

use super::elf::ReadAt;
use inroot::root::{Node, Root};

/// The most links of one lookup, as in the kernel.
const MAX_LINKS: usize = 40;
/// The most directories between the root and the result: each is held open for a `..`.
const MAX_DEPTH: usize = 128;
/// The cost of a component: opening it, reading its attributes, closing it.
const COMPONENT: u32 = 2;
/// Bytes that are read in the time of one unit of work.
const BYTES: usize = 512;

/// A remaining amount of work. One unit is one or two short system calls, 1 to 2 µs.
#[derive(Debug)]
pub struct Work {
    left: Cell<u32>,
    spent: Cell<bool>,
}

impl Work {
    /// A budget of `units`.
    pub fn new(units: u32) -> Self {
        Self {
            left: Cell::new(units),
            spent: Cell::new(false),
        }
    }

    /// Takes `units`.
    ///
    /// # Errors
    /// `EFBIG` if less is left; then the rest is lost.
    pub fn take(&self, units: u32) -> io::Result<()> {
        if let Some(left) = self.left.get().checked_sub(units) {
            self.left.set(left);
            return Ok(());
        }
        self.left.set(0);
        self.spent.set(true);
        Err(Errno::FBIG.into())
    }

    /// The remaining units.
    pub fn left(&self) -> u32 {
        self.left.get()
    }

    /// Whether a request exceeded the budget.
    pub fn is_spent(&self) -> bool {
        self.spent.get()
    }
}

/// A file whose reads are charged.
#[derive(Debug)]
pub struct Counted<'a> {
    /// The file.
    pub file: &'a File,
    /// The budget for its reads.
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
    /// The number of lookups that the kernel still does.
    by_kernel: u32,
    /// The budget of the other lookups.
    pub work: Work,
}

/// A path, and the part of it that was walked.
struct Text {
    path: Vec<u8>,
    /// The start of the next component; beyond the end if there is none.
    at: usize,
}

impl<'a> Lookups<'a> {
    /// Lookups in `root`: `by_kernel` by the kernel at any cost, and a budget of `units` for the
    /// others.
    pub fn new(root: &'a Root, by_kernel: u32, units: u32) -> Self {
        Self {
            root,
            by_kernel,
            work: Work::new(units),
        }
    }

    /// Finds the inode at `path`, as [`Root::resolve`] does.
    ///
    /// # Errors
    /// As of [`Root::resolve`], and `EFBIG` if the budget is spent.
    pub fn resolve(&mut self, path: &Path) -> io::Result<Node> {
        match self.by_kernel.checked_sub(1) {
            Some(rest) => {
                self.by_kernel = rest;
                self.root.resolve(path)
            }
            None => self.walk(path),
        }
    }

    /// Walks by components. Links and `..` stay in the root, since each step opens a plain name.
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

    /// The next component: empty before a leading slash, between two, and after the last.
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

    /// A link to `next` of the greatest length.
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

    /// The result of a lookup of either kind.
    fn answer(found: io::Result<Node>) -> Result<(u64, u64), Option<i32>> {
        found.map(|node| node.id()).map_err(|e| e.raw_os_error())
    }

    proptest! {
        /// The walk finds the same inode as the kernel.
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
