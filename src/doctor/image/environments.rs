//! The Python environments of an image: system, virtual and conda, each with its packages and frameworks.

use std::path::{Path, PathBuf};

use super::Files;
use super::config::ImageConfig;
use super::frameworks::{self, Framework};
use super::packages::{Package, Site};
use super::search::search;
use super::walk::Found;
use crate::compat::Cuda;
use crate::sys::root::Node;

/// Where `python` is looked for when the image does not set `PATH`, as engines do.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Environments that are looked into.
const MAX: usize = 256;

/// What made an environment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// conda, mamba and their like.
    Conda,
    /// A program without Python.
    Native,
    /// A directory of `PYTHONPATH`.
    Path,
    /// The distribution, or a Python of its own.
    System,
    /// `pip install --user`.
    User,
    /// venv, virtualenv, uv, poetry.
    Venv,
}

/// One directory of packages and whose it is.
#[derive(Clone, Debug)]
pub struct Environment {
    /// What made it.
    pub kind: Kind,
    /// The directory above `lib/pythonX.Y`.
    pub prefix: PathBuf,
    /// `3.10`; empty of Debian's, which is for every Python 3.
    pub python: String,
    /// The packages of pip.
    pub site: Site,
    /// The packages of conda.
    pub conda: Option<Site>,
    /// The frameworks among them.
    pub frameworks: Vec<Framework>,
    /// Whether `python` of the image's `PATH` is this environment's; `None` where the image does not tell.
    pub on_path: Option<bool>,
}

impl Environment {
    /// A package, as pip or conda know it.
    pub fn package(&self, name: &str) -> Option<&Package> {
        let of_conda = || self.conda.as_ref().and_then(|conda| conda.package(name));
        self.site.package(name).or_else(of_conda)
    }

    /// The CUDA runtime that pip or conda brought, and the package that says so.
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

/// Every environment with at least one package, in the order of their paths.
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
    // A conda prefix may hold CUDA without any Python.
    for prefix in found.conda.iter().take(MAX) {
        if all.iter().any(|e| e.prefix == *prefix) {
            continue;
        }
        let conda = Site::conda(files, prefix);
        if !conda.packages.is_empty() {
            all.push(Environment {
                kind: Kind::Conda,
                prefix: prefix.clone(),
                python: String::new(),
                site: Site::default(),
                conda: Some(conda),
                frameworks: Vec::new(),
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

/// What `PYTHONPATH` holds besides the sites of environments.
fn of_path(files: &Files<'_>, config: Option<&ImageConfig>) -> Vec<Environment> {
    python_path(config)
        // A site of its own environment is read there.
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
        // Without a Python on the path, one of its own is known not to be there.
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

/// The prefixes that the first `python3` or `python` on `path` takes packages from; `None` where there is none.
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
        // A distribution's Python takes what was installed locally too.
        if prefixes.iter().any(|p| p == Path::new("/usr")) {
            prefixes.push(PathBuf::from("/usr/local"));
        }
        return Some(prefixes);
    }
    None
}

/// Two copies of one framework for one Python, of which the first hides the second.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Shadowed {
    /// As pip calls it.
    pub package: &'static str,
    /// The one that is imported, and its version.
    pub first: (PathBuf, String),
    /// The one that is hidden.
    pub second: (PathBuf, String),
}

/// The pairs of different versions that one Python sees: `PYTHONPATH` comes before all, a user's packages before the
/// system's, local ones before the distribution's.
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
            // `PYTHONPATH` is before whatever environment `python` is of.
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

/// The version of the image's glibc, as it says itself.
pub fn glibc(files: &Files<'_>) -> Option<(u32, u32)> {
    const PLACES: [&str; 5] = [
        "/lib/x86_64-linux-gnu/libc.so.6",
        "/lib/aarch64-linux-gnu/libc.so.6",
        "/lib64/libc.so.6",
        "/usr/lib64/libc.so.6",
        "/usr/lib/libc.so.6",
    ];
    const SAYS: &[u8] = b"stable release version ";
    const MAX: u64 = 16 << 20;
    let node = PLACES
        .iter()
        .find_map(|path| files.resolve(path).filter(Node::is_file))?;
    let file = node.open_read().ok()?;
    search(&file, 0, MAX, SAYS, files.budget, |text| {
        let end = text.iter().position(|b| !b.is_ascii_digit() && *b != b'.')?;
        let version = std::str::from_utf8(&text[..end]).ok()?;
        let (major, minor) = version.trim_end_matches('.').split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    })
}
