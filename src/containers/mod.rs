//! Finds the containers and processes that use a GPU, from the kernel's facts: open descriptors,
//! device nodes, mounts, cgroups. It reads no engine's state.
//!
//! A container controls everything below its root. So nvoci resolves paths in that root, bounds
//! every read, and accepts a record such as `/usr/local/nvidia/.nvoci.json` only on the tmpfs that
//! the mount table shows at the driver directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use procfs_core::ProcessCGroup;
use procfs_core::process::MountInfo;
use rustix::fs::FileType;
use serde_json::Value;

use crate::sys::procfs;
use crate::sys::root::Root;
use crate::vocabulary::{DeviceNumber, LAST_RESORTS, RECORD};

/// The major number of NVIDIA's nodes, and the highest minor of a GPU (Linux
/// Documentation/admin-guide/devices.txt).
const NVIDIA: u32 = 195;
const LAST_GPU: u32 = 253;

/// Limits on the bytes of a text and of a record, and on the entries of `/dev`.
const MAX_TEXT: u64 = 4 << 20;
const MAX_RECORD: u64 = 1 << 20;
const MAX_ENTRIES: usize = 1 << 20;

/// Every path at which an injection may have put the driver: the configured ones, then the last
/// resorts.
pub fn driver_places(configured: &[PathBuf]) -> Vec<PathBuf> {
    let resorts = LAST_RESORTS.iter().map(PathBuf::from);
    configured.iter().cloned().chain(resorts).collect()
}

/// A process that has a GPU's node open.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its name, which a process chooses itself.
    pub command: String,
    /// Minor numbers.
    pub gpus: BTreeSet<u32>,
}

/// A container that can open a GPU's node, or was given the driver.
#[derive(Clone, Debug)]
pub struct Container {
    /// The engine's id; the last part of the cgroup if that has no id.
    pub id: String,
    /// `docker`, `podman`, `containerd` or `cri-o`, from its cgroup.
    pub engine: Option<&'static str>,
    /// The path of its cgroup.
    pub cgroup: String,
    /// Its oldest process.
    pub pid: u32,
    /// Minor numbers of the GPUs whose nodes it has.
    pub gpus: BTreeSet<u32>,
    /// The driver directory in it.
    pub driver_dir: Option<PathBuf>,
    /// The driver's version in the injection's record.
    pub driver: Option<String>,
    /// The injection's record.
    pub record: Option<Value>,
    /// Its processes that use a GPU now.
    pub processes: Vec<Process>,
}

/// The users of this machine's GPUs.
#[derive(Debug, Default)]
pub struct GpuUsers {
    /// Sorted by their oldest processes.
    pub containers: Vec<Container>,
    /// Processes of the host itself.
    pub host: Vec<Process>,
    /// The number of processes that could not be examined.
    pub unreadable: usize,
}

/// Finds the GPUs' users among the processes of `proc`. `driver_dirs` are the possible driver
/// directories.
///
/// # Errors
/// If `proc` cannot be read.
pub fn find_gpu_users(proc: &Path, driver_dirs: &[PathBuf]) -> io::Result<GpuUsers> {
    let own_root = id_of(Path::new("/"))?;
    let mut pids: Vec<u32> = fs::read_dir(proc)?
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    let mut users = GpuUsers::default();
    // By mount namespace, which all processes of a container share and no two containers do.
    let mut containers: BTreeMap<PathBuf, Option<Container>> = BTreeMap::new();
    for pid in pids {
        let dir = proc.join(pid.to_string());
        let (Ok(namespace), Ok(root)) = (fs::read_link(dir.join("ns/mnt")), id_of(&dir.join("root/.")))
        else {
            // A kernel thread or an ended process has none, and another user's process hides its
            // links.
            users.unreadable += usize::from(is_forbidden(&dir));
            continue;
        };
        let open = open_gpus(&dir);
        // A service with private mounts still has the host's root.
        if root == own_root {
            users.host.extend(process(pid, &dir, open));
            continue;
        }
        let container = containers
            .entry(namespace)
            .or_insert_with(|| container(pid, &dir, driver_dirs));
        if let Some(user) = process(pid, &dir, open) {
            container
                .get_or_insert_with(|| bare(pid, &dir))
                .processes
                .push(user);
        }
    }
    users.containers = containers.into_values().flatten().collect();
    users.containers.sort_by_key(|c| c.pid);
    Ok(users)
}

