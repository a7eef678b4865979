//! Memory for a process that lives a few milliseconds.
//!
//! musl's allocator gives pages back to the kernel as soon as a few small blocks are free, and takes them again for
//! the next: a hook spent a twentieth of its time in `mmap`, `munmap` and the page faults after them.
//!
//! | block | from | when it is freed |
//! |---|---|---|
//! | up to 16 KiB | a fixed space of 1 MiB, whose untouched pages cost nothing | kept for the next of its size |
//! | from 128 KiB | a mapping of its own, with its pages: no fault for each | unmapped |
//! | all others, and what the space has no room for | musl | musl's business |
//!
//! So a command that needs much memory has no more than that 1 MiB beside what musl would give it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};

const SPACE: usize = 1 << 20;
const SMALLEST: usize = 16;
const LARGEST: usize = 16 << 10;
/// Sizes are powers of two.
const CLASSES: usize = (LARGEST / SMALLEST).ilog2() as usize + 1;
const MAPPED: usize = 128 << 10;

/// The program's allocator.
#[derive(Debug)]
pub struct Arena {
    busy: AtomicBool,
    state: UnsafeCell<State>,
    space: Space,
}

#[derive(Debug)]
struct State {
    /// Where the space that was never used begins.
    next: usize,
    /// Free blocks by class; each holds the address of the next.
    free: [Option<NonNull<Free>>; CLASSES],
}

#[derive(Debug)]
struct Free {
    next: Option<NonNull<Self>>,
}

#[derive(Debug)]
#[repr(C, align(16))]
struct Space(UnsafeCell<[u8; SPACE]>);

// SAFETY: `state`, and the free blocks that it leads to, are only touched while `busy` is held; a block that is in
// use belongs to whom it was given.
unsafe impl Sync for Arena {}

/// Who has a block, by what was asked for: the same for the request and the return.
enum Keeper {
    Class(usize),
    Mapping,
    System,
}

impl Keeper {
    fn of(layout: Layout) -> Self {
        match layout.size() {
            _ if layout.align() > SMALLEST => Self::System,
            size if size <= LARGEST => Self::Class(class(size)),
            size if size >= MAPPED => Self::Mapping,
            _ => Self::System,
        }
    }
}

fn class(size: usize) -> usize {
    (size.max(SMALLEST).next_power_of_two() / SMALLEST).ilog2() as usize
}

impl Arena {
    /// An allocator with all of its space free.
    #[expect(
        clippy::new_without_default,
        reason = "for a static, which takes no trait's method"
    )]
    #[expect(clippy::large_stack_arrays, reason = "for a static: it is never on a stack")]
    pub const fn new() -> Self {
        Self {
            busy: AtomicBool::new(false),
            state: UnsafeCell::new(State {
                next: 0,
                free: [None; CLASSES],
            }),
            space: Space(UnsafeCell::new([0; SPACE])),
        }
    }

    /// Calls `f` with the state, which is nobody else's meanwhile.
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        // Threads are rare here, and what they wait for is a few instructions long.
        while self.busy.swap(true, Ordering::Acquire) {
            std::hint::spin_loop();
        }
        // SAFETY: `busy` is held by us alone, and `f` cannot come back here: it allocates nothing.
        let result = f(unsafe { &mut *self.state.get() });
        self.busy.store(false, Ordering::Release);
        result
    }

    fn base(&self) -> *mut u8 {
        self.space.0.get().cast()
    }

    fn owns(&self, block: *mut u8) -> bool {
        block.addr().wrapping_sub(self.base().addr()) < SPACE
    }

    /// A block of a class; null when the space is used up.
    fn take(&self, class: usize) -> *mut u8 {
        self.with(|state| {
            if let Some(free) = state.free[class] {
                // SAFETY: blocks of the list are free, and hold what `give` wrote.
                state.free[class] = unsafe { free.read() }.next;
                return free.as_ptr().cast();
            }
            let start = state.next;
            let end = start + (SMALLEST << class);
            if end > SPACE {
                return ptr::null_mut();
            }
            state.next = end;
            // SAFETY: `start` is inside the space.
            unsafe { self.base().add(start) }
        })
    }

    fn give(&self, class: usize, block: NonNull<Free>) {
        self.with(|state| {
            let next = state.free[class].replace(block);
            // SAFETY: the block was of this class, so it is large and aligned enough, and is nobody's now.
            unsafe { block.write(Free { next }) };
        });
    }
}

// SAFETY: blocks are disjoint, of at least the size and alignment asked for (classes are multiples of 16 from a base
// that is one), and stay until they are given back to who they came from.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match Keeper::of(layout) {
            Keeper::Class(class) => {
                let block = self.take(class);
                if !block.is_null() {
                    return block;
                }
            }
            Keeper::Mapping => return map(layout.size()),
            Keeper::System => {}
        }
        // SAFETY: the caller's own layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match (Keeper::of(layout), NonNull::new(block)) {
            (Keeper::Class(class), Some(free)) if self.owns(block) => self.give(class, free.cast()),
            (Keeper::Mapping, _) => {
                // SAFETY: the mapping that `map` made for a block of this size, which nobody uses any more.
                unsafe { libc::munmap(block.cast(), layout.size()) };
            }
            // SAFETY: what is neither came from there, with this layout.
            _ => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if let Keeper::Mapping = Keeper::of(layout) {
            return map(layout.size());
        }
        // SAFETY: the caller's own layout.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() {
            // SAFETY: a new block of that size.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller vouches for a size that is no more than isize::MAX when rounded up.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (Keeper::of(layout), Keeper::of(wanted)) {
            (Keeper::Class(old), Keeper::Class(new)) if old == new => return block,
            (Keeper::Mapping, Keeper::Mapping) => {
                // SAFETY: the mapping that `map` made for a block of the old size.
                let moved = unsafe { libc::mremap(block.cast(), layout.size(), size, libc::MREMAP_MAYMOVE) };
                return if moved == libc::MAP_FAILED {
                    ptr::null_mut()
                } else {
                    moved.cast()
                };
            }
            (Keeper::System, Keeper::System) => {
                // SAFETY: it came from there, with this layout.
                return unsafe { System.realloc(block, layout, size) };
            }
            _ => {}
        }
        // SAFETY: the layout was made above.
        let new = unsafe { self.alloc(wanted) };
        if !new.is_null() {
            let kept = layout.size().min(size);
            // SAFETY: two blocks that are both in use, of at least that size.
            unsafe { ptr::copy_nonoverlapping(block, new, kept) };
            // SAFETY: the caller's block, which nobody uses any more.
            unsafe { self.dealloc(block, layout) };
        }
        new
    }
}

