//! Buffers for frames: chunks of one region per worker, handed out and taken back without allocation.
//!
//! A [`Chunk`] is the one owner of its memory, so a frame can change hands (to a port that sends later, to another worker)
//! by moving it. The region is never given back: a pool lives as long as its worker, a worker as long as the
//! process. That is also what an AF_XDP UMEM or a registered io_uring buffer asks for.
//!
//! There are two sizes. A large chunk holds the largest frame there is, a 64 KiB super-frame with two tags, behind [`HEADROOM`] for the
//! device's header and a tag to push; pages of it that only ever held small frames are never touched. A small one holds the first
//! octets of a frame whose payload stays where it is, in a guest's memory (`Frame::gather`). Chunks are handed
//! out last in, first out, so that a quiet switch works in a few warm cache lines, and their strides are no
//! powers of two, so that the heads of a batch spread over all cache sets.

use crate::sys::guest::Payload;

/// Octets in front of a received frame: room for a device header and pushed tags.
pub const HEADROOM: usize = 128;
/// The longest frame: 64 KiB of IP packet, an Ethernet header and two tags.
pub const MAX_FRAME: usize = 65_535 + 14 + 8;
/// Size of a large chunk and distance between two.
pub const CHUNK: usize = 66_112;
/// Size of a small chunk and distance between two.
pub const SMALL_CHUNK: usize = 448;
/// Octets of a frame that a small chunk holds: all headers that a decision looks at.
pub const HEAD: usize = SMALL_CHUNK - HEADROOM;

const _: () = assert!(CHUNK >= HEADROOM + MAX_FRAME);
// 576 octets past a multiple of 4096: an odd multiple of the cache line.
const _: () = assert!((CHUNK % 4096 / 64) % 2 == 1 && CHUNK.is_multiple_of(64));
const _: () = assert!((SMALL_CHUNK / 64) % 2 == 1 && SMALL_CHUNK.is_multiple_of(64));

/// One buffer, of [`CHUNK`] or [`SMALL_CHUNK`] octets.
pub struct Chunk(&'static mut [u8]);

impl std::ops::Deref for Chunk {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.0
    }
}

impl std::ops::DerefMut for Chunk {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0
    }
}

/// What a worker has free.
pub struct Pool {
    large: Vec<Chunk>,
    small: Vec<Chunk>,
    #[expect(
        clippy::vec_box,
        reason = "a list changes hands between the pool and a frame by its address"
    )]
    payloads: Vec<Box<Payload>>,
}

impl Pool {
    /// A pool of `chunks` large chunks, as many small ones, and as many lists of payloads.
    pub fn new(chunks: usize) -> Self {
        let region = |size: usize| {
            let region: &'static mut [u8] = vec![0; chunks * size].leak();
            region.chunks_exact_mut(size).map(Chunk).collect()
        };
        Self {
            large: region(CHUNK),
            small: region(SMALL_CHUNK),
            payloads: std::iter::repeat_with(Box::default).take(chunks).collect(),
        }
    }

    /// A free large chunk, the one used last.
    #[inline]
    pub fn take(&mut self) -> Option<Chunk> {
        self.large.pop()
    }

    /// A free small chunk, the one used last.
    #[inline]
    pub fn take_small(&mut self) -> Option<Chunk> {
        self.small.pop()
    }

    /// An empty list for the payload of a frame.
    #[inline]
    pub fn take_payload(&mut self) -> Option<Box<Payload>> {
        self.payloads.pop()
    }

    /// Gives a chunk back.
    #[inline]
    pub fn give(&mut self, chunk: Chunk) {
        // Every chunk came out of these vectors or another worker's of the same size, so there is room in practice.
        if chunk.len() == SMALL_CHUNK {
            self.small.push(chunk);
        } else {
            self.large.push(chunk);
        }
    }

    /// Gives a payload's list back.
    #[inline]
    pub fn give_payload(&mut self, mut payload: Box<Payload>) {
        payload.clear();
        self.payloads.push(payload);
    }

    /// How many large chunks are free.
    #[inline]
    pub fn free(&self) -> usize {
        self.large.len()
    }

    /// How many small chunks are free.
    #[inline]
    pub fn free_small(&self) -> usize {
        self.small.len().min(self.payloads.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_come_back_last_in_first_out() {
        let mut pool = Pool::new(2);
        let (first, second) = (pool.take().unwrap(), pool.take().unwrap());
        assert!(pool.take().is_none());
        assert_ne!(first.as_ptr(), second.as_ptr());
        let address = first.as_ptr();
        pool.give(second);
        pool.give(first);
        assert_eq!(pool.take().unwrap().as_ptr(), address);
    }
}
