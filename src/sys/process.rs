//! This process's inheritance and rights: descriptors, umask, capabilities, limits.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::ffi::OsStringExt as _;
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getppid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

use super::held::{close_gathered, close_range, gather, try_close_range};
use super::root::own_fds_are_open;
use super::seccomp;

/// Drops everything that the process inherited and a hook must not use. Closes descriptors above
/// standard error, opens missing standard ones on `/dev/null`, and sets working directory, umask
/// and `no_new_privs`. Clears "dumpable", so that no other process of this user may trace this one
/// in a container's namespace. From then on the process closes the descriptors of lookups together
/// ([`gather`]).
///
/// # Errors
/// Those of the kernel; `EBUSY` if this process has opened the directory of its descriptors, which
/// would be closed.
pub fn isolate() -> io::Result<()> {
    if own_fds_are_open() {
        return Err(Errno::BUSY.into());
    }
    cut_off()?;
    gather();
    Ok(())
}

fn cut_off() -> io::Result<()> {
    ensure_standard_descriptors()?;
    close_inherited();
    rustix::process::chdir(c"/")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

/// The umask that this process was started with.
static INHERITED: OnceLock<Mode> = OnceLock::new();

/// Sets the umask so that files get the mode that the program gives them. Otherwise a caller's
/// umask could make a CDI specification unreadable, or writable for others. An ordinary user's own
/// restrictions stay.
pub fn set_umask() {
    let ours = Mode::from_raw_mode(0o022);
    let inherited = rustix::process::umask(ours);
    if !rustix::process::geteuid().is_root() {
        rustix::process::umask(inherited | ours);
    }
    // Only the first call sees the caller's umask.
    let _ = INHERITED.set(inherited);
}

/// Restores the caller's umask, for a program that replaces this one.
pub fn restore_umask() {
    if let Some(inherited) = INHERITED.get() {
        rustix::process::umask(*inherited);
    }
}

/// Closes every descriptor but the standard ones. A hook calls it before it opens anything.
fn close_inherited() {
    if try_close_range(3, RawFd::MAX).is_err() && close_listed().is_err() {
        close_range(3, RawFd::MAX);
    }
}

/// Closes the descriptors that procfs lists: one may be above the limit, if the limit was lowered
/// after its opening.
fn close_listed() -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open("/proc/self/fd", flags, Mode::empty())?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut listed = RawDir::new(&dir, &mut buffer);
    let mut numbers = Vec::new();
    while let Some(entry) = listed.next() {
        let number = entry?.file_name().to_str().map(str::parse::<RawFd>);
        numbers.extend(number.into_iter().flatten().filter(|fd| *fd > 2));
    }
    drop(dir);
    for fd in numbers {
        // SAFETY: as for `close_inherited`: nothing owns it.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// Closes every descriptor but the standard ones and `kept`. For a process that never uses or drops
/// any other.
pub(super) fn close_all_but(kept: &[RawFd]) {
    // A number that is closed here must not be closed again later, under a new owner.
    close_gathered();
    let mut kept = kept.to_vec();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept {
        close_range(first, fd - 1);
        first = first.max(fd + 1);
    }
    close_range(first, RawFd::MAX);
}

/// The capabilities for opening sources, changing the device cgroup and entering the container. The
/// hook drops all others once it has discovered the host.
const NEEDED: CapabilitySet = union(&[
    // setfsuid and setfsgid to the root of a container's user namespace.
    CapabilitySet::SETGID,
    CapabilitySet::SETUID,
    // Mounts, setns, bpf on kernels before 5.8.
    CapabilitySet::SYS_ADMIN,
    // setns into a mount namespace.
    CapabilitySet::SYS_CHROOT,
    // The rootfs may belong to any user.
    CapabilitySet::DAC_OVERRIDE,
    CapabilitySet::DAC_READ_SEARCH,
    CapabilitySet::FOWNER,
    // bpf programs of type cgroup/dev are loaded with CAP_SYS_ADMIN or CAP_BPF + CAP_NET_ADMIN.
    CapabilitySet::NET_ADMIN,
    // /proc/PID/ns/mnt of a process with another user or capability set.
    CapabilitySet::SYS_PTRACE,
]);

/// The capabilities for work in the container: mounts, and a rootfs that may belong to any user.
const NEEDED_INSIDE: CapabilitySet = union(&[
    CapabilitySet::SYS_ADMIN,
    CapabilitySet::DAC_OVERRIDE,
    CapabilitySet::DAC_READ_SEARCH,
    CapabilitySet::FOWNER,
]);

/// The capabilities of the reading child until it is confined: to enter a mount namespace, clone a
/// mount and become another user.
const NEEDED_TO_ENTER: CapabilitySet = union(&[
    CapabilitySet::DAC_READ_SEARCH,
    CapabilitySet::SETGID,
    CapabilitySet::SETUID,
    CapabilitySet::SYS_ADMIN,
    CapabilitySet::SYS_CHROOT,
]);

const fn union(each: &[CapabilitySet]) -> CapabilitySet {
    let mut all = CapabilitySet::empty();
    let mut rest = each;
    while let [first, others @ ..] = rest {
        all = all.union(*first);
        rest = others;
    }
    all
}

/// Drops every capability that `NEEDED` does not list, and the whole bounding set.
pub fn drop_capabilities() {
    // An error is no harm: a process that may not drop a capability does not have the right to use
    // it.
    let _ = clear_ambient_capability_set();
    for number in 0..u64::BITS {
        // The kernel has no capability of this number or a higher one, or the process may drop
        // none.
        if remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)).is_err() {
            break;
        }
    }
    keep(NEEDED);
}

