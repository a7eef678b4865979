//! Checks whether the services of a Compose file get their GPUs.
//!
//! Facts: <https://docs.docker.com/compose/how-tos/gpu-support/> and the Compose specification,
//! "deploy" and "gpus". For example, a reservation without `capabilities: [gpu]` gets the finding
//! `compose.capabilities`.

mod extends;
mod node;

use std::collections::BTreeMap;

use node::{Lines, Node};

use super::check::checks;
use super::dockerfile::parse::expand;
use super::dockerfile::{self, Context};
use super::{Finding, Report, Severity};
use crate::cdi::tree::{Tree, Unreadable};
use crate::compat::image;
use crate::error::Result;
use crate::sys::budget::{Budget, Exceeded};

checks! {
    CAPABILITIES = 7601, "compose.capabilities", "A reservation of devices has no `capabilities: [gpu]`.";
    BROKEN = 7602, "compose.broken", "The file is not a Compose file.";
    COUNT_AND_IDS = 7603, "compose.count-and-ids", "A reservation has both `count` and `device_ids`.";
    DRIVER = 7604, "compose.driver", "A reservation's driver and devices do not fit.";
    RUNTIME = 7605, "compose.runtime", "`runtime: nvidia` alone gives no GPU to an image that requests none.";
    NONE = 7606, "compose.no-gpu", "A service of a GPU image gets no GPU.";
    MISPLACED = 7607, "compose.misplaced", "The GPU stanza is at a place that Compose ignores.";
    VERSION = 7608, "compose.version", "The file has a version of old Compose.";
    GONE = 7609, "compose.image-gone", "The image cannot be pulled any more.";
    REQUEST = 7610, "compose.variables", "The service's NVIDIA variables keep the GPU or CUDA away.";
    COUNT = 7611, "compose.count", "A reservation's `count` is no number of GPUs.";
    UNJUDGED = 7612, "compose.not-judged", "A file that the service takes settings from cannot be read, so they are not judged.";
    NODES = 7613, "compose.nodes-alone", "The service gets device nodes of NVIDIA's driver without its libraries.";
}

/// The largest file that is read, in bytes.
pub const MAX_SIZE: u64 = 1 << 20;

/// A stanza that gives a service all GPUs, for people to copy.
pub const STANZA: &str = "\
services:
  NAME:
    deploy:
      resources:
        reservations:
          devices:
            - driver: nvidia
              count: all
              capabilities: [gpu]
";

/// The same in one line.
const FLOW: &str =
    "deploy: {resources: {reservations: {devices: [{driver: nvidia, count: all, capabilities: [gpu]}]}}}";

/// Checks the text of a Compose file; `name` is for the title, `context` is the file's directory.
///
/// # Errors
/// [`crate::error::Code::TooLarge`] if it needs more than `budget`.
pub fn report(name: &str, text: &str, context: &Context, budget: &Budget) -> Result<Report> {
    examine(name, text, context, budget).map_err(|exceeded| exceeded.of(format!("Compose file {name}")))
}

fn examine(name: &str, text: &str, context: &Context, budget: &Budget) -> Result<Report, Exceeded> {
    let mut report = Report::new(format!("compose {name}"));
    let broken = |why: String, fix: &str| Finding::new(&BROKEN, Severity::Fail, name, why).fix(fix);
    let tree = match Tree::yaml(text, budget) {
        Ok(tree) => tree,
        Err(Unreadable::Exceeded(exceeded)) => return Err(exceeded),
        Err(Unreadable::Broken(why)) => {
            report.add(broken(
                why,
                "correct the YAML; `docker compose config` shows what is read",
            ));
            return Ok(report);
        }
    };
    let lines = Lines::of(text);
    let root = Node::root(&tree, &lines);
    let services = root.get("services").map(|s| s.entries()).unwrap_or_default();
    if services.is_empty() {
        report.add(broken(
            "it has no services".to_owned(),
            "put the services under `services:`",
        ));
        return Ok(report);
    }
    let mut gpus = 0;
    for (name, service) in &services {
        let before = report.findings.len() + report.omitted;
        let requests_gpu = check_service(name, service, &root, context, &mut report, budget)?;
        gpus += usize::from(requests_gpu);
        if requests_gpu && report.findings.len() + report.omitted == before {
            report.add(Finding::new(
                &CAPABILITIES,
                Severity::Ok,
                *name,
                "the service gets a GPU",
            ));
        }
    }
    report.fact("services", services.len().to_string(), name);
    report.fact("with a GPU", gpus.to_string(), name);
    if let Some(version) = root.get("version")
        && gpus > 0
    {
        let text = version.text().unwrap_or_default();
        report.add(version.seen(
            Finding::new(
                &VERSION,
                Severity::Info,
                "version",
                format!("`version: {text}` is of the old docker-compose; the plugin `docker compose` ignores it"),
            )
            .fix("leave it out, and remove the old `docker-compose` if it is installed: it does not support the GPU stanza"),
        ));
    }
    Ok(report)
}

