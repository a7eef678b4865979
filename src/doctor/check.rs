//! What is checked: each check has a number that never changes meaning, as errors have.

use core::fmt;

/// One check. Areas keep theirs in a table; the reference of codes is made from it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Check {
    /// The number behind `NVOCI-`: 71xx host, 72xx engine, 73xx image, 74xx container, 75xx Dockerfile, 76xx Compose,
    /// 77xx preflight, 78xx explain.
    pub number: u16,
    /// A short name for people and scripts: `host.version-mismatch`.
    pub name: &'static str,
    /// What is wrong when it fires, one sentence.
    pub summary: &'static str,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NVOCI-{}", self.number)
    }
}

/// Makes the table of an area, `CHECKS`, and a constant for each of its checks:
/// `NAME = number, "name", "summary";`.
macro_rules! checks {
    ($($vis:vis $id:ident = $number:literal, $name:literal, $summary:literal;)*) => {
        $($vis const $id: $crate::doctor::Check =
            $crate::doctor::Check { number: $number, name: $name, summary: $summary };)*

        /// What is checked here.
        pub const CHECKS: &[$crate::doctor::Check] = &[$($id),*];
    };
}
pub(super) use checks;

/// The tables of all areas.
const AREAS: &[&[Check]] = &[
    super::host::CHECKS,
    super::dockerfile::CHECKS,
    super::compose::CHECKS,
    super::explain::CHECKS,
    super::engine::CHECKS,
    super::container::CHECKS,
    super::image::CHECKS,
    super::preflight::CHECKS,
];

/// Every check, in the order of the areas.
pub fn all_checks() -> impl Iterator<Item = &'static Check> {
    AREAS.iter().flat_map(|area| area.iter())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use std::collections::HashSet;

    #[test]
    fn numbers_and_names_are_unique() {
        let mut numbers: HashSet<u16> = Code::ALL.iter().map(|c| c.number()).collect();
        let mut names = HashSet::new();
        for check in all_checks() {
            assert!((7100..7900).contains(&check.number), "{check}");
            assert!(numbers.insert(check.number), "{check} twice");
            assert!(names.insert(check.name), "{} twice", check.name);
        }
    }
}