/// Seconds after which a signal ends a process that works in a container; an injection takes
/// milliseconds. A file system of the image (FUSE, NFS) may never answer, and only a deadly signal
/// ends such a wait.
const DEADLINE: u32 = 30;

/// The largest file that is written in a container, in bytes: a loader cache or a record.
const MAX_FILE: u64 = 256 << 20;

/// The largest address space, in bytes: several times the largest cache and configuration that are
/// read.
const MAX_MEMORY: u64 = 2 << 30;

/// Confines the process to its work in the container, before it touches anything of it: four
/// capabilities, bounds on time, memory and files, and a filter against programs, sockets, other
/// processes and namespaces. It cannot be undone. No descriptor of a finished lookup stays open.
pub fn confine() {
    close_gathered();
    keep(NEEDED_INSIDE);
    end_after(DEADLINE);
    // A file beyond the limit becomes an error instead of the process's end.
    // SAFETY: no handler is set, so no code of ours runs in a signal.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let bounds = [
        (Resource::Core, 0),
        (Resource::Cpu, u64::from(DEADLINE)),
        (Resource::Fsize, MAX_FILE),
        (Resource::As, MAX_MEMORY),
    ];
    for (resource, most) in bounds {
        bound(resource, most);
    }
    // A kernel without seccomp filters still has the other bounds.
    let _ = seccomp::refuse_unneeded_calls();
}

/// Kills the process after so many seconds, even if hostile code runs in it: SIGKILL cannot be
/// ignored or blocked.
pub(super) fn kill_after(seconds: u32) {
    // A kernel without such timers sends SIGALRM, which hostile code could ignore.
    if kill_timer(seconds).is_err() {
        end_after(seconds);
    }
    bound(Resource::Cpu, u64::from(seconds));
}

