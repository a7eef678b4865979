//! Who wrote a request, and which devices that author may request. Policy is decided only here.
//!
//! Who can write an annotation of an OCI definition, by engine:
//!
//! | engine | image author | pod author | device plugin |
//! |---|---|---|---|
//! | CRI-O | no | any key (it copies the pod's) | a key that is in `io.kubernetes.cri-o.Annotations` too |
//! | containerd | no | keys that the administrator lists in `pod_annotations` | keys that are listed in `container_annotations` |
//! | Podman | any key with 4.3, none with 5.8; `io.container.manager` too, which it sets only where it is missing | - | - |
//! | Docker, others | unknown | - | - |
//!
//! So an annotation does not prove an engine: an image under Podman can write every engine's
//! markers. No image's author can write a mount of the kubelet's, whose source the engine receives
//! ([`by_kubelet`]). A pod's sandbox lacks that mount; there CRI-O writes the pod's annotations
//! over its own. If markers of several engines are present, the row with the least trust decides.
//!
//! For example, `cdi.k8s.io/a: nvidia.com/gpu=0` counts as the device plugin's in a container with
//! the kubelet's mount and CRI-O's list of its annotations, and as a variable everywhere else.

use std::collections::BTreeMap;

use crate::config::{Choice, Config, Mode, Preflight};

use super::{CdiName, Inputs, MountView};

/// The author of the request for GPUs.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Provenance {
    /// `NVIDIA_VISIBLE_DEVICES`: the person who started the container, or the image.
    Env,
    /// A mount of `/dev/null` below `/var/run/nvidia-container-devices`: the orchestrator.
    VolumeMount,
    /// An annotation with a configured prefix, which a device plugin gave to the engine.
    Annotation,
    /// An annotation that the author of the pod or of the image may have written.
    AuthorAnnotation,
    /// A CDI specification, through the engine.
    Cdi,
    /// An image from before `NVIDIA_VISIBLE_DEVICES`, with `CUDA_VERSION`.
    LegacyImage,
    /// A variable that Docker Swarm sets for a generic resource.
    Swarm,
}

impl Provenance {
    /// A stable name, for records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Env => "env",
            Self::VolumeMount => "volume-mount",
            Self::Annotation => "annotation",
            Self::AuthorAnnotation => "author-annotation",
            Self::Cdi => "cdi",
            Self::LegacyImage => "legacy-image",
            Self::Swarm => "swarm",
        }
    }

    /// Whether the author of an image or of a pod cannot have written it.
    const fn is_engines(self) -> bool {
        match self {
            Self::VolumeMount | Self::Annotation | Self::Cdi => true,
            Self::Env | Self::AuthorAnnotation | Self::LegacyImage | Self::Swarm => false,
        }
    }
}

/// A requested part, by the rule of policy that it falls under.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wish<'a> {
    /// GPUs of this host.
    Gpus,
    /// GDS, MOFED, GDRCopy, NVSwitch or IMEX channels.
    Gated,
    /// A device that only a CDI specification defines.
    Named(&'a CdiName),
}

/// Why policy refused a part.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refused {
    /// An unprivileged container may not use variables.
    Unprivileged,
    /// An unprivileged container may not have gated features.
    Gated,
    /// The CDI kind is not in `accept-cdi-kinds`.
    Kind,
    /// Only a privileged container may have the CDI kind.
    KindUnprivileged,
}

impl Refused {
    /// The reason and its fix, for a note.
    pub(super) const fn why(self) -> &'static str {
        match self {
            Self::Unprivileged => "the container is unprivileged and `accept-envvar-unprivileged` is off",
            Self::Gated => {
                "an unprivileged container may request this by a mount or a CDI device only \
                 (`accept-gated-unprivileged = true` allows the variable)"
            }
            Self::Kind => {
                "its CDI kind is not in `accept-cdi-kinds` (list it there, or give the device to the engine)"
            }
            Self::KindUnprivileged => {
                "only a privileged container (CAP_SYS_ADMIN, no user namespace of its own) may request its CDI kind \
                 (`accept-cdi-kinds-privileged`), and this one is unprivileged"
            }
        }
    }
}

