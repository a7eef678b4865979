//! PyTorch's wheels: the CUDA builds of a release, and the GPUs that each supports.

use core::fmt;
use core::str::FromStr;

use super::table::{known, rows};
use super::{Cuda, NotAVersion, Outcome, Sm, Target, Version, driver, judge};

const TORCH: &str = include_str!("data/torch.tsv");

/// A release without its patch number: `2.5` of 2.5.1.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Release {
    /// `2`
    pub major: u32,
    /// `5`
    pub minor: u32,
}

impl FromStr for Release {
    type Err = NotAVersion;

    /// Parses `2.5`, `2.5.1` or `2.5.1+cu124`.
    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let text = text.split('+').next().unwrap_or_default();
        // Only the first two numbers count, as in `2.9.0a0`.
        let mut parts = text.split('.');
        let mut number = || parts.next().and_then(|p| p.parse().ok()).ok_or(NotAVersion);
        Ok(Self {
            major: number()?,
            minor: number()?,
        })
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The CUDA version of a build's tag: 12.4 of `cu124`, 9.2 of `cu92`.
pub fn cuda_of_tag(tag: &str) -> Option<Cuda> {
    let digits = tag.strip_prefix("cu")?;
    if !(2..=3).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (major, minor) = digits.split_at(digits.len() - 1);
    Some(Cuda {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    })
}

/// One build of a release.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Build {
    /// The release.
    pub release: Release,
    /// `cu124`
    pub tag: &'static str,
    /// 12.4
    pub cuda: Cuda,
    /// Whether it is on PyPI, so that a plain `pip install torch` installs it.
    pub on_pypi: bool,
    /// The architectures of its machine code; empty if unknown.
    pub archs: Vec<Sm>,
    /// The architecture of its PTX.
    pub ptx: Option<Sm>,
}

impl Build {
    /// pip's index URL for it.
    pub fn index(&self) -> String {
        format!("https://download.pytorch.org/whl/{}", self.tag)
    }

    /// The command that installs it.
    pub fn pip(&self) -> String {
        format!(
            "pip install \"torch=={}.*\" --index-url {}",
            self.release,
            self.index()
        )
    }

    /// Whether it has code for the GPU; PTX counts if `driver` can compile it. `None` if its
    /// architectures are unknown.
    fn has_code(&self, gpu: Sm, driver: Cuda) -> Option<bool> {
        if self.archs.is_empty() {
            return None;
        }
        let ptx = self.ptx.filter(|_| self.cuda <= driver);
        Some(self.archs.iter().any(|sm| sm.runs_on(gpu)) || ptx.is_some_and(|p| p.compiles_for(gpu)))
    }

    /// How well it runs on the target: 2 natively, 1 with limits, `None` not at all or unknown.
    fn rank(&self, target: &Target) -> Option<u8> {
        let native = driver::native(target.driver, target.platform)?;
        if let Some(sm) = target.sm
            && self.has_code(sm, native.cuda) != Some(true)
        {
            return None;
        }
        match judge(self.cuda, target, None) {
            Outcome::Native => Some(2),
            Outcome::MinorVersion { .. } => Some(1),
            _ => None,
        }
    }
}

