//! The process itself: what it inherits and what it may do.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStringExt as _;

use caps::{CapSet, Capability, CapsHashSet};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::getppid;

/// Cuts the process off from what it inherited: descriptors beyond standard error are closed at exec
/// and by us, missing standard descriptors become `/dev/null`, the working directory is `/`, no file
/// is ever left group- or world-writable by a lax umask, and no other process of the same user may
/// look into this one once it enters a container's namespace.
pub fn isolate() -> io::Result<()> {
    ensure_standard_descriptors()?;
    // SAFETY: descriptors from 3 up are not owned by anything in this process yet: this is the first
    // thing that a hook does.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
    if closed != 0 {
        close_one_by_one();
    }
    rustix::process::chdir(c"/")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

/// The capabilities that applying a plan needs; all others are given up.
const NEEDED: [Capability; 9] = [
    // setfsuid and setfsgid to the root of a container's user namespace.
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
    // Mounts, setns, bpf on kernels before 5.8.
    Capability::CAP_SYS_ADMIN,
    // setns into a mount namespace.
    Capability::CAP_SYS_CHROOT,
    // The rootfs may belong to any user.
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_FOWNER,
    // bpf programs of type cgroup/dev are loaded with CAP_SYS_ADMIN or CAP_BPF + CAP_NET_ADMIN.
    Capability::CAP_NET_ADMIN,
    // /proc/PID/ns/mnt of a process with another user or capability set.
    Capability::CAP_SYS_PTRACE,
];

/// Drops every capability that [`NEEDED`] does not list, and the whole bounding set.
pub fn drop_capabilities() {
    let needed: CapsHashSet = NEEDED.into_iter().collect();
    // Best effort by design: a process without these rights has nothing to drop.
    let _ = caps::clear(None, CapSet::Ambient);
    for capability in caps::all() {
        let _ = caps::drop(None, CapSet::Bounding, capability);
    }
    if let Ok(permitted) = caps::read(None, CapSet::Permitted) {
        let kept: CapsHashSet = permitted.intersection(&needed).copied().collect();
        let _ = caps::set(None, CapSet::Effective, &kept);
        let _ = caps::set(None, CapSet::Permitted, &kept);
        let _ = caps::clear(None, CapSet::Inheritable);
    }
}

/// The largest command line that is read, in bytes; the kernel's own limit on one is larger.
const MAX_COMMAND_LINE: u64 = 1 << 20;

/// The words that this process's parent was started with, after its name.
///
/// # Errors
/// `ESRCH` when the parent is gone, or is in a process namespace that cannot be seen from here.
pub fn parent_words() -> io::Result<Vec<OsString>> {
    let gone = || io::Error::from(Errno::SRCH);
    let parent = getppid().ok_or_else(gone)?;
    let mut line = Vec::new();
    std::fs::File::open(format!("/proc/{}/cmdline", parent.as_raw_nonzero()))?
        .take(MAX_COMMAND_LINE)
        .read_to_end(&mut line)?;
    // A parent that ends leaves its children to another one: until now the number was its own.
    if getppid() != Some(parent) {
        return Err(gone());
    }
    let words = line.split(|b| *b == 0).map(|w| OsString::from_vec(w.to_vec()));
    let mut words: Vec<OsString> = words.skip(1).collect();
    // Each word ends in a zero, so the last one found is what follows the last zero.
    words.pop();
    Ok(words)
}

/// Makes files from now on as the root of a container's user namespace: a file system of that namespace
/// takes no inode of a user it does not know, and what stays in the image layer belongs to the container.
pub fn make_files_as(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: changes a number of this thread; reports nothing but the previous number.
    unsafe { libc::setfsgid(gid) };
    // SAFETY: as above.
    unsafe { libc::setfsuid(uid) };
    // Asked with a number that is none, they only tell the present one (setfsuid(2)).
    // SAFETY: as above.
    let group = unsafe { libc::setfsgid(u32::MAX) };
    // SAFETY: as above.
    let user = unsafe { libc::setfsuid(u32::MAX) };
    if (user.cast_unsigned(), group.cast_unsigned()) != (uid, gid) {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    // Leaving user 0 took the file capabilities out of the effective set (capabilities(7)).
    let permitted = caps::read(None, CapSet::Permitted).map_err(io::Error::other)?;
    caps::set(None, CapSet::Effective, &permitted).map_err(io::Error::other)
}

fn ensure_standard_descriptors() -> io::Result<()> {
    loop {
        let fd = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty())?;
        if fd.as_raw_fd() > 2 {
            return Ok(());
        }
        std::mem::forget(fd);
    }
}

fn close_one_by_one() {
    // Before Linux 5.9. 1024 is the soft limit that every runtime starts a hook with.
    for fd in 3..1024 {
        // SAFETY: as in `isolate`: nothing in this process owns them.
        unsafe { libc::close(fd) };
    }
}
