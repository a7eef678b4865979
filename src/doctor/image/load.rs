//! The CUDA libraries that a library loads, and the search paths in its headers.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::compat::libraries::{self, Opened};
use crate::ldso::elf::ElfInfo;

/// The most directories of one list that are searched.
pub(super) const MAX_DIRS: usize = 64;
/// The most CUDA libraries that one library needs; the largest real ones need about a dozen.
const MAX_WANTS: usize = 64;

/// The libraries that one library loads, by dependency or by name.
#[derive(Clone, Debug)]
pub struct Load {
    /// The loading library.
    pub by: PathBuf,
    /// Its `DT_RPATH` and `DT_RUNPATH`.
    paths: [Option<Vec<u8>>; 2],
    /// The CUDA libraries that it loads.
    pub wants: Vec<Opened>,
}

impl Load {
    /// The dependencies in the headers of `library`.
    pub fn needed(library: &Path, info: &ElfInfo) -> Self {
        let text = |name: &Vec<u8>| String::from_utf8(name.clone()).ok();
        let wants = info
            .needed
            .iter()
            .filter_map(text)
            // No file has a longer name (NAME_MAX).
            .filter(|name| name.len() <= 255 && libraries::is_cuda(name));
        Self {
            wants: wants
                .take(MAX_WANTS)
                .map(|soname| Opened { soname, vital: true })
                .collect(),
            ..Self::opened(library, Some(info), Vec::new())
        }
    }

    /// The libraries that `by` opens by name.
    pub fn opened(by: &Path, info: Option<&ElfInfo>, wants: Vec<Opened>) -> Self {
        Self {
            by: by.to_owned(),
            paths: info.map_or([None, None], |info| [info.rpath.clone(), info.runpath.clone()]),
            wants,
        }
    }

    /// Adds the library's own directory to the search path.
    pub fn also_beside(&mut self) {
        if self.paths == [None, None] {
            self.paths[1] = Some(b"$ORIGIN".to_vec());
        }
    }

    /// Its `DT_RPATH` and `DT_RUNPATH`.
    pub(super) fn paths(&self) -> &[Option<Vec<u8>>; 2] {
        &self.paths
    }

    /// The directories of `DT_RPATH` or `DT_RUNPATH`.
    pub(super) fn own(&self, list: Option<&Vec<u8>>) -> Vec<PathBuf> {
        let origin = self.by.parent().unwrap_or(Path::new("/"));
        let expand = |dir: &[u8]| {
            let rest = dir
                .strip_prefix(b"$ORIGIN")
                .or_else(|| dir.strip_prefix(b"${ORIGIN}"));
            match rest {
                Some(rest) => {
                    let below = rest.strip_prefix(b"/").unwrap_or(rest);
                    origin.join(OsStr::from_bytes(below))
                }
                None => PathBuf::from(OsStr::from_bytes(dir)),
            }
        };
        let all = list
            .map_or(&[][..], Vec::as_slice)
            .split(|b| *b == b':')
            .take(MAX_DIRS);
        all.map(expand).filter(|dir| dir.is_absolute()).collect()
    }
}
