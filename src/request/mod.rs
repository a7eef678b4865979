//! What a container asks for, and with what right.
//!
//! Pure: from the container's environment, annotations and mounts and the [`Config`] to a [`Request`].
//! Everything read here may have been written by whoever made the image, so every value is bounded in
//! length, number and characters, and every wish carries its [`Provenance`], by which policy decides.
//!
//! | what | from | needs, unless the engine asks |
//! |---|---|---|
//! | GPUs | volume mounts, else annotations, else the environment | `accept-envvar-unprivileged`, or CAP_SYS_ADMIN |
//! | GDS, MOFED, GDRCopy, NVSwitch, IMEX | a mount or annotation of that kind, or the environment | `accept-gated-unprivileged`, or CAP_SYS_ADMIN |
//! | CDI devices of other kinds | the same | a row of `accept-cdi-kinds`, then as for GPUs; of `accept-cdi-kinds-privileged`, CAP_SYS_ADMIN |
//! | its own settings | `nvoci.dev/<key>` annotations, else `NVOCI_<KEY>` variables | a row of `container-settings` |
//! | MIG config and monitor | the environment | CAP_SYS_ADMIN |
//!
//! [`provenance`] says which annotations are the engine's word, and decides what is granted.
//! What is not granted gives nothing and leaves a note; only a request that was granted can fail.

mod devices;
mod limits;
mod provenance;
mod require;
mod select;
mod selector;
mod settings;
mod variables;

use std::borrow::Cow;

use crate::config::Config;
use crate::error::{Code, Error, Result};

pub use crate::capabilities::Capabilities;
pub use crate::cdi_name::{CdiName, split_kind};
pub use provenance::{Chosen, Provenance};
pub use require::{Facts, Requirement, evaluate_all};
pub use select::{GpuView, Selected, needs_mig_uuids, select};
pub use selector::Selector;

use devices::Asked;
use limits::excerpt;
use provenance::{Policy, Refused, Wish};
use variables::Variables;

const CAPABILITIES: &str = "NVIDIA_DRIVER_CAPABILITIES";

/// Where a request reached us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EntryPoint {
    /// A hook that an engine put into the container's definition.
    Hook,
    /// The OCI runtime in front of runc or crun.
    Runtime,
    /// The hook entry of a CDI specification or of our own runtime: devices are in the definition already.
    Cdi,
}

/// A mount of the container's definition.
#[derive(Clone, Copy, Debug)]
pub struct MountView<'a> {
    /// What is mounted.
    pub source: &'a str,
    /// Where in the container.
    pub destination: &'a str,
}

/// All that a request is read from.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The container's environment; of a name that occurs twice the last one counts.
    pub env: &'a [(String, String)],
    /// The annotations of the definition.
    pub annotations: &'a [(String, String)],
    /// The mounts of the definition.
    pub mounts: &'a [MountView<'a>],
    /// Whether CAP_SYS_ADMIN is in the container's bounding set.
    pub privileged: bool,
    /// Where the request reached us.
    pub entry: EntryPoint,
}

/// What a container asks for and may have.
///
/// Where [`Request::devices`] is [`DeviceRequest::Nothing`] or [`DeviceRequest::Void`], only
/// [`Request::cdi`], [`Request::provenance`] and [`Request::notes`] have a meaning.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// The GPUs.
    pub devices: DeviceRequest,
    /// The parts of the driver.
    pub capabilities: Capabilities,
    /// What must hold of the host, all of them.
    pub requirements: Vec<Requirement>,
    /// Whether the container may configure MIG.
    pub mig_config: bool,
    /// Whether the container may watch all MIG devices.
    pub mig_monitor: bool,
    /// The IMEX channels.
    pub imex: ImexRequest,
    /// Features with device nodes of their own.
    pub gated: Gated,
    /// CDI names that only a specification on disk can explain, sorted, each once.
    pub cdi: Vec<CdiName>,
    /// On a Jetson: use every CSV file, not only the base ones (`NVIDIA_REQUIRE_JETPACK=csv-mounts=all`).
    pub jetpack_all: bool,
    /// The settings that the container has for itself; empty where it has what is configured.
    pub settings: Vec<Chosen>,
    /// Who asked.
    pub provenance: Provenance,
    /// What was ignored and why, for the record and for people.
    pub notes: Vec<String>,
}