/// Checks one service; returns whether it requests a GPU in any form.
fn check_service(
    name: &str,
    service: &Node<'_>,
    root: &Node<'_>,
    context: &Context,
    report: &mut Report,
    budget: &Budget,
) -> Result<bool, Exceeded> {
    let inherited = extends::of(service, root, context, budget)?;
    let image = service.get("image").and_then(|i| i.text());
    let image = image.map(|text| defaults(text, budget)).transpose()?;
    let (mut environment, unread) = extends::files_of(service, context, budget)?;
    environment.extend(pairs(service, "environment", budget)?);
    tag(name, service, image.as_deref(), report);
    misplaced(name, service, report);
    let reserved = service.path(&["deploy", "resources", "reservations", "devices"]);
    let mut requests_gpu = false;
    for device in reserved.iter().flat_map(Node::items) {
        budget.step()?;
        requests_gpu |= device_request(name, &device, report);
    }
    let gpus = service.get("gpus");
    for device in gpus.iter().flat_map(Node::items) {
        budget.step()?;
        // `gpus` implies the capability.
        requests_gpu |= devices_of(name, &device, report);
    }
    requests_gpu |= gpus.as_ref().is_some_and(|g| g.text().is_some());
    requests_gpu |= names_device(service, "nvidia.com/gpu=") || inherited == extends::Inherited::Gpu;
    requests_gpu |= extends::has_generic_gpu(service);
    let runtime = service.get("runtime");
    let named = match runtime.as_ref().and_then(Node::text) {
        Some(text) => defaults(text, budget)?,
        None => String::new(),
    };
    let runtime = runtime.filter(|_| named == "nvidia");
    let only_nodes = !requests_gpu && runtime.is_none() && names_device(service, "/dev/nvidia");
    if only_nodes && inherited == extends::Inherited::None {
        report.add(service.seen_at("devices", Finding::new(
            &NODES,
            Severity::Warn,
            name,
            "the nodes are there without the driver's libraries: libcuda.so.1 and libnvidia-ml.so.1 are missing, unless a volume brings them",
        )
        .fix(format!("in place of the nodes: {FLOW}"))));
    }
    requests_gpu |= only_nodes;
    let unknown = inherited == extends::Inherited::Unknown;
    let has_unread = unread.is_some();
    if unknown || unread.is_some() {
        let file = unread.unwrap_or_else(|| "extends".to_owned());
        report.add(service.seen(
            Finding::new(
                &UNJUDGED,
                Severity::Info,
                name,
                format!("`{file}` is not beside the Compose file or cannot be read: its settings are not judged"),
            )
            .fix("check the merged file: `docker compose config > all.yaml`, then `nvoci doctor compose all.yaml`"),
        ));
    }
    let visible = environment.get("NVIDIA_VISIBLE_DEVICES").map(String::as_str);
    let built = service.get("build");
    let built = built.map_or(Ok(false), |build| builds_gpu_image(&build, context, budget))?;
    let gpu_image = built || image.as_deref().is_some_and(is_gpu_image);
    if let Some(runtime) = &runtime {
        if visible.is_none() && !requests_gpu && !gpu_image && !unknown && !has_unread {
            // A service that names CUDA's devices is of an image for CUDA, which mostly requests
            // one.
            let of_cuda = environment.contains_key("CUDA_VISIBLE_DEVICES");
            let severity = if of_cuda { Severity::Info } else { Severity::Warn };
            report.add(runtime.seen(
                Finding::new(
                    &RUNTIME,
                    severity,
                    name,
                    "the runtime gives a GPU only to a container whose image or service requests one by a variable; \
                     neither is known to do so",
                )
                .fix("add NVIDIA_VISIBLE_DEVICES=all to `environment`"),
            ));
        }
        requests_gpu = true;
    }
    variables(name, service, &environment, requests_gpu, report);
    let by_variable = || {
        visible
            .filter(|_| runtime.is_some() && reserved.is_none())
            .and_then(listed)
    };
    if let Some(given) = given(reserved.as_ref(), gpus.as_ref()).or_else(by_variable) {
        indices(name, service, &environment, given, report);
    }
    if !requests_gpu && !unknown && (gpu_image || visible.is_some_and(|v| !matches!(v, "" | "void" | "none")))
    {
        let why = if gpu_image {
            "its image is for GPUs, and the service gets none: it computes on the CPU, or stops with error 35 or 100"
        } else {
            "NVIDIA_VISIBLE_DEVICES alone gives a GPU only where nvidia is the engine's default runtime"
        };
        report.add(service.seen(Finding::new(&NONE, Severity::Warn, name, why).fix(format!("add {FLOW}"))));
    }
    Ok(requests_gpu)
}

