//! Adds the GPUs to the container's device rules.

use std::io;
use std::os::fd::AsFd as _;

use rustix::fs::{Access as Mode, AtFlags};

use super::bundle;
use crate::cmd::reload::register_with_systemd;
use crate::error::{Code, Error, Result};
use crate::host::Roots;
use crate::plan::Device;
use crate::sys::cgroup::{Access, Allowed, DeviceRule, RuleKind, SharedCgroup, Tenancy};
use crate::sys::ns::in_user_namespace;
use crate::sys::root::own_fds;

/// The fix if the cgroup is not the container's own.
const OWN_CGROUP: &str = "let the engine make a cgroup for the container (leave out `--cgroups=disabled`, give it \
    another `--cgroup-parent`), or allow the GPUs in that cgroup (systemd: `DeviceAllow=`)";

/// Allows `devices` in the container's `cgroup`, beside `theirs`, the rules of its definition.
/// `outside` is the container's first process, `None` for a caller in its namespaces. Returns
/// warnings.
///
/// # Errors
/// [`Code::SharedCgroup`] if the cgroup is not the container's own and denies the devices,
/// [`Code::Cgroup`] if it cannot be changed.
pub(super) fn allow(
    cgroup: io::Result<Tenancy>,
    outside: Option<i32>,
    theirs: &[DeviceRule],
    devices: &[Device],
    roots: &Roots,
) -> Result<Option<String>> {
    let e = match cgroup {
        Ok(Tenancy::Own(own)) => match own.allow(theirs, &rules_for(devices)) {
            Ok(Allowed::V1 | Allowed::V2) => return Ok(register_with_systemd(&own, theirs, devices)),
            Ok(Allowed::Unrestricted) => return Ok(None),
            Err(e) => e,
        },
        Ok(Tenancy::Shared(shared)) => match without_rules(&shared, devices, roots) {
            Ok(warning) => return warning.map(Some),
            Err(e) => e,
        },
        Err(e) => e,
    };
    // A rootless engine cannot set a device filter, so the runtime set none. A rootful engine may
    // also give the container a user namespace; then there is a filter that the hook cannot change.
    if in_user_namespace() && is_permission(&e) && (outside.is_some() || pass(devices, roots)) {
        return Ok(None);
    }
    let error = Error::io(Code::Cgroup, "allowing the GPUs' device nodes", &e);
    Err(if outside.is_none() && in_user_namespace() {
        error.fix(bundle::FROM_OUTSIDE)
    } else {
        error
    })
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

/// Whether this process's device cgroup allows the plan's nodes. Opens none: a driver may take
/// seconds.
fn pass(devices: &[Device], roots: &Roots) -> bool {
    devices.iter().all(|d| {
        let below_dev = d.path.strip_prefix("/dev").unwrap_or(&d.path);
        let Ok(node) = roots.dev.resolve_nofollow(below_dev) else {
            return true;
        };
        let number = rustix::path::DecInt::from_fd(node.as_fd());
        let mode = Mode::READ_OK | Mode::WRITE_OK;
        let may = own_fds().map(|fds| rustix::fs::accessat(fds, number, mode, AtFlags::empty()));
        !matches!(may, Ok(Err(rustix::io::Errno::PERM)))
    })
}

fn is_permission(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::EPERM | libc::EACCES | libc::ENODEV | libc::EROFS | libc::ENOENT)
    )
}
