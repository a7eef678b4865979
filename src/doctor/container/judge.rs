//! Turns an inspected container into findings.
//!
//! The checks follow the chain from node to CUDA, in order, and find why CUDA fails even if
//! `nvidia-smi` works. For example, a node that fails with EPERM gets `container.refused`.

use std::path::Path;

use rustix::io::Errno;

use super::inspect::{Mapped, Seat, Seen, State, Unit};
use super::{
    CAPABILITIES, CHANGED, DEAD, DELETED, Finding, LIBCUDA, MAPPED, MISSING, NO_GPU, NODE, PAUSED,
    PERMISSION, RELOAD, Repair, Severity, UNREAD, UVM, VISIBLE, WARNING,
};
use crate::host::{Host, NodeKind};
use crate::vocabulary::or_empty;

pub(super) fn findings(seen: &Seen, host: &Host) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(paused(seen));
    if let Some(why) = &seen.unopened {
        found.push(Finding::new(&UNREAD, Severity::Info, "device nodes", why.clone()));
    }
    if seen.env.is_none() {
        let text = "the environment of its first process may not be read";
        found.push(Finding::new(&UNREAD, Severity::Info, "environment", text));
    }
    if !seen.has_gpu() {
        found.push(no_gpu(seen));
        return found;
    }
    found.extend(capabilities(seen));
    found.extend(missing(seen, host));
    found.extend(refused(seen));
    found.extend(libcuda(seen, host));
    found.extend(mapped(seen, host));
    found.extend(changed(seen, host));
    found.extend(visible(seen, host));
    found.extend(reload(seen, host));
    let warnings = seen
        .container
        .record
        .iter()
        .flat_map(|r| r["warnings"].as_array().into_iter().flatten());
    found.extend(
        warnings
            .filter_map(|w| w.as_str())
            .map(|w| Finding::new(&WARNING, Severity::Info, "injection", w)),
    );
    found
}

fn paused(seen: &Seen) -> Option<Finding> {
    let fix = match seen.container.engine {
        Some(engine @ ("docker" | "podman")) => {
            format!("`{engine} unpause {}`, then run this again", short(seen))
        }
        _ => "resume it with its engine, then run this again".to_owned(),
    };
    let cause = "it is paused: its processes are frozen, and its device nodes were not opened";
    seen.paused
        .then(|| Finding::new(&PAUSED, Severity::Warn, "container", cause).fix(fix))
}

fn no_gpu(seen: &Seen) -> Finding {
    let requested = seen.var("NVIDIA_VISIBLE_DEVICES");
    let (cause, fix) = match requested {
        None | Some("") => (
            "it requested none: its /dev has no node of a GPU".to_owned(),
            "start it with `--gpus all` (Docker), `--device nvidia.com/gpu=all` (Podman, CDI), or a GPU resource (Kubernetes)",
        ),
        Some(value @ ("none" | "void")) => (
            format!("NVIDIA_VISIBLE_DEVICES={value} requests none"),
            "set NVIDIA_VISIBLE_DEVICES=all, or start it with `--gpus all`",
        ),
        Some(value) => (
            format!(
                "it requests NVIDIA_VISIBLE_DEVICES={value}, but no hook, runtime or CDI specification took part in its start"
            ),
            "start it with `--gpus`, `--runtime nvidia` or a CDI device; `nvoci doctor engine` lists those that the engine has",
        ),
    };
    Finding::new(&NO_GPU, Severity::Fail, "GPU", cause).fix(fix)
}

fn capabilities(seen: &Seen) -> Option<Finding> {
    let value = seen.var("NVIDIA_DRIVER_CAPABILITIES")?;
    let has = value.is_empty() || value.split(',').any(|c| matches!(c.trim(), "all" | "compute"));
    (!has).then(|| {
        Finding::new(
            &CAPABILITIES,
            Severity::Warn,
            "capabilities",
            format!(
                "NVIDIA_DRIVER_CAPABILITIES={value} leaves `compute` out: nvidia-smi may work, CUDA does not"
            ),
        )
        .fix("set NVIDIA_DRIVER_CAPABILITIES=compute,utility")
    })
}