/// The container of process `pid`, with or without GPUs; `None` for a process of the host itself.
///
/// # Errors
/// Those of reading the process.
pub fn of_process(proc: &Path, pid: u32, driver_dirs: &[PathBuf]) -> io::Result<Option<Container>> {
    let dir = proc.join(pid.to_string());
    if id_of(&dir.join("root/."))? == id_of(Path::new("/"))? {
        return Ok(None);
    }
    let oldest = members(proc, pid)?.first().copied().unwrap_or(pid);
    let dir = proc.join(oldest.to_string());
    Ok(Some(
        container(oldest, &dir, driver_dirs).unwrap_or_else(|| bare(oldest, &dir)),
    ))
}

/// The processes that share the mount namespace of `pid`, lowest number first.
///
/// # Errors
/// Those of reading the process.
pub fn members(proc: &Path, pid: u32) -> io::Result<Vec<u32>> {
    let namespace = fs::read_link(proc.join(pid.to_string()).join("ns/mnt"))?;
    let mut found: Vec<u32> = fs::read_dir(proc)?
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
        .filter(|p: &u32| {
            fs::read_link(proc.join(p.to_string()).join("ns/mnt")).is_ok_and(|n| n == namespace)
        })
        .collect();
    found.sort_unstable();
    Ok(found)
}

/// When a process began, as time since the host's boot.
pub fn start_of(proc: &Path, pid: u32) -> Option<Duration> {
    let stat = procfs::read(proc.join(pid.to_string()).join("stat"), MAX_TEXT).ok()?;
    let ticks = procfs::stat(&stat)?.starttime;
    let a_second = rustix::param::clock_ticks_per_second();
    let fraction = Duration::from_nanos(ticks.checked_rem(a_second)? * (1_000_000_000 / a_second));
    Some(Duration::from_secs(ticks / a_second) + fraction)
}

/// A running container with the name of its cgroup.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Named {
    /// The engine's id.
    pub id: String,
    /// A process of it.
    pub pid: u32,
    /// The possible author of the name.
    pub named_by: NamedBy,
}

/// The possible maker of a cgroup: a process that may write to a cgroup chooses the names below it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum NamedBy {
    /// The host's root alone.
    Root,
    /// A user to whom systemd has delegated cgroups.
    User,
    /// A container, below its own cgroup.
    Container,
}

/// Every running container with its id and a process, with or without GPUs.
///
/// # Errors
/// If `proc` cannot be read.
pub fn running(proc: &Path) -> io::Result<Vec<Named>> {
    let own = id_of(Path::new("/"))?;
    let mut found = BTreeMap::new();
    let pids = fs::read_dir(proc)?.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        let dir = proc.join(pid.to_string());
        let (Ok(namespace), Ok(root)) = (fs::read_link(dir.join("ns/mnt")), id_of(&dir.join("root/.")))
        else {
            continue;
        };
        if root != own {
            let first = found.entry(namespace).or_insert(pid);
            *first = pid.min(*first);
        }
    }
    let named = |pid: &u32| {
        let cgroup = cgroup(&procfs::read_most(
            proc.join(pid.to_string()).join("cgroup"),
            MAX_TEXT,
        ));
        let (id, _) = name(&cgroup);
        Named {
            named_by: named_by(&cgroup, &id),
            id,
            pid: *pid,
        }
    };
    Ok(found.values().map(named).collect())
}

fn is_forbidden(dir: &Path) -> bool {
    fs::read_link(dir.join("root")).is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied)
}

