//! `nvidia-container-cli configure`: the hook's work, for a caller without an OCI container.
//!
//! | caller | process | mount namespace |
//! |---|---|---|
//! | LXC, Incus, enroot, Apptainer | none | the caller's own, not the host's |
//! | `ctr --gpus` | the container's first | entered |
//! | gVisor | its gofer | entered |

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::inventory::request;
use super::options::{Configure, FIRMWARE, Global};
use crate::apply::rootfs::{Target, apply};
use crate::apply::{Container, Grant, Grants, Image, Sources, record};
use crate::cmd::hook::{self, Namespace, devices};
use crate::cmd::{inject, log};
use crate::config::Preflight;
use crate::error::{Code, Error, IoContext as _, Result};
use crate::host::Roots;
use crate::oci::{CONFIG, Spec, whole_in};
use crate::plan::{Place, Plan};
use crate::preflight::Verdict;
use crate::sys::cgroup::{DeviceCgroup, Tenancy};
use crate::sys::mountinfo::MountTable;
use crate::sys::ns::MountNs;
use crate::sys::root::Root;
use crate::sys::{owned, process};

/// Injects the options' devices and files into the container at `options.rootfs`.
///
/// # Errors
/// Those of the hook. Also if the container's own device rules are unknown, so that they would be
/// lost on cgroup v2.
pub(super) fn run(global: &Global, options: &Configure) -> Result<()> {
    let started = Instant::now();
    // A relative path is relative to the caller's working directory, which this process leaves
    // soon.
    let rootfs = std::path::absolute(&options.rootfs).context(Code::UnsafeRootfs, || "rootfs")?;
    process::isolate().context(Code::System, || "resetting the inherited process state")?;
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
    let Namespace { id, enter: namespace } = namespace(options.pid)?;
    // Opened before the process enters the container's mount namespace, where /run is another
    // directory.
    let grants = record::run_dir().and_then(|run| Grants::below(&run)).ok();
    let (mut plan, roots) = inject::prepare(inject::Discovery::begin(&config)?, &request, &config)?;
    leave_out(&mut plan, &options.wish.without);
    let wanted = devices::Wanted::of(&request.devices);
    process::drop_capabilities();
    // Before the child that reads the image, which may be in the container's cgroup as well.
    let cgroup = (!plan.no_cgroups).then(|| DeviceCgroup::of(options.pid)?.claim(options.pid));
    let mut image = Image::open(&rootfs, namespace.as_ref(), &plan, |_| Verdict::default())?;
    let sources = Sources::open(&plan, &roots, |_| false)?;
    let spec = spec_of(&rootfs);
    let mut grant = Grant::new("", id, spec.as_ref(), &plan.devices);
    if let Some(cgroup) = cgroup {
        let warning = allow(cgroup, options.pid, spec.as_ref(), &plan, wanted, &roots)?;
        plan.warnings.extend(warning);
    } else {
        grant.devices.clear();
    }
    if options.no_devbind {
        plan.devices.clear();
    }
    drop(roots);
    // Read now: later the list may be the container's, without the host's mounts.
    let host = MountTable::of_first_process().ok();
    hook::go_inside(options.pid, namespace)?;
    Container::open_root(&rootfs)?;
    image.wait_ready()?;
    let target = Target {
        tmpfs: spec
            .as_ref()
            .map_or_else(|| tmpfs_of(&rootfs), hook::tmpfs_destinations),
        mounts: spec.as_ref().map(hook::destinations),
        host,
        mount_label: spec.as_ref().and_then(|s| s.mount_label()).map(str::to_owned),
        rootfs,
    };
    let record = apply(&plan, sources, &target, image, Preflight::Off, started)?;
    inject::warn(&record.warnings);
    if let Some(grants) = &grants {
        hook::keep(grants, &record, grant);
    }
    Ok(())
}

/// The container's namespace: the process's, or the caller's own, which then must not be the
/// host's.
fn namespace(pid: Option<i32>) -> Result<Namespace> {
    let Some(pid) = pid else {
        return hook::inside_a_container().map(Namespace::inside);
    };
    let namespace =
        MountNs::of(pid).map_err(|e| Error::io(Code::NotAContainer, format!("process {pid}"), &e))?;
    let host = MountNs::of_first_process().or_else(|_| MountNs::own());
    if host.is_ok_and(|host| host.is(&namespace)) {
        let why = "it is in the host's mount namespace";
        return Err(Error::new(Code::NotAContainer, format!("process {pid}"), why));
    }
    Ok(Namespace::outside(namespace))
}

/// The definition of the container, if the rootfs is a bundle's. It decides which devices are
/// allowed, so it counts only if no other user could have written it.
fn spec_of(rootfs: &Path) -> Option<Spec> {
    let dir = rootfs.parent()?;
    let path = dir.join(CONFIG);
    let file = owned::find_lasting(&path).ok()??;
    let spec = whole_in(&file, || path.display().to_string()).ok()?;
    (spec.root_path(dir).ok()? == rootfs).then_some(spec)
}

/// Removes the firmware or a daemon's sockets.
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

/// Paths at which a caller without a definition may have mounted the container's `/dev` and `/run`.
/// A link of the image does not count: it leads to a volume. [`apply`] checks whether it is a
/// tmpfs.
fn tmpfs_of(rootfs: &Path) -> Vec<PathBuf> {
    let Ok(root) = Root::open(rootfs) else {
        return Vec::new();
    };
    let is_dir = |place: &&&str| root.resolve_nofollow(**place).is_ok_and(|node| node.is_dir());
    ["/dev", "/run"]
        .iter()
        .filter(is_dir)
        .map(PathBuf::from)
        .collect()
}

/// Allows the plan's devices in the container's device cgroup. Returns warnings.
fn allow(
    cgroup: io::Result<Tenancy>,
    outside: Option<i32>,
    spec: Option<&Spec>,
    plan: &Plan,
    wanted: devices::Wanted,
    roots: &Roots,
) -> Result<Option<String>> {
    let what = || "allowing the GPUs' device nodes";
    let own = match cgroup.context(Code::Cgroup, what)? {
        Tenancy::Own(own) => own,
        Tenancy::Shared(shared) => {
            let warning = devices::without_rules(&shared, &plan.devices, roots);
            return warning.context(Code::Cgroup, what)?.map(Some);
        }
    };
    let Some(theirs) = spec
        .map(Spec::device_rules)
        .or_else(|| own.keeps_other_rules().then(Vec::new))
    else {
        let why = "with cgroup v2 the container's own rules would be lost: no config.json beside the rootfs names them";
        return Err(Error::new(Code::Cgroup, what(), why)
            .fix("use --no-cgroups and let the caller allow the devices"));
    };
    let ours = devices::rules_for(&plan.devices);
    let allowed = own.allow(&theirs, &ours).context(Code::Cgroup, what)?;
    devices::pass_other_filters(&own, allowed, outside, &plan.devices, wanted, roots)
}