/// Checks the nodes that every CUDA program opens.
fn missing(seen: &Seen, host: &Host) -> Vec<Finding> {
    if host.wsl.is_some() {
        return Vec::new();
    }
    let there = |kind: NodeKind| {
        let mut seats = seen.nodes.iter().filter(|s| s.kind == kind);
        seats.any(|s| !matches!(s.state, State::Absent | State::Wrong))
    };
    let mut found = Vec::new();
    if !there(NodeKind::Uvm) {
        let on_host = host.node(NodeKind::Uvm).is_some_and(|n| n.present);
        let fix = if on_host {
            "start it through nvoci (`--gpus`, the runtime or CDI), or add `--device /dev/nvidia-uvm`"
        } else {
            "run `nvidia-modprobe -u -c 0` on the host, then start the container again"
        };
        let cause = if on_host {
            "/dev/nvidia-uvm is not in the container: CUDA fails with error 999 or 100 while nvidia-smi works"
        } else {
            "the host has no /dev/nvidia-uvm, so the container has none: CUDA fails with error 999 while nvidia-smi works"
        };
        found.push(Finding::new(&UVM, Severity::Fail, "nvidia-uvm", cause).fix(fix));
    }
    if !there(NodeKind::Ctl) {
        found.push(
            Finding::new(
                &MISSING,
                Severity::Fail,
                "nvidiactl",
                "/dev/nvidiactl is not in the container: no part of the driver works",
            )
            .fix("start it through nvoci (`--gpus`, the runtime or CDI), or add `--device /dev/nvidiactl`"),
        );
    }
    for seat in seen.nodes.iter().filter(|s| s.state == State::Wrong) {
        found.push(
            Finding::new(
                &DEAD,
                Severity::Fail,
                name(seat),
                format!(
                    "it is not the host's {}: the driver was loaded again with other numbers",
                    seat.number
                ),
            )
            .fix("start the container again"),
        );
    }
    found
}

fn name(seat: &Seat) -> String {
    seat.path.display().to_string()
}

/// Nodes that do not open, one finding for each reason.
fn refused(seen: &Seen) -> Vec<Finding> {
    let failing = |is: fn(Errno) -> bool| -> Vec<&Seat> {
        seen.nodes
            .iter()
            .filter(|s| matches!(s.state, State::Fails(e) if is(e)))
            .collect()
    };
    let list = |seats: &[&Seat]| seats.iter().map(|s| name(s)).collect::<Vec<_>>().join(", ");
    let mut found = Vec::new();
    let cgroup = failing(|e| e == Errno::PERM);
    if !cgroup.is_empty() {
        let lost = seen
            .unit
            .as_ref()
            .is_some_and(|u| cgroup.iter().any(|s| !allows(u, s, &[])));
        let cause = if lost {
            "the device cgroup refuses them: a `systemctl daemon-reload` (or an update of the container) took back what a hook had allowed"
        } else {
            "the device cgroup refuses them: NVML fails with `Unknown Error`, CUDA with error 999"
        };
        let fix = if Repair::plan(seen).is_some() {
            format!(
                "`nvoci doctor container {} --fix`; for good, give GPUs by the runtime or CDI",
                short(seen)
            )
        } else {
            "start it with the nodes in its definition: by the runtime, CDI, or `--device`; check that `no-cgroups` is not set".to_owned()
        };
        found.push(with_nodes(
            Finding::new(&NODE, Severity::Fail, list(&cgroup), cause).fix(fix),
            &cgroup,
        ));
    }
    let closed = failing(|e| e == Errno::ACCESS);
    if !closed.is_empty() {
        found.push(
            Finding::new(&PERMISSION, Severity::Fail, list(&closed), "the container's user may not open them")
                .fix("add the nodes' group (`--group-add`, rootless `--group-add keep-groups`), or set NVreg_DeviceFileMode=0666 on the host; with SELinux see `nvoci doctor host`"),
        );
    }
    let dead = failing(|e| matches!(e, Errno::NXIO | Errno::NODEV));
    if !dead.is_empty() {
        found.push(
            Finding::new(
                &DEAD,
                Severity::Fail,
                list(&dead),
                "no driver answers: the module was unloaded, or the GPU has fallen off the bus",
            )
            .fix("see `nvoci doctor host` and `dmesg | grep -e NVRM -e Xid`"),
        );
    }
    let late = failing(|e| e == Errno::TIMEDOUT);
    if !late.is_empty() {
        found.push(
            Finding::new(
                &DEAD,
                Severity::Fail,
                list(&late),
                "opening took longer than 20 s: the driver hangs",
            )
            .fix("see `dmesg | grep -e NVRM -e Xid`"),
        );
    }
    let named = [
        Errno::PERM,
        Errno::ACCESS,
        Errno::NXIO,
        Errno::NODEV,
        Errno::TIMEDOUT,
    ];
    for seat in &seen.nodes {
        if let State::Fails(e) = seat.state
            && !named.contains(&e)
        {
            found.push(
                Finding::new(
                    &DEAD,
                    Severity::Fail,
                    name(seat),
                    format!("it does not open: {e}"),
                )
                .fix("see `dmesg | grep NVRM`"),
            );
        }
    }
    let open = seen.nodes.iter().filter(|s| s.state == State::Opens).count();
    if found.is_empty() && open > 0 {
        let text = format!("{open} open with the container's rights in its cgroup");
        found.push(Finding::new(&NODE, Severity::Ok, "device nodes", text));
    }
    found
}

