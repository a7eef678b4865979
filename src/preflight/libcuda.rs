//! Classifies the `libcuda` that a program of the image would load: the driver's, a stub, a
//! compatibility package's, or one in the image.
//!
//! The driver directory comes first in the loader's cache, and NVIDIA's images have its usual place
//! in `LD_LIBRARY_PATH`. So only a directory of that variable can hide the driver's library: one
//! before the driver directory, or one that is not there because the image or a volume has files at
//! its place.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::search::{Places, TooLong};
use crate::compat::Version;
use crate::compat::forward::{OWNER, SECTION};
use crate::ldso::resolve::{Entry, hwcaps};
use crate::ldso::{LibraryPath, LoaderEnv, Reaction, note};
use crate::sys::root::Root;

/// The largest stub, in bytes: stubs have some tens of kB, and every driver's library over a
/// megabyte.
const MAX_STUB: i64 = 1 << 20;
/// The default driver directory.
pub const DRIVER_DIR: &str = "/usr/local/nvidia";

/// The origin of a `libcuda`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A stub for linking: every call fails with error 34.
    Stub,
    /// A `cuda-compat` package.
    Compat,
    /// A driver.
    Driver,
    /// A file that is no library, such as the empty ones that older container tools leave behind.
    Broken,
}

/// A `libcuda` of the image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Libcuda {
    /// Its path.
    pub path: PathBuf,
    /// Its origin.
    pub kind: Kind,
    /// The driver version in its real name.
    pub version: Option<String>,
    /// The compatibility package's note, JSON.
    pub note: Option<Vec<u8>>,
}

impl Libcuda {
    /// Classifies the file at `path`; `None` if there is none.
    pub fn at(root: &Root, path: &Path) -> Option<Self> {
        let node = root.resolve(path).ok().filter(crate::sys::root::Node::is_file)?;
        let real = node.path().ok();
        let real = real.as_deref().unwrap_or(path);
        let version = version_in_name(real).or_else(|| version_in_name(path));
        let size = node.stat().st_size;
        let note = node
            .open_read()
            .ok()
            .and_then(|file| note::find(&file, SECTION, OWNER));
        let in_dir = |name: &str| {
            [path, real]
                .iter()
                .any(|p| p.parent().is_some_and(|d| d.ends_with(name)))
        };
        let kind = if size == 0 {
            Kind::Broken
        } else if note.is_some() || in_dir("compat") {
            Kind::Compat
        } else if in_dir("stubs") || version.is_none() && size < MAX_STUB {
            Kind::Stub
        } else {
            Kind::Driver
        };
        Some(Self {
            path: path.to_owned(),
            kind,
            version: version.map(str::to_owned),
            note,
        })
    }

    /// Whether it is of the driver `version`.
    pub fn is_of(&self, version: Option<Version>) -> bool {
        let own = self.version.as_deref().and_then(|own| own.parse().ok());
        own.is_some() && own == version
    }
}

/// A library that the loader finds before the driver's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hiding {
    /// The library.
    pub libcuda: Libcuda,
    /// The entry of `LD_LIBRARY_PATH`, as it is written.
    pub entry: String,
    /// With the driver directory at one of these paths the loader finds the driver's first.
    pub unless: Vec<PathBuf>,
}

impl Hiding {
    /// The edit that helps.
    pub fn fix(&self) -> String {
        match self.entry.as_str() {
            "" => {
                "take the empty entry, which means the working directory, out of LD_LIBRARY_PATH".to_owned()
            }
            entry => format!("take {entry} out of LD_LIBRARY_PATH"),
        }
    }
}

/// The result of a search in `LD_LIBRARY_PATH`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Search {
    /// No directory hides the driver's library.
    Nothing,
    /// One does.
    Hidden(Hiding),
    /// The variable has too many directories.
    Unfinished,
}

/// Entries that are searched in any case.
const AT_LEAST: usize = 16;

