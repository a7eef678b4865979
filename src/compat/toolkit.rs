//! The driver that a CUDA toolkit needs.

use super::table::{known, rows};
use super::{Cuda, Platform, Version};

const TOOLKITS: &str = include_str!("data/toolkits.tsv");
const MINIMUM: &str = include_str!("data/minimum.tsv");

fn pair(linux: &'static str, windows: &'static str, platform: Platform) -> Option<Version> {
    let field = match platform {
        Platform::Linux => linux,
        Platform::Windows => windows,
    };
    known(field)?.parse().ok()
}

/// The first driver that supports all of toolkit `cuda`. NVIDIA names none for Windows from 13.0
/// on.
pub fn driver_for(cuda: Cuda, platform: Platform) -> Option<Version> {
    let [_, linux, windows, _] = rows(TOOLKITS).find(|[c, ..]: &[_; 4]| c.parse() == Ok(cuda))?;
    pair(linux, windows, platform)
}

/// The oldest driver that runs programs of any toolkit of a major version, with limits
/// (minor-version compatibility); `None` below 11, which has no such compatibility.
pub fn minimum(major: u32, platform: Platform) -> Option<Version> {
    let [_, linux, windows, _] = rows(MINIMUM).find(|[m, ..]: &[_; 4]| m.parse() == Ok(major))?;
    pair(linux, windows, platform)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compat::driver;
    use crate::compat::table::check;

    #[test]
    fn every_row_is_understood() {
        let versions = |fields: &[&'static str]| {
            fields
                .iter()
                .all(|f| known(f).is_none_or(|f| f.parse::<Version>().is_ok()))
                .then_some(())
        };
        check(TOOLKITS, |[cuda, linux, windows, _]: [_; 4]| {
            cuda.parse::<Cuda>()
                .ok()
                .and_then(|_| versions(&[linux, windows]))
        });
        check(MINIMUM, |[major, linux, windows, _]: [_; 4]| {
            major
                .parse::<u32>()
                .ok()
                .and_then(|_| versions(&[linux, windows]))
        });
    }

    #[test]
    fn a_toolkits_driver_speaks_its_version() {
        for [cuda, ..] in rows::<4>(TOOLKITS) {
            let cuda: Cuda = cuda.parse().unwrap();
            let linux = driver_for(cuda, Platform::Linux).unwrap();
            assert_eq!(driver::native_cuda(linux).unwrap().cuda, cuda, "{linux}");
            if let Some(windows) = driver_for(cuda, Platform::Windows) {
                assert_eq!(driver::windows_cuda(windows).unwrap().cuda, cuda, "{windows}");
            }
        }
    }

    #[test]
    fn families_have_a_floor() {
        let floor = |major| minimum(major, Platform::Linux).map(|v| v.to_string());
        assert_eq!(floor(12).as_deref(), Some("525.60.13"));
        assert_eq!(floor(11).as_deref(), Some("450.80.02"));
        assert_eq!(floor(10), None);
        assert_eq!(minimum(13, Platform::Windows), None);
    }
}
