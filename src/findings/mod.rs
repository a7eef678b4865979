//! Findings of checks and their reports, such as `host.version-mismatch`; the doctor and
//! [`crate::preflight`] share them.

pub(crate) mod check;
mod report;

pub use check::Check;
pub use report::{Fact, Finding, Report, Severity};
