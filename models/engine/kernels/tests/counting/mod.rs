//! How often a thread asks for memory. The engine's tests include this file too.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, and how often this thread asked it: what runs the tests has a thread of its own.
struct Counting;
thread_local! {
    static ASKED: Cell<usize> = const { Cell::new(0) };
}
#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: every call is the system's, whose promises these are.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}

/// How often `work` asks for memory, on this thread.
pub(crate) fn asked(work: impl FnOnce()) -> usize {
    let before = ASKED.get();
    work();
    ASKED.get() - before
}