fn with_nodes(finding: Finding, seats: &[&Seat]) -> Finding {
    seats.iter().fold(finding, |f, s| {
        f.evidence(format!("{} ({}): EPERM", s.path.display(), s.number))
    })
}

/// The short form of the id.
pub(super) fn short(seen: &Seen) -> String {
    let id = &seen.container.id;
    if id.len() >= 32 {
        id.chars().take(12).collect()
    } else {
        seen.container.pid.to_string()
    }
}

/// The version in a library's name: `libcuda.so.550.120`.
fn version_of(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    let version = name.split_once(".so.")?.1;
    version.contains('.').then_some(version)
}

fn libcuda(seen: &Seen, host: &Host) -> Option<Finding> {
    let Some(library) = &seen.libcuda else {
        // A container with only `utility` does not need it.
        if capabilities(seen).is_some() {
            return None;
        }
        return Some(
            Finding::new(&LIBCUDA, Severity::Fail, "libcuda.so.1", "the loader would find none: CUDA fails with `driver version is insufficient` (35)")
                .fix("start it through nvoci with the capability `compute`; a musl image has no loader for it at all"),
        );
    };
    let shown = library.path.display().to_string();
    let how = format!("{shown}, by {}", library.via);
    let ours = seen
        .container
        .driver_dir
        .as_ref()
        .is_some_and(|d| library.path.starts_with(d));
    let version = library.real.as_deref().and_then(version_of);
    let host_version = host.driver_version().map(|v| v.to_string());
    let fits = version.is_some() && version == host_version.as_deref();
    if ours || fits || (host.wsl.is_some() && library.path.starts_with("/usr/lib/wsl")) {
        return Some(Finding::new(
            &LIBCUDA,
            Severity::Ok,
            "libcuda.so.1",
            format!("the host's: {how}"),
        ));
    }
    let (severity, cause) = if shown.contains("/stubs/") {
        (
            Severity::Fail,
            format!("a stub, which is for building only, comes first: {how}; CUDA fails with error 34"),
        )
    } else if shown.contains("/compat/") {
        (
            Severity::Info,
            format!(
                "a forward-compatibility library of the image: {how}; on GPUs it is not made for CUDA fails with error 803 or 804"
            ),
        )
    } else {
        let what = version.unwrap_or("unknown version");
        (
            Severity::Fail,
            format!("one of the image's own ({what}) comes first: {how}; it must be of the module's version"),
        )
    };
    let finding = Finding::new(&LIBCUDA, severity, "libcuda.so.1", cause);
    Some(if severity == Severity::Fail {
        finding
            .fix("take it out of LD_LIBRARY_PATH or the image; nvoci's own comes first in the loader's cache")
    } else {
        finding
    })
}

