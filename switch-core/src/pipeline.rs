//! The way of a frame, whole, in one function: [`forward`].
//!
//! Speed: a frame costs one lookup of its source, one of its destination (the frames of a train together, [`crate::decisions`]), and for a flood one step per port of its VLAN.
//! Nothing is allocated, no lock is waited for, and nothing shared is written except the coarse time of a MAC entry and
//! what really changes (a new or moved address, a guest's new MAC, an announcement).
//!
//! Threads: any number of workers may run [`forward`] on one snapshot.

use crate::addr::MacAddr;
use crate::announce::announces;
use crate::fast_path;
use crate::fdb::Learnt;
use crate::frame::{FrameView, Hop};
use crate::id::PortId;
use crate::snapshot::{Compiled, Overflow, Port, Snapshot, Switch};
use crate::team::Exit;
use crate::time::Timestamp;
use crate::verdict::DropReason;
use crate::vid::{Tag, Tpid, Vid};
use crate::vlan::{Classified, outer_tag, tag_kind};

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
    /// The destination is outside, and the team of the frame's port sends it by this uplink.
    Exit {
        /// Which.
        uplink: PortId,
    },
    /// The frame leaves by a port.
    Hop(Hop),
}

/// Sees each step of a frame's way. The datapath observes nothing and pays nothing for it.
pub trait Observer {
    /// False if it looks at nothing, so that what only it would see need not be found out.
    const LOOKS: bool = true;

    /// One step was taken. Not called where [`Observer::LOOKS`] is false.
    fn step(&mut self, step: Step);

    /// The MAC table moved the source from another port to the frame's. Called whatever it looks at: it is rare.
    #[inline(always)]
    fn moved(&mut self, vid: Vid, source: MacAddr, from: PortId) {
        let _ = (vid, source, from);
    }

