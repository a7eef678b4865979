//! Checks the specifications of a host, nvoci's and others'. Changes nothing.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::read::Format;
use super::registry::{Loaded, Registry, Standing, Trust};
use super::types::{Edits, Hook};
use super::version::Version;
use crate::error::{Error, shown};
use crate::sys::budget::Budget;
use crate::sys::owned;
use crate::sys::root::Root;
use crate::vocabulary::DeviceNumber;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// A fact without a consequence so far.
    Note,
    /// Some engine or some container will have trouble.
    Warning,
    /// A container that requests it will not start, or it is unsafe.
    Error,
}

impl Severity {
    /// A stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file, or the directory.
    pub path: PathBuf,
    /// The fault and the fix.
    pub text: String,
}

/// An engine, and the newest version of the format that it takes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Engine {
    /// `podman 4.9.3`
    pub name: String,
    /// The newest version it takes; `None` for an engine without CDI.
    pub takes: Option<Version>,
}

impl Engine {
    /// The engine with a program's name and version; `None` for a program that has no row.
    ///
    /// Sources: the release notes of the engines and of the vendor's toolkit 1.19 (0.7.0 from
    /// Podman 5.1, containerd 1.7.16, Docker 26.1 and CRI-O 1.30 on), and tests with older engines.
    pub fn of(program: &str, version: &str) -> Option<Self> {
        /// The first version of an engine with each newest version of the format.
        type Steps = [((u32, u32, u32), Option<Version>)];
        const TABLE: [(&str, &Steps); 4] = [
            (
                "podman",
                &[
                    ((0, 0, 0), None),
                    ((3, 2, 0), Some(Version::V0_3)),
                    ((4, 0, 0), Some(Version::V0_5)),
                    ((4, 7, 0), Some(Version::V0_6)),
                    ((5, 1, 0), Some(Version::V0_7)),
                    ((5, 3, 0), Some(Version::V1_0)),
                ],
            ),
            (
                "dockerd",
                &[
                    ((0, 0, 0), None),
                    ((25, 0, 0), Some(Version::V0_6)),
                    ((26, 1, 0), Some(Version::V0_7)),
                    ((28, 0, 0), Some(Version::V1_0)),
                ],
            ),
            (
                "containerd",
                &[
                    ((0, 0, 0), None),
                    ((1, 7, 0), Some(Version::V0_6)),
                    ((1, 7, 16), Some(Version::V0_7)),
                    ((2, 0, 0), Some(Version::V1_0)),
                ],
            ),
            (
                "crio",
                &[
                    ((0, 0, 0), None),
                    ((1, 24, 0), Some(Version::V0_5)),
                    ((1, 30, 0), Some(Version::V0_7)),
                    ((1, 32, 0), Some(Version::V1_0)),
                ],
            ),
        ];
        let (_, steps) = TABLE.iter().find(|(name, _)| *name == program)?;
        let mut parts = version
            .split(|c: char| !c.is_ascii_digit())
            .map(|n| n.parse().unwrap_or(0));
        let mut next = || parts.next().unwrap_or(0);
        let version_of = (next(), next(), next());
        let (_, takes) = steps.iter().rfind(|(from, _)| *from <= version_of)?;
        Some(Self {
            name: format!("{program} {version}"),
            takes: *takes,
        })
    }
}

/// Checks every specification of `dirs`.
pub fn check(dirs: &[PathBuf], engines: &[Engine], budget: &Budget) -> Vec<Finding> {
    let registry = Registry::load(dirs, Trust::Anyone, budget);
    let mut found = Findings::default();
    for (path, error) in &registry.problems {
        found.add(
            Severity::Error,
            path,
            format!("no engine can read it: {}", error.why()),
        );
    }
    for dir in dirs {
        misnamed(dir, &mut found);
    }
    standings(&registry, &mut found);
    if let Ok(host) = Root::open("/") {
        for loaded in &registry.loaded {
            file(loaded, engines, &host, &mut found);
        }
    }
    found.into_list(dirs)
}

