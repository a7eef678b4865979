//! The types of this module: the engines, a registration, and the paths of fixed files.

use super::edit::Format;

/// The CDI specification that comes with a registration.
pub const SPEC: &str = "/etc/cdi/nvidia.yaml";
/// The hook file, in the directory from which every Podman and CRI-O reads hooks by default.
pub(super) const HOOK: &str = "/usr/share/containers/oci/hooks.d/oci-nvoci.json";
/// The directory of the records.
pub const STATE_DIR: &str = "/var/lib/nvoci/install";

/// An engine that nvoci can be registered with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Engine {
    /// Docker's dockerd.
    Docker,
    /// Podman, and other readers of containers.conf.
    Podman,
    /// containerd's CRI plugin.
    Containerd,
    /// CRI-O.
    Crio,
}

impl Engine {
    /// Every engine.
    pub const ALL: [Self; 4] = [Self::Docker, Self::Podman, Self::Containerd, Self::Crio];

    /// The name on the command line.
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
}

/// The registration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// The runtime's name in the engine.
    pub name: String,
    /// The runtime's binary.
    pub runtime_path: String,
    /// Whether it becomes the engine's default runtime.
    pub set_as_default: bool,
    /// Whether the engine's CDI support is switched on, if it is a setting.
    pub cdi: bool,
    /// Patterns of the annotations that the runtime receives (containerd passes none by default).
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

/// The registration to remove if there is no record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Take<'a> {
    /// The runtime's name in the engine.
    pub(super) name: &'a str,
    /// The runtime's binary.
    pub(super) runtime_path: &'a str,
}

/// The first line of a file that nvoci owns as a whole.
pub(super) fn header(engine: &str) -> String {
    format!("# Written by `nvoci install {engine}`; `nvoci uninstall {engine}` takes it back.\n")
}