fn id_of(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

fn process(pid: u32, dir: &Path, gpus: BTreeSet<u32>) -> Option<Process> {
    (!gpus.is_empty()).then(|| Process {
        pid,
        command: name_of(dir),
        gpus,
    })
}

/// The GPUs whose nodes a process has open, by device number, since a name proves nothing. Opens no
/// node.
fn open_gpus(dir: &Path) -> BTreeSet<u32> {
    let entries = fs::read_dir(dir.join("fd")).into_iter().flatten().flatten();
    entries
        .filter(|e| fs::read_link(e.path()).is_ok_and(|target| target.starts_with("/dev")))
        .filter_map(|e| {
            let meta = fs::metadata(e.path()).ok()?;
            let device = FileType::from_raw_mode(meta.mode()) == FileType::CharacterDevice;
            device.then(|| gpu(DeviceNumber::from_raw(meta.rdev())))?
        })
        .collect()
}

fn gpu(node: DeviceNumber) -> Option<u32> {
    (node.major == NVIDIA && node.minor <= LAST_GPU).then_some(node.minor)
}

/// The container of a process, if it has GPUs or a driver.
fn container(pid: u32, dir: &Path, driver_dirs: &[PathBuf]) -> Option<Container> {
    // The dot makes the kernel follow its own link.
    let root = Root::open(dir.join("root/.")).ok()?;
    let gpus = nodes(&root);
    let mounts = procfs::read_most(dir.join("mountinfo"), MAX_TEXT);
    let mounts: Vec<MountInfo> = procfs::mounts(&mounts).filter(|m| m.fs_type == "tmpfs").collect();
    let record = driver_dirs
        .iter()
        .find_map(|d| Some((d, record(&root, &mounts, d)?)));
    if gpus.is_empty() && record.is_none() {
        return None;
    }
    let mut container = bare(pid, dir);
    container.gpus = gpus;
    if let Some((place, record)) = record {
        container.driver_dir = Some(place.clone());
        container.driver = record["driver"].as_str().map(str::to_owned);
        container.record = Some(record);
    }
    Some(container)
}

fn bare(pid: u32, dir: &Path) -> Container {
    let cgroup = cgroup(&procfs::read_most(dir.join("cgroup"), MAX_TEXT));
    let (id, engine) = name(&cgroup);
    Container {
        id,
        engine,
        cgroup,
        pid,
        gpus: BTreeSet::new(),
        driver_dir: None,
        driver: None,
        record: None,
        processes: Vec::new(),
    }
}

/// The GPU nodes in a root's `/dev`.
fn nodes(root: &Root) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let Ok(dev) = root.resolve("/dev") else {
        return found;
    };
    let mut names = Vec::new();
    let listed = dev.visit(MAX_ENTRIES, |name, _| {
        if name.to_bytes().starts_with(b"nvidia") {
            names.push(name.to_owned());
        }
    });
    if listed.is_err() {
        return found;
    }
    for name in names {
        if let Ok(node) = dev.child_c(&name)
            && node.kind() == FileType::CharacterDevice
        {
            found.extend(gpu(node.rdev()));
        }
    }
    found
}

/// The injection's record in `place`, if a tmpfs is mounted there.
fn record(root: &Root, tmpfs: &[MountInfo], place: &Path) -> Option<Value> {
    let device: DeviceNumber = tmpfs
        .iter()
        .find(|m| m.mount_point == place)?
        .majmin
        .parse()
        .ok()?;
    let node = root.resolve_nofollow(place.join(RECORD)).ok()?;
    if DeviceNumber::from_raw(node.stat().st_dev) != device {
        return None;
    }
    serde_json::from_slice(&node.read(MAX_RECORD).ok()?).ok()
}

/// The cgroup that has a container's name: that of the device or systemd hierarchy if there are
/// several.
fn cgroup(list: &[u8]) -> String {
    let mut found: Vec<ProcessCGroup> = procfs::cgroups(list).filter(|c| c.pathname != "/").collect();
    let of = |controller: &str| {
        let is_it = |c: &ProcessCGroup| c.controllers.iter().any(|c| c == controller);
        found.iter().position(is_it)
    };
    let unified = || found.iter().position(|c| c.controllers.is_empty());
    let named = of("devices").or_else(|| of("name=systemd")).or_else(unified);
    named.map(|at| found.swap_remove(at).pathname).unwrap_or_default()
}

/// Prefixes of engines' scopes (or cgroups) for containers.
const ENGINES: [(&str, &str); 4] = [
    ("docker", "docker"),
    ("libpod", "podman"),
    ("cri-containerd", "containerd"),
    ("crio", "cri-o"),
];

