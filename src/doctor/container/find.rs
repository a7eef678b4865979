//! Finds one of a container's processes by a person's name for the container.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::containers::{self, Container, Named};
use crate::engine::api;
use crate::sys::root::Root;

const PROC: &str = "/proc";
/// The largest list of containers of Podman, in bytes.
const MAX_LIST: u64 = 64 << 20;
const DOCKER_SOCKET: &str = "/run/docker.sock";
/// The shortest beginning of an id.
const MIN_ID: usize = 3;

/// The result of a search.
#[derive(Debug)]
pub enum Found {
    /// One container.
    One(Box<Container>),
    /// None or several, with the reason.
    None(String),
}

/// Finds a running container by id (or its beginning), name, or the number of one of its processes.
pub fn find(name: &str, driver_dirs: &[PathBuf]) -> Found {
    if let Ok(pid) = name.parse::<u32>()
        && Path::new(PROC).join(name).exists()
    {
        return match containers::of_process(Path::new(PROC), pid, driver_dirs) {
            Ok(Some(container)) => Found::One(Box::new(container)),
            Ok(None) => Found::None(format!("process {pid} belongs to the host, not to a container")),
            Err(e) => Found::None(format!("process {pid} cannot be read: {e}")),
        };
    }
    let running = match containers::running(Path::new(PROC)) {
        Ok(running) => running,
        Err(e) => return Found::None(format!("/proc cannot be read: {e}")),
    };
    let by_id = |id: &str| best(&running, id);
    let mut pids = by_id(name);
    if pids.is_empty() {
        pids = id_by_name(name).map(|id| by_id(&id)).unwrap_or_default();
    }
    match pids.as_slice() {
        [pid] => match containers::of_process(Path::new(PROC), *pid, driver_dirs) {
            Ok(Some(container)) => Found::One(Box::new(container)),
            _ => Found::None("it has just ended".to_owned()),
        },
        [] => Found::None(if rustix::process::geteuid().is_root() {
            "no running container has that id or name".to_owned()
        } else {
            "no visible container has that id or name; run it as root to see all".to_owned()
        }),
        more => Found::None(format!(
            "{} containers have this beginning; give more of the id",
            more.len()
        )),
    }
}

/// The processes of the containers with that id, or with that beginning of it. Users and containers
/// can name their cgroups after another container; those count only if no more trusted one has the
/// id.
fn best(running: &[Named], id: &str) -> Vec<u32> {
    let fits = |n: &&Named| n.id == id || (id.len() >= MIN_ID && n.id.starts_with(id));
    let by = running.iter().filter(fits).map(|n| n.named_by).min();
    running
        .iter()
        .filter(fits)
        .filter(|n| Some(n.named_by) == by)
        .map(|n| n.pid)
        .collect()
}

/// The id of a name: from Docker's daemon, or from Podman's list.
fn id_by_name(name: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.is_empty() || !name.chars().all(plain) {
        return None;
    }
    let docker = api::get(Path::new(DOCKER_SOCKET), &format!("/containers/{name}/json")).ok();
    let docker = docker.and_then(|answer| answer["Id"].as_str().map(str::to_owned));
    docker.or_else(|| podman(name))
}

fn podman(name: &str) -> Option<String> {
    let host = Root::open("/").ok()?;
    let home = std::env::home_dir().map(|h| h.join(".local/share/containers/storage"));
    let stores = [PathBuf::from("/var/lib/containers/storage")]
        .into_iter()
        .chain(home);
    stores.into_iter().find_map(|store| {
        ["overlay", "vfs", "btrfs", "zfs"].iter().find_map(|driver| {
            let list = host.read(
                store.join(format!("{driver}-containers/containers.json")),
                MAX_LIST,
            );
            let list: Vec<Value> = serde_json::from_slice(&list.ok()?).ok()?;
            list.iter()
                .find(|c| {
                    c["names"]
                        .as_array()
                        .is_some_and(|names| names.iter().any(|n| n == name))
                })
                .and_then(|c| c["id"].as_str().map(str::to_owned))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::NamedBy;

    #[test]
    fn a_copied_id_does_not_get_in_the_way() {
        let named = |id: &str, pid, named_by| Named {
            id: id.to_owned(),
            pid,
            named_by,
        };
        let running = [
            named("abcd1", 1, NamedBy::User),
            named("abcd2", 2, NamedBy::Root),
            named("abcd1", 3, NamedBy::Container),
            named("ffff", 4, NamedBy::User),
            named("abcd2", 5, NamedBy::Container),
        ];
        assert_eq!(best(&running, "abcd"), [2]);
        assert_eq!(best(&running, "abcd2"), [2]);
        assert_eq!(best(&running, "abcd1"), [1]);
        assert_eq!(best(&running, "ffff"), [4]);
        assert!(best(&running, "ab").is_empty() && best(&running, "0000").is_empty());
    }
}
