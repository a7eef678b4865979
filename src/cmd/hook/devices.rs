//! The container's device rules: the GPUs are added to what it may open.

use std::io;
use std::os::fd::AsFd as _;

use rustix::fs::{Access as Mode, AtFlags};

use super::bundle;
use crate::cmd::reload::tell_systemd;
use crate::error::{Code, Error, Result};
use crate::host::Roots;
use crate::plan::Device;
use crate::sys::cgroup::{Access, Allowed, DeviceRule, RuleKind, SharedCgroup, Tenancy};
use crate::sys::ns::in_user_namespace;
use crate::sys::root::own_fds;

/// What is done about a cgroup that is not the container's alone.
const OWN_CGROUP: &str = "let the engine make a cgroup for the container (leave out `--cgroups=disabled`, give it \
    another `--cgroup-parent`), or allow the GPUs in that cgroup (systemd: `DeviceAllow=`)";

/// Allows `devices` in the container's `cgroup`, beside `theirs`, the rules of its definition. `outside` is the container's
/// first process, `None` for a caller in its namespaces. Returns what the user should know.
///
/// # Errors
/// [`Code::SharedCgroup`] where the cgroup is not the container's alone and refuses the devices, [`Code::Cgroup`] where it
/// cannot be changed.
pub(super) fn allow(
    cgroup: io::Result<Tenancy>,
    outside: Option<i32>,
    theirs: &[DeviceRule],
    devices: &[Device],
    roots: &Roots,
) -> Result<Option<String>> {
    let e = match cgroup {
        Ok(Tenancy::Own(own)) => match own.allow(theirs, &rules_for(devices)) {
            Ok(Allowed::V1 | Allowed::V2) => return Ok(tell_systemd(&own, theirs, devices)),
            Ok(Allowed::Unrestricted) => return Ok(None),
            Err(e) => e,
        },
        Ok(Tenancy::Shared(shared)) => match without_rules(&shared, devices, roots) {
            Ok(warning) => return warning.map(Some),
            Err(e) => e,
        },
        Err(e) => e,
    };
    // Rootless: a user may not set a device filter, so the runtime has set none. But a rootful engine may
    // give the container a user namespace of its own, and then there is a filter that we cannot change.
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

/// What becomes of a container in a cgroup of others, whose rules are not changed: a warning where the rules let the
/// devices be opened, else a refusal.
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

/// Whether the device cgroup that this process is in lets the plan's nodes be opened. Nothing is opened: a driver may
/// take seconds for that.
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