fn mapped(seen: &Seen, host: &Host) -> Vec<Finding> {
    let mut found = Vec::new();
    let describe = |m: &Mapped| format!("{} (pid {}): {}", m.command, m.pid, m.path.display());
    let deleted: Vec<&Mapped> = seen.mapped.iter().filter(|m| m.deleted).collect();
    if !deleted.is_empty() {
        let finding = Finding::new(
            &DELETED,
            Severity::Warn,
            "libraries",
            format!(
                "{} driver libraries in use are deleted on the host: it was upgraded",
                deleted.len()
            ),
        )
        .fix("restart the container; new processes in it find nothing or the wrong version");
        found.push(deleted.iter().fold(finding, |f, m| f.evidence(describe(m))));
    }
    let version = host.driver_version().map(|v| v.to_string());
    let other: Vec<&Mapped> = seen
        .mapped
        .iter()
        .filter(|m| version_of(&m.path).is_some_and(|v| Some(v) != version.as_deref()))
        .collect();
    if let (Some(first), Some(version)) = (other.first(), &version) {
        let in_use = version_of(&first.path).unwrap_or_default();
        let finding = Finding::new(
            &MAPPED,
            Severity::Fail,
            "libraries",
            format!("a process uses {in_use} under a kernel module of {version}"),
        )
        .fix("restart the container; if it stays, the image brings a driver library of its own: see `nvoci doctor image`");
        found.push(other.iter().fold(finding, |f, m| f.evidence(describe(m))));
    } else if let Some(first) = seen
        .mapped
        .iter()
        .find(|m| m.path.to_string_lossy().contains("libcuda"))
    {
        found.push(Finding::new(
            &MAPPED,
            Severity::Ok,
            "libraries",
            format!("in use: {}", describe(first)),
        ));
    }
    found
}

fn changed(seen: &Seen, host: &Host) -> Option<Finding> {
    let (given, now) = (
        seen.container.driver.as_ref()?,
        host.driver_version()?.to_string(),
    );
    (*given != now).then(|| {
        Finding::new(
            &CHANGED,
            Severity::Fail,
            "driver",
            format!("the container was started with {given} and the host now runs {now}: `Driver/library version mismatch`"),
        )
        .fix("restart the container: nvoci finds the new driver by itself")
    })
}

/// Compares the requested GPUs, the present ones, and CUDA_VISIBLE_DEVICES.
fn visible(seen: &Seen, host: &Host) -> Vec<Finding> {
    let mut found = Vec::new();
    let gpus = seen
        .nodes
        .iter()
        .filter(|s| matches!(s.kind, NodeKind::Gpu(_)) && s.state != State::Absent)
        .count();
    let all = host.usable_gpus().count();
    if seen.var("NVIDIA_VISIBLE_DEVICES") == Some("all") && gpus < all {
        found.push(
            Finding::new(
                &VISIBLE,
                Severity::Warn,
                "GPUs",
                format!("it requests all and has {gpus} of {all}: GPUs were added after its start, or another limit applies"),
            )
            .fix("start it again"),
        );
    }
    if let Some(value) = seen.var("CUDA_VISIBLE_DEVICES") {
        found.extend(cuda_visible(value, gpus, host));
    }
    found
}

