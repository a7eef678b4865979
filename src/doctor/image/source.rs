//! What an image is read from: a root directory.

use std::path::Path;

use super::config::ImageConfig;
use crate::error::{Code, IoContext as _, Result};
use crate::sys::root::Root;

/// An image that can be looked at.
#[derive(Debug)]
pub struct Image {
    /// What it was asked for by.
    pub title: String,
    /// Its files.
    pub root: Root,
    /// Its configuration; a root directory has none.
    pub config: Option<ImageConfig>,
    /// What could not be read of it.
    pub notes: Vec<String>,
}

impl Image {
    /// The directory `path` as an image's root.
    pub fn directory(path: &Path) -> Result<Self> {
        let what = || format!("image root {}", path.display());
        // A person named it: the last component may be a link.
        let real = path.canonicalize().context(Code::File, what)?;
        Ok(Self {
            title: path.display().to_string(),
            root: Root::open(&real).context(Code::File, what)?,
            config: None,
            notes: Vec::new(),
        })
    }
}
