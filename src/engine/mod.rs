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
mod json;
pub mod place;
pub mod podman;
pub mod register;
pub mod restart;
pub(crate) mod sources;
pub mod spec;
pub mod store;
pub(crate) mod toml;
pub mod validate;

use crate::error::Result;

use edit::{Editor, Format};

/// An engine that nvoci can be registered with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Engine {
    /// Docker's dockerd.
    Docker,
    /// Podman, and what else reads containers.conf.
    Podman,
    /// containerd's CRI plugin.
    Containerd,
    /// CRI-O.
    Crio,
}

impl Engine {
    /// Every engine.
    pub const ALL: [Self; 4] = [Self::Docker, Self::Podman, Self::Containerd, Self::Crio];

    /// The word for it on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Containerd => "containerd",
            Self::Crio => "crio",
        }
    }

    /// The engine of that name; `cri-o` is `crio`.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = if name == "cri-o" { "crio" } else { name };
        Self::ALL.into_iter().find(|e| e.name() == name)
    }

    /// The syntax of its configuration file.
    pub const fn format(self) -> Format {
        match self {
            Self::Docker => Format::Json,
            Self::Podman | Self::Containerd | Self::Crio => Format::Toml,
        }
    }

    /// Removes a registration that no record tells about.
    fn forget(self, e: &mut Editor, take: &Take<'_>) -> Result<()> {
        match self {
            Self::Docker => docker::forget(e, take),
            Self::Podman => podman::forget(e, take),
            Self::Containerd => containerd::forget(e, take),
            Self::Crio => crio::forget(e, take),
        }
    }

    /// Removes a default that names a runtime which is gone, and says so.
    fn tidy(self, e: &mut Editor, name: &str) -> Result<Option<String>> {
        match self {
            Self::Docker => docker::tidy(e, name),
            Self::Podman => podman::tidy(e, name),
            Self::Containerd => containerd::tidy(e, name),
            Self::Crio => crio::tidy(e, name),
        }
    }
}

/// What is to be registered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// The runtime's name in the engine.
    pub name: String,
    /// The runtime's binary.
    pub runtime_path: String,
    /// Make it the engine's default runtime.
    pub set_as_default: bool,
    /// Turn the engine's CDI support on, where it is a setting.
    pub cdi: bool,
    /// Patterns of the annotations that the runtime is to see (containerd, which passes none on by itself).
    pub annotations: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: "nvidia".to_owned(),
            runtime_path: "/usr/bin/nvoci-runtime".to_owned(),
            set_as_default: false,
            cdi: false,
            annotations: vec!["cdi.k8s.io/*".to_owned()],
        }
    }
}

/// What is to be taken back where there is no record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Take<'a> {
    name: &'a str,
    runtime_path: &'a str,
}

/// The first line of a file that is wholly ours.
fn header(engine: &str) -> String {
    format!("# Written by `nvoci install {engine}`; `nvoci uninstall {engine}` takes it back.\n")
}
