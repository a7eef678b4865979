//! The process itself: what it inherits and what it may do.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, IntoRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt as _;
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getppid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

use super::root::own_fds_are_open;
use super::seccomp;

/// Cuts the process off from what it inherited: descriptors beyond standard error are closed at exec
/// and by us, missing standard descriptors become `/dev/null`, the working directory is `/`, no file
/// is ever left group- or world-writable by a lax umask, and no other process of the same user may
/// look into this one once it enters a container's namespace.
///
/// # Errors
/// Whatever the kernel says; `EBUSY` when something of this process holds a descriptor already, which would be closed
/// under it.
pub fn isolate() -> io::Result<()> {
    if own_fds_are_open() {
        return Err(Errno::BUSY.into());
    }
    cut_off()
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

/// From here on what is made has the mode that is asked for, whatever the caller's umask: others must be able to read a CDI
/// specification, and nobody else to write one. An ordinary user's own restrictions stay.
pub fn set_umask() {
    let ours = Mode::from_raw_mode(0o022);
    let inherited = rustix::process::umask(ours);
    if !rustix::process::geteuid().is_root() {
        rustix::process::umask(inherited | ours);
    }
    // Only the first call sees the caller's.
    let _ = INHERITED.set(inherited);
}

/// Gives the caller's umask back, for a program that takes this one's place.
pub fn restore_umask() {
    if let Some(inherited) = INHERITED.get() {
        rustix::process::umask(*inherited);
    }
}

/// Closes every descriptor but the standard ones. Nothing in this process owns one yet: this is the first thing that a hook
/// does.
fn close_inherited() {
    if try_close_range(3, RawFd::MAX).is_err() && close_listed().is_err() {
        close_range(3, RawFd::MAX);
    }
}

/// Closes what the process's own procfs lists: a descriptor may be above the limit, which was another when it was made.
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
        // SAFETY: as of `close_inherited`: nothing owns it.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// Closes every descriptor but the standard ones and those of `kept`. For a process in which nothing else is owned, or
/// ever used again by its owner.
pub(super) fn close_all_but(kept: &[RawFd]) {
    let mut kept = kept.to_vec();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept {
        close_range(first, fd - 1);
        first = first.max(fd + 1);
    }
    close_range(first, RawFd::MAX);
}

/// Closes descriptors, neighbours in one call.
pub(crate) fn close_together(fds: Vec<OwnedFd>) {
    let mut numbers: Vec<RawFd> = fds.into_iter().map(OwnedFd::into_raw_fd).collect();
    numbers.sort_unstable();
    for run in numbers.chunk_by(|a, b| a + 1 == *b) {
        if let (Some(first), Some(last)) = (run.first(), run.last()) {
            // Each number in between was owned by `fds`, and by nothing else.
            close_range(*first, *last);
        }
    }
}

fn close_range(first: RawFd, last: RawFd) {
    if first > last {
        return;
    }
    if try_close_range(first, last).is_ok() {
        return;
    }
    // 1024 is the soft limit that every runtime starts a hook with, and what is ours has the lowest numbers.
    for fd in first..=last.min(1023) {
        // SAFETY: as the caller says, nothing uses it any more.
        unsafe { libc::close(fd) };
    }
}

/// Fails before Linux 5.9, and behind a filter that does not know the call.
fn try_close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    // SAFETY: as the caller says, nothing uses them any more.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0_u32) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The capabilities that are needed once the host has been looked at: to open sources, to change the device cgroup, to
/// enter the container. All others are given up.
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

/// The capabilities that remain for work in the container: mounts, and a rootfs that may belong to any user.
const NEEDED_INSIDE: CapabilitySet = union(&[
    CapabilitySet::SYS_ADMIN,
    CapabilitySet::DAC_OVERRIDE,
    CapabilitySet::DAC_READ_SEARCH,
    CapabilitySet::FOWNER,
]);

/// What entering a mount namespace, copying a mount, becoming another user and then reading take.
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

/// Drops every capability that [`NEEDED`] does not list, and the whole bounding set.
pub fn drop_capabilities() {
    // Best effort by design: a process without these rights has nothing to drop.
    let _ = clear_ambient_capability_set();
    for number in 0..u64::BITS {
        // The kernel has no capability of that number, nor of a greater one, or this process may drop none.
        if remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)).is_err() {
            break;
        }
    }
    keep(NEEDED);
}

/// Seconds after which work in a container that has not ended is given up, and the process with it: a file system of the
/// image may never answer (FUSE, NFS), and then only a deadly signal ends the wait. An injection takes milliseconds.
const DEADLINE: u32 = 30;

/// The largest file that is written in a container, in bytes: a loader cache, a record.
const MAX_FILE: u64 = 256 << 20;

/// The largest address space, in bytes: the largest cache and configuration that are read, several times over.
const MAX_MEMORY: u64 = 2 << 30;

/// Narrows the process to what work in the container needs, right before anything of the container is looked at: four
/// capabilities, bounds on time, memory and files, and a filter that takes away programs, sockets, other processes and
/// namespaces. There is no way back.
pub fn confine() {
    keep(NEEDED_INSIDE);
    end_after(DEADLINE);
    // A file that would be too large is an error to report, not the end.
    // SAFETY: no handler, so nothing runs at any odd moment.
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
    // A kernel without filters has the other bounds.
    let _ = seccomp::refuse_what_is_not_needed();
}

/// Kills the process after so many seconds, whatever it waits for and whatever its code has become:
/// SIGKILL cannot be ignored or blocked.
pub(super) fn kill_after(seconds: u32) {
    // Without timers of that kind, a signal: code that may change its own signals could outlive it.
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
    // SAFETY: the timer that was just made, and a live struct; the old time is not asked for.
    match unsafe { libc::timer_settime(timer, 0, &raw const when, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends the process by signal after so many seconds, whatever it waits for and whoever has started it: what is ignored or
/// blocked is inherited.
fn end_after(seconds: u32) {
    // SAFETY: the default action, no handler.
    unsafe { libc::signal(libc::SIGALRM, libc::SIG_DFL) };
    let mut alarm = MaybeUninit::uninit();
    // SAFETY: fills the set that it is given.
    unsafe { libc::sigemptyset(alarm.as_mut_ptr()) };
    // SAFETY: a set that was filled.
    let mut alarm = unsafe { alarm.assume_init() };
    // SAFETY: a live set and a signal that there is.
    unsafe { libc::sigaddset(&raw mut alarm, libc::SIGALRM) };
    // SAFETY: a live set; the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, &raw const alarm, std::ptr::null_mut()) };
    // SAFETY: sets a timer of this process; the default action of its signal, the end, is what is wanted.
    unsafe { libc::alarm(seconds) };
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
    // Lowering is always allowed; a seccomp profile that says otherwise is no reason to refuse.
    if let Ok(before) = set(most, most) {
        let lower = [before.current, before.maximum].map(|limit| limit.map_or(most, |l| l.min(most)));
        if lower != [most, most] {
            let _ = set(lower[0], lower[1]);
        }
    }
}

/// Keeps what entering a mount namespace, copying a mount and becoming another user take, and
/// [`keep_to_read`].
pub(super) fn keep_to_enter() {
    keep(NEEDED_TO_ENTER);
}

/// A fault of the process's own code ends it, whatever handler the runtime of the language has for
/// that.
pub(super) fn end_at_faults() {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: the default action, no handler.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Keeps the one capability that reading the files of any user takes.
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
            // SAFETY: asks for a descriptor's flags, changes nothing.
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
            // SAFETY: asks for a descriptor's flags, changes nothing.
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
