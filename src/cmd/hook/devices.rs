//! Adds the GPUs to the container's device rules, and checks that no other filter refuses them.
//!
//! On cgroup v2 every program of the container's cgroup and of the cgroups above must allow a
//! device. systemd attaches such programs (`DevicePolicy=closed` of a slice), as do Slurm and other
//! hooks. The runtime's rules do not show them, so the kernel must decide: [`refused_here`] in the
//! container's cgroup itself, else a child that joins it.

use std::io;
use std::path::Path;

use rustix::fs::{Access as Mode, AtFlags};

use super::bundle;
use crate::cmd::reload::register_with_systemd;
use crate::error::{Code, Error, Result};
use crate::host::Roots;
use crate::plan::Device;
use crate::request::DeviceRequest;
use crate::sys::cgroup::{
    Access, Allowed, DeviceCgroup, DeviceRule, OwnCgroup, RuleKind, SharedCgroup, Tenancy,
};
use crate::sys::ns::in_user_namespace;
use crate::sys::{probe, procfs};

/// The fix if the cgroup is not the container's own.
const OWN_CGROUP: &str = "let the engine make a cgroup for the container (leave out `--cgroups=disabled`, give it \
    another `--cgroup-parent`), or allow the GPUs in that cgroup (systemd: `DeviceAllow=`)";

/// The fix if a device filter refuses the GPUs.
const OTHER_FILTER: &str = "allow the GPUs there (systemd: `DeviceAllow=` of that slice or service), or give the container \
    another cgroup (`--cgroup-parent`)";

/// The GPUs that a container cannot do without.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::cmd) enum Wanted {
    /// Each one: the request names them.
    Each,
    /// Any one: the request is `all`, or an engine's. Under Slurm such a job may open its own only.
    Any,
}

impl Wanted {
    /// The GPUs of a request that is the user's own.
    pub(in crate::cmd) fn of(request: &DeviceRequest) -> Self {
        match request {
            DeviceRequest::List(_) => Self::Each,
            _ => Self::Any,
        }
    }
}

/// Allows `devices` in the container's `cgroup`, beside `theirs`, the rules of its definition.
/// `outside` is the container's first process, `None` for a caller in its namespaces. Returns
/// warnings.
///
/// # Errors
/// [`Code::SharedCgroup`] if the cgroup is not the container's own or another filter applies to it,
/// and denies the devices, [`Code::Cgroup`] if it cannot be changed.
pub(super) fn allow(
    cgroup: io::Result<Tenancy>,
    outside: Option<i32>,
    theirs: &[DeviceRule],
    devices: &[Device],
    wanted: Wanted,
    roots: &Roots,
) -> Result<Vec<String>> {
    let e = match cgroup {
        Ok(Tenancy::Own(own)) => match own.allow(theirs, &rules_for(devices)) {
            Ok(allowed) => {
                let mut warnings = Vec::new();
                if allowed != Allowed::Unrestricted {
                    warnings.extend(register_with_systemd(&own, theirs, devices));
                }
                warnings.extend(pass_other_filters(
                    &own, allowed, outside, devices, wanted, roots,
                )?);
                return Ok(warnings);
            }
            Err(e) => e,
        },
        Ok(Tenancy::Shared(shared)) => match without_rules(&shared, devices, roots) {
            Ok(warning) => return Ok(vec![warning?]),
            Err(e) => e,
        },
        Err(e) => e,
    };
    // A rootless engine cannot set a device filter, so the runtime set none. A rootful engine may
    // also give the container a user namespace; then there is a filter that the hook cannot change.
    if in_user_namespace() && is_permission(&e) {
        match outside {
            Some(pid) => return rootless(pid, devices, wanted, roots).map(Vec::from_iter),
            None if pass(devices, roots) => return Ok(Vec::new()),
            None => {}
        }
    }
    let error = Error::io(Code::Cgroup, "allowing the GPUs' device nodes", &e);
    Err(if outside.is_none() && in_user_namespace() {
        error.fix(bundle::FROM_OUTSIDE)
    } else {
        error
    })
}

/// Checks that the filters of others let the container open `devices`. One call of the kernel shows
/// whether there are any.
///
/// # Errors
/// As of [`judge`].
pub(in crate::cmd) fn pass_other_filters(
    own: &OwnCgroup,
    allowed: Allowed,
    outside: Option<i32>,
    devices: &[Device],
    wanted: Wanted,
    roots: &Roots,
) -> Result<Option<String>> {
    if matches!(own.has_other_filters(allowed), Ok(false)) {
        return Ok(None);
    }
    let refused = match outside {
        None => Ok(refused_here(devices, roots)),
        Some(_) => refused_in(|| own.join(), devices, roots),
    };
    match refused {
        Ok(refused) if refused.is_empty() => Ok(None),
        Ok(refused) => judge(&refused, devices, wanted, &whose(own, allowed)),
        Err(e) => Ok(Some(undecided(&whose(own, allowed), &e))),
    }
}

