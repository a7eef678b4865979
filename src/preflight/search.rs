//! Places of an image's `LD_LIBRARY_PATH` as they will be once the container has the driver.
//!
//! The check may run before nvoci attaches the driver directory, when its place among the
//! candidates is not decided. So it follows a path through directories that only exist then: with
//! `/usr/local/nvidia` still missing, `/usr/local/nvidia/../lib` is `/usr/local/lib`. The result
//! names the candidates on which it depends.

use std::cell::OnceCell;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use crate::sys::root::Root;

/// The most lookups for one path.
const MAX_LOOKUPS: usize = 64;

/// An image, and the directories that nvoci may make in it.
#[derive(Debug)]
pub(super) struct Places<'a> {
    root: &'a Root,
    /// The kernel's path of the root.
    top: PathBuf,
    candidates: &'a [PathBuf],
    /// The candidates with their places, once a path needs them.
    dirs: OnceCell<Vec<(&'a Path, PathBuf)>>,
}

/// A path takes too many lookups.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct TooLong;

impl<'a> Places<'a> {
    /// The places of `root` with the driver at one of `candidates`.
    pub(super) fn new(root: &'a Root, candidates: &'a [PathBuf]) -> Option<Self> {
        Some(Self {
            root,
            top: root.path().ok()?,
            candidates,
            dirs: OnceCell::new(),
        })
    }

    fn dirs(&self) -> &[(&'a Path, PathBuf)] {
        self.dirs.get_or_init(|| {
            let place = |dir: &Path| self.walk(dir, |_| false).ok().flatten();
            let dirs = self.candidates.iter().map(PathBuf::as_path);
            dirs.filter_map(|dir| Some((dir, place(dir)?))).collect()
        })
    }

    /// The candidates whose directory `below` is one of `places`, results of [`Self::located`].
    pub(super) fn with(&self, below: &Path, places: &[PathBuf]) -> Vec<PathBuf> {
        let same = |real: &Path, place: &Path| place.strip_prefix(real).is_ok_and(|rest| rest == below);
        let found = self
            .dirs()
            .iter()
            .filter(|(_, real)| places.iter().any(|place| same(real, place)));
        found.map(|(dir, _)| (*dir).to_owned()).collect()
    }

    /// The path in the image to which the absolute `path` leads, with its links followed; its end
    /// may be missing. `None` if no container has it.
    ///
    /// # Errors
    /// [`TooLong`].
    pub(super) fn located(&self, path: &Path) -> Result<Option<PathBuf>, TooLong> {
        self.walk(path, |place| {
            let mut dirs = self.dirs().iter();
            dirs.any(|(_, dir)| dir.starts_with(place) || place.starts_with(dir))
        })
    }

    /// `made` is whether nvoci may make the missing directory at a place.
    fn walk(&self, path: &Path, made: impl Fn(&Path) -> bool) -> Result<Option<PathBuf>, TooLong> {
        let mut path = path.to_owned();
        // The components behind `path`, the last first. None of them is resolved yet.
        let mut missing: Vec<OsString> = Vec::new();
        for _ in 0..MAX_LOOKUPS {
            if let Ok(node) = self.root.resolve(&path) {
                let real = node.path().ok();
                let Some(Ok(real)) = real.as_ref().map(|real| real.strip_prefix(&self.top)) else {
                    return Ok(None);
                };
                match follow(Path::new("/").join(real), missing, &made) {
                    Followed::To(place) => return Ok(Some(place)),
                    Followed::Nowhere => return Ok(None),
                    Followed::Again(next) => {
                        path = next;
                        missing = Vec::new();
                    }
                }
                continue;
            }
            let link = self
                .root
                .resolve_nofollow(&path)
                .and_then(|node| node.read_link());
            let Some(parent) = path.parent() else {
                return Ok(None);
            };
            path = match (link, path.components().next_back()) {
                // Its target is missing, at least now.
                (Ok(target), _) => parent.join(target),
                (Err(_), Some(Component::ParentDir)) => {
                    missing.push("..".into());
                    parent.to_owned()
                }
                (Err(_), Some(Component::Normal(name))) => {
                    missing.push(name.to_owned());
                    parent.to_owned()
                }
                (Err(_), _) => return Ok(None),
            };
        }
        Err(TooLong)
    }
}

/// Follows the `missing` components, the last first, from `place` up to the first `..`.
fn follow(mut place: PathBuf, missing: Vec<OsString>, made: impl Fn(&Path) -> bool) -> Followed {
    let mut rest = missing.into_iter().rev();
    while let Some(name) = rest.next() {
        if name != ".." {
            place.push(name);
            continue;
        }
        if !made(&place) {
            return Followed::Nowhere;
        }
        place.pop();
        place.extend(rest);
        return Followed::Again(place);
    }
    Followed::To(place)
}

/// The end of missing components.
enum Followed {
    /// At this path.
    To(PathBuf),
    /// A directory is missing and nvoci does not make it.
    Nowhere,
    /// The walk continues at this path.
    Again(PathBuf),
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_path_leads_to_its_place_with_the_driver() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        std::fs::create_dir_all(at("usr/local")).unwrap();
        std::fs::create_dir_all(at("data/lib")).unwrap();
        symlink("/usr/local", at("here")).unwrap();
        symlink("/usr/local/nvidia/lib64", at("driver")).unwrap();
        symlink("loop", at("loop")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let dirs = ["/usr/local/nvidia", "/opt/nvidia"].map(PathBuf::from);
        let places = Places::new(&root, &dirs).unwrap();
        for (path, place) in [
            ("/data/lib", Some("/data/lib")),
            ("//data/./lib/", Some("/data/lib")),
            ("/data/lib/../../../data/lib", Some("/data/lib")),
            ("/data/missing", Some("/data/missing")),
            ("/data/missing/../lib", None),
            ("/usr/local/nvidia/lib64", Some("/usr/local/nvidia/lib64")),
            ("/here/nvidia//lib64/", Some("/usr/local/nvidia/lib64")),
            ("/driver", Some("/usr/local/nvidia/lib64")),
            ("/driver/../../../../data/lib", Some("/data/lib")),
            ("/usr/local/nvidia/../../../../data/lib", Some("/data/lib")),
            ("/opt/../data/lib", Some("/data/lib")),
            ("/opt/nvidia/lib/../lib64", Some("/opt/nvidia/lib64")),
            ("/opt/other/../nvidia/lib64", None),
            ("/..", Some("/")),
        ] {
            let found = places.located(Path::new(path));
            assert_eq!(found, Ok(place.map(PathBuf::from)), "{path}");
        }
        // Otherwise an image could hide a directory behind a detour.
        let detour = format!("/usr/local/nvidia{}/../../../data/lib", "/../nvidia".repeat(40));
        for path in [&detour, "/loop"] {
            assert_eq!(places.located(Path::new(path)), Err(TooLong), "{path}");
        }
        let with = |all: &[&str]| {
            let all: Vec<PathBuf> = all.iter().map(PathBuf::from).collect();
            places.with(Path::new("lib64"), &all)
        };
        let (first, second) = ("/usr/local/nvidia/lib64", "/opt/nvidia/lib64");
        assert_eq!(with(&[first]), [Path::new("/usr/local/nvidia")]);
        assert_eq!(with(&[second, first, second]), dirs);
        let others = [
            "/usr/local/nvidia",
            "/usr/local/nvidia/lib",
            "/opt/nvidia/lib64/x",
            "/lib64",
        ];
        assert!(with(&others).is_empty());
    }
}
