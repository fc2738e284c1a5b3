//! Whether this thread was kept waiting by what it touched, as the kernel counts it: sleeps that it did not ask for, and page faults.
//!
//! A worker sleeps of its own will only where it waits for frames; it calls [`forget`] behind that, and every now and then. What [`were_there`] finds
//! afterwards came from the memory or the devices that it touched. Being preempted is not counted.

use std::cell::Cell;

use nix::sys::resource::{UsageWho, getrusage};

/// So many page faults make a long call one that waited for memory: a batch of frames in new memory has fewer.
const FAULTS: i64 = 512;

/// Voluntary context switches and page faults of the thread.
#[derive(Clone, Copy, Default)]
struct Usage {
    sleeps: i64,
    faults: i64,
}

impl Usage {
    fn now() -> Self {
        // Fails only for a wrong pointer or a wrong `who`.
        getrusage(UsageWho::RUSAGE_THREAD).map_or(Self::default(), |usage| Self {
            sleeps: usage.voluntary_context_switches(),
            faults: usage.minor_page_faults() + usage.major_page_faults(),
        })
    }
}

thread_local! {
    static LAST: Cell<Usage> = const { Cell::new(Usage { sleeps: 0, faults: 0 }) };
}

/// Forgets what was before.
pub fn forget() {
    LAST.set(Usage::now());
}

/// Whether there were any since this thread last forgot.
pub fn were_there() -> bool {
    let (last, now) = (LAST.get(), Usage::now());
    now.sleeps > last.sleeps || now.faults >= last.faults + FAULTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_is_seen_until_it_is_forgotten() {
        forget();
        assert!(!were_there());
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert!(were_there());
        forget();
        assert!(!were_there());
    }

    #[test]
    fn touching_much_new_memory_is_seen() {
        forget();
        let mut memory = vec![0u8; 4096 * 4 * FAULTS as usize];
        for page in memory.chunks_mut(4096) {
            page[0] = 1;
        }
        std::hint::black_box(&memory);
        assert!(were_there());
    }
}
