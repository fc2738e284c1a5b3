//! The usual frame, decided in one go: unicast between two known stations whose ports' policies have nothing to object to,
//! without a tag or with the one that trunks give.
//!
//! It says nothing of its own: whatever it sends, [`crate::pipeline::forward`] would have sent so without it, and whatever
//! it does not send goes the whole way there. Every check here answers "usual" or "look closer", so that nothing has to be
//! kept for later; that is what makes it short. The property tests run each frame dry, which goes the whole way, and live,
//! which comes here first, and want the same.

use crate::frame::{FrameView, Hop};
use crate::pipeline::{ETHERNET, GROUP, addresses, is_tag};
use crate::snapshot::{Compiled, Snapshot};
use crate::time::Timestamp;
use crate::vid::{Tag, Vid};
use crate::vlan::{VlanPolicy, outer_tag, tag_kind};

/// Where a usual frame goes.
#[inline(always)]
pub(crate) fn hop(snapshot: &Snapshot, now: Timestamp, frame: &FrameView<'_>) -> Option<Hop> {
    let ethernet = frame.header.first_chunk::<ETHERNET>()?;
    let from = snapshot.compiled(frame.port)?;
    let (vid, priority) = if is_tag(ethernet) {
        from_trunk(from, frame)?
    } else if frame.len <= from.longest as usize {
        (from.untagged, 0)
    } else {
        return None;
    };
    // A reserved address is a group's, and the zero source is never in the table.
    let (destination, source) = addresses(ethernet);
    if (destination | source) & GROUP != 0 {
        return None;
    }
    if from.guarded && !from.guard().is_own(source) {
        return None;
    }
    let fdb = &from.switch.fdb;
    let place = fdb.usual(vid, source, frame.port, destination, now, from.ageing)?;
    let to = snapshot.compiled(place)?;
    if !from.reaches(to) || place == frame.port {
        return None;
    }
    if !to.port.security.mac_changes && !to.guard().is_steady() {
        return None;
    }
    let tag = if to.untagged == vid {
        None
    } else {
        Some(to_trunk(to, vid, priority)?)
    };
    Some(Hop { port: place, tag })
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
