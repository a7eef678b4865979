//! Installed packages by their records: a Python package's `.dist-info`, a conda package's JSON.

use std::path::{Path, PathBuf};

use super::Files;

/// The most entries of a `site-packages` or `conda-meta` directory.
const MAX_ENTRIES: usize = 1 << 16;
/// The longest name or version that is read, in bytes.
const MAX_NAME: usize = 128;

/// The approximate memory of an entry, in bytes.
const RECORD: u64 = 256;

/// One installed package.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Package {
    /// Its name in lower case, with `_` for `-` and `.`: `nvidia_cuda_runtime_cu12`.
    pub name: String,
    /// Its version as written: `12.1.105`, `2.0.1+cu118`.
    pub version: String,
    /// The build of a conda package: `py3.10_cuda11.8_cudnn8.7.0_0`.
    pub build: String,
}

/// A directory of packages.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Site {
    /// The directory.
    pub path: PathBuf,
    /// The installed packages, by their records.
    pub packages: Vec<Package>,
    /// The directories in it, by name.
    pub directories: Vec<String>,
}

impl Site {
    /// Reads a `site-packages` directory.
    pub fn python(files: &Files<'_>, path: &Path) -> Self {
        Self::read(files, path, |name| {
            let base = name
                .strip_suffix(".dist-info")
                .or_else(|| name.strip_suffix(".egg-info"))?;
            let (name, version) = base.split_once('-')?;
            // An egg's name ends with its Python version.
            let version = version.split_once("-py").map_or(version, |(v, _)| v);
            Some((name, version, ""))
        })
    }

    /// Reads the `conda-meta` directory of a prefix.
    pub fn conda(files: &Files<'_>, prefix: &Path) -> Self {
        Self::read(files, &prefix.join("conda-meta"), |name| {
            let (rest, build) = name.strip_suffix(".json")?.rsplit_once('-')?;
            let (name, version) = rest.rsplit_once('-')?;
            Some((name, version, build))
        })
    }

    fn read(files: &Files<'_>, path: &Path, parse: impl Fn(&str) -> Option<(&str, &str, &str)>) -> Self {
        let mut site = Self {
            path: path.to_owned(),
            ..Self::default()
        };
        files.visit(path, MAX_ENTRIES, |name, kind| {
            let Some(name) = name.to_str().ok().filter(|n| n.len() <= MAX_NAME) else {
                return;
            };
            if files.budget.keep(RECORD).is_err() {
                return;
            }
            if let Some((name, version, build)) = parse(name) {
                site.packages.push(Package {
                    name: name.to_lowercase().replace(['-', '.'], "_"),
                    version: version.to_owned(),
                    build: build.to_owned(),
                });
            } else if kind != rustix::fs::FileType::RegularFile {
                site.directories.push(name.to_owned());
            }
        });
        site.packages
            .sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
        site.directories.sort();
        site
    }

    /// The package of that name.
    pub fn package(&self, name: &str) -> Option<&Package> {
        let first = self.packages.partition_point(|p| p.name.as_str() < name);
        self.packages.get(first).filter(|p| p.name == name)
    }

    /// Whether it has a directory of that name, with a package's code.
    pub fn has_dir(&self, name: &str) -> bool {
        self.directories
            .binary_search_by(|d| d.as_str().cmp(name))
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::budget::Budget;
    use crate::sys::root::Root;

    #[test]
    fn records_are_read_by_name() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "site/torch-2.0.1+cu118.dist-info",
            "site/nvidia_cuda_runtime_cu12-12.1.105.dist-info",
            "site/Old.Pkg-1.0-py3.10.egg-info",
            "site/torch",
        ] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        std::fs::create_dir_all(dir.path().join("conda/conda-meta")).unwrap();
        for name in [
            "cudatoolkit-11.8.0-h6a678d5_0.json",
            "pytorch-2.0.1-py3.10_cuda11.8_cudnn8.7.0_0.json",
            "history",
        ] {
            std::fs::write(dir.path().join("conda/conda-meta").join(name), "").unwrap();
        }
        let root = Root::open(dir.path()).unwrap();
        let budget = Budget::default();
        let files = Files::new(&root, None, &budget);
        let site = Site::python(&files, Path::new("/site"));
        let version = |site: &Site, name| site.package(name).map(|p| p.version.clone());
        assert_eq!(version(&site, "torch").as_deref(), Some("2.0.1+cu118"));
        assert_eq!(
            version(&site, "nvidia_cuda_runtime_cu12").as_deref(),
            Some("12.1.105")
        );
        assert_eq!(version(&site, "old_pkg").as_deref(), Some("1.0"));
        assert!(site.has_dir("torch") && !site.has_dir("jax"));
        let conda = Site::conda(&files, Path::new("/conda"));
        assert_eq!(version(&conda, "cudatoolkit").as_deref(), Some("11.8.0"));
        let torch = conda.package("pytorch").unwrap();
        assert_eq!(
            (torch.version.as_str(), torch.build.as_str()),
            ("2.0.1", "py3.10_cuda11.8_cudnn8.7.0_0")
        );
    }
}