/// A container's id and engine, from its cgroup's path.
fn name(cgroup: &str) -> (String, Option<&'static str>) {
    let parts: Vec<&str> = cgroup.split('/').filter(|p| !p.is_empty()).collect();
    let split = |part: &str| {
        let part = part.strip_suffix(".scope").unwrap_or(part).to_owned();
        ENGINES
            .iter()
            .find_map(|(prefix, engine)| {
                let id = part.strip_prefix(prefix)?.strip_prefix('-')?;
                Some((id.to_owned(), Some(*engine)))
            })
            .unwrap_or((part, None))
    };
    let is_id = |id: &str| id.len() >= 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
    // crun puts the processes one level below.
    let candidates = parts.iter().rev().map(|p| split(p));
    let (id, engine) = candidates
        .clone()
        .find(|(id, _)| is_id(id))
        .or_else(|| candidates.clone().find(|(id, _)| id != "container"))
        .unwrap_or_default();
    let by_parent = || {
        let parent = parts.first()?;
        let known = ENGINES.iter().find(|(_, e)| parent == e).map(|(_, e)| *e);
        known.or_else(|| (*parent == "libpod_parent").then_some("podman"))
    };
    (id, engine.or_else(by_parent))
}

/// The possible maker of the component of a cgroup's path that has `id`.
fn named_by(cgroup: &str, id: &str) -> NamedBy {
    let mut parts = cgroup.split('/').filter(|p| !p.is_empty());
    let above: Vec<&str> = parts.by_ref().take_while(|p| !p.contains(id)).collect();
    let is_id = |part: &&str| {
        let part = part.strip_suffix(".scope").unwrap_or(part);
        let tail = part.rsplit('-').next().unwrap_or(part);
        tail.len() >= 32 && tail.bytes().all(|b| b.is_ascii_hexdigit())
    };
    if above.iter().any(is_id) {
        NamedBy::Container
    } else if above
        .iter()
        .any(|p| p.starts_with("user@") && p.ends_with(".service"))
    {
        NamedBy::User
    } else {
        NamedBy::Root
    }
}

