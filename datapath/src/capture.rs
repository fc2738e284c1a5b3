//! Copies of frames for the administrator: a bounded queue per capture, filled by the workers, never waited for.
//!
//! Without a capture a worker pays one load per batch. A queue that is full loses the copy, and counts it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use crossbeam::queue::ArrayQueue;
use switch_core::id::PortId;
use switch_core::verdict::DropReason;

/// Copies that one capture holds for its reader.
const QUEUE: usize = 4096;

/// Octets that these copies have together; workers that offer at once may exceed it by a frame each.
const OCTETS: usize = 16 << 20;

/// Which side of the switch a captured frame was seen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// From the port into the switch.
    Receive,
    /// From the switch to the port.
    Transmit,
    /// Dropped; the port is the one whose counter moved.
    Dropped(DropReason),
}

/// Which frames to capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureFilter {
    /// Only this port.
    pub port: Option<PortId>,
    /// Only dropped frames; else received and sent ones.
    pub drops_only: bool,
    /// How many octets of each frame to keep.
    pub snap_len: u32,
}

impl CaptureFilter {
    fn wants(&self, port: PortId, seen: Seen) -> bool {
        self.port.is_none_or(|wanted| wanted == port) && self.drops_only == matches!(seen, Seen::Dropped(_))
    }
}

/// A captured frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// Nanoseconds since the Unix epoch.
    pub unix_nanos: u64,
    /// The port.
    pub port: PortId,
    /// Which side, or why it was dropped.
    pub seen: Seen,
    /// Octets of the whole frame.
    pub len: u32,
    /// Its first octets, as many as the filter keeps.
    pub bytes: Box<[u8]>,
}

#[derive(Debug)]
pub(crate) struct Sink {
    filter: CaptureFilter,
    queue: ArrayQueue<Captured>,
    /// Octets of the copies in the queue.
    held: AtomicUsize,
    lost: AtomicU64,
}

impl Sink {
    fn offer(&self, port: PortId, seen: Seen, frame: &[u8]) {
        if !self.filter.wants(port, seen) {
            return;
        }
        let kept = frame.len().min(self.filter.snap_len as usize);
        if self.queue.is_full() || self.held.load(Relaxed) + kept > OCTETS {
            self.lost.fetch_add(1, Relaxed);
            return;
        }
        let unix_nanos = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        let captured = Captured {
            unix_nanos,
            port,
            seen,
            len: frame.len() as u32,
            bytes: frame[..kept].into(),
        };
        // Before the reader can take it out again.
        self.held.fetch_add(kept, Relaxed);
        if self.queue.push(captured).is_err() {
            self.held.fetch_sub(kept, Relaxed);
            self.lost.fetch_add(1, Relaxed);
        }
    }
}

/// The captures that run.
#[derive(Debug, Default)]
pub(crate) struct Captures {
    pub(crate) sinks: ArcSwap<Vec<Arc<Sink>>>,
}

/// Offers a frame to each capture.
pub(crate) fn offer(sinks: &[Arc<Sink>], port: PortId, seen: Seen, frame: &[u8]) {
    for sink in sinks {
        sink.offer(port, seen, frame);
    }
}

/// A running capture; it ends when dropped.
#[derive(Debug)]
pub struct Capture {
    sink: Arc<Sink>,
    captures: Arc<Captures>,
}

impl Capture {
    pub(crate) fn start(captures: Arc<Captures>, filter: CaptureFilter) -> Self {
        let sink = Arc::new(Sink {
            filter,
            queue: ArrayQueue::new(QUEUE),
            held: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
        });
        captures.sinks.rcu(|sinks| {
            let mut sinks = Vec::clone(sinks);
            sinks.push(Arc::clone(&sink));
            sinks
        });
        Self { sink, captures }
    }

    /// The next frame, if one is there. Never waits.
    pub fn try_recv(&self) -> Option<Captured> {
        let captured = self.sink.queue.pop()?;
        self.sink.held.fetch_sub(captured.bytes.len(), Relaxed);
        Some(captured)
    }

    /// Frames that found the capture's buffer full.
    pub fn lost(&self) -> u64 {
        self.sink.lost.load(Relaxed)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.captures.sinks.rcu(|sinks| {
            let mut sinks = Vec::clone(sinks);
            sinks.retain(|sink| !Arc::ptr_eq(sink, &self.sink));
            sinks
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(snap_len: u32) -> Capture {
        let filter = CaptureFilter {
            port: None,
            drops_only: false,
            snap_len,
        };
        Capture::start(Arc::default(), filter)
    }

    /// Offers frames of `len` octets until one is lost; returns how many were kept.
    fn fill(capture: &Capture, len: usize) -> usize {
        let port = PortId::new(1).unwrap();
        let (frame, before) = (vec![0; len], capture.lost());
        (0..=QUEUE)
            .take_while(|_| {
                offer(&capture.captures.sinks.load(), port, Seen::Receive, &frame);
                capture.lost() == before
            })
            .count()
    }

    #[test]
    fn what_nobody_reads_is_bounded_in_frames_and_octets() {
        assert_eq!(fill(&start(65_536), 60), QUEUE);
        assert_eq!(fill(&start(128), 65_536), QUEUE);
        let capture = start(65_536);
        assert_eq!(fill(&capture, 65_536), OCTETS / 65_536);
        assert_eq!(capture.try_recv().map(|captured| captured.len), Some(65_536));
        assert_eq!(fill(&capture, 65_536), 1, "what was read makes room");
    }
}
