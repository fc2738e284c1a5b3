//! The devices behind ports: one trait, [`Queue`], and one file for each kind.
//!
//! A queue is one receive and one transmit queue of a port. A port has one or more, each owned by one worker: a flow that enters by a queue
//! is decided on by that queue's worker, in order. A worker sends by its own queue of a port if it has one, and else hands the frame over to a
//! worker that has. A worker calls its queues; nobody else does.

use std::io;
use std::os::fd::BorrowedFd;

use switch_core::addr::MacAddr;
use switch_core::offload::Capabilities;
use switch_core::verdict::DropReason;
use switch_core::vid::Tag;

use crate::frame::Frame;
use crate::pool::Pool;

pub mod packet;
pub mod peer;
mod socket;
pub mod stream;
pub mod tap;
pub(crate) mod vhost_user;
mod vnet;
pub mod xdp;

pub use peer::{Peer, PeerId, PeerSink, SOCKET_PATH, SocketMode, StreamSpec, VhostUserSpec};
pub use stream::open as open_stream;
pub use tap::open as open_tap;
pub use vhost_user::{LONG, LeftAlone, open as open_vhost_user};
pub use xdp::Umems;

/// Attaches an existing netdev, by the driver that the specification names.
pub fn open_device(spec: &PacketSpec, umems: &Umems) -> Result<Vec<Box<dyn Queue>>, OpenError> {
    match spec.driver {
        Driver::AfPacket => packet::open(spec, None),
        Driver::AfXdp => xdp::device::open(spec, umems, true),
        Driver::Auto => match xdp::device::suits(&spec.device) {
            Err(why) => packet::open(spec, Some(why)),
            Ok(()) => match xdp::device::open(spec, umems, false) {
                Ok(queues) => Ok(queues),
                Err(why) => packet::open(spec, Some(&why.to_string())),
            },
        },
    }
}

/// Most frames of one batch.
pub const BATCH: usize = 64;

/// Most octets of one batch, where a device is read frame by frame: what is read is then still in the cache when
/// it is sent on.
pub const BATCH_OCTETS: usize = 256 * 1024;

/// One copy of a frame that waits to leave by a port.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing {
    /// Which frame of the batch.
    pub frame: u16,
    /// The outer tag that it leaves with.
    pub tag: Option<Tag>,
    /// It is the only copy, and nobody looks at the frame once it was sent: the queue may take its memory.
    pub sole: bool,
    /// What became of it; `Ok` until the queue says otherwise.
    pub outcome: Result<(), SendFailure>,
}

/// Why a frame was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendFailure {
    /// The reason that is counted.
    pub reason: DropReason,
    /// The error of the system call, for the log; 0 if there is none worth logging.
    pub errno: i32,
}

