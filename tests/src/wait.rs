//! Waiting for a condition, with a bound.

use std::time::{Duration, Instant};

/// How long most conditions may take: far more than they need on a loaded machine.
pub const BOUND: Duration = Duration::from_secs(15);

/// Time between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until `probe` gives something, and gives it back.
///
/// # Panics
/// When `bound` has passed.
pub fn wait_for<T>(what: &str, bound: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < bound, "waited {bound:?} in vain: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Waits until `condition` holds.
///
/// # Panics
/// When `bound` has passed.
pub fn wait_until(what: &str, bound: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, bound, || condition().then_some(()));
}
