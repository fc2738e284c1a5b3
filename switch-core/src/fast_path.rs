//! The usual frame, decided in one go: unicast between two known stations whose ports' policies have nothing to object to,
//! without a tag or with the one that trunks give.
//!
//! What is usual depends on the Ethernet header, the length and what the switch knows, and on nothing else: [`crate::decisions`] counts on that.
//!
//! It says nothing of its own: whatever it sends, [`crate::pipeline::forward`] would have sent so without it, and whatever
//! it does not send goes the whole way there. Every check here answers "usual" or "look closer", so that nothing has to be
//! kept for later; that is what makes it short. The property tests run each frame dry, which goes the whole way, and live,
//! which comes here first, and want the same.

use crate::frame::{FrameView, Hop};
use crate::id::PortId;
use crate::pipeline::{ETHERNET, GROUP, addresses, is_tag};
use crate::snapshot::{Compiled, Snapshot};
use crate::time::Timestamp;
use crate::vid::{Tag, Vid};
use crate::vlan::{VlanPolicy, outer_tag, tag_kind};

/// Makes `hops` what a usual frame goes to. False leaves it as it is.
///
/// A frame without a tag on both sides is decided here. What has to do with tags is out of line: beside it, that frame
/// would want more registers than there are.
#[inline(always)]
pub(crate) fn forward(
    snapshot: &Snapshot,
    now: Timestamp,
    frame: &FrameView<'_>,
    hops: &mut Vec<Hop>,
) -> bool {
    let Some(ethernet) = frame.header.first_chunk::<ETHERNET>() else {
        return false;
    };
    let Some(from) = snapshot.compiled(frame.port) else {
        return false;
    };
    if is_tag(ethernet) {
        return forward_tagged(snapshot, now, frame, from, hops);
    }
    if frame.len > from.longest as usize {
        return false;
    }
    let Some(to) = receiver(snapshot, now, from.place, from, from.untagged, ethernet) else {
        return false;
    };
    if to.untagged != from.untagged {
        return leave(snapshot, from, to, ethernet, hops);
    }
    send(to, None, hops)
}

/// [`forward`] for a frame that came with a tag.
#[inline(never)]
fn forward_tagged(
    snapshot: &Snapshot,
    now: Timestamp,
    frame: &FrameView<'_>,
    from: &Compiled,
    hops: &mut Vec<Hop>,
) -> bool {
    let Some(ethernet) = frame.header.first_chunk::<ETHERNET>() else {
        return false;
    };
    let Some((vid, priority)) = from_trunk(from, frame) else {
        return false;
    };
    let Some(to) = receiver(snapshot, now, from.place, from, vid, ethernet) else {
        return false;
    };
    if to.is_outside {
        return match uplink(snapshot, from, vid, ethernet) {
            Some(to) => send_as(to, vid, priority, hops),
            None => false,
        };
    }
    send_as(to, vid, priority, hops)
}

/// The port behind which the destination of a usual frame is, VLAN egress aside.
#[inline(always)]
fn receiver<'a>(
    snapshot: &'a Snapshot,
    now: Timestamp,
    own: PortId,
    from: &Compiled,
    vid: u16,
    ethernet: &[u8; ETHERNET],
) -> Option<&'a Compiled> {
    // A reserved address is a group's, and the zero source is never in the table.
    let (destination, source) = addresses(ethernet);
    if (destination | source) & GROUP != 0 {
        return None;
    }
    if from.guarded && !from.guard().is_own(source) {
        return None;
    }
    let fdb = &from.switch.fdb;
    let place = fdb.usual(vid, source, own, destination, now, &from.ageing)?;
    let to = snapshot.compiled(place)?;
    if !from.reaches(to) || place == own {
        return None;
    }
    if !to.port.security.mac_changes && !to.guard().is_steady() {
        return None;
    }
    Some(to)
}

/// Makes a port the one that a frame leaves by.
#[inline(always)]
fn send(to: &Compiled, tag: Option<Tag>, hops: &mut Vec<Hop>) -> bool {
    // Just before, so that the compiler knows the length.
    hops.clear();
    let port = to.port.id;
    hops.push(Hop { port, tag });
    true
}

/// [`send_as`] for a frame that came without a tag, and the way of one for the outside.
#[inline(never)]
fn leave(
    snapshot: &Snapshot,
    from: &Compiled,
    to: &Compiled,
    ethernet: &[u8; ETHERNET],
    hops: &mut Vec<Hop>,
) -> bool {
    let vid = from.untagged;
    if !to.is_outside {
        return send_as(to, vid, 0, hops);
    }
    match uplink(snapshot, from, vid, ethernet) {
        Some(to) => send_as(to, vid, 0, hops),
        None => false,
    }
}

/// The uplink of a frame for the outside; `None` if more than the Ethernet header matters, or none is fit.
#[inline(never)]
fn uplink<'a>(
    snapshot: &'a Snapshot,
    from: &Compiled,
    vid: u16,
    ethernet: &[u8; ETHERNET],
) -> Option<&'a Compiled> {
    let uplink = from.exit().of_station(addresses(ethernet).1, vid)?;
    snapshot.compiled(uplink).filter(|to| to.live)
}

/// [`send`] without a tag or with the one of a trunk that lists the VLAN.
#[inline(always)]
fn send_as(to: &Compiled, vid: u16, priority: u16, hops: &mut Vec<Hop>) -> bool {
    if to.untagged == vid {
        return send(to, None, hops);
    }
    match to_trunk(to, vid, priority) {
        Some(tag) => send(to, Some(tag), hops),
        None => false,
    }
}

/// VLAN and priority of a frame with one tag, the trunk's own, of a VLAN that it lists.
#[inline]
fn from_trunk(from: &Compiled, frame: &FrameView<'_>) -> Option<(u16, u16)> {
    let VlanPolicy::Trunk { vlans, tpid, .. } = &from.port.vlan else {
        return None;
    };
    let tag = outer_tag(frame.header)?;
    let listed = tag.tpid == *tpid && Vid::new(tag.raw_vid()).is_some_and(|vid| vlans.contains(vid));
    let nested = frame.header.get(Tag::LEN..).and_then(tag_kind).is_some();
    let fits = frame.len <= from.longest as usize + Tag::LEN;
    (listed && !nested && fits).then_some((tag.raw_vid(), tag.tci & !0x0fff))
}

/// The tag with which a frame leaves by a trunk that lists its VLAN.
#[inline]
fn to_trunk(to: &Compiled, vid: u16, priority: u16) -> Option<Tag> {
    let VlanPolicy::Trunk { vlans, tpid, .. } = &to.port.vlan else {
        return None;
    };
    let vid = Vid::new(vid)?;
    vlans.contains(vid).then(|| Tag::new(*tpid, vid, priority))
}
