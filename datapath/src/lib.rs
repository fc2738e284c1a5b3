//! How frames get in and out: workers, buffers, and the devices behind ports.
//!
//! The control plane opens devices ([`io`]), hands their queues to the workers ([`Datapath::attach`]) and publishes
//! snapshots ([`Datapath::publish`]). A worker runs every frame to completion: receive, decide
//! ([`switch_core::pipeline::forward`]), send. The only `unsafe` code is in `sys`.
#![allow(missing_docs, unused_variables)] // skeleton

use std::sync::Arc;

use switch_core::addr::MacAddr;
use switch_core::id::PortId;
use switch_core::snapshot::Snapshot;
use switch_core::time::Timestamp;
use switch_core::verdict::DropReason;
use switch_core::vid::Vid;

pub mod io;
pub mod offload;

/// How many workers, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Number of workers, at least 1.
    pub workers: usize,
    /// Core of each worker; empty: not pinned.
    pub cores: Vec<usize>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("worker {worker} cannot be started: {source}")]
    Spawn { worker: usize, source: std::io::Error },
    #[error(
        "worker {worker} cannot be pinned to core {core}: {source}; name cores that `nproc` lists in `workers.cores`"
    )]
    Pin {
        worker: usize,
        core: usize,
        source: std::io::Error,
    },
}

/// Frames and octets of one direction of a port. Octets count from the destination address to the end of the payload,
/// as the frame is on the port's side, without FCS; a super-frame counts as the frames it becomes on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectionStats {
    pub packets: u64,
    pub bytes: u64,
    pub unicast: u64,
    pub multicast: u64,
    pub broadcast: u64,
}

/// Totals of a port since it was made. Receive: from the port into the switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortStats {
    pub receive: DirectionStats,
    pub transmit: DirectionStats,
    /// By [`DropReason::index`].
    pub drops: [u64; DropReason::COUNT],
    /// Frames that the kernel dropped before the switch could read them.
    pub kernel_drops: u64,
    /// Frames waiting in the device's receive queue, where it can tell.
    pub queue_depth: Option<u64>,
}

/// Totals of a worker since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerStats {
    /// Nanoseconds spent on frames (not asleep, not polling in vain).
    pub busy_nanos: u64,
    /// Nanoseconds since its start.
    pub total_nanos: u64,
    /// Number of batches by size: 1, 2-3, 4-7, 8-15, 16-31, 32-64.
    pub batches: [u64; 6],
    /// Frames in all batches.
    pub frames: u64,
    /// Copies beyond the first that floods made.
    pub flood_copies: u64,
}

/// What a worker has to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A MAC address moved between ports.
    MacMoved {
        vid: Vid,
        mac: MacAddr,
        from: PortId,
        to: PortId,
    },
    /// A port's device is gone or in error (errno); no frame was or will be read from it until it is attached again.
    PortFailed { port: PortId, errno: i32 },
    /// Sending to a port fails with this errno for the first time in a while.
    SendFailed { port: PortId, errno: i32 },
}

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
    /// Only dropped frames; else received and sent ones, dropped ones as received.
    pub drops_only: bool,
    /// How many octets of each frame to keep.
    pub snap_len: u32,
}

/// A captured frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// Nanoseconds since the Unix epoch.
    pub unix_nanos: u64,
    pub port: PortId,
    pub seen: Seen,
    /// Octets of the whole frame.
    pub len: u32,
    pub bytes: Box<[u8]>,
}

/// A running capture; it ends when dropped.
#[derive(Debug)]
pub struct Capture {}

impl Capture {
    /// The next frame, if one is there. Never waits.
    pub fn try_recv(&self) -> Option<Captured> {
        todo!()
    }
    /// Frames that found the capture's buffer full.
    pub fn lost(&self) -> u64 {
        todo!()
    }
}

/// The running datapath. All methods may be called from any thread; none is on a frame's way.
pub struct Datapath {}

impl Datapath {
    /// Starts the workers with an empty snapshot. `notify` is called (from a worker, must not block) when an event is waiting.
    pub fn start(options: &Options, notify: Box<dyn Fn() + Send + Sync>) -> Result<Self, StartError> {
        todo!()
    }
    /// How many workers run: the number of queues that [`Datapath::attach`] wants.
    pub fn workers(&self) -> usize {
        todo!()
    }
    /// Now, on the clock of the snapshot's state.
    pub fn now(&self) -> Timestamp {
        todo!()
    }
    /// Hands a port's queues to the workers, one each. The port carries frames once a published snapshot has it.
    /// A queue that was there before is replaced and closed.
    pub fn attach(&self, port: PortId, queues: Vec<Box<dyn io::Queue>>) {
        todo!()
    }
    /// Takes the port's queues back and closes them; its counters stay. Returns when it is done.
    pub fn detach(&self, port: PortId) {
        todo!()
    }
    /// Sets a port's counters to zero, for a new port that gets an old number.
    pub fn reset_stats(&self, port: PortId) {
        todo!()
    }
    /// Replaces the snapshot; returns when no worker reads the old one any more.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        todo!()
    }
    /// The snapshot last published.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        todo!()
    }
    pub fn port_stats(&self, port: PortId) -> PortStats {
        todo!()
    }
    pub fn worker_stats(&self) -> Vec<WorkerStats> {
        todo!()
    }
    /// The next event, if one is there. Never waits.
    pub fn try_event(&self) -> Option<Event> {
        todo!()
    }
    /// Events lost because nobody took them.
    pub fn lost_events(&self) -> u64 {
        todo!()
    }
    /// Starts a capture.
    pub fn capture(&self, filter: CaptureFilter) -> Capture {
        todo!()
    }
}