/// A note if `dirs` have no specification at all. Then every request of a CDI device fails, though
/// [`check`] finds nothing wrong.
pub fn missing(dirs: &[PathBuf], budget: &Budget) -> Option<Finding> {
    let registry = Registry::load(dirs, Trust::Anyone, budget);
    let path = dirs
        .last()
        .filter(|_| registry.loaded.is_empty() && registry.problems.is_empty())?;
    let all: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    let text = format!(
        "no directory has a specification ({}); `nvoci cdi generate --output {}` writes one",
        all.join(", "),
        path.join("nvidia.yaml").display()
    );
    Some(Finding {
        severity: Severity::Note,
        path: path.clone(),
        text: shown(&text).to_owned(),
    })
}

/// The most findings that are shown.
pub const MAX_SHOWN: usize = 1000;
/// The most findings of each severity that are kept to be sorted.
const MAX_KEPT: usize = 1 << 13;

/// The findings, in the end the worst first.
#[derive(Default)]
struct Findings {
    kept: Vec<Finding>,
    /// The number of each severity, with those that are not kept.
    counts: [usize; 3],
}

impl Findings {
    fn add(&mut self, severity: Severity, path: &Path, text: impl Into<String>) {
        let [notes, warnings, errors] = &mut self.counts;
        let count = match severity {
            Severity::Note => notes,
            Severity::Warning => warnings,
            Severity::Error => errors,
        };
        *count += 1;
        if *count <= MAX_KEPT {
            self.kept.push(Finding {
                severity,
                path: path.to_owned(),
                text: shown(&text.into()).to_owned(),
            });
        }
    }

    /// The first [`MAX_SHOWN`], and the number of the others.
    fn into_list(self, dirs: &[PathBuf]) -> Vec<Finding> {
        let Self { mut kept, counts } = self;
        let lost: usize = counts.iter().map(|n| n.saturating_sub(MAX_KEPT)).sum();
        kept.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.path.cmp(&b.path)));
        kept.dedup();
        let more = kept.len().saturating_sub(MAX_SHOWN) + lost;
        if more > 0 {
            let severity = kept
                .get(MAX_SHOWN)
                .map_or(Severity::Warning, |next| next.severity);
            kept.truncate(MAX_SHOWN);
            kept.push(Finding {
                severity,
                path: dirs.first().cloned().unwrap_or_default(),
                text: format!("{more} more findings are left out"),
            });
        }
        kept
    }
}

/// Finds files that no engine reads, though their names are nearly those of specifications.
fn misnamed(dir: &Path, found: &mut Findings) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        if Format::of(&path).is_none()
            && path
                .extension()
                .is_some_and(|e| e == "yml" || e == "YAML" || e == "JSON")
        {
            found.add(
                Severity::Warning,
                &path,
                "no engine reads it: the name must end in .yaml or .json",
            );
        }
    }
}

/// Finds conflicts, and devices that are hidden by others.
fn standings(registry: &Registry, found: &mut Findings) {
    let mut named: HashMap<(&str, &str), Vec<&Loaded>> = HashMap::new();
    for loaded in &registry.loaded {
        for device in &loaded.spec.devices {
            let name = (loaded.spec.kind.as_str(), device.name.as_str());
            named.entry(name).or_default().push(loaded);
        }
    }
    for (name, standing) in registry.devices() {
        match standing {
            Standing::Conflict(at) => {
                const SHOWN: usize = 8;
                let first = &registry.loaded[at[0]].path;
                let others: Vec<String> = at[1..]
                    .iter()
                    .take(SHOWN)
                    .map(|&i| registry.loaded[i].path.display().to_string())
                    .collect();
                let more = if at.len() > SHOWN + 1 { ", …" } else { "" };
                found.add(
                    Severity::Error,
                    first,
                    format!(
                        "{name} is in {}{more} too, so no engine gives it; remove one of them",
                        others.join(", ")
                    ),
                );
            }
            Standing::Good(at) => {
                let by = &registry.loaded[at];
                let hidden = name.split_once('=').and_then(|name| named.get(&name));
                for l in hidden.into_iter().flatten() {
                    if l.priority >= by.priority {
                        continue;
                    }
                    found.add(
                        Severity::Warning,
                        &l.path,
                        format!("its {name} is hidden by {}", by.path.display()),
                    );
                }
            }
        }
    }
}