/// Whether `devices` of a service has a name that contains `part`.
fn names_device(service: &Node<'_>, part: &str) -> bool {
    let devices = service.get("devices");
    let mut all = devices.iter().flat_map(Node::items);
    all.any(|device| {
        let source = device.get("source");
        let text = device.text().or_else(|| source.as_ref().and_then(Node::text));
        text.is_some_and(|text| text.contains(part))
    })
}

/// Whether the Dockerfile of `build` makes an image for GPUs. Only one below the Compose file's
/// directory is read.
fn builds_gpu_image(build: &Node<'_>, context: &Context, budget: &Budget) -> Result<bool, Exceeded> {
    // Another stage than the last one may have nothing of it.
    if build.get("target").is_some() {
        return Ok(false);
    }
    let text = |key: &str| {
        let value = build.get(key);
        value.and_then(|value| value.text().map(str::to_owned))
    };
    let dir = build.text().map(str::to_owned).or_else(|| text("context"));
    let Some(context) = context.below(dir.as_deref().unwrap_or(".")) else {
        return Ok(false);
    };
    let dockerfile = match text("dockerfile_inline") {
        Some(inline) => Some(inline),
        None => context.read(text("dockerfile").as_deref().unwrap_or("Dockerfile"), budget)?,
    };
    let args = pairs(build, "args", budget)?;
    dockerfile.map_or(Ok(false), |text| {
        dockerfile::uses_gpus(&text, &args, &context, budget)
    })
}

/// A text with the defaults of its variables, since the caller's environment is unknown.
fn defaults(text: &str, budget: &Budget) -> Result<String, Exceeded> {
    expand(text, |_| Ok(None), budget)
}

/// Whether an image is made for GPUs, by its name.
fn is_gpu_image(image: &str) -> bool {
    let image = image.to_ascii_lowercase();
    let bare = image.split_once('@').map_or(image.as_str(), |(bare, _)| bare);
    // A colon before the last slash separates a port.
    let (name, tag) = match bare.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (bare, ""),
    };
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    image::of(name, tag).is_some()
        || tag
            .split(['-', '_', '.'])
            .any(|p| matches!(p, "gpu" | "nvidia" | "tensorrt") || p.starts_with("cuda") || is_cuda_tag(p))
}

/// `cu124`
fn is_cuda_tag(part: &str) -> bool {
    crate::compat::torch::cuda_of_tag(part).is_some()
}

fn tag(name: &str, service: &Node<'_>, image: Option<&str>, report: &mut Report) {
    let Some(image) = image else { return };
    let bare = image.strip_prefix("docker.io/").unwrap_or(image);
    let (repository, tag) = bare.rsplit_once(':').unwrap_or((bare, "latest"));
    if repository != "nvidia/cuda" || image.contains('@') {
        return;
    }
    if let Some(why) = image::gone(tag) {
        report.add(service.seen_at("image", Finding::new(
            &GONE,
            Severity::Fail,
            name,
            format!("{image}: {why}"),
        )
        .fix("name a tag that exists, with CUDA version and distribution: nvidia/cuda:12.6.3-base-ubuntu24.04")));
    }
}

/// Places at which people put the stanza and Compose ignores or refuses it.
const WRONG_PLACES: &[&[&str]] = &[
    // Docker's API has it.
    &["deploy", "resources", "device_requests"],
    &["resources", "reservations", "devices"],
    &["reservations", "devices"],
    &["deploy", "reservations", "devices"],
    &["deploy", "devices"],
    &["deploy", "resources", "devices"],
    &["deploy", "resources", "limits", "devices"],
];

