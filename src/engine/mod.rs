//! Container engines' configuration files: registering nvoci, and taking it back.
//!
//! `docker`, `containerd`, `crio` and `podman` plan an edit, purely, from a file's text and
//! [`Settings`]; [`store`] reads and swaps files and keeps the record; [`place`] knows where each
//! engine, and each packaging of it, keeps its configuration; [`ask`] runs the engine itself, to
//! validate and to restart; [`export`] reads an image out of it. [`register`] puts these together.

pub mod api;
pub mod ask;
pub mod containerd;
pub mod crio;
pub mod diff;
pub mod docker;
pub mod edit;
pub mod export;
pub mod flags;
pub mod job;
mod json;
mod model;
pub mod place;
pub mod podman;
pub mod register;
pub mod restart;
pub(crate) mod sources;
pub mod spec;
pub mod store;
#[cfg(test)]
mod tests;
mod text;
pub(crate) mod toml;
pub mod validate;
mod whole;

pub use model::{Engine, SPEC, STATE_DIR, Settings};
