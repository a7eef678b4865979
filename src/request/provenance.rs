//! Who wrote a request, and what that person may ask for: the one place where policy decides.
//!
//! Who can write an annotation of an OCI definition, by engine:
//!
//! | engine | image author | pod author | device plugin |
//! |---|---|---|---|
//! | CRI-O | no | any key (it copies the pod's) | a key that is in `io.kubernetes.cri-o.Annotations` too |
//! | containerd | no | what the administrator lists in `pod_annotations` | what is listed in `container_annotations` |
//! | Podman | any key with 4.3, none with 5.8; `io.container.manager` too, which it sets only where it is missing | - | - |
//! | Docker, others | unknown | - | - |
//!
//! So an annotation names no engine: an image under Podman can write every marker of every engine. What no
//! author of an image can write is a mount of kubelet's, whose source the engine was given ([`by_kubelet`]). The
//! same mount is missing in a pod's sandbox, in which CRI-O writes the pod's annotations over its own.
//! Where several engines' markers are present, the least trusting row decides.

use std::collections::BTreeMap;

use crate::config::{Choice, Config, Mode, Preflight};

use super::{CdiName, Inputs, MountView};

/// Who asked for the GPUs.
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

/// What can be asked for, by what policy says of it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wish<'a> {
    /// GPUs of this host.
    Gpus,
    /// GDS, MOFED, GDRCopy, NVSwitch or IMEX channels.
    Gated,
    /// A device that only a CDI specification explains.
    Named(&'a CdiName),
}

/// Why a wish is not granted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refused {
    /// Variables are not accepted.
    Unprivileged,
    /// The gated features are not.
    Gated,
    /// The CDI kind is not.
    Kind,
    /// The CDI kind is accepted from privileged containers.
    KindUnprivileged,
}

impl Refused {
    /// The reason and its fix, for a note.
    pub(super) const fn why(self) -> &'static str {
        match self {
            Self::Unprivileged => "the container is unprivileged and `accept-envvar-unprivileged` is off",
            Self::Gated => {
                "an unprivileged container may ask for this by a mount or a CDI device only \
                 (`accept-gated-unprivileged = true` allows the variable)"
            }
            Self::Kind => {
                "its CDI kind is not one that a container may ask for (the administrator lists it in \
                 `accept-cdi-kinds`, or gives the device to the engine)"
            }
            Self::KindUnprivileged => {
                "its CDI kind is one that a privileged container (CAP_SYS_ADMIN, no user namespace of its own) may ask \
                 for (`accept-cdi-kinds-privileged`), and this one is unprivileged"
            }
        }
    }
}

/// Why a setting stays as the host has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kept {
    /// It is not a container's to choose.
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

/// What this host's administrator and this container's rights allow.
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

    /// Whether `from` may ask for `wish`. Every source goes through here, whatever it asks for.
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

    /// What `from` chooses by the variable or annotation `name`, where it may.
    pub(super) fn chosen(&self, from: Provenance, name: &str, choice: Choice) -> Result<Chosen, Kept> {
        let config = self.config;
        if !choice.is_in(config) {
            // Whatever is listed: the list is about what a container may have, the check about what may run.
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

    /// Whether the administrator accepts the kind from everybody who may ask for GPUs. With `mode = "cdi"`
    /// words are names of the default kind, so that one is accepted.
    fn lists(&self, name: &CdiName) -> bool {
        self.config
            .accept_cdi_kinds
            .iter()
            .any(|kind| name.has_kind(kind))
            || (*self.config.mode == Mode::Cdi && name.has_kind(&self.config.default_kind))
    }

    /// Whether the administrator accepts the kind from privileged containers.
    fn lists_privileged(&self, name: &CdiName) -> bool {
        let mut kinds = self.config.accept_cdi_kinds_privileged.iter();
        kinds.any(|kind| name.has_kind(kind))
    }
}

/// A container's own value of a setting, which policy has granted, and who wrote it. Only [`Policy::chosen`] makes one.
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

    /// Who can have written it.
    pub fn by(&self) -> Provenance {
        self.by
    }
}

/// The kinds that NVIDIA's device plugin and DRA driver name in annotations: those of the host, and of specifications
/// that they write themselves.
fn is_device_plugins(name: &CdiName) -> bool {
    const VENDORS: [&str; 3] = ["nvidia.com", "k8s.device-plugin.nvidia.com", "k8s.gpu.nvidia.com"];
    VENDORS.contains(&name.vendor.as_str())
}

/// The annotation with which Podman and CRI-O mark their containers, and what Podman writes.
const MANAGER: &str = "io.container.manager";
const PODMAN: &str = "libpod";

/// CRI-O's keys, and the one that holds the annotations that it was given for this container (by the kubelet,
/// which has them from device plugins), as a JSON object.
const CRIO: &str = "io.kubernetes.cri-o.";
const CRIO_CONTAINERS: &str = "io.kubernetes.cri-o.Annotations";
/// Their longest text that is read, in bytes.
const MAX_CONTAINERS: usize = 256 * 1024;

/// containerd's keys. It passes on what its configuration lists, and writes these itself.
const CONTAINERD: &str = "io.kubernetes.cri.";

/// CRI-O's and containerd's key for the type of a container of a pod, and the type that is no sandbox.
const TYPES: [&str; 2] = [
    "io.kubernetes.cri-o.ContainerType",
    "io.kubernetes.cri.container-type",
];
const CONTAINER: &str = "container";

/// Whether an annotation tells who wrote the others.
pub(super) fn is_evidence(key: &str) -> bool {
    key == MANAGER || key.starts_with(CRIO) || key.starts_with(CONTAINERD)
}

/// Whose word this container's annotations are.
#[derive(Debug)]
pub(super) enum Authors {
    /// Anybody's.
    Anybody,
    /// The engine's, all of them.
    Engine,
    /// The engine's, where they are here with the same value.
    These(BTreeMap<String, String>),
}

impl Authors {
    /// Finds out by which engine the container is made. Needs nothing but the definition.
    pub(super) fn of(inputs: &Inputs<'_>) -> Self {
        let get = |key: &str| {
            let mut found = inputs.annotations.iter().filter(|(k, _)| k == key);
            found.next_back().map(|(_, value)| value.as_str())
        };
        let any = |prefix: &str| inputs.annotations.iter().any(|(k, _)| k.starts_with(prefix));
        let manager = get(MANAGER);
        let sandbox = TYPES.iter().any(|key| get(key).is_some_and(|t| t != CONTAINER));
        if manager == Some(PODMAN) || sandbox || !inputs.mounts.iter().any(by_kubelet) {
            return Self::Anybody;
        }
        // Before containerd: a pod author can write containerd's keys under CRI-O, and not hide CRI-O's own.
        if manager.is_some() || any(CRIO) {
            let given = get(CRIO_CONTAINERS).filter(|text| text.len() <= MAX_CONTAINERS);
            let given = given.and_then(|text| serde_json::from_str(text).ok());
            return given.map_or(Self::Anybody, Self::These);
        }
        if any(CONTAINERD) {
            return Self::Engine;
        }
        Self::Anybody
    }

    /// Where the annotation `key` with this value comes from.
    pub(super) fn provenance(&self, key: &str, value: &str) -> Provenance {
        let engines = match self {
            Self::Anybody => false,
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

/// Whether a mount is one that the kubelet gives to each container of a pod, and to no sandbox: `/etc/hosts` or the
/// termination log, from `ROOT/pods/UID/etc-hosts` or `ROOT/pods/UID/containers/NAME/ID`.
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
