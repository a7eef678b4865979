//! `nvidia-container-cli configure`: the hook's work, for a caller that has no OCI container.
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
use crate::error::{Code, Error, IoContext as _, Result};
use crate::host::Roots;
use crate::oci::{CONFIG, Spec, whole_in};
use crate::plan::{Place, Plan};
use crate::sys::cgroup::{DeviceCgroup, Tenancy};
use crate::sys::mountinfo::MountTable;
use crate::sys::ns::MountNs;
use crate::sys::root::Root;
use crate::sys::{owned, process};

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
    let Namespace { id, enter: namespace } = namespace(options.pid)?;
    // Opened before the container's mount namespace is entered: later, /run is another one.
    let grants = record::run_dir().and_then(|run| Grants::below(&run)).ok();
    let (mut plan, roots) = inject::prepare(inject::Look::begin(&config)?, &request, &config)?;
    leave_out(&mut plan, &options.wish.without);
    process::drop_capabilities();
    // Before there is a child that may be in the container's cgroup as well.
    let cgroup = (!plan.no_cgroups).then(|| DeviceCgroup::of(options.pid)?.claim(options.pid));
    let mut image = Image::open(&rootfs, namespace.as_ref(), &plan, |_| Vec::new())?;
    let sources = Sources::open(&plan, &roots, |_| false)?;
    let spec = spec_of(&rootfs);
    let mut grant = Grant::new("", id, spec.as_ref(), &plan.devices);
    if let Some(cgroup) = cgroup {
        let warning = allow(cgroup, spec.as_ref(), &plan, &roots)?;
        plan.warnings.extend(warning);
    } else {
        grant.devices.clear();
    }
    if options.no_devbind {
        plan.devices.clear();
    }
    drop(roots);
    // Later, the list may be the container's, without the mounts of the host that it has parts of.
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
    let no_findings = |image: &mut Image| image.recv_findings().map(|_| Vec::new());
    let record = apply(&plan, sources, &target, image, no_findings, started)?;
    inject::warn(&record.warnings);
    if let Some(grants) = &grants {
        hook::keep(grants, &record, grant);
    }
    Ok(())
}

/// The container's namespace: of the process, or the caller's own, which then is not the host's.
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

/// The definition of the container, where the rootfs is the one of a bundle. It decides which devices are allowed, so one that
/// somebody else could have put there is none.
fn spec_of(rootfs: &Path) -> Option<Spec> {
    let dir = rootfs.parent()?;
    let path = dir.join(CONFIG);
    let file = owned::find_lasting(&path).ok()??;
    let spec = whole_in(&file, || path.display().to_string()).ok()?;
    (spec.root_path(dir).ok()? == rootfs).then_some(spec)
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

/// Where a caller without a definition may have made the container's `/dev` and `/run`. A link of the image is no place:
/// it leads to a volume. Whether it is a tmpfs that only the container has, [`apply`] sees.
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

/// Allows the plan's devices in the container's device cgroup. Returns what the user should know.
fn allow(
    cgroup: io::Result<Tenancy>,
    spec: Option<&Spec>,
    plan: &Plan,
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
    own.allow(&theirs, &ours)
        .context(Code::Cgroup, what)
        .map(|_| None)
}
