//! What of NVIDIA's works with what: drivers, CUDA releases, GPUs, compatibility packages, framework builds.
//!
//! The tables are data files in `src/compat/data/`, a row each with its source and the date it was read; this module
//! only asks them. What a table does not know is unknown (`None`), never guessed. Pure: no I/O.

mod version;

pub use version::{Cuda, Version};
