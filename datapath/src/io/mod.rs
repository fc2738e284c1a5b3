//! The devices behind ports.
#![allow(missing_docs, unused_variables)] // skeleton

use switch_core::addr::MacAddr;

/// One receive and one transmit queue of a port, owned by one worker.
pub trait Queue: Send {}

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
    /// How many queues: one per worker.
    pub queues: usize,
}

/// An existing netdev, attached through AF_PACKET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketSpec {
    /// Name of the netdev.
    pub device: String,
    /// The device may be given super-frames and partial checksums.
    pub offloads: bool,
    /// How many queues: one per worker.
    pub queues: usize,
}

/// A device cannot be opened. Says what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("there is no device `{device}`; it is attached as soon as it appears")]
    Missing { device: String },
    #[error("`{device}` is not an Ethernet device")]
    NotEthernet { device: String },
    #[error(
        "the TAP `{device}` is held by another process; if that is a VM's hypervisor, attach it with `device: {device}` instead of `tap:`"
    )]
    Busy { device: String },
    #[error(
        "no permission to open `{device}` ({source}); vswitchd needs CAP_NET_ADMIN and CAP_NET_RAW, and access to /dev/net/tun for TAPs"
    )]
    Permission { device: String, source: std::io::Error },
    #[error(
        "there is no network namespace `{netns}` for the TAP `{device}`; make it with `ip netns add {netns}`"
    )]
    MissingNetns { device: String, netns: String },
    #[error("`{device}` cannot be opened: {what}: {source}")]
    Other {
        device: String,
        what: &'static str,
        source: std::io::Error,
    },
}

/// Opens or makes a TAP; one queue per worker.
pub fn open_tap(spec: &TapSpec) -> Result<Vec<Box<dyn Queue>>, OpenError> {
    todo!()
}

/// Attaches an existing netdev; one queue per worker.
pub fn open_packet(spec: &PacketSpec) -> Result<Vec<Box<dyn Queue>>, OpenError> {
    todo!()
}
