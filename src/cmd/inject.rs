//! Turns a container's definition into a plan; shared by the hook, the runtime and `nvoci plan`.

use std::collections::HashSet;
use std::path::Path;

use super::mig;
use crate::apply::record;
use crate::config::Config;
use crate::error::{Escaped, Line, Result};
use crate::host::earlier::{self, Earlier};
use crate::host::kept::{self, Kept};
use crate::host::{Host, Locations, NodeKind, Parts, Roots, create};
use crate::oci::{Bundle, DeviceKind, Interest, Spec};
use crate::plan::{Device, Plan, catalogue, plan};
use crate::request::{
    self, Capabilities, DeviceRequest, EntryPoint, ImexRequest, Inputs, MountView, Request, Selector,
    needs_mig_uuids,
};
use crate::sys::budget::Budget;
use crate::sys::cgroup::{DeviceRule, RuleKind};
use crate::sys::ns::in_user_namespace;
use crate::vocabulary::DeviceNumber;

/// Opens a bundle. In a definition that is too large to parse, a request is still found.
pub(super) fn open_bundle(
    path: &Path,
    file: Option<&Path>,
    config: &Config,
    budget: &Budget,
) -> Result<(Bundle, Spec)> {
    let interest = Interest {
        variables: &|name| request::reads_variable(name, config),
        annotations: &|key| request::reads_annotation(key, config),
        mounts: &request::reads_mount,
    };
    match file {
        None => Bundle::open(path, interest, budget),
        Some(file) => Bundle::open_config(path, file, interest, budget),
    }
}

