//! The way of a frame, whole, in one function: [`forward`].
//!
//! Speed: a frame costs one lookup of its source, one of its destination, and for a flood one step per port of its VLAN.
//! Nothing is allocated, no lock is waited for, and nothing shared is written except the coarse time of a MAC entry and
//! what really changes (a new or moved address, a guest's new MAC).
//!
//! Threads: any number of workers may run [`forward`] on one snapshot.

use crate::addr::MacAddr;
use crate::fdb::Learnt;
use crate::frame::{FrameView, Hop};
use crate::id::PortId;
use crate::security::Guard;
use crate::snapshot::{Overflow, Port, Snapshot, Switch};
use crate::time::Timestamp;
use crate::verdict::DropReason;
use crate::vid::{Tag, Tpid, Vid};
use crate::vlan::OuterTag;

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
    /// A port of the VLAN is left out of an unknown unicast flood, because its guest is another station
    /// and its policy lets it be no further one.
    OtherStation {
        /// Which.
        port: PortId,
        /// Its guest's address.
        effective: MacAddr,
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

/// Octets of an Ethernet header.
const ETHERNET: usize = 14;

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
    hops.clear();

    // Parse.
    let Some(ethernet) = frame.header.first_chunk::<ETHERNET>() else {
        return Err(DropReason::Runt);
    };
    let port = match snapshot.port(frame.port) {
        Some(port) if port.enabled => port,
        _ => return Err(DropReason::PortDisabled),
    };
    let switch = snapshot.switch(port.switch);
    let &[d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, ..] = ethernet;
    let destination = MacAddr([d0, d1, d2, d3, d4, d5]);
    let source = MacAddr([s0, s1, s2, s3, s4, s5]);
    let outer = match OuterTag::read(frame.header) {
        OuterTag::None => None,
        OuterTag::Is(tag) => Some(tag),
        OuterTag::Truncated => return Err(DropReason::VlanTruncated),
    };
    if outer.is_some_and(|tag| tag.tpid == Tpid::Dot1Q && Vid::new(tag.raw_vid()).is_none()) {
        return Err(DropReason::VlanReserved);
    }
    let tag = outer.filter(|tag| port.vlan.tpid() == Some(tag.tpid));
    observer.step(Step::Parsed {
        destination,
        source,
        tag,
    });
    if frame.len > usize::from(switch.mtu) + ETHERNET && is_too_long(frame, switch, outer) {
        return Err(DropReason::TooLong);
    }
    if !source.is_station() {
        return Err(DropReason::BadSource);
    }
    if destination.is_bridge_reserved() {
        return Err(DropReason::ReservedAddress);
    }

    // VLAN ingress.
    let classified = port.vlan.ingress(tag)?;
    let vid = classified.vid;
    observer.step(Step::Vlan {
        vid,
        priority: classified.priority,
    });

    // Source security.
    let guard = guard(port);
    guard.admit(source, mode)?;
    observer.step(Step::Security {
        effective: guard.effective(),
    });

    // Learn.
    let learnt = match mode {
        Mode::Live => switch
            .fdb
            .learn(vid, source, port.id, now, switch.ageing, port.mac_limit),
        Mode::Dry => switch
            .fdb
            .preview(vid, source, port.id, now, switch.ageing, port.mac_limit),
    };
    observer.step(Step::Learnt(learnt));
    match learnt {
        Learnt::StaticElsewhere { .. } => return Err(DropReason::StaticMac),
        Learnt::Limited
            if port
                .mac_limit
                .is_some_and(|limit| limit.overflow == Overflow::Drop) =>
        {
            return Err(DropReason::MacLimit);
        }
        _ => {}
    }

    // Forwarding lookup.
    let place = if destination.is_multicast() {
        None
    } else if mode == Mode::Dry
        && destination == source
        && matches!(learnt, Learnt::New | Learnt::Moved { .. })
    {
        // Live, the table would know by now.
        Some(port.id)
    } else {
        switch.fdb.lookup(vid, destination, now, switch.ageing)
    };
    let known = place
        .and_then(|id| snapshot.port(id))
        .filter(|to| to.up && to.enabled && to.switch == port.switch);

    // Egress checks and VLAN egress.
    let mut way = Way {
        from: port,
        vid,
        priority: classified.priority,
        hops,
        observer,
    };
    match known {
        Some(to) => {
            way.observer.step(Step::Hit { port: to.id });
            if to.id == port.id {
                return Err(DropReason::SamePort);
            }
            if !to.vlan.carries(vid) {
                return Err(DropReason::EgressVlan);
            }
            may_send(port, to)?;
            way.send(to);
            for id in snapshot.promiscuous(port.switch, vid) {
                if *id != to.id {
                    way.offer(snapshot, *id, None);
                }
            }
        }
        None => {
            let members = snapshot.members(port.switch, vid);
            way.observer.step(Step::Flood {
                members: members.len(),
            });
            let unknown = (!destination.is_multicast()).then_some(destination);
            for id in members {
                way.offer(snapshot, *id, unknown);
            }
        }
    }
    if hops.is_empty() {
        return Err(DropReason::NoDestination);
    }
    Ok(())
}

/// The last part of a frame's way: it is known what the frame is, and hops are collected.
struct Way<'a, O> {
    from: &'a Port,
    vid: Vid,
    priority: u16,
    hops: &'a mut Vec<Hop>,
    observer: &'a mut O,
}

impl<O: Observer> Way<'_, O> {
    #[inline]
    fn send(&mut self, to: &Port) {
        let hop = Hop {
            port: to.id,
            tag: to.vlan.egress(self.vid, self.priority),
        };
        self.observer.step(Step::Hop(hop));
        self.hops.push(hop);
    }

    /// Sends a copy to a port of the VLAN, unless policy leaves it out. `unknown` is the destination, where nothing is
    /// known about it and it is not a group.
    #[inline]
    fn offer(&mut self, snapshot: &Snapshot, id: PortId, unknown: Option<MacAddr>) {
        if id == self.from.id {
            return;
        }
        let Some(to) = snapshot.port(id) else { return };
        if let Err(reason) = may_send(self.from, to) {
            self.observer.step(Step::Withheld { port: id, reason });
            return;
        }
        if let Some(effective) = unknown.and_then(|mac| guard(to).other_station(mac)) {
            self.observer.step(Step::OtherStation { port: id, effective });
            return;
        }
        self.send(to);
    }
}

/// Whether policy lets a frame cross from one port to the other.
#[inline]
fn may_send(from: &Port, to: &Port) -> Result<(), DropReason> {
    if from.isolated && to.isolated {
        return Err(DropReason::Isolated);
    }
    if !guard(to).receives() {
        return Err(DropReason::MacChanged);
    }
    Ok(())
}

#[inline]
fn guard(port: &Port) -> Guard<'_> {
    Guard {
        policy: port.security,
        mac: port.mac,
        state: &port.state,
    }
}

/// Whether the longest frame that this one becomes on a wire exceeds the MTU, an Ethernet header and up to two tags.
#[cold]
#[inline(never)]
fn is_too_long(frame: &FrameView<'_>, switch: &Switch, outer: Option<Tag>) -> bool {
    let inner = outer.and_then(|_| match OuterTag::read(frame.header.get(Tag::LEN..)?) {
        OuterTag::Is(tag) => Some(tag),
        _ => None,
    });
    let tags = usize::from(outer.is_some()) + usize::from(inner.is_some());
    frame.offload.wire_len(frame.len) > usize::from(switch.mtu) + ETHERNET + tags * Tag::LEN
}