impl Request {
    /// Whether the container is to be left alone.
    pub fn is_empty(&self) -> bool {
        matches!(self.devices, DeviceRequest::Nothing | DeviceRequest::Void) && self.cdi.is_empty()
    }

    /// `config` with the container's own settings: what counts for this container.
    pub fn settle<'c>(&self, config: &'c Config) -> Cow<'c, Config> {
        settings::settle(&self.settings, config)
    }

    fn of(asked: Asked, notes: Vec<String>) -> Self {
        Self {
            devices: asked.devices,
            capabilities: Capabilities::NONE,
            requirements: Vec::new(),
            mig_config: false,
            mig_monitor: false,
            imex: asked.imex,
            gated: asked.gated,
            cdi: asked.cdi,
            jetpack_all: false,
            settings: Vec::new(),
            provenance: asked.provenance,
            notes,
        }
    }
}

/// Which GPUs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DeviceRequest {
    /// Nothing was asked for: not a GPU container.
    Nothing,
    /// `void`: explicitly nothing.
    Void,
    /// `none`: driver files and control nodes, but no GPU; also a container whose GPUs are in its
    /// definition already ([`EntryPoint::Cdi`]).
    NoneDevices,
    /// Every GPU and every MIG device.
    All,
    /// These, each once, in the order asked; never empty.
    List(Vec<Selector>),
}

/// Which IMEX channels.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum ImexRequest {
    /// None.
    #[default]
    Nothing,
    /// Every channel whose node exists.
    All,
    /// These, sorted, each once, below 2^20; never empty.
    Channels(Vec<u32>),
}

/// Features with device nodes of their own that a container must name to get.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Gated {
    /// GPUDirect Storage: `/dev/nvidia-fs*`.
    pub gds: bool,
    /// InfiniBand verbs: `/dev/infiniband/uverbs*`, `rdma_cm`.
    pub mofed: bool,
    /// GDRCopy: `/dev/gdrdrv`.
    pub gdrcopy: bool,
    /// NVSwitch: `/dev/nvidia-nvswitch*`.
    pub nvswitch: bool,
}

/// Whether anything in the inputs looks like a request; `false` is certain, and the container can be left
/// alone without another look. Never fails: a broken value looks like a request.
///
/// Where the configuration is broken, ask with the defaults: a container that asks for nothing must start,
/// and one that asks gets the configuration's error.
pub fn wants_gpu_fast(inputs: &Inputs<'_>, config: &Config) -> bool {
    inputs.entry == EntryPoint::Cdi || devices::any(inputs, config)
}

/// Whether a request may be read from the variable `name`.
pub fn reads_variable(name: &str, config: &Config) -> bool {
    Variables::matters(name, &config.swarm_resource)
}

/// Whether a request may be read from the annotation `key`.
pub fn reads_annotation(key: &str, config: &Config) -> bool {
    settings::is_annotation(key) || devices::reads_annotation(key, config)
}

/// Whether a mount of this source is read: it asks for a device, or shows who wrote the annotations.
pub fn reads_mount(source: &str) -> bool {
    source.contains("null") || source.contains("/pods/")
}

