//! Walks a root once, and finds Python environments, CUDA and driver libraries.
//!
//! It reads directories only, by descriptor, and follows no links. The contents of a Python
//! environment are read later, by name.

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FileType;

use super::Progress;
use crate::compat::libraries;
use crate::sys::budget::Budget;
use crate::sys::root::{Node, Root};

/// The most entries of one directory.
const MAX_ENTRIES: usize = 1 << 20;
/// The deepest directory.
const MAX_DEPTH: usize = 48;
/// The most paths of each kind that are kept.
const MAX_FOUND: usize = 1024;
/// The memory of a pending directory besides its path, in bytes.
const PENDING: usize = 64;
/// The walk ends after this time, on a slow file system.
const DEADLINE: Duration = Duration::from_secs(120);

/// Names of directories without relevant files, or with copies of installed ones.
const SKIPPED: &[&[u8]] = &[b"node_modules", b".git", b"__pycache__", b"zoneinfo"];
/// Directories of the root that are no part of an image.
const KERNELS: &[&str] = &["/proc", "/sys", "/dev"];

/// The paths that were found, absolute below the root, in order.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// `site-packages` and `dist-packages` directories.
    pub sites: Vec<PathBuf>,
    /// Prefixes with a `conda-meta` directory.
    pub conda: Vec<PathBuf>,
    /// Prefixes with a `pyvenv.cfg`.
    pub venvs: Vec<PathBuf>,
    /// `libcuda.so*`.
    pub libcuda: Vec<PathBuf>,
    /// The driver's other libraries, with a version in their names.
    pub driver_libraries: Vec<PathBuf>,
    /// `libcudart.so.*` outside of Python packages.
    pub runtimes: Vec<PathBuf>,
    /// CUDA's libraries outside of Python packages, by any of their names.
    pub cuda: Vec<PathBuf>,
    /// Libraries of programs that use CUDA without Python.
    pub natives: Vec<PathBuf>,
    /// Why the result is incomplete; empty if it is complete.
    pub incomplete: String,
}

/// Walks the root until the budget is spent.
pub fn walk(root: &Root, budget: &Budget, progress: &mut dyn Progress) -> Found {
    let mut walk = Walk {
        found: Found::default(),
        stack: vec![(PathBuf::from("/"), 0)],
        budget,
    };
    let deadline = Instant::now() + DEADLINE;
    let (mut seen, mut deep) = (0_usize, 0_usize);
    while let Some((path, depth)) = walk.stack.pop() {
        budget.release((PENDING + path.as_os_str().len()) as u64);
        if depth > MAX_DEPTH {
            deep += 1;
            continue;
        }
        if Instant::now() > deadline || budget.check().is_err() {
            walk.found.incomplete = format!("the search ended at {}: it takes too long", path.display());
            break;
        }
        seen += 1;
        progress.directories(seen);
        let Ok(dir) = root.resolve_nofollow(&path) else {
            continue;
        };
        let visited = dir.visit(MAX_ENTRIES, |name, kind| {
            if budget.entry().is_err() {
                return;
            }
            let kind = match kind {
                FileType::Unknown => dir.child_c(name).map_or(FileType::Unknown, |node| node.kind()),
                known => known,
            };
            walk.entry((&dir, &path), depth, (name, kind));
        });
        if let Err(e) = visited {
            walk.found.note(|| format!("{}: {e}", path.display()));
        }
    }
    let mut found = walk.found;
    if deep > 0 {
        found.note(|| format!("{deep} directories lie deeper than {MAX_DEPTH} others"));
    }
    let mut full = false;
    for list in [
        &mut found.sites,
        &mut found.conda,
        &mut found.venvs,
        &mut found.libcuda,
        &mut found.driver_libraries,
        &mut found.runtimes,
        &mut found.cuda,
        &mut found.natives,
    ] {
        list.sort();
        full |= list.len() == MAX_FOUND;
    }
    if full {
        found.note(|| format!("more than {MAX_FOUND} files of one kind: the others were not read"));
    }
    found
}

impl Found {
    /// Records why the result is incomplete; the first reason stays.
    fn note(&mut self, why: impl FnOnce() -> String) {
        if self.incomplete.is_empty() {
            self.incomplete = why();
        }
    }
}

struct Walk<'b> {
    found: Found,
    /// Pending directories and their depths.
    stack: Vec<(PathBuf, usize)>,
    budget: &'b Budget,
}