/// Searches for a library that hides the driver's `soname` in the `LD_LIBRARY_PATH` of `env`. The
/// driver's libraries come into the directory `below` one of `driver_dirs`; `is_over` ends a long
/// search.
pub fn hides_the_driver(
    root: &Root,
    env: &LoaderEnv,
    soname: &str,
    (driver_dirs, below): (&[PathBuf], &Path),
    is_over: impl Fn() -> bool,
) -> Search {
    let Some((path, places)) = LibraryPath::new(root, env).zip(Places::new(root, driver_dirs)) else {
        return Search::Nothing;
    };
    let hwcaps = hwcaps();
    let mut searched: Vec<PathBuf> = Vec::new();
    for (i, Entry { text, dir }) in path.entries.iter().enumerate() {
        if i >= AT_LEAST && is_over() {
            return Search::Unfinished;
        }
        let dir = match places.located(dir) {
            Ok(Some(dir)) => dir,
            Ok(None) => continue,
            Err(TooLong) => return Search::Unfinished,
        };
        searched.push(dir.clone());
        let best = dir.join("glibc-hwcaps");
        let best = if root.exists(&best) {
            hwcaps.as_slice()
        } else {
            &[]
        }
        .iter()
        .map(|name| best.join(name).join(soname));
        for file in best.chain([dir.join(soname)]) {
            let libcuda = match path.reaction(&file) {
                Reaction::Continues => continue,
                Reaction::Loads => Libcuda::at(root, &file),
                Reaction::Fails => None,
            };
            return Search::Hidden(Hiding {
                libcuda: libcuda.unwrap_or(Libcuda {
                    path: file,
                    kind: Kind::Broken,
                    version: None,
                    note: None,
                }),
                entry: OsStr::from_bytes(text).display().to_string(),
                unless: places.with(below, &searched),
            });
        }
    }
    if path.is_cut {
        Search::Unfinished
    } else {
        Search::Nothing
    }
}