    /// The guest of a port that waited for it has announced itself: the port may be given frames now. Called whatever it looks at.
    #[inline(always)]
    fn activated(&mut self) {}
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
pub(crate) const ETHERNET: usize = 14;

/// Decides about one frame.
///
/// On `Ok`, `hops` holds at least one hop, each to another port than the frame's own, and no port twice.
/// On `Err` it is empty. `hops` is cleared first; with room for every port of the snapshot nothing is allocated.
#[inline]
pub fn forward<O: Observer>(
    snapshot: &Snapshot,
    now: Timestamp,
    frame: &FrameView<'_>,
    mode: Mode,
    hops: &mut Vec<Hop>,
    observer: &mut O,
) -> Result<(), DropReason> {
    if !O::LOOKS && mode == Mode::Live && fast_path::forward(snapshot, now, frame, hops) {
        return Ok(());
    }
    forward_whole(snapshot, now, frame, mode, hops, observer)
}

/// The whole way of a frame, step by step.
#[inline(never)]
pub(crate) fn forward_whole<O: Observer>(
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
    let switch = &from.switch;
    let (destination, source) = addresses(ethernet);
    let is_tagged = is_tag(ethernet);
    if is_tagged {
        check_tag(frame.header)?;
    }
    if O::LOOKS {
        observer.step(Step::Parsed {
            destination: MacAddr::from_u64(destination),
            source: MacAddr::from_u64(source),
            tag: port_tag(from, frame.header),
        });
    }
    if frame.len > from.longest as usize && is_too_long(frame, switch) {
        return Err(DropReason::TooLong);
    }
    if source & GROUP != 0 || source == 0 {
        return Err(DropReason::BadSource);
    }
    if destination & !0xf == BRIDGE_RESERVED {
        return Err(DropReason::ReservedAddress);
    }

    // VLAN ingress.
    let inside = if is_tagged {
        classify(from, frame.header)?
    } else {
        Inside {
            vid: Vid::new(from.untagged).ok_or(DropReason::VlanUntagged)?,
            priority: 0,
            nested: None,
        }
    };
    let vid = inside.vid;
    if O::LOOKS {
        let priority = inside.priority;
        observer.step(Step::Vlan { vid, priority });
    }

    // Source security.
    if from.guarded && !from.guard().is_own(source) {
        from.guard().admit(source, mode)?;
    }
    if O::LOOKS {
        observer.step(Step::Security {
            effective: from.guard().effective(),
        });
    }

    // Activation.
    if port.dormant {
        let header = (destination & GROUP != 0).then_some(frame.header);
        activate(from, source, header, mode, observer)?;
    }

    // Learn.
    let fresh = switch.fdb.is_fresh(vid, source, from.place, now);
    let learnt = if fresh {
        Learnt::Known
    } else if from.place == port.id {
        learn(switch, port, vid, source, now, mode)
    } else {
        let header = (destination & GROUP != 0).then_some(frame.header);
        learn_outside(from, vid, source, header, now, mode)
    };
    if O::LOOKS {
        observer.step(Step::Learnt(learnt));
    }
    match learnt {
        Learnt::StaticElsewhere { .. } => return Err(DropReason::StaticMac),
        Learnt::Reflected { .. } => return Err(DropReason::Reflection),
        Learnt::Limited
            if port
                .mac_limit
                .is_some_and(|limit| limit.overflow == Overflow::Drop) =>
        {
            return Err(DropReason::MacLimit);
        }
        Learnt::Moved { from } => observer.moved(vid, MacAddr::from_u64(source), from),
        _ => {}
    }

    let group = destination & GROUP != 0;
    if group && mode == Mode::Live && !matches!(from.exit(), Exit::None) {
        note_announcement(from, vid, source, frame.header, now);
    }

    // Forwarding lookup.
    let place = if group {
        None
    } else if mode == Mode::Dry
        && destination == source
        && matches!(learnt, Learnt::New | Learnt::Moved { .. })
    {
        // Live, the table would know by now.
        Some(from.place)
    } else {
        switch.fdb.lookup_number(vid, destination, now, switch.ageing)
    };
    let known = place
        .and_then(|id| snapshot.compiled(id))
        .filter(|to| to.live && to.port.switch == port.switch);

    // Egress checks and VLAN egress.
    let way = Way {
        snapshot,
        from,
        header: frame.header,
        source,
        inside,
    };
    let Some(to) = known else {
        let unknown = (!group).then(|| MacAddr::from_u64(destination));
        return flood(&way, unknown, hops, observer);
    };
    if O::LOOKS {
        observer.step(Step::Hit { port: to.port.id });
    }
    if to.port.id == from.place {
        return Err(DropReason::SamePort);
    }
    if let Some(uplink) = from.uplink()
        && !to.hears().unicast.contains(uplink)
    {
        return Err(DropReason::UplinkUnused);
    }
    // Team selection.
    let to = if to.is_outside {
        way.exit(observer).ok_or(DropReason::NoUplink)?
    } else {
        to
    };
    // A port without policy in the frame's own VLAN takes an untagged frame as it is.
    let tag = if to.is_open && to.untagged == vid.get() && inside.nested.is_none() {
        None
    } else {
        egress(from, to, inside)?
    };
    send(to, tag, hops, observer);
    if from.watched {
        copy_to_watchers(&way, to, hops, observer);
    }
    Ok(())
}

/// What is known of a frame when it is to leave.
struct Way<'a> {
    snapshot: &'a Snapshot,
    from: &'a Compiled,
    /// The frame's first octets.
    header: &'a [u8],
    /// Its source, as [`MacAddr::to_u64`] gives it.
    source: u64,
    inside: Inside,
}

impl<'a> Way<'a> {
    /// The uplink by which it leaves if it is for the outside.
    #[inline(never)]
    fn exit<O: Observer>(&self, observer: &mut O) -> Option<&'a Compiled> {
        let exit = self.from.exit();
        let uplink = exit.of_frame(self.header, self.source, self.inside.vid.get())?;
        let to = self.snapshot.compiled(uplink).filter(|to| to.live)?;
        if O::LOOKS {
            observer.step(Step::Exit { uplink });
        }
        Some(to)
    }
}

/// Whether policy lets a frame leave by the port that its destination is behind, and with which tag.
#[inline(never)]
fn egress(from: &Compiled, to: &Compiled, inside: Inside) -> Result<Option<Tag>, DropReason> {
    if !to.port.vlan.carries(inside.vid) {
        return Err(DropReason::EgressVlan);
    }
    may_send(from, to, inside)?;
    Ok(to.port.vlan.egress(inside.vid, inside.priority))
}

/// Copies a frame for one port to the ports of its VLAN that see everything.
#[inline(never)]
fn copy_to_watchers<O: Observer>(way: &Way<'_>, to: &Compiled, hops: &mut Vec<Hop>, observer: &mut O) {
    for id in way.snapshot.promiscuous(way.from.port.switch, way.inside.vid) {
        if *id != to.port.id {
            let heard = |to: &Compiled, uplink| to.hears().unicast.contains(uplink);
            // A copy that was withheld is no reason to drop the frame.
            let _ = offer(way, *id, heard, None, hops, observer);
        }
    }
}