fn kill_timer(seconds: u32) -> io::Result<()> {
    // SAFETY: a struct of numbers, for which zeros are values.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_SIGNAL;
    event.sigev_signo = libc::SIGKILL;
    let mut timer = std::ptr::null_mut();
    // SAFETY: live structs; the timer is this process's and ends with it.
    if unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    let mut when: libc::itimerspec = unsafe { std::mem::zeroed() };
    when.it_value.tv_sec = seconds.into();
    // SAFETY: the timer from above and a live struct; the old time is not requested.
    match unsafe { libc::timer_settime(timer, 0, &raw const when, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends the process by SIGALRM after so many seconds. It resets the signal's action and mask, since
/// both may be inherited.
fn end_after(seconds: u32) {
    // SAFETY: the default action, no handler.
    unsafe { libc::signal(libc::SIGALRM, libc::SIG_DFL) };
    let mut alarm = MaybeUninit::uninit();
    // SAFETY: fills the set that it is given.
    unsafe { libc::sigemptyset(alarm.as_mut_ptr()) };
    // SAFETY: a set that was filled.
    let mut alarm = unsafe { alarm.assume_init() };
    // SAFETY: a live set and a valid signal number.
    unsafe { libc::sigaddset(&raw mut alarm, libc::SIGALRM) };
    // SAFETY: a live set; the old mask is not requested.
    unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, &raw const alarm, std::ptr::null_mut()) };
    // SAFETY: sets a timer of this process, whose signal's default action ends it.
    unsafe { libc::alarm(seconds) };
}

/// Gives the signals of a terminal and of a stopping service no effect from now on. Programs that
/// this one starts still end by them, which they would not if the signals were ignored or blocked.
pub fn disregard_stops() {
    extern "C" fn nothing(_: libc::c_int) {}
    for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler does nothing, so it may run at any time.
        unsafe { libc::signal(signal, nothing as *const () as libc::sighandler_t) };
    }
}

/// Lowers a limit of the process to `most`.
pub(super) fn bound(resource: Resource, most: u64) {
    let set = |current, maximum| {
        let limit = Rlimit {
            current: Some(current),
            maximum: Some(maximum),
        };
        rustix::process::prlimit(None, resource, limit)
    };
    // The kernel always allows lowering; a seccomp profile that refuses it is no reason to fail.
    if let Ok(before) = set(most, most) {
        let lower = [before.current, before.maximum].map(|limit| limit.map_or(most, |l| l.min(most)));
        if lower != [most, most] {
            let _ = set(lower[0], lower[1]);
        }
    }
}

/// Keeps the capabilities for entering a mount namespace, cloning a mount and becoming another
/// user, and that of [`keep_to_read`].
pub(super) fn keep_to_enter() {
    keep(NEEDED_TO_ENTER);
}

