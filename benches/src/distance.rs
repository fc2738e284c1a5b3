//! How far two cores are from each other: what a cache line takes from one to the other.
//!
//! On a virtual machine this changes while a benchmark runs (30, 50 and 180 ns were seen): its two processors seem to be threads of one core now, cores of
//! one cache then, or cores of two. Whatever hands frames from core to core is up to three times as fast near as far.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::Result;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Times there and back.
const ROUNDS: u32 = 20_000;

/// From here on cores are far, nanoseconds: between the two kinds of times that were seen.
pub const FAR: f64 = 100.0;

/// A line of its own.
#[repr(align(128))]
struct Line(AtomicU32);

/// Nanoseconds that a line takes from one core to the other, on average.
///
/// # Errors
/// There is no such core.
pub fn between(one: usize, other: usize) -> Result<f64> {
    let line = Line(AtomicU32::new(0));
    let wait_for = |turn: u32| {
        while line.0.load(Ordering::Acquire) != turn {
            std::hint::spin_loop();
        }
    };
    // Each in a thread of its own, so that the caller stays where it is.
    let took = std::thread::scope(|scope| {
        let answers = scope.spawn(|| -> Result<()> {
            let pinned = pin(other);
            for round in 0..ROUNDS {
                wait_for(2 * round + 1);
                line.0.store(2 * round + 2, Ordering::Release);
            }
            pinned
        });
        let asks = scope.spawn(|| {
            let pinned = pin(one);
            let begin = Instant::now();
            for round in 0..ROUNDS {
                line.0.store(2 * round + 1, Ordering::Release);
                wait_for(2 * round + 2);
            }
            pinned.map(|()| begin.elapsed())
        });
        let took = asks.join().expect("the loop does not panic");
        answers.join().expect("the loop does not panic")?;
        took
    })?;
    Ok(took.as_nanos() as f64 / f64::from(2 * ROUNDS))
}

fn pin(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cores)?)
}