/// A mapping with its pages; null when there is no memory.
fn map(size: usize) -> *mut u8 {
    // What asks for much at once may never use all of it.
    const PAGES_FOR: usize = 2 << 20;
    let populate = if size <= PAGES_FOR { libc::MAP_POPULATE } else { 0 };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | populate;
    // SAFETY: new memory at a place of the kernel's choice.
    let at = unsafe {
        libc::mmap(
            ptr::null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        ptr::null_mut()
    } else {
        at.cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    static ARENA: Arena = Arena::new();

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    /// A block that knows what was written into it.
    struct Block {
        at: *mut u8,
        layout: Layout,
        mark: u8,
    }

    impl Block {
        fn new(size: usize, align: usize, mark: u8, zeroed: bool) -> Self {
            let layout = layout(size, align);
            let at = if zeroed {
                // SAFETY: a layout of some size.
                unsafe { ARENA.alloc_zeroed(layout) }
            } else {
                // SAFETY: as above.
                unsafe { ARENA.alloc(layout) }
            };
            assert!(!at.is_null() && at.addr().is_multiple_of(align));
            let block = Self { at, layout, mark };
            if zeroed {
                block.holds(0, size);
            }
            block.fill();
            block
        }

        fn fill(&self) {
            // SAFETY: a block of that size, ours.
            unsafe { self.at.write_bytes(self.mark, self.layout.size()) };
        }

        fn holds(&self, mark: u8, len: usize) {
            // SAFETY: a block of at least that size, which was written to.
            let bytes = unsafe { std::slice::from_raw_parts(self.at, len) };
            assert!(bytes.iter().all(|&b| b == mark));
        }

        fn resize(&mut self, size: usize) {
            let kept = size.min(self.layout.size());
            // SAFETY: a block of that layout, ours.
            self.at = unsafe { ARENA.realloc(self.at, self.layout, size) };
            assert!(!self.at.is_null());
            self.layout = layout(size, self.layout.align());
            self.holds(self.mark, kept);
            self.fill();
        }
    }

    impl Drop for Block {
        fn drop(&mut self) {
            self.holds(self.mark, self.layout.size());
            // SAFETY: a block of that layout, ours.
            unsafe { ARENA.dealloc(self.at, self.layout) };
        }
    }

    proptest! {
        /// Blocks of every keeper come and go and grow, and none is ever written to through another.
        #[test]
        fn blocks_do_not_overlap(
            steps in prop::collection::vec((0_usize..4, 0_usize..24, 0_u32..19, 0_usize..70, 0_u32..7), 1..200)
        ) {
            let mut blocks: Vec<Block> = Vec::new();
            for (i, (what, which, power, more, align)) in steps.into_iter().enumerate() {
                let size = (1 << power) + more;
                let mark = u8::try_from(i % 255).unwrap() + 1;
                if blocks.len() > which {
                    match what {
                        0 => drop(blocks.swap_remove(which)),
                        _ => blocks[which].resize(size),
                    }
                } else {
                    blocks.push(Block::new(size, 1 << align, mark, what == 1));
                }
            }
        }
    }

    #[test]
    fn a_freed_block_is_used_again_and_a_full_space_is_no_end() {
        static OTHER: Arena = Arena::new();
        let arena = &OTHER;
        let block = layout(LARGEST, 8);
        // SAFETY: a layout of some size.
        let first = unsafe { arena.alloc(block) };
        // SAFETY: that very block.
        unsafe { arena.dealloc(first, block) };
        let count = SPACE / LARGEST;
        // SAFETY: a layout of some size.
        let blocks: Vec<_> = (0..=count).map(|_| unsafe { arena.alloc(block) }).collect();
        assert_eq!(blocks[0], first);
        assert!(blocks[..count].iter().all(|&b| arena.owns(b)));
        assert!(!blocks[count].is_null() && !arena.owns(blocks[count]));
        for at in blocks {
            // SAFETY: each of these blocks once.
            unsafe { arena.dealloc(at, block) };
        }
    }

    #[test]
    fn threads_share_it() {
        let threads: Vec<_> = (1..5_u8)
            .map(|mark| {
                std::thread::spawn(move || {
                    let mut kept = Vec::new();
                    for i in 0..2000 {
                        kept.push(Block::new(1 << (i % 10), 1, mark, false));
                        if kept.len() > 20 {
                            kept.swap_remove(i % 20);
                        }
                    }
                })
            })
            .collect();
        assert!(threads.into_iter().all(|t| t.join().is_ok()));
    }
}
