//! How long a guest's memory may keep its worker waiting.
//!
//! To touch a guest's memory can take long: its pages may have to be made first, and while its hypervisor punches holes in the file behind it
//! (`fallocate(2)`) the kernel lets whoever touches it wait. That cannot be known before, nor be ended. But a guest that makes a worker wait can be
//! left alone afterwards. It has a tenth of the worker's time for that ([`SHARE`]), of which some may come at once ([`CREDIT`]): a guest that boots touches new memory.
//! When that is spent it is left alone until it has made up for it.
//!
//! Looking at the clock around each call costs more than a call should. So it is done only while there is a reason: the worker was kept waiting
//! ([`Patience::suspect`]), or this guest did it not long ago.
//!
//! What a guest owes is its own: frames of one that is timed are copied whole when they are received, so that no other's call touches its memory. A new guest
//! behind the port goes on with what the one before has used up; else it would be enough to connect anew.

use std::time::{Duration, Instant};

use crate::waits::Waits;

/// A call that takes longer was kept waiting. A full batch of the longest frames takes a tenth of it.
pub const LONG: Duration = Duration::from_millis(2);

/// Of so much of a worker's time a guest may use one part waiting for its memory.
const SHARE: u32 = 10;

/// What it may use at once.
const CREDIT: Duration = Duration::from_millis(50);

/// The longest that it is left alone at once.
const LONGEST: Duration = Duration::from_secs(60);

/// How long calls are timed after there was a reason.
const TIMED_FOR: Duration = Duration::from_secs(60);

/// The begin of a call that is timed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Began {
    pub(super) at: Instant,
    /// What the thread had waited for before.
    pub(super) waits: Waits,
}

/// A guest is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftAlone {
    /// How long it kept the worker waiting this time.
    pub waited: Duration,
    /// How long it is left alone.
    pub rest: Duration,
}

/// What one guest has cost, and what follows from it. Owned by its queue.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Calls are timed until then.
    timed_until: Option<Instant>,
    /// The guest is left alone until then.
    until: Option<Instant>,
    /// What it had used of its credit, and when; it gets it back with time.
    used: Option<(Duration, Instant)>,
}

impl Patience {
    /// Times calls from now on, for a while.
    pub(super) fn suspect(&mut self, now: Instant) {
        self.timed_until = Some(now + TIMED_FOR);
    }

    /// The begin of a call, if it is to be timed.
    pub(super) fn begin(&self) -> Option<Began> {
        self.timed_until.map(|_| Began {
            at: Instant::now(),
            waits: Waits::now(),
        })
    }

    /// A timed call has ended. `blocked` says whether the thread waited, where it might only have been preempted; it is asked about long calls only.
    pub(super) fn end(
        &mut self,
        began: Instant,
        now: Instant,
        blocked: impl FnOnce() -> bool,
    ) -> Option<LeftAlone> {
        let waited = now.saturating_duration_since(began);
        if waited < LONG {
            self.timed_until = self.timed_until.filter(|until| *until > now);
            return None;
        }
        if !blocked() {
            return None;
        }
        self.suspect(now);
        let used = self.used.map_or(Duration::ZERO, |(used, at)| {
            used.saturating_sub(now.saturating_duration_since(at) / SHARE)
        });
        let used = used + waited;
        let debt = used.saturating_sub(CREDIT);
        self.used = Some((used.min(CREDIT + LONGEST / SHARE), now));
        if debt.is_zero() {
            return None;
        }
        let rest = (debt * SHARE).min(LONGEST);
        self.until = Some(now + rest);
        self.suspect(now + rest);
        Some(LeftAlone { waited, rest })
    }

    /// Whether the guest is left alone at present. The clock is read only if it may be.
    #[inline]
    pub(super) fn is_out(&mut self, now: impl FnOnce() -> Instant) -> bool {
        self.until.is_some() && self.is_still_out(now())
    }

    #[cold]
    fn is_still_out(&mut self, now: Instant) -> bool {
        self.until = self.until.filter(|until| *until > now);
        self.until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A call of so many milliseconds that begins then.
    fn call(patience: &mut Patience, began: Instant, took: u64) -> Option<LeftAlone> {
        patience.end(began, began + ms(took), || true)
    }

    #[test]
    fn only_calls_that_were_kept_waiting_have_a_price() {
        let start = Instant::now();
        let mut patience = Patience::default();
        assert!(patience.begin().is_none());
        patience.suspect(start);
        assert!(patience.begin().is_some());
        assert_eq!(call(&mut patience, start, 1), None);
        // Preempted only.
        assert_eq!(patience.end(start, start + ms(500), || false), None);
        assert!(!patience.is_out(|| start));
        // After a good while nothing is timed any more.
        assert_eq!(call(&mut patience, start + TIMED_FOR, 0), None);
        assert!(patience.begin().is_none());
    }

    #[test]
    fn a_guest_that_boots_may_wait_a_little() {
        let start = Instant::now();
        let mut patience = Patience::default();
        for round in 0..10 {
            assert_eq!(call(&mut patience, start + ms(10 * round), 5), None);
        }
        assert!(!patience.is_out(|| start + ms(100)));
        // It has used 50 ms in 95, and got 9 back.
        let found = call(&mut patience, start + ms(95), 15).expect("that is too much");
        assert!(found.rest > ms(30) && found.rest < ms(100), "{found:?}");
    }

    #[test]
    fn a_guest_that_goes_on_costs_a_tenth() {
        let mut now = Instant::now();
        let start = now;
        let mut patience = Patience::default();
        let mut cost = Duration::ZERO;
        for _ in 0..30 {
            let found = call(&mut patience, now, 100).expect("it took long");
            assert_eq!(found.waited, ms(100));
            now += found.waited;
            cost += found.waited;
            assert!(patience.is_out(|| now + found.rest - ms(1)));
            now += found.rest;
            assert!(!patience.is_out(|| now));
            assert!(patience.begin().is_some());
            assert!(cost <= (now - start) / SHARE + CREDIT);
        }
        let found = call(&mut patience, now, 100_000).expect("it took long");
        assert_eq!(found.rest, LONGEST);
    }
}