/// The name that a process gave itself.
fn name_of(dir: &Path) -> String {
    let name = procfs::read_most(dir.join("comm"), MAX_TEXT);
    String::from_utf8_lossy(&name).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const ID: &str = "3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a";

    #[test]
    fn engines_are_identified_by_their_cgroups() {
        for (path, engine) in [
            (format!("/docker/{ID}"), Some("docker")),
            (format!("/system.slice/docker-{ID}.scope"), Some("docker")),
            (
                format!("/machine.slice/libpod-{ID}.scope/container"),
                Some("podman"),
            ),
            (format!("/libpod_parent/libpod-{ID}"), Some("podman")),
            (
                format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope"),
                Some("containerd"),
            ),
            (format!("/k8s.io/{ID}"), None),
        ] {
            assert_eq!(name(&path), (ID.to_owned(), engine), "{path}");
        }
        assert_eq!(name("/default/web"), ("web".to_owned(), None));
        assert_eq!(name(""), (String::new(), None));
    }

    #[test]
    fn a_name_below_a_users_or_a_containers_cgroup_is_theirs() {
        let other = "ab".repeat(32);
        for (path, by) in [
            (format!("/docker/{ID}"), NamedBy::Root),
            (
                format!("/system.slice/docker-{ID}.scope/init.scope"),
                NamedBy::Root,
            ),
            (format!("/docker/{other}/docker/{ID}"), NamedBy::Container),
            (
                format!("/system.slice/docker-{other}.scope/docker-{ID}.scope"),
                NamedBy::Container,
            ),
            (
                format!("/user.slice/user-1000.slice/user@1000.service/app.slice/docker-{ID}.scope"),
                NamedBy::User,
            ),
        ] {
            assert_eq!(name(&path).0, ID, "{path}");
            assert_eq!(named_by(&path, ID), by, "{path}");
        }
    }

    #[test]
    fn the_hierarchy_that_names_the_container() {
        let v1 = "3:devices,freezer:/docker/abc\n1:name=systemd:/docker/abc\n0::/\n";
        assert_eq!(cgroup(v1.as_bytes()), "/docker/abc");
        assert_eq!(cgroup(b"0::/a.slice/b:c\n"), "/a.slice/b:c");
        assert_eq!(cgroup(b"4:devices:/\n0::/x\n"), "/x");
        assert_eq!(cgroup(b"nonsense"), "");
    }

    #[test]
    fn only_gpus_are_gpus() {
        let gpu = |major, minor| gpu(DeviceNumber { major, minor });
        assert_eq!(gpu(195, 0), Some(0));
        for (major, minor) in [(195, 254), (195, 255), (1, 3)] {
            assert_eq!(gpu(major, minor), None);
        }
    }

    /// One process in a root of its own, whose mount table has a tmpfs at the driver directory.
    fn fake_proc(record: &str, device: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let p = dir.path().join("77");
        fs::create_dir_all(p.join("ns")).unwrap();
        fs::create_dir_all(p.join("fd")).unwrap();
        let root = dir.path().join("rootfs");
        fs::create_dir_all(root.join("usr/local/nvidia")).unwrap();
        fs::write(root.join("usr/local/nvidia").join(RECORD), record).unwrap();
        symlink("mnt:[1]", p.join("ns/mnt")).unwrap();
        symlink(&root, p.join("root")).unwrap();
        let cgroups = format!("0::/docker/{ID}\n");
        fs::write(
            p.join("cgroup"),
            [&b"2:x:/\xff\n"[..], cgroups.as_bytes()].concat(),
        )
        .unwrap();
        fs::write(p.join("comm"), "python\n").unwrap();
        // Mounts with odd names neither hide the others nor add a line.
        let hostile = b"5 8 0:1 / /\xff\xfe rw - tmpfs \xff rw\n\
            6 8 0:1 / /a\\0126\\0408\\0400:1\\040/\\040/usr/local/nvidia rw - tmpfs tmpfs rw\n\
            7 8 0:1 / /usr/local/nvidia/x rw - tmpfs tmpfs rw\n8 8 0:1 / /usr/local/nvidia rw - ext4 tmpfs rw\n\xff\n";
        let line = format!("9 8 {device} / /usr/local/nvidia ro - tmpfs tmpfs rw\n");
        fs::write(p.join("mountinfo"), [&hostile[..], line.as_bytes()].concat()).unwrap();
        dir
    }

    fn device_of(path: &Path) -> String {
        DeviceNumber::from_raw(fs::metadata(path).unwrap().dev()).to_string()
    }

    #[test]
    fn a_record_counts_only_on_the_mount_that_the_kernel_shows() {
        let device = device_of(&std::env::temp_dir());
        let places = [PathBuf::from("/opt/nvidia"), PathBuf::from("/usr/local/nvidia")];
        let proc = fake_proc(r#"{"driver":"550.1"}"#, &device);
        let found = find_gpu_users(proc.path(), &places).unwrap();
        assert_eq!(found.containers.len(), 1);
        let c = &found.containers[0];
        assert_eq!((c.id.as_str(), c.engine, c.pid), (ID, Some("docker"), 77));
        assert_eq!(c.driver.as_deref(), Some("550.1"));
        assert_eq!(c.driver_dir.as_deref(), Some(Path::new("/usr/local/nvidia")));

        for (record, device) in [
            (r#"{"driver":"550.1"}"#, "0:1"),
            ("no JSON", device.as_str()),
            (&*"[".repeat(2 << 20), device.as_str()),
        ] {
            let proc = fake_proc(record, device);
            assert!(
                find_gpu_users(proc.path(), &places)
                    .unwrap()
                    .containers
                    .is_empty()
            );
        }
    }

    #[test]
    fn a_link_in_the_container_leads_nowhere_else() {
        let proc = fake_proc("{}", &device_of(&std::env::temp_dir()));
        let record = proc.path().join("rootfs/usr/local/nvidia").join(RECORD);
        fs::remove_file(&record).unwrap();
        fs::write(proc.path().join("secret"), "{}").unwrap();
        symlink("../../../../secret", &record).unwrap();
        let places = [PathBuf::from("/usr/local/nvidia")];
        assert!(
            find_gpu_users(proc.path(), &places)
                .unwrap()
                .containers
                .is_empty()
        );
    }

    #[test]
    fn a_name_is_no_device() {
        let proc = fake_proc("{}", "0:1");
        symlink("/dev/null", proc.path().join("77/fd/3")).unwrap();
        assert!(find_gpu_users(proc.path(), &[]).unwrap().containers.is_empty());
    }

    #[test]
    fn the_start_of_a_process() {
        let up = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).unwrap();
        let uptime = Duration::from(up) + Duration::from_secs(1);
        let began = start_of(Path::new("/proc"), std::process::id()).unwrap();
        assert!(began > Duration::ZERO && began <= uptime);
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("7")).unwrap();
        for name in [&b"a ) 1 2 3"[..], b"\xff", b"("] {
            let stat = [&b"7 ("[..], name, b")", procfs::recorded::STAT.as_bytes()].concat();
            fs::write(dir.path().join("7/stat"), stat).unwrap();
            assert_eq!(start_of(dir.path(), 7), Some(Duration::from_millis(123_450)));
        }
    }
}
