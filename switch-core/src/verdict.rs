//! Why a frame is not forwarded. Every drop has a name, a counter and an explanation; nothing is dropped silently.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[doc = $explain:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a frame was dropped. The text form, kebab-case, is stable: it is the `reason` label of the metrics.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $explain])+ #[serde(rename = $name)] $variant,)+
        }

        impl DropReason {
            /// All reasons, in the order of their [`DropReason::index`].
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The stable name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// One sentence for the administrator: what happened and what to do.
            pub fn explain(self) -> &'static str {
                match self { $(Self::$variant => concat!($($explain,)+).trim_ascii_start(),)+ }
            }
        }
    };
}

reasons! {
    // Damaged or never to be forwarded, whatever the configuration.
    /// The frame is shorter than an Ethernet header (14 octets).
    Runt = "runt",
    /// The frame is longer than the switch's MTU, its headers and tags allow; raise `mtu` or lower the sender's.
    TooLong = "too-long",
    /// The frame ends inside its VLAN tag.
    VlanTruncated = "vlan-truncated",
    /// The VLAN tag says VID 4095, which IEEE 802.1Q reserves.
    VlanReserved = "vlan-reserved",
    /// The source address is a group address or all zero.
    BadSource = "bad-source",
    /// The destination is one of 01:80:c2:00:00:00 to -0f, which a bridge never forwards (STP, LACP, LLDP, pause).
    ReservedAddress = "reserved-address",
    /// The frame is for the switch itself: LACP of the neighbour at an uplink. It was taken.
    ForSwitch = "for-switch",
    /// The sender's offload header (virtio_net_hdr) contradicts the frame.
    BadOffload = "bad-offload",
    /// The frame did not fit the receive buffer.
    RxTruncated = "rx-truncated",

    // Policy of the port it came from.
    /// The port is disabled in the configuration (`enabled: false`).
    PortDisabled = "port-disabled",
    /// The frame carries a VLAN tag, and the port takes untagged frames only (access or no `vlan`).
    VlanTagged = "vlan-tagged",
    /// The frame is untagged, and the trunk port has no `native` VLAN.
    VlanUntagged = "vlan-untagged",
    /// The frame's VLAN is not in the port's `trunk` list.
    VlanNotAllowed = "vlan-not-allowed",
    /// The source is not the port's MAC address, and `security.forged-transmits` is `reject`.
    ForgedTransmit = "forged-transmit",
    /// The source is a static MAC entry of another port.
    StaticMac = "static-mac",
    /// The port has reached its `mac-limit`, whose `overflow` is `drop`.
    MacLimit = "mac-limit",

    // Uplinks.
    /// The frame came in by an uplink, and its source was heard behind a port of this switch within the last 5 s, announced there, or is a static entry: the network
    /// outside has sent it back.
    Reflection = "reflection",
    /// The frame is for a group or an unknown station, and came in by an uplink by which no port of its VLAN takes such frames: the network
    /// outside sends one to each uplink, and each port takes that of its own.
    Duplicate = "duplicate",
    /// The frame came in by an uplink that the team of the destination port does not use (neither `active` nor `standby`).
    UplinkUnused = "uplink-unused",
    /// The destination is outside, and no uplink of the port's team is up; `vswitchctl team show` says why.
    NoUplink = "no-uplink",

    /// The port waits for its guest's first announcement (`activation: announce`), and the frame is none; `activation: now` lifts that.
    NotActivated = "not-activated",

    // Forwarding.
    /// The destination is behind the port the frame came from.
    SamePort = "same-port",
    /// Both ports are `isolated`.
    Isolated = "isolated",
    /// The destination port does not carry the frame's VLAN.
    EgressVlan = "egress-vlan",
    /// The frame would leave untagged, and a VLAN tag within it would be taken for its own where it goes; have the VLAN tagged
    /// at the destination port, or use `dot1q-tunnel` at both.
    VlanNested = "vlan-nested",
    /// The destination port's guest has changed its MAC address, and `security.mac-changes` is `reject`.
    MacChanged = "mac-changed",
    /// No other port that is up in the frame's VLAN may be given it.
    NoDestination = "no-destination",

    // Sending. These count at the port that the frame was to leave by.
    /// The device's send queue is full: the receiver is slower than the traffic.
    TxQueueFull = "tx-queue-full",
    /// Another worker sends for this port, and the frames on their way to it are as many as there may be: that worker has too much to do.
    /// `vswitchctl top` shows how busy the workers are; more of them, or a `worker:` of its own for the port, help.
    WorkerQueueFull = "worker-queue-full",
    /// The port's device is down or gone.
    TxPortDown = "tx-port-down",
    /// The device refused the frame; the daemon's log has the error.
    TxError = "tx-error",
    /// The frame needs segmentation or a checksum that can't be done for its protocol.
    TxOffload = "tx-offload",
    /// The port's guest kept the switch waiting for its memory, and is left alone for a while so that other ports do not wait: its hypervisor
    /// punches holes in the memory that it shares, or the host is short of memory. `vswitchctl events` has how long.
    GuestSlow = "guest-slow",
    /// No buffer was free.
    NoBuffer = "no-buffer",
}

impl DropReason {
    /// The reason as an index below [`DropReason::COUNT`].
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The reason of a name as [`DropReason::name`] gives it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.name() == name)
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
