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
use crate::snapshot::{Compiled, Overflow, Port, Snapshot, Switch};
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
    /// False if it looks at nothing, so that what only it would see need not be found out.
    const LOOKS: bool = true;

    /// One step was taken.
    fn step(&mut self, step: Step);
}

/// Observes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    const LOOKS: bool = false;

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
    let from = match snapshot.compiled(frame.port) {
        Some(from) if from.port.enabled => from,
        _ => return Err(DropReason::PortDisabled),
    };
    let port = &from.port;
    let switch = snapshot.switch(port.switch);
    let (destination, source) = addresses(ethernet);
    let outer = match OuterTag::read(frame.header) {
        OuterTag::None => None,
        OuterTag::Is(tag) => Some(tag),
        OuterTag::Truncated => return Err(DropReason::VlanTruncated),
    };
    if outer.is_some_and(|tag| tag.tpid == Tpid::Dot1Q && Vid::new(tag.raw_vid()).is_none()) {
        return Err(DropReason::VlanReserved);
    }
    let tag = outer.filter(|tag| tag.tpid.ethertype() == from.tpid);
    if O::LOOKS {
        observer.step(Step::Parsed {
            destination: MacAddr::from_u64(destination),
            source: MacAddr::from_u64(source),
            tag,
        });
    }
    if frame.len > usize::from(switch.mtu) + ETHERNET && is_too_long(frame, switch, outer) {
        return Err(DropReason::TooLong);
    }
    if source & GROUP != 0 || source == 0 {
        return Err(DropReason::BadSource);
    }
    let group = destination & GROUP != 0;
    if group && MacAddr::from_u64(destination).is_bridge_reserved() {
        return Err(DropReason::ReservedAddress);
    }

    // VLAN ingress.
    let (vid, priority) = match tag {
        None => (from.untagged.ok_or(DropReason::VlanUntagged)?, 0),
        Some(_) => {
            let classified = port.vlan.ingress(tag)?;
            (classified.vid, classified.priority)
        }
    };
    if O::LOOKS {
        observer.step(Step::Vlan { vid, priority });
    }

    // Source security.
    if from.guarded {
        guard(from).admit(source, mode)?;
    }
    if O::LOOKS {
        observer.step(Step::Security {
            effective: guard(from).effective(),
        });
    }

    // Learn.
    let fresh = switch.fdb.is_fresh(vid, source, port.id, now);
    let learnt = if fresh {
        Learnt::Known
    } else {
        learn(switch, port, vid, source, now, mode)
    };
    if O::LOOKS {
        observer.step(Step::Learnt(learnt));
    }
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
    let place = if group {
        None
    } else if mode == Mode::Dry
        && destination == source
        && matches!(learnt, Learnt::New | Learnt::Moved { .. })
    {
        // Live, the table would know by now.
        Some(port.id)
    } else {
        switch.fdb.lookup_number(vid, destination, now, switch.ageing)
    };
    let known = place
        .and_then(|id| snapshot.compiled(id))
        .filter(|to| to.live && to.port.switch == port.switch);

    // Egress checks and VLAN egress.
    let mut way = Way {
        from,
        vid,
        priority,
        hops,
        observer,
    };
    match known {
        Some(to) => {
            if O::LOOKS {
                way.observer.step(Step::Hit { port: to.port.id });
            }
            if to.port.id == port.id {
                return Err(DropReason::SamePort);
            }
            if to.untagged != Some(vid) && !to.port.vlan.carries(vid) {
                return Err(DropReason::EgressVlan);
            }
            may_send(from, to)?;
            way.send(to);
            if snapshot.has_promiscuous(port.switch) {
                for id in snapshot.promiscuous(port.switch, vid) {
                    if *id != to.port.id {
                        way.offer(snapshot, *id, None);
                    }
                }
            }
            Ok(())
        }
        None => {
            let members = snapshot.members(port.switch, vid);
            if O::LOOKS {
                way.observer.step(Step::Flood {
                    members: members.len(),
                });
            }
            let unknown = (!group).then(|| MacAddr::from_u64(destination));
            for id in members {
                way.offer(snapshot, *id, unknown);
            }
            if hops.is_empty() {
                return Err(DropReason::NoDestination);
            }
            Ok(())
        }
    }
}

/// The I/G bit of an address as [`MacAddr::to_u64`] gives it.
const GROUP: u64 = 1 << 40;

/// Destination and source, as [`MacAddr::to_u64`] gives them.
#[inline]
fn addresses(ethernet: &[u8; ETHERNET]) -> (u64, u64) {
    let &[d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, ..] = ethernet;
    // The octets beside the address are loaded with it and shifted or masked out again: one load instead of two.
    let destination = u64::from_be_bytes([d0, d1, d2, d3, d4, d5, s0, s1]) >> 16;
    let source = u64::from_be_bytes([d4, d5, s0, s1, s2, s3, s4, s5]) & 0xffff_ffff_ffff;
    (destination, source)
}

/// Learns a source that the table does not know as just seen behind this port.
#[cold]
#[inline(never)]
fn learn(switch: &Switch, port: &Port, vid: Vid, source: u64, now: Timestamp, mode: Mode) -> Learnt {
    let (fdb, source) = (&switch.fdb, MacAddr::from_u64(source));
    match mode {
        Mode::Live => fdb.learn(vid, source, port.id, now, switch.ageing, port.mac_limit),
        Mode::Dry => fdb.preview(vid, source, port.id, now, switch.ageing, port.mac_limit),
    }
}

/// The last part of a frame's way: it is known what the frame is, and hops are collected.
struct Way<'a, O> {
    from: &'a Compiled,
    vid: Vid,
    priority: u16,
    hops: &'a mut Vec<Hop>,
    observer: &'a mut O,
}

impl<O: Observer> Way<'_, O> {
    #[inline]
    fn send(&mut self, to: &Compiled) {
        let tag = if to.untagged == Some(self.vid) {
            None
        } else {
            to.port.vlan.egress(self.vid, self.priority)
        };
        let hop = Hop {
            port: to.port.id,
            tag,
        };
        if O::LOOKS {
            self.observer.step(Step::Hop(hop));
        }
        self.hops.push(hop);
    }

    /// Sends a copy to a port of the VLAN, unless policy leaves it out. `unknown` is the destination, where nothing is
    /// known about it and it is not a group.
    #[inline]
    fn offer(&mut self, snapshot: &Snapshot, id: PortId, unknown: Option<MacAddr>) {
        if id == self.from.port.id {
            return;
        }
        let Some(to) = snapshot.compiled(id) else { return };
        if let Err(reason) = may_send(self.from, to) {
            if O::LOOKS {
                self.observer.step(Step::Withheld { port: id, reason });
            }
            return;
        }
        if let Some(effective) = unknown.and_then(|mac| guard(to).other_station(mac)) {
            if O::LOOKS {
                self.observer.step(Step::OtherStation { port: id, effective });
            }
            return;
        }
        self.send(to);
    }
}

/// Whether policy lets a frame cross from one port to the other.
#[inline]
fn may_send(from: &Compiled, to: &Compiled) -> Result<(), DropReason> {
    if from.port.isolated && to.port.isolated {
        return Err(DropReason::Isolated);
    }
    if to.guarded && !guard(to).receives() {
        return Err(DropReason::MacChanged);
    }
    Ok(())
}

#[inline]
fn guard(compiled: &Compiled) -> Guard<'_> {
    Guard {
        policy: compiled.port.security,
        mac: compiled.mac,
        state: &compiled.port.state,
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
