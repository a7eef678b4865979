//! Decides whether the loader finds the libraries that a framework loads.
//!
//! A missing cuDNN is the most common reason why a framework computes on the CPU without an error.
//! The order is ld.so's: `DT_RPATH`, `LD_LIBRARY_PATH`, `DT_RUNPATH`, the cache's directories.
//! Files are searched by name, since little else of an archive is kept.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::Files;
use super::config::ImageConfig;
use super::environments::{Environment, Kind};
use super::load::{Load, MAX_DIRS};
use super::packages::Site;
use super::walk::Found;
use crate::compat::libraries;
use crate::compat::{Cuda, Version};
use crate::ldso::{Flavor, Warnings, abi, conf, dirs, flavor};

/// The most entries of a directory that are read.
const MAX_ENTRIES: usize = 1 << 16;
/// The most directories below `nvidia/` of one environment.
const MAX_PIP: usize = 64;
/// The budget that a search of one directory costs, in scanned bytes.
const SCANNED: usize = 256;
/// The approximate memory of a name, in bytes.
const RECORD: u64 = 128;

/// The result of the search for a library.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// In the loader's search path.
    Found,
    /// In a directory from which only another package of the environment loads it.
    Beside(PathBuf),
    /// In a directory outside every search path.
    Elsewhere(PathBuf),
    /// The image has only another version of it.
    Other(String),
    /// The image does not have it.
    Nowhere,
}

/// The search path of the image's loader, and the contents of its directories.
pub(super) struct Loader<'a> {
    files: &'a Files<'a>,
    /// `LD_LIBRARY_PATH`; `None` if the image's configuration is unknown.
    pub library_path: Option<Vec<PathBuf>>,
    system: Vec<PathBuf>,
    /// The CUDA libraries that the walk found.
    all: &'a [PathBuf],
    listed: RefCell<HashMap<PathBuf, Rc<BTreeSet<String>>>>,
}

impl<'a> Loader<'a> {
    /// Reads the loader's configuration.
    pub(super) fn new(files: &'a Files<'a>, config: Option<&ImageConfig>, found: &'a Found) -> Self {
        const ALWAYS: [&str; 7] = [
            "/usr/lib/x86_64-linux-gnu",
            "/usr/lib/aarch64-linux-gnu",
            "/lib/x86_64-linux-gnu",
            "/lib64",
            "/usr/lib64",
            "/lib",
            "/usr/lib",
        ];
        let arch = match flavor(files.root) {
            Flavor::Glibc(arch) | Flavor::Musl(arch) => arch,
            Flavor::None => abi::Arch::native(),
        };
        let configured = dirs::collect(
            files.root,
            arch,
            &[],
            &[],
            Some(Path::new(conf::DEFAULT)),
            &mut Warnings::default(),
        );
        let configured = configured.dirs.into_iter().filter(|dir| dir.hwcaps.is_none());
        let mut system: Vec<PathBuf> = configured.map(|dir| dir.path).take(4 * MAX_DIRS).collect();
        system.extend(ALWAYS.map(PathBuf::from));
        let of_path = |config: &ImageConfig| {
            let list = config.var("LD_LIBRARY_PATH").unwrap_or_default();
            let dirs = list.split([':', ';']).filter(|dir| dir.starts_with('/'));
            dirs.take(MAX_DIRS).map(PathBuf::from).collect()
        };
        Self {
            files,
            library_path: config.map(of_path),
            system,
            all: &found.cuda,
            listed: RefCell::default(),
        }
    }

    /// Searches for the library `soname` of `load`.
    pub(super) fn find(&self, load: &Load, soname: &str, environment: &Environment) -> Place {
        let [rpath, runpath] = load.paths();
        let rpath = rpath.as_ref().filter(|_| runpath.is_none());
        let path = self.library_path.iter().flatten().cloned();
        let mut dirs: Vec<PathBuf> = load.own(rpath);
        dirs.extend(path);
        dirs.extend(load.own(runpath.as_ref()));
        dirs.extend(self.system.iter().cloned());
        if environment.kind == Kind::Conda {
            // conda's programs have it as their DT_RPATH.
            dirs.push(environment.prefix.join("lib"));
        }
        // Without a budget there is no verdict; see `report`.
        let spent = self.files.budget.scan(dirs.len() * SCANNED).is_err();
        if spent || dirs.iter().any(|dir| self.has(dir, soname)) {
            return Place::Found;
        }
        let beside = self.beside(&environment.site);
        if let Some(dir) = beside.iter().find(|dir| self.has(dir, soname)) {
            return Place::Beside(dir.clone());
        }
        if !environment.site.has_dir("nvidia") && by_record(&environment.site, soname) {
            return Place::Beside(environment.site.path.join("nvidia"));
        }
        let named = |path: &&PathBuf| path.file_name() == Some(OsStr::new(soname)) && self.files.exists(path);
        if let Some(path) = self.all.iter().find(named) {
            return Place::Elsewhere(path.parent().unwrap_or(Path::new("/")).to_owned());
        }
        let Some((stem, _)) = soname.split_once(".so") else {
            return Place::Nowhere;
        };
        let begin = format!("{stem}.so.");
        let listed = dirs.iter().chain(&beside).find_map(|dir| {
            let names = self.list(dir);
            let from = (Bound::Included(begin.as_str()), Bound::Unbounded);
            let first = names.range::<str, _>(from).next();
            first.filter(|name| name.starts_with(&begin)).cloned()
        });
        let walked = || {
            let mut names = self.all.iter().filter_map(|path| path.file_name()?.to_str());
            names.find(|name| name.starts_with(&begin)).map(str::to_owned)
        };
        listed.or_else(walked).map_or(Place::Nowhere, Place::Other)
    }

