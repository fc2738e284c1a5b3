//! Buffers for frames: chunks of one region per worker, handed out and taken back without allocation.
//!
//! A [`Chunk`] is the one owner of its memory, so a frame can change hands (to a port that sends later, to another worker)
//! by moving it. The region is never given back: a pool lives as long as its worker, a worker as long as the
//! process. That is also what an AF_XDP UMEM or a registered io_uring buffer asks for.
//!
//! Chunks of UMEMs (`sys::xdp::umem`) are smaller, belong to AF_XDP ports, and only pass through on their way back to them.
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

/// One buffer, of [`CHUNK`] or [`SMALL_CHUNK`] octets, or one of a UMEM.
pub struct Chunk {
    octets: &'static mut [u8],
    umem: u32,
}

impl std::fmt::Debug for Chunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunk")
            .field("umem", &self.umem)
            .finish_non_exhaustive()
    }
}

impl Chunk {
    /// The octets of a UMEM's chunk; 0 is no UMEM's number.
    pub(crate) fn of(octets: &'static mut [u8], umem: u32) -> Self {
        Self { octets, umem }
    }

    /// Number of the UMEM that it belongs to, or 0.
    #[inline]
    pub(crate) fn umem(&self) -> u32 {
        self.umem
    }
}

impl std::ops::Deref for Chunk {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.octets
    }
}

impl std::ops::DerefMut for Chunk {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.octets
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
    /// Those of UMEMs: of each the number, and the chunks on their way back to the sockets.
    umems: Vec<(u32, Vec<Chunk>)>,
}

impl Pool {
    /// A pool of `chunks` large chunks, as many small ones, and as many lists of payloads.
    pub fn new(chunks: usize) -> Self {
        let region = |size: usize| {
            let region: &'static mut [u8] = vec![0; chunks * size].leak();
            region
                .chunks_exact_mut(size)
                .map(|octets| Chunk::of(octets, 0))
                .collect()
        };
        Self {
            large: region(CHUNK),
            small: region(SMALL_CHUNK),
            payloads: std::iter::repeat_with(Box::default).take(chunks).collect(),
            umems: Vec::new(),
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
        if chunk.umem != 0 {
            if let Some((_, free)) = self.umems.iter_mut().find(|(number, _)| *number == chunk.umem) {
                free.push(chunk);
            }
        } else if chunk.len() == SMALL_CHUNK {
            self.small.push(chunk);
        } else {
            self.large.push(chunk);
        }
    }

    /// Makes room for `chunks` chunks of a UMEM, before the first is given.
    pub(crate) fn expect_umem(&mut self, number: u32, chunks: usize) {
        match self.umems.iter_mut().find(|(known, _)| *known == number) {
            Some((_, free)) => free.reserve(chunks.saturating_sub(free.len())),
            None => self.umems.push((number, Vec::with_capacity(chunks))),
        }
    }

    /// A free chunk of a UMEM, the one given last.
    #[inline]
    pub(crate) fn take_umem(&mut self, number: u32) -> Option<Chunk> {
        let (_, free) = self.umems.iter_mut().find(|(known, _)| *known == number)?;
        free.pop()
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
