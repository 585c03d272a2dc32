//! What memory this process has, and how it gives memory back.

/// Let the allocator return large pieces to the system as soon as they are freed, whatever was freed before. It keeps ever larger ones
/// otherwise, and what contexts leave behind after tracing a graph adds to the peak of training.
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

/// Memory of this process that is in use now, pages of files among it, and the most that ever was, where the system tells.
///
/// units: bytes
pub fn resident() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    Some((kib("VmRSS:")? << 10, kib("VmHWM:")? << 10))
}