impl SendFailure {
    /// Sorts an error of the system: a device that is down or gone, a queue that is full, or a frame it doesn't like.
    fn from_system(error: &io::Error) -> Self {
        let (reason, errno) = match error.raw_os_error() {
            // A TAP says EIO when its netdev is down and EBADFD when it was deleted; AF_PACKET says the others.
            Some(libc::EIO | libc::EBADFD | libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => {
                (DropReason::TxPortDown, 0)
            }
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => (DropReason::TxQueueFull, 0),
            errno => (DropReason::TxError, errno.unwrap_or(0)),
        };
        Self { reason, errno }
    }
}

/// One receive and one transmit queue of a port, owned by one worker.
///
/// Buffers come from the worker's pool and are in the batch when [`Queue::receive`] returns, or in the pool again, also on an error. After each receive that
/// gave frames [`Queue::finish`] is called before the next one. A queue goes from worker to worker between batches, and its new worker calls
/// [`Queue::wake`] first, whatever the last one left it in.
pub trait Queue: Send {
    /// Appends the frames that wait, at most [`BATCH`] in all, to `batch`; never waits. True if more may wait.
    ///
    /// # Errors
    /// The device is gone or broken; the worker stops reading it and tells the control plane.
    fn receive(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> io::Result<bool>;

    /// Sends the frames of `batch` that `outgoing` names, in that order, each with the tag it asks for, and says in
    /// `outgoing` which it could not send. Never waits. Every frame is one that [`Queue::capabilities`] takes.
    ///
    /// Of a frame that is [`Outgoing::sole`], the queue may keep the chunk, to send it later, and leave another in its place
    /// (AF_XDP); length and destination of the frame stay as they were.
    fn transmit(&mut self, batch: &mut [Frame], outgoing: &mut [Outgoing]);

    /// The frames of the last receive are gone: what they lay in may be used anew.
    fn finish(&mut self) {}

    /// Whether [`Queue::transmit`] takes frames of which only the front is in their chunk. The others are given frames that are whole there.
    fn takes_payload(&self) -> bool {
        false
    }

    /// What is readable showed it. True if the queue is to be asked for frames from now on without being readable, until
    /// [`Queue::arm`] has said that it sleeps.
    fn wake(&mut self) -> bool {
        false
    }

    /// Nobody will ask for frames for a while: from now on [`Queue::readiness`] shows them. True if some wait already.
    fn arm(&mut self) -> bool {
        false
    }

    /// The worker was kept waiting, and it may have been by what this queue shares with its other side: the queue times its own calls for a while.
    /// Returns what came of it since the last time.
    fn suspect(&mut self) -> Option<LeftAlone> {
        None
    }

    /// Whether frames can be sent by this queue: a port whose other side uses fewer queues than it might is given frames by the others only. What
    /// this says may change whenever [`Queue::wake`] is called.
    fn takes_frames(&self) -> bool {
        true
    }

    /// What is readable when frames wait.
    fn readiness(&self) -> BorrowedFd<'_>;

    /// Which offloads the device takes.
    fn capabilities(&self) -> Capabilities;

    /// The worker gives the queue back: takes out of the pool what the queue has lent.
    fn retire(&mut self, _pool: &mut Pool) {}

    /// How the device is attached, in words; empty if there is but one way.
    fn driver(&self) -> &str {
        ""
    }

    /// The worker that it is opened for: with other queues there it shares memory, so that frames go from one to the other without a copy.
    fn worker(&self) -> Option<usize> {
        None
    }

    /// Frames that the kernel dropped since the last call because we were too slow to read them.
    fn take_kernel_drops(&mut self) -> u64 {
        0
    }
}

/// A TAP that the switch owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapSpec {
    /// Name of the netdev, at most 15 octets.
    pub name: String,
    /// Network namespace (a name under /run/netns, or a path) in which the TAP is made or found; `None`: the daemon's.
    pub netns: Option<String>,
    /// MTU of the netdev.
    pub mtu: u16,
    /// Address given to the netdev.
    pub mac: Option<MacAddr>,
    /// The netdev stays when the daemon ends.
    pub persistent: bool,
    /// The netdev may send super-frames and partial checksums.
    pub offloads: bool,
    /// How many queues.
    pub queues: usize,
}

/// How an existing netdev is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// AF_XDP for NICs whose drivers run XDP programs, AF_PACKET for all others.
    #[default]
    Auto,
    /// AF_XDP.
    AfXdp,
    /// AF_PACKET.
    AfPacket,
}

/// An existing netdev.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketSpec {
    /// Name of the netdev.
    pub device: String,
    /// How it is attached.
    pub driver: Driver,
    /// The device may be given super-frames and partial checksums (AF_PACKET; by AF_XDP it is given none).
    pub offloads: bool,
    /// Under load, poll the device in place of its interrupts (AF_XDP).
    pub busy_poll: bool,
    /// For how many workers: AF_PACKET has a queue for each of them, AF_XDP those of the device, which are shared out.
    pub queues: usize,
}

