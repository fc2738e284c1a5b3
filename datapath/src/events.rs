//! What workers have to tell the control plane: a bounded queue that is never waited for, and the latest state of each peer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam::queue::ArrayQueue;
use switch_core::addr::MacAddr;
use switch_core::id::PortId;
use switch_core::vid::Vid;

use crate::io::{LeftAlone, Peer, PeerId};

/// Events that wait for the control plane at most.
const QUEUE: usize = 1024;

/// What a worker has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// A frame for the switch itself came in by an uplink: of a slow protocol (IEEE 802.3, annex 57A).
    Slow {
        /// The uplink.
        port: PortId,
        /// The frame's first octets.
        frame: Box<[u8]>,
    },
    /// The guest of a port that waited for it has announced itself.
    Activated {
        /// The port.
        port: PortId,
    },
    /// A guest's memory kept a worker waiting, and the guest is left alone for a while: nothing is received from it, and what is for it is dropped.
    LeftAlone {
        /// The port.
        port: PortId,
        /// How long the worker waited, and for how long the port is left alone.
        times: LeftAlone,
    },
    /// The process at the other end of a port's socket came or went.
    Peer {
        /// Of which [`PeerSink`](crate::io::PeerSink).
        peer: PeerId,
        /// How it is now.
        state: Peer,
    },
}

pub(crate) struct Events {
    queue: ArrayQueue<Event>,
    lost: AtomicU64,
    /// At most one entry for each sink.
    peers: Mutex<VecDeque<(PeerId, Peer)>>,
    next_peer: AtomicU64,
    notify: Box<dyn Fn() + Send + Sync>,
}

impl Events {
    pub(crate) fn new(notify: Box<dyn Fn() + Send + Sync>) -> Self {
        Self {
            queue: ArrayQueue::new(QUEUE),
            lost: AtomicU64::new(0),
            peers: Mutex::default(),
            next_peer: AtomicU64::new(0),
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

    /// A number for another sink.
    pub(crate) fn peer_id(&self) -> PeerId {
        PeerId(self.next_peer.fetch_add(1, Relaxed))
    }

    /// Tells how a peer is, in place of what was told of it and not taken yet.
    pub(crate) fn tell_peer(&self, peer: PeerId, state: Peer) {
        let mut peers = self.peers();
        match peers.iter_mut().find(|(known, _)| *known == peer) {
            Some((_, known)) => *known = state,
            None => peers.push_back((peer, state)),
        }
        drop(peers);
        (self.notify)();
    }

    fn peers(&self) -> MutexGuard<'_, VecDeque<(PeerId, Peer)>> {
        // Nothing panics while it is held.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take(&self) -> Option<Event> {
        let peer = self.peers().pop_front();
        peer.map(|(peer, state)| Event::Peer { peer, state })
            .or_else(|| self.queue.pop())
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}
