//! What a started container has beyond its definition: only what nvoci promises. The functions
//! judge the probe's answers, and have no I/O.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::expect::Outcome;
use crate::fault::{Fault, Kind, shortened};
use crate::probe::Answers;
use crate::way::Way;

/// A started container, and the host's files that it may have.
pub(crate) struct Started<'a> {
    pub(crate) way: Way,
    pub(crate) answers: &'a Answers,
    /// The definition that the runtime got.
    pub(crate) definition: &'a Value,
    /// The driver's libcuda on the host: `INODE SIZE`.
    pub(crate) libcuda: &'a [String],
    /// Where a path of the container leads.
    pub(crate) resolve: &'a dyn Fn(&str) -> String,
    /// The container is in a cgroup of the case's own, which lets more through.
    pub(crate) is_in_callers_cgroup: bool,
    /// The image's loader has a cache, which nvoci can make anew.
    pub(crate) has_loader: bool,
}

/// Numbers that no container gets: a disk, and what a rule for all of memory's, the miscellaneous
/// or the experimental devices lets through. Capabilities do not refuse any of them.
const OTHER_DEVICES: [(&str, &str, u64, u64); 4] = [
    ("mknod b8:0", "b", 8, 0),
    ("mknod 1:6", "c", 1, 6),
    ("mknod 10:229", "c", 10, 229),
    ("mknod 240:0", "c", 240, 0),
];

/// Where CDI's hook keeps the loader's cache if the image's own cannot be replaced.
const CDI_CACHES: [&str; 2] = ["/dev/.nvoci", "/run/nvoci-cdi"];

/// Devices that a runtime binds where it may not make nodes.
const DEFAULT_DEVICES: [&str; 6] = ["/full", "/null", "/random", "/tty", "/urandom", "/zero"];

/// The faults of a container that must have ended as `expected`.
pub(crate) fn faults(started: &Started<'_>, expected: Outcome) -> Vec<Fault> {
    // gVisor's own kernel has other mounts and devices, and another program has no answers.
    if started.way.is_gvisor() || !started.answers.is_finished() {
        return Vec::new();
    }
    let mut faults = mounts(started);
    if !started.is_in_callers_cgroup {
        faults.extend(devices(started));
    }
    if expected == Outcome::Gpu {
        faults.extend(library(started));
    }
    faults
}

/// A line of mountinfo.
#[derive(Clone, Copy, Debug)]
struct Mount<'a> {
    /// The part of its file system: for a bind mount, the path of its source.
    root: &'a str,
    point: &'a str,
    is_read_only: bool,
    kind: &'a str,
    source: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (head, tail) = line.split_once(" - ")?;
        let mut head = head.split(' ').skip(3);
        let (root, point, options) = (head.next()?, head.next()?, head.next()?);
        let mut tail = tail.split(' ');
        Some(Self {
            root,
            point,
            is_read_only: options.split(',').any(|option| option == "ro"),
            kind: tail.next()?,
            source: tail.next()?,
        })
    }

    /// What nvoci promises: read-only, and its own tmpfs, the driver's file, a GPU's node in its
    /// place, or the driver's procfs. A user may not change the rights of a node, so it is writable
    /// there, and CDI's hook keeps a cache that has no other place in a tmpfs of the container.
    fn is_promised(&self, way: Way) -> bool {
        let below_dev = self.point.strip_prefix("/dev");
        let is_own = self.kind == "tmpfs" && self.source.starts_with("nvoci");
        let is_node = self.root.starts_with("/nvidia") && below_dev == Some(self.root);
        let is_procfs = self.point.starts_with("/proc/driver/nvidia/");
        let is_cache = is_own && CDI_CACHES.contains(&self.point);
        if self.is_read_only {
            is_own || is_driver_file(self.root) || is_node || is_procfs
        } else {
            is_cache || is_node && way.is_rootless()
        }
    }

    fn is_default_device(&self) -> bool {
        DEFAULT_DEVICES.contains(&self.root) && self.point.strip_prefix("/dev") == Some(self.root)
    }
}

/// What is in the name of each file of the driver.
const DRIVER_NAMES: [&str; 4] = ["nvidia", "libcuda", "libnvcuvid", "libnvoptix"];

/// A file of the driver, by its name and its directory on the host.
fn is_driver_file(path: &str) -> bool {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    let is_system = ["/usr/", "/lib", "/etc/"].iter().any(|top| path.starts_with(top));
    let is_firmware = directory.contains("/firmware/nvidia/");
    is_system && (is_firmware || DRIVER_NAMES.iter().any(|part| name.contains(part)))
}

