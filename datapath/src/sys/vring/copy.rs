//! Octets into a guest's buffers: the header of a frame, the front of it that was copied out, the rest that lies in another guest's memory.

use std::ptr::NonNull;

use super::HEADER;
use crate::sys::guest::{Payload, Slice};

/// The header in front of a frame for the guest, but for the number of buffers: as numbers, so that they are written once, to where
/// they are to lie. (Octets put together and then copied make a processor wait for the writes before them.)
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Header {
    /// `flags` to `csum_start`, little-endian.
    pub front: u64,
    /// `csum_offset`.
    pub checksum_offset: u16,
}

impl Header {
    pub(super) fn octets(self, buffers: u16) -> [u8; HEADER] {
        let mut octets = [0; HEADER];
        octets[..8].copy_from_slice(&self.front.to_le_bytes());
        octets[8..10].copy_from_slice(&self.checksum_offset.to_le_bytes());
        octets[10..].copy_from_slice(&buffers.to_le_bytes());
        octets
    }
}

/// Room in guest memory.
pub(super) struct Room {
    pub start: NonNull<u8>,
    pub left: usize,
}

impl Room {
    #[inline]
    pub(super) fn write(&mut self, from: &[u8]) {
        let len = from.len().min(self.left);
        // SAFETY: `left` octets from `start` on lie in mapped guest memory, to which no reference is made; `len` is at most that.
        unsafe {
            copy_short(from.as_ptr(), self.start.as_ptr(), len);
            self.start = self.start.add(len);
        }
        self.left -= len;
    }

    /// Writes a header of `len` octets, [`HEADER`] or [`LEGACY_HEADER`]; not where the same header is there already, which leaves the guest its copy
    /// of the cache line.
    #[inline]
    pub(super) fn write_header(&mut self, header: Header, buffers: u16, len: usize) {
        if self.left < HEADER {
            self.write(&header.octets(buffers)[..len]);
            return;
        }
        let start = self.start.as_ptr();
        let front = header.front.to_le();
        let back = u32::from(header.checksum_offset.to_le()) | u32::from(buffers.to_le()) << 16;
        // SAFETY: there is room for a whole header, as was just checked, in mapped guest memory; the accesses need no alignment. What
        // is written behind a shorter header is the frame's place and is overwritten with it. The guest may change what was compared; then it
        // has changed a header of its own.
        unsafe {
            let (first, second) = (start.cast::<u64>(), start.add(8).cast::<u32>());
            if first.read_unaligned() != front {
                first.write_unaligned(front);
            }
            if second.read_unaligned() != back {
                second.write_unaligned(back);
            }
            self.start = self.start.add(len);
        }
        self.left -= len;
    }

    /// Writes what was copied out of a frame, and the rest of it.
    #[inline]
    pub(super) fn write_all(&mut self, head: &[u8], payload: &Payload) {
        self.write(head);
        for slice in payload.slices() {
            self.write_slice(*slice);
        }
    }

    #[inline]
    pub(super) fn write_slice(&mut self, from: Slice) {
        let len = (from.len as usize).min(self.left);
        // SAFETY: both lie in mapped guest memory, and `len` is at most what either has. A guest may have given the same memory
        // twice, so they may overlap.
        unsafe {
            std::ptr::copy(from.start.as_ptr(), self.start.as_ptr(), len);
            self.start = self.start.add(len);
        }
        self.left -= len;
    }
}

/// A frame behind its header, read from the front.
pub(super) struct Source<'a> {
    header: &'a [u8],
    head: &'a [u8],
    payload: &'a [Slice],
    /// Octets of the first slice of the payload that are done.
    done: usize,
}

impl<'a> Source<'a> {
    pub(super) fn new(header: &'a [u8], head: &'a [u8], payload: Option<&'a Payload>) -> Self {
        Self {
            header,
            head,
            payload: payload.map_or(&[], Payload::slices),
            done: 0,
        }
    }

    /// Fills a buffer. Returns how many octets there were for it.
    pub(super) fn fill(&mut self, buffer: Slice) -> usize {
        let mut room = Room {
            start: buffer.start,
            left: buffer.len as usize,
        };
        for part in [&mut self.header, &mut self.head] {
            let (now, later) = part.split_at(part.len().min(room.left));
            room.write(now);
            *part = later;
        }
        while room.left > 0
            && let Some((slice, later)) = self.payload.split_first()
        {
            let left = slice.len as usize - self.done;
            let len = left.min(room.left);
            // SAFETY: `done` is within the slice.
            let start = unsafe { slice.start.add(self.done) };
            room.write_slice(Slice {
                start,
                len: len as u32,
            });
            if len == left {
                (self.payload, self.done) = (later, 0);
            } else {
                self.done += len;
            }
        }
        buffer.len as usize - room.left
    }
}

/// Copies octets, of which there are few as a rule: the smallest frames are many, and a call costs as much as copying one.
///
/// # Safety
/// As for [`std::ptr::copy_nonoverlapping`].
#[inline(always)]
pub(super) unsafe fn copy_short(from: *const u8, to: *mut u8, len: usize) {
    /// Two registers.
    const WIDTH: usize = 32;
    type Block = [u8; WIDTH];
    let block = |at: usize| {
        // SAFETY: the caller's, for a block that ends at `len` at most.
        unsafe {
            let block = from.add(at).cast::<Block>().read_unaligned();
            to.add(at).cast::<Block>().write_unaligned(block);
        }
    };
    match len {
        WIDTH..=64 => block(0),
        65..=128 => {
            block(0);
            block(WIDTH);
            block(len - 2 * WIDTH);
        }
        // SAFETY: the caller's.
        _ => return unsafe { std::ptr::copy_nonoverlapping(from, to, len) },
    }
    block(len - WIDTH);
}
