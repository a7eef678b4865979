//! The kernel's log. `/dev/kmsg` returns one record a read, from the oldest, and `EAGAIN` after the
//! newest. Source: Documentation/ABI/testing/dev-kmsg.

use std::io;
use std::os::fd::AsFd as _;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::root::{DeviceNumber, Node, reopen};

/// The longest record, in bytes (`CONSOLE_EXT_LOG_MAX`).
const MAX_RECORD: usize = 8 << 10;
/// More records than the largest ring buffer has by default.
const MAX_RECORDS: usize = 1 << 17;
const KMSG: DeviceNumber = DeviceNumber { major: 1, minor: 11 };

/// Calls `each` with each record of the log that `node` is.
///
/// # Errors
/// `EINVAL` if `node` is another file; `EPERM` without the right to read the log.
pub fn read(node: &Node, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    if node.kind() != FileType::CharacterDevice || node.rdev() != KMSG {
        return Err(Errno::INVAL.into());
    }
    let log = reopen(node.as_fd(), OFlags::RDONLY | OFlags::NONBLOCK)?;
    let mut record = vec![0; MAX_RECORD];
    for _ in 0..MAX_RECORDS {
        match rustix::io::read(&log, &mut record) {
            Ok(0) | Err(Errno::AGAIN) => break,
            Ok(length) => each(record.get(..length).unwrap_or_default()),
            // The record was overwritten: the next read returns the oldest that is left.
            Err(Errno::PIPE | Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::root::Root;

    #[test]
    fn another_device_is_not_read() {
        let dev = Root::open("/dev").unwrap();
        for name in ["null", "zero", "urandom"] {
            let read = read(&dev.resolve(name).unwrap(), |_| panic!("{name} is no log"));
            assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EINVAL), "{name}");
        }
    }

    #[test]
    fn the_log_ends() {
        let Ok(node) = Root::open("/dev").unwrap().resolve("kmsg") else {
            return;
        };
        // A container's root may not read it.
        let mut bytes = 0;
        if read(&node, |record| bytes += record.len()).is_ok() {
            assert!(bytes > 0);
        }
    }
}
