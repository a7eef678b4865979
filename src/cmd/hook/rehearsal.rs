//! Runs the hook up to its first change of a container, for the fuzz targets: no namespace, no
//! child, no cgroup.

use std::ffi::OsString;
use std::path::PathBuf;

use super::{
    COMMAND, Discovery, Preflight, Stage, bundle, devices, made_by_runtime, planned, preflight, request_of,
    tmpfs_destinations,
};
use crate::apply::image;
use crate::config::Config;
use crate::error::Result;
use crate::findings::Finding;
use crate::ldso::CacheOutcome;
use crate::oci::State;
use crate::plan::Plan;
use crate::sys::root::Root;

/// The result of a hook that changes nothing.
#[derive(Debug)]
pub struct Rehearsal {
    /// The plan.
    pub plan: Plan,
    /// The container's root directory in its definition.
    pub rootfs: PathBuf,
    /// preflight's findings in the image.
    pub findings: Vec<Finding>,
    /// The loader's new cache.
    pub cache: CacheOutcome,
    /// Rules for the device cgroup.
    pub rules: usize,
    /// The tmpfs mounts of the definition.
    pub tmpfs: Vec<PathBuf>,
}

/// Runs the hook with `args` and the container's state. `image` is the container's root directory;
/// `discovery` selects the host.
///
/// # Errors
/// Those of the hook.
pub(in crate::cmd) fn rehearse(
    args: impl Iterator<Item = OsString>,
    state: &[u8],
    config: Result<Config>,
    discovery: impl FnOnce(&Config) -> Result<Discovery>,
    image: &Root,
) -> Result<Option<Rehearsal>> {
    let Some(options) = COMMAND.parse(args)?.filter(|o| o.stage != Stage::Other) else {
        return Ok(None);
    };
    let state = State::read(state)?;
    let defaults = Config::default();
    let known = config.as_ref().unwrap_or(&defaults);
    let (bundle, spec) = bundle::open(&state, options.stage == Stage::Inside, known)?;
    let Some(config) = crate::cmd::config_for(config.map(Box::new), &spec, options.entry())? else {
        return Ok(None);
    };
    let Some(request) = request_of(&spec, &config, &options)? else {
        return Ok(None);
    };
    let rootfs = spec.root_path(bundle.path())?;
    let (plan, _host, to_allow) = planned(discovery(&config)?, request, &spec, &config, &options)?;
    let made = made_by_runtime(&spec, options.stage);
    let rules = devices::rules_for(&to_allow).len() + plan.devices.iter().filter(|d| made(d)).count();
    let policy = Preflight::Warn;
    Ok(Some(Rehearsal {
        findings: preflight(&plan, &spec, image, policy)
            .findings(|dir| image::likely_dir(&plan) == Some(dir)),
        cache: image::cache_of(image, &plan),
        rootfs,
        rules,
        tmpfs: tmpfs_destinations(&spec),
        plan,
    }))
}