/// Every mount is the definition's, the runtime's for it, or promised.
fn mounts(started: &Started<'_>) -> Vec<Fault> {
    let lines: Vec<&str> = started.answers.all("mount").collect();
    let all: Vec<Mount<'_>> = lines.iter().filter_map(|line| Mount::parse(line)).collect();
    if all.len() != lines.len() || all.is_empty() {
        let text = "the container's mounts are not known, nothing is proved";
        return vec![Fault::new(Kind::Decision, text)];
    }
    let mut defined = places(started.definition, started.resolve);
    let is_extra = |mount: &Mount<'_>| match defined.get_mut(mount.point) {
        Some(left) if *left > 0 => {
            *left -= 1;
            false
        }
        _ => {
            let is_cgroup = mount.kind == "cgroup" && mount.point.starts_with("/sys/fs/cgroup/");
            !(is_cgroup || mount.is_default_device() || mount.is_promised(started.way))
        }
    };
    let extra: Vec<String> = all
        .into_iter()
        .filter(is_extra)
        .map(|mount| {
            let access = if mount.is_read_only { "ro" } else { "rw" };
            format!("{} {} {access} {}", mount.root, mount.point, mount.kind)
        })
        .collect();
    if extra.is_empty() {
        return Vec::new();
    }
    let text = format!("a mount that nobody asked for: {}", extra.join("|"));
    vec![Fault::new(Kind::Mount, shortened(&text, 600))]
}

/// How many mounts the definition has at each place.
fn places(definition: &Value, resolve: &dyn Fn(&str) -> String) -> BTreeMap<String, usize> {
    let mut places = BTreeMap::from([("/".to_owned(), 1)]);
    let linux = &definition["linux"];
    let mounts = definition["mounts"].as_array().into_iter().flatten();
    let mounts = mounts.filter_map(|mount| mount["destination"].as_str());
    let covers = ["maskedPaths", "readonlyPaths"];
    let covers = covers.iter().filter_map(|list| linux[*list].as_array()).flatten();
    for place in mounts.chain(covers.filter_map(Value::as_str)) {
        *places.entry(resolve(place)).or_default() += 1;
    }
    places
}

/// The device cgroup lets through nothing that the definition does not allow.
fn devices(started: &Started<'_>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (question, kind, major, minor) in OTHER_DEVICES {
        let got = started.answers.got(question);
        if got.is_empty() {
            let text = format!("no answer to {question}, nothing is proved");
            faults.push(Fault::new(Kind::Decision, text));
        } else if started.answers.opens(question) && !allows(started.definition, kind, major, minor) {
            let text = format!("a device nobody asked for: {question} is '{got}'");
            faults.push(Fault::new(Kind::ForeignDevice, text));
        }
    }
    faults
}

/// Some rule of the definition allows the device, whatever another gives after it.
fn allows(definition: &Value, kind: &str, major: u64, minor: u64) -> bool {
    let rules = definition["linux"]["resources"]["devices"].as_array();
    let is = |wanted: &Value, number: u64| wanted.as_u64().is_none_or(|wanted| wanted == number);
    rules.into_iter().flatten().any(|rule| {
        let wanted = rule["type"].as_str().unwrap_or("a");
        rule["allow"] == true
            && (wanted == "a" || wanted == kind)
            && is(&rule["major"], major)
            && is(&rule["minor"], minor)
    })
}

/// The loader finds the host's own libcuda.
fn library(started: &Started<'_>) -> Option<Fault> {
    let question = "cached libcuda.so.1";
    let got = started.answers.got(question);
    let (_, file) = got.split_once(' ').unwrap_or_default();
    let is_hosts = started.libcuda.iter().any(|host| host == file);
    let is_mounted = || {
        let mut mounts = started.answers.all("mount").filter_map(Mount::parse);
        mounts.any(|mount| mount.root.contains("/libcuda.so."))
    };
    let is_found = is_hosts || !started.has_loader && got == "absent" && is_mounted();
    (!is_found).then(|| {
        let text = format!("the loader does not find the host's libcuda: {question} is '{got}'");
        Fault::new(Kind::Decision, text)
    })
}

/// A file of the layer over an image: `State::of_layer` has its line.
#[derive(Clone, Copy, Debug)]
struct Entry<'a> {
    path: &'a str,
    mode: u32,
    size: &'a str,
    target: &'a str,
}

