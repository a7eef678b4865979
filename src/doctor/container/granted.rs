//! Reads the host's record of the devices that a container was given. Nothing inside the container
//! counts.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::apply::Grant;
use crate::apply::grant::{GRANTS_DIR, file_name};
use crate::apply::warning::WARNINGS_DIR;
use crate::containers::{self, Container};
use crate::doctor::warned;
use crate::sys::owned;
use crate::sys::root::Node;

/// The longest grant that is read, in bytes.
const MAX_SIZE: u64 = 1 << 20;
/// The most grants that are searched for those of ended containers.
const MAX_GRANTS: usize = 1 << 16;
/// The number of the host's own process namespace (linux/proc_ns.h, `PROC_PID_INIT_INO`).
const HOSTS_PROCESSES: u64 = 0xEFFF_FFFC;

/// The grant of a running container.
///
/// # Errors
/// Why no grant counts.
pub(super) fn find(container: &Container) -> Result<Grant, String> {
    find_in(Path::new("/proc"), Path::new(GRANTS_DIR), container)
}

fn find_in(proc: &Path, dir: &Path, container: &Container) -> Result<Grant, String> {
    let none = || "this host has no grant of nvoci for it".to_owned();
    let process = proc.join(container.pid.to_string());
    let namespace = fs::metadata(process.join("ns/mnt")).map_err(|e| format!("its mount namespace: {e}"))?;
    let namespace = (namespace.dev(), namespace.ino());
    let dir = open(dir)?.ok_or_else(none)?;
    let file = dir.child(file_name(namespace.1)).map_err(|_| none())?;
    let text = file
        .read(MAX_SIZE)
        .map_err(|e| format!("its grant cannot be read: {e}"))?;
    let grant = Grant::parse(&text).ok_or_else(|| "its grant cannot be read".to_owned())?;
    // The kernel reuses the numbers of ended namespaces; then the grant is older than every process
    // there.
    let members = containers::members(proc, container.pid).unwrap_or_default();
    let began = members
        .iter()
        .filter_map(|pid| containers::start_of(proc, *pid))
        .min();
    if grant.namespace != namespace || began.is_none_or(|began| began > grant.time) {
        return Err("the grant is an earlier container's".to_owned());
    }
    let own = match &grant.cgroup {
        Some(path) => leads_to(path, &container.cgroup),
        None => is_named_after(&grant.container, &container.cgroup),
    };
    // A container without its own cgroup is in its caller's, which nvoci must not change.
    let elsewhere = || "it is not in the cgroup in which it got its devices".to_owned();
    own.then_some(grant).ok_or_else(elsewhere)
}

/// The directory of grants; `None` if there is none.
fn open(dir: &Path) -> Result<Option<Node>, String> {
    let found = owned::find(dir).map_err(|e| e.to_string())?;
    match found {
        Some(node) if node.stat().st_mode & 0o077 != 0 => Err(format!(
            "{} is accessible to users other than root",
            dir.display()
        )),
        found => Ok(found),
    }
}

/// Whether a cgroup has a runtime's default name: the container's id, or a scope of it.
fn is_named_after(id: &str, actual: &str) -> bool {
    let scope = format!("-{id}.scope");
    !id.is_empty() && actual.split('/').any(|part| part == id || part.ends_with(&scope))
}

/// Whether the cgroup `actual` is that of `linux.cgroupsPath`, or below it. The setting is a path,
/// or `SLICE:PREFIX:NAME` for systemd's `PREFIX-NAME.scope`.
fn leads_to(wanted: &str, actual: &str) -> bool {
    let parts = |path: &str| -> Vec<String> {
        let parts = path.split('/').filter(|p| !p.is_empty());
        parts.map(str::to_owned).collect()
    };
    let actual = parts(actual);
    let wanted = match wanted.split(':').collect::<Vec<_>>().as_slice() {
        [_, "", name] => vec![format!("{name}.scope")],
        [_, prefix, name] => vec![format!("{prefix}-{name}.scope")],
        _ => parts(wanted),
    };
    !wanted.is_empty() && actual.windows(wanted.len()).any(|part| part == wanted)
}

