//! Parses a container's request for GPUs, and decides which parts are granted.
//!
//! Pure: the container's environment, annotations and mounts and the [`Config`] become a
//! [`Request`]. An image's author can write most of these inputs. So every value is bounded in
//! length, number and characters, and every part has a [`Provenance`], by which policy decides. For
//! example, the variable `NVIDIA_VISIBLE_DEVICES=0` of an unprivileged container becomes a request
//! for GPU 0 if `accept-envvar-unprivileged` is on, and a note if it is off.
//!
//! | request | source | right that it needs, unless the engine wrote it |
//! |---|---|---|
//! | GPUs | volume mounts, else annotations, else the environment | `accept-envvar-unprivileged`, or CAP_SYS_ADMIN |
//! | GDS, MOFED, GDRCopy, NVSwitch, IMEX | a mount or annotation of that kind, or the environment | `accept-gated-unprivileged`, or CAP_SYS_ADMIN |
//! | CDI devices of other kinds | the same | a row of `accept-cdi-kinds`, then as for GPUs; of `accept-cdi-kinds-privileged`, CAP_SYS_ADMIN |
//! | its own settings | `nvoci.dev/<key>` annotations, else `NVOCI_<KEY>` variables | a row of `container-settings` |
//! | MIG config and monitor | the environment | CAP_SYS_ADMIN |
//!
//! [`provenance`] decides which annotations count as the engine's, and which parts are granted. A
//! refused part leaves a note; only a granted part can fail.

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

use devices::Requested;
use limits::excerpt;
use provenance::{Policy, Refused, Wish};
use variables::Variables;

const CAPABILITIES: &str = "NVIDIA_DRIVER_CAPABILITIES";

/// The entry point that received the request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EntryPoint {
    /// A hook that an engine put into the container's definition.
    Hook,
    /// The OCI runtime in front of runc or crun.
    Runtime,
    /// The hook entry of a CDI specification or of nvoci's runtime. The definition has the devices
    /// already.
    Cdi,
}

/// A mount of the container's definition.
#[derive(Clone, Copy, Debug)]
pub struct MountView<'a> {
    /// The mounted file or directory.
    pub source: &'a str,
    /// The path in the container.
    pub destination: &'a str,
}

/// The inputs of a request.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The container's environment. If a name occurs twice, the last one counts.
    pub env: &'a [(String, String)],
    /// The annotations of the definition.
    pub annotations: &'a [(String, String)],
    /// The mounts of the definition.
    pub mounts: &'a [MountView<'a>],
    /// Whether CAP_SYS_ADMIN is in the container's bounding set.
    pub privileged: bool,
    /// The entry point that received the request.
    pub entry: EntryPoint,
}

/// A container's request, after policy.
///
/// If [`Request::devices`] is [`DeviceRequest::Nothing`] or [`DeviceRequest::Void`], only
/// [`Request::cdi`], [`Request::provenance`] and [`Request::notes`] have a meaning.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// The GPUs.
    pub devices: DeviceRequest,
    /// The parts of the driver.
    pub capabilities: Capabilities,
    /// The conditions on the host; all must hold.
    pub requirements: Vec<Requirement>,
    /// Whether the container may configure MIG.
    pub mig_config: bool,
    /// Whether the container may watch all MIG devices.
    pub mig_monitor: bool,
    /// The IMEX channels.
    pub imex: ImexRequest,
    /// Features with device nodes of their own.
    pub gated: Gated,
    /// CDI names that need a specification on disk; sorted, each once.
    pub cdi: Vec<CdiName>,
    /// On a Jetson: use every CSV file, not only the base ones
    /// (`NVIDIA_REQUIRE_JETPACK=csv-mounts=all`).
    pub jetpack_all: bool,
    /// The container's own settings; empty if it uses the configuration as it is.
    pub settings: Vec<Chosen>,
    /// The author of the request.
    pub provenance: Provenance,
    /// Ignored parts with reasons, for the record and for people.
    pub notes: Vec<String>,
}

impl Request {
    /// Whether nvoci leaves the container alone.
    pub fn is_empty(&self) -> bool {
        matches!(self.devices, DeviceRequest::Nothing | DeviceRequest::Void) && self.cdi.is_empty()
    }

    /// `config` with the container's own settings.
    pub fn settle<'c>(&self, config: &'c Config) -> Cow<'c, Config> {
        settings::settle(&self.settings, config)
    }

    fn of(requested: Requested, notes: Vec<String>) -> Self {
        Self {
            devices: requested.devices,
            capabilities: Capabilities::NONE,
            requirements: Vec::new(),
            mig_config: false,
            mig_monitor: false,
            imex: requested.imex,
            gated: requested.gated,
            cdi: requested.cdi,
            jetpack_all: false,
            settings: Vec::new(),
            provenance: requested.provenance,
            notes,
        }
    }
}

