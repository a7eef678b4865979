//! nvoci gives OCI containers the host's NVIDIA GPUs, on native Linux and on WSL2.
//!
//! ```text
//!         config.json, env, annotations, mounts ──► Request ─┐
//! /proc, /dev, ld.so.cache, driver, /usr/lib/wsl ──► Host ───┼──► Plan ──► apply: rootfs, spec
//!                                    config.toml ──► Config ─┘
//! ```
//!
//!
//! | module | contents | its one rule |
//! |---|---|---|
//! | [`cmd`] | the commands | wiring only |
//! | [`request`] | a container's request and its rights | no I/O; every value bounded |
//! | [`host`] | discovery of driver, GPUs and device nodes | reads only, through a [`sys::root::Root`] |
//! | [`plan`] | the contents of one container | pure: no I/O |
//! | [`apply`] | the changes to rootfs and OCI spec | no other module changes a container |
//! | [`cdi`] | CDI specifications: read, check, write | reads strictly, writes the lowest version |
//! | [`engine`] | the engines' configuration files | reverts only its own edits |
//! | [`oci`] | bundle, state, config.json | keeps unknown fields |
//! | [`doctor`] | checks of host, engines, images, containers | reads only, except with `--fix` |
//! | [`preflight`], [`findings`] | checks of an image at its start; reports | below hook and doctor |
//! | [`compat`] | compatibility tables with sources | pure; an unknown version has no verdict |
//! | [`ldso`] | ELF, ld.so.conf, ld.so.cache | executes nothing |
//! | [`containers`] | running containers, from the kernel | reads only; queries no engine |
//! | [`config`] | the policy | a root-owned file, never the environment |
//! | [`vocabulary`] | device numbers, PCI addresses, UUIDs | parses strictly; imports `sys::root` alone |
//! | [`sys`] | namespaces, processes, sources of mounts | the only `unsafe` of `src/` |
//!
//! Trust: nvoci trusts the host's root, root-owned configuration and the structure of config.json.
//! It trusts no inode of the rootfs and no string of the image (environment, annotations).

pub mod apply;
pub mod budget;
pub mod capabilities;
pub mod cdi;
pub mod cdi_name;
pub mod cmd;
pub mod compat;
pub mod config;
pub mod containers;
pub mod doctor;
#[cfg(test)]
mod documents;
pub mod engine;
pub mod error;
pub mod findings;
pub mod host;
#[cfg(test)]
mod lengths;
pub mod oci;
pub mod plan;
pub mod preflight;
pub mod request;
#[cfg(test)]
#[path = "../tests/schema/validator.rs"]
mod schema;
#[allow(unsafe_code)]
pub mod sys;
pub mod vocabulary;

pub use ldso;