/// Why a setting stays as the host has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kept {
    /// Containers may not choose it.
    NotListed,
    /// The administrator enforces the check.
    Enforced,
}

impl Kept {
    /// The reason, for a note.
    pub(super) const fn why(self) -> &'static str {
        match self {
            Self::NotListed => {
                "`container-settings` of /etc/nvoci/config.toml does not let a container choose it"
            }
            Self::Enforced => {
                "the administrator has set `preflight = \"enforce\"`, which no container can lower"
            }
        }
    }
}

/// The administrator's configuration and the container's privilege.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy<'a> {
    config: &'a Config,
    privileged: bool,
}

impl<'a> Policy<'a> {
    pub(super) fn of(inputs: &Inputs<'_>, config: &'a Config) -> Self {
        Self {
            config,
            privileged: inputs.privileged,
        }
    }

    /// Whether `from` may request `wish`. Every source is checked here.
    pub(super) fn granted(&self, from: Provenance, wish: Wish<'_>) -> Result<(), Refused> {
        let trusted = from.is_engines() || self.privileged;
        match wish {
            Wish::Gpus if trusted || *self.config.accept_envvar_unprivileged => Ok(()),
            Wish::Gpus => Err(Refused::Unprivileged),
            Wish::Gated if trusted || *self.config.accept_gated_unprivileged => Ok(()),
            Wish::Gated => Err(Refused::Gated),
            Wish::Named(name) if self.lists(name) => self.granted(from, Wish::Gpus),
            Wish::Named(_) if from == Provenance::VolumeMount => Ok(()),
            Wish::Named(name) if from.is_engines() && is_device_plugins(name) => Ok(()),
            Wish::Named(name) if self.lists_privileged(name) => {
                self.privileged.then_some(()).ok_or(Refused::KindUnprivileged)
            }
            Wish::Named(_) => Err(Refused::Kind),
        }
    }

    /// The setting that `from` chooses by the variable or annotation `name`, if policy grants it.
    pub(super) fn chosen(&self, from: Provenance, name: &str, choice: Choice) -> Result<Chosen, Kept> {
        let config = self.config;
        if !choice.is_in(config) {
            // Even if the list has it: the list limits rights, and this check limits which images
            // may start.
            if matches!(choice, Choice::Preflight(_)) && *config.preflight == Preflight::Enforce {
                return Err(Kept::Enforced);
            }
            if !config
                .container_settings
                .iter()
                .any(|allowed| allowed.covers(choice))
            {
                return Err(Kept::NotListed);
            }
        }
        Ok(Chosen {
            choice,
            name: name.to_owned(),
            by: from,
        })
    }

    /// Whether any container that may have GPUs may have the kind. With `mode = "cdi"`, words are
    /// names of the default kind, so that kind is accepted.
    fn lists(&self, name: &CdiName) -> bool {
        self.config
            .accept_cdi_kinds
            .iter()
            .any(|kind| name.has_kind(kind))
            || (*self.config.mode == Mode::Cdi && name.has_kind(&self.config.default_kind))
    }

    /// Whether privileged containers may have the kind.
    fn lists_privileged(&self, name: &CdiName) -> bool {
        let mut kinds = self.config.accept_cdi_kinds_privileged.iter();
        kinds.any(|kind| name.has_kind(kind))
    }
}

/// A container's own value of a setting, granted by policy, and its author. Only [`Policy::chosen`]
/// makes one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Chosen {
    choice: Choice,
    name: String,
    by: Provenance,
}

impl Chosen {
    /// The setting and its value.
    pub fn choice(&self) -> Choice {
        self.choice
    }

    /// The variable or annotation.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its possible author.
    pub fn by(&self) -> Provenance {
        self.by
    }
}

/// The kinds that NVIDIA's device plugin and DRA driver name in annotations: the host's, and those
/// of the specifications that they write.
fn is_device_plugins(name: &CdiName) -> bool {
    const VENDORS: [&str; 3] = ["nvidia.com", "k8s.device-plugin.nvidia.com", "k8s.gpu.nvidia.com"];
    VENDORS.contains(&name.vendor.as_str())
}

