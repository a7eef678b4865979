//! The types that name a device, shared by all modules: one type for each thing, with the only parser and printer of it.
//!
//! Parsers are strict: ASCII only, no sign, no blanks, bounded lengths. A value is parsed once, where it enters, and
//! stays typed until it is printed.

pub use crate::sys::root::DeviceNumber;
