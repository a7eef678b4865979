//! Finds an image's Python environments (system, virtual, conda) with their packages and
//! frameworks.
//!
//! For example, `/opt/venv` with a `pyvenv.cfg` and `lib/python3.10/site-packages` is an
//! environment of kind `Venv`.

use std::path::{Path, PathBuf};

use super::Files;
use super::config::ImageConfig;
use super::frameworks::{self, Framework};
use super::packages::{Package, Site};
use super::search::search;
use super::walk::Found;
use crate::compat::Cuda;
use crate::sys::root::Node;

/// The search path for `python` if the image does not set `PATH`, as engines set it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The most environments that are read.
const MAX: usize = 256;

/// The tool that made an environment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// conda, mamba and similar tools.
    Conda,
    /// A program without Python.
    Native,
    /// A directory of `PYTHONPATH`.
    Path,
    /// The distribution, or a separately installed Python.
    System,
    /// `pip install --user`.
    User,
    /// venv, virtualenv, uv, poetry.
    Venv,
}

/// One directory of packages, and the tool that made it.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The tool that made it.
    pub kind: Kind,
    /// The directory above `lib/pythonX.Y`.
    pub prefix: PathBuf,
    /// `3.10`; empty for Debian's, which serves every Python 3.
    pub python: String,
    /// The packages of pip.
    pub site: Site,
    /// The packages of conda.
    pub conda: Option<Site>,
    /// The frameworks among them.
    pub frameworks: Vec<Framework>,
    /// Whether `python` on the image's `PATH` is this environment's; `None` if unknown.
    pub on_path: Option<bool>,
}

impl Environment {
    /// A package by its name in pip or conda.
    pub fn package(&self, name: &str) -> Option<&Package> {
        let of_conda = || self.conda.as_ref().and_then(|conda| conda.package(name));
        self.site.package(name).or_else(of_conda)
    }

    /// The CUDA runtime that pip or conda installed, and the package that names its version.
    pub fn runtime(&self) -> Option<(Cuda, String)> {
        const NAMES: [&str; 6] = [
            "nvidia_cuda_runtime_cu11",
            "nvidia_cuda_runtime_cu12",
            "nvidia_cuda_runtime",
            "cudatoolkit",
            "cuda_cudart",
            "cuda_version",
        ];
        NAMES.iter().find_map(|name| {
            let package = self.package(name)?;
            let cuda = package.version.parse().ok()?;
            Some((cuda, format!("{} {}", package.name, package.version)))
        })
    }
}

/// Every environment with at least one package, sorted by path.
pub fn find(files: &Files<'_>, config: Option<&ImageConfig>, found: &Found) -> Vec<Environment> {
    let active = config.map(|c| active(files, c.var("PATH").unwrap_or(PATH)));
    let mut all: Vec<Environment> = found
        .sites
        .iter()
        .take(MAX)
        .filter_map(|path| environment(files, found, path, active.as_ref()))
        .collect();
    for environment in &mut all {
        let named = |dir: &Path| dir == environment.site.path;
        if python_path(config).any(named) {
            (environment.kind, environment.on_path) = (Kind::Path, Some(true));
        }
    }
    all.extend(of_path(files, config));
    // A conda prefix may have CUDA and no Python.
    for prefix in found.conda.iter().take(MAX) {
        if all.iter().any(|e| e.prefix == *prefix) {
            continue;
        }
        let conda = Site::conda(files, prefix);
        if !conda.packages.is_empty() {
            // A tree without the large files has only conda's records of them.
            let site = Site {
                path: prefix.join("lib"),
                ..Site::default()
            };
            all.push(Environment {
                kind: Kind::Conda,
                prefix: prefix.clone(),
                python: String::new(),
                frameworks: frameworks::find(files, &site, Some(&conda)),
                site,
                conda: Some(conda),
                on_path: None,
            });
        }
    }
    all
}

/// The directories of `PYTHONPATH`, which come before those of any environment.
fn python_path(config: Option<&ImageConfig>) -> impl Iterator<Item = &Path> {
    const MAX_PATH: usize = 16;
    let path = config.and_then(|c| c.var("PYTHONPATH")).unwrap_or_default();
    let dirs = path.split(':').filter(|dir| dir.starts_with('/')).take(MAX_PATH);
    dirs.map(|dir| Path::new(dir.trim_end_matches('/')))
}

/// The packages in `PYTHONPATH` outside of environments.
fn of_path(files: &Files<'_>, config: Option<&ImageConfig>) -> Vec<Environment> {
    python_path(config)
        // A site of an environment is read with that environment.
        .filter(|dir| !dir.ends_with("site-packages") && !dir.ends_with("dist-packages"))
        .filter_map(|dir| {
            let site = Site::python(files, dir);
            let frameworks = frameworks::find(files, &site, None);
            (!frameworks.is_empty()).then(|| Environment {
                kind: Kind::Path,
                prefix: dir.to_owned(),
                python: String::new(),
                site,
                conda: None,
                frameworks,
                on_path: Some(true),
            })
        })
        .collect()
}

/// A program without Python, as an environment of its own.
pub fn native(framework: Framework) -> Environment {
    Environment {
        kind: Kind::Native,
        prefix: framework.path.parent().unwrap_or(Path::new("/")).to_owned(),
        python: String::new(),
        site: Site::default(),
        conda: None,
        frameworks: vec![framework],
        on_path: None,
    }
}

