//! The allocator of the agent. Reading the kernel, planning and recording make large copies for a moment; what is
//! free again shall not stay with the process.

/// Sets it up. Before there are threads, each of which would get an arena of its own.
#[cfg(target_env = "gnu")]
pub fn set_up() {
    /// Bytes from which an allocation is mapped by itself, and unmapped when it is freed. Without it glibc raises the
    /// limit up to 32 MiB as such allocations are freed.
    const MAPPED: libc::c_int = 128 << 10;
    /// Bytes free at the end of the heap that are given back.
    const TRIMMED: libc::c_int = 128 << 10;
    for (parameter, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, MAPPED),
        (libc::M_TRIM_THRESHOLD, TRIMMED),
    ] {
        // SAFETY: it takes two numbers, and locks what it changes.
        let _as_before = unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives the pages between what is in use back to the kernel. Some milliseconds.
#[cfg(target_env = "gnu")]
pub fn give_back() {
    // SAFETY: it takes a number, and locks the heap.
    let _whether = unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
pub fn set_up() {}

#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}
