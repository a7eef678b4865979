//! What a check found, and the reports that are made of it: shared by the doctor and by [`crate::preflight`].

pub(crate) mod check;
mod report;

pub use check::Check;
pub use report::{Finding, Report, Severity};
