//! From a container's definition to a plan: what the hook, the runtime and `nvoci plan` share.

use crate::config::Config;
use crate::error::{Escaped, Result};
use crate::host::{Host, Roots, create};
use crate::oci::Spec;
use crate::plan::{Plan, plan};
use crate::request::{self, Capabilities, Door, ImexRequest, Inputs, MountView, Request};

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

/// Looks at the host, makes what is missing there if the policy says so, and plans.
pub(super) fn prepare(request: &Request, config: &Config) -> Result<(Plan, Roots)> {
    let locations = super::locations(config);
    let roots = Roots::open(&locations)?;
    let mut host = Host::discover(&roots, &locations)?;
    let done = create::create_missing(&roots, &mut host, &creation(request, config));
    let failed = done.iter().filter(|d| matches!(d, create::Done::Failed(_)));
    host.warnings.extend(failed.map(ToString::to_string));
    let plan = plan(request, &host, config)?;
    Ok((plan, roots))
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
