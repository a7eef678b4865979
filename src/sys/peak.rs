//! How much memory one test allocates: no parser believes a length field before the bytes are there.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, with a count for each thread.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    /// Bytes that are allocated, and the most that were.
    static BYTES: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// Runs `work` and returns the most bytes that this thread had allocated meanwhile, beyond those before.
pub(crate) fn peak(work: impl FnOnce()) -> usize {
    BYTES.set((0, 0));
    work();
    BYTES.get().1
}

fn count(more: usize, less: usize) {
    let (now, most) = BYTES.get();
    // What was allocated before the count began may be freed.
    let now = (now + more).saturating_sub(less);
    BYTES.set((now, most.max(now)));
}

// SAFETY: each call is handed to the system's allocator as it is; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.realloc(block, layout, size) }
    }
}
