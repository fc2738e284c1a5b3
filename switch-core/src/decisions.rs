//! The decisions about the frames of a batch, which come from one port: what they have in common is found once.
//!
//! Nothing is decided here: what [`Decisions::forward`] answers, [`crate::pipeline::forward`] would have answered, but for what other threads
//! change in the MAC table or about a guest's address while the batch is decided about.

use crate::fast_path;
use crate::frame::{FrameView, Hop};
use crate::id::PortId;
use crate::pipeline::{ETHERNET, Mode, Observer, addresses, forward_whole, is_tag};
use crate::snapshot::{Compiled, Snapshot};
use crate::time::Timestamp;
use crate::verdict::DropReason;

/// Octets of an Ethernet header up to the TCI of its outer tag.
const TAGGED: usize = 16;

/// Decisions about frames of one port, by one snapshot and at one time.
///
/// Frames come in trains, from one station to another. One with the Ethernet header of the frame before goes where that went, if that one was usual
/// (`fast_path.rs`): known stations, nothing to learn.
pub struct Decisions<'a> {
    snapshot: &'a Snapshot,
    now: Timestamp,
    port: PortId,
    from: Option<&'a Compiled>,
    /// Where the frame before goes.
    hops: &'a mut Vec<Hop>,
    /// The Ethernet header of the frame before, and whether the next one may follow it.
    before: Ends,
    may_follow: bool,
    /// Octets of the longest frame that may.
    longest: usize,
}

impl<'a> Decisions<'a> {
    /// Frames of `port`. With room in `hops` for every port of the snapshot nothing is allocated.
    #[inline]
    pub fn new(snapshot: &'a Snapshot, now: Timestamp, port: PortId, hops: &'a mut Vec<Hop>) -> Self {
        hops.clear();
        let from = snapshot.compiled(port);
        Self {
            snapshot,
            now,
            port,
            from,
            hops,
            before: Ends(0, 0),
            may_follow: false,
            longest: from.map_or(0, |from| from.longest as usize),
        }
    }

    /// Where the frame before goes: as [`crate::pipeline::forward`] leaves it.
    #[inline(always)]
    pub fn hops(&self) -> &[Hop] {
        self.hops
    }

    /// Tells `bring` the addresses of what the decisions will look up first, if these are many: when they are fetched all at once, no decision waits
    /// for memory of its own.
    #[inline]
    pub fn look_ahead<'b>(&self, headers: impl Iterator<Item = &'b [u8]>, bring: impl Fn(*const u8)) {
        let Some(from) = self.from else { return };
        let fdb = &from.switch.fdb;
        if !fdb.is_large() {
            return;
        }
        for ethernet in headers.filter_map(<[u8]>::first_chunk::<TAGGED>) {
            let vid = match ethernet {
                [.., high, low] if is_tag(ethernet.first_chunk().expect("it is shorter")) => {
                    u16::from_be_bytes([*high, *low]) & 0x0fff
                }
                _ => from.untagged,
            };
            let (destination, source) = addresses(ethernet.first_chunk().expect("it is shorter"));
            for address in fdb.addresses(vid, source, destination) {
                bring(address);
            }
        }
    }

    /// Decides about the next frame, which is real and comes from the port.
    ///
    /// # Errors
    /// It goes nowhere.
    #[inline(always)]
    pub fn forward<O: Observer>(
        &mut self,
        frame: &FrameView<'_>,
        observer: &mut O,
    ) -> Result<(), DropReason> {
        const { assert!(!O::LOOKS, "the steps of a usual frame are not told") }
        debug_assert_eq!(frame.port, self.port);
        if let Some(ethernet) = frame.header.first_chunk() {
            let ends = Ends::of(ethernet);
            if ends == self.before && self.may_follow && frame.len <= self.longest {
                return Ok(());
            }
            self.before = ends;
            self.may_follow = false;
            if fast_path::forward(self.snapshot, self.now, frame, self.hops) {
                // Of a tag, an Ethernet header has the beginning only.
                self.may_follow = !is_tag(ethernet);
                return Ok(());
            }
        }
        forward_whole(self.snapshot, self.now, frame, Mode::Live, self.hops, observer)
    }
}

/// An Ethernet header, as two numbers that are compared faster than octets are.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Ends(u64, u64);

impl Ends {
    #[inline(always)]
    fn of(ethernet: &[u8; ETHERNET]) -> Self {
        let at = |at: usize| *ethernet[at..].first_chunk().expect("the header is longer");
        Self(u64::from_ne_bytes(at(0)), u64::from_ne_bytes(at(ETHERNET - 8)))
    }
}
