//! Checks the kernel module and the libraries: one version now, and after the next boot.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::{DRIVER, Finding, Inputs, PENDING, SECURE_BOOT, SEVERAL, Severity, modinfo, release, system};
use crate::compat::Version;
use crate::containers;
use crate::host::FileKind;
use crate::host::pci::Bus;

/// The largest list of a kernel's modules, in bytes; it has about one line a module.
const MAX_MODULES_DEP: u64 = 32 << 20;
/// The most entries of a library directory.
const MAX_ENTRIES: usize = 65_536;
/// The bytes that are read from the end of a package log.
const LOG_TAIL: u64 = 256 << 10;
/// The most processes that are named.
const MAX_NAMED: usize = 8;

pub(super) fn findings(inputs: &Inputs<'_>, bus: &Bus) -> Vec<Finding> {
    if inputs.host.wsl.is_some() {
        return Vec::new();
    }
    let on_disk = module_on_disk(inputs);
    let mut found = vec![versions(inputs, on_disk.as_ref())];
    found.extend(pending(inputs, on_disk.as_ref()));
    found.extend(several(inputs));
    found.extend(secure_boot(inputs, bus, on_disk.as_ref()));
    found
}

/// The module that `modprobe nvidia` would load.
#[derive(Debug)]
struct OnDisk {
    version: Option<String>,
    /// Its path, or the directory that names its version.
    path: PathBuf,
}

fn versions(inputs: &Inputs<'_>, on_disk: Option<&OnDisk>) -> Finding {
    let host = inputs.host;
    let Err(error) = host.check_versions() else {
        return Finding::new(
            &DRIVER,
            Severity::Ok,
            "driver",
            "kernel module and libraries have one version",
        );
    };
    let mut finding = Finding::new(&DRIVER, Severity::Fail, "driver", error.why()).fix(error.fix_text());
    if let (Some(kernel), Some(user)) = (&host.kernel, &host.user_version) {
        let (cause, fix) = mismatch(kernel.version, *user, on_disk, &release(inputs));
        finding.cause = format!("{}: {cause}", finding.cause);
        finding.fix = fix;
        finding = finding
            .evidence(format!("/proc/driver/nvidia/version: {}", kernel.version))
            .evidence(format!("libraries: {user}"));
        finding.evidence.extend(last_upgrade(inputs));
        finding.evidence.extend(users());
    }
    if let Some(disk) = on_disk {
        let version = disk
            .version
            .as_deref()
            .unwrap_or("a version that could not be read");
        finding = finding.evidence(format!("{}: {version}", disk.path.display()));
    }
    finding
}

/// The cause of a mismatch, and its fix.
fn mismatch(
    kernel: Version,
    user: Version,
    on_disk: Option<&OnDisk>,
    release: &str,
) -> (&'static str, String) {
    const RELOAD: &str = "reboot; or stop every user of the GPU and run `rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia && modprobe nvidia`";
    let disk = on_disk.and_then(|d| d.version.as_deref()?.parse().ok());
    if disk == Some(user) {
        return (
            "the driver was upgraded and the old module is still running",
            RELOAD.to_owned(),
        );
    }
    if disk == Some(kernel) && user > kernel {
        return (
            "the libraries were upgraded, but not the module of this kernel",
            format!(
                "install the headers of {release} so that the new module is built (`dkms autoinstall`), then reboot"
            ),
        );
    }
    if kernel > user {
        return (
            "the module is newer than the libraries",
            format!("install the user-space packages of {kernel} and run `ldconfig`"),
        );
    }
    (
        "the libraries were upgraded under the running module",
        RELOAD.to_owned(),
    )
}

/// The finding that the next boot loads another module than the running one; until then all works.
fn pending(inputs: &Inputs<'_>, on_disk: Option<&OnDisk>) -> Option<Finding> {
    let kernel = inputs.host.kernel.as_ref()?;
    let disk = on_disk?.version.as_ref()?;
    if disk.parse() == Ok(kernel.version) || inputs.host.check_versions().is_err() {
        return None;
    }
    Some(
        Finding::new(
            &PENDING,
            Severity::Warn,
            "driver",
            format!(
                "{} is loaded and {disk} is on disk: after the next boot module and libraries differ, or the upgrade is only half done",
                kernel.version
            ),
        )
        .fix("finish the upgrade (or take it back) so that libraries and module on disk are of one version, then reboot")
        .evidence(format!("{}: {disk}", on_disk?.path.display())),
    )
}