    /// The directories from which Python packages load CUDA's libraries: pip's and PyTorch's.
    fn beside(&self, site: &Site) -> Vec<PathBuf> {
        if !site.has_dir("nvidia") && !site.has_dir("torch") {
            return Vec::new();
        }
        let nvidia = site.path.join("nvidia");
        let mut all = Vec::new();
        self.files.visit(&nvidia, MAX_PIP, |name, _| {
            if let Ok(name) = name.to_str() {
                all.push(nvidia.join(name).join("lib"));
            }
        });
        all.sort();
        all.push(site.path.join("torch/lib"));
        all
    }

    /// Whether a directory has a library of that name.
    fn has(&self, dir: &Path, name: &str) -> bool {
        self.list(dir).contains(name) && self.files.exists(dir.join(name))
    }

    /// The names of CUDA's libraries in a directory, read once.
    fn list(&self, dir: &Path) -> Rc<BTreeSet<String>> {
        if let Some(known) = self.listed.borrow().get(dir) {
            return Rc::clone(known);
        }
        let mut names = BTreeSet::new();
        self.files.visit(dir, MAX_ENTRIES, |name, _| {
            let name = name.to_str().ok().filter(|name| libraries::is_cuda(name));
            if let Some(name) = name
                && self.files.budget.keep(RECORD).is_ok()
            {
                names.insert(name.to_owned());
            }
        });
        let names = Rc::new(names);
        if self
            .files
            .budget
            .keep(RECORD + dir.as_os_str().len() as u64)
            .is_ok()
        {
            self.listed.borrow_mut().insert(dir.to_owned(), Rc::clone(&names));
        }
        names
    }

    /// A library that `LD_LIBRARY_PATH` puts before pip's newer one, which pip's other packages
    /// need.
    pub(super) fn older_first(&self, environment: &Environment) -> Option<Older> {
        const TOGETHER: [(&str, &[&str]); 3] = [
            ("libnvJitLink.so.12", &["nvidia_nvjitlink_cu12"]),
            ("libcudnn.so.9", &["nvidia_cudnn_cu12", "nvidia_cudnn_cu13"]),
            ("libcudnn.so.8", &["nvidia_cudnn_cu12", "nvidia_cudnn_cu11"]),
        ];
        TOGETHER.iter().find_map(|(soname, packages)| {
            let package = packages.iter().find_map(|name| environment.site.package(name))?;
            let wanted: Version = package.version.parse().ok()?;
            let of_pip = self.beside(&environment.site);
            of_pip.iter().find(|dir| self.has(dir, soname))?;
            let first = self
                .library_path
                .iter()
                .flatten()
                .find(|dir| self.has(dir, soname))?;
            if of_pip.contains(first) {
                return None;
            }
            let real = self.files.resolve(first.join(soname))?.path().ok()?;
            let (_, version) = real.file_name()?.to_str()?.split_once(".so.")?;
            let version: Version = version.parse().ok()?;
            let release = |v: Version| Cuda {
                major: v.major(),
                minor: v.minor(),
            };
            (version.major() == wanted.major() && release(version) < release(wanted)).then(|| Older {
                soname,
                dir: first.clone(),
                version,
                wanted,
            })
        })
    }
}

/// Whether pip's records name a package that has a library. For a tree without the package's files.
fn by_record(site: &Site, soname: &str) -> bool {
    [11, 12, 13].into_iter().any(|cuda| {
        let name = libraries::pip(soname, cuda).unwrap_or_default().replace('-', "_");
        site.package(&name).is_some_and(|package| {
            // Each CUDA has several majors of cuDNN.
            let major = soname
                .strip_prefix("libcudnn.so.")
                .and_then(|v| v.split('.').next());
            major.is_none_or(|major| package.version.split('.').next() == Some(major))
        })
    })
}

/// An older library that comes first in the search path.
#[derive(Clone, Debug)]
pub(super) struct Older {
    /// The name of the library.
    pub soname: &'static str,
    /// The directory of the older one.
    pub dir: PathBuf,
    /// Its version.
    pub version: Version,
    /// The version of pip's package.
    pub wanted: Version,
}