/// The version in a driver library's name: three digits, then one or two more numbers.
pub fn version_in_name(path: &Path) -> Option<&str> {
    let (_, version) = path.file_name()?.to_str()?.split_once(".so.")?;
    let mut parts = version.split('.');
    let branch = parts.next()?;
    let numeric = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    (branch.len() >= 3 && numeric(branch) && parts.clone().count() >= 1 && parts.all(numeric))
        .then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ldso::fixtures::elf64;

    const OURS: &str = "/usr/local/nvidia/lib64";

    /// Searches an image with these files. The last names stand for a directory (`keep`), an empty
    /// libcuda and one for another machine.
    fn search(files: &[&str], library_path: &str) -> Search {
        let dir = tempfile::tempdir().unwrap();
        let loaders = ["lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1"];
        for path in loaders.iter().chain(&["work/keep"]).chain(files) {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            match path.file_name().and_then(OsStr::to_str).unwrap() {
                "keep" => {}
                "libcuda.so.broken" => std::fs::write(path.with_file_name("libcuda.so.1"), "").unwrap(),
                "libcuda.so.32" => {
                    let mut other = elf64("libcuda.so.1", &[]);
                    other[18] = 3;
                    std::fs::write(path.with_file_name("libcuda.so.1"), other).unwrap();
                }
                _ => std::fs::write(path, own(elf64("libcuda.so.1", &[]))).unwrap(),
            }
        }
        let root = Root::open(dir.path()).unwrap();
        let env = LoaderEnv {
            library_path: Some(library_path.into()),
            cwd: Some(PathBuf::from("/work")),
            ..LoaderEnv::default()
        };
        let dirs = ["/usr/local/nvidia", "/opt/nvidia"].map(PathBuf::from);
        let places = (&dirs[..], Path::new("lib64"));
        hides_the_driver(&root, &env, "libcuda.so.1", places, || true)
    }

    /// The file for this processor.
    fn own(mut file: Vec<u8>) -> Vec<u8> {
        if cfg!(target_arch = "aarch64") {
            file[18] = 183;
        }
        file
    }

    /// The hiding library, and the driver directories with which it does not hide.
    fn hides(files: &[&str], library_path: &str) -> Option<(String, Vec<String>)> {
        match search(files, library_path) {
            Search::Nothing => None,
            Search::Hidden(hiding) => Some((
                hiding.libcuda.path.display().to_string(),
                hiding.unless.iter().map(|p| p.display().to_string()).collect(),
            )),
            Search::Unfinished => panic!("{library_path}"),
        }
    }

    fn at(path: &str, unless: &[&str]) -> (String, Vec<String>) {
        let unless = unless.iter().map(|&dir| dir.to_owned()).collect();
        (path.to_owned(), unless)
    }

    /// nvoci covers no file of an image, so the driver directory is elsewhere then.
    #[test]
    fn a_library_at_the_usual_place_hides_the_driver_elsewhere() {
        let baked = ["usr/local/nvidia/lib64/libcuda.so.1"];
        let unless = ["/usr/local/nvidia"];
        let found = Some(at("/usr/local/nvidia/lib64/libcuda.so.1", &unless));
        assert_eq!(hides(&baked, OURS), found);
        assert_eq!(
            hides(&baked, "/usr/local/nvidia/lib:/usr/local/nvidia/lib64"),
            found
        );
        assert_eq!(hides(&baked, "/usr/local/nvidia/lib"), None);
        let both = "/opt/nvidia/lib64:/usr/local/nvidia/lib64";
        let two = Some(at(
            "/usr/local/nvidia/lib64/libcuda.so.1",
            &["/usr/local/nvidia", "/opt/nvidia"],
        ));
        assert_eq!(hides(&baked, both), two);
    }

    #[test]
    fn only_the_drivers_own_library_directory_comes_before_another() {
        let env = ["data/lib/libcuda.so.1"];
        let (there, ours) = ("/data/lib/libcuda.so.1", ["/usr/local/nvidia"]);
        for before in [
            "/usr/local/nvidia/lib:",
            "/usr/local/nvidia:",
            "/usr/local/nvidia/lib64x:",
            "/usr/local/nvidia-old/lib64:",
            "/usr/local/nvidia/../lib64:",
            "/usr/local/nvidia/lib64/stubs:",
            "/data/none/../../usr/local/nvidia/lib64:",
            "/opt/other;",
            "",
        ] {
            let path = format!("{before}/data/lib:{OURS}");
            assert_eq!(hides(&env, &path), Some(at(there, &[])), "{before}");
        }
        for before in [
            OURS,
            "/usr/local/nvidia/lib64/",
            "//usr/local/./nvidia//lib64",
            "/usr/local/nvidia/lib/../lib64",
            "../usr/local/nvidia/lib64",
        ] {
            let path = format!("{before}:/data/lib");
            assert_eq!(hides(&env, &path), Some(at(there, &ours)), "{before}");
        }
        for path in [
            "/usr/local/nvidia/../../../data/lib",
            "/usr/local/nvidia/lib64/../../../../data/lib",
            "../data/lib",
        ] {
            assert_eq!(hides(&env, path), Some(at(there, &[])), "{path}");
        }
    }

    #[test]
    fn every_place_in_which_the_loader_searches() {
        let level = hwcaps();
        if let Some(level) = level.last() {
            let file = format!("data/lib/glibc-hwcaps/{level}/libcuda.so.1");
            assert_eq!(hides(&[&file], "/data/lib"), Some(at(&format!("/{file}"), &[])));
        }
        let unknown = ["data/lib/glibc-hwcaps/x86-64-v9/libcuda.so.1"];
        assert_eq!(hides(&unknown, "/data/lib"), None);
        let work = ["work/libcuda.so.1"];
        for path in [":", "/none:", ".", "../work"] {
            assert!(hides(&work, path).is_some(), "{path}");
        }
        assert_eq!(hides(&work, ""), None);
    }

    #[test]
    fn the_loader_skips_another_machines_library_and_stops_at_a_broken_one() {
        let both = ["a/libcuda.so.32", "b/libcuda.so.1"];
        assert_eq!(hides(&both, "/a:/b"), Some(at("/b/libcuda.so.1", &[])));
        let Search::Hidden(hiding) = search(&["a/libcuda.so.broken", "b/libcuda.so.1"], "/a:/b") else {
            panic!("nothing was found");
        };
        assert_eq!((hiding.libcuda.kind, hiding.entry.as_str()), (Kind::Broken, "/a"));
    }

    /// Otherwise an image could pad the variable until the check gives up.
    #[test]
    fn a_search_that_does_not_end_is_no_answer() {
        let padded = format!("{}/data/lib", "/none:".repeat(20));
        assert_eq!(search(&["data/lib/libcuda.so.1"], &padded), Search::Unfinished);
        let padded = format!("{}/data/lib", "/none:".repeat(3));
        assert!(matches!(
            search(&["data/lib/libcuda.so.1"], &padded),
            Search::Hidden(_)
        ));
    }

    #[test]
    fn the_hosts_own_driver_is_known_by_its_version() {
        let of = |version: Option<&str>| Libcuda {
            path: PathBuf::new(),
            kind: Kind::Driver,
            version: version.map(str::to_owned),
            note: None,
        };
        let host = "550.163.01".parse().ok();
        assert!(of(Some("550.163.01")).is_of(host));
        for other in [Some("535.261.03"), Some("x"), None] {
            assert!(!of(other).is_of(host) && !of(other).is_of(None), "{other:?}");
        }
    }

    #[test]
    fn a_version_in_a_name() {
        for (path, version) in [
            ("/x/libcuda.so.535.104.05", Some("535.104.05")),
            ("/x/libcuda.so.1", None),
        ] {
            assert_eq!(version_in_name(Path::new(path)), version, "{path}");
        }
    }
}
