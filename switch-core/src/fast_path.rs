//! The usual frame, decided in one go: untagged unicast between two known stations whose ports' policies have nothing to
//! object to.
//!
//! It says nothing of its own: whatever it sends, [`crate::pipeline::forward`] would have sent so without it, and whatever
//! it does not send goes the whole way there. Every check here answers "usual" or "look closer", so that nothing has to be
//! kept for later; that is what makes it short. The property tests run each frame dry, which goes the whole way, and live,
//! which comes here first, and want the same.

use crate::frame::FrameView;
use crate::id::PortId;
use crate::pipeline::{ETHERNET, GROUP, addresses, is_tag};
use crate::snapshot::Snapshot;
use crate::time::Timestamp;

/// The one port that a usual frame is for, which it leaves without a tag.
#[inline(always)]
pub(crate) fn destination(snapshot: &Snapshot, now: Timestamp, frame: &FrameView<'_>) -> Option<PortId> {
    let ethernet = frame.header.first_chunk::<ETHERNET>()?;
    let from = snapshot.compiled(frame.port)?;
    if is_tag(ethernet) || frame.len > from.longest as usize {
        return None;
    }
    // A reserved address is a group's, and the zero source is never in the table.
    let (destination, source) = addresses(ethernet);
    if (destination | source) & GROUP != 0 {
        return None;
    }
    if from.guarded && !from.guard().is_own(source) {
        return None;
    }
    let fdb = &from.switch.fdb;
    let place = fdb.usual(from.untagged, source, frame.port, destination, now, from.ageing)?;
    let to = snapshot.compiled(place)?;
    if !from.reaches(to) || place == frame.port {
        return None;
    }
    if !to.port.security.mac_changes && !to.guard().is_steady() {
        return None;
    }
    Some(place)
}
