//! What of NVIDIA's works with what: drivers, CUDA releases, GPUs, compatibility packages, framework builds.
//!
//! The tables are data files in `src/compat/data/`. Each row names its source, which `sources.tsv` spells out with the
//! date it was read; this module only asks them. What a table does not know is unknown (`None`), never guessed. Pure:
//! no I/O.

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

/// Whose driver it is. On WSL2 the driver is the one of Windows.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Platform {
    /// A driver for Linux.
    Linux,
    /// A driver for Windows, WSL2 included.
    Windows,
}