fn build([release, tag, on_pypi, archs, ptx, _]: [&'static str; 6]) -> Option<Build> {
    let archs = known(archs).into_iter().flat_map(|a| a.split(' '));
    Some(Build {
        release: release.parse().ok()?,
        tag,
        cuda: cuda_of_tag(tag)?,
        on_pypi: match on_pypi {
            "default" => true,
            "-" => false,
            _ => return None,
        },
        archs: archs.map(str::parse).collect::<Result<_, _>>().ok()?,
        ptx: known(ptx).map(str::parse).transpose().ok()?,
    })
}

/// The builds of all releases.
fn all() -> impl Iterator<Item = Build> {
    rows(TORCH).filter_map(build)
}

/// The CUDA builds of a release, oldest CUDA first; empty if the table does not have the release.
pub fn builds(release: Release) -> Vec<Build> {
    all().filter(|b| b.release == release).collect()
}

/// The build on PyPI, which a plain `pip install torch==…` installs on x86_64.
pub fn on_pypi(release: Release) -> Option<Build> {
    all().find(|b| b.release == release && b.on_pypi)
}

/// Whether the index of a build has the newest release.
pub fn has_newest(tag: &str) -> bool {
    let newest = all().map(|b| b.release).max();
    newest.is_some_and(|newest| all().any(|b| b.release == newest && b.tag == tag))
}

/// The build that needs the smallest change. Preferred are: the same release, else the nearest
/// later, else the nearest earlier one that runs on the target; a native build; a newer CUDA.
pub fn wheel_for(release: Release, target: &Target) -> Option<Build> {
    let releases = |r: Release| i64::from(r.major) * 1000 + i64::from(r.minor);
    let distance = |b: &Build| {
        let d = releases(b.release) - releases(release);
        // Any later one is preferred: a program seldom runs with a framework older than its own.
        if d >= 0 { d } else { 1_000_000 - d }
    };
    all()
        .filter_map(|b| Some((b.rank(target)?, b)))
        .min_by_key(|(rank, b)| (distance(b), core::cmp::Reverse((*rank, b.cuda))))
        .map(|(_, b)| b)
}

/// Splits a version with its build, `2.5.1+cu124`, into release and tag (`cu124`, `cpu`).
pub fn split_local(version: &str) -> Option<(Release, Option<&str>)> {
    let local = version.split_once('+').map(|(_, local)| local);
    Some((version.parse().ok()?, local))
}

/// The oldest driver on which a build runs on Linux.
pub fn oldest_driver(build: &Build) -> Option<Version> {
    super::toolkit::minimum(build.cuda.major, super::Platform::Linux)
        .or_else(|| super::toolkit::driver_for(build.cuda, super::Platform::Linux))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compat::table::check;
    use crate::compat::{Class, Platform};

    fn release(text: &str) -> Release {
        text.parse().unwrap()
    }

    fn target(driver: &str, sm: u32) -> Target {
        Target {
            driver: driver.parse().unwrap(),
            platform: Platform::Linux,
            sm: Some(Sm::new(sm)),
            class: Some(Class::GeForce),
        }
    }

    fn wheel(torch: &str, target: &Target) -> Option<String> {
        wheel_for(release(torch), target).map(|b| format!("{}+{}", b.release, b.tag))
    }

    #[test]
    fn every_row_is_understood() {
        check(TORCH, build);
        // One of each release is on PyPI.
        for b in all() {
            let on_pypi = builds(b.release).iter().filter(|b| b.on_pypi).count();
            assert_eq!(on_pypi, 1, "{}", b.release);
        }
    }

    #[test]
    fn versions_and_tags() {
        assert_eq!(release("2.10.0+cu128"), Release { major: 2, minor: 10 });
        assert_eq!(release("2.9.0a0+git1"), Release { major: 2, minor: 9 });
        assert!("x".parse::<Release>().is_err());
        assert_eq!(cuda_of_tag("cu118"), Some(Cuda { major: 11, minor: 8 }));
        assert_eq!(cuda_of_tag("cu92"), Some(Cuda { major: 9, minor: 2 }));
        assert_eq!(cuda_of_tag("cu130"), Some(Cuda { major: 13, minor: 0 }));
        for bad in ["cpu", "cu", "cu1", "cu1234", "rocm6"] {
            assert_eq!(cuda_of_tag(bad), None, "{bad}");
        }
        assert_eq!(split_local("2.0.1+cu118"), Some((release("2.0"), Some("cu118"))));
    }

    #[test]
    fn the_smallest_change() {
        // Torch 2.0's PyPI build is for 11.7; the seed case is fine with 11.8.
        assert_eq!(on_pypi(release("2.0.1")).unwrap().tag, "cu117");
        assert_eq!(
            wheel("2.1", &target("470.256.02", 86)).as_deref(),
            Some("2.1+cu118")
        );
        assert_eq!(
            wheel("2.5.1", &target("535.216.03", 86)).as_deref(),
            Some("2.5+cu121")
        );
        assert_eq!(
            wheel("2.5.1", &target("550.54.14", 86)).as_deref(),
            Some("2.5+cu124")
        );
        // An RTX 5090 needs a build with sm_120, and the first is 2.7 for CUDA 12.8.
        assert_eq!(wheel("2.3", &target("570.86", 120)).as_deref(), Some("2.7+cu128"));
        // The builds for CUDA 13 dropped Pascal; those for 12.6 kept it.
        assert_eq!(
            wheel("2.12", &target("580.65.06", 61)).as_deref(),
            Some("2.12+cu126")
        );
        // No build after 2.6 is known for a K80, so the nearest earlier one is named.
        assert_eq!(
            wheel("2.12", &target("470.256.02", 37)).as_deref(),
            Some("2.6+cu118")
        );
        assert_eq!(wheel("2.5", &target("352.55", 52)), None);
        assert_eq!(
            wheel_for(release("2.5"), &target("535.216.03", 86))
                .unwrap()
                .pip(),
            "pip install \"torch==2.5.*\" --index-url https://download.pytorch.org/whl/cu121"
        );
    }

    #[test]
    fn oldest_driver_of_a_build() {
        let oldest = |r, tag| {
            let b = builds(release(r)).into_iter().find(|b| b.tag == tag).unwrap();
            oldest_driver(&b).map(|v| v.to_string())
        };
        assert_eq!(oldest("2.0", "cu118").as_deref(), Some("450.80.02"));
        assert_eq!(oldest("1.8", "cu102").as_deref(), Some("440.33"));
    }
}
