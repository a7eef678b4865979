//! The sources of an image: a directory, an archive, or an engine.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

use super::config::ImageConfig;
use super::scratch::Scratch;
use super::tar::Forward;
use super::{Files, Progress, archive};
use crate::engine::export;
use crate::error::{Code, Error, IoContext as _, Result};
use crate::sys::budget::Budget;
use crate::sys::root::{Node, Root, reopen};

const BUFFER: usize = 256 << 10;

/// An opened image.
#[derive(Debug)]
pub struct Image {
    /// The user's name of it.
    pub title: String,
    /// Its files, or the kept parts of them.
    pub root: Root,
    /// Its configuration; a root directory has none.
    pub config: Option<ImageConfig>,
    /// Parts that could not be read.
    pub notes: Vec<String>,
    /// The storage of an archive's files; removed with the image.
    pub(super) scratch: Option<Scratch>,
}

impl Image {
    /// Opens the user's argument: a directory, an archive, or an engine's image.
    pub fn open(what: &OsStr, budget: &Budget, progress: &mut dyn Progress) -> Result<Self> {
        let path = Path::new(what);
        let title = path.display().to_string();
        let named = || format!("image {title}");
        let found = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let Ok(fd) = found else {
            return Self::of_engine(what, budget, progress);
        };
        let node = Node::from_fd(fd).context(Code::File, named)?;
        match node.kind() {
            FileType::Directory => {
                let root = Root::from_fd(node.into_fd());
                if root.exists("oci-layout") && root.exists("index.json") {
                    return archive::layout(&root, &title, budget, progress);
                }
                Ok(Self {
                    title,
                    root,
                    config: None,
                    notes: Vec::new(),
                    scratch: None,
                })
            }
            FileType::RegularFile => {
                budget.allow(archive::allocated(&node));
                let file = reopen(node.as_fd(), OFlags::RDONLY).context(Code::File, named)?;
                let source = BufReader::with_capacity(BUFFER, File::from(file));
                archive::read(source, &title, budget, progress)
            }
            _ => Err(Error::new(
                Code::File,
                named(),
                "neither a directory nor an archive",
            )),
        }
    }

    /// The files and the budget, for readers.
    pub fn files<'a>(&'a self, budget: &'a Budget) -> Files<'a> {
        Files::new(&self.root, self.scratch.as_ref(), budget)
    }

    /// An engine's image, by its name.
    fn of_engine(what: &OsStr, budget: &Budget, progress: &mut dyn Progress) -> Result<Self> {
        let title = what.to_string_lossy().into_owned();
        let mut export = export::start(&title)?;
        let mut pipe = Pipe {
            source: export.pipe(),
            budget,
        };
        let image = archive::read(&mut pipe, &title, budget, progress)?;
        // Reads on after the archive's end, so that the engine does not fail.
        io::copy(&mut pipe, &mut io::sink()).context(Code::Engine, || format!("image {title}"))?;
        export.finish().map(|()| image)
    }
}

/// An engine's output; it has no holes.
struct Pipe<'a, R> {
    source: &'a mut R,
    budget: &'a Budget,
}

impl<R: Read> Read for Pipe<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.budget.step()?;
        let n = self.source.read(buf)?;
        self.budget.allow(n as u64);
        Ok(n)
    }
}

impl<R: Read> Forward for Pipe<'_, R> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::budget::Limits;

    #[test]
    fn a_pipe_that_does_not_end_is_left() {
        let limits = Limits {
            cpu: std::time::Duration::ZERO,
            ..Limits::DEFAULT
        };
        let budget = Budget::new(limits);
        let mut zeros = io::repeat(0).take(1 << 24);
        let mut pipe = Pipe {
            source: &mut zeros,
            budget: &budget,
        };
        io::copy(&mut pipe, &mut io::sink()).unwrap_err();
    }
}
