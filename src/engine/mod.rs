//! Registers nvoci in container engines' configuration files, and removes the registration.
//!
//! `docker`, `containerd`, `crio` and `podman` compute an edit from a file's text and [`Settings`].
//! [`store`] reads and replaces files and keeps the record. [`place`] finds each engine's
//! configuration, also for other packagings of it. [`exec`] runs the engine itself, to validate and
//! to restart; [`export`] reads an image from it. [`register`] combines these: for example, `nvoci
//! install docker` adds a runtime to /etc/docker/daemon.json.

pub mod api;
pub mod containerd;
pub mod crio;
pub mod diff;
pub mod docker;
pub mod edit;
pub mod exec;
pub mod export;
pub mod flags;
pub mod job;
mod json;
mod model;
pub mod monitors;
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
