//! Changes containers: a rootfs or an OCI spec. No other module writes to one.

pub mod cdi_hooks;
mod container;
pub mod cuda_compat;
mod devices;
mod driver_dir;
pub mod grant;
pub mod image;
mod links;
mod loader;
mod message;
mod procfs;
pub mod record;
pub mod rootfs;
mod sources;
pub mod spec;
mod texts;
mod trees;
pub mod warning;

pub use container::{Container, Mounts};
pub use grant::{Grant, Grants};
pub use image::Image;
pub use loader::cache_update;
pub use record::Record;
pub use sources::{NodeLabel, Sources};
pub use warning::{Warning, Warnings};