impl<'a> Entry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut parts = line.split('\t');
        Some(Self {
            path: parts.next()?,
            mode: u32::from_str_radix(parts.next()?, 8).ok()?,
            size: parts.next()?,
            target: parts.next()?,
        })
    }

    fn kind(&self) -> u32 {
        self.mode & 0o170_000
    }

    /// What an injection leaves: directories, the loader's files, links into the driver directory,
    /// and the empty places of mounts.
    fn is_promised(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        match self.kind() {
            // gVisor makes the places of mounts below /proc in the layer.
            0o040_000 => {
                matches!(self.mode & 0o7777, 0o755 | 0o1755 | 0o1777) || self.path.starts_with("/proc/")
            }
            0o100_000 => {
                self.size == "0"
                    || self.path == "/etc/ld.so.cache"
                    || self.path.starts_with("/etc/ld.so.conf.d/00-") && name.ends_with("nvoci.conf")
            }
            0o120_000 => self.is_link_of_driver(),
            _ => false,
        }
    }

    /// CDI's hook makes the driver's links beside its files, and two files of its own.
    fn is_of_specification(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        let is_library = DRIVER_NAMES
            .iter()
            .any(|part| self.target.contains(part) || name.contains(part));
        self.kind() == 0o120_000 && is_library || ["10-container.conf", "00-nvcr-nvoci.conf"].contains(&name)
    }

    fn is_link_of_driver(&self) -> bool {
        ["/usr/local/nvidia/", "/opt/nvidia/", "/dev/.nvoci/"]
            .iter()
            .any(|directory| self.target.starts_with(directory) || self.path.starts_with(directory))
    }
}

