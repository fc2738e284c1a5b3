//! Whether this thread was kept waiting by the memory that it touched, as the kernel counts it: page faults, and sleeps that it did not ask for.
//!
//! Being preempted is no sleep, and being stopped (SIGSTOP, the freezer of cgroups) is no page fault.

use nix::sys::resource::{UsageWho, getrusage};

/// So many page faults are a wait without a sleep: the kernel has made pages, and a batch of frames in memory that is there has none.
const FAULTS: i64 = 32;

/// What was counted of this thread so far: voluntary context switches and page faults.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waits {
    sleeps: i64,
    faults: i64,
}

impl Waits {
    /// So far.
    pub fn now() -> Self {
        // Fails only for a wrong pointer or a wrong `who`.
        getrusage(UsageWho::RUSAGE_THREAD).map_or(Self::default(), |usage| Self {
            sleeps: usage.voluntary_context_switches(),
            faults: usage.minor_page_faults() + usage.major_page_faults(),
        })
    }

    /// Whether this thread has waited for memory since then.
    pub fn were_there_since(self) -> bool {
        let now = Self::now();
        let (sleeps, faults) = (now.sleeps - self.sleeps, now.faults - self.faults);
        faults >= FAULTS || (sleeps > 0 && faults > 0)
    }
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
        Waits::now().were_there_since();
        let before = Waits::now();
        sleep();
        assert!(!before.were_there_since());
        // More than the allocator keeps, so that the kernel has to make it.
        touch(1024);
        assert!(before.were_there_since());
        assert!(!Waits::now().were_there_since());
    }
}
