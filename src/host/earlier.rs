//! The driver's files as an earlier start found them.
//!
//! On an ordinary host the search takes some hundred lookups, nearly all of names that do not
//! exist. Its result depends on directories that root alone can change, so it is kept with a record
//! of them ([`Recorded`]) and used as long as the record holds. The files themselves are still
//! proved when they are bound. Sockets, directories of daemons and device nodes are not kept.
//!
//! No result is kept that has warnings, or that depends on a path that was not proved.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::files::Firmware;
use super::{DriverFile, Host, Locations, Roots};
use crate::compat::Version;
use crate::sys::source::{Recorded, Stamp};

/// The most bytes of a record that are read; one has about 200 for each file.
pub const MAX_SIZE: u64 = 1 << 20;

/// An earlier start's result, and this one's.
#[derive(Debug, Default)]
pub struct Earlier {
    /// The files that the request can use; `None` if no result is used or kept.
    selection: Option<String>,
    record: Option<Vec<u8>>,
    new: Option<Vec<u8>>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Record {
    key: String,
    proofs: Recorded,
    /// The loader cache's file.
    cache: Stamp,
    version: String,
    files: Vec<DriverFile>,
}

impl Earlier {
    /// `record` has the bytes that [`Self::to_keep`] returned for the same `selection`, from a file
    /// that root alone can have written.
    pub fn of(selection: String, record: Option<Vec<u8>>) -> Self {
        Self {
            selection: Some(selection),
            record,
            new: None,
        }
    }

    /// The bytes of a new record, if there is one.
    pub fn to_keep(&self) -> Option<&[u8]> {
        self.new.as_deref()
    }

    /// Everything but the files' directories that a search depends on; `None` if its result is not
    /// kept.
    pub(super) fn key(&self, host: &Host, loc: &Locations, firmware: &Firmware) -> Option<String> {
        let selection = self.selection.as_ref()?;
        let kernel = host.kernel.as_ref()?.version;
        let Locations {
            driver_root,
            library_dirs,
            ldcache,
            csv: None,
            ..
        } = loc
        else {
            return None;
        };
        // A build with the same version may search for other files.
        let program = rustix::fs::stat("/proc/self/exe")
            .ok()
            .map(|stat| Stamp::of(&stat))?;
        let nvoci = (env!("CARGO_PKG_VERSION"), program);
        Some(format!(
            "{:?}",
            (
                nvoci,
                kernel,
                selection,
                driver_root,
                library_dirs,
                ldcache,
                firmware
            )
        ))
    }

    /// The earlier result, if it still holds.
    pub(super) fn restore(
        &self,
        key: &str,
        roots: &Roots,
        loc: &Locations,
    ) -> Option<(Version, Vec<DriverFile>)> {
        let (record, rest): (Record, &[u8]) = postcard::take_from_bytes(self.record.as_deref()?).ok()?;
        if record.key != key || !rest.is_empty() {
            return None;
        }
        let version = record.version.parse().ok()?;
        let cache = roots.driver.resolve(&loc.ldcache).ok()?;
        let holds = Stamp::of(cache.stat()) == record.cache && roots.walk().restore(record.proofs);
        holds.then_some((version, record.files))
    }

    /// Keeps the libraries and files of `host`, whose search read the loader cache `cache`.
    pub(super) fn keep(&mut self, key: String, roots: &Roots, cache: Stamp, host: &Host) {
        self.new = record(key, roots, cache, host);
    }
}

fn record(key: String, roots: &Roots, cache: Stamp, host: &Host) -> Option<Vec<u8>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let now = i64::try_from(now.as_secs()).ok()?;
    // The content of the others is a part of the result.
    let as_they_are = host.files.iter().filter(|file| file.text.is_none());
    let bound: HashSet<&OsStr> = as_they_are.map(|file| file.path.as_os_str()).collect();
    let is_bound = |path: &Path| bound.contains(path.as_os_str());
    let record = Record {
        key,
        proofs: roots.walk().record(now, is_bound)?,
        cache: Some(cache).filter(|cache| cache.lasts(now))?,
        version: host.user_version?.to_string(),
        files: host.files.clone(),
    };
    postcard::to_extend(&record, Vec::new()).ok()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::super::Parts;
    use super::super::kept::Kept;
    use super::super::testhost::{TestHost, elf};
    use super::*;

    const SMI: &str = "usr/bin/nvidia-smi";
    const LIB: &str = "usr/lib/x86_64-linux-gnu";
    const ICD: &str = "usr/share/vulkan/icd.d/nvidia_icd.json";

