//! Measures a test's peak of allocated memory, to prove that no parser allocates by an unchecked
//! length field.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, with a count for each thread.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    /// Bytes that are allocated now, and their maximum.
    static BYTES: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// Runs `work` and returns the most bytes that this thread had allocated in it.
pub(crate) fn peak(work: impl FnOnce()) -> usize {
    BYTES.set((0, 0));
    work();
    BYTES.get().1
}

fn count(more: usize, less: usize) {
    let (now, most) = BYTES.get();
    // Blocks from before the count may be freed in it.
    let now = (now + more).saturating_sub(less);
    BYTES.set((now, most.max(now)));
}

// SAFETY: each call goes to the system's allocator unchanged; counting allocates nothing.
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
