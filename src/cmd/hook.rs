//! The OCI hook. The low-level runtime runs it while it creates a container, with the state on
//! standard input.
//!
//! | stage | mount namespace | process id in the state |
//! |---|---|---|
//! | `prestart`, `createRuntime` | the runtime's; the hook enters the container's | the container's first process |
//! | `createContainer` | the container's; the host's root is still reachable | 0, 1 or -1: never used |

pub(super) mod bundle;
pub(super) mod devices;
pub(super) mod rehearsal;
mod selinux;
pub mod steps;
mod warn;

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use self::steps::{Call, Requested};
use super::cli::{Command, Page, Words, argument, flag};
use super::inject::{self, Discovery};
use crate::apply::record::{self, Errors};
use crate::apply::{Grant, Grants, Record, image};
use crate::config::{Config, Preflight};
use crate::error::{Code, Error, Escaped, IoContext as _, Result};
use crate::host::Roots;
use crate::oci::{DeviceKind, Spec, State};
use crate::plan::{Device, Place, Plan};
use crate::preflight::{self, Verdict};
use crate::request::{DeviceRequest, EntryPoint, Request};
use crate::sys::ns::{MountNs, root_of};
use crate::sys::process;
use crate::sys::root::{Node, Root};

pub(super) static COMMAND: Command<Options> = Command {
    page: Page {
        name: "nvoci hook",
        summary: "run as an OCI hook: prestart, createRuntime or createContainer",
        usage: &[
            "nvoci hook [prestart|createRuntime|createContainer]",
            "nvidia-container-runtime-hook [-config FILE] [-debug] prestart",
        ],
        about: &[
            "Gives a container the host's GPUs while the runtime creates it.",
            "runc, crun, youki or an engine calls it as an OCI hook, with the container's state on standard \
             input; do not call it by hand. The container gets what its NVIDIA_VISIBLE_DEVICES and \
             NVIDIA_DRIVER_CAPABILITIES request; `nvoci plan BUNDLE` shows it.",
            "A container that requests nothing is left alone. A request that cannot be met stops the \
             container with one line on standard error, which is kept in \
             /run/nvoci/errors/<container id>.json as well.",
            "A container that starts although it cannot compute on its GPU leaves a warning in the system's \
             journal and in /run/nvoci/warnings; `nvoci doctor --last` shows it.",
        ],
        arguments: &[
            argument("STAGE", "the hook's name in the container's definition").values(&[
                "prestart",
                "createRuntime",
                "createContainer",
            ]),
        ],
        ..Page::EMPTY
    },
    flags: &[
        flag("config", "use another configuration").path("FILE", |o, file| o.config = Some(file)),
        flag("debug", "print the record of the injection").switch(|o| o.debug = true),
        flag(
            "devices-in-spec",
            "the runtime makes the device nodes and their rules",
        )
        .hidden()
        .switch(|o| {
            o.devices_in_spec = true;
        }),
        flag("cdi", "a CDI specification names this hook")
            .hidden()
            .switch(|o| o.cdi = true),
        flag(
            "devices",
            "the specification names no devices: it is older than the driver",
        )
        .values(&["all"])
        .hidden()
        .text("", |o, value| {
            if value != "all" {
                return Err(format!("`{value}` is not `all`"));
            }
            o.all_devices = true;
            Ok(())
        }),
        flag("version", "print the version").shows(super::VERSION),
    ],
    words: Words::One(|o, stage| {
        o.stage = match stage.to_str() {
            Some("prestart" | "createRuntime") => Stage::Outside,
            Some("createContainer") => Stage::Inside,
            Some("poststart" | "poststop" | "startContainer") => Stage::Other,
            _ => return Err(format!("`{}` is not a stage", stage.display())),
        };
        Ok(())
    }),
    one_dash: true,
    ..Command::of(|options| run(&options))
};

