//! File handles (open_by_handle_at(2)), to find the same inode through another mount.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// The head of a kernel handle, and room for the largest (`MAX_HANDLE_SZ`).
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    data: [u8; 128],
}

/// Opens the directory `dir` through the mount of `mount`, which must be of the same file system.
///
/// # Errors
/// `EPERM` without `CAP_DAC_READ_SEARCH` on the host, `ESTALE` if that file system has no such
/// directory.
pub fn same_in(dir: &OwnedFd, mount: &OwnedFd) -> io::Result<OwnedFd> {
    let mut handle = Handle {
        bytes: 128,
        kind: 0,
        data: [0; 128],
    };
    let (at, mut id) = (core::ptr::from_mut(&mut handle), 0);
    // SAFETY: the handle is live, of the length in it, and laid out as struct file_handle; the
    // empty path ends in NUL.
    let named = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            dir.as_raw_fd(),
            c"".as_ptr(),
            at,
            &raw mut id,
            libc::AT_EMPTY_PATH,
        )
    };
    if named < 0 {
        return Err(io::Error::last_os_error());
    }
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: the kernel has filled the handle in.
    let fd = unsafe { libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), at, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
