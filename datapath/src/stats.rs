//! Counters: written by one worker each, read by anyone.
//!
//! A counter is an atomic that only its worker writes, by a plain load and store: no locked instruction, no line that
//! two workers write. A reader adds up the workers' parts; each part is exact, the sum is of slightly different instants.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use switch_core::addr::MacAddr;
use switch_core::verdict::DropReason;

/// Frames and octets of one direction of a port. Octets count from the destination address to the end of the payload,
/// as the frame is on the port's side, without FCS; a super-frame counts as the frames it becomes on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectionStats {
    /// Frames.
    pub packets: u64,
    /// Octets.
    pub bytes: u64,
    /// Frames to one station.
    pub unicast: u64,
    /// Frames to a group other than broadcast.
    pub multicast: u64,
    /// Frames to all.
    pub broadcast: u64,
}

/// Totals of a port since it was made. Receive: from the port into the switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortStats {
    /// From the port into the switch.
    pub receive: DirectionStats,
    /// From the switch to the port.
    pub transmit: DirectionStats,
    /// Dropped frames by [`DropReason::index`].
    pub drops: [u64; DropReason::COUNT],
    /// Frames that the kernel dropped before the switch could read them.
    pub kernel_drops: u64,
    /// Frames that waited when the port was last served, at most one batch per worker.
    pub queue_depth: u64,
}

impl Default for PortStats {
    fn default() -> Self {
        Self {
            receive: DirectionStats::default(),
            transmit: DirectionStats::default(),
            drops: [0; DropReason::COUNT],
            kernel_drops: 0,
            queue_depth: 0,
        }
    }
}

/// A queue of a port as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueStats {
    /// The worker that serves it.
    pub worker: usize,
    /// Whether it takes frames: a guest may use fewer queues than it could.
    pub live: bool,
    /// Frames received by it since it was attached, a super-frame as one.
    pub frames: u64,
}

/// Upper bounds of the batch sizes that [`WorkerStats::batches`] counts.
pub const BATCH_BUCKETS: [u64; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Totals of a worker since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerStats {
    /// Nanoseconds spent on frames (not asleep, not polling in vain).
    pub busy_nanos: u64,
    /// Nanoseconds since its start.
    pub total_nanos: u64,
    /// Number of batches by size: each bucket counts those above the bound before it, up to its own in [`BATCH_BUCKETS`].
    pub batches: [u64; BATCH_BUCKETS.len()],
    /// Frames in all batches, a super-frame as one.
    pub frames: u64,
    /// Copies beyond the first that floods made, in frames on the wire.
    pub flood_copies: u64,
    /// Frames handed over to other workers, which own the queue to send them by; a super-frame as one.
    pub handed_over: u64,
    /// Times that the worker was restarted after an internal error.
    pub restarts: u64,
}

#[inline]
fn add(counter: &AtomicU64, value: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(value), Relaxed);
}

/// What a batch adds to a [`Direction`]: counted beside the frames, and written once.
#[derive(Default)]
pub(crate) struct Tally {
    packets: u64,
    bytes: u64,
    multicast: u64,
    broadcast: u64,
}

impl Tally {
    /// Counts a frame that becomes `frames` frames and `octets` octets on the wire.
    #[inline]
    pub(crate) fn count(&mut self, destination: MacAddr, frames: u64, octets: u64) {
        self.packets += frames;
        self.bytes += octets;
        if destination.is_multicast() {
            if destination.is_broadcast() {
                self.broadcast += frames;
            } else {
                self.multicast += frames;
            }
        }
    }
}

#[derive(Default)]
pub(crate) struct Direction {
    packets: AtomicU64,
    bytes: AtomicU64,
    multicast: AtomicU64,
    broadcast: AtomicU64,
}

impl Direction {
    #[inline]
    pub(crate) fn add(&self, tally: &Tally) {
        add(&self.packets, tally.packets);
        add(&self.bytes, tally.bytes);
        if tally.multicast | tally.broadcast != 0 {
            add(&self.multicast, tally.multicast);
            add(&self.broadcast, tally.broadcast);
        }
    }

    fn add_to(&self, sum: &mut DirectionStats) {
        let (packets, multicast, broadcast) = (
            self.packets.load(Relaxed),
            self.multicast.load(Relaxed),
            self.broadcast.load(Relaxed),
        );
        sum.packets += packets;
        sum.bytes += self.bytes.load(Relaxed);
        sum.multicast += multicast;
        sum.broadcast += broadcast;
        // The three are read at slightly different instants.
        sum.unicast += packets.saturating_sub(multicast).saturating_sub(broadcast);
    }

    fn reset(&self) {
        for counter in [&self.packets, &self.bytes, &self.multicast, &self.broadcast] {
            counter.store(0, Relaxed);
        }
    }
}

/// What one worker counts for one port.
#[repr(align(128))]
pub(crate) struct PortCounters {
    pub(crate) receive: Direction,
    pub(crate) transmit: Direction,
    drops: [AtomicU64; DropReason::COUNT],
    kernel_drops: AtomicU64,
    queue_depth: AtomicU64,
}