/// The requested GPUs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DeviceRequest {
    /// No request: not a GPU container.
    Nothing,
    /// `void`: an explicit request for nothing.
    Void,
    /// `none`: driver files and control nodes without a GPU. Also a container whose definition has
    /// its GPUs already ([`EntryPoint::Cdi`]).
    NoneDevices,
    /// Every GPU and every MIG device.
    All,
    /// These, each once, in the order of the request; never empty.
    List(Vec<Selector>),
}

/// The requested IMEX channels.
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

/// Features with device nodes of their own. A container gets one only if it names it.
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

/// Whether the inputs may contain a request. `false` is certain: the container can be left alone.
/// Never fails: a broken value counts as a request.
///
/// If the configuration is broken, pass the defaults. A container without a request must start; one
/// with a request gets the configuration's error.
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

/// Whether a mount of this source is read: it requests a device, or proves who wrote the
/// annotations.
pub fn reads_mount(source: &str) -> bool {
    source.contains("null") || source.contains("/pods/")
}

/// Parses the request.
///
/// # Errors
/// [`Code::Malformed`] and [`Code::Capability`]; never for a container that requests no GPU or may
/// not have one.
pub fn parse(inputs: &Inputs<'_>, config: &Config) -> Result<Request> {
    let variables = Variables::gather(inputs.env, &config.swarm_resource);
    let mut notes = Vec::new();
    let requested = devices::requested(inputs, &variables, config, &mut notes)?;
    let mut request = Request::of(requested, notes);
    if !request.is_empty() {
        push_memory_limits(&variables, &mut request.notes);
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
    request.settings = settings::chosen(inputs, &variables, policy, config, None, notes);
    let granted = policy.granted(Provenance::Env, Wish::Gated);
    gate(&mut request.gated, &variables, granted, notes);
    if *config.ignore_imex_channel_requests {
        request.imex = ImexRequest::Nothing;
    } else if request.imex == ImexRequest::Nothing {
        request.imex = imex_of(&variables, granted, notes)?;
    }
    Ok(request)
}

/// The settings that a container has for itself, for a container whose devices come from a
/// specification that is not nvoci's. Only the setting `noted` counts there, and notes on the
/// values of others are left out.
pub fn settings_of(
    inputs: &Inputs<'_>,
    config: &Config,
    noted: &str,
    notes: &mut Vec<String>,
) -> Vec<Chosen> {
    let variables = Variables::gather(inputs.env, &config.swarm_resource);
    let policy = Policy::of(inputs, config);
    settings::chosen(inputs, &variables, policy, config, Some(noted), notes)
}

/// Warnings of the variables that limit a container's GPU memory.
pub fn memory_limits(inputs: &Inputs<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    push_memory_limits(&Variables::gather(inputs.env, &[]), &mut notes);
    notes
}

/// The capabilities of the variable; without it, the default that the image was built for.
///
/// A container with a CDI device and no variable gets all of them. `--device nvidia.com/gpu=all`
/// gives all of them with the vendor's specification too, and images of video programs rely on it.
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
        // A typo is an error beside `all` too.
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

/// Warns of variables that limit a container's GPU memory, which needs NVIDIA's driver 615 and its
/// NVML.
fn push_memory_limits(variables: &Variables<'_>, notes: &mut Vec<String>) {
    for name in ["NVIDIA_GPU_MEMORY_REQUEST", "NVIDIA_GPU_MEMORY_LIMIT"] {
        if variables.get(name).is_some_and(|value| !value.trim().is_empty()) {
            let why = "nvoci does not limit GPU memory: the container can use all of its GPUs' memory";
            limits::note(notes, || Error::new(Code::MemoryLimit, name, why).to_string());
        }
    }
}

/// Whether the container has one of the rights over all MIG devices.
///
/// Without CAP_SYS_ADMIN it has none. An image's variable is then ignored with a note, like a gated
/// feature, and the container starts.
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
            Err(Error::new(Code::Malformed, name, why).fix("request whole GPUs"))
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

/// `none` is none. The vendor's tool reads it as every channel (toolkit-features 12, quirk 3).
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

/// The note on a part that policy refused.
fn ignored(what: &str, refused: Refused) -> String {
    format!("ignored {what}: {}", refused.why())
}

#[cfg(test)]
mod tests;
