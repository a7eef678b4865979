//! What the runtime door needs from the rest of the program.

use std::path::PathBuf;

use super::inject;
use super::runtime::{Make, Target, Wiring};
use crate::apply;
use crate::apply::record::Errors;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::oci::Spec;
use crate::request::Door;

/// Edits a spec as the host's configuration says.
#[derive(Debug)]
pub(super) struct Injection;

impl Wiring for Injection {
    fn config(&self) -> Result<Config> {
        Config::load()
    }

    fn modify(&self, config: &Config, _make: &Make<'_>, spec: &mut Spec) -> Result<()> {
        super::log::start(config);
        let Some(request) = inject::request_of(spec, config, Door::Runtime)? else {
            return Ok(());
        };
        let (plan, _) = inject::prepare(&request, config)?;
        inject::warn(&plan.warnings);
        apply::spec::apply(&plan, *config.additional_gids, &hook_path(), spec)
    }

    fn record(&self, target: Option<&Target>, error: &Error) {
        log::error!("{}: {error}", target.map_or("", |t| &t.id));
        if let (Some(target), Ok(errors)) = (target, Errors::open()) {
            // The refusal itself is what counts; that it could not be kept as well changes nothing.
            let _ = errors.keep(&target.id, error);
        }
    }
}

/// This program where it is installed, or, if that path is no more (an upgrade at this very moment), where
/// packages put it.
fn hook_path() -> PathBuf {
    match std::env::current_exe() {
        Ok(path) if path.exists() => path,
        _ => PathBuf::from(apply::spec::HOOK_PATH),
    }
}