/// A device cannot be opened. Says what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The netdev is not there.
    #[error("there is no device `{device}`; it is attached as soon as it appears")]
    Missing {
        /// Its name.
        device: String,
    },
    /// The netdev carries no Ethernet frames.
    #[error("`{device}` is not an Ethernet device")]
    NotEthernet {
        /// Its name.
        device: String,
    },
    /// The name belongs to a netdev that is no TAP.
    #[error(
        "`{device}` exists and is not a TAP; attach it with `device: {device}` instead of `tap:`, or name another TAP"
    )]
    NotTap {
        /// Its name.
        device: String,
    },
    /// A TAP that was made for one queue, and is to have several.
    #[error(
        "the TAP `{device}` is there from before and has room for one queue, but is to have several; delete it, and it is made anew: ip link del {device}"
    )]
    OneQueue {
        /// Its name.
        device: String,
    },
    /// Another process holds the TAP.
    #[error(
        "the TAP `{device}` is held by another process; if that is a VM's hypervisor, attach it with `device: {device}` instead of `tap:`"
    )]
    Busy {
        /// Its name.
        device: String,
    },
    /// Not permitted.
    #[error("no permission to open `{device}` ({source}); for this vswitchd needs {needs}")]
    Permission {
        /// Its name.
        device: String,
        /// What the daemon needs for it.
        needs: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The namespace is not there.
    #[error(
        "there is no network namespace `{netns}` for the TAP `{device}`; {}", make_netns(.netns)
    )]
    MissingNetns {
        /// Name of the device.
        device: String,
        /// Name of the namespace.
        netns: String,
    },
    /// The process has no file descriptor left for it.
    #[error(
        "no file descriptor is left for `{device}`; raise the limit of open files (`LimitNOFILE=` of vswitchd.service, or `ulimit -n`), or attach fewer ports"
    )]
    Descriptors {
        /// Its name.
        device: String,
    },
    /// Another process listens on the socket.
    #[error(
        "another process listens on `{device}`; give this port a socket of its own, or connect to that process with `mode: client`"
    )]
    SocketInUse {
        /// Its path.
        device: String,
    },
    /// The path is something else.
    #[error("`{device}` is there and is not a socket; remove it, or choose another path")]
    NotASocket {
        /// The path.
        device: String,
    },
    /// The socket cannot be made.
    #[error(
        "the socket `{device}` cannot be opened: {what}: {source}; its directory must be there, and writable by vswitchd"
    )]
    Socket {
        /// Its path.
        device: String,
        /// What was tried.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// This version can't.
    #[error("`{device}` cannot be opened: {what} is not in this version; {instead}")]
    Unsupported {
        /// Path of its socket.
        device: String,
        /// What it is.
        what: &'static str,
        /// What to do.
        instead: &'static str,
    },
    /// The device hides VLAN tags from AF_XDP.
    #[error(
        "`{device}` takes the VLAN tags off received frames, where AF_XDP cannot see them; turn that off with `ethtool -K {device} rxvlan off`, or attach it with `driver: af-packet`"
    )]
    XdpVlan {
        /// Its name.
        device: String,
    },
    /// Another XDP program or AF_XDP socket is there.
    #[error(
        "another program has `{device}` by XDP (`ip link show {device}` and `bpftool net` tell which); end it, or attach the device with `driver: af-packet`"
    )]
    XdpBusy {
        /// Its name.
        device: String,
    },
    /// Not by AF_XDP.
    #[error("`{device}` cannot be attached by AF_XDP: {what}; attach it with `driver: af-packet`")]
    XdpUnsupported {
        /// Its name.
        device: String,
        /// Why.
        what: &'static str,
    },
    /// Its frames are too long for AF_XDP.
    #[error(
        "the MTU of `{device}` is {mtu}, and AF_XDP takes {longest} at most on this kernel and driver; lower it with `ip link set {device} mtu {longest}`, or attach it with `driver: af-packet`"
    )]
    XdpLong {
        /// Its name.
        device: String,
        /// Its MTU.
        mtu: usize,
        /// The greatest MTU.
        longest: usize,
    },
    /// Not enough memory may be locked.
    #[error(
        "not enough memory may be locked for AF_XDP on `{device}`; raise the limit (`LimitMEMLOCK=` of vswitchd.service, or `ulimit -l`), give vswitchd CAP_IPC_LOCK, or attach the device with `driver: af-packet`"
    )]
    LockedMemory {
        /// Its name.
        device: String,
    },
    /// Anything else.
    #[error("`{device}` cannot be opened: {what}: {source}")]
    Other {
        /// Its name.
        device: String,
        /// What was tried.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

/// What to do about a namespace that is not there.
fn make_netns(netns: &str) -> String {
    if netns.contains('/') {
        "its process has ended, and one that is started again has another number".to_owned()
    } else {
        format!("make it with `ip netns add {netns}`")
    }
}

impl OpenError {
    /// Sorts an error of the system about the socket at a path.
    fn from_socket(path: &std::path::Path, what: &'static str, source: io::Error) -> Self {
        let device = path.display().to_string();
        match source.raw_os_error() {
            Some(libc::EMFILE) => Self::Descriptors { device },
            Some(libc::EADDRINUSE) => Self::SocketInUse { device },
            _ => Self::Socket { device, what, source },
        }
    }

    /// Sorts an error of the system.
    fn from_system(device: &str, what: &'static str, source: io::Error) -> Self {
        let device = device.to_owned();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Permission {
                device,
                needs: "CAP_NET_ADMIN and CAP_NET_RAW",
                source,
            },
            Some(libc::EMFILE) => Self::Descriptors { device },
            Some(libc::EBUSY) => Self::Busy { device },
            Some(libc::ENODEV | libc::ENXIO) => Self::Missing { device },
            _ => Self::Other { device, what, source },
        }
    }

    /// Says what the daemon needs, if it is not permitted.
    fn needing(mut self, what: &'static str) -> Self {
        if let Self::Permission { needs, .. } = &mut self {
            *needs = what;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_namespace_is_made_by_name_and_looked_for_by_path() {
        let say = |netns: &str| {
            let missing = OpenError::MissingNetns {
                device: "eth0".to_owned(),
                netns: netns.to_owned(),
            };
            missing.to_string()
        };
        assert!(say("web1").ends_with("make it with `ip netns add web1`"));
        assert!(say("/proc/4711/ns/net").ends_with("another number"));
    }
}
