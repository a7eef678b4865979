//! Connects the runtime's entry point to the rest of the program.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::inject::{self, Discovery};
use super::runtime::{Flavor, Make, Target, Wiring};
use crate::apply;
use crate::apply::record::Errors;
use crate::cdi::registry::Trust;
use crate::cdi::{Registry, edit};
use crate::config::{Config, Mode};
use crate::error::{Code, Error, IoContext as _, Result};
use crate::oci::Spec;
use crate::request::{CdiName, DeviceRequest, EntryPoint, Request};
use crate::sys::budget::Budget;
use crate::sys::program::Program;

/// Edits a spec by the host's configuration.
#[derive(Debug)]
pub(super) struct Injection;

impl Wiring for Injection {
    fn config(&self) -> Result<Box<Config>> {
        super::load_config(None)
    }

    fn modify(&self, config: &Config, make: &Make<'_>, spec: &mut Spec) -> Result<()> {
        super::log::start(config);
        edit_spec(config, make.flavor, Discovery::begin, spec, make.budget)
    }

    fn record(&self, target: Option<&Target>, error: &Error) {
        log::error!("{}: {error}", target.map_or("", |t| &t.id));
        if let (Some(target), Ok(errors)) = (target, Errors::open()) {
            // The refusal matters; a failure to record it changes nothing.
            let _ = errors.keep(&target.id, error);
        }
    }
}

/// Gives `spec` the devices that it requests, those of CDI specifications included, and the hook
/// that brings the files. `discovery` begins discovery of the host, once a request needs it.
pub(super) fn edit_spec(
    config: &Config,
    flavor: Flavor,
    discovery: impl FnOnce(&Config) -> Result<Discovery>,
    spec: &mut Spec,
    budget: &Budget,
) -> Result<()> {
    let config = &flavored(config, flavor);
    let Some(request) = inject::request_of(spec, config, EntryPoint::Runtime)? else {
        return Ok(());
    };
    let requested = variable(spec);
    if !request.cdi.is_empty() {
        cdi_devices(&request, config, spec, budget)?;
    }
    if matches!(request.devices, DeviceRequest::Nothing | DeviceRequest::Void) {
        // Only without a plan: after a plan, the hook reads the variable again.
        if request.cdi.iter().any(|name| name.vendor == "nvidia.com") {
            spec.set_env(VARIABLE, "void")?;
        }
        inject::warn(&request.notes);
        return Ok(());
    }
    // A specification may have set it to `void`, and the hook reads it again.
    if let Some(requested) = requested {
        spec.set_env(VARIABLE, &requested)?;
    }
    let plan = inject::prepare_definition(discovery(config)?, &request, config)?;
    inject::warn(&plan.warnings);
    apply::spec::apply(&plan, *config.additional_gids, &hook_path()?, spec)
}

const VARIABLE: &str = "NVIDIA_VISIBLE_DEVICES";

/// The variable's value in the definition. If it occurs twice, the last one counts.
fn variable(spec: &Spec) -> Option<String> {
    let found = spec.env().into_iter().rev().find(|(name, _)| name == VARIABLE);
    found.map(|(_, value)| value)
}

/// The configuration with the meaning of device names that the vendor's program names stand for.
fn flavored(config: &Config, flavor: Flavor) -> Cow<'_, Config> {
    let mode = match flavor {
        Flavor::Configured => return Cow::Borrowed(config),
        Flavor::Cdi => Mode::Cdi,
        Flavor::Legacy => Mode::Auto,
    };
    let mut config = config.clone();
    config.mode.value = mode;
    Cow::Owned(config)
}

/// The kind of the devices that configure a GPU, and the command that writes its specification.
const MANAGEMENT: &str = "management.nvidia.com/gpu";
const MAKE_MANAGEMENT: &str = "`nvoci cdi generate --mode=management --vendor=management.nvidia.com --class=gpu \
    --output /var/run/cdi/management.nvidia.com-gpu.yaml` writes the one for this host";

/// Adds the devices that only a specification on disk defines, as an engine would.
fn cdi_devices(request: &Request, config: &Config, spec: &mut Spec, budget: &Budget) -> Result<()> {
    let registry = Registry::load(&config.cdi_spec_dirs, Trust::Root, budget);
    let edits = edit::edits_of(&registry, &request.cdi, &config.cdi_spec_dirs).map_err(|e| {
        let there = registry.devices();
        let missing = |name: &CdiName| name.has_kind(MANAGEMENT) && !there.contains_key(&name.to_string());
        if request.cdi.iter().any(missing) {
            e.fix(MAKE_MANAGEMENT)
        } else {
            e
        }
    })?;
    if request.cdi.iter().any(CdiName::is_nvidias) {
        // Otherwise another hook, ours or the vendor's, would inject the driver again. The
        // specification's own hooks are added after this.
        apply::spec::remove_other_hooks(spec);
    }
    edit::apply(&edits, spec)
}

/// This program, if only root can replace it. If its path is gone (during an upgrade) or unsafe,
/// the packages' path.
///
/// # Errors
/// [`Code::LooseProgram`](crate::error::Code::LooseProgram) if that is unsafe too.
fn hook_path() -> Result<PathBuf> {
    let own = std::env::current_exe().context(Code::System, || "the path of this program");
    let proven = own.and_then(|own| Program::prove(&own));
    let proven = proven.or_else(|why| Program::prove(Path::new(apply::spec::HOOK_PATH)).map_err(|_| why));
    proven.map(|program| program.path().to_owned())
}