/// Finds the module in `modules.dep`, and its version in the module or in the name of dkms's
/// directory.
fn module_on_disk(inputs: &Inputs<'_>) -> Option<OnDisk> {
    let release = release(inputs);
    if release.is_empty() || release.contains('/') {
        return None;
    }
    let dir = ["lib/modules", "usr/lib/modules"]
        .iter()
        .map(|d| Path::new(d).join(&release))
        .find(|d| inputs.system.exists(d))?;
    let list = inputs
        .system
        .read(dir.join("modules.dep"), MAX_MODULES_DEP)
        .ok()?;
    let path = list
        .split(|b| *b == b'\n')
        .filter_map(|line| line.split(|b| *b == b':').next())
        .find_map(|path| std::str::from_utf8(path).ok().filter(|p| is_module(p)))?;
    let path = dir.join(path);
    let plain = path.extension().is_some_and(|e| e == "ko");
    let own = || {
        let file = inputs.system.resolve(&path).ok()?.open_read().ok()?;
        modinfo::value(&file, "version")
    };
    let version = if plain { own() } else { None };
    Some(OnDisk {
        version: version.or_else(|| dkms(inputs, &release)),
        path: Path::new("/").join(path),
    })
}

/// `nvidia.ko`, or Debian's `nvidia-current.ko`, compressed or not.
fn is_module(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    ["nvidia.ko", "nvidia-current.ko"].iter().any(|n| {
        name.strip_prefix(n)
            .is_some_and(|rest| matches!(rest, "" | ".gz" | ".xz" | ".zst"))
    })
}

/// The newest version in `/var/lib/dkms/nvidia*/VERSION/RELEASE`, a directory for each built module
/// (dkms(8)).
fn dkms(inputs: &Inputs<'_>, release: &str) -> Option<String> {
    let mut versions = Vec::new();
    for module in inputs.system.read_dir("var/lib/dkms", 1024).ok()? {
        let name = module.name.to_string_lossy();
        if !name.starts_with("nvidia") || name.starts_with("nvidia-fs") {
            continue;
        }
        let dir = Path::new("var/lib/dkms").join(&module.name);
        for version in inputs.system.read_dir(&dir, 1024).ok()? {
            let built = dir.join(&version.name).join(release);
            let text = version.name.to_string_lossy().into_owned();
            if inputs.system.exists(built)
                && let Ok(parsed) = text.parse::<Version>()
            {
                versions.push((parsed, text));
            }
        }
    }
    versions.sort();
    versions.pop().map(|(_, text)| text)
}

/// The finding that libcuda or libnvidia-ml of other versions are beside the driver's: `ldconfig`
/// may prefer them.
fn several(inputs: &Inputs<'_>) -> Option<Finding> {
    let own = inputs.host.user_version?;
    let mut dirs: Vec<PathBuf> = inputs
        .host
        .files
        .iter()
        .filter(|f| matches!(f.kind, FileKind::Library { .. }))
        .flat_map(|f| [f.dir_hint(), f.path.parent().unwrap_or(Path::new("/")).to_owned()])
        .chain(
            [
                "/usr/lib64",
                "/usr/lib/x86_64-linux-gnu",
                "/usr/lib/aarch64-linux-gnu",
                "/usr/local/lib",
            ]
            .map(PathBuf::from),
        )
        .collect();
    dirs.sort();
    dirs.dedup();
    let mut others: BTreeMap<String, PathBuf> = BTreeMap::new();
    for dir in dirs {
        let Ok(node) = inputs.roots.driver.resolve(&dir) else {
            continue;
        };
        // A directory that cannot be listed gives no names.
        let _ = node.visit(MAX_ENTRIES, |name, _| {
            let Ok(name) = name.to_str() else { return };
            let version = ["libcuda.so.", "libnvidia-ml.so."]
                .iter()
                .find_map(|stem| name.strip_prefix(stem));
            if let Some(version) = version.filter(|v| v.contains('.'))
                && version.parse::<Version>().is_ok_and(|v| v != own)
            {
                others.insert(version.to_owned(), dir.join(name));
            }
        });
    }
    if others.is_empty() {
        return None;
    }
    let versions: Vec<&str> = others.keys().map(String::as_str).collect();
    let mut finding = Finding::new(
        &SEVERAL,
        Severity::Warn,
        "libraries",
        format!(
            "{} are beside those of {own}; `ldconfig` links the names without a version to the highest",
            versions.join(", ")
        ),
    )
    .fix(
        "remove the packages (or the remains of a .run installer) of the other versions, then run `ldconfig`",
    );
    finding.evidence = others.values().map(|p| p.display().to_string()).collect();
    Some(finding)
}

