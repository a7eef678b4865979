//! Parses a process's list of cgroups with procfs-core, line by line. Users choose the names of
//! cgroups, and procfs-core refuses a whole list for one line that is not UTF-8.

use std::fs::File;
use std::io::{self, Read as _};

use procfs_core::{FromBufRead as _, ProcessCGroup, ProcessCGroups};
use rustix::io::Errno;

/// Reads a whole file of `/proc`.
///
/// # Errors
/// `EFBIG` if it has more than `max` bytes, since a cut path names another cgroup; else those of
/// reading it.
pub(super) fn read(path: String, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(4096);
    let length = File::open(path)?.take(max + 1).read_to_end(&mut bytes)?;
    if length as u64 > max {
        return Err(Errno::FBIG.into());
    }
    Ok(bytes)
}

/// The cgroups of a process in `/proc/PID/cgroup`. That of the unified hierarchy has no
/// controllers. Bytes that are not UTF-8 become U+FFFD.
pub fn cgroups(list: &[u8]) -> impl Iterator<Item = ProcessCGroup> {
    list.split(|byte| *byte == b'\n')
        .filter_map(|line| ProcessCGroups::from_buf_read(String::from_utf8_lossy(line).as_bytes()).ok())
        .flatten()
}
