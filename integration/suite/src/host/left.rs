//! What a case could leave on the host beside files of its file system: names of processes, of
//! files on the file systems in memory and of cgroups, and values of the kernel.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use super::state::State;

/// File systems in memory, which the watcher does not watch.
const IN_MEMORY: [&str; 5] = [
    "/run",
    "/dev/shm",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/docker",
];
/// nvoci's records, the runtimes' own state, and a user's.
const STATE: [&str; 5] = [
    "/run/crun",
    "/run/nvoci",
    "/run/runc",
    "/run/simhost",
    "/run/user",
];
/// Values of the kernel that are not a namespace's own.
const VALUES: [&str; 8] = [
    "/proc/sys/fs/file-max",
    "/proc/sys/fs/nr_open",
    "/proc/sys/fs/pipe-max-size",
    "/proc/sys/fs/suid_dumpable",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/dmesg_restrict",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/vm/overcommit_memory",
];
/// A process or a cgroup of a container that was deleted may need so long to go.
const PATIENCE: Duration = Duration::from_secs(3);
const STEP: Duration = Duration::from_millis(20);

/// The names and values now.
pub(crate) fn now() -> io::Result<State> {
    let mut lines = processes()?;
    for directory in IN_MEMORY {
        names(Path::new(directory), &mut lines);
    }
    directories(Path::new("/sys/fs/cgroup"), &mut lines);
    for value in VALUES {
        let text = fs::read_to_string(value).unwrap_or_default();
        lines.push(format!("{value} {}", text.trim()));
    }
    Ok(State::of_lines(lines))
}

/// What is different after a case, once what takes its time to end has ended.
pub(crate) fn since(before: &State) -> io::Result<Option<String>> {
    let mut waited = Duration::ZERO;
    loop {
        let after = now()?;
        if after == *before {
            return Ok(None);
        }
        if waited >= PATIENCE {
            return Ok(Some(before.difference(&after, 5)));
        }
        sleep(STEP);
        waited += STEP;
    }
}

/// The processes of this host, whose process namespace is its own, but for those that have ended.
fn processes() -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let stat = entry.path().join("stat");
        let is_process = entry
            .file_name()
            .as_encoded_bytes()
            .iter()
            .all(u8::is_ascii_digit);
        if let Some(text) = is_process.then(|| fs::read_to_string(stat).ok()).flatten() {
            lines.extend(process(&text));
        }
    }
    Ok(lines)
}

/// `process PID (NAME)` of a process that has not ended.
fn process(stat: &str) -> Option<String> {
    let (name, rest) = stat.rsplit_once(')')?;
    let has_ended = ['Z', 'X'].contains(&rest.trim_start().chars().next()?);
    (!has_ended).then(|| format!("process {name})"))
}

/// The names in a directory and below it, on its file system.
fn names(directory: &Path, lines: &mut Vec<String>) {
    let device = |path: &Path| path.symlink_metadata().map(|metadata| metadata.dev()).ok();
    let own = device(directory);
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if STATE.iter().any(|state| path == Path::new(state)) {
            continue;
        }
        lines.push(path.display().to_string());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && device(&path) == own {
            names(&path, lines);
        }
    }
}

/// The cgroups.
fn directories(directory: &Path, lines: &mut Vec<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            lines.push(entry.path().display().to_string());
            directories(&entry.path(), lines);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_has_ended_is_none() {
        assert_eq!(process("7 (a) b) S 1 7").as_deref(), Some("process 7 (a) b)"));
        assert_eq!(process("7 (sleep) Z 1 7"), None);
        assert_eq!(process(""), None);
    }

    #[test]
    fn names_are_those_below_too() {
        let directory = std::env::temp_dir().join(format!("nvoci-left-{}", std::process::id()));
        fs::create_dir_all(directory.join("a")).unwrap();
        fs::write(directory.join("a/b"), "").unwrap();
        let mut lines = Vec::new();
        names(&directory, &mut lines);
        lines.sort();
        let below = |name: &str| directory.join(name).display().to_string();
        assert_eq!(lines, [below("a"), below("a/b")]);
        fs::remove_dir_all(directory).unwrap();
    }
}
