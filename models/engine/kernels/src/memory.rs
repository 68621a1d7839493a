//! Memory that was freed.

/// Gives freed memory back to the system, which the allocator otherwise keeps for the next request: worth its milliseconds after
/// something large that is not done again soon. They are this thread's then: of mimalloc it is the first thread that frees anything a second
/// later who pays, 10 ms for 100 MB.
///
/// Both allocators that our programs use are asked; the other one has nothing.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: this is glibc's own declaration; any number may be given, and only memory that nothing uses is touched.
        unsafe extern "C" {
            safe fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        // Whether anything was given back.
        let _: i32 = malloc_trim(0);
    }
    #[cfg(feature = "mimalloc")]
    {
        // Brings the library along.
        use mimalloc as _;
        // SAFETY: this is mimalloc's own declaration; any thread may call it, and only memory that nothing uses is touched.
        unsafe extern "C" {
            safe fn mi_collect(force: bool);
        }
        mi_collect(true);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
    fn what_was_freed_is_gone_from_the_process() {
        const PIECES: usize = 4096;
        const PIECE_BYTES: usize = 16 << 10;
        let resident = || {
            let text = std::fs::read_to_string("/proc/self/statm").unwrap();
            text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
        };
        let mut pieces: Vec<Vec<u8>> = (0..PIECES).map(|_| vec![1; PIECE_BYTES]).collect();
        // The last piece keeps the heap from shrinking by itself.
        pieces.drain(..PIECES - 1);
        let before = resident();
        super::give_back();
        assert!(
            resident() + PIECES * PIECE_BYTES / 2 < before,
            "{before} and then {}",
            resident()
        );
        drop(pieces);
    }
}
