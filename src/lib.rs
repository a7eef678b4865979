//! nvoci gives OCI containers the host's NVIDIA GPUs, on native Linux and on WSL2.
//!
//! ```text
//!            config.json, env, annotations, mounts ──► Request ─┐
//! /proc, /dev, ld.so.cache, driver root, /usr/lib/wsl ─► Host ──┼──► Plan ──► apply: rootfs | OCI spec
//!                                       config.toml ──► Config ─┘
//! ```
//!
//! | module | what it is | its one rule |
//! |---|---|---|
//! | [`cmd`] | the commands | wiring only |
//! | [`request`] | what the container asks for, and with what right | no I/O; every value bounded |
//! | [`host`] | what the host has | reads only, through a [`sys::root::Root`]; knows nothing of containers |
//! | [`plan`] | what the container gets | pure: no I/O |
//! | [`apply`] | the rootfs, the OCI spec | the only code that changes anything |
//! | [`cdi`] | CDI specifications: reading, writing, making them | strict in what it takes, the lowest version in what it writes |
//! | [`engine`] | the engines' configuration files | gives back what it took |
//! | [`oci`] | bundle, state, config.json | loses nothing it does not know |
//! | [`doctor`] | checks of host, engines, images, containers | looks, never changes |
//! | [`preflight`], [`findings`] | what keeps a container from computing; findings and reports | below hook and doctor |
//! | [`compat`] | what works with what: tables with sources | pure; what it does not know is unknown |
//! | [`ldso`] | ELF, ld.so.conf, ld.so.cache | nothing is executed |
//! | [`containers`] | what runs, as the kernel tells it | reads only; asks no engine |
//! | [`config`] | the policy | a root-owned file, never the environment |
//! | [`vocabulary`] | device numbers, PCI addresses, UUIDs: the types that all modules share | parses strictly; imports `sys::root` alone |
//! | [`sys`] | in-root paths, mounts, namespaces, device cgroup | the only `unsafe` |
//!
//! Trust: the host's root, root-owned configuration and the structure of config.json are trusted. Every
//! inode of the rootfs and every string that came from the image (environment, annotations) is not.

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
#[allow(unsafe_code)]
pub mod sys;
pub mod vocabulary;

pub use ldso;
