//! Hints to the processor's caches.

/// Brings the cache line of an address near; any address will do.
#[inline(always)]
pub fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch accesses no memory as the language sees it, and never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Brings the cache line of an address near, for us alone; any address will do.
///
/// By its instruction: the intrinsic becomes one that shares the line where the compiler may not assume PREFETCHW, and each write
/// then waits for the other core to let go of it. All x86-64 processors decode it, some as nothing to do.
#[inline(always)]
pub fn prefetch_to_write<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch accesses no memory as the language sees it, and never faults.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