/// Sends a frame to every port of its VLAN that policy lets have it.
#[inline(never)]
fn flood<O: Observer>(
    way: &Way<'_>,
    unknown: Option<MacAddr>,
    hops: &mut Vec<Hop>,
    observer: &mut O,
) -> Result<(), DropReason> {
    let members = way.snapshot.members(way.from.port.switch, way.inside.vid);
    if O::LOOKS {
        observer.step(Step::Flood {
            members: members.len(),
        });
    }
    let mut why = DropReason::NoDestination;
    for id in members {
        let heard = |to: &Compiled, uplink| to.hears().groups.contains(uplink);
        let offered = offer(way, *id, heard, unknown, hops, observer);
        if let Err(reason @ (DropReason::Duplicate | DropReason::NoUplink)) = offered {
            why = reason;
        }
    }
    if hops.is_empty() { Err(why) } else { Ok(()) }
}

/// The I/G bit of an address as [`MacAddr::to_u64`] gives it.
pub(crate) const GROUP: u64 = 1 << 40;

/// The first of the sixteen addresses of [`MacAddr::is_bridge_reserved`].
const BRIDGE_RESERVED: u64 = 0x0180_c200_0000;

/// Destination and source, as [`MacAddr::to_u64`] gives them.
#[inline(always)]
pub(crate) fn addresses(ethernet: &[u8; ETHERNET]) -> (u64, u64) {
    // The octets beside the address are loaded with it and shifted or masked out again: one load instead of two.
    let first = |at: usize| *ethernet[at..].first_chunk().expect("the header is longer");
    let destination = u64::from_be_bytes(first(0)) >> 16;
    let source = u64::from_be_bytes(first(4)) & 0xffff_ffff_ffff;
    (destination, source)
}

/// Whether the EtherType is that of a VLAN tag of either kind.
#[inline(always)]
pub(crate) fn is_tag(ethernet: &[u8; ETHERNET]) -> bool {
    const KINDS: [u16; 2] = [Tpid::Dot1Q.ethertype().to_be(), Tpid::Dot1Ad.ethertype().to_be()];
    let [.., a, b] = *ethernet;
    KINDS.contains(&u16::from_ne_bytes([a, b]))
}

/// Refuses tags that no port may send.
#[inline(never)]
fn check_tag(header: &[u8]) -> Result<(), DropReason> {
    let tag = outer_tag(header).ok_or(DropReason::VlanTruncated)?;
    if tag.tpid == Tpid::Dot1Q && Vid::new(tag.raw_vid()).is_none() {
        return Err(DropReason::VlanReserved);
    }
    Ok(())
}

/// A frame as it is within the switch, its own tag taken off.
#[derive(Clone, Copy)]
struct Inside {
    vid: Vid,
    /// PCP and DEI, in place as in a TCI.
    priority: u16,
    /// The kind of tag with which its payload begins. Where the frame leaves untagged this would stand for its VLAN: by a
    /// native VLAN a guest could send into any other (double tagging).
    nested: Option<Tpid>,
}

/// VLAN ingress of a frame that has a tag, whoever takes it for one.
#[inline(never)]
fn classify(from: &Compiled, header: &[u8]) -> Result<Inside, DropReason> {
    let Classified { vid, priority, tag } = from.port.vlan.ingress(port_tag(from, header))?;
    let own = if tag.is_some() { Tag::LEN } else { 0 };
    Ok(Inside {
        vid,
        priority,
        nested: header.get(own..).and_then(tag_kind),
    })
}

/// The outer tag, where the port takes it for one.
#[inline]
fn port_tag(from: &Compiled, header: &[u8]) -> Option<Tag> {
    outer_tag(header).filter(|tag| from.port.vlan.tpid() == Some(tag.tpid))
}

