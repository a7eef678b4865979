//! The commands without their arguments and their output: one function a command, for the fuzz
//! targets in `fuzz/`.
//!
//! Each function runs the command's own code. Its arguments replace the host's paths and the
//! output. Not a part of the program's interface.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::inject::Discovery;
use super::install::{self, Verb};
use super::runtime::Flavor;
use super::{cdi, hook, plan, wiring};
use crate::cdi::check::Engine;
use crate::cdi::registry::{Trust, spec_file};
use crate::cdi::{CdiSpec, transform};
use crate::config::Config;
use crate::doctor::dockerfile::{self, Wanted};
use crate::doctor::image::{self, Image, Silent, Target};
use crate::doctor::{Report, compose};
use crate::error::Result;
use crate::host::Locations;
use crate::host::kept::Kept;
use crate::oci::Spec;
use crate::sys::budget::{Budget, Limits};
use crate::sys::root::Root;

pub use super::cdi::Rehearsal as Cdi;
pub use super::hook::rehearsal::Rehearsal as Hook;

/// The output of `nvoci plan BUNDLE`.
///
/// # Errors
/// Those of the command.
pub fn plan(bundle: &Path, json: bool, config: &Config, host: &Locations) -> Result<String> {
    plan::of_bundle(bundle, json, config, host)
}

/// `nvoci hook ARGS` up to the first change; `None` if the container requests nothing.
///
/// # Errors
/// Those of the command.
pub fn hook(
    args: &[&str],
    state: &[u8],
    config: Result<Config>,
    host: &Locations,
    image: &Root,
) -> Result<Option<Hook>> {
    hook::rehearsal::rehearse(
        args.iter().map(OsString::from),
        state,
        config,
        |_| begin_discovery(host),
        image,
    )
}

/// `nvoci runtime create`: edits the definition.
///
/// # Errors
/// Those of the command.
pub fn runtime(flavor: Flavor, config: &Config, host: &Locations, spec: &mut Spec) -> Result<()> {
    wiring::edit_spec(
        config,
        flavor,
        |_| begin_discovery(host),
        spec,
        &Budget::default(),
    )
}

fn begin_discovery(host: &Locations) -> Result<Discovery> {
    Discovery::at(host.clone(), &mut Kept::default())
}

/// `nvoci cdi list` and `nvoci cdi check`.
pub fn cdi(dirs: &[PathBuf], json: bool, engines: &[Engine]) -> Cdi {
    cdi::rehearse(dirs, json, engines)
}

/// `nvoci cdi transform root`: the specification that it writes; `None` if there is no such file.
///
/// # Errors
/// Those of the command.
pub fn cdi_transform(file: &Path, from: &Path, to: &Path, side: transform::Side) -> Result<Option<CdiSpec>> {
    let spec = spec_file(file, Trust::Anyone, &Budget::default())?;
    Ok(spec.map(|mut spec| {
        transform::root(&mut spec, from, to, side);
        spec
    }))
}

/// `nvoci doctor image FILE`, judged for `target`.
///
/// # Errors
/// Those of the command.
pub fn doctor_image(what: &OsStr, target: &Target) -> Result<Report> {
    let budget = Budget::new(Limits::ARCHIVE);
    let image = Image::open(what, &budget, &mut Silent)?;
    let report = image::report(&image, target, &budget, &mut Silent);
    budget.check().map_err(|e| e.of("image"))?;
    Ok(report)
}

/// `nvoci doctor dockerfile`.
///
/// # Errors
/// Those of the command.
pub fn doctor_dockerfile(text: &str, args: &BTreeMap<String, String>, wanted: Wanted) -> Result<Report> {
    dockerfile::report(
        "Dockerfile",
        text,
        args,
        wanted,
        &dockerfile::Context::default(),
        &Budget::default(),
    )
}

/// `nvoci doctor compose`.
///
/// # Errors
/// Those of the command.
pub fn doctor_compose(text: &str) -> Result<Report> {
    let context = dockerfile::Context::default();
    compose::report("compose.yaml", text, &context, &Budget::default())
}

/// `nvoci install ARGS` (or `uninstall`), where `args` has `--root`: its output for each engine.
///
/// # Errors
/// Those of the command.
pub fn install(uninstall: bool, args: &[&str]) -> Result<Vec<(serde_json::Value, String)>> {
    let verb = if uninstall { Verb::Uninstall } else { Verb::Install };
    install::rehearse(verb, args.iter().map(OsString::from))
}
