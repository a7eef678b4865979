//! `nvidia-container-cli configure`: the hook's work, for a caller that has no OCI container.
//!
//! | caller | process | mount namespace |
//! |---|---|---|
//! | LXC, Incus, enroot, Apptainer | none | the caller's own, not the host's |
//! | `ctr --gpus` | the container's first | entered |
//! | gVisor | its gofer | entered |

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::inventory::request;
use super::options::{Configure, FIRMWARE, Global};
use crate::apply::rootfs::{Target, apply};
use crate::apply::{Container, Image, Sources};
use crate::door::{hook, inject, log};
use crate::error::{Code, Error, IoContext as _, Result};
use crate::oci::{Bundle, Interest, Spec};
use crate::plan::{Place, Plan};
use crate::sys::budget::Budget;
use crate::sys::cgroup::DeviceCgroup;
use crate::sys::ns::MountNs;
use crate::sys::process;
use crate::sys::root::Root;

/// Gives the container in `options.rootfs` what the options name.
///
/// # Errors
/// As the hook; and where the container's own device rules are not known, so that on cgroup v2 they would be lost.
pub(super) fn run(global: &Global, options: &Configure) -> Result<()> {
    let started = Instant::now();
    // The caller's working directory counts, and it is left in a moment.
    let rootfs = std::path::absolute(&options.rootfs).context(Code::UnsafeRootfs, || "rootfs")?;
    process::isolate().context(Code::System, || "cutting off what was inherited")?;
    let mut config = super::config_of(global)?;
    if let Some(mode) = options.cuda_compat {
        config.cuda_compat.value = mode;
    }
    config.no_cgroups.value |= options.no_cgroups;
    log::start(&config);
    let mut capabilities = options.capabilities();
    if options.wish.compat32 {
        capabilities = capabilities.with(crate::request::Capabilities::COMPAT32);
    }
    let request = request(&options.wish, capabilities, &options.requirements, &config)?;
    let namespace = namespace(options.pid)?;
    let (mut plan, roots) = inject::prepare(inject::Look::begin(&config)?, &request, &config)?;
    leave_out(&mut plan, &options.wish.without);
    process::drop_capabilities();
    let mut image = Image::open(&rootfs, namespace.as_ref(), &plan, |_, _| Ok(()))?;
    let sources = Sources::open(&plan, &roots, |_| false)?;
    let spec = spec_of(&rootfs);
    if !plan.no_cgroups {
        allow(options.pid, spec.as_ref(), &plan)?;
    }
    if options.no_devbind {
        plan.devices.clear();
    }
    drop(roots);
    hook::go_inside(options.pid, namespace)?;
    Container::open_root(&rootfs)?;
    image.answers()?;
    let target = Target {
        tmpfs: spec
            .as_ref()
            .map_or_else(|| tmpfs_of(&rootfs), hook::tmpfs_destinations),
        mount_label: spec.as_ref().and_then(|s| s.mount_label()).map(str::to_owned),
        rootfs,
    };
    let record = apply(&plan, sources, &target, image, |_| Ok(Vec::new()), started)?;
    inject::warn(&record.warnings);
    Ok(())
}

/// The namespace to enter; `None` when it is the caller's own, which then is not the host's.
fn namespace(pid: Option<i32>) -> Result<Option<MountNs>> {
    let Some(pid) = pid else {
        return hook::inside_a_container().map(|()| None);
    };
    let namespace =
        MountNs::of(pid).map_err(|e| Error::io(Code::NotAContainer, format!("process {pid}"), &e))?;
    let host = MountNs::of_first_process().or_else(|_| MountNs::own());
    if host.is_ok_and(|host| host.is(&namespace)) {
        let why = "it is in the host's mount namespace";
        return Err(Error::new(Code::NotAContainer, format!("process {pid}"), why));
    }
    Ok(Some(namespace))
}

/// The definition of the container, where the rootfs is the one of a bundle.
fn spec_of(rootfs: &Path) -> Option<Spec> {
    let (bundle, spec) = Bundle::open(rootfs.parent()?, Interest::NOTHING, &Budget::default()).ok()?;
    spec.whole().ok()?;
    (spec.root_path(bundle.path()).ok()? == rootfs).then_some(spec)
}

/// Takes out the firmware or a daemon's sockets.
fn leave_out(plan: &mut Plan, parts: &[&str]) {
    let firmware = parts.contains(&FIRMWARE);
    plan.files.retain(|file| match file.place {
        Place::Firmware => !firmware,
        Place::Run => !parts
            .iter()
            .any(|part| file.source.iter().any(|dir| dir == *part)),
        _ => true,
    });
    plan.rootfs_links
        .retain(|link| !(firmware && link.to == Path::new(Place::Firmware.dir())));
}

/// Where a caller without a definition has made the container's `/dev` and `/run`: on a tmpfs that is not the host's own.
fn tmpfs_of(rootfs: &Path) -> Vec<PathBuf> {
    let Ok(root) = Root::open(rootfs) else {
        return Vec::new();
    };
    let host_dev = rustix::fs::stat("/dev").map(|dev| dev.st_dev);
    let made_for_it = |place: &&&str| {
        let Ok(node) = root.resolve(**place) else {
            return false;
        };
        let tmpfs = rustix::fs::fstatfs(node.as_fd()).is_ok_and(|fs| fs.f_type == TMPFS_MAGIC);
        tmpfs && host_dev.is_ok_and(|dev| dev != node.stat().st_dev)
    };
    ["/dev", "/run"]
        .iter()
        .filter(made_for_it)
        .map(PathBuf::from)
        .collect()
}

/// linux/magic.h.
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

/// Allows the plan's devices in the device cgroup of `pid`.
fn allow(pid: Option<i32>, spec: Option<&Spec>, plan: &Plan) -> Result<()> {
    let what = || "allowing the GPUs' device nodes";
    let cgroup = DeviceCgroup::of(pid).context(Code::Cgroup, what)?;
    let Some(theirs) = spec
        .map(Spec::device_rules)
        .or_else(|| cgroup.keeps_other_rules().then(Vec::new))
    else {
        let why = "with cgroup v2 the container's own rules would be lost: no config.json beside the rootfs names them";
        return Err(Error::new(Code::Cgroup, what(), why)
            .fix("use --no-cgroups and let the caller allow the devices"));
    };
    let ours = hook::rules_for(&plan.devices);
    cgroup.allow(&theirs, &ours).context(Code::Cgroup, what).map(drop)
}