fn misplaced(name: &str, service: &Node<'_>, report: &mut Report) {
    let mut wrong: Vec<Node<'_>> = WRONG_PLACES.iter().filter_map(|p| service.path(p)).collect();
    // `devices` of a service is a list of device nodes and CDI names.
    wrong.extend(service.get("devices").filter(|d| {
        d.items()
            .iter()
            .any(|i| i.get("capabilities").is_some() || i.get("driver").is_some())
    }));
    for place in wrong {
        let finding = Finding::new(
            &MISPLACED,
            Severity::Fail,
            name,
            "Compose reads it only under deploy.resources.reservations.devices",
        )
        .fix(FLOW);
        report.add(place.seen(finding));
    }
}

/// The capabilities that Docker's driver for NVIDIA's GPUs accepts. Source: moby,
/// daemon/nvidia_linux.go.
const NVIDIA: [&str; 8] = [
    "compat32", "compute", "display", "gpu", "graphics", "nvidia", "utility", "video",
];

/// Checks a reservation under `deploy`; returns whether it requests GPUs.
fn device_request(name: &str, device: &Node<'_>, report: &mut Report) -> bool {
    let capabilities = device.get("capabilities");
    let known = |c: &Node<'_>| {
        c.text()
            .is_some_and(|text| NVIDIA.contains(&text) || text.contains('$'))
    };
    // Docker's own form is a list of lists.
    let mut all = capabilities.iter().flat_map(Node::items);
    let nvidia = all.any(|c| known(&c) || c.items().iter().any(known));
    let driver = device.get("driver");
    let driver = driver.as_ref().and_then(Node::text);
    let listed = capabilities.iter().any(|c| !c.items().is_empty());
    if !nvidia && (!listed || driver == Some("nvidia")) && driver != Some("cdi") {
        report.add(
            device.seen(
                Finding::new(
                    &CAPABILITIES,
                    Severity::Fail,
                    name,
                    "the reservation has no `capabilities: [gpu]`, without which Compose refuses it",
                )
                .fix(FLOW),
            ),
        );
    }
    let gpu = nvidia || matches!(driver, Some("nvidia" | "cdi"));
    gpu && devices_of(name, device, report)
}

/// Checks driver, number and names of devices. Returns `true`: every reservation requests a GPU.
fn devices_of(name: &str, device: &Node<'_>, report: &mut Report) -> bool {
    let ids = device.get("device_ids");
    let count = device.get("count");
    if ids.is_some()
        && let Some(count) = &count
    {
        report.add(
            count.seen(
                Finding::new(
                    &COUNT_AND_IDS,
                    Severity::Fail,
                    name,
                    "`count` and `device_ids` are both given, which Compose refuses",
                )
                .fix("keep one of them"),
            ),
        );
    }
    if let Some(count) = &count {
        let text = count.text().unwrap_or_default();
        let number = text.parse::<i64>().ok();
        if text != "all" && !text.contains('$') && number.is_none_or(|n| n < 1 && n != -1) {
            report.add(
                count.seen(
                    Finding::new(
                        &COUNT,
                        Severity::Fail,
                        name,
                        format!("`count: {text}` is neither a number of GPUs nor `all`"),
                    )
                    .fix("count: all"),
                ),
            );
        }
    }
    let driver = device.get("driver");
    let named: Vec<Node<'_>> = ids.iter().flat_map(Node::items).collect();
    let is_cdi = |n: &Node<'_>| n.text().is_some_and(|t| t.contains('/') && t.contains('='));
    let wrong = match driver.as_ref().and_then(Node::text) {
        None | Some("nvidia" | "") => named.iter().find(|n| is_cdi(n)).map(|_| {
            (
                "the ids are CDI names, which the driver nvidia does not accept",
                "driver: cdi",
            )
        }),
        Some("cdi") => named.iter().find(|n| !is_cdi(n)).map(|_| {
            (
                "the driver cdi accepts only CDI names, such as nvidia.com/gpu=0",
                "device_ids: [\"nvidia.com/gpu=all\"]",
            )
        }),
        Some(other) if other.contains('$') => None,
        Some(_) => Some((
            "Docker has no such driver: \"could not select device driver\"",
            "driver: nvidia",
        )),
    };
    if let Some((why, fix)) = wrong {
        report.add(device.seen(Finding::new(&DRIVER, Severity::Fail, name, why).fix(fix)));
    }
    true
}

