//! Stores the kept parts of an archive's files.
//!
//! A file has its original size and only its non-zero blocks. One bound covers files and memory.
//! Fat binaries' headers are far apart, and each would need a block. So they are in memory, and a
//! [`Library`] reads them as if they were in the file.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use rustix::fs::{Mode, OFlags};

use crate::ldso::elf::ReadAt;
use crate::sys::budget::{Budget, Limits};
use crate::sys::root::{Node, Root};
use crate::sys::scratch::Directory;

/// The cost of an inode and its name on a tmpfs or a disk, in bytes.
pub(super) const INODE: u64 = 512;
/// The smallest allocation of a file system; a larger page only makes holes coarser.
const BLOCK: u64 = 4096;
/// The size of a file with a larger claim; readers need no more.
const MAX_SIZE: u64 = 1 << 40;

/// Bytes that are stored outside of their file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    at: u64,
    len: u8,
    bytes: [u8; Self::MAX],
}

impl Extent {
    pub(super) const MAX: usize = 32;

    fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len).min(Self::MAX)]
    }
}

/// The storage of an image's kept parts; removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    dir: Directory,
    files: Node,
    count: usize,
    /// Extents by the inode number of their file.
    extents: HashMap<u64, Vec<Extent>>,
}

impl Scratch {
    /// Makes an empty storage.
    pub fn new() -> io::Result<Self> {
        let most = Limits::ARCHIVE.kept;
        // The budget is the bound. The kernel's limit covers costs that the budget cannot count,
        // such as larger pages.
        let dir = Directory::new(most * 2, most / INODE * 2)?;
        let top = Node::from_fd(dir.as_fd().try_clone_to_owned()?)?;
        top.mkdir("root".as_ref(), 0o700)?;
        let files = top.mkdir("files".as_ref(), 0o700)?;
        Ok(Self {
            dir,
            files,
            count: 0,
            extents: HashMap::new(),
        })
    }

    /// The directory that becomes the image's root.
    pub fn root(&self) -> io::Result<Root> {
        Root::from_fd(self.dir.as_fd().try_clone_to_owned()?).subroot("root")
    }

    /// A new file.
    pub fn file<'b>(&mut self, budget: &'b Budget) -> io::Result<Out<'b>> {
        budget.keep(INODE)?;
        let number = self.count;
        self.count += 1;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.files, number.to_string(), flags, Mode::from_raw_mode(0o600))?;
        Ok(Out::new(number, File::from(fd), budget))
    }

    /// Adds a complete file, and returns its number.
    pub fn done(&mut self, out: Out<'_>) -> io::Result<usize> {
        if !out.extents.is_empty() {
            let inode = out.file.metadata()?.ino();
            self.extents.insert(inode, out.extents);
        }
        Ok(out.number)
    }

    /// Links a file into the root.
    pub(super) fn link(&self, number: usize, dir: &Node, name: &std::ffi::OsStr) -> io::Result<()> {
        let none = rustix::fs::AtFlags::empty();
        Ok(rustix::fs::linkat(
            &self.files,
            number.to_string(),
            dir,
            name,
            none,
        )?)
    }

    /// Opens a file of the root.
    fn library(&self, node: &Node) -> io::Result<Library<'_>> {
        let extents = self.extents.get(&node.id().1).map(Vec::as_slice);
        Ok(Library {
            file: node.open_read()?,
            extents: extents.unwrap_or_default(),
        })
    }
}

/// A file of an image that is read at offsets.
#[derive(Debug)]
pub struct Library<'s> {
    file: File,
    extents: &'s [Extent],
}

impl<'s> Library<'s> {
    /// Opens the file of `node`; `scratch` is the storage of an archive's image.
    pub fn open(node: &Node, scratch: Option<&'s Scratch>) -> io::Result<Self> {
        match scratch {
            Some(scratch) => scratch.library(node),
            None => Ok(Self {
                file: node.open_read()?,
                extents: &[],
            }),
        }
    }
}

impl ReadAt for Library<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let n = ReadAt::read_at(&self.file, buf, offset)?;
        let end = offset.saturating_add(n as u64);
        let first = self
            .extents
            .partition_point(|e| e.at.saturating_add(e.bytes().len() as u64) <= offset);
        for extent in self.extents.iter().skip(first).take_while(|e| e.at < end) {
            for (i, byte) in extent.bytes().iter().enumerate() {
                let place = (extent.at + i as u64).checked_sub(offset);
                let place = place.and_then(|p| usize::try_from(p).ok());
                if let Some(to) = place.and_then(|p| buf[..n].get_mut(p)) {
                    *to = *byte;
                }
            }
        }
        Ok(n)
    }
}

/// A file that is being written. Zero blocks stay holes, and every other block is charged.
#[derive(Debug)]
pub struct Out<'b> {
    number: usize,
    file: File,
    budget: &'b Budget,
    /// The last charged block, counted from 1.
    charged: u64,
    extents: Vec<Extent>,
}

impl<'b> Out<'b> {
    pub(super) fn new(number: usize, file: File, budget: &'b Budget) -> Self {
        Self {
            number,
            file,
            budget,
            charged: 0,
            extents: Vec::new(),
        }
    }

    /// The budget of its writer.
    pub fn budget(&self) -> &'b Budget {
        self.budget
    }

    /// Writes `bytes` at offset `at`.
    pub fn write(&mut self, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            let left = usize::try_from(BLOCK - at % BLOCK).unwrap_or(bytes.len());
            let (now, rest) = bytes.split_at(left.min(bytes.len()));
            if now.iter().any(|b| *b != 0) && at < MAX_SIZE {
                let block = at / BLOCK + 1;
                if block != self.charged {
                    self.budget.keep(BLOCK)?;
                    self.charged = block;
                }
                self.file.write_all_at(now, at)?;
            }
            at = at.saturating_add(now.len() as u64);
            bytes = rest;
        }
        Ok(())
    }

    /// Stores up to [`Extent::MAX`] bytes outside of the file, in ascending order.
    pub(super) fn extent(&mut self, from: &[u8], at: u64) -> io::Result<()> {
        // A growing vector briefly needs twice its size.
        self.budget.keep(3 * size_of::<Extent>() as u64)?;
        let len = from.len().min(Extent::MAX);
        let mut bytes = [0; Extent::MAX];
        bytes[..len].copy_from_slice(&from[..len]);
        self.extents.push(Extent {
            at,
            len: u8::try_from(len).unwrap_or(0),
            bytes,
        });
        Ok(())
    }

    /// The number of extents.
    pub(super) fn extents(&self) -> usize {
        self.extents.len()
    }

    /// Gives the file its size.
    pub fn sized(&self, size: u64) -> io::Result<()> {
        Ok(rustix::fs::ftruncate(&self.file, size.min(MAX_SIZE))?)
    }

    /// The same bytes for reading, in a test.
    #[cfg(test)]
    pub(super) fn into_library(self, extents: &mut Vec<Extent>) -> Library<'_> {
        *extents = self.extents;
        Library {
            file: self.file,
            extents,
        }
    }
}
