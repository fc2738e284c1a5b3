//! The way of a frame, whole, in one function: [`forward`].

use crate::addr::MacAddr;
use crate::fdb::Learnt;
use crate::frame::{FrameView, Hop};
use crate::id::PortId;
use crate::snapshot::Snapshot;
use crate::time::Timestamp;
use crate::verdict::DropReason;
use crate::vid::{Tag, Vid};

/// One step of a frame's way, told to an [`Observer`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The Ethernet header was read.
    Parsed {
        /// Destination.
        destination: MacAddr,
        /// Source.
        source: MacAddr,
        /// The outer tag, where the port takes it for one.
        tag: Option<Tag>,
    },
    /// VLAN ingress put the frame into a VLAN.
    Vlan {
        /// Which.
        vid: Vid,
        /// PCP and DEI, in place as in a TCI.
        priority: u16,
    },
    /// The security policy let the source pass.
    Security {
        /// The guest's effective address after this frame.
        effective: Option<MacAddr>,
    },
    /// What the MAC table made of the source.
    Learnt(Learnt),
    /// The MAC table knows the destination.
    Hit {
        /// Where it is.
        port: PortId,
    },
    /// The destination is unknown, or a group.
    Flood {
        /// How many ports carry the VLAN, the frame's own among them.
        members: usize,
    },
    /// A port of the VLAN is left out of the flood.
    Withheld {
        /// Which.
        port: PortId,
        /// Why.
        reason: DropReason,
    },
    /// The frame leaves by a port.
    Hop(Hop),
}

/// Sees each step of a frame's way. The datapath observes nothing and pays nothing for it.
pub trait Observer {
    /// One step was taken.
    fn step(&mut self, step: Step);
}

/// Observes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    #[inline(always)]
    fn step(&mut self, _: Step) {}
}

impl Observer for Vec<Step> {
    fn step(&mut self, step: Step) {
        self.push(step);
    }
}

/// Whether the frame is real.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Learn from it.
    Live,
    /// Say what would happen, and leave no trace in the switch's state (`vswitchctl trace`).
    Dry,
}

/// Decides about one frame.
///
/// On `Ok`, `hops` holds at least one hop, each to another port than the frame's own, and no port twice.
/// On `Err` it is empty. `hops` is cleared first; with room for every port of the snapshot nothing is allocated.
pub fn forward<O: Observer>(
    snapshot: &Snapshot,
    now: Timestamp,
    frame: &FrameView<'_>,
    mode: Mode,
    hops: &mut Vec<Hop>,
    observer: &mut O,
) -> Result<(), DropReason> {
    let _ = (snapshot, now, frame, mode, hops, observer);
    todo!()
}