fn environment(
    files: &Files<'_>,
    found: &Found,
    path: &Path,
    active: Option<&Option<Vec<PathBuf>>>,
) -> Option<Environment> {
    let site = Site::python(files, path);
    if site.packages.is_empty() && site.directories.is_empty() {
        return None;
    }
    let python = path.parent()?;
    let version = python.file_name()?.to_str()?.strip_prefix("python")?;
    let prefix = python.parent()?.parent()?;
    let kind = if found.conda.iter().any(|p| p == prefix) {
        Kind::Conda
    } else if found.venvs.iter().any(|p| p == prefix) {
        Kind::Venv
    } else if prefix.ends_with(".local") {
        Kind::User
    } else {
        Kind::System
    };
    let conda = (kind == Kind::Conda).then(|| Site::conda(files, prefix));
    let frameworks = frameworks::find(files, &site, conda.as_ref());
    let on_path = active.and_then(|prefixes| match prefixes {
        Some(prefixes) => Some(kind == Kind::User || prefixes.iter().any(|p| p == prefix)),
        // If `PATH` has no Python, a prefix with a Python of its own is not on it.
        None => has_python(files, &prefix.join("bin")).then_some(false),
    });
    Some(Environment {
        kind,
        prefix: prefix.to_owned(),
        python: version.strip_prefix("3.").map_or("", |_| version).to_owned(),
        on_path,
        site,
        conda,
        frameworks,
    })
}

/// Whether a directory has a `python3` or `python`.
fn has_python(files: &Files<'_>, dir: &Path) -> bool {
    let python = ["python3", "python"].map(|name| dir.join(name));
    python
        .iter()
        .any(|p| files.resolve(p).is_some_and(|n| n.is_file()))
}

/// The prefixes whose packages the first `python3` or `python` on `path` imports; `None` without
/// one.
fn active(files: &Files<'_>, path: &str) -> Option<Vec<PathBuf>> {
    let dirs = path.split(':').filter(|dir| dir.starts_with('/')).take(64);
    for dir in dirs {
        let dir = Path::new(dir);
        if !has_python(files, dir) {
            continue;
        }
        let mut prefixes: Vec<PathBuf> = dir.parent().map(Path::to_owned).into_iter().collect();
        if dir == Path::new("/bin") {
            prefixes.push(PathBuf::from("/usr"));
        }
        // A distribution's Python also imports from `/usr/local`.
        if prefixes.iter().any(|p| p == Path::new("/usr")) {
            prefixes.push(PathBuf::from("/usr/local"));
        }
        return Some(prefixes);
    }
    None
}

/// Two copies of one framework for one Python. The first hides the second.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Shadowed {
    /// Its name in pip.
    pub package: &'static str,
    /// The imported copy and its version.
    pub first: (PathBuf, String),
    /// The hidden copy and its version.
    pub second: (PathBuf, String),
}

/// The pairs of different versions in one Python's search path. `PYTHONPATH` comes first, then a
/// user's packages, local ones, and the distribution's.
pub fn shadowed(all: &[Environment]) -> Vec<Shadowed> {
    let rank = |e: &Environment| match e.kind {
        Kind::Path => Some(0),
        Kind::User => Some(1),
        Kind::System if e.prefix == Path::new("/usr/local") => Some(2),
        Kind::System if e.prefix == Path::new("/usr") => Some(3),
        Kind::Conda | Kind::Native | Kind::System | Kind::Venv => None,
    };
    let same_python =
        |a: &Environment, b: &Environment| a.python == b.python || a.python.is_empty() || b.python.is_empty();
    let mut pairs = Vec::new();
    for a in all {
        for b in all {
            // `PYTHONPATH` comes before any environment.
            let behind = || (a.kind == Kind::Path && b.on_path == Some(true)).then_some(4);
            let (Some(first), Some(second)) = (rank(a), rank(b).or_else(behind)) else {
                continue;
            };
            if first >= second || !same_python(a, b) {
                continue;
            }
            for x in &a.frameworks {
                let other = b.frameworks.iter().find(|y| y.package == x.package);
                if let Some(y) = other.filter(|y| y.version != x.version) {
                    pairs.push(Shadowed {
                        package: x.package,
                        first: (x.path.clone(), x.version.clone()),
                        second: (y.path.clone(), y.version.clone()),
                    });
                }
            }
        }
    }
    pairs
}

/// The version of the image's glibc, from a string in the library.
pub fn glibc(files: &Files<'_>) -> Option<(u32, u32)> {
    const PLACES: [&str; 5] = [
        "/lib/x86_64-linux-gnu/libc.so.6",
        "/lib/aarch64-linux-gnu/libc.so.6",
        "/lib64/libc.so.6",
        "/usr/lib64/libc.so.6",
        "/usr/lib/libc.so.6",
    ];
    const MARK: &[u8] = b"stable release version ";
    const MAX: u64 = 16 << 20;
    let node = PLACES
        .iter()
        .find_map(|path| files.resolve(path).filter(Node::is_file))?;
    let file = node.open_read().ok()?;
    search(&file, 0, MAX, MARK, files.budget, |text| {
        let end = text.iter().position(|b| !b.is_ascii_digit() && *b != b'.')?;
        let version = std::str::from_utf8(&text[..end]).ok()?;
        let (major, minor) = version.trim_end_matches('.').split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    })
}