/// Lets a fault (SIGSEGV, SIGBUS) end the process without Rust's handler.
pub(super) fn end_at_faults() {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: the default action, no handler.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Keeps the one capability for reading files of any user.
pub(super) fn keep_to_read() {
    keep(CapabilitySet::DAC_READ_SEARCH);
}

fn keep(needed: CapabilitySet) {
    if let Ok(have) = capabilities(None) {
        let kept = have.permitted & needed;
        let _ = set_capabilities(
            None,
            CapabilitySets {
                effective: kept,
                permitted: kept,
                inheritable: CapabilitySet::empty(),
            },
        );
    }
}

/// The largest command line that is read, in bytes; the kernel's own limit is larger.
const MAX_COMMAND_LINE: u64 = 1 << 20;

/// The arguments of this process's parent, without its name.
///
/// # Errors
/// `ESRCH` if the parent has ended or is in a process namespace that is not visible from here.
pub fn parent_args() -> io::Result<Vec<OsString>> {
    let gone = || io::Error::from(Errno::SRCH);
    let parent = getppid().ok_or_else(gone)?;
    let mut line = Vec::new();
    std::fs::File::open(format!("/proc/{}/cmdline", parent.as_raw_nonzero()))?
        .take(MAX_COMMAND_LINE)
        .read_to_end(&mut line)?;
    // When a parent ends, its children get another one: until now the number was its own.
    if getppid() != Some(parent) {
        return Err(gone());
    }
    let words = line.split(|b| *b == 0).map(|w| OsString::from_vec(w.to_vec()));
    let mut words: Vec<OsString> = words.skip(1).collect();
    // Each argument ends in a zero, so the last piece follows the last zero.
    words.pop();
    Ok(words)
}

/// Makes later files belong to the root of a container's user namespace. A file system of that
/// namespace refuses an inode of a user that it does not map.
///
/// # Errors
/// `EPERM` if the kernel does not take the ids.
pub fn make_files_as(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: changes a number of this thread and reports only the previous one.
    unsafe { libc::setfsgid(gid) };
    // SAFETY: as above.
    unsafe { libc::setfsuid(uid) };
    // With an invalid number both calls return the present one (setfsuid(2)).
    // SAFETY: as above.
    let group = unsafe { libc::setfsgid(u32::MAX) };
    // SAFETY: as above.
    let user = unsafe { libc::setfsuid(u32::MAX) };
    if (user.cast_unsigned(), group.cast_unsigned()) != (uid, gid) {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    // Leaving user 0 removed the file capabilities from the effective set (capabilities(7)).
    let have = capabilities(None)?;
    let raised = CapabilitySets {
        effective: have.permitted,
        ..have
    };
    Ok(set_capabilities(None, raised)?)
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

#[cfg(test)]
mod tests {
    use super::super::seccomp::in_child;
    use super::*;
    use rustix::process::{DumpableBehavior, dumpable_behavior};

    #[test]
    fn isolated() {
        assert!(in_child(|| {
            let mut pipe = [0; 2];
            // SAFETY: `pipe` has room for two descriptors.
            let made = unsafe { libc::pipe(pipe.as_mut_ptr()) };
            // SAFETY: reads a descriptor's flags and changes nothing.
            let open = |fd: i32| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0;
            let before =
                made == 0 && open(pipe[0]) && matches!(dumpable_behavior(), Ok(DumpableBehavior::Dumpable));
            before
                && cut_off().is_ok()
                && !open(pipe[0])
                && !open(pipe[1])
                && matches!(dumpable_behavior(), Ok(DumpableBehavior::NotDumpable))
                && rustix::thread::no_new_privs().unwrap_or(false)
        }));
    }

    /// A limit that was lowered later leaves descriptors above it.
    #[test]
    fn nothing_inherited_stays_without_close_range() {
        assert!(in_child(|| {
            let raised = Rlimit {
                current: Some(4096),
                maximum: Some(4096),
            };
            let _ = rustix::process::setrlimit(Resource::Nofile, raised);
            // SAFETY: makes a descriptor that no value owns.
            let high = unsafe { libc::dup2(0, 4000) } == 4000;
            // SAFETY: reads a descriptor's flags and changes nothing.
            let open = |fd: i32| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0;
            high && close_listed().is_ok() && !open(4000) && open(0) && open(2)
        }));
    }

    #[test]
    fn the_umask_is_ours_until_it_is_given_back() {
        assert!(in_child(|| {
            let caller = Mode::from_raw_mode(0o077);
            rustix::process::umask(caller);
            set_umask();
            let ours = rustix::process::umask(Mode::from_raw_mode(0o022));
            let wanted = if rustix::process::geteuid().is_root() {
                0o022
            } else {
                0o077
            };
            restore_umask();
            ours.as_raw_mode() == wanted && rustix::process::umask(caller) == caller
        }));
    }

    #[test]
    fn nothing_of_ours_is_closed_under_us() {
        assert!(in_child(|| {
            super::super::root::own_fds().is_ok()
                && isolate().is_err_and(|e| e.raw_os_error() == Some(libc::EBUSY))
        }));
    }

    #[test]
    fn confined() {
        assert!(in_child(|| {
            let unbounded = rustix::process::getrlimit(Resource::Fsize).current.is_none();
            rustix::thread::set_no_new_privs(true).is_ok() && {
                confine();
                let after = rustix::process::getrlimit(Resource::Fsize).current;
                let socket = Errno::from_io_error(&match std::os::unix::net::UnixDatagram::unbound() {
                    Ok(_) => return false,
                    Err(e) => e,
                });
                unbounded && after == Some(MAX_FILE) && socket == Some(Errno::PERM)
            }
        }));
    }
}
