//! Compatibility of drivers, CUDA releases, GPUs, compatibility packages and framework builds.
//!
//! The tables are data files in `src/compat/data/`. Each row names its source, which `sources.tsv`
//! spells out with its date. Without a row, a value is unknown (`None`), never guessed. Pure: no
//! I/O. For example, `driver::native_cuda` maps driver 550.54.15 to CUDA 12.4.

pub mod driver;
pub mod errors;
pub mod forward;
pub mod gpu;
pub mod image;
mod judge;
pub mod libraries;
pub mod ptx;
mod table;
pub mod toolkit;
pub mod torch;
mod version;

pub use gpu::{Class, Sm};
pub use judge::{Change, Outcome, Target, judge};
pub use table::Source;
pub use version::{Cuda, NotAVersion, Version};

/// The operating system of a driver. WSL2 uses the driver of Windows.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Platform {
    /// A driver for Linux.
    Linux,
    /// A driver for Windows, WSL2 included.
    Windows,
}
