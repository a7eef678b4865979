//! The doors: wiring from a command line to the modules that do the work.

pub mod install;
