//! What an image is read from.

use std::ffi::OsStr;
use std::fs::File;
use std::io::BufReader;
use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

use super::config::ImageConfig;
use super::layer::Scratch;
use super::{Progress, archive};
use crate::engine::export;
use crate::error::{Code, Error, IoContext as _, Result};
use crate::sys::root::{Root, reopen};

const BUFFER: usize = 256 << 10;

/// An image that can be looked at.
#[derive(Debug)]
pub struct Image {
    /// What it was asked for by.
    pub title: String,
    /// Its files, or those of them that are looked at.
    pub root: Root,
    /// Its configuration; a root directory has none.
    pub config: Option<ImageConfig>,
    /// What could not be read of it.
    pub notes: Vec<String>,
    /// Where an archive's files are; gone with the image.
    pub(super) _scratch: Option<Scratch>,
}

impl Image {
    /// Opens what a person named: a directory, an archive, or an engine's image.
    pub fn open(what: &OsStr, progress: &mut dyn Progress) -> Result<Self> {
        let path = Path::new(what);
        let title = path.display().to_string();
        let named = || format!("image {title}");
        let found = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let Ok(fd) = found else {
            return Self::of_engine(what, progress);
        };
        let stat = rustix::fs::fstat(&fd).map_err(std::io::Error::from);
        match FileType::from_raw_mode(stat.context(Code::File, named)?.st_mode) {
            FileType::Directory => {
                let root = Root::from_fd(fd);
                if root.exists("oci-layout") && root.exists("index.json") {
                    return archive::layout(&root, &title, progress);
                }
                Ok(Self {
                    title,
                    root,
                    config: None,
                    notes: Vec::new(),
                    _scratch: None,
                })
            }
            FileType::RegularFile => {
                let file = reopen(fd.as_fd(), OFlags::RDONLY).context(Code::File, named)?;
                let source = BufReader::with_capacity(BUFFER, File::from(file));
                archive::read(source, &title, progress)
            }
            _ => Err(Error::new(
                Code::File,
                named(),
                "neither a directory nor an archive",
            )),
        }
    }

    /// An image that an engine has, by its name there.
    fn of_engine(what: &OsStr, progress: &mut dyn Progress) -> Result<Self> {
        let title = what.to_string_lossy().into_owned();
        let mut export = export::start(&title)?;
        let image = archive::read(export.pipe(), &title, progress);
        match image {
            Ok(image) => export.finish().map(|()| image),
            Err(e) => Err(e),
        }
    }
}
