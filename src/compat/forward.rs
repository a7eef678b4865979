//! CUDA's forward compatibility: a newer libcuda in the image, on an older driver of the host.
//!
//! The library `libcuda.so.<version>` of a `cuda-compat` package has an ELF note with the driver
//! branches that it supports. The rules are those of `nvidia-cdi-hook enable-cuda-compat` 1.20. For
//! packages without a note, `data/forward.tsv` has NVIDIA's declarations.

use super::table::rows;
use super::{Class, Cuda, Version};

/// The section of the note.
pub const SECTION: &str = ".note.cuda.fwd_compatibility";
/// The owner of the note.
pub const OWNER: &str = "NVIDIA Corporation";
/// The packages' directory for libraries.
pub const DEFAULT_DIR: &str = "/usr/local/cuda/compat";

const FORWARD: &str = include_str!("data/forward.tsv");

/// The library of a compatibility package.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Package {
    /// The version of its driver: of `libcuda.so.575.57.08`.
    pub version: Version,
    /// The content of its note.
    pub note: Option<Note>,
}

/// The content of a package's note.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Note {
    /// The CUDA version of the library.
    pub cuda: Option<Cuda>,
    /// The supported branches of the host's driver.
    pub branches: Vec<u32>,
    /// The supported brands of GPUs (numbers of NVML), as far as the note can be interpreted.
    pub brands: Vec<u32>,
}

impl Note {
    /// Parses the note's descriptor: JSON, possibly with NUL bytes after it.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1);
        let value: serde_json::Value = serde_json::from_slice(&bytes[..end]).ok()?;
        let map = value.as_object()?;
        // The case of the keys differs between versions.
        let get = |key: &str| {
            map.iter()
                .find(|(k, _)| k.eq_ignore_ascii_case(key))
                .map(|(_, v)| v)
        };
        let numbers = |key: &str| {
            let list = get(key).and_then(|v| v.as_array()).into_iter().flatten();
            list.filter_map(|n| n.as_u64().and_then(|n| u32::try_from(n).ok()))
                .collect()
        };
        Some(Self {
            cuda: get("cuda version")
                .and_then(|v| v.as_str())
                .and_then(|v| v.parse().ok()),
            branches: numbers("driver"),
            brands: numbers("device"),
        })
    }
}

/// The host's driver; either version may be unknown.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostDriver {
    /// `580.159.04`
    pub driver: Option<Version>,
    /// `13.0`
    pub cuda: Option<Cuda>,
}

/// Whether the package should replace the host's own libcuda.
pub fn wanted(package: &Package, host: HostDriver) -> bool {
    match (&package.note, host.driver, host.cuda) {
        (Some(note), Some(driver), _) => note.branches.contains(&driver.major()) && package.version > driver,
        (Some(note), None, Some(cuda)) => note.cuda.is_some_and(|c| c > cuda),
        (None, Some(driver), None) => package.version.major() > driver.major(),
        _ => false,
    }
}

/// Whether NVIDIA declares the package of branch `package` for hosts of branch `host`; `None` if
/// that is unknown.
pub fn declared(package: u32, host: u32) -> Option<bool> {
    let [_, _, hosts, _] = rows(FORWARD).find(|[_, from, ..]: &[_; 4]| from.parse() == Ok(package))?;
    if hosts.split(' ').any(|h| h.parse() == Ok(host)) {
        return Some(true);
    }
    // A list ending in `+` is incomplete, so a missing host is unknown.
    (!hosts.ends_with('+')).then_some(false)
}

/// Whether the package's CUDA works on this host; `None` if the tables do not cover it.
pub fn works(package: &Package, driver: Version, class: Option<Class>) -> Option<bool> {
    let host = HostDriver {
        driver: Some(driver),
        cuda: None,
    };
    if !wanted(package, host) || class.is_some_and(|c| !c.allows_forward()) {
        return Some(false);
    }
    if package.note.is_none() {
        match declared(package.version.major(), driver.major()) {
            Some(true) => {}
            other => return other,
        }
    }
    class.map(|_| true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compat::table::check;

    fn package(note: Option<Note>) -> Package {
        Package {
            version: "575.57.08".parse().unwrap(),
            note,
        }
    }

    fn note() -> Note {
        Note::parse(br#"{"format":1,"CUDA version":"12.9","driver":[535,550,560,565,570,575],"device":[1]}"#)
            .unwrap()
    }

    fn by_driver(host: &str, note: Option<Note>) -> bool {
        let driver = host.parse().ok();
        wanted(&package(note), HostDriver { driver, cuda: None })
    }

    #[test]
    fn every_row_is_understood() {
        check(FORWARD, |[cuda, from, hosts, _]: [_; 4]| {
            cuda.parse::<Cuda>().ok()?;
            from.parse::<u32>().ok()?;
            let branches = hosts.strip_suffix(" +").unwrap_or(hosts);
            branches
                .split(' ')
                .try_for_each(|h| h.parse::<u32>().map(|_| ()))
                .ok()
        });
    }

    #[test]
    fn the_note_decides() {
        for yes in ["535.104.05", "550.54.15", "570.86.10", "575.51.03"] {
            assert!(by_driver(yes, Some(note())), "{yes}");
        }
        for no in ["575.57.08", "580.65.06", "525.1", "", "x"] {
            assert!(!by_driver(no, Some(note())), "{no}");
        }
        let by_cuda = |cuda: &str| {
            let cuda = cuda.parse().ok();
            wanted(&package(Some(note())), HostDriver { driver: None, cuda })
        };
        assert!(by_cuda("11.8") && by_cuda("12.8"));
        assert!(!by_cuda("12.9") && !by_cuda("12.10") && !by_cuda("13.0"));
    }

    #[test]
    fn without_a_note_only_a_newer_branch_is_wanted() {
        assert!(by_driver("570.1", None));
        assert!(!by_driver("575.1", None) && !by_driver("580.1", None));
        let host = HostDriver {
            driver: "1.0".parse().ok(),
            cuda: "1.0".parse().ok(),
        };
        assert!(!wanted(&package(None), host));
        assert_eq!(Note::parse(b"{"), None);
        assert_eq!(Note::parse(b"{\"driver\":7}\0\0"), Some(Note::default()));
    }

    #[test]
    fn declarations_of_packages() {
        assert_eq!(declared(520, 470), Some(true));
        assert_eq!(declared(520, 418), Some(false));
        assert_eq!(declared(570, 535), Some(true));
        assert_eq!(declared(570, 550), None);
        assert_eq!(declared(999, 550), None);
    }

    #[test]
    fn it_is_not_for_geforce() {
        let v = |text: &str| text.parse().unwrap();
        let noted = package(Some(note()));
        assert_eq!(works(&noted, v("535.1"), Some(Class::DataCentre)), Some(true));
        assert_eq!(works(&noted, v("535.1"), Some(Class::GeForce)), Some(false));
        assert_eq!(works(&noted, v("535.1"), None), None);
        assert_eq!(works(&noted, v("525.1"), Some(Class::DataCentre)), Some(false));
    }
}
