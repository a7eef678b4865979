//! The runtime's input: the bundle with its config.json, and the state on a hook's standard input.
//!
//! config.json is a JSON value with typed views and edits and not a set of structs. So nvoci writes
//! back every unknown field, such as a capability of a later specification.

pub mod bundle;
mod digest;
mod edit;
pub mod spec;
pub mod state;
#[cfg(test)]
mod tests;
pub mod types;

pub use bundle::{Bundle, CONFIG, whole_in};
pub use digest::Interest;
pub(crate) use edit::clean;
pub use spec::Spec;
pub use state::State;
pub use types::{Access, DeviceKind, DeviceRule, DeviceSpec, Hook, HookSpec, Mount, RuleKind, Stage, User};
