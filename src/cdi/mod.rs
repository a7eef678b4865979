//! CDI specifications: the files in `/etc/cdi` and `/var/run/cdi` from which engines give a
//! container its devices.
//!
//! | module | contents |
//! |---|---|
//! | [`types`] | a specification as plain data, and the names of its fields |
//! | [`version`] | the versions, and the one that a content needs |
//! | [`mod@read`], [`emit`] | YAML and JSON: read strictly and within limits; the same bytes for the same data |
//! | [`validate`] | the rules of the engines' own library; the only type that can be written |
//! | [`registry`] | the directories: priorities, conflicts, names |
//! | [`edit`] | edits of a container's definition, as an engine makes them |
//! | [`generate`], [`explicit`], [`csv`] | specifications for this host |
//! | [`check`], [`transform`] | findings; another root |
//!
//! The hooks of a specification run as root. So nvoci applies only files that nobody but root can
//! have written, as with its configuration. Source of all formats: CDI's SPEC.md 1.1.0 and the
//! behaviour of its Go library.

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