/// Lets the first announcement of a port's guest in, and what comes after it; nothing that comes before. `header` is that of a frame for a group.
#[cold]
#[inline(never)]
fn activate<O: Observer>(
    from: &Compiled,
    source: u64,
    header: Option<&[u8]>,
    mode: Mode,
    observer: &mut O,
) -> Result<(), DropReason> {
    let state = &from.port.state;
    if state.has_announced() {
        return Ok(());
    }
    if !header.is_some_and(|header| announces(header, MacAddr::from_u64(source))) {
        return Err(DropReason::NotActivated);
    }
    if mode == Mode::Live && state.announce() {
        observer.activated();
    }
    Ok(())
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

/// Learns the source of a frame from an uplink that the table does not know as just seen outside. `header` is that of a frame for a group: only such a one
/// announces a station.
#[cold]
#[inline(never)]
fn learn_outside(
    from: &Compiled,
    vid: Vid,
    source: u64,
    header: Option<&[u8]>,
    now: Timestamp,
    mode: Mode,
) -> Learnt {
    let Switch { fdb, ageing, .. } = &from.switch;
    let source = MacAddr::from_u64(source);
    let announced = header.is_some_and(|header| announces(header, source));
    match mode {
        Mode::Live => fdb.learn_outside(vid, source, from.place, now, *ageing, announced),
        Mode::Dry => fdb.preview_outside(vid, source, from.place, now, *ageing, announced),
    }
}

/// Remembers that a frame to the outside announces its source, for it comes back by the other uplinks.
#[inline(never)]
fn note_announcement(from: &Compiled, vid: Vid, source: u64, header: &[u8], now: Timestamp) {
    let source = MacAddr::from_u64(source);
    if announces(header, source) {
        from.switch.fdb.try_hold(vid, source, from.port.id, now);
    }
}

/// Sends a frame to a port.
#[inline(always)]
fn send<O: Observer>(to: &Compiled, tag: Option<Tag>, hops: &mut Vec<Hop>, observer: &mut O) {
    let hop = Hop {
        port: to.port.id,
        tag,
    };
    if O::LOOKS {
        observer.step(Step::Hop(hop));
    }
    hops.push(hop);
}

/// Sends a copy to a port of the VLAN, unless policy leaves it out and says why. `heard` says whether a port takes the frame by the uplink of a number that
/// it came in by. `unknown` is the destination, where nothing is known about it and it is not a group.
#[inline]
fn offer<O: Observer>(
    way: &Way<'_>,
    id: PortId,
    heard: impl Fn(&Compiled, u8) -> bool,
    unknown: Option<MacAddr>,
    hops: &mut Vec<Hop>,
    observer: &mut O,
) -> Result<(), DropReason> {
    let Way { from, inside, .. } = *way;
    if id == from.place {
        return Ok(());
    }
    let Some(to) = way.snapshot.compiled(id) else {
        return Ok(());
    };
    let out = |to: &Compiled| {
        if from.uplink().is_some_and(|uplink| !heard(to, uplink)) {
            return Err(DropReason::Duplicate);
        }
        may_send(from, to, inside)
    };
    let to = if to.is_outside {
        way.exit(observer).ok_or(DropReason::NoUplink)
    } else {
        Ok(to)
    };
    let to = match to.and_then(|to| out(to).map(|()| to)) {
        Ok(to) => to,
        Err(reason) => {
            if O::LOOKS {
                observer.step(Step::Withheld { port: id, reason });
            }
            return Err(reason);
        }
    };
    if let Some(effective) = unknown.and_then(|mac| to.guard().other_station(mac)) {
        if O::LOOKS {
            observer.step(Step::OtherStation { port: id, effective });
        }
        return Ok(());
    }
    let tag = if to.untagged == inside.vid.get() {
        None
    } else {
        to.port.vlan.egress(inside.vid, inside.priority)
    };
    send(to, tag, hops, observer);
    Ok(())
}

/// Whether policy lets a frame cross from one port to the other.
#[inline]
fn may_send(from: &Compiled, to: &Compiled, inside: Inside) -> Result<(), DropReason> {
    if from.port.isolated && to.port.isolated {
        return Err(DropReason::Isolated);
    }
    if to.guarded && !to.guard().receives() {
        return Err(DropReason::MacChanged);
    }
    if inside.nested.is_some() && to.untagged == inside.vid.get() && to.port.vlan.tpid() == inside.nested {
        return Err(DropReason::VlanNested);
    }
    Ok(())
}

/// Whether the longest frame that this one becomes on a wire exceeds the MTU, an Ethernet header and up to two tags.
#[cold]
#[inline(never)]
fn is_too_long(frame: &FrameView<'_>, switch: &Switch) -> bool {
    let outer = outer_tag(frame.header);
    let inner = outer.and_then(|_| outer_tag(frame.header.get(Tag::LEN..)?));
    let tags = usize::from(outer.is_some()) + usize::from(inner.is_some());
    frame.offload.wire_len(frame.len) > usize::from(switch.mtu) + ETHERNET + tags * Tag::LEN
}
