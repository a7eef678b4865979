//! The doctor: finds the broken link of the chain from driver to framework, its cause, and the one
//! fix.
//!
//! It only reads. Each area is a module with a table of its checks (`CHECKS`) and functions from
//! data to findings. The doctor has no discovery of its own: [`crate::host`] discovers the host,
//! [`crate::compat`] has the compatibility tables, and [`crate::ldso`] finds the loader's
//! libraries.

pub mod compose;
mod conda_build;
pub mod container;
pub mod dockerfile;
pub mod engine;
pub mod explain;
pub mod host;
pub mod html;
pub mod image;
pub mod last;
mod packages;
pub(crate) mod render;
pub mod warned;

use crate::findings::check;
pub use crate::findings::{Check, Fact, Finding, Report, Severity};

/// The tables of all areas.
const AREAS: &[&[Check]] = &[
    host::CHECKS,
    dockerfile::CHECKS,
    compose::CHECKS,
    explain::CHECKS,
    engine::CHECKS,
    container::CHECKS,
    image::CHECKS,
    crate::preflight::CHECKS,
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
