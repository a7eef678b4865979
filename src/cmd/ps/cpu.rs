//! Containers that hold a GPU and compute on the CPU.
//!
//! A hook's warning is the first sign: preflight found that the container cannot compute on its
//! GPU. A process that has a GPU open disproves it. For a framework without GPU code (7702) a
//! loaded libcuda does too. The container's mount namespace and start time identify the warning.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::apply::Warning;
use crate::containers::{Container, GpuUsers, members};
use crate::doctor::warned;
use crate::error::Escaped;
use crate::findings::Finding;
use crate::sys::procfs;

/// A framework of the image was built without GPU code.
const CPU_ONLY: u16 = 7702;
const LIBCUDA: &[u8] = b"/libcuda.so";
/// Limits on the processes of a container whose maps are read, and on the bytes of one list.
const MAX_PROCESSES: usize = 64;
const MAX_MAPS: u64 = 4 << 20;

/// A container on the CPU, and how that is known.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct OnCpu {
    finding: Finding,
    /// Seconds since 1970 at which the container started.
    time: u64,
    /// Whether one of its processes has loaded a libcuda.
    has_libcuda: bool,
}

/// The containers on the CPU, by their oldest processes.
pub(super) type OnCpus = BTreeMap<u32, OnCpu>;

/// Finds them among the users of GPUs.
pub(super) fn find(proc: &Path, users: &GpuUsers) -> OnCpus {
    // Without root they cannot be read; then processes of others are not shown either.
    find_in(proc, users, &warned::warnings().unwrap_or_default())
}

fn find_in(proc: &Path, users: &GpuUsers, warnings: &[Warning]) -> OnCpus {
    let idle = users
        .containers
        .iter()
        .filter(|c| c.processes.is_empty() && (!c.gpus.is_empty() || c.driver_dir.is_some()));
    let on_cpu = |c: &Container| {
        let warning = warned::of_process(proc, c.pid, warnings)?;
        let finding = warning.failure()?;
        let has_libcuda = has_libcuda(proc, c.pid);
        (finding.check.number != CPU_ONLY || !has_libcuda).then(|| OnCpu {
            finding: finding.clone(),
            time: warning.time,
            has_libcuda,
        })
    };
    idle.filter_map(|c| Some((c.pid, on_cpu(c)?))).collect()
}

/// Whether a process of the container of `pid` has loaded libcuda.
fn has_libcuda(proc: &Path, pid: u32) -> bool {
    let members = members(proc, pid).unwrap_or_default();
    members.iter().take(MAX_PROCESSES).any(|pid| {
        let maps = procfs::read_most(proc.join(pid.to_string()).join("maps"), MAX_MAPS);
        maps.windows(LIBCUDA.len()).any(|text| text == LIBCUDA)
    })
}

impl OnCpu {
    /// The cell of the table.
    pub(super) fn cell(&self) -> String {
        let libcuda = if self.has_libcuda {
            "no process has a GPU open"
        } else {
            "no process has loaded libcuda"
        };
        format!(
            "CPU only: {} at its start, {libcuda} (`nvoci doctor --last`)",
            self.finding.check
        )
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "code": self.finding.check.to_string(),
            "what": Escaped(&self.finding.subject).to_string(),
            "why": Escaped(&self.finding.cause).to_string(),
            "fix": Escaped(&self.finding.fix).to_string(),
            "time": self.time,
            "libcuda": self.has_libcuda,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Container `pid` on the CPU.
    pub(in super::super) fn on_cpu(pid: u32) -> OnCpus {
        let finding = warning("3f2a").findings()[0].clone();
        OnCpus::from([(
            pid,
            OnCpu {
                finding,
                time: 1,
                has_libcuda: true,
            },
        )])
    }

    use crate::apply::grant::since_boot;
    use crate::apply::warning::tests::warning;
    use crate::containers::Process;
    use std::collections::BTreeSet;
    use std::os::unix::fs::MetadataExt as _;

    fn container(pid: u32) -> Container {
        Container {
            id: "3f2a".to_owned(),
            engine: None,
            cgroup: String::new(),
            pid,
            gpus: BTreeSet::from([0]),
            driver_dir: None,
            driver: None,
            record: None,
            processes: Vec::new(),
        }
    }

    #[test]
    fn a_warned_container_is_on_the_cpu_until_it_opens_a_gpu() {
        let pid = std::process::id();
        let namespace = std::fs::metadata("/proc/self/ns/mnt").unwrap();
        let warning = Warning {
            namespace: (namespace.dev(), namespace.ino()),
            since_boot: Some(since_boot()),
            ..warning("3f2a")
        };
        let find = |c: Container, warnings: &[Warning]| {
            let users = GpuUsers {
                containers: vec![c],
                ..GpuUsers::default()
            };
            find_in(Path::new("/proc"), &users, warnings).remove(&pid)
        };
        let found = find(container(pid), std::slice::from_ref(&warning)).unwrap();
        assert_eq!(
            found.cell(),
            "CPU only: NVOCI-7702 at its start, no process has loaded libcuda (`nvoci doctor --last`)"
        );
        assert_eq!(found.to_json()["libcuda"], false);
        assert_eq!(found.to_json()["fix"], "install a CUDA build");
        let users = GpuUsers {
            containers: vec![container(pid)],
            ..GpuUsers::default()
        };
        let all = super::super::to_json(&users, &[], &OnCpus::from([(pid, found)]));
        assert_eq!(all["containers"][0]["cpu"]["code"], "NVOCI-7702");
        crate::schema::Schema::read("ps.json").assert_valid(&all);
        assert_eq!(find(container(pid), &[]), None);
        let process = Process {
            pid,
            command: "python".to_owned(),
            gpus: BTreeSet::from([0]),
        };
        let using = Container {
            processes: vec![process],
            ..container(pid)
        };
        assert_eq!(find(using, std::slice::from_ref(&warning)), None);
        let without = Container {
            gpus: BTreeSet::new(),
            ..container(pid)
        };
        assert_eq!(find(without, &[warning]), None);
    }
}