/// The request of a definition, if there is one. Refused parts become warnings.
///
/// # Errors
/// [`crate::error::Code::TooLarge`] for a request in a definition that is too large; else those of
/// [`request::parse`].
pub(super) fn request_of(spec: &Spec, config: &Config, entry: EntryPoint) -> Result<Option<Request>> {
    let request = with_inputs(spec, entry, |inputs| {
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
        Some(r) => spec.whole().map(|_| Some(r)),
        None => Ok(None),
    }
}

/// Calls `f` with the inputs of a request.
pub(super) fn with_inputs<T>(spec: &Spec, entry: EntryPoint, f: impl FnOnce(&Inputs<'_>) -> T) -> T {
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
    // In a user namespace of its own, CAP_SYS_ADMIN gives no right over the host.
    let privileged = spec.is_privileged() && !spec.has_user_namespace();
    f(&Inputs {
        env: &env,
        annotations: &annotations,
        mounts: &mounts,
        privileged,
        entry,
    })
}

/// Host discovery that has begun: the part that does not depend on the request.
#[derive(Debug)]
pub(super) struct Discovery {
    locations: Locations,
    roots: Roots,
    host: Host,
    /// Results of earlier starts.
    earlier: record::Earlier,
}

impl Discovery {
    /// Begins discovery at the configured paths.
    ///
    /// # Errors
    /// Those of [`Roots::open`].
    pub(super) fn begin(config: &Config) -> Result<Self> {
        let earlier = record::Earlier::open();
        let mut kept = gpus_of(&earlier);
        let discovery = Self::at(super::locations(config), &mut kept)?;
        if let Some(text) = kept.to_text() {
            // Without the record, the next start reads it again.
            let _ = record::keep(kept::NAME, text.as_bytes());
        }
        Ok(Self { earlier, ..discovery })
    }

    /// Begins discovery at `locations`; `kept` has the GPU information of an earlier start.
    ///
    /// # Errors
    /// Those of [`Roots::open`].
    pub(super) fn at(locations: Locations, kept: &mut Kept) -> Result<Self> {
        let roots = Roots::open(&locations)?;
        let host = Host::begin(&roots, kept);
        Ok(Self {
            locations,
            roots,
            host,
            earlier: record::Earlier::default(),
        })
    }

    /// Discovers the parts that the request needs. If the policy allows it, makes missing nodes and
    /// loads missing modules.
    fn finish(self, request: &Request, config: &Config, parts: Parts) -> Result<(Host, Roots)> {
        let Self {
            locations,
            roots,
            host,
            earlier,
        } = self;
        let wanted = |name: &str| {
            let of = catalogue::binary(name).or_else(|| catalogue::library(name));
            parts != Parts::Version && of.is_some_and(|of| request.capabilities.intersects(of))
        };
        let capabilities = request.capabilities.names().collect::<Vec<_>>().join("+");
        let name = match parts {
            Parts::Version => "driver".to_owned(),
            // The files follow from the capabilities.
            Parts::All | Parts::Computing => format!("driver-{capabilities}"),
        };
        let mut files = if earlier.is_open() {
            Earlier::of(name.clone(), earlier.read(&name, earlier::MAX_SIZE))
        } else {
            Earlier::default()
        };
        let mut host = host.finish(&roots, &locations, parts, &wanted, &mut files)?;
        if let Some(record) = files.to_keep() {
            // Without the record, the next start searches again.
            let _ = record::keep(&name, record);
        }
        let done = create::create_missing(&roots, &mut host, &creation(request, config));
        let failed = done.iter().filter(|d| matches!(d, create::Done::Failed(_)));
        host.warnings.extend(failed.map(ToString::to_string));
        if needs_mig_uuids(&request.devices) {
            mig::learn(&mut host, &roots, &request.devices);
        }
        Ok((host, roots))
    }
}

/// The record of the GPUs that the kernel module reported.
pub(super) fn kept_gpus() -> Kept {
    gpus_of(&record::Earlier::open())
}

fn gpus_of(earlier: &record::Earlier) -> Kept {
    let text = earlier.read_text(kept::NAME, kept::MAX_SIZE);
    text.map_or_else(Kept::default, |text| Kept::parse(&text))
}

/// Discovers the host and makes the plan.
pub(super) fn prepare(discovery: Discovery, request: &Request, config: &Config) -> Result<(Plan, Roots)> {
    let (host, roots) = discovery.finish(request, config, parts(request))?;
    let plan = plan(request, &host, config)?;
    Ok((plan, roots))
}

/// [`prepare`] for a container's definition, which names no files of the driver.
pub(super) fn prepare_definition(discovery: Discovery, request: &Request, config: &Config) -> Result<Plan> {
    let (host, _) = discovery.finish(request, config, Parts::Version)?;
    plan(request, &host, config)
}

/// [`prepare`] for a container that has its GPUs already, by CDI. Also returns the plan's devices
/// that the definition lacks, because its specification is older than they are.
pub(super) fn prepare_granted(
    discovery: Discovery,
    mut request: Request,
    spec: &Spec,
    config: &Config,
    engine: Engine,
) -> Result<(Plan, Roots, Vec<Device>)> {
    let parts = parts(&request);
    let (host, roots) = discovery.finish(&request, config, parts)?;
    let granted = Granted::of(spec, engine, &host, &roots);
    request.devices = granted.request(&host);
    let mut plan = plan(&request, &host, config)?;
    // A right over one MIG device or GPU gives none over another.
    plan.devices.retain(|device| {
        let node = host.nodes.iter().find(|n| n.path == device.path);
        let owned = node.is_some_and(|n| matches!(n.kind, NodeKind::Gpu(_) | NodeKind::Cap(_)));
        !owned || granted.numbers.contains(&device.number)
    });
    let missing: Vec<Device> = plan
        .devices
        .iter()
        .filter(|d| !granted.numbers.contains(&d.number))
        .cloned()
        .collect();
    Ok((plan, roots, missing))
}

/// The rights of the engine that made the definition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Engine {
    /// The host's root. It makes nodes and sets a device filter, so a bind mount of a node is a
    /// volume.
    Root,
    /// A user. It can neither make nodes nor set a filter, so it binds nodes. Another author of a
    /// bind could already open the host's node with the same rights, which are all that the
    /// container has.
    User,
}

impl Engine {
    /// `inside` is whether this process is in the container's namespaces. root's engine may also
    /// have given the container a user namespace, so there the definition must prove that it is the
    /// engine's.
    pub(super) fn of(spec: &Spec, inside: bool) -> Self {
        if in_user_namespace() && !(inside && spec.has_user_namespace()) {
            Self::User
        } else {
            Self::Root
        }
    }
}

/// The driver's devices in a definition.
struct Granted {
    numbers: HashSet<DeviceNumber>,
}

impl Granted {
    /// The nodes that the definition's rules allow, or, from a user's engine, bind mounts of nodes.
    fn of(spec: &Spec, engine: Engine, host: &Host, roots: &Roots) -> Self {
        let devices = spec.linux_devices();
        let rules = spec.device_rules();
        let unfiltered = engine == Engine::User && rules.is_empty();
        let mut numbers: HashSet<DeviceNumber> = devices
            .iter()
            .filter(|d| d.kind == DeviceKind::Char)
            .map(|d| DeviceNumber {
                major: d.major,
                minor: d.minor,
            })
            .filter(|&number| unfiltered || allowed(&rules, number))
            .collect();
        if engine == Engine::Root {
            return Self { numbers };
        }
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
                numbers.insert(node.number);
            }
        }
        Self { numbers }
    }

    fn has(&self, host: &Host, kind: NodeKind) -> bool {
        host.node(kind).is_some_and(|n| self.numbers.contains(&n.number))
    }

    /// The GPUs, or the MIG devices of a partitioned GPU.
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