/// The point in a container's life at which the runtime called the hook.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Stage {
    /// In the runtime's namespaces.
    Outside,
    /// In the container's namespaces.
    Inside,
    /// The command line names no stage.
    #[default]
    Missing,
    /// A stage at which the hook does nothing.
    Other,
}

#[derive(Debug, Default)]
pub(super) struct Options {
    stage: Stage,
    config: Option<PathBuf>,
    debug: bool,
    /// The runtime makes the device nodes and their rules.
    devices_in_spec: bool,
    /// A CDI specification names the hook: the engine has given the devices already.
    cdi: bool,
    /// The specification is older than the driver, so it names no devices.
    all_devices: bool,
}

impl Options {
    /// The entry point of the request.
    fn entry(&self) -> EntryPoint {
        match (self.cdi, self.devices_in_spec) {
            (true, _) => EntryPoint::Cdi,
            // nvoci's runtime put the devices into the spec, and accepted annotations as requests
            // too.
            (false, true) => EntryPoint::Runtime,
            (false, false) => EntryPoint::Hook,
        }
    }
}

fn run(options: &Options) -> Result<ExitCode> {
    let started = Instant::now();
    if options.stage == Stage::Missing {
        return Err(COMMAND.usage_error("no stage was given: prestart, createRuntime or createContainer"));
    }
    if options.stage == Stage::Other {
        return Ok(ExitCode::SUCCESS);
    }
    if std::io::stdin().is_terminal() {
        return Err(Error::new(
            Code::State,
            "container state",
            "standard input is a terminal, not a state",
        ));
    }
    process::isolate().context(Code::System, || "resetting the inherited process state")?;
    // runc starts a hook and only then writes the state, so the hook reads the configuration
    // meanwhile.
    let config = super::load_config(options.config.as_deref());
    let discovery = match &config {
        Ok(config) if options.devices_in_spec => Some(Discovery::begin(config).map(Box::new)),
        _ => None,
    };
    let state = State::read(std::io::stdin().lock().by_ref())?;
    // Opened before the hook enters the container's mount namespace, where /run is another
    // directory.
    let run = record::run_dir().ok();
    let call = Call {
        options,
        state: &state,
        started,
    };
    let result = inject(call, config, discovery, run.as_ref());
    match &result {
        Ok(Some(record)) => log::info!("{}: {record:?}", state.id),
        Ok(None) => log::debug!("{}: requests nothing", state.id),
        Err(error) => log::error!("{}: {error}", state.id),
    }
    if let (Err(error), Some(run)) = (&result, &run) {
        // The record on the host belongs to root, not to the container's root.
        let _ = process::make_files_as(0, 0);
        // The refusal matters; a failure to record it changes nothing.
        let _ = Errors::below(run).and_then(|errors| errors.keep(&state.id, error));
    }
    if let Some(record) = result? {
        inject::warn(&record.warnings);
        if options.debug {
            inject::write_line(&format!("{record:?}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes the steps in the only order that compiles; `None` if the container requests nothing.
fn inject(
    call: Call<'_>,
    config: Result<Box<Config>>,
    discovery: Option<Result<Box<Discovery>>>,
    run: Option<&Node>,
) -> Result<Option<Record>> {
    // Kept for the whole call: freeing it early would map and unmap memory again and again.
    let defaults = super::default_config();
    let Some(requested) = Requested::read(call, config, &defaults, discovery, run)? else {
        return match call.options.entry() {
            EntryPoint::Runtime => Err(another_definition(call.state)),
            EntryPoint::Hook | EntryPoint::Cdi => Ok(None),
        };
    };
    let applied = requested.plan()?.open()?.enter()?.apply()?;
    Ok(Some(applied.keep()))
}

/// nvoci's runtime writes this hook only into a definition that requests GPUs, with their devices.
/// So a definition without a request is not that one.
fn another_definition(state: &State) -> Error {
    Error::new(
        Code::Bundle,
        format!("{}/config.json", state.bundle.display()),
        "it requests no GPU, but nvoci's runtime edited a definition that does",
    )
    .fix("name the definition config.json instead of `--config FILE`, and change neither it nor nvoci's configuration during the start")
}

/// Records the devices that a container was given; of two injections the first counts.
pub(super) fn keep(grants: &Grants, record: &Record, mut grant: Grant) {
    if record.already_there {
        return;
    }
    grant.driver_dir.clone_from(&record.driver_dir);
    // Without the record only `doctor container --fix` refuses.
    if let Err(e) = grants.keep(&grant) {
        log::warn!("{}: its grant cannot be kept: {e}", Escaped(&grant.container));
    }
}

/// The request that this call of the hook must meet, if there is one.
fn request_of(spec: &Spec, config: &Config, options: &Options) -> Result<Option<Request>> {
    let entry = options.entry();
    let Some(mut request) = inject::request_of(spec, config, entry)? else {
        return Ok(None);
    };
    // With nvoci's runtime, the definition has them already.
    if entry == EntryPoint::Hook && !request.cdi.is_empty() {
        return Err(only_an_engine(&request));
    }
    if options.all_devices {
        request.devices = DeviceRequest::All;
    }
    Ok(Some(request))
}

/// The plan, its host, and the devices that the container's cgroup does not allow yet.
fn planned(
    discovery: Discovery,
    request: Request,
    spec: &Spec,
    config: &Config,
    options: &Options,
) -> Result<(Plan, Roots, Vec<Device>)> {
    if options.cdi && options.devices_in_spec {
        let engine = inject::Engine::of(spec, options.stage == Stage::Inside);
        return inject::prepare_granted(discovery, request, spec, config, engine);
    }
    let (mut plan, host) = inject::prepare(discovery, &request, config)?;
    let to_allow = if options.devices_in_spec {
        Vec::new()
    } else {
        plan.devices.clone()
    };
    if options.entry() == EntryPoint::Hook && !plan.env.is_empty() {
        plan.warnings.push(
            "[[extra]] env: a hook runs too late to set variables; use the runtime or a CDI specification"
                .to_owned(),
        );
    }
    Ok((plan, host, to_allow))
}

/// Enters the container as its root user, and drops rights that are not needed there. `pid` is a
/// process of a container that this process is outside of, `namespace` the one to enter.
pub(super) fn go_inside(pid: Option<i32>, namespace: Option<MountNs>) -> Result<()> {
    if let Some(pid) = pid {
        let what = || "the container's user namespace";
        if let Some((uid, gid)) = root_of(pid).context(Code::NotAContainer, what)? {
            process::make_files_as(uid, gid).context(Code::System, what)?;
        }
    }
    if let Some(namespace) = namespace {
        namespace
            .enter()
            .context(Code::Mount, || "entering the container's mount namespace")?;
    }
    process::confine();
    Ok(())
}

/// Checks by a few files whether the container can compute. At most the driver directory is new in
/// it.
fn preflight(plan: &Plan, spec: &Spec, root: &Root, policy: Preflight) -> Verdict {
    if policy == Preflight::Off || plan.devices.is_empty() {
        return Verdict::default();
    }
    let container = preflight::Container {
        root,
        env: &spec.env(),
        cwd: &spec.cwd(),
        program: spec.program(),
        driver_dirs: &image::possible_dirs(plan),
        library_dir: Path::new(Place::Lib64.dir()),
    };
    let gpus = plan.gpus.iter().map(|gpu| gpu.name.clone());
    let target = preflight::target(plan.driver_version, plan.wsl, gpus);
    preflight::check(&container, &target, policy)
}

/// Read-only mounts do not stop such a container: it can mount the file system of the host's
/// library writable, or set the host's `core_pattern`.
const REMOUNTS: &str = "the container has CAP_SYS_ADMIN and no user namespace: it can make the host's driver files writable \
    (`mount -o remount,bind,rw`) and change them; start it without CAP_SYS_ADMIN (`--privileged` has it) or in a user namespace";

/// The container's mount namespace.
#[derive(Debug)]
pub(super) struct Namespace {
    /// The kernel's numbers of it.
    pub(super) id: (u64, u64),
    /// The namespace to enter; `None` if the caller is in it.
    pub(super) enter: Option<MountNs>,
}

impl Namespace {
    /// That of a process, to enter.
    pub(super) fn outside(namespace: MountNs) -> Self {
        Self {
            id: namespace.id(),
            enter: Some(namespace),
        }
    }

    /// The caller's own.
    pub(super) fn inside(own: (u64, u64)) -> Self {
        Self { id: own, enter: None }
    }
}

fn container_namespace(state: &State, stage: Stage) -> Result<Namespace> {
    if stage == Stage::Inside {
        return inside_a_container().map(Namespace::inside);
    }
    let own = MountNs::own().context(Code::System, || "reading the own mount namespace")?;
    let pid = state
        .pid
        .ok_or_else(|| not_a_container("the state names no process"))?;
    let namespace = MountNs::of(pid)
        .map_err(|e| Error::io(Code::NotAContainer, format!("process {pid} of the state"), &e))?;
    if namespace.is(&own) {
        return Err(not_a_container(
            "the container's process is in the hook's own mount namespace",
        ));
    }
    Ok(Namespace::outside(namespace))
}

/// The number of a createContainer hook's mount namespace, which must not be the host's.
pub(super) fn inside_a_container() -> Result<(u64, u64)> {
    let own = MountNs::own_id().context(Code::System, || "reading the own mount namespace")?;
    // Compared with the host's first process while the host's /proc is visible. In a nested engine
    // it may not be readable; then the rootfs itself must show that this is a container.
    match MountNs::id_of_first_process() {
        Ok(host) if host == own => Err(not_a_container("the hook runs in the host's mount namespace")),
        _ => Ok(own),
    }
}

fn not_a_container(why: &str) -> Error {
    Error::new(Code::NotAContainer, "the container's mount namespace", why)
}

/// A CDI specification edits the definition, before the container exists.
fn only_an_engine(request: &Request) -> Error {
    let names: Vec<String> = request.cdi.iter().map(ToString::to_string).collect();
    Error::new(
        Code::Cdi,
        format!("CDI device {}", names.join(", ")),
        "only a CDI specification defines it, and a hook runs too late to apply one",
    )
    .fix("give it to the engine (`--device`), use the runtime nvoci-runtime, or set `mode = \"auto\"` in /etc/nvoci/config.toml")
}

/// Whether the runtime has made a device's node, by the definition: it does so before
/// `createContainer`.
fn made_by_runtime(spec: &Spec, stage: Stage) -> impl Fn(&Device) -> bool {
    let made = if stage == Stage::Inside {
        spec.linux_devices()
    } else {
        Vec::new()
    };
    move |device| {
        made.iter().any(|m| {
            m.kind == DeviceKind::Char
                && Path::new(&m.path) == device.path
                && (m.major, m.minor) == (device.number.major, device.number.minor)
        })
    }
}

/// The destinations of the definition's mounts.
pub(super) fn destinations(spec: &Spec) -> Vec<PathBuf> {
    let mounts = spec.mounts();
    mounts.iter().map(|m| PathBuf::from(&m.destination)).collect()
}

/// The destinations of the definition's tmpfs mounts.
pub(super) fn tmpfs_destinations(spec: &Spec) -> Vec<PathBuf> {
    let tmpfs = |m: &crate::oci::Mount| m.typ.as_deref() == Some("tmpfs") && !m.is_bind();
    spec.mounts()
        .iter()
        .filter(|m| tmpfs(m))
        .map(|m| PathBuf::from(&m.destination))
        .collect()
}