/// Removes the grants and warnings of ended containers, only if all processes of the host are
/// visible.
pub(super) fn prune() {
    let all = fs::metadata("/proc/self/ns/pid").is_ok_and(|ns| ns.ino() == HOSTS_PROCESSES);
    if !all || !rustix::process::geteuid().is_root() {
        return;
    }
    let grant = |_: &Node, name: &OsStr| is_grant(name).then(|| name.to_owned());
    prune_in(Path::new("/proc"), Path::new(GRANTS_DIR), grant);
    let warning = |dir: &Node, name: &OsStr| warned::namespace_of(dir, name).map(file_name);
    prune_in(Path::new("/proc"), Path::new(WARNINGS_DIR), warning);
}

/// Removes the files of `dir` whose namespace, by the name of its grant, is gone.
fn prune_in(proc: &Path, dir: &Path, namespace_of: impl Fn(&Node, &OsStr) -> Option<OsString>) {
    let Ok(Some(dir)) = open(dir) else {
        return;
    };
    // Listed before the processes: a grant that appears later is not in the list.
    let Ok(kept) = dir.read_dir(MAX_GRANTS) else {
        return;
    };
    let Some(live) = live(proc) else { return };
    for entry in kept {
        let gone = namespace_of(&dir, &entry.name).is_some_and(|name| !live.contains(&name));
        if gone || is_abandoned(proc, &entry.name) {
            let _ = dir.unlink(&entry.name);
        }
    }
}

/// Whether it is an incomplete grant of a killed hook.
fn is_abandoned(proc: &Path, name: &OsStr) -> bool {
    let text = name.to_str().and_then(|name| name.strip_prefix(".nvoci-"));
    let pid = text.and_then(|rest| rest.split_once('-')?.0.parse::<u32>().ok());
    pid.is_some_and(|pid| !proc.join(pid.to_string()).exists())
}

/// The names of living namespaces' grants; `None` if a process could not be read.
fn live(proc: &Path) -> Option<std::collections::HashSet<OsString>> {
    let pids = fs::read_dir(proc).ok()?;
    let pids = pids.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut live = std::collections::HashSet::new();
    for pid in pids {
        match fs::metadata(proc.join(pid.to_string()).join("ns/mnt")) {
            Ok(ns) => {
                live.insert(file_name(ns.ino()));
            }
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => return None,
            // It has ended.
            Err(_) => {}
        }
    }
    Some(live)
}