impl Default for PortCounters {
    fn default() -> Self {
        Self {
            receive: Direction::default(),
            transmit: Direction::default(),
            drops: [const { AtomicU64::new(0) }; DropReason::COUNT],
            kernel_drops: AtomicU64::new(0),
            queue_depth: AtomicU64::new(0),
        }
    }
}

impl PortCounters {
    #[inline]
    pub(crate) fn count_drop(&self, reason: DropReason, frames: u64) {
        add(&self.drops[reason.index()], frames);
    }

    pub(crate) fn add_kernel_drops(&self, frames: u64) {
        add(&self.kernel_drops, frames);
    }

    #[inline]
    pub(crate) fn set_queue_depth(&self, frames: u64) {
        self.queue_depth.store(frames, Relaxed);
    }

    pub(crate) fn add_to(&self, sum: &mut PortStats) {
        self.receive.add_to(&mut sum.receive);
        self.transmit.add_to(&mut sum.transmit);
        for (sum, counter) in sum.drops.iter_mut().zip(&self.drops) {
            *sum += counter.load(Relaxed);
        }
        sum.kernel_drops += self.kernel_drops.load(Relaxed);
        sum.queue_depth += self.queue_depth.load(Relaxed);
    }

    /// Only while no worker has the port.
    pub(crate) fn reset(&self) {
        self.receive.reset();
        self.transmit.reset();
        for counter in &self.drops {
            counter.store(0, Relaxed);
        }
        self.kernel_drops.store(0, Relaxed);
        self.queue_depth.store(0, Relaxed);
    }
}

/// What is counted of one queue, by the worker that owns it at the time.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct QueueCounters {
    frames: AtomicU64,
    work: AtomicU64,
}

impl QueueCounters {
    /// Counts a received batch; `work` is in [`crate::assign`]'s units.
    #[inline]
    pub(crate) fn batch(&self, frames: usize, work: u64) {
        add(&self.frames, frames as u64);
        add(&self.work, work);
    }

    pub(crate) fn frames(&self) -> u64 {
        self.frames.load(Relaxed)
    }

    pub(crate) fn work(&self) -> u64 {
        self.work.load(Relaxed)
    }
}

/// What one worker counts for itself.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct WorkerCounters {
    busy_nanos: AtomicU64,
    batches: [AtomicU64; BATCH_BUCKETS.len()],
    frames: AtomicU64,
    flood_copies: AtomicU64,
    handed_over: AtomicU64,
    restarts: AtomicU64,
}

impl WorkerCounters {
    #[inline]
    pub(crate) fn batch(&self, frames: usize) {
        let bucket = (usize::BITS - frames.saturating_sub(1).leading_zeros()) as usize;
        add(&self.batches[bucket.min(BATCH_BUCKETS.len() - 1)], 1);
        add(&self.frames, frames as u64);
    }

    #[inline]
    pub(crate) fn busy(&self, nanos: u64) {
        add(&self.busy_nanos, nanos);
    }

    #[inline]
    pub(crate) fn flood_copies(&self, copies: u64) {
        add(&self.flood_copies, copies);
    }

    #[inline]
    pub(crate) fn handed_over(&self) {
        add(&self.handed_over, 1);
    }

    pub(crate) fn restarted(&self) {
        add(&self.restarts, 1);
    }

    pub(crate) fn read(&self, total_nanos: u64) -> WorkerStats {
        WorkerStats {
            busy_nanos: self.busy_nanos.load(Relaxed),
            total_nanos,
            batches: std::array::from_fn(|bucket| self.batches[bucket].load(Relaxed)),
            frames: self.frames.load(Relaxed),
            flood_copies: self.flood_copies.load(Relaxed),
            handed_over: self.handed_over.load(Relaxed),
            restarts: self.restarts.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_fall_into_the_bucket_of_their_bound() {
        let counters = WorkerCounters::default();
        for frames in 1..=64 {
            counters.batch(frames);
        }
        let stats = counters.read(0);
        assert_eq!(stats.batches, [1, 1, 2, 4, 8, 16, 32]);
        assert_eq!(stats.frames, (1..=64).sum::<u64>());
    }

    #[test]
    fn a_direction_sums_to_its_types() {
        let counters = PortCounters::default();
        let mut tally = Tally::default();
        tally.count(MacAddr([2, 0, 0, 0, 0, 1]), 3, 300);
        tally.count(MacAddr([1, 0, 0, 0, 0, 1]), 1, 60);
        counters.receive.add(&tally);
        let mut tally = Tally::default();
        tally.count(MacAddr::BROADCAST, 1, 60);
        counters.receive.add(&tally);
        let mut sum = PortStats::default();
        counters.add_to(&mut sum);
        counters.add_to(&mut sum);
        let expected = DirectionStats {
            packets: 10,
            bytes: 840,
            unicast: 6,
            multicast: 2,
            broadcast: 2,
        };
        assert_eq!(sum.receive, expected);
        assert_eq!(sum.transmit, DirectionStats::default());
    }
}
