//! Finds sockets in a directory of data: a read-only mount does not stop a container from
//! connecting to one.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::sys::root::Node;

/// The most entries that are searched for sockets below a directory, and the depth of the search.
pub(super) const MAX_SEARCHED: usize = 65_536;
pub(super) const MAX_DEPTH: usize = 16;

/// The first socket below a directory; `EFBIG` if it has more entries than are searched.
pub(super) fn search(dir: &Node, left: &mut usize, depth: usize) -> io::Result<Option<PathBuf>> {
    if depth > MAX_DEPTH {
        return Err(Errno::FBIG.into());
    }
    let mut below = Vec::new();
    let mut socket = None;
    let mut seen = 0;
    dir.visit(*left, |name, kind| {
        seen += 1;
        let name = || PathBuf::from(std::os::unix::ffi::OsStrExt::from_bytes(name.to_bytes()) as &OsStr);
        match kind {
            FileType::Socket => socket = Some(name()),
            // Some file systems do not report the type.
            FileType::Directory | FileType::Unknown => below.push(name()),
            _ => {}
        }
    })?;
    *left -= seen;
    for name in below {
        if socket.is_some() {
            break;
        }
        let node = dir.child(&name)?;
        match node.kind() {
            FileType::Socket => socket = Some(name),
            FileType::Directory => socket = search(&node, left, depth + 1)?.map(|found| name.join(found)),
            _ => {}
        }
    }
    Ok(socket)
}
