//! CDI specifications: what engines read from `/etc/cdi` and `/var/run/cdi` to give a container a device.
//!
//! | module | what it knows |
//! |---|---|
//! | [`types`] | a specification as plain data |
//! | [`version`] | the versions, and which one a content needs |
//! | [`mod@read`], [`emit`] | YAML and JSON, strictly and within limits; the same bytes for the same data |
//! | [`validate`] | what the engines' own library refuses; the type that alone can be written |
//! | [`registry`] | the directories: priorities, conflicts, names |
//! | [`edit`] | a container's definition, edited as an engine would |
//! | [`generate`], [`explicit`], [`csv`] | specifications for this host |
//! | [`check`], [`transform`] | what is wrong with one; another root |
//!
//! A specification is trusted like configuration, since its hooks run as root: only files that root alone can have
//! written are applied. Source of all formats: CDI's SPEC.md 1.1.0 and the behaviour of its Go library.

pub mod check;
pub mod csv;
pub mod edit;
pub mod emit;
pub mod explicit;
pub mod generate;
mod needed;
pub mod read;
pub mod registry;
#[cfg(test)]
mod tests;
pub mod transform;
pub(crate) mod tree;
pub mod types;
pub mod validate;
pub mod version;

pub use registry::Registry;
pub use types::{CdiSpec, Device, DeviceNode, Edits, Hook, Mount, NetDevice};
pub use validate::Valid;
pub use version::Version;
