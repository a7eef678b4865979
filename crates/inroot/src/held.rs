//! Descriptors that are closed in few calls.
//!
//! A container's start makes a hundred lookups, each with a descriptor of its own. After
//! [`gather`], a dropped [`Held`] stays open until [`close_gathered`], which closes each run of
//! adjacent numbers in one call. A process calls it before it forks, and before it enters a place
//! from which what it has dropped must be out of reach.
//!
//! Only descriptors whose end has no effect are gathered: `O_PATH`, directories, and files of the
//! kernel. The content of an image's file is read through a descriptor that is closed at once,
//! since a FUSE server may hold its closing, and a process that ends cannot be killed out of that.

use std::io;
use std::mem::{ManuallyDrop, take};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// The most descriptors that are gathered. A process may have 1024.
const MAX_GATHERED: usize = 64;

/// Whether dropped descriptors are gathered.
static GATHERS: AtomicBool = AtomicBool::new(false);

static GATHERED: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());

/// A descriptor whose end has no effect but that it is closed.
#[derive(Debug)]
pub(crate) struct Held(ManuallyDrop<OwnedFd>);

impl Held {
    pub(crate) fn into_fd(self) -> OwnedFd {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is neither used again nor dropped.
        unsafe { ManuallyDrop::take(&mut this.0) }
    }
}

impl From<OwnedFd> for Held {
    fn from(fd: OwnedFd) -> Self {
        Self(ManuallyDrop::new(fd))
    }
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: the value is being dropped, so nothing uses the field again.
        let fd = unsafe { ManuallyDrop::take(&mut self.0) };
        if !GATHERS.load(Ordering::Relaxed) {
            return;
        }
        let mut gathered = GATHERED.lock().unwrap_or_else(PoisonError::into_inner);
        gathered.push(fd);
        if gathered.len() >= MAX_GATHERED {
            close_together(take(&mut gathered));
        }
    }
}

/// From now on this process gathers the descriptors of lookups.
pub fn gather() {
    GATHERS.store(true, Ordering::Relaxed);
}

/// Closes the gathered descriptors.
pub fn close_gathered() {
    close_together(take(
        &mut *GATHERED.lock().unwrap_or_else(PoisonError::into_inner),
    ));
}

/// Closes descriptors, each run of adjacent numbers in one call.
pub fn close_together(fds: Vec<OwnedFd>) {
    let mut numbers: Vec<RawFd> = fds.into_iter().map(OwnedFd::into_raw_fd).collect();
    numbers.sort_unstable();
    debug_assert!(
        numbers.windows(2).all(|pair| pair[0] != pair[1]),
        "a number was closed and is gathered again: {numbers:?}"
    );
    for run in numbers.chunk_by(|a, b| a + 1 == *b) {
        if let (Some(first), Some(last)) = (run.first(), run.last()) {
            // `fds` owned each number in this range, and nothing else does.
            close_range(*first, *last);
        }
    }
}

/// Closes the descriptors `first` to `last`, which nothing uses any more.
pub fn close_range(first: RawFd, last: RawFd) {
    if first > last || try_close_range(first, last).is_ok() {
        return;
    }
    // 1024 is the soft limit with which every runtime starts a hook, and our own descriptors have
    // the lowest numbers.
    for fd in first..=last.min(1023) {
        // SAFETY: the caller guarantees that nothing uses it any more.
        unsafe { libc::close(fd) };
    }
}

/// As [`close_range`].
///
/// # Errors
/// `ENOSYS` before Linux 5.9, or the error of a seccomp filter that does not allow the call.
pub fn try_close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    // SAFETY: the caller guarantees that nothing uses them any more.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0_u32) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
