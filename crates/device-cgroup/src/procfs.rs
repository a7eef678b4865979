//! The cgroups of a process, by procfs-core's parser, one line at a time: users choose the names of cgroups, and
//! procfs-core refuses a whole list for one line that is not UTF-8.

use std::fs::File;
use std::io::{self, Read as _};

use procfs_core::{FromBufRead as _, ProcessCGroup, ProcessCGroups};
use rustix::io::Errno;

/// A whole file of `/proc`.
///
/// # Errors
/// `EFBIG` where it has more than `max` bytes: a path that is cut names something else. Else why it cannot be read.
pub(super) fn read(path: String, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(4096);
    let length = File::open(path)?.take(max + 1).read_to_end(&mut bytes)?;
    if length as u64 > max {
        return Err(Errno::FBIG.into());
    }
    Ok(bytes)
}

/// The cgroups of a process, `/proc/PID/cgroup`. The unified hierarchy's has no controllers. Bytes that are not UTF-8
/// become U+FFFD.
pub fn cgroups(list: &[u8]) -> impl Iterator<Item = ProcessCGroup> {
    list.split(|byte| *byte == b'\n')
        .filter_map(|line| ProcessCGroups::from_buf_read(String::from_utf8_lossy(line).as_bytes()).ok())
        .flatten()
}