/// Checks that the caller, which is in the container's cgroup, may open `devices`. The runtime made
/// them, so nothing is changed.
///
/// # Errors
/// As of [`judge`].
pub(super) fn check_here(devices: &[Device], wanted: Wanted, roots: &Roots) -> Result<Option<String>> {
    judge(&refused_here(devices, roots), devices, wanted, ABOVE)
}

/// Checks a rootless container from outside. Only root sets filters, and on cgroups that both
/// share, so the caller's rights are the container's, unless it can join.
///
/// # Errors
/// As of [`judge`].
fn rootless(pid: i32, devices: &[Device], wanted: Wanted, roots: &Roots) -> Result<Option<String>> {
    let here = refused_here(devices, roots);
    if here.is_empty() {
        return Ok(None);
    }
    let cgroup = DeviceCgroup::of(Some(pid));
    match cgroup.and_then(|cgroup| refused_in(|| cgroup.join(), devices, roots)) {
        Ok(refused) => judge(&refused, devices, wanted, ABOVE),
        Err(_) if is_in_ours(pid) => judge(&here, devices, wanted, ABOVE),
        Err(e) => Ok(Some(undecided("the caller's cgroup", &e))),
    }
}

/// Whether a process is in the caller's cgroups.
fn is_in_ours(pid: i32) -> bool {
    const MAX: u64 = 1 << 20;
    let list = |name: &str| procfs::read(format!("/proc/{name}/cgroup"), MAX);
    matches!((list("self"), list(&pid.to_string())), (Ok(own), Ok(its)) if own == its)
}

/// The place of a filter that is not visible.
const ABOVE: &str = "the container's cgroup or one above it";

/// The cgroups with other filters, for a message.
fn whose(own: &OwnCgroup, allowed: Allowed) -> String {
    /// Deeper ones are few and follow from these.
    const SHOWN: usize = 3;
    let found = own.other_filters(allowed);
    if found.is_empty() {
        return ABOVE.to_owned();
    }
    let names: Vec<String> = found
        .iter()
        .take(SHOWN)
        .map(|p| p.display().to_string())
        .collect();
    format!("the cgroup {}", names.join(", "))
}

/// A warning if the filters refuse nodes that the container can do without.
///
/// # Errors
/// [`Code::SharedCgroup`] if it needs one of them.
fn judge(refused: &[&Device], devices: &[Device], wanted: Wanted, place: &str) -> Result<Option<String>> {
    let Some(first) = refused.first() else {
        return Ok(None);
    };
    let count = |role: Role, list: &[&Device]| list.iter().filter(|d| Role::of(&d.path) == role).count();
    let all: Vec<&Device> = devices.iter().collect();
    let is_needed = |device: &&&Device| match Role::of(&device.path) {
        Role::Control => true,
        Role::Extra => false,
        role => wanted == Wanted::Each || count(role, refused) == count(role, &all),
    };
    let why = format!("a device filter of {place} refuses it to the container");
    let what = |device: &Device| {
        let path = device.path.display();
        match refused.len() - 1 {
            0 => format!("device node {path}"),
            more => format!("device node {path} and {more} more"),
        }
    };
    let needed = || refused.iter().filter(is_needed);
    // The GPU's own node explains the most.
    let gpu = needed().find(|d| Role::of(&d.path) == Role::Gpu);
    match gpu.or_else(|| needed().next()) {
        Some(device) => Err(Error::new(Code::SharedCgroup, what(device), why).fix(OTHER_FILTER)),
        None => Ok(Some(format!("{}: {why}; fix: {OTHER_FILTER}", what(first)))),
    }
}

fn undecided(place: &str, e: &io::Error) -> String {
    format!(
        "a device filter of {place} may refuse the GPUs to the container, which could not be checked ({e}); fix: if they \
         do not open: {OTHER_FILTER}"
    )
}

/// The use of a device node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Role {
    Gpu,
    /// An instance of a partitioned GPU.
    Instance,
    /// Every GPU needs it.
    Control,
    Extra,
}

impl Role {
    fn of(path: &Path) -> Self {
        let name = path
            .strip_prefix("/dev")
            .unwrap_or(path)
            .to_str()
            .unwrap_or_default();
        match name.strip_prefix("nvidia") {
            Some("ctl" | "-uvm") => Self::Control,
            Some(n) if n.starts_with("-caps/") => Self::Instance,
            Some(n) if !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) => Self::Gpu,
            None if name == "dxg" => Self::Control,
            _ => Self::Extra,
        }
    }
}

