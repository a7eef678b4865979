//! What a runtime hands us: the bundle with its config.json, and the state on a hook's standard input.
//!
//! config.json is a JSON value with typed views and typed edits, never a set of structs: a field, a
//! capability or an enum value that nobody here knows yet comes out as it went in.

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
