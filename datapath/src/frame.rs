//! A frame that the switch holds: one chunk, where the frame lies in it, and what travels with it.

use std::ops::Range;

use switch_core::frame::FrameView;
use switch_core::id::PortId;
use switch_core::offload::Offload;
use switch_core::verdict::DropReason;
use switch_core::vid::Tag;

use crate::pool::{Chunk, HEAD, HEADROOM, Pool};
use crate::sys::guest::Payload;

const ADDRESSES: usize = 12;
const DESTINATION: usize = 6;

/// Octets that one segment counts as at least in [`weight`]: fewer than any usual one has.
const SEGMENT_WEIGHT: usize = 1024;

/// What a frame of `len` octets adds to its batch, in octets, if it is cut into segments of `size` (0: into none): a super-frame
/// of many small segments is as much work as they are where they are cut, and a batch is the time that other ports wait.
#[inline]
pub(crate) fn weight(len: usize, size: usize) -> usize {
    match size {
        0 => len,
        size => len.max(len.div_ceil(size) * SEGMENT_WEIGHT),
    }
}

/// A frame in a chunk, whole or the front of it.
pub struct Frame {
    chunk: Chunk,
    // In 32 bits, so that a frame is no longer than 64 octets.
    start: u32,
    /// Octets in the chunk.
    held: u32,
    /// What lies outside of the chunk.
    payload: Option<Box<Payload>>,
    /// Checksum and segmentation state, offsets counted from the frame's present start.
    pub offload: Offload,
    /// Why the frame must not go on, found while it was received.
    pub fault: Option<DropReason>,
    tag: Option<Tag>,
    /// The worker whose pool the chunk belongs to, if that is not the one that has the frame.
    home: Option<u16>,
}

const _: () = assert!(size_of::<Frame>() <= 64, "a frame is moved about a lot");

impl Frame {
    /// The `len` octets of `chunk` from `start` on, cut at the chunk's end. No tag is taken for one yet.
    pub fn new(chunk: Chunk, start: usize, len: usize) -> Self {
        let start = start.min(chunk.len());
        let len = len.min(chunk.len() - start);
        Self {
            chunk,
            start: start as u32,
            held: len as u32,
            payload: None,
            offload: Offload::default(),
            fault: None,
            tag: None,
            home: None,
        }
    }

    /// A frame like this one in a chunk of its own, whole. `None` if no chunk is free.
    pub(crate) fn copy(&self, pool: &mut Pool) -> Option<Self> {
        let mut chunk = if self.len() <= HEAD {
            pool.take_small()
        } else {
            pool.take()
        }?;
        let end = HEADROOM + self.held as usize;
        chunk[HEADROOM..end].copy_from_slice(self.bytes());
        let rest = self
            .payload()
            .map_or(0, |payload| payload.copy_to(&mut chunk[end..]));
        Some(Self {
            chunk,
            start: HEADROOM as u32,
            held: self.held + rest as u32,
            payload: None,
            offload: self.offload,
            fault: self.fault,
            tag: self.tag,
            home: None,
        })
    }

    /// The worker whose pool the chunk belongs to, if it is another one's.
    #[inline]
    pub(crate) fn home(&self) -> Option<u16> {
        self.home
    }

    /// Says whose pool the chunk belongs to. The frame is whole: a payload never leaves its worker.
    #[inline]
    pub(crate) fn set_home(&mut self, worker: u16) {
        debug_assert!(self.payload.is_none(), "gathered before");
        self.home = Some(worker);
    }

    /// The chunk alone.
    #[inline]
    pub(crate) fn into_chunk(self) -> Chunk {
        self.chunk
    }

    /// Adds octets that lie in a guest's memory behind those in the chunk.
    #[inline]
    pub(crate) fn set_payload(&mut self, payload: Box<Payload>) {
        self.payload = Some(payload);
    }

    /// What lies outside of the chunk.
    #[inline]
    pub(crate) fn payload(&self) -> Option<&Payload> {
        self.payload.as_deref()
    }

    /// Copies what lies outside of the chunk into one that has room for all. False if there is none.
    #[inline]
    #[must_use]
    pub(crate) fn gather(&mut self, pool: &mut Pool) -> bool {
        self.payload.is_none() || self.gather_payload(pool)
    }

    #[cold]
    fn gather_payload(&mut self, pool: &mut Pool) -> bool {
        let Some(mut chunk) = pool.take() else {
            return false;
        };
        let Some(payload) = self.payload.take() else {
            pool.give(chunk);
            return true;
        };
        let head = HEADROOM + self.held as usize;
        chunk[HEADROOM..head].copy_from_slice(self.bytes());
        self.held += payload.copy_to(&mut chunk[head..]) as u32;
        self.start = HEADROOM as u32;
        pool.give(std::mem::replace(&mut self.chunk, chunk));
        pool.give_payload(payload);
        true
    }

    /// Where in the chunk it lies.
    #[inline(always)]
    fn place(&self) -> Range<usize> {
        let start = self.start as usize;
        start..start + self.held as usize
    }