/// Reads the request.
///
/// # Errors
/// [`Code::Malformed`] and [`Code::Capability`]; never for a container that asks for
/// no GPU or may not have one.
pub fn parse(inputs: &Inputs<'_>, config: &Config) -> Result<Request> {
    let variables = Variables::gather(inputs.env, &config.swarm_resource);
    let mut notes = Vec::new();
    let asked = devices::asked(inputs, &variables, config, &mut notes)?;
    let mut request = Request::of(asked, notes);
    if !request.is_empty() {
        memory_limits(&variables, &mut request.notes);
    }
    if matches!(request.devices, DeviceRequest::Nothing | DeviceRequest::Void) {
        return Ok(request);
    }
    let notes = &mut request.notes;
    request.capabilities = capabilities_of(&variables, *config.supported_driver_capabilities, inputs.entry)?;
    if !*config.disable_require && !variables.flag("NVIDIA_DISABLE_REQUIRE") {
        request.requirements = requirements_of(&variables, notes)?;
    }
    request.jetpack_all = variables.get("NVIDIA_REQUIRE_JETPACK") == Some("csv-mounts=all");
    request.mig_config = mig_right(
        "NVIDIA_MIG_CONFIG_DEVICES",
        &variables,
        inputs,
        &request.devices,
        notes,
    )?;
    request.mig_monitor = mig_right(
        "NVIDIA_MIG_MONITOR_DEVICES",
        &variables,
        inputs,
        &request.devices,
        notes,
    )?;

    let policy = Policy::of(inputs, config);
    request.settings = settings::chosen(inputs, &variables, policy, config, notes);
    let granted = policy.granted(Provenance::Env, Wish::Gated);
    gate(&mut request.gated, &variables, granted, notes);
    if *config.ignore_imex_channel_requests {
        request.imex = ImexRequest::Nothing;
    } else if request.imex == ImexRequest::Nothing {
        request.imex = imex_of(&variables, granted, notes)?;
    }
    Ok(request)
}

/// What the variable says; of an image that does not know of it, what it was used to.
///
/// A container that was given a CDI device and sets no variable gets every part: whoever writes `--device
/// nvidia.com/gpu=all` on a machine with the vendor's specification gets all of them, desktop and video programs among
/// them, and no image of those sets the variable.
fn capabilities_of(
    variables: &Variables<'_>,
    supported: Capabilities,
    entry: EntryPoint,
) -> Result<Capabilities> {
    let value = match variables.get(CAPABILITIES) {
        None if variables.is_legacy_image() || entry == EntryPoint::Cdi => return Ok(supported),
        None => "",
        Some(value) => value,
    };
    limits::list(CAPABILITIES, value)?;
    if value
        .split(',')
        .any(|item| item.trim().eq_ignore_ascii_case("all"))
    {
        // Still no typo beside `all`.
        unknown_capability(Capabilities::from_list(value))?;
        return Ok(supported);
    }
    let named = unknown_capability(Capabilities::from_list(value))?;
    if named.is_empty() {
        return Ok(Capabilities::DEFAULT & supported);
    }
    check_supported(named, supported)?;
    Ok(named)
}

/// Checks that the configuration supports every requested capability.
///
/// # Errors
/// [`Code::Capability`], naming the others.
pub fn check_supported(named: Capabilities, supported: Capabilities) -> Result<()> {
    let refused = named.without(supported);
    if refused.is_empty() {
        return Ok(());
    }
    let why = format!("{refused} not allowed here: supported-driver-capabilities is {supported}");
    Err(Error::new(Code::Capability, CAPABILITIES, why))
}

fn unknown_capability(parsed: Result<Capabilities, &str>) -> Result<Capabilities> {
    parsed.map_err(|item| {
        let why = format!("`{}` is not a driver capability", excerpt(item));
        Error::new(Code::Capability, CAPABILITIES, why)
    })
}

fn requirements_of(variables: &Variables<'_>, notes: &mut Vec<String>) -> Result<Vec<Requirement>> {
    let mut requirements = Vec::new();
    for (name, value) in variables.requirements() {
        limits::count("NVIDIA_REQUIRE_*", requirements.len() + 1)?;
        requirements.push(Requirement::parse(name, value, notes)?);
    }
    if let Some(version) = variables.legacy_cuda_version() {
        match Requirement::of_cuda_version(version) {
            Some(requirement) => requirements.push(requirement),
            None => limits::note(notes, || {
                format!(
                    "CUDA_VERSION=`{}` is not a version and was not checked",
                    excerpt(version)
                )
            }),
        }
    }
    Ok(requirements)
}

