//! Reads installed packages from the package managers' own files. Executes no program.
//!
//! | manager | file | form |
//! |---|---|---|
//! | dpkg | `/var/lib/dpkg/status` | paragraphs of `Key: value` (deb-control(5)) |
//! | apk | `/lib/apk/db/installed` | paragraphs of `P:name`, `V:version` (apk-package(5)) |
//! | pacman | `/var/lib/pacman/local/` | a directory `name-version-release` each |
//! | rpm | a database | not read |

use crate::sys::root::Root;

const MAX_STATUS: u64 = 64 << 20;
const MAX_DIRS: usize = 65_536;

/// The packages that are kept: these, and all with `nvidia` in their names.
const NAMES: &[&str] = &[
    "containerd",
    "containerd.io",
    "cri-o",
    "crio",
    "crun",
    "docker-ce",
    "docker.io",
    "libcuda1",
    "podman",
    "runc",
    "youki",
];

/// A package and its version, as the package manager writes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
}

impl Package {
    /// The upstream part of the version: without epoch and the distribution's revision.
    pub(super) fn upstream(&self) -> &str {
        let version = self.version.split_once(':').map_or(&*self.version, |(_, v)| v);
        let end = version
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(version.len());
        version[..end].trim_end_matches('.')
    }

    /// Whether a distribution built it, and so may have added fixes to an old version.
    pub(super) fn patched_by_distribution(&self) -> bool {
        const MARKS: [&str; 7] = ["deb", "ubuntu", "+ds", ".el", ".fc", "-r", "dfsg"];
        MARKS.iter().any(|mark| self.version.contains(mark))
    }
}

/// The kept packages.
#[derive(Debug, Default)]
pub(super) struct Packages {
    all: Vec<Package>,
    unread: Option<&'static str>,
}

impl Packages {
    pub(super) fn read(system: &Root) -> Self {
        if let Ok(bytes) = system.read("var/lib/dpkg/status", MAX_STATUS) {
            return Self::of(paragraphs(&bytes, b"Package: ", b"Version: "));
        }
        if let Ok(bytes) = system.read("lib/apk/db/installed", MAX_STATUS) {
            return Self::of(paragraphs(&bytes, b"P:", b"V:"));
        }
        if let Ok(dirs) = system.read_dir("var/lib/pacman/local", MAX_DIRS) {
            return Self::of(dirs.iter().filter_map(|d| pacman(d.name.to_str()?)).collect());
        }
        let rpm = ["var/lib/rpm", "usr/lib/sysimage/rpm"]
            .iter()
            .any(|d| system.exists(d));
        Self {
            all: Vec::new(),
            unread: Some(if rpm {
                "rpm's database is not read here: compare `rpm -q runc crun containerd nvidia-container-toolkit` with docs/doctor.md yourself"
            } else {
                "no known package database: versions of runtimes and toolkits were not compared"
            }),
        }
    }

    fn of(all: Vec<Package>) -> Self {
        Self { all, unread: None }
    }

    /// Why no package was read, if none was.
    pub(super) fn unread(&self) -> Option<&'static str> {
        self.unread
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Package> {
        self.all.iter()
    }
}

fn wanted(name: &[u8]) -> bool {
    NAMES.iter().any(|n| n.as_bytes() == name) || name.windows(6).any(|w| w == b"nvidia")
}

fn paragraphs(bytes: &[u8], name_key: &[u8], version_key: &[u8]) -> Vec<Package> {
    let text = |b: &[u8]| String::from_utf8_lossy(b).trim().to_owned();
    let mut found = Vec::new();
    let (mut name, mut version, mut installed): (Option<&[u8]>, Option<&[u8]>, bool) = (None, None, true);
    for line in bytes.split(|b| *b == b'\n').chain([&b""[..]]) {
        if line.is_empty() {
            if let (Some(name), Some(version), true) = (name, version, installed) {
                found.push(Package {
                    name: text(name),
                    version: text(version),
                });
            }
            (name, version, installed) = (None, None, true);
        } else if let Some(value) = line.strip_prefix(name_key) {
            name = wanted(value).then_some(value);
        } else if name.is_some() {
            if let Some(value) = line.strip_prefix(version_key) {
                version = Some(value);
            } else if let Some(value) = line.strip_prefix(b"Status: ") {
                installed = value.ends_with(b" installed");
            }
        }
    }
    found
}

/// `runc-1.3.0-1` is runc in version 1.3.0-1.
fn pacman(dir: &str) -> Option<Package> {
    let (rest, release) = dir.rsplit_once('-')?;
    let (name, version) = rest.rsplit_once('-')?;
    wanted(name.as_bytes()).then(|| Package {
        name: name.to_owned(),
        version: format!("{version}-{release}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_the_managers() {
        let dpkg = b"Package: runc\nStatus: install ok installed\nVersion: 1.1.5+ds1-1+deb12u1\n\n\
            Package: bash\nVersion: 5\n\n\
            Package: nvidia-container-toolkit\nStatus: deinstall ok config-files\nVersion: 1.17.8-1\n\n\
            Package: libnvidia-ml1\nStatus: install ok installed\nVersion: 1:535.247.01-1\n";
        let all = paragraphs(dpkg, b"Package: ", b"Version: ");
        let shown: Vec<_> = all.iter().map(|p| (&*p.name, p.upstream())).collect();
        assert_eq!(shown, [("runc", "1.1.5"), ("libnvidia-ml1", "535.247.01")]);
        assert!(all[0].patched_by_distribution() && !all[1].patched_by_distribution());
        let apk = paragraphs(b"C:Q1\nP:crun\nV:1.20-r0\n\n", b"P:", b"V:");
        assert_eq!((apk[0].upstream(), apk.len()), ("1.20", 1));
        assert_eq!(
            pacman("nvidia-utils-580.95.05-1").unwrap().upstream(),
            "580.95.05"
        );
        assert_eq!(pacman("bash-5.3-1"), None);
    }
}