/// Checks whether secure boot keeps out a module that is not signed with an enrolled key.
fn secure_boot(inputs: &Inputs<'_>, bus: &Bus, on_disk: Option<&OnDisk>) -> Option<Finding> {
    let on = system::secure_boot(inputs)?;
    let missing = on && inputs.host.kernel.is_none() && bus.undriven().next().is_some();
    let disk = on_disk.filter(|_| missing)?;
    Some(
        Finding::new(
            &SECURE_BOOT,
            Severity::Fail,
            "secure boot",
            "it is on, and the module, which is on disk, is not loaded: most likely it is not signed with a key that is enrolled in the firmware",
        )
        .fix("enrol the key that dkms signs with (`mokutil --import /var/lib/dkms/mok.pub`, then reboot and confirm), or install your distribution's signed module")
        .evidence(disk.path.display().to_string()),
    )
}

/// The last change of the driver's packages in dpkg's log.
fn last_upgrade(inputs: &Inputs<'_>) -> Option<String> {
    let node = inputs.system.resolve("var/log/dpkg.log").ok()?;
    let size = u64::try_from(node.stat().st_size).ok()?;
    let mut file = node.open_read().ok()?;
    file.seek(SeekFrom::Start(size.saturating_sub(LOG_TAIL))).ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    // 2026-11-20 06:12:33 upgrade libnvidia-compute-550:amd64 550.120-0ubuntu1 550.127-0ubuntu1
    let line = text.lines().rev().find(|line| {
        let mut words = line.split(' ').skip(2);
        matches!(words.next(), Some("upgrade" | "install"))
            && words
                .next()
                .is_some_and(|p| p.contains("nvidia") || p.starts_with("libcuda"))
    })?;
    Some(format!("/var/log/dpkg.log: {line}"))
}

/// The processes that a reload of the module would need to stop.
fn users() -> Vec<String> {
    let Ok(holders) = containers::find_gpu_users(Path::new("/proc"), &[]) else {
        return Vec::new();
    };
    let all = holders
        .containers
        .iter()
        .flat_map(|c| &c.processes)
        .chain(&holders.host);
    all.take(MAX_NAMED)
        .map(|p| format!("in use by {} (pid {})", p.command, p.pid))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_a_mismatch_has_its_own_way_out() {
        let disk = |v: &str| OnDisk {
            version: Some(v.to_owned()),
            path: "/m".into(),
        };
        let fix = |kernel: &str, user: &str, on: Option<&OnDisk>| {
            mismatch(kernel.parse().unwrap(), user.parse().unwrap(), on, "6.1").1
        };
        assert!(fix("550.120", "550.127", Some(&disk("550.127"))).starts_with("reboot"));
        assert!(fix("550.120", "550.127", Some(&disk("550.120"))).contains("dkms autoinstall"));
        assert!(fix("550.127", "550.120", Some(&disk("550.127"))).contains("user-space packages of 550.127"));
        assert!(fix("550.120", "550.127", None).starts_with("reboot"));
    }

    #[test]
    fn modules_are_known_by_their_names() {
        for (path, is) in [
            ("updates/dkms/nvidia.ko.zst", true),
            ("kernel/drivers/video/nvidia.ko", true),
            ("updates/dkms/nvidia-current.ko", true),
            ("updates/dkms/nvidia-current-uvm.ko", false),
            ("kernel/drivers/platform/nvidia-wmi-ec-backlight.ko", false),
        ] {
            assert_eq!(is_module(path), is, "{path}");
        }
    }
}