impl Walk<'_> {
    fn entry(&mut self, (node, dir): (&Node, &Path), depth: usize, (name, kind): (&CStr, FileType)) {
        let name = name.to_bytes();
        let path = || dir.join(OsStr::from_bytes(name));
        let found = &mut self.found;
        if kind == FileType::Directory {
            match name {
                b"site-packages" | b"dist-packages" => keep(&mut found.sites, path()),
                b"conda-meta" => keep(&mut found.conda, dir.to_owned()),
                // conda's package cache: the environments have links to its packages.
                b"pkgs" if node.child("conda-meta").is_ok() => {}
                _ if SKIPPED.contains(&name) => {}
                _ if depth == 0 && KERNELS.iter().any(|k| Path::new(k) == path()) => {}
                _ => {
                    let path = path();
                    if self
                        .budget
                        .keep((PENDING + path.as_os_str().len()) as u64)
                        .is_ok()
                    {
                        self.stack.push((path, depth + 1));
                    }
                }
            }
            return;
        }
        if is_native(name) {
            keep(&mut found.natives, path());
        } else if let Ok(name) = std::str::from_utf8(name)
            && libraries::is_cuda(name)
        {
            keep(&mut found.cuda, path());
        }
        if name == b"pyvenv.cfg" {
            keep(&mut found.venvs, dir.to_owned());
        } else if name.starts_with(b"libcuda.so") {
            keep(&mut found.libcuda, path());
        } else if name.starts_with(b"libcudart.so.") {
            keep(&mut found.runtimes, path());
        } else if is_driver_library(name) {
            keep(&mut found.driver_libraries, path());
        }
    }
}

fn keep(list: &mut Vec<PathBuf>, path: PathBuf) {
    if list.len() < MAX_FOUND {
        list.push(path);
    }
}

/// Whether a file identifies a program that uses CUDA without Python.
pub fn is_native(name: &[u8]) -> bool {
    matches!(
        name,
        b"libggml-cuda.so" | b"libonnxruntime_providers_cuda.so" | b"libtensorflow_cc.so.2" | b"tritonserver"
    ) || [&b"libtorch_cuda.so"[..], b"libnvinfer.so.", b"libctranslate2.so."]
        .iter()
        .any(|begin| name.starts_with(begin))
}

/// `libnvidia-ml.so.550.54.14`, `libnvcuvid.so.1`: names of the driver's own libraries besides
/// `libcuda`.
pub fn is_driver_library(name: &[u8]) -> bool {
    const OTHERS: &[&[u8]] = &[
        b"libnvcuvid.so.",
        b"libnvoptix.so.",
        b"libcudadebugger.so.",
        b"libEGL_nvidia.so.",
        b"libGLX_nvidia.so.",
        b"libdxcore.so",
    ];
    // The container tools' own library has a similar name.
    let ours = name.starts_with(b"libnvidia-") && !name.starts_with(b"libnvidia-container");
    let versioned = name.windows(4).any(|w| w == b".so.");
    ours && versioned || OTHERS.iter().any(|other| name.starts_with(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::image::Silent;

    #[test]
    fn environments_and_libraries_are_found() {
        let dir = tempfile::tempdir().unwrap();
        for file in [
            "usr/lib/python3/dist-packages/x",
            "opt/conda/conda-meta/history",
            "opt/conda/pkgs/torch/lib/site-packages/x",
            "opt/conda/envs/a/conda-meta/history",
            "opt/conda/envs/a/lib/python3.10/site-packages/x",
            "srv/app/.venv/pyvenv.cfg",
            "usr/lib/x86_64-linux-gnu/libcuda.so.535.104.05",
            "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.535.104.05",
            "usr/lib/x86_64-linux-gnu/libnvidia-container.so.1",
            "usr/local/cuda-11.8/lib64/libcudart.so.11.8.89",
            "proc/1/libcuda.so.1",
        ] {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let found = walk(&Root::open(dir.path()).unwrap(), &Budget::default(), &mut Silent);
        let paths = |list: &[PathBuf]| list.iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
        assert_eq!(
            paths(&found.sites),
            [
                "/opt/conda/envs/a/lib/python3.10/site-packages",
                "/usr/lib/python3/dist-packages"
            ]
        );
        assert_eq!(paths(&found.conda), ["/opt/conda", "/opt/conda/envs/a"]);
        assert_eq!(paths(&found.venvs), ["/srv/app/.venv"]);
        assert_eq!(
            paths(&found.libcuda),
            ["/usr/lib/x86_64-linux-gnu/libcuda.so.535.104.05"]
        );
        assert_eq!(
            paths(&found.driver_libraries),
            ["/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.535.104.05"]
        );
        assert_eq!(found.runtimes.len(), 1);
        assert_eq!(found.incomplete, "");
    }

    /// A directory that is too deep hides no other, and an incomplete walk gives no verdict.
    #[test]
    fn depth_and_budget() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("aaa").join("d/".repeat(MAX_DEPTH + 2));
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("libcuda.so.1"), "").unwrap();
        for name in ["0", "b", "zzz"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("libcuda.so.1"), "").unwrap();
        }
        let root = Root::open(dir.path()).unwrap();
        let found = walk(&root, &Budget::default(), &mut Silent);
        assert_eq!(found.libcuda.len(), 3);
        assert!(found.incomplete.contains("deeper"), "{}", found.incomplete);
        for limits in [
            crate::sys::budget::Limits {
                entries: 5,
                ..crate::sys::budget::Limits::DEFAULT
            },
            crate::sys::budget::Limits {
                kept: 100,
                ..crate::sys::budget::Limits::DEFAULT
            },
        ] {
            let budget = Budget::new(limits);
            walk(&root, &budget, &mut Silent);
            budget.check().unwrap_err();
        }
    }
}
