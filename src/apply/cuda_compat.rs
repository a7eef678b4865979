//! Whether an image's CUDA forward-compatibility libraries are to be used with this host's driver.
//!
//! Facts: the library `libcuda.so.<version>` of a `cuda-compat` package has an ELF note with the driver branches that it
//! works on; its rules are those of `nvidia-cdi-hook enable-cuda-compat` 1.20.

use core::cmp::Ordering;
use std::path::{Path, PathBuf};

use super::container::Container;
use crate::ldso::note;
use crate::sys::root::Node;

/// Where the packages put it.
pub const DEFAULT_DIR: &str = "/usr/local/cuda/compat";

const SECTION: &str = ".note.cuda.fwd_compatibility";
const OWNER: &str = "NVIDIA Corporation";

/// Entries of the directory that are looked at.
const MAX_ENTRIES: usize = 4096;

/// What the host has; either may be unknown.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostDriver<'a> {
    /// `580.159.04`
    pub driver: Option<&'a str>,
    /// `13.0`
    pub cuda: Option<&'a str>,
}

/// The directory of compatibility libraries that `container` should use before the driver's own, with all links
/// resolved; `None` where there is none or the host's driver is as good.
pub fn find(container: &Container, at: &Path, host: HostDriver<'_>) -> Option<PathBuf> {
    let root = container.root();
    let dir = root.resolve(at).ok().filter(Node::is_dir)?;
    let mut versions = Vec::new();
    for entry in dir.read_dir(MAX_ENTRIES).ok()? {
        let name = entry.name.to_str().unwrap_or_default();
        let version = name.strip_prefix("libcuda.so.").filter(|v| v.contains('.'));
        if let Some(version) = version.filter(|_| dir.child(&entry.name).is_ok_and(|n| n.is_file())) {
            versions.push(version.to_owned());
        }
    }
    // Of several nobody can say which is meant.
    let [version] = versions.as_slice() else {
        return None;
    };
    let file = dir
        .child(format!("libcuda.so.{version}"))
        .ok()?
        .open_read()
        .ok()?;
    let note = note::find(&file, SECTION, OWNER).and_then(|bytes| Note::parse(&bytes));
    if !wanted(version, note.as_ref(), host) {
        return None;
    }
    let base = root.path().ok()?;
    let resolved = dir.path().ok()?;
    Some(Path::new("/").join(resolved.strip_prefix(base).ok()?))
}

/// What the note says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Note {
    cuda: Option<String>,
    branches: Vec<u64>,
}

impl Note {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1);
        let value: serde_json::Value = serde_json::from_slice(&bytes[..end]).ok()?;
        let map = value.as_object()?;
        // Versions of it differ in the case of their keys.
        let get = |key: &str| {
            map.iter()
                .find(|(k, _)| k.eq_ignore_ascii_case(key))
                .map(|(_, v)| v)
        };
        let branches = get("driver").and_then(|v| v.as_array()).into_iter().flatten();
        Some(Self {
            cuda: get("cuda version").and_then(|v| v.as_str()).map(str::to_owned),
            branches: branches.filter_map(serde_json::Value::as_u64).collect(),
        })
    }
}

fn wanted(compat: &str, note: Option<&Note>, host: HostDriver<'_>) -> bool {
    let newer = |a: &str, b: &str| matches!(compare(a, b), Some(Ordering::Greater));
    let driver = host
        .driver
        .filter(|d| numbers(d).is_some() && numbers(compat).is_some());
    match (note, driver, host.cuda) {
        (Some(note), Some(driver), _) => {
            let major = numbers(driver).map_or(0, |n| n[0]);
            note.branches.contains(&major) && newer(compat, driver)
        }
        (Some(note), None, Some(cuda)) => note.cuda.as_deref().is_some_and(|c| newer(c, cuda)),
        (None, Some(driver), None) => {
            let major = |v: &str| numbers(v).map(|n| n[0]);
            major(compat) > major(driver)
        }
        _ => false,
    }
}

fn compare(a: &str, b: &str) -> Option<Ordering> {
    let (mut a, mut b) = (numbers(a)?, numbers(b)?);
    let len = a.len().max(b.len());
    a.resize(len, 0);
    b.resize(len, 0);
    Some(a.cmp(&b))
}

/// The parts of a version; leading zeros do not count. Never empty.
fn numbers(version: &str) -> Option<Vec<u64>> {
    version.split('.').map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note() -> Note {
        Note::parse(br#"{"format":1,"CUDA version":"12.9","driver":[535,550,560,565,570,575],"device":[1]}"#)
            .unwrap()
    }

    fn by_driver(host: &str, note: Option<&Note>) -> bool {
        wanted(
            "575.57.08",
            note,
            HostDriver {
                driver: Some(host),
                cuda: None,
            },
        )
    }

    #[test]
    fn the_note_decides() {
        for yes in ["535.104.05", "550.54.15", "570.86.10", "575.51.03"] {
            assert!(by_driver(yes, Some(&note())), "{yes}");
        }
        for no in ["575.57.08", "580.65.06", "525.1", "", "x"] {
            assert!(!by_driver(no, Some(&note())), "{no}");
        }
        let by_cuda = |cuda| {
            wanted(
                "575.57.08",
                Some(&note()),
                HostDriver {
                    driver: None,
                    cuda: Some(cuda),
                },
            )
        };
        assert!(by_cuda("11.8") && by_cuda("12.8"));
        assert!(!by_cuda("12.9") && !by_cuda("12.10") && !by_cuda("13.0"));
    }

    #[test]
    fn without_a_note_only_a_newer_branch_is_wanted() {
        assert!(by_driver("570.1", None));
        assert!(!by_driver("575.1", None) && !by_driver("580.1", None));
        let host = HostDriver {
            driver: Some("1.0"),
            cuda: Some("1.0"),
        };
        assert!(!wanted("575.57.08", None, host));
        assert_eq!(Note::parse(b"{"), None);
        assert_eq!(Note::parse(b"{\"driver\":7}\0\0"), Some(Note::default()));
    }
}
