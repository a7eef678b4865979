//! What must be the same before and after a case.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::CANARY;

/// Directories of the host where a fooled hook would write.
const WRITTEN: [&str; 5] = ["/etc", "/opt", "/root", "/usr/local", "/usr/lib/nvoci"];
/// The suite's own changes.
const OWN: &str = "/etc/nvoci";

/// Lines about the host. Two states differ by their lines.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct State(BTreeSet<String>);

impl State {
    /// Names, types, modes, owners, sizes, times, links, contents and mounts of the canary, and the
    /// other files of the host that a fooled hook would write.
    pub(crate) fn of_host() -> io::Result<Self> {
        let mut lines = BTreeSet::new();
        let canary = Path::new(CANARY);
        visit(canary, canary.metadata()?.dev(), &mut |path, metadata| {
            let mut line = described(path, metadata);
            if metadata.is_file() {
                line.push_str(&String::from_utf8_lossy(&fs::read(path)?));
            }
            lines.insert(line);
            Ok(())
        })?;
        for directory in WRITTEN.map(Path::new) {
            let Ok(metadata) = directory.symlink_metadata() else {
                continue;
            };
            visit(directory, metadata.dev(), &mut |path, metadata| {
                if !path.starts_with(OWN) {
                    lines.insert(described(path, metadata));
                }
                Ok(())
            })?;
        }
        let mounts = Self::of_mounts()?;
        lines.extend(mounts.0.into_iter().filter(|line| line.contains(CANARY)));
        Ok(Self(lines))
    }

    /// A file tree, with tabs between a file's name, mode, size, target and time of change. A
    /// directory's size and time are those of what is in it.
    pub(crate) fn of_layer(directory: &Path) -> io::Result<Self> {
        let mut lines = BTreeSet::new();
        let device = directory.metadata()?.dev();
        visit(directory, device, &mut |path, metadata| {
            let target = fs::read_link(path).unwrap_or_default();
            let name = path.strip_prefix(directory).unwrap_or(path).display();
            let (mode, target) = (metadata.mode(), target.display());
            let (size, time) = if metadata.is_dir() {
                (0, 0)
            } else {
                (metadata.size(), metadata.mtime_nsec())
            };
            lines.insert(format!("/{name}\t{mode:o}\t{size}\t{target}\t{time}"));
            Ok(())
        })?;
        Ok(Self(lines))
    }

    pub(crate) fn of_lines(lines: Vec<String>) -> Self {
        Self(lines.into_iter().collect())
    }

    /// The lines of `after` that are new.
    pub(crate) fn added<'a>(&'a self, after: &'a Self) -> impl Iterator<Item = &'a str> {
        after.0.difference(&self.0).map(String::as_str)
    }

    /// The mount table without ids and peer groups, which differ each time.
    pub(crate) fn of_mounts() -> io::Result<Self> {
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        // Equal lines are counted: a mount over another is a change.
        let mut lines = BTreeSet::new();
        for line in table.lines().map(mount) {
            let mut again = 1;
            let mut counted = line.clone();
            while !lines.insert(counted) {
                again += 1;
                counted = format!("{line} ({again} times)");
            }
        }
        Ok(Self(lines))
    }

    /// The first differences, as `diff` shows them: `< ` for a line that is gone.
    pub(crate) fn difference(&self, after: &Self, limit: usize) -> String {
        let gone = self.0.difference(&after.0).map(|line| format!("< {line}"));
        let new = after.0.difference(&self.0).map(|line| format!("> {line}"));
        gone.chain(new).take(limit).collect::<Vec<_>>().join("|")
    }
}

/// A line of mountinfo without the mount's ids, its device and its peers.
fn mount(line: &str) -> String {
    let words = line.split(' ').skip(3);
    let is_peer = |word: &str| {
        ["shared:", "master:", "propagate_from:"]
            .iter()
            .any(|kind| word.starts_with(kind))
    };
    words.filter(|word| !is_peer(word)).collect::<Vec<_>>().join(" ")
}

/// Calls `see` for a file and, if it is a directory of `device`, for everything in it.
fn visit(
    path: &Path,
    device: u64,
    see: &mut dyn FnMut(&Path, &Metadata) -> io::Result<()>,
) -> io::Result<()> {
    let metadata = path.symlink_metadata()?;
    see(path, &metadata)?;
    if metadata.is_dir() && metadata.dev() == device {
        for entry in fs::read_dir(path)? {
            visit(&entry?.path(), device, see)?;
        }
    }
    Ok(())
}

fn described(path: &Path, metadata: &Metadata) -> String {
    let target = fs::read_link(path).unwrap_or_default();
    format!(
        "{} {:o} {}:{} {} {}.{} {} ",
        path.display(),
        metadata.mode(),
        metadata.uid(),
        metadata.gid(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        target.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_its_place_and_source() {
        let line = "36 35 98:0 /mnt1 /mnt2 rw,noatime shared:1 master:2 - ext3 /dev/root rw";
        assert_eq!(mount(line), "/mnt1 /mnt2 rw,noatime - ext3 /dev/root rw");
    }

    #[test]
    fn a_difference_names_the_lines() {
        let state = |lines: &[&str]| State(lines.iter().map(|line| (*line).to_owned()).collect());
        let before = state(&["a", "b", "c"]);
        assert_eq!(before.difference(&state(&["a", "c", "d"]), 3), "< b|> d");
        assert_eq!(before.difference(&state(&[]), 2), "< a|< b");
    }
}
