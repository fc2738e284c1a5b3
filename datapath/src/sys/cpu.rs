//! Which cores the calling thread runs on.

use std::io;

/// Pins the calling thread to `core`, as `nproc` counts them from 0.
pub fn pin_to_core(core: usize) -> io::Result<()> {
    if core >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: an all-zero cpu_set_t is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `core` is below CPU_SETSIZE, checked above.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the set lives through the call and its true size is given; pid 0 is the calling thread.
    super::check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) })?;
    Ok(())
}

/// Keeps the calling thread, and those that it starts from now on, off these cores, if others are left to it.
///
/// # Errors
/// What the system says; the thread then runs where it did.
pub fn keep_off(cores: &[usize]) -> io::Result<()> {
    // SAFETY: as above.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: as for setting it, above.
    super::check(unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) })?;
    for &core in cores.iter().filter(|core| **core < libc::CPU_SETSIZE as usize) {
        // SAFETY: `core` is below CPU_SETSIZE, checked above.
        unsafe { libc::CPU_CLR(core, &mut set) };
    }
    // SAFETY: the set was filled above.
    if unsafe { libc::CPU_COUNT(&set) } > 0 {
        // SAFETY: as above.
        super::check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::thread::available_parallelism;

    use super::*;

    #[test]
    fn a_thread_keeps_off_cores_unless_it_has_no_others() {
        // In a thread of its own: its affinity ends with it.
        std::thread::spawn(|| {
            let before = available_parallelism().unwrap().get();
            let all: Vec<usize> = (0..libc::CPU_SETSIZE as usize).collect();
            keep_off(&all).unwrap();
            assert_eq!(available_parallelism().unwrap().get(), before);
            let first = (0..64).find(|core| {
                std::thread::scope(|scope| scope.spawn(|| pin_to_core(*core).is_ok()).join().unwrap())
            });
            let first = first.unwrap();
            keep_off(&[first]).unwrap();
            assert_eq!(available_parallelism().unwrap().get(), (before - 1).max(1));
            pin_to_core(first).unwrap();
            // Pinned to one core, it has no others.
            keep_off(&[first]).unwrap();
            assert_eq!(available_parallelism().unwrap().get(), 1);
        })
        .join()
        .unwrap();
    }
}
