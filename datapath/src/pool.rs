//! Buffers for frames: equal chunks of one region per worker, handed out and taken back without allocation.
//!
//! A [`Chunk`] is the one owner of its memory, so a frame can change hands (to a port that sends later, to another worker)
//! by moving it. The region is never given back: a pool lives as long as its worker, a worker as long as the
//! process. That is also what an AF_XDP UMEM or a registered io_uring buffer asks for.
//!
//! A chunk holds the largest frame there is, a 64 KiB super-frame with two tags, behind [`HEADROOM`] for the device's
//! header and a tag to push. Pages of a chunk that only ever held small frames are never touched. Chunks are handed
//! out last in, first out, so that a quiet switch works in a few warm cache lines, and their stride is no
//! power of two, so that the heads of a batch spread over all cache sets.

/// Octets in front of a received frame: room for a device header and pushed tags.
pub const HEADROOM: usize = 128;
/// The longest frame: 64 KiB of IP packet, an Ethernet header and two tags.
pub const MAX_FRAME: usize = 65_535 + 14 + 8;
/// Size of a chunk and distance between two.
pub const CHUNK: usize = 66_112;

const _: () = assert!(CHUNK >= HEADROOM + MAX_FRAME);
// 576 octets past a multiple of 4096: an odd multiple of the cache line.
const _: () = assert!((CHUNK % 4096 / 64) % 2 == 1 && CHUNK.is_multiple_of(64));

/// One buffer of [`CHUNK`] octets.
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

/// The free chunks of one worker.
pub struct Pool {
    free: Vec<Chunk>,
}

impl Pool {
    /// A pool of `chunks` chunks.
    pub fn new(chunks: usize) -> Self {
        let region: &'static mut [u8] = vec![0; chunks * CHUNK].leak();
        Self {
            free: region.chunks_exact_mut(CHUNK).map(Chunk).collect(),
        }
    }

    /// A free chunk, the one used last.
    #[inline]
    pub fn take(&mut self) -> Option<Chunk> {
        self.free.pop()
    }

    /// Gives a chunk back.
    #[inline]
    pub fn give(&mut self, chunk: Chunk) {
        // Every chunk came out of this vector or another worker's of the same size, so there is room in practice.
        self.free.push(chunk);
    }

    /// How many chunks are free.
    #[inline]
    pub fn free(&self) -> usize {
        self.free.len()
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
