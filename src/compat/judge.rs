//! Decides whether a program of a CUDA version runs on a driver, and the smallest change that makes
//! it run. For example, CUDA 12.8 on driver 535 runs by minor-version compatibility, with limits.

use core::fmt;

use super::forward::{self, Package};
use super::{Class, Cuda, Platform, Sm, Version, driver, toolkit};

/// The machine that is to run a program.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The version of the driver.
    pub driver: Version,
    /// The driver's operating system.
    pub platform: Platform,
    /// The GPU's architecture.
    pub sm: Option<Sm>,
    /// The GPU's product line.
    pub class: Option<Class>,
}

/// The decision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The driver supports that CUDA version.
    Native,
    /// It runs by minor-version compatibility: machine code and the calls of the driver's own
    /// version work. PTX of the newer toolkit does not compile (error 222), and its new calls fail
    /// (error 36).
    MinorVersion {
        /// The driver's own CUDA version.
        native: Cuda,
    },
    /// It runs with the image's compatibility package.
    Forward {
        /// The package's driver.
        package: Version,
    },
    /// It cannot run: error 35, "CUDA driver version is insufficient for CUDA runtime version".
    Impossible(Change),
    /// The tables do not cover this case, for this reason.
    Unknown(String),
}

/// The changes of which one makes a program run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Change {
    /// The oldest sufficient driver; `None` if no driver for this GPU suffices.
    pub driver: Option<Version>,
    /// The driver that supports the whole toolkit, if it is another.
    pub full: Option<Version>,
    /// The newest CUDA version that the present driver supports.
    pub cuda: Cuda,
    /// Whether all versions of `cuda`'s major number run on the present driver (minor-version
    /// compatibility).
    pub family: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(driver) = self.driver {
            write!(f, "update the driver to {driver} or newer")?;
            if let Some(full) = self.full {
                write!(f, " ({full} for everything in it)")?;
            }
            f.write_str(", or ")?;
        }
        write!(f, "use a build for CUDA {} or older", self.cuda)?;
        if self.family {
            write!(f, " (other {}.x with limits)", self.cuda.major)?;
        }
        Ok(())
    }
}

/// Decides whether a program that needs `need` runs on `target`. `forward` is the compatibility
/// package that the loader would find.
pub fn judge(need: Cuda, target: &Target, forward: Option<&Package>) -> Outcome {
    let Some(native) = driver::native(target.driver, target.platform) else {
        return Outcome::Unknown(format!("the tables do not have driver {}", target.driver));
    };
    if need <= native.cuda {
        return Outcome::Native;
    }
    if native.at_least {
        return Outcome::Unknown(format!(
            "driver {} is newer than the tables: it supports at least CUDA {}",
            target.driver, native.cuda
        ));
    }
    let package = forward.filter(|_| target.platform == Platform::Linux);
    let works = package.map(|p| (p.version, forward::works(p, target.driver, target.class)));
    if let Some((package, Some(true))) = works {
        return Outcome::Forward { package };
    }
    if need.major == native.cuda.major && above_floor(need.major, target) {
        return Outcome::MinorVersion { native: native.cuda };
    }
    if let Some((package, None)) = works {
        return Outcome::Unknown(format!(
            "the tables do not cover the compatibility libraries of driver {package} with this GPU and driver {}",
            target.driver
        ));
    }
    Outcome::Impossible(change(need, native.cuda, target))
}

fn above_floor(major: u32, target: &Target) -> bool {
    toolkit::minimum(major, target.platform).is_some_and(|floor| target.driver >= floor)
}

