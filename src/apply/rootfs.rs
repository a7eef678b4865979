//! Applies a plan to a rootfs.
//!
//! ```text
//!  host's mount namespace          container's mount namespace
//!  ──────────────────────          ───────────────────────────
//!  Sources::open: look up,         open the rootfs
//!  check, clone detached           attach the driver directory ── the only place of the image
//!  device cgroup            enter  bind files into it             that is looked up for all files
//!                          ──────► directories with places of their own
//!                                  device nodes, /proc covers
//!                                  links, loader configuration
//!                                  record, seal
//! ```
//!
//! Everything on the left is done before anything of the container is touched, so a host that cannot
//! meet the request leaves the container as it was.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::container::Container;
use super::driver_dir::{Attached, DriverDir, RECORD};
use super::loader::Loader;
use super::record::Record;
use super::sources::Sources;
use super::{cuda_compat, devices, links, procfs, texts, trees};
use crate::error::{Code, Error, IoContext as _, Result};
use crate::plan::Plan;
use crate::sys::mount::{Restrict, seal};

/// The rootfs to apply to.
#[derive(Clone, Debug)]
pub struct Target {
    /// The rootfs, an absolute path of the mount namespace that the caller is in.
    pub rootfs: PathBuf,
    /// Where the spec mounts a tmpfs.
    pub tmpfs: Vec<PathBuf>,
    /// The SELinux label of the container's files.
    pub mount_label: Option<String>,
}

/// Applies `plan`. The caller is in the container's mount namespace.
///
/// # Errors
/// When something that the request needs cannot be done; the runtime must then give up the container,
/// and with its mount namespace all that was mounted goes.
pub fn apply(plan: &Plan, sources: Sources, target: &Target, started: Instant) -> Result<Record> {
    refuse_root(&target.rootfs)?;
    let container = Container::open(&target.rootfs, &target.tmpfs)?;
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
    let attached = DriverDir::attach(
        &container,
        &plan.driver_dirs,
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
    record.driver_dir = dir.path.display().to_string();
    let (forward, note) = cuda_compat::prefer(&container, plan);
    record.warnings.extend(note);
    let plan = match &forward {
        Some((compat, plan)) => {
            record.cuda_compat = Some(compat.display().to_string());
            plan
        }
        None => plan,
    };
    record.warnings.extend(dir.fill(sources.files, &plan.links)?);
    record.warnings.extend(trees::add(
        &container,
        sources.trees,
        target.mount_label.as_deref(),
    )?);
    devices::add(&container, sources.devices)?;
    record.warnings.extend(procfs::cover(&container, &dir, plan));
    let loader = Loader::read(&container, &dir, plan);
    record
        .warnings
        .extend(texts::write(&container, &dir, &plan.texts));
    record
        .warnings
        .extend(links::add(&container, &dir, &plan.rootfs_links));
    let told = loader.write(&container, &dir);
    record.loader = told.how;
    record.warnings.extend(told.warnings);
    record.took = started.elapsed();
    let text = record.to_json(plan).to_string();
    dir.write(RECORD, text.as_bytes())
        .context(Code::Mount, || "the injection's record")?;
    seal(&dir.top, Restrict::FILE).context(Code::Mount, || "driver directory")?;
    Ok(record)
}

fn refuse_root(rootfs: &Path) -> Result<()> {
    if rootfs.is_absolute() && rootfs.components().count() > 1 {
        return Ok(());
    }
    Err(Error::new(
        Code::UnsafeRootfs,
        format!("rootfs {}", rootfs.display()),
        "it is the host's own root or a relative path",
    ))
}
