//! The only code that changes anything: a container's rootfs or its OCI spec.

mod container;
mod devices;
mod driver_dir;
mod links;
mod loader;
mod procfs;
pub mod record;
pub mod rootfs;
mod sources;
pub mod spec;
mod trees;

pub use container::Container;
pub use record::Record;
pub use sources::Sources;