fn change(need: Cuda, native: Cuda, target: &Target) -> Change {
    // NVIDIA names no driver for Windows from CUDA 13 on. The first branch with the version
    // suffices.
    let full = toolkit::driver_for(need, target.platform)
        .or_else(|| driver::branch_for(need).map(Version::of_branch));
    let least = toolkit::minimum(need.major, target.platform).or(full);
    let last = target.sm.and_then(|sm| sm.architecture()?.last_driver);
    let possible = |v: &Version| last.is_none_or(|last| v.major() <= last);
    let driver = least.filter(possible);
    Change {
        driver,
        full: full.filter(|f| driver.is_some_and(|d| *f > d) && possible(f)),
        cuda: native,
        family: above_floor(native.major, target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compat::forward::Note;

    fn cuda(text: &str) -> Cuda {
        text.parse().unwrap()
    }

    fn target(driver: &str, sm: u32, class: Class) -> Target {
        Target {
            driver: driver.parse().unwrap(),
            platform: Platform::Linux,
            sm: Some(Sm::new(sm)),
            class: Some(class),
        }
    }

    fn impossible(need: &str, target: &Target) -> String {
        match judge(cuda(need), target, None) {
            Outcome::Impossible(change) => change.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_rtx_3070_on_wsl2_runs_cuda_11_8() {
        let wsl = Target {
            platform: Platform::Windows,
            ..target("560.94", 86, Class::GeForce)
        };
        assert_eq!(judge(cuda("11.8"), &wsl, None), Outcome::Native);
        assert_eq!(
            judge(cuda("12.8"), &wsl, None),
            Outcome::MinorVersion { native: cuda("12.6") }
        );
        assert_eq!(
            impossible("13.0", &wsl),
            "update the driver to 580 or newer, or use a build for CUDA 12.6 or older (other 12.x with limits)"
        );
    }

    #[test]
    fn driver_470_and_cuda_12() {
        let host = target("470.256.02", 86, Class::GeForce);
        assert_eq!(
            judge(cuda("11.8"), &host, None),
            Outcome::MinorVersion { native: cuda("11.4") }
        );
        assert_eq!(
            impossible("12.1", &host),
            "update the driver to 525.60.13 or newer (530.30.02 for everything in it), \
             or use a build for CUDA 11.4 or older (other 11.x with limits)"
        );
    }

    #[test]
    fn driver_352_is_too_old_for_anything_newer() {
        let host = target("352.55", 52, Class::DataCentre);
        for need in ["8.0", "9.0", "10.2", "11.8", "12.4"] {
            assert!(matches!(judge(cuda(need), &host, None), Outcome::Impossible(_)));
        }
        assert_eq!(judge(cuda("7.5"), &host, None), Outcome::Native);
        assert_eq!(
            impossible("10.2", &host),
            "update the driver to 440.33 or newer, or use a build for CUDA 7.5 or older"
        );
    }

    #[test]
    fn a_gpu_has_its_last_driver() {
        // Kepler ends with R470: no driver for CUDA 12.
        let host = target("470.256.02", 37, Class::DataCentre);
        assert_eq!(
            impossible("12.1", &host),
            "use a build for CUDA 11.4 or older (other 11.x with limits)"
        );
    }

    #[test]
    fn forward_compatibility_where_the_gpu_allows_it() {
        let package = Package {
            version: "575.57.08".parse().unwrap(),
            note: Note::parse(br#"{"CUDA version":"12.9","driver":[535,550,570]}"#),
        };
        let old = Package {
            version: "550.54.15".parse().unwrap(),
            note: None,
        };
        let judged = |need, target: &Target, p| judge(cuda(need), target, Some(p));
        let dc = target("535.216.03", 80, Class::DataCentre);
        assert_eq!(
            judged("12.9", &dc, &package),
            Outcome::Forward {
                package: package.version
            }
        );
        let consumer = target("535.216.03", 86, Class::GeForce);
        assert!(matches!(
            judged("12.9", &consumer, &package),
            Outcome::MinorVersion { .. }
        ));
        let dc470 = target("470.82.01", 80, Class::DataCentre);
        assert!(matches!(judged("12.4", &dc470, &old), Outcome::Forward { .. }));
        assert!(matches!(judged("12.9", &dc470, &package), Outcome::Impossible(_)));
        let unknown = Target { class: None, ..dc470 };
        assert!(matches!(judged("12.4", &unknown, &old), Outcome::Unknown(_)));
    }

    #[test]
    fn drivers_newer_than_the_tables_are_unknown() {
        let host = target("700.10", 90, Class::DataCentre);
        assert_eq!(judge(cuda("12.4"), &host, None), Outcome::Native);
        assert!(matches!(judge(cuda("14.0"), &host, None), Outcome::Unknown(_)));
        assert!(matches!(
            judge(cuda("12.4"), &target("577.1", 90, Class::DataCentre), None),
            Outcome::Unknown(_)
        ));
    }
}