    /// The frame, from its destination address on; the front of it, at least its headers, if it has not been gathered.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.chunk[self.place()]
    }

    /// The frame, to be changed in place.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let place = self.place();
        &mut self.chunk[place]
    }

    /// Octets of the whole frame.
    #[inline]
    pub fn len(&self) -> usize {
        self.held as usize + self.payload.as_ref().map_or(0, |payload| payload.len())
    }

    /// What the frame adds to its batch, in octets: a super-frame counts as much as the work of cutting it.
    #[inline]
    pub fn weight(&self) -> usize {
        let size = self.offload.gso.map_or(0, |gso| usize::from(gso.size));
        weight(self.len(), size)
    }

    /// Whether the frame has no octets.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the pipeline sees of it.
    #[inline]
    pub fn view(&self, port: PortId) -> FrameView<'_> {
        FrameView {
            port,
            header: self.bytes(),
            len: self.len(),
            offload: self.offload,
        }
    }

    /// The frame with `header` written into the headroom right before it, for devices that want one.
    #[inline]
    pub fn with_header<const N: usize>(&mut self, header: &[u8; N]) -> &[u8] {
        let Range { start, end } = self.place();
        self.chunk[start - N..start].copy_from_slice(header);
        &self.chunk[start - N..end]
    }

    /// The `N` octets right before the frame and the frame, as [`Frame::with_header`] left them.
    #[inline]
    pub fn behind_header<const N: usize>(&self) -> &[u8] {
        let Range { start, end } = self.place();
        &self.chunk[start - N..end]
    }

    /// The `len` octets right before the frame, where a device has put its header.
    #[inline]
    pub(crate) fn in_front(&self, len: usize) -> &[u8] {
        let Range { start, .. } = self.place();
        &self.chunk[start - len..start]
    }

    /// Says that the frame's outer four octets after the addresses are a tag that the switch may take off.
    /// Call once, with the tag as it stands in the frame.
    #[inline]
    pub fn set_outer_tag(&mut self, tag: Option<Tag>) {
        self.tag = tag;
    }

    /// Puts a tag that came beside the frame back into it, as a wire would carry it.
    pub fn insert_tag(&mut self, tag: [u8; Tag::LEN]) {
        if (self.held as usize) < ADDRESSES || (self.start as usize) < Tag::LEN {
            return;
        }
        self.push(tag);
    }

    /// Makes `tag` the frame's outer tag, in place of what [`Frame::set_outer_tag`] or the last call made it.
    /// The frame holds at least an Ethernet header (the pipeline has checked it).
    #[inline(always)]
    pub fn retag(&mut self, tag: Option<Tag>) {
        if self.tag.is_some() || tag.is_some() {
            self.change_tag(tag);
        }
    }

    #[inline(never)]
    fn change_tag(&mut self, tag: Option<Tag>) {
        if self.tag == tag {
            return;
        }
        match (self.tag, tag) {
            (Some(_), Some(tag)) => {
                self.bytes_mut()[ADDRESSES..ADDRESSES + Tag::LEN].copy_from_slice(&tag.to_bytes());
            }
            (None, Some(tag)) => self.push(tag.to_bytes()),
            (Some(_), None) => {
                self.bytes_mut().copy_within(..ADDRESSES, Tag::LEN);
                self.start += Tag::LEN as u32;
                self.held -= Tag::LEN as u32;
                self.offload.shift(-(Tag::LEN as i16));
            }
            (None, None) => {}
        }
        self.tag = tag;
    }

    /// Does the checksum that the sender left undone.
    pub fn finish_checksum(&mut self) {
        let place = self.place();
        let bytes = &mut self.chunk[place];
        crate::offload::finish_checksum(bytes, &mut self.offload);
    }

    fn push(&mut self, tag: [u8; Tag::LEN]) {
        self.start -= Tag::LEN as u32;
        self.held += Tag::LEN as u32;
        let bytes = self.bytes_mut();
        bytes.copy_within(Tag::LEN..Tag::LEN + ADDRESSES, 0);
        bytes[ADDRESSES..ADDRESSES + Tag::LEN].copy_from_slice(&tag);
        self.offload.shift(Tag::LEN as i16);
    }

    /// Adds octets at the end. False, and nothing is added, if the chunk has no room for them.
    pub(crate) fn append(&mut self, octets: &[u8]) -> bool {
        let Range { end, .. } = self.place();
        match self.chunk.get_mut(end..end + octets.len()) {
            Some(room) => {
                room.copy_from_slice(octets);
                self.held += octets.len() as u32;
                true
            }
            None => false,
        }
    }

    /// Number of the UMEM that the frame lies in, or 0.
    #[inline]
    pub(crate) fn umem(&self) -> u32 {
        self.chunk.umem()
    }

    /// Takes the frame's chunk away, to be sent, and puts another of the same size in its place. Returns it, and where the frame
    /// lies in it. What is left keeps the frame's length and destination, for the counters; all else is lost.
    #[inline]
    pub(crate) fn exchange(&mut self, mut other: Chunk) -> (Chunk, usize, usize) {
        let Range { start, end } = self.place();
        if let Some(destination) = self.chunk.get(start..start + DESTINATION)
            && let Some(place) = other.get_mut(start..start + DESTINATION)
        {
            place.copy_from_slice(destination);
        }
        (std::mem::replace(&mut self.chunk, other), start, end - start)
    }

    /// Gives the chunk back.
    #[inline]
    pub fn release(self, pool: &mut Pool) {
        if let Some(payload) = self.payload {
            pool.give_payload(payload);
        }
        pool.give(self.chunk);
    }
}