/// The annotation with which Podman and CRI-O mark their containers, and Podman's value of it.
const MANAGER: &str = "io.container.manager";
const PODMAN: &str = "libpod";

/// The prefix of CRI-O's keys, and its key for the container's own annotations as a JSON object.
/// The kubelet passes those, and has them from device plugins.
const CRIO: &str = "io.kubernetes.cri-o.";
const CRIO_CONTAINERS: &str = "io.kubernetes.cri-o.Annotations";
/// The longest such object that is read, in bytes.
const MAX_CONTAINERS: usize = 256 * 1024;

/// The prefix of containerd's own keys. It copies other annotations only if its configuration lists
/// them.
const CONTAINERD: &str = "io.kubernetes.cri.";

/// The keys of CRI-O and containerd for a container's type, and the type that is not a sandbox.
const TYPES: [&str; 2] = [
    "io.kubernetes.cri-o.ContainerType",
    "io.kubernetes.cri.container-type",
];
const CONTAINER: &str = "container";

/// Whether an annotation is evidence of the others' author.
pub(super) fn is_evidence(key: &str) -> bool {
    key == MANAGER || key.starts_with(CRIO) || key.starts_with(CONTAINERD)
}

/// The author of the container's annotations.
#[derive(Debug)]
pub(super) enum Authors {
    /// Possibly the image or the pod.
    Unproven,
    /// The engine, for all of them.
    Engine,
    /// The engine, for those that are here with the same value.
    These(BTreeMap<String, String>),
}

impl Authors {
    /// Identifies the engine. Reads nothing but the definition.
    pub(super) fn of(inputs: &Inputs<'_>) -> Self {
        let get = |key: &str| {
            let mut found = inputs.annotations.iter().filter(|(k, _)| k == key);
            found.next_back().map(|(_, value)| value.as_str())
        };
        let any = |prefix: &str| inputs.annotations.iter().any(|(k, _)| k.starts_with(prefix));
        let manager = get(MANAGER);
        let sandbox = TYPES.iter().any(|key| get(key).is_some_and(|t| t != CONTAINER));
        if manager == Some(PODMAN) || sandbox || !inputs.mounts.iter().any(by_kubelet) {
            return Self::Unproven;
        }
        // Before containerd: under CRI-O, a pod's author can write containerd's keys but cannot
        // hide CRI-O's.
        if manager.is_some() || any(CRIO) {
            let given = get(CRIO_CONTAINERS).filter(|text| text.len() <= MAX_CONTAINERS);
            let given = given.and_then(|text| serde_json::from_str(text).ok());
            return given.map_or(Self::Unproven, Self::These);
        }
        if any(CONTAINERD) {
            return Self::Engine;
        }
        Self::Unproven
    }

    /// The author of the annotation `key` with this value.
    pub(super) fn provenance(&self, key: &str, value: &str) -> Provenance {
        let engines = match self {
            Self::Unproven => false,
            Self::Engine => true,
            Self::These(given) => given.get(key).is_some_and(|v| v == value),
        };
        if engines {
            Provenance::Annotation
        } else {
            Provenance::AuthorAnnotation
        }
    }
}

/// Whether the kubelet gave this mount, as it does to each container of a pod and to no sandbox:
/// `/etc/hosts` or the termination log, from `ROOT/pods/UID/etc-hosts` or
/// `ROOT/pods/UID/containers/NAME/ID`.
fn by_kubelet(mount: &MountView<'_>) -> bool {
    let parts: Vec<&str> = mount.source.split('/').collect();
    let is_uid = |text: &str| {
        (32..=36).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
    };
    let plain = mount.source.starts_with('/') && !parts.iter().skip(1).any(|p| matches!(*p, "" | "." | ".."));
    plain
        && match parts.as_slice() {
            [.., "pods", uid, "etc-hosts"] => is_uid(uid) && mount.destination == "/etc/hosts",
            [.., "pods", uid, "containers", _, _] => is_uid(uid),
            _ => false,
        }
}