    fn host() -> TestHost {
        let host = TestHost::bare();
        host.module("550.54.15", 1);
        let libraries = [("libcuda", "libcuda.so.1"), ("libnvidia-ml", "libnvidia-ml.so.1")];
        host.driver(LIB, "550.54.15", &libraries);
        let paths = libraries.map(|(_, soname)| (soname, format!("/{LIB}/{soname}")));
        let entries: Vec<(&str, &str)> = paths.iter().map(|(name, path)| (*name, &**path)).collect();
        host.cache(&entries);
        host.library(SMI, None, 64);
        host.file("usr/lib/firmware/nvidia/550.54.15/gsp_ga10x.bin", "x");
        host.link("lib", "usr/lib");
        host.file(ICD, r#"{"ICD": {"library_path": "libGLX_nvidia.so.0"}}"#);
        host
    }

    /// Discovers the host, and returns a new record too.
    fn find(test: &TestHost, record: Option<&[u8]>) -> (Host, Option<Vec<u8>>) {
        let (roots, loc) = (test.roots(), test.locations());
        let mut earlier = Earlier::of("test".to_owned(), record.map(<[u8]>::to_vec));
        let host = Host::begin(&roots, &mut Kept::default())
            .finish(&roots, &loc, Parts::All, &|_| true, &mut earlier)
            .unwrap();
        (host, earlier.to_keep().map(<[u8]>::to_vec))
    }

    /// An in-place or other change of a host, and whether a record notices it.
    type Change = (&'static str, bool, fn(&Path));

    const CHANGES: &[Change] = &[
        ("nothing", false, |_| {}),
        ("an unrelated file", false, |at| {
            fs::write(at.join("etc/x/y"), "").unwrap();
        }),
        ("a program", true, |at| {
            fs::write(at.join("usr/bin/nvidia-imex"), elf("", 64)).unwrap();
        }),
        ("no program", true, |at| fs::remove_file(at.join(SMI)).unwrap()),
        ("a link's target", true, |at| {
            let link = at.join(LIB).join("libcuda.so.1");
            fs::remove_file(&link).unwrap();
            symlink("/usr/bin/nvidia-smi", link).unwrap();
        }),
        ("a directory's mode", true, |at| {
            fs::set_permissions(at.join(LIB), Permissions::from_mode(0o777)).unwrap();
        }),
        ("a manifest's text", true, |at| {
            fs::write(at.join(ICD), r#"{"ICD": {}}"#).unwrap();
        }),
        ("a manifest", true, |at| {
            fs::create_dir_all(at.join("etc/vulkan/icd.d")).unwrap();
            fs::write(at.join("etc/vulkan/icd.d/nvidia_icd.json"), "{}").unwrap();
        }),
        ("firmware", true, |at| {
            fs::write(at.join("usr/lib/firmware/nvidia/550.54.15/gsp_tu10x.bin"), "x").unwrap();
        }),
        ("newer firmware", true, |at| {
            fs::create_dir_all(at.join("usr/lib/firmware/updates/nvidia/550.54.15")).unwrap();
            fs::write(
                at.join("usr/lib/firmware/updates/nvidia/550.54.15/gsp_x.bin"),
                "x",
            )
            .unwrap();
        }),
        ("the loader cache", true, |at| {
            let cache = at.join("etc/ld.so.cache");
            let bytes = fs::read(&cache).unwrap();
            fs::write(cache, bytes).unwrap();
        }),
        ("the module's version", true, |at| {
            let version = at.join("proc/driver/nvidia/version");
            let text = fs::read_to_string(&version).unwrap();
            fs::write(version, text.replace("550.54.15", "550.54.16")).unwrap();
        }),
    ];

    #[test]
    fn a_record_holds_until_something_changes() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let hosts: Vec<TestHost> = CHANGES.iter().map(|_| host()).collect();
        for host in &hosts {
            fs::create_dir(host.path().join("etc/x")).unwrap();
        }
        let young = find(&hosts[0], None).1;
        assert_eq!(young, None, "the next change may have the same time");
        std::thread::sleep(std::time::Duration::from_secs(4));
        for (test, (what, is_noticed, change)) in hosts.iter().zip(CHANGES) {
            let (before, record) = find(test, None);
            let record = record.unwrap_or_else(|| panic!("{what}: {before:?}"));
            assert_eq!(find(test, Some(&record)), (before, None), "{what}");
            change(test.path());
            let (restored, new) = find(test, Some(&record));
            assert_eq!(restored, find(test, None).0, "{what}");
            // The change is too young for a new record.
            assert_eq!(new, None, "{what}");
            let holds = |test: &TestHost| {
                let (roots, loc) = (test.roots(), test.locations());
                let firmware = Firmware::of(&roots, Parts::All);
                let host = Host::begin(&roots, &mut Kept::default());
                let earlier = Earlier::of("test".to_owned(), Some(record.clone()));
                let key = earlier.key(&host, &loc, &firmware).unwrap();
                earlier.restore(&key, &roots, &loc).is_some()
            };
            assert_eq!(holds(test), !is_noticed, "{what}");
            for cut in [0, 1, record.len() / 2, record.len() - 1] {
                assert_eq!(find(test, Some(&record[..cut])).0, restored, "{what}");
            }
        }
    }
}