fn file(loaded: &Loaded, engines: &[Engine], host: &Root, found: &mut Findings) {
    let path = &loaded.path;
    if let Err(e) = owned::find(path) {
        found.add(
            Severity::Error,
            path,
            format!("its hooks run as root, and {}: {}", e.what(), e.why()),
        );
    }
    if std::fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o444 != 0o444) {
        found.add(
            Severity::Warning,
            path,
            "not everybody may read it, so rootless engines cannot; chmod 0644",
        );
    }
    for engine in engines {
        match engine.takes {
            Some(newest) if newest < loaded.spec.version => found.add(
                Severity::Error,
                path,
                format!(
                    "it is of version {}, and {} takes {newest} at most",
                    loaded.spec.version, engine.name
                ),
            ),
            _ => {}
        }
    }
    let needed = Version::needed_by(&loaded.spec);
    if needed < loaded.spec.version {
        found.add(
            Severity::Note,
            path,
            format!(
                "it declares version {}, where {needed} would do",
                loaded.spec.version
            ),
        );
    }
    let all = loaded
        .spec
        .devices
        .iter()
        .map(|d| &d.edits)
        .chain([&loaded.spec.edits]);
    for edits in all {
        on_host(edits, path, host, found);
    }
}

/// Checks the files and nodes of the host that an edit names.
fn on_host(edits: &Edits, path: &Path, host: &Root, found: &mut Findings) {
    for node in &edits.device_nodes {
        let at = node.on_host();
        let Ok(there) = host.resolve_nofollow(at) else {
            found.add(
                Severity::Error,
                path,
                format!("device node {at} is not on the host"),
            );
            continue;
        };
        if !matches!(there.kind(), FileType::CharacterDevice | FileType::BlockDevice) {
            found.add(Severity::Error, path, format!("{at} is not a device node"));
        } else if let Some(major) = node.major.filter(|m| *m != 0) {
            let minor = node.minor.unwrap_or(0);
            let (now, named) = (there.rdev(), DeviceNumber { major, minor });
            if now != named {
                let text =
                    format!("it says that {at} is {named}, and it is {now}: containers get another device");
                found.add(Severity::Error, path, text);
            }
        }
    }
    for mount in &edits.mounts {
        let bind = mount.typ.as_deref().is_none_or(|t| matches!(t, "" | "bind"));
        if bind && !host.exists(&mount.host_path) {
            found.add(
                Severity::Error,
                path,
                format!("{} is not on the host", mount.host_path),
            );
        }
    }
    for hook in &edits.hooks {
        check_hook(hook, path, found);
    }
}

fn check_hook(hook: &Hook, path: &Path, found: &mut Findings) {
    // A startContainer hook is a program of the container.
    if hook.stage == "startContainer" {
        return;
    }
    match owned::find_lasting(Path::new(&hook.path)) {
        Ok(None) => found.add(
            Severity::Error,
            path,
            format!("hook {} is not on the host", hook.path),
        ),
        Ok(Some(node)) if !node.is_file() || node.stat().st_mode & 0o111 == 0 => {
            found.add(
                Severity::Error,
                path,
                format!("hook {} is not a program", hook.path),
            );
        }
        Ok(Some(_)) => {}
        Err(e) => found.add(Severity::Error, path, unsafe_hook(hook, &e)),
    }
    if hook.env.is_empty() {
        found.add(
            Severity::Warning,
            path,
            format!(
                "hook {} has no environment: runc before 1.3 gives it the image's, LD_PRELOAD included",
                hook.path
            ),
        );
    }
}

fn unsafe_hook(hook: &Hook, e: &Error) -> String {
    format!("hook {} runs as root, and {}: {}", hook.path, e.what(), e.why())
}