fn is_grant(name: &OsStr) -> bool {
    let number = name.to_str().and_then(|name| name.strip_suffix(".json"));
    number.is_some_and(|number| number.parse::<u64>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    fn container(pid: u32, cgroup: &str) -> Container {
        Container {
            id: "3f2a".to_owned(),
            engine: None,
            cgroup: cgroup.to_owned(),
            pid,
            gpus: BTreeSet::new(),
            driver_dir: None,
            driver: None,
            record: None,
            processes: Vec::new(),
        }
    }

    #[test]
    fn cgroups_that_definitions_name() {
        let scope = "/system.slice/docker-3f2a.scope";
        assert!(leads_to("system.slice:docker:3f2a", scope));
        assert!(leads_to(
            "system.slice:docker:3f2a",
            "/system.slice/docker-3f2a.scope/init"
        ));
        assert!(leads_to("user.slice::3f2a", "/user.slice/3f2a.scope"));
        assert!(leads_to("/docker/3f2a", "/docker/3f2a"));
        assert!(leads_to("docker/3f2a", "/a/docker/3f2a/container"));
        for (wanted, actual) in [
            ("system.slice:docker:3f2b", scope),
            ("system.slice:docker:3f2", scope),
            ("/docker/3f2b", "/docker/3f2a"),
            ("/", "/docker"),
            ("docker/3f2a", "/docker/x/3f2a"),
        ] {
            assert!(!leads_to(wanted, actual), "{wanted} {actual}");
        }
    }

    #[test]
    fn cgroups_that_runtimes_name() {
        assert!(is_named_after("web", "/user.slice/crun-web.scope/container"));
        assert!(is_named_after("web", "/web"));
        for actual in [
            "/user.slice/session-3.scope",
            "/web2",
            "/system.slice/web.service",
            "",
        ] {
            assert!(!is_named_after("web", actual), "{actual}");
        }
        assert!(!is_named_after("", "/"));
    }

    /// A grant of the test's own mount namespace, in a directory of this mode.
    fn granted(mode: u32, time: Duration, change: impl FnOnce(&mut Grant)) -> Result<Grant, String> {
        let run = tempfile::Builder::new().tempdir_in("/run").unwrap();
        let node = crate::sys::root::Root::open(run.path())
            .unwrap()
            .resolve("/")
            .unwrap();
        let ns = fs::metadata("/proc/self/ns/mnt").unwrap();
        let mut grant = Grant {
            time,
            ..Grant::new("3f2a", (ns.dev(), ns.ino()), None, &[])
        };
        change(&mut grant);
        let dir = run.path().join("grants");
        crate::apply::Grants::below(&node).unwrap().keep(&grant).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
        find_in(
            Path::new("/proc"),
            &dir,
            &container(std::process::id(), "/docker/3f2a"),
        )
    }

    #[test]
    fn a_grant_counts_for_its_own_container() {
        // A user other than root cannot write to /run.
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let now = Grant::new("", (0, 0), None, &[]).time;
        assert!(granted(0o700, now, |_| {}).is_ok());
        assert!(granted(0o700, now, |g| g.container = "3f2".into()).is_err());
        assert!(granted(0o700, now, |g| g.container = String::new()).is_err());
        assert!(granted(0o700, now, |g| g.cgroup = Some("/docker/3f2a".into())).is_ok());
        // The namespace's number was used before: all its processes are younger than the grant.
        let before = granted(0o700, Duration::from_millis(1), |_| {});
        assert!(before.is_err_and(|why| why.contains("earlier")));
        assert!(granted(0o700, now, |g| g.namespace.0 += 1).is_err());
        assert!(granted(0o700, now, |g| g.cgroup = Some("/docker/other".into())).is_err());
        assert!(granted(0o777, now, |_| {}).is_err());
        assert!(granted(0o755, now, |_| {}).is_err());
    }

    #[test]
    fn grants_of_namespaces_that_are_gone_go() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::Builder::new().tempdir_in("/run").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let proc = tempfile::tempdir().unwrap();
        let ns = proc.path().join("7/ns");
        fs::create_dir_all(&ns).unwrap();
        fs::create_dir_all(proc.path().join("8/ns")).unwrap();
        fs::write(ns.join("mnt"), "").unwrap();
        let own = file_name(fs::metadata(ns.join("mnt")).unwrap().ino());
        for name in [own.as_os_str(), OsStr::new("1.json"), OsStr::new("else")] {
            fs::write(dir.path().join(name), "{}").unwrap();
        }
        // One of a killed hook, and one of a running hook.
        fs::write(dir.path().join(".nvoci-4999999-0"), "{").unwrap();
        let running = String::from(".nvoci-7-0");
        fs::write(dir.path().join(&running), "{").unwrap();
        let grant = |_: &Node, name: &OsStr| is_grant(name).then(|| name.to_owned());
        prune_in(proc.path(), dir.path(), grant);
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, [running.into(), own, "else".into()]);
    }

    /// Removed by the namespace in the file; one that cannot be read stays.
    #[test]
    fn warnings_of_namespaces_that_are_gone_go() {
        use crate::apply::{Warning, Warnings, warning::tests::warning};
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let run = tempfile::Builder::new().tempdir_in("/run").unwrap();
        let node = crate::sys::root::Root::open(run.path())
            .unwrap()
            .resolve("/")
            .unwrap();
        let proc = tempfile::tempdir().unwrap();
        let ns = proc.path().join("7/ns");
        fs::create_dir_all(&ns).unwrap();
        fs::write(ns.join("mnt"), "").unwrap();
        let ns = fs::metadata(ns.join("mnt")).unwrap();
        let kept = Warnings::below(&node).unwrap();
        kept.keep(&warning("gone")).unwrap();
        kept.keep(&Warning {
            namespace: (ns.dev(), ns.ino()),
            ..warning("running")
        })
        .unwrap();
        let dir = run.path().join("warnings");
        fs::write(dir.join("rubbish.json"), "{").unwrap();
        let namespace_of = |dir: &Node, name: &OsStr| warned::namespace_of(dir, name).map(file_name);
        prune_in(proc.path(), &dir, namespace_of);
        let mut left: Vec<_> = fs::read_dir(&dir)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(
            left,
            [
                "rubbish.json".into(),
                OsString::from(format!("running-{}.json", ns.ino()))
            ]
        );
    }
}