/// Whether rules allow a character device to be read and written; a later rule overrides earlier
/// ones.
fn allowed(rules: &[DeviceRule], device: DeviceNumber) -> bool {
    let (mut read, mut write) = (false, false);
    for rule in rules {
        let number =
            rule.major.is_none_or(|m| m == device.major) && rule.minor.is_none_or(|m| m == device.minor);
        if number && rule.kind != RuleKind::Block {
            read = if rule.access.read { rule.allow } else { read };
            write = if rule.access.write { rule.allow } else { write };
        }
    }
    read && write
}

/// The parts of the driver that a request can use.
fn parts(request: &Request) -> Parts {
    let drawing = Capabilities::GRAPHICS.with(Capabilities::DISPLAY);
    if request.capabilities.intersects(drawing) {
        Parts::All
    } else {
        Parts::Computing
    }
}

/// Prints warnings for the user; a runtime shows them or writes them to its log.
pub(super) fn warn(lines: &[String]) {
    /// People read no more of them.
    const SHOWN: usize = 24;
    for line in lines.iter().take(SHOWN) {
        write_line(&format!("warning: {}", Escaped(line)));
    }
    if let Some(more) = lines.len().checked_sub(SHOWN).filter(|&more| more > 0) {
        write_line(&format!("warning: and {more} more"));
    }
}

/// Writes one line to standard error in one call, since other programs write there too. Escapes
/// control characters.
pub(super) fn write_line(line: &str) {
    use std::io::Write as _;
    // A fuzzer would write millions of lines.
    if cfg!(fuzzing) {
        return;
    }
    // If the reader is gone, the command still continues.
    let _ = std::io::stderr().write_all(format!("nvoci: {}\n", Line(line)).as_bytes());
}

