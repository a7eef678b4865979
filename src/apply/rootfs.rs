//! Applies a plan to a rootfs.
//!
//! ```text
//!  host's mount namespace          container's mount namespace
//!  ──────────────────────          ───────────────────────────
//!  Sources::open: look up,         a child begins to read the image
//!  check, clone detached           open the rootfs
//!  device cgroup            enter  attach the driver directory ── the only place of the image
//!                          ──────► bind files into it             that is looked up for all files
//!                                  device nodes, /proc covers
//!                                  directories with places of their own
//!                                  links, loader configuration
//!                                  record, seal
//! ```
//!
//! Everything on the left happens before nvoci touches the container, so a host that cannot meet
//! the request leaves the container unchanged.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::container::{Container, Mounts};
use super::cuda_compat::Preferred;
use super::driver_dir::{Attached, DriverDir};
use super::image::{Image, possible_dirs};
use super::loader::{Loader, first_dirs};
use super::record::Record;
use super::sources::Sources;
use super::{devices, links, procfs, texts, trees};
use crate::config::Preflight;
use crate::error::{Code, IoContext as _, Result};
use crate::plan::Plan;
use crate::preflight::refuse;
use crate::sys::mount::{Restrict, seal};
use crate::sys::mountinfo::MountTable;
use crate::vocabulary::RECORD;

/// The rootfs to change.
#[derive(Clone, Debug)]
pub struct Target {
    /// The rootfs, an absolute path of the mount namespace that the caller is in.
    pub rootfs: PathBuf,
    /// Places at which the spec mounts a tmpfs.
    pub tmpfs: Vec<PathBuf>,
    /// Places of all the spec's mounts; `None` without a spec.
    pub mounts: Option<Vec<PathBuf>>,
    /// The host's mounts, if the caller's own namespace may not list them.
    pub host: Option<MountTable>,
    /// The SELinux label of the container's files.
    pub mount_label: Option<String>,
}

/// Applies `plan`. The caller is in the container's mount namespace, where it opened `image` for
/// the same plan.
///
/// With [`Preflight::Enforce`] the findings are judged before anything changes. One of them may
/// depend on the place of the driver directory. If that is still open, it is judged once the
/// directory is attached.
///
/// # Errors
/// [`Code::Preflight`] if preflight refuses the container, and others if a part that the request
/// needs fails. The runtime then gives up the container, and the kernel
/// removes all our mounts with its mount namespace.
pub fn apply(
    plan: &Plan,
    sources: Sources,
    target: &Target,
    mut image: Image,
    policy: Preflight,
    started: Instant,
) -> Result<Record> {
    let mounts = Mounts {
        tmpfs: &target.tmpfs,
        by_runtime: target.mounts.is_some(),
        host: target.host.as_ref(),
    };
    let container = Container::open(&target.rootfs, mounts)?;
    let mut record = Record {
        devices: plan
            .devices
            .iter()
            .map(|d| d.path.display().to_string())
            .collect(),
        files: sources.files.len(),
        warnings: plan.warnings.clone(),
        ..Record::default()
    };
    record.warnings.extend(sources.warnings);
    let mut verdict = None;
    if policy == Preflight::Enforce {
        let received = image.recv_verdict()?;
        let places = possible_dirs(plan);
        // Only nvoci's own candidates are looked up, never a path that the child sent.
        let may_be_at = |dir: &Path| {
            let known = places.iter().find(|place| *place == dir);
            known.is_some_and(|place| DriverDir::may_be_at(&container, place, target.mounts.as_deref()))
        };
        refuse(&received.findings(may_be_at))?;
        verdict = Some(received);
    }
    let attached = DriverDir::attach(
        &container,
        &plan.driver_dirs,
        target.mounts.as_deref(),
        target.mount_label.as_deref(),
        &mut record.warnings,
    )?;
    let dir = match attached {
        Attached::New(dir) => dir,
        Attached::AlreadyThere(path) => {
            record.driver_dir = path.display().to_string();
            record.already_there = true;
            return Ok(record);
        }
    };
    let is_at = |place: &Path| place == dir.path;
    if let Some(verdict) = &verdict {
        record.findings = verdict.findings(is_at);
        refuse(&record.findings)?;
    }
    record.driver_dir = dir.path.display().to_string();
    image.send_driver_dir(&dir.path, plan)?;
    record.warnings.extend(dir.fill(sources.files)?);
    if verdict.is_none() {
        record.findings = image.recv_verdict()?.findings(is_at);
    }
    record
        .warnings
        .extend(record.findings.iter().map(ToString::to_string));
    let seen = image.recv_seen()?;
    match &seen.preferred {
        Preferred::Nothing => {}
        Preferred::Refused(why) => record.warnings.push(why.clone()),
        Preferred::Use { dir, .. } => record.cuda_compat = Some(dir.display().to_string()),
    }
    let plan = &*seen.preferred.plan(plan);
    dir.link(&plan.links)?;
    devices::bind_nodes(&container, sources.devices)?;
    record.warnings.extend(procfs::cover(&container, &dir, plan));
    record
        .warnings
        .extend(texts::write(&dir, &plan.texts, &seen.lacking));
    // No library directory has changed so far; the child reads their modification times.
    let first = first_dirs(&dir.path, plan);
    let loader = Loader {
        outcome: (!first.is_empty()).then(|| image.recv_cache()).transpose()?,
        first,
    };
    record.warnings.extend(trees::attach_trees(
        &container,
        sources.trees,
        target.mount_label.as_deref(),
    )?);
    record
        .warnings
        .extend(links::make_links(&container, &dir, &plan.rootfs_links));
    let update = loader.write(&container, &dir);
    record.loader = update.how;
    record.warnings.extend(update.warnings);
    record.took = started.elapsed();
    let text = record.to_json(plan).to_string();
    dir.write(RECORD, text.as_bytes())
        .context(Code::Mount, || "the injection's record")?;
    seal(&dir.top, Restrict::FILE).context(Code::Mount, || "driver directory")?;
    Ok(record)
}
