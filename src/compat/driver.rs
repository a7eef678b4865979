//! Maps a driver version to the CUDA version that it supports: 550.54.15 supports CUDA 12.4.

use super::table::{fields, lines, rows};
use super::{Cuda, Platform, Version};

const DRIVERS: &str = include_str!("data/drivers.tsv");

/// The CUDA version that a driver supports without a compatibility package.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Native {
    /// The highest CUDA version, as in the header of `nvidia-smi`.
    pub cuda: Cuda,
    /// The driver's branch is newer than the table. Drivers run all that older ones ran, so it
    /// supports `cuda` and perhaps more.
    pub at_least: bool,
}

impl Native {
    /// The version, if it is certain.
    pub fn exactly(self) -> Option<Cuda> {
        (!self.at_least).then_some(self.cuda)
    }
}

#[derive(Clone, Copy)]
struct Branch {
    number: u32,
    cuda: Cuda,
}

fn branch([number, cuda, _, _]: [&'static str; 4]) -> Option<Branch> {
    Some(Branch {
        number: number.parse().ok()?,
        cuda: cuda.parse().ok()?,
    })
}

fn branches() -> impl Iterator<Item = Branch> {
    rows(DRIVERS).filter_map(branch)
}

/// Parses a person's driver version, `535.183.01` or a branch; `None` if no driver can have it.
///
/// A branch has three digits, a release up to three, a revision two (one on a Jetson: 540.4.0).
/// Source: `nvidia-smi`, names of NVIDIA's installers. `12.4` is a CUDA release, and `31.0.15.3623`
/// is Windows' number for 536.23.
pub fn version(text: &str) -> Option<Version> {
    const WIDTHS: [std::ops::RangeInclusive<usize>; 3] = [3..=3, 1..=3, 1..=2];
    let parts: Vec<&str> = text.split('.').collect();
    let fits =
        parts.len() <= WIDTHS.len() && WIDTHS.iter().zip(&parts).all(|(w, part)| w.contains(&part.len()));
    text.parse().ok().filter(|_| fits && !text.starts_with('0'))
}

/// The CUDA version that `driver` supports.
pub fn native(driver: Version, platform: Platform) -> Option<Native> {
    match platform {
        Platform::Linux => native_cuda(driver),
        Platform::Windows => windows_cuda(driver),
    }
}

/// The CUDA version that a Linux driver supports, by its branch; unknown for a branch between two
/// rows.
pub fn native_cuda(driver: Version) -> Option<Native> {
    // Each start of a container calls this, so only the row that counts is parsed as a whole.
    let mut last = None;
    for line in lines(DRIVERS) {
        let (number, _) = line.split_once('\t')?;
        if number.parse() == Ok(driver.major()) {
            return Some(Native {
                cuda: branch(fields(line)?)?.cuda,
                at_least: false,
            });
        }
        last = Some(line);
    }
    newer(branch(fields(last?)?)?, driver)
}

/// The CUDA version that a Windows driver supports. Its version begins with the branch or one of
/// the next few numbers: 536, 537 and 538 are of branch 535. Source: the Windows column of NVIDIA's
/// table.
pub fn windows_cuda(driver: Version) -> Option<Native> {
    let mut found = None;
    let mut last = None;
    for branch in branches() {
        if branch.number <= driver.major() {
            found = Some(branch);
        }
        last = Some(branch);
    }
    newer(last?, driver).or(found.map(|b| Native {
        cuda: b.cuda,
        at_least: false,
    }))
}

fn newer(last: Branch, driver: Version) -> Option<Native> {
    (driver.major() > last.number).then_some(Native {
        cuda: last.cuda,
        at_least: true,
    })
}

/// The first branch that supports `cuda`.
pub fn branch_for(cuda: Cuda) -> Option<u32> {
    branches().find(|b| b.cuda >= cuda).map(|b| b.number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compat::table::check;

    fn v(text: &str) -> Version {
        text.parse().unwrap()
    }

    fn linux(driver: &str) -> Option<String> {
        native_cuda(v(driver)).map(|n| format!("{}{}", n.cuda, if n.at_least { "+" } else { "" }))
    }

    fn windows(driver: &str) -> Option<String> {
        windows_cuda(v(driver)).map(|n| format!("{}{}", n.cuda, if n.at_least { "+" } else { "" }))
    }

    #[test]
    fn every_row_is_understood_and_in_order() {
        check(DRIVERS, branch);
        check(DRIVERS, |[_, _, first, _]: [_; 4]| {
            (first == "-" || first.parse::<Version>().is_ok()).then_some(())
        });
        let all: Vec<Branch> = branches().collect();
        assert!(
            all.windows(2)
                .all(|w| w[0].number < w[1].number && w[0].cuda <= w[1].cuda)
        );
    }

    #[test]
    fn a_branch_speaks_its_version() {
        for (driver, cuda) in [
            ("352.55", "7.5"),
            ("470.256.02", "11.4"),
            ("535.216.03", "12.2"),
            ("580.159.04", "13.0"),
            ("565.57.01", "12.7"),
            ("999.1", "13.4+"),
        ] {
            assert_eq!(linux(driver).as_deref(), Some(cuda), "{driver}");
        }
        // Between two branches, and older than all.
        assert_eq!(linux("577.1"), None);
        assert_eq!(linux("340.108"), None);
    }

    #[test]
    fn windows_numbers_run_past_their_branch() {
        for (driver, cuda) in [
            ("560.94", "12.6"),
            ("537.13", "12.2"),
            ("566.36", "12.7"),
            ("472.50", "11.4"),
            ("441.22", "10.2"),
            ("620.10", "13.4+"),
        ] {
            assert_eq!(windows(driver).as_deref(), Some(cuda), "{driver}");
        }
        assert_eq!(windows("340.1"), None);
    }

    #[test]
    fn a_driver_version_that_can_be() {
        for text in [
            "535",
            "470.1",
            "535.183.01",
            "560.94",
            "346.46",
            "616.2",
            "450.216.04",
            "540.4.0",
            "999.99.99",
        ] {
            assert_eq!(version(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "0",
            "12.4",
            "12.4.1",
            "99.1",
            "1000",
            "10000.1",
            "0535.183.01",
            "535.",
            ".535",
            "535.1234.5",
            "535.183.001",
            "535.183.01.2",
            "31.0.15.3623",
            "+535",
            "-535",
            "535 ",
            " 535",
            "v535",
            "535.x",
            "\u{665}35",
            "4294967296",
            "535.183.01\n",
        ] {
            assert!(version(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn the_first_branch_of_a_version() {
        let branch = |cuda: &str| branch_for(cuda.parse().unwrap());
        assert_eq!(branch("12.7"), Some(565));
        assert_eq!(branch("9.1"), Some(387));
        assert_eq!(branch("99.0"), None);
    }
}