/// The nodes and modules that may be made on the host for this request.
fn creation(request: &Request, config: &Config) -> create::Options {
    let wants = |c| request.capabilities.intersects(c);
    create::Options {
        load_kmods: *config.load_kmods,
        uvm: wants(Capabilities::CUDA),
        modeset: wants(Capabilities::GRAPHICS.with(Capabilities::DISPLAY)),
        imex_channels: match &request.imex {
            ImexRequest::Channels(channels) if *config.create_imex_channels => channels.clone(),
            _ => Vec::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testhost::TestHost;

    /// The minors of the GPUs in a definition, on a host with two.
    fn minors(engine: Engine, spec: &serde_json::Value) -> Option<Vec<u32>> {
        let host = TestHost::bare();
        host.module("550.54.15", 2);
        let made = |minor: u32| host.device(&format!("nvidia{minor}"), 195, minor, 0o666);
        if !made(0) || !made(1) {
            return None;
        }
        let text = spec
            .to_string()
            .replace("/dev/", &format!("{}/dev/", host.path().display()));
        let spec = Spec::parse(text.as_bytes()).unwrap();
        let granted = Granted::of(&spec, engine, &host.discover(), &host.roots());
        let of_gpus = granted.numbers.iter().filter(|number| number.major == 195);
        let mut gpus: Vec<u32> = of_gpus.map(|number| number.minor).collect();
        gpus.sort_unstable();
        Some(gpus)
    }

    #[test]
    fn a_node_is_granted_by_the_definition_and_its_rules() {
        let node = |minor| serde_json::json!({"path": "/dev/x", "type": "c", "major": 195, "minor": minor});
        let rule = |allow, minor: Option<u32>, access| serde_json::json!({"allow": allow, "type": "c", "major": 195, "minor": minor, "access": access});
        let bind = serde_json::json!({
            "destination": "/dev/nvidia1", "type": "bind", "source": "/dev/nvidia1", "options": ["rbind"],
        });
        let all = |allow| serde_json::json!({"allow": allow, "access": "rwm"});
        let spec = |devices: &[serde_json::Value], rules: &[serde_json::Value]| {
            serde_json::json!({
                "mounts": [bind],
                "linux": {"devices": devices, "resources": {"devices": rules}},
            })
        };
        let closed = [all(false), rule(true, Some(0), "rwm")];
        let both = [node(0), node(1)];
        for (engine, devices, rules, want) in [
            (Engine::Root, &both[..1], &closed[..], &[0][..]),
            (Engine::User, &both[..1], &closed, &[0, 1]),
            // A node alone does not open, nor does one whose rule was revoked or gives one right
            // only.
            (Engine::Root, &both, &closed, &[0]),
            (Engine::Root, &both, &[], &[]),
            (Engine::User, &both[..1], &[], &[0, 1]),
            (Engine::Root, &both, &[all(true)], &[0, 1]),
            (Engine::Root, &both, &[all(true), rule(false, Some(1), "w")], &[0]),
            (
                Engine::Root,
                &both,
                &[rule(true, None, "rw"), rule(false, Some(1), "rwm")],
                &[0],
            ),
            (Engine::Root, &both, &[rule(true, None, "r")], &[]),
        ] {
            if let Some(found) = minors(engine, &spec(devices, rules)) {
                assert_eq!(found, want, "{engine:?} {rules:?}");
            }
        }
    }

    /// Docker 29 serves `--gpus` by CDI too.
    #[test]
    fn what_docker_gives_by_cdi_is_granted() {
        for (recorded, gpus) in [
            (
                include_str!("../../tests/definitions/docker-29-device-cdi.json"),
                &[0][..],
            ),
            (
                include_str!("../../tests/definitions/docker-29-gpus-all.json"),
                &[0, 1][..],
            ),
            (
                include_str!("../../tests/definitions/docker-29-gpus-device-1.json"),
                &[1][..],
            ),
        ] {
            let spec: serde_json::Value = serde_json::from_str(recorded).unwrap();
            if let Some(found) = minors(Engine::Root, &spec) {
                let of_gpus: Vec<_> = found.iter().copied().filter(|m| *m < 32).collect();
                assert_eq!(of_gpus, gpus, "{found:?}");
                assert!(found.contains(&255), "{found:?}");
            }
        }
    }
}
