//! Ports with another process at the end of a Unix socket: who makes the connection, and how the control plane learns whether
//! the other side is there.
//!
//! Such a port is open for as long as it is configured, and up while its peer is there. Whoever owns the socket (a worker, or a
//! thread of its own) tells through a [`PeerSink`]; it ends as [`Event::Peer`](crate::Event::Peer). Only the latest state of each sink is kept, so that a
//! peer that comes and goes faster than the control plane looks costs nothing, and nothing is lost.
//!
//! Any thread may tell. It takes a lock that is held for a few instructions, so it is for the coming and going of a peer,
//! never for a frame.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::events::Events;

/// Who listens on the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SocketMode {
    /// The other side; the switch connects, and again whenever the connection is lost.
    Client,
    /// The switch.
    Server,
}

/// A VM's memory, shared with the switch: vhost-user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhostUserSpec {
    /// Path of the socket, at most [`SOCKET_PATH`] octets.
    pub socket: PathBuf,
    /// Who listens.
    pub mode: SocketMode,
    /// The most pairs of a receive and a transmit queue that the VM may use.
    pub pairs: usize,
    /// How many queues the port has, among which the pairs are shared out.
    pub queues: usize,
    /// MTU of the switch, of which the guest is told.
    pub mtu: u16,
}

/// Frames behind their length on a Unix stream socket: QEMU's `-netdev stream`, passt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSpec {
    /// Path of the socket, at most [`SOCKET_PATH`] octets.
    pub socket: PathBuf,
    /// Who listens.
    pub mode: SocketMode,
}

/// Most octets of a Unix socket's path (`sun_path` less its final zero, unix(7)).
pub const SOCKET_PATH: usize = 107;

/// Why a port that was just opened carries nothing yet.
pub fn awaited(socket: &Path, mode: SocketMode) -> String {
    match mode {
        SocketMode::Client => format!("nobody listens on {} yet", socket.display()),
        SocketMode::Server => format!("nobody has connected to {} yet", socket.display()),
    }
}

/// Which port's peer: a number of the [`PeerSink`]'s own, as the port has none before it is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub(crate) u64);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether the other side is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// It is, and takes frames; in words what it can do, or nothing if there is but one way. Told again, it is another one (the one before
    /// went in between).
    Present(String),
    /// It is not; one sentence for the administrator says why, and what to do.
    Absent(String),
}

/// Where the owner of a socket says whether its peer is there. Until it says so for the first time, the peer is absent.
#[derive(Clone)]
pub struct PeerSink {
    events: Arc<Events>,
    id: PeerId,
}

impl PeerSink {
    pub(crate) fn new(events: &Arc<Events>) -> Self {
        Self {
            events: Arc::clone(events),
            id: events.peer_id(),
        }
    }

    /// Whose peer [`Event::Peer`](crate::Event::Peer) speaks of.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// Says how it is now; what was said before and not heard yet is forgotten.
    pub fn tell(&self, peer: Peer) {
        self.events.tell_peer(self.id, peer);
    }
}

impl fmt::Debug for PeerSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PeerSink").field(&self.id.0).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;
    use crate::Event;

    #[test]
    fn only_the_latest_state_of_each_peer_is_told() {
        let told = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&told);
        let events = Arc::new(Events::new(Box::new(move || {
            counter.fetch_add(1, Relaxed);
        })));
        let (first, second) = (PeerSink::new(&events), PeerSink::new(&events));
        assert_ne!(first.id(), second.id());
        for round in 0..10_000 {
            first.tell(Peer::Absent(format!("round {round}")));
            first.tell(Peer::Present(String::new()));
        }
        second.tell(Peer::Absent("gone".to_owned()));
        assert_eq!(told.load(Relaxed), 20_001);
        let event = |sink: &PeerSink, state| Event::Peer {
            peer: sink.id(),
            state,
        };
        assert_eq!(events.take(), Some(event(&first, Peer::Present(String::new()))));
        assert_eq!(
            events.take(),
            Some(event(&second, Peer::Absent("gone".to_owned())))
        );
        assert_eq!(events.take(), None);
        assert_eq!(events.lost(), 0);
    }
}
