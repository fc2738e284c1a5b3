//! Whether this thread was kept waiting by the memory that it touched, as the kernel counts it: page faults, and sleeps that it did not ask for.
//!
//! A worker sleeps of its own will only where it waits for frames; it calls [`forget`] behind that, and every now and then. What [`were_there`] finds
//! afterwards came from memory. Being preempted is no sleep, and being stopped (SIGSTOP, the freezer of cgroups) is no page fault.

use std::cell::Cell;

use nix::sys::resource::{UsageWho, getrusage};

/// So many page faults are a wait without a sleep: the kernel has made pages, and a batch of frames in memory that is there has none.
const FAULTS: i64 = 32;

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
    let (sleeps, faults) = (now.sleeps - last.sleeps, now.faults - last.faults);
    faults >= FAULTS || (sleeps > 0 && faults > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(pages: usize) {
        let mut memory = vec![0u8; 4096 * pages];
        for page in memory.chunks_mut(4096) {
            page[0] = 1;
        }
        std::hint::black_box(&memory);
    }

    #[test]
    fn a_sleep_alone_is_no_wait_for_memory() {
        let sleep = || std::thread::sleep(std::time::Duration::from_millis(1));
        // Once before, so that the code of all this is in memory.
        sleep();
        were_there();
        forget();
        sleep();
        assert!(!were_there());
        // More than the allocator keeps, so that the kernel has to make it.
        touch(1024);
        assert!(were_there());
        assert!(were_there(), "until it is forgotten");
        forget();
        assert!(!were_there());
    }
}
