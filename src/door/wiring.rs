//! What the runtime door needs from the rest of the program.

use std::cell::OnceCell;

use super::inject;
use super::runtime::{Flavor, Target, Wiring};
use crate::apply;
use crate::apply::record::Errors;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::oci::{Bundle, Spec};
use crate::request::Door;

/// Edits a spec by the host's configuration, which is read at most once.
#[derive(Debug, Default)]
pub(super) struct Injection {
    config: OnceCell<Config>,
}

impl Injection {
    fn config(&self) -> Result<&Config> {
        if let Some(config) = self.config.get() {
            return Ok(config);
        }
        let config = Config::load()?;
        Ok(self.config.get_or_init(|| config))
    }
}

impl Wiring for Injection {
    fn runtimes(&self) -> Result<Vec<String>> {
        Ok(self.config()?.runtimes.value.clone())
    }

    fn modify(&self, _flavor: Flavor, _target: &Target, _bundle: &Bundle, spec: &mut Spec) -> Result<()> {
        let config = self.config()?;
        let Some(request) = inject::request_of(spec, config, Door::Runtime)? else {
            return Ok(());
        };
        let (plan, _) = inject::prepare(&request, config)?;
        inject::warn(&plan.warnings);
        apply::spec::apply(&plan, *config.additional_gids, spec)
    }

    fn record(&self, target: Option<&Target>, error: &Error) {
        if let (Some(target), Ok(errors)) = (target, Errors::open()) {
            // The refusal itself is what counts; that it could not be kept as well changes nothing.
            let _ = errors.keep(&target.id, error);
        }
    }
}