/// The faults of an image's layer after a start. `added` and `gone` are lines of `State::of_layer`.
/// A container that nvoci refused for what it is has no part of an injection.
/// An engine's own CDI mounts leave more: see `is_of_specification`.
pub(crate) fn layer<'a>(
    way: Way,
    added: impl Iterator<Item = &'a str>,
    gone: impl Iterator<Item = &'a str>,
    is_refused: bool,
) -> Option<Fault> {
    let added: Vec<Entry<'_>> = added.filter_map(Entry::parse).collect();
    let is_there = |entry: &Entry<'_>| added.iter().any(|other| other.path == entry.path);
    let is_cdis = |entry: &Entry<'_>| way.is_by_specification() && entry.is_of_specification();
    let removed = gone
        .filter_map(Entry::parse)
        .filter(|entry| !is_there(entry) && !is_cdis(entry));
    let is_wrong = |entry: &&Entry<'_>| {
        let is_places = entry.kind() == 0o040_000 || entry.size == "0";
        // A specification's hooks run one after another, so one before the refusal has made links.
        !is_cdis(entry) && (!entry.is_promised() || is_refused && !is_places)
    };
    let mut wrong: Vec<String> = removed.map(|entry| format!("< {}", entry.path)).collect();
    wrong.extend(added.iter().filter(is_wrong).map(|entry| {
        let Entry {
            path,
            mode,
            size,
            target,
        } = entry;
        format!("> {path} {mode:o} {size} {target}")
    }));
    if wrong.is_empty() {
        return None;
    }
    let text = format!("the image's layer was changed: {}", wrong.join("|"));
    Some(Fault::new(Kind::Layer, shortened(&text, 600)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const BARE: &str = "mount 1 0 0:1 / / rw - overlay overlay rw
mount 2 1 0:2 / /proc rw,nosuid - proc proc rw
mount 3 1 0:3 / /usr/local/nvidia ro,nosuid - tmpfs nvoci ro
mount 4 1 0:4 /usr/lib/libcuda.so.550.1 /usr/local/nvidia/lib64/libcuda.so.550.1 ro - overlay overlay rw
mount 5 1 0:5 /nvidia0 /dev/nvidia0 ro - tmpfs tmpfs rw
mknod b8:0 refused\nmknod 1:6 refused\nmknod 10:229 unmade errno-1\nmknod 240:0 refused
cached libcuda.so.1 /usr/local/nvidia/lib64/libcuda.so.1 7 100
";

    fn kinds(answers: &str, edit: fn(&mut Started<'_>)) -> Vec<Kind> {
        let answers = Answers::new(format!("{answers}probe done\n"));
        let definition = json!({"mounts": [{"destination": "/proc"}], "linux": {}});
        let mut started = Started {
            way: Way::CreateRuntime,
            answers: &answers,
            definition: &definition,
            libcuda: &["7 100".to_owned()],
            resolve: &str::to_owned,
            is_in_callers_cgroup: false,
            has_loader: true,
        };
        edit(&mut started);
        let faults = faults(&started, Outcome::Gpu);
        faults.into_iter().map(|fault| fault.kind).collect()
    }

    fn with(line: &str) -> String {
        format!("{BARE}{line}\n")
    }

    #[test]
    fn a_mount_is_the_definitions_or_promised() {
        assert_eq!(kinds(BARE, |_| ()), []);
        for line in [
            // The whole host, a cover of the definition's, and a file of the host.
            "mount 9 1 0:4 / /mnt rw - overlay overlay rw",
            "mount 9 1 0:4 / /mnt ro - overlay overlay rw",
            "mount 9 1 0:2 / /proc rw - proc proc rw",
            "mount 9 1 0:4 /etc/shadow /mnt ro - overlay overlay rw",
            // A driver's file and a node that can be written, and a node in another's place.
            "mount 9 1 0:4 /usr/lib/libcuda.so.550.1 /x rw - overlay overlay rw",
            "mount 9 1 0:5 /nvidia1 /dev/nvidia1 rw - tmpfs tmpfs rw",
            "mount 9 1 0:5 /nvidia1 /dev/nvidia9 ro - tmpfs tmpfs rw",
            "mount 9 1 0:6 / /var/lib rw - tmpfs nvoci rw",
        ] {
            assert_eq!(kinds(&with(line), |_| ()), [Kind::Mount], "{line}");
        }
        let node = with("mount 9 1 0:5 /nvidia1 /dev/nvidia1 rw - tmpfs tmpfs rw");
        assert_eq!(kinds(&node, |started| started.way = Way::Rootless), []);
        let none: Vec<&str> = BARE.lines().filter(|line| !line.starts_with("mount")).collect();
        let none = none.join("\n") + "\n";
        assert!(kinds(&none, |_| ()).contains(&Kind::Decision));
    }

    #[test]
    fn a_device_is_the_definitions() {
        let open = BARE.replace("b8:0 refused", "b8:0 nodriver");
        assert_eq!(kinds(&open, |_| ()), [Kind::ForeignDevice]);
        assert_eq!(kinds(&open, |started| started.is_in_callers_cgroup = true), []);
        let silent = BARE.replace("mknod 240:0 refused", "");
        assert_eq!(kinds(&silent, |_| ()), [Kind::Decision]);
        let rules = json!({"linux": {"resources": {"devices": [
            {"allow": false}, {"allow": true, "type": "c", "major": 10}]}}});
        assert!(allows(&rules, "c", 10, 229));
        assert!(!allows(&rules, "b", 10, 229) && !allows(&rules, "c", 1, 6));
    }

    #[test]
    fn the_loader_finds_the_hosts_library() {
        let other = BARE.replace("7 100", "8 100");
        assert_eq!(kinds(&other, |_| ()), [Kind::Decision]);
        let line = BARE.lines().last().unwrap_or_default();
        let absent = BARE.replace(line, "cached libcuda.so.1 absent");
        assert_eq!(kinds(&absent, |_| ()), [Kind::Decision]);
        assert_eq!(kinds(&absent, |started| started.has_loader = false), []);
    }

    #[test]
    fn a_layer_has_what_an_injection_leaves() {
        let fault = |added: &[&str], gone: &[&str], is_refused| {
            let (added, gone) = (added.iter().copied(), gone.iter().copied());
            layer(Way::CreateRuntime, added, gone, is_refused).is_some()
        };
        let link = "/usr/bin/nvidia-smi\t120777\t32\t/usr/local/nvidia/bin/nvidia-smi\t1";
        let place = "/usr/local/nvidia\t40755\t0\t\t0";
        let cache = "/etc/ld.so.cache\t100644\t900\t\t1";
        assert!(!fault(
            &[link, place, cache],
            &["/etc/ld.so.cache\t100644\t8\t\t1"],
            false
        ));
        assert!(!fault(&[place], &[], true));
        assert!(fault(&[link], &[], true) && fault(&[cache], &[], true));
        for wrong in [
            "/probe-leak\t100644\t900\t\t1",
            "/usr/bin/x\t120777\t11\t/etc/shadow\t1",
            "/etc\t40777\t0\t\t0",
            "/etc/passwd\t20000\t0\t\t0",
        ] {
            assert!(fault(&[wrong], &[], false), "{wrong}");
        }
        assert!(fault(&[], &["/probe\t100755\t9\t\t1"], false));
    }
}