/// CUDA stops at the first entry that it cannot resolve, and uses only those before it (CUDA
/// programming guide).
fn cuda_visible(value: &str, gpus: usize, host: &Host) -> Option<Finding> {
    let bad = value
        .split(',')
        .map(str::trim)
        .enumerate()
        .find(|(_, entry)| match entry.parse::<i64>() {
            Ok(index) => usize::try_from(index).map_or(true, |i| i >= gpus),
            Err(_) if entry.starts_with("GPU-") => {
                !host.gpus.iter().any(|g| or_empty(g.uuid).starts_with(entry))
            }
            Err(_) => !entry.starts_with("MIG-"),
        });
    let (at, entry) = bad?;
    let cause = match (value.trim(), at) {
        ("", _) => "CUDA_VISIBLE_DEVICES is set and empty: CUDA uses no GPU".to_owned(),
        (_, 0) => format!(
            "CUDA_VISIBLE_DEVICES={value} begins with `{entry}`, which the container does not have: CUDA uses no GPU"
        ),
        _ => {
            format!("CUDA ends CUDA_VISIBLE_DEVICES={value} at `{entry}`, which the container does not have")
        }
    };
    let severity = if at == 0 { Severity::Fail } else { Severity::Warn };
    Some(
        Finding::new(&VISIBLE, severity, "CUDA_VISIBLE_DEVICES", cause).fix(format!(
            "unset it, or name GPUs as the container counts them: 0 to {}",
            gpus.saturating_sub(1)
        )),
    )
}

/// Whether a unit's files allow a node: by number, by its driver's name, or by allowing every
/// device.
pub(super) fn allows(unit: &Unit, seat: &Seat, drivers: &[(String, u32)]) -> bool {
    let values = |key: &str| -> Vec<&str> {
        unit.text
            .lines()
            .filter_map(|l| l.trim().strip_prefix(key)?.strip_prefix('='))
            .map(str::trim)
            .collect()
    };
    // Without a policy and a list, every device is allowed (systemd.resource-control(5)).
    let allowed = values("DeviceAllow");
    let restricted =
        values("DevicePolicy").last().is_some_and(|p| *p != "auto") || allowed.iter().any(|a| !a.is_empty());
    let number = format!("/dev/char/{}", seat.number);
    let shown = seat.path.to_string_lossy();
    // `char-* m`, which every runtime allows, is about making nodes.
    let opens = |rule: &str| {
        let mut words = rule.split_whitespace();
        let node = words.next()?;
        let access = words.next().unwrap_or("rwm");
        (access.contains('r') && access.contains('w')).then(|| node.to_owned())
    };
    !restricted
        || allowed.iter().filter_map(|rule| opens(rule)).any(|node| {
            let class = node.strip_prefix("char-");
            node == number
                || node == shown
                || class == Some("*")
                || class.is_some_and(|c| {
                    drivers
                        .iter()
                        .any(|(name, major)| name == c && *major == seat.number.major)
                })
        })
}

fn reload(seen: &Seen, host: &Host) -> Option<Finding> {
    let unit = seen.unit.as_ref()?;
    // The cgroup does not cause ENXIO and other errors.
    let passes = |s: &&Seat| match s.state {
        State::Opens => true,
        State::Fails(e) => e != Errno::PERM,
        _ => false,
    };
    let there: Vec<&Seat> = seen.nodes.iter().filter(passes).collect();
    let lost: Vec<&Seat> = there
        .iter()
        .copied()
        .filter(|s| !allows(unit, s, &host.majors.0))
        .collect();
    if there.is_empty() {
        return None;
    }
    if lost.is_empty() {
        return Some(Finding::new(
            &RELOAD,
            Severity::Ok,
            "systemd",
            "it keeps the GPUs over a daemon-reload",
        ));
    }
    let finding = Finding::new(
        &RELOAD,
        Severity::Warn,
        "systemd",
        format!("{} does not list {} of the nodes: the next `systemctl daemon-reload` takes them away (`NVML: Unknown Error`)", unit.name, lost.len()),
    )
    .fix(format!(
        "give GPUs by the runtime or CDI, which registers them with systemd; once they are lost, `nvoci doctor container {} --fix` gives them back",
        short(seen)
    ));
    Some(lost.iter().fold(finding, |f, s| {
        f.evidence(format!("{} ({})", s.path.display(), s.number))
    }))
}
