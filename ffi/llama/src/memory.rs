//! Gives memory back to the system.

/// Let the allocator return large pieces to the system as soon as they are freed, whatever was
/// freed before. It keeps ever larger ones otherwise, and what contexts leave behind after tracing
/// a graph adds to the peak of training.
pub(crate) fn return_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn mallopt(parameter: i32, value: i32) -> i32;
        }
        const M_MMAP_THRESHOLD: i32 = -3;
        // SAFETY: no precondition; the value is the one that the allocator begins with.
        unsafe { mallopt(M_MMAP_THRESHOLD, 128 << 10) };
    }
}