#[cfg(test)]
mod tests {
    use switch_core::offload::{Checksum, Gso, GsoKind};
    use switch_core::vid::{Tpid, Vid};

    use super::*;
    use crate::pool::HEADROOM;

    fn frame(bytes: &[u8]) -> Frame {
        let mut chunk = Pool::new(1).take().unwrap();
        chunk[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
        Frame::new(chunk, HEADROOM, bytes.len())
    }

    fn tag(vid: u16) -> Tag {
        Tag::new(Tpid::Dot1Q, Vid::new(vid).unwrap(), 0)
    }

    const PLAIN: &[u8] = &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x08, 0x00, 0xaa, 0xbb];
    const TAGGED: &[u8] = &[
        1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x81, 0x00, 0x00, 0x64, 0x08, 0x00, 0xaa, 0xbb,
    ];

    #[test]
    fn a_tag_is_pushed_replaced_and_popped_and_the_checksum_moves_along() {
        let mut frame = frame(PLAIN);
        frame.offload.checksum = Checksum::Partial { start: 14, offset: 0 };
        frame.retag(Some(tag(100)));
        assert_eq!(frame.bytes(), TAGGED);
        assert_eq!(frame.offload.checksum, Checksum::Partial { start: 18, offset: 0 });
        frame.retag(Some(tag(200)));
        assert_eq!(frame.bytes()[12..16], [0x81, 0x00, 0x00, 0xc8]);
        frame.retag(None);
        assert_eq!(frame.bytes(), PLAIN);
        assert_eq!(frame.offload.checksum, Checksum::Partial { start: 14, offset: 0 });
    }

    #[test]
    fn a_super_frame_weighs_what_cutting_it_costs() {
        let gso = |size| Gso {
            kind: GsoKind::Tcp4,
            size,
            header_len: 54,
            ecn: false,
        };
        let mut super_frame = frame(&[0; 60_054]);
        assert_eq!(super_frame.weight(), 60_054);
        super_frame.offload.gso = Some(gso(1448));
        assert_eq!(super_frame.weight(), 60_054);
        super_frame.offload.gso = Some(gso(100));
        // The headers count as payload: one segment too many is near enough.
        assert_eq!(super_frame.weight(), 601 * SEGMENT_WEIGHT);
    }

    #[test]
    fn a_frame_that_came_tagged_leaves_untagged() {
        let mut frame = frame(TAGGED);
        frame.set_outer_tag(Some(tag(100)));
        frame.retag(None);
        assert_eq!(frame.bytes(), PLAIN);
    }

    #[test]
    fn a_payload_tag_stays_under_a_pushed_one() {
        let mut frame = frame(TAGGED);
        frame.retag(Some(tag(200)));
        assert_eq!(
            frame.bytes()[12..20],
            [0x81, 0x00, 0x00, 0xc8, 0x81, 0x00, 0x00, 0x64]
        );
        frame.retag(None);
        assert_eq!(frame.bytes(), TAGGED);
    }

    #[test]
    fn a_frame_whose_chunk_is_taken_keeps_length_and_destination() {
        let mut frame = frame(PLAIN);
        frame.retag(Some(tag(100)));
        let other = Pool::new(1).take().unwrap();
        let (chunk, start, len) = frame.exchange(other);
        assert_eq!(&chunk[start..start + len], TAGGED);
        assert_eq!(frame.len(), TAGGED.len());
        assert_eq!(frame.bytes()[..6], TAGGED[..6]);
        assert_ne!(frame.bytes(), TAGGED);
    }

    #[test]
    fn octets_are_added_while_the_chunk_has_room() {
        let mut frame = frame(PLAIN);
        assert!(frame.append(&[7; 100]));
        assert_eq!(frame.len(), PLAIN.len() + 100);
        assert_eq!(frame.bytes()[PLAIN.len()..], [7; 100]);
        assert!(!frame.append(&vec![8; crate::pool::CHUNK]));
        assert_eq!(frame.len(), PLAIN.len() + 100);
    }

    #[test]
    fn a_header_lies_right_before_the_frame() {
        let mut frame = frame(PLAIN);
        frame.retag(Some(tag(100)));
        frame.with_header(&[0xee; 10]);
        assert_eq!(frame.behind_header::<10>()[..10], [0xee; 10]);
        assert_eq!(&frame.behind_header::<10>()[10..], TAGGED);
    }
}