/// Warns of variables that limit a container's GPU memory, which needs NVIDIA's driver 615 and its NVML.
fn memory_limits(variables: &Variables<'_>, notes: &mut Vec<String>) {
    for name in ["NVIDIA_GPU_MEMORY_REQUEST", "NVIDIA_GPU_MEMORY_LIMIT"] {
        if variables.get(name).is_some_and(|value| !value.trim().is_empty()) {
            let why = "nvoci does not limit GPU memory: the container can use all of its GPUs' memory";
            limits::note(notes, || Error::new(Code::MemoryLimit, name, why).to_string());
        }
    }
}

/// Whether the container has one of the rights over all MIG devices.
///
/// Without CAP_SYS_ADMIN it has none, whatever an image's variables say, and starts without it: as with the
/// gated features, what is not granted is ignored and said.
fn mig_right(
    name: &str,
    variables: &Variables<'_>,
    inputs: &Inputs<'_>,
    devices: &DeviceRequest,
    notes: &mut Vec<String>,
) -> Result<bool> {
    let value = variables.get(name).map_or("", str::trim);
    if value.is_empty() {
        return Ok(false);
    }
    if !inputs.privileged {
        limits::note(notes, || {
            format!("ignored {name}: it needs CAP_SYS_ADMIN, which the container does not have")
        });
        return Ok(false);
    }
    if !value.eq_ignore_ascii_case("all") {
        let why = format!("got `{}`, only `all` is possible", excerpt(value));
        return Err(Error::new(Code::Malformed, name, why));
    }
    match devices {
        DeviceRequest::List(list) if list.iter().any(Selector::is_mig) => {
            let why = "it cannot be had together with single MIG devices";
            Err(Error::new(Code::Malformed, name, why).fix("ask for whole GPUs"))
        }
        _ => Ok(true),
    }
}

fn gate(gated: &mut Gated, variables: &Variables<'_>, granted: Result<(), Refused>, notes: &mut Vec<String>) {
    let features = [
        ("NVIDIA_GDS", &mut gated.gds),
        ("NVIDIA_MOFED", &mut gated.mofed),
        ("NVIDIA_GDRCOPY", &mut gated.gdrcopy),
        ("NVIDIA_NVSWITCH", &mut gated.nvswitch),
    ];
    for (name, feature) in features {
        match variables.get(name).map_or("", str::trim) {
            "enabled" => match granted {
                Err(refused) if !*feature => limits::note(notes, || ignored(name, refused)),
                granted => *feature |= granted.is_ok(),
            },
            "" | "disabled" => {}
            other => limits::note(notes, || {
                format!(
                    "ignored {name}=`{}`: only `enabled` has a meaning",
                    excerpt(other)
                )
            }),
        }
    }
}

/// `none` is none: the vendor's tool takes it for every channel (toolkit-features 12, quirk 3).
fn imex_of(
    variables: &Variables<'_>,
    granted: Result<(), Refused>,
    notes: &mut Vec<String>,
) -> Result<ImexRequest> {
    const NAME: &str = "NVIDIA_IMEX_CHANNELS";
    let value = variables.get(NAME).map_or("", str::trim);
    if matches!(value, "" | "none" | "void") {
        return Ok(ImexRequest::Nothing);
    }
    if let Err(refused) = granted {
        limits::note(notes, || ignored(NAME, refused));
        return Ok(ImexRequest::Nothing);
    }
    if value.eq_ignore_ascii_case("all") {
        return Ok(ImexRequest::All);
    }
    let channels = limits::list(NAME, value)?
        .into_iter()
        .map(|item| devices::imex_channel(NAME, item));
    Ok(devices::imex_channels(channels.collect::<Result<_>>()?))
}

/// The note on what was not granted.
fn ignored(what: &str, refused: Refused) -> String {
    format!("ignored {what}: {}", refused.why())
}

#[cfg(test)]
mod tests;
