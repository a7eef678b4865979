//! From a container's definition to a plan: what the hook, the runtime and `nvoci plan` share.

use std::collections::HashSet;

use super::mig;
use crate::apply::record;
use crate::config::Config;
use crate::error::{Escaped, Result};
use crate::host::kept::{self, Kept};
use crate::host::{Host, Locations, NodeKind, Parts, Roots, create};
use crate::oci::{DeviceKind, Spec};
use crate::plan::{Device, Plan, catalogue, plan};
use crate::request::{
    self, Capabilities, DeviceRequest, Door, ImexRequest, Inputs, MountView, Request, Selector,
    needs_mig_uuids,
};

/// The request of a definition, if there is one. What was asked for and not granted is said.
pub(super) fn request_of(spec: &Spec, config: &Config, door: Door) -> Result<Option<Request>> {
    let request = with_inputs(spec, door, |inputs| {
        if request::wants_gpu_fast(inputs, config) {
            request::parse(inputs, config).map(Some)
        } else {
            Ok(None)
        }
    })?;
    match request {
        Some(r) if r.is_empty() => {
            warn(&r.notes);
            Ok(None)
        }
        other => Ok(other),
    }
}

/// Calls `f` with what a request is read from.
pub(super) fn with_inputs<T>(spec: &Spec, door: Door, f: impl FnOnce(&Inputs<'_>) -> T) -> T {
    let env = spec.env();
    let annotations = spec.annotations();
    let mounts = spec.mounts();
    let mounts: Vec<MountView<'_>> = mounts
        .iter()
        .map(|m| MountView {
            source: m.source.as_deref().unwrap_or(""),
            destination: &m.destination,
        })
        .collect();
    let privileged = spec.is_privileged();
    f(&Inputs {
        env: &env,
        annotations: &annotations,
        mounts: &mounts,
        privileged,
        door,
    })
}

/// A look at the host that has begun: as much of it as needs no request.
pub(super) struct Look {
    locations: Locations,
    roots: Roots,
    host: Host,
}

impl Look {
    /// Looks where the configuration says.
    ///
    /// # Errors
    /// As of [`Roots::open`].
    pub(super) fn begin(config: &Config) -> Result<Self> {
        let mut kept = kept_gpus();
        let look = Self::at(super::locations(config), &mut kept)?;
        if let Some(text) = kept.to_text() {
            // Whoever cannot keep it asks again.
            let _ = record::keep(kept::NAME, &text);
        }
        Ok(look)
    }

    /// Looks at `locations`; `kept` holds the GPU information that an earlier start has read.
    ///
    /// # Errors
    /// As of [`Roots::open`].
    pub(super) fn at(locations: Locations, kept: &mut Kept) -> Result<Self> {
        let roots = Roots::open(&locations)?;
        let host = Host::begin(&roots, kept);
        Ok(Self {
            locations,
            roots,
            host,
        })
    }

    /// Looks at what the request can make use of, and makes what is missing on the host if the policy says so.
    fn finish(self, request: &Request, config: &Config, parts: Parts) -> Result<(Host, Roots)> {
        let Self {
            locations,
            roots,
            host,
        } = self;
        let library = |name: &str| {
            parts != Parts::Version
                && catalogue::library(name).is_some_and(|c| request.capabilities.intersects(c))
        };
        let mut host = host.finish(&roots, &locations, parts, &library)?;
        if needs_mig_uuids(&request.devices) {
            mig::learn(&mut host, &roots);
        }
        let done = create::create_missing(&roots, &mut host, &creation(request, config));
        let failed = done.iter().filter(|d| matches!(d, create::Done::Failed(_)));
        host.warnings.extend(failed.map(ToString::to_string));
        Ok((host, roots))
    }
}

/// What the kernel module said of its GPUs, before.
pub(super) fn kept_gpus() -> Kept {
    let text = record::kept(kept::NAME, kept::MAX_SIZE);
    text.map_or_else(Kept::default, |text| Kept::parse(&text))
}

/// Looks at the host and plans.
pub(super) fn prepare(look: Look, request: &Request, config: &Config) -> Result<(Plan, Roots)> {
    let (host, roots) = look.finish(request, config, parts(request))?;
    let plan = plan(request, &host, config)?;
    Ok((plan, roots))
}

/// [`prepare`] for a container's definition, in which no file of the driver is named.
pub(super) fn prepare_definition(look: Look, request: &Request, config: &Config) -> Result<Plan> {
    let (host, _) = look.finish(request, config, Parts::Version)?;
    plan(request, &host, config)
}

/// [`prepare`] for a container whose definition has its GPUs already, by CDI. Also returns the devices of the plan that
/// the definition lacks: those of a specification that was made when the host did not have them yet.
pub(super) fn prepare_granted(
    look: Look,
    mut request: Request,
    spec: &Spec,
    config: &Config,
) -> Result<(Plan, Roots, Vec<Device>)> {
    let parts = parts(&request);
    let (host, roots) = look.finish(&request, config, parts)?;
    let granted = Granted::of(spec, &host, &roots);
    request.devices = granted.request(&host);
    let mut plan = plan(&request, &host, config)?;
    // A right over one MIG device, or one GPU, is none over the next.
    plan.devices.retain(|device| {
        let node = host.nodes.iter().find(|n| n.path == device.path);
        let owned = node.is_some_and(|n| matches!(n.kind, NodeKind::Gpu(_) | NodeKind::Cap(_)));
        !owned || granted.numbers.contains(&(device.major, device.minor))
    });
    let missing: Vec<Device> = plan
        .devices
        .iter()
        .filter(|d| !granted.numbers.contains(&(d.major, d.minor)))
        .cloned()
        .collect();
    Ok((plan, roots, missing))
}

/// The driver's devices that a definition has.
struct Granted {
    numbers: HashSet<(u32, u32)>,
}

impl Granted {
    /// As device nodes, or, where an engine may not make nodes (rootless), as bind mounts of them.
    fn of(spec: &Spec, host: &Host, roots: &Roots) -> Self {
        let devices = spec.linux_devices();
        let mut numbers: HashSet<(u32, u32)> = devices
            .iter()
            .filter(|d| d.kind == DeviceKind::Char)
            .map(|d| (d.major, d.minor))
            .collect();
        let mounts = spec.mounts();
        let sources: HashSet<&str> = mounts
            .iter()
            .filter(|m| m.is_bind())
            .filter_map(|m| m.source.as_deref())
            .collect();
        for node in &host.nodes {
            let below = node.path.strip_prefix("/dev").unwrap_or(&node.path);
            let on_host = roots.dev_path.join(below);
            if on_host.to_str().is_some_and(|path| sources.contains(path)) {
                numbers.insert((node.major, node.minor));
            }
        }
        Self { numbers }
    }

    fn has(&self, host: &Host, kind: NodeKind) -> bool {
        host.node(kind)
            .is_some_and(|n| self.numbers.contains(&(n.major, n.minor)))
    }

    /// The GPUs, or of a GPU that is divided the MIG devices.
    fn request(&self, host: &Host) -> DeviceRequest {
        let mut list = Vec::new();
        for gpu in host.usable_gpus() {
            if !self.has(host, NodeKind::Gpu(gpu.minor)) {
                continue;
            }
            let mig = gpu.mig_devices.iter().filter(|m| {
                self.has(host, NodeKind::Cap(m.gi_minor)) && self.has(host, NodeKind::Cap(m.ci_minor))
            });
            let before = list.len();
            list.extend(mig.map(|m| Selector::MigIndex {
                gpu: gpu.index,
                mig: m.index,
            }));
            if list.len() == before {
                list.push(Selector::Index(gpu.index));
            }
        }
        if list.is_empty() {
            DeviceRequest::NoneDevices
        } else {
            DeviceRequest::List(list)
        }
    }
}

/// What of the driver a request can make use of.
fn parts(request: &Request) -> Parts {
    let drawing = Capabilities::GRAPHICS.with(Capabilities::DISPLAY);
    if request.capabilities.intersects(drawing) {
        Parts::All
    } else {
        Parts::Computing
    }
}

/// Tells people what they should know; a runtime shows it or keeps it in its log.
pub(super) fn warn(lines: &[String]) {
    for line in lines {
        say(&format!("warning: {}", Escaped(line)));
    }
}

/// One line on standard error, in one piece: others write there too.
pub(super) fn say(line: &str) {
    use std::io::Write as _;
    // A fuzzer would write millions of lines.
    if cfg!(fuzzing) {
        return;
    }
    // Nobody may be listening, and that is no reason to fail.
    let _ = std::io::stderr().write_all(format!("nvoci: {line}\n").as_bytes());
}

/// What may be made on the host for this request.
fn creation(request: &Request, config: &Config) -> create::Options {
    let wants = |c| request.capabilities.intersects(c);
    create::Options {
        load_kmods: *config.load_kmods,
        uvm: wants(Capabilities::COMPUTE.with(Capabilities::VIDEO)),
        modeset: wants(Capabilities::GRAPHICS.with(Capabilities::DISPLAY)),
        imex_channels: match &request.imex {
            ImexRequest::Channels(channels) if *config.create_imex_channels => channels.clone(),
            _ => Vec::new(),
        },
    }
}
