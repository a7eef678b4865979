//! The doctor: which link of the chain from the driver to the framework is broken, why, and the one fix.
//!
//! Reads only. Each area is a module with a table of its checks (`CHECKS`) and functions that look and report; what
//! the host has comes from [`crate::host`], what works with what from [`crate::compat`], what the loader would take
//! from [`crate::ldso`]: the doctor has no discovery of its own.

mod check;
pub mod compose;
pub mod container;
pub mod dockerfile;
pub mod engine;
pub mod explain;
pub mod host;
pub mod image;
pub mod last;
mod packages;
pub mod preflight;
pub(crate) mod render;
mod report;

pub use check::{Check, all_checks};
pub use report::{Finding, Report, Severity};
