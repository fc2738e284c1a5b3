//! What workers have to tell the control plane: a bounded queue that is never waited for.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam::queue::ArrayQueue;
use switch_core::addr::MacAddr;
use switch_core::id::PortId;
use switch_core::vid::Vid;

/// Events that wait for the control plane at most.
const QUEUE: usize = 1024;

/// What a worker has to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A MAC address moved between ports.
    MacMoved {
        /// VLAN of the address.
        vid: Vid,
        /// The address.
        mac: MacAddr,
        /// The port before.
        from: PortId,
        /// The port now.
        to: PortId,
    },
    /// A port's device is gone or in error: nothing is read from it until it is attached again.
    PortFailed {
        /// The port.
        port: PortId,
        /// The system's error.
        errno: i32,
    },
    /// Sending to a port began to fail.
    SendFailed {
        /// The port.
        port: PortId,
        /// The system's error.
        errno: i32,
    },
}

pub(crate) struct Events {
    queue: ArrayQueue<Event>,
    lost: AtomicU64,
    notify: Box<dyn Fn() + Send + Sync>,
}

impl Events {
    pub(crate) fn new(notify: Box<dyn Fn() + Send + Sync>) -> Self {
        Self {
            queue: ArrayQueue::new(QUEUE),
            lost: AtomicU64::new(0),
            notify,
        }
    }

    /// Tells an event and wakes its reader. Workers limit how often they call this for what a guest can cause.
    pub(crate) fn tell(&self, event: Event) {
        if self.queue.push(event).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
        (self.notify)();
    }

    pub(crate) fn take(&self) -> Option<Event> {
        self.queue.pop()
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}