/// Handles a cgroup that is shared, whose rules are not changed: a warning if the rules allow the
/// devices, else a refusal.
///
/// # Errors
/// Why the cgroup's rules cannot be read.
pub(in crate::cmd) fn without_rules(
    shared: &SharedCgroup,
    devices: &[Device],
    roots: &Roots,
) -> io::Result<Result<String>> {
    let why = shared.why();
    let open = !shared.is_restricted()? || (shared.has_caller() && pass(devices, roots));
    Ok(if open {
        Ok(format!(
            "the container's device cgroup is not its own ({why}), so no rules were changed; it may open every device \
             that the cgroup allows; fix: {OWN_CGROUP}"
        ))
    } else {
        let why = format!("it is not the container's own ({why}), and its rules refuse the GPUs");
        Err(Error::new(Code::SharedCgroup, "the container's device cgroup", why).fix(OWN_CGROUP))
    })
}

/// The rules that allow `devices`.
pub(in crate::cmd) fn rules_for(devices: &[Device]) -> Vec<DeviceRule> {
    let rule = |d: &Device| DeviceRule::allow(RuleKind::Char, d.number.major, d.number.minor, Access::RW);
    devices.iter().map(rule).collect()
}

/// Whether this process's device cgroup allows the plan's nodes.
fn pass(devices: &[Device], roots: &Roots) -> bool {
    refused_here(devices, roots).is_empty()
}

/// The nodes that this process's device cgroup refuses. Opens none: a driver may take seconds.
fn refused_here<'d>(devices: &'d [Device], roots: &Roots) -> Vec<&'d Device> {
    let mode = Mode::READ_OK | Mode::WRITE_OK;
    let may = |d: &Device| rustix::fs::accessat(&roots.dev, below_dev(&d.path), mode, AtFlags::empty());
    let refused = |d: &&Device| matches!(may(d), Err(rustix::io::Errno::PERM));
    devices.iter().filter(refused).collect()
}

/// The nodes that the cgroup which `join` enters refuses.
///
/// # Errors
/// If no child can join it.
fn refused_in<'d>(
    join: impl FnOnce() -> io::Result<()>,
    devices: &'d [Device],
    roots: &Roots,
) -> io::Result<Vec<&'d Device>> {
    let found = devices.iter().filter_map(|d| {
        let node = roots.dev.resolve_nofollow(below_dev(&d.path)).ok()?;
        Some((d, node))
    });
    let (devices, nodes): (Vec<&Device>, Vec<_>) = found.unzip();
    let may = probe::access_in(join, &nodes)?;
    let refused = |(_, may): &(_, Option<_>)| *may == Some(rustix::io::Errno::PERM);
    Ok(devices
        .into_iter()
        .zip(may)
        .filter(refused)
        .map(|(d, _)| d)
        .collect())
}

fn below_dev(path: &Path) -> &Path {
    path.strip_prefix("/dev").unwrap_or(path)
}

fn is_permission(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::EPERM | libc::EACCES | libc::ENODEV | libc::EROFS | libc::ENOENT)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::DeviceNumber;

    fn device(path: &str) -> Device {
        Device {
            path: path.into(),
            number: DeviceNumber { major: 195, minor: 0 },
            mode: 0o666,
            uid: 0,
            gid: 0,
            reason: String::new(),
        }
    }

    #[test]
    fn a_refused_node_stops_a_container_that_needs_it() {
        const NODES: [&str; 7] = [
            "/dev/nvidia0",
            "/dev/nvidia1",
            "/dev/nvidiactl",
            "/dev/nvidia-uvm",
            "/dev/nvidia-uvm-tools",
            "/dev/nvidia-caps/nvidia-cap10",
            "/dev/nvidia-caps/nvidia-cap11",
        ];
        let devices: Vec<Device> = NODES.map(device).into();
        for (refused, each, any) in [
            (&[][..], "", ""),
            (&[4], "warning", "warning"),
            (&[0], "refusal", "warning"),
            (&[0, 1], "refusal", "refusal"),
            (&[2], "refusal", "refusal"),
            (&[3], "refusal", "refusal"),
            (&[4, 5], "refusal", "warning"),
            (&[5, 6], "refusal", "refusal"),
        ] {
            let refused: Vec<&Device> = refused.iter().map(|at: &usize| &devices[*at]).collect();
            for (wanted, expected) in [(Wanted::Each, each), (Wanted::Any, any)] {
                let found = match judge(&refused, &devices, wanted, ABOVE) {
                    Ok(None) => "",
                    Ok(Some(_)) => "warning",
                    Err(e) if e.to_string().contains("NVOCI-5201") => "refusal",
                    Err(e) => panic!("{e}"),
                };
                assert_eq!(found, expected, "{wanted:?} {refused:?}");
            }
        }
    }

    #[test]
    fn the_message_names_the_node_and_the_fix() {
        let gpu = [device("/dev/nvidia0")];
        let refused = [&gpu[0]];
        let error = judge(&refused, &gpu, Wanted::Any, "the cgroup /locked").unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("device node /dev/nvidia0: a device filter of the cgroup /locked"),
            "{text}"
        );
        assert!(text.contains("fix: ") && text.contains("DeviceAllow="), "{text}");
    }
}