/// The variables under `key`, in either form: a list of `NAME=VALUE`, or a mapping.
fn pairs(node: &Node<'_>, key: &str, budget: &Budget) -> Result<BTreeMap<String, String>, Exceeded> {
    let mut found = BTreeMap::new();
    let Some(all) = node.get(key) else {
        return Ok(found);
    };
    for item in all.items() {
        if let Some((name, value)) = item.text().and_then(|t| t.split_once('=')) {
            found.insert(name.to_owned(), defaults(value, budget)?);
        }
    }
    for (name, value) in all.entries() {
        if let Some(value) = value.text() {
            found.insert(name.to_owned(), defaults(value, budget)?);
        }
    }
    Ok(found)
}

/// Whether an id names one whole GPU.
fn is_gpu(id: &str) -> bool {
    id.starts_with("GPU-") || !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit())
}

/// The number of GPUs in a list of `NVIDIA_VISIBLE_DEVICES`.
fn listed(value: &str) -> Option<usize> {
    let ids = value.split(',').map(str::trim);
    ids.clone().all(is_gpu).then(|| ids.count())
}

/// The number of GPUs of the service, if it is certain.
fn given(reserved: Option<&Node<'_>>, gpus: Option<&Node<'_>>) -> Option<usize> {
    let mut number = 0_usize;
    for device in reserved.into_iter().chain(gpus).flat_map(Node::items) {
        let ids = device.get("device_ids").map(|ids| ids.items());
        let more = match (ids, device.get("count")) {
            (Some(ids), _) => {
                // `all`, and several GPUs or parts of them, may be more than one device.
                let plain = |id: &Node<'_>| id.text().is_some_and(is_gpu);
                ids.iter().all(plain).then_some(ids.len())?
            }
            (None, Some(count)) => count.text()?.parse().ok()?,
            (None, None) => return None,
        };
        number = number.checked_add(more)?;
    }
    (number > 0).then_some(number)
}

/// Checks the indices of `CUDA_VISIBLE_DEVICES`, which count the container's GPUs from 0.
fn indices(
    name: &str,
    service: &Node<'_>,
    environment: &BTreeMap<String, String>,
    given: usize,
    report: &mut Report,
) {
    let Some(value) = environment.get("CUDA_VISIBLE_DEVICES") else {
        return;
    };
    let mut words = value.split(',').map(str::trim);
    // CUDA ends its list at the first missing index.
    let Some(index) = words.find(|word| word.parse().is_ok_and(|index: usize| index >= given)) else {
        return;
    };
    let plural = if given == 1 { "one GPU" } else { "GPUs" };
    let finding = Finding::new(
        &REQUEST,
        Severity::Warn,
        name,
        format!(
            "CUDA_VISIBLE_DEVICES={value}: the service gets {}{plural}, counted from 0 in the container, and CUDA ends its list at {index}",
            if given == 1 { String::new() } else { format!("{given} ") }
        ),
    )
    .fix("leave the variable out: `count` and `device_ids` choose the GPUs already");
    report.add(service.seen_at("environment", finding));
}

fn variables(
    name: &str,
    service: &Node<'_>,
    environment: &BTreeMap<String, String>,
    requests_gpu: bool,
    report: &mut Report,
) {
    let mut add = |variable: &str, severity, why: &str, fix: &str| {
        let finding = Finding::new(&REQUEST, severity, name, format!("{variable} {why}")).fix(fix);
        report.add(service.seen_at("environment", finding));
    };
    if let Some(value) = environment.get("NVIDIA_DRIVER_CAPABILITIES") {
        let has = |c: &str| value.split(',').any(|v| v.trim() == c);
        if !value.is_empty() && !value.contains('$') && !has("compute") && !has("all") {
            add(
                "NVIDIA_DRIVER_CAPABILITIES",
                Severity::Fail,
                "has no `compute`: nvidia-smi works and CUDA does not",
                "NVIDIA_DRIVER_CAPABILITIES: compute,utility",
            );
        }
    }
    let visible = environment.get("NVIDIA_VISIBLE_DEVICES").map(String::as_str);
    if requests_gpu && matches!(visible, Some("" | "void" | "none")) {
        add(
            "NVIDIA_VISIBLE_DEVICES",
            Severity::Warn,
            "sets no GPU, but the rest of the service requests one",
            "leave the variable out",
        );
    }
    // CUDA ends its list at a word that it cannot parse.
    let none = |v: &String| matches!(v.trim(), "" | "-1" | "all" | "NoDevFiles" | "none" | "void");
    if environment.get("CUDA_VISIBLE_DEVICES").is_some_and(none) && requests_gpu {
        add(
            "CUDA_VISIBLE_DEVICES",
            Severity::Warn,
            "names no GPU: CUDA sees none (error 100)",
            "leave the variable out",
        );
    }
}

#[cfg(test)]
mod tests;
