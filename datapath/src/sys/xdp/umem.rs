//! Memory whose chunks go from frames to the kernel and back: the UMEM of sockets that receive and send.
//!
//! A [`Chunk`] is the one handle on its memory. [`Lent::lend`] takes the handle and gives an address to put on a ring; from then on
//! nothing here refers to the memory, which is the kernel's. [`Lent::recover`] takes an address that came back on a ring, and makes
//! the handle anew, if that chunk was lent and has not been recovered since: no chunk has two handles, whatever is on the rings.
//! Each socket keeps its own list of what it lent, so no thread asks another. The region is never unmapped.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::pool::Chunk;

use crate::sys::mapping::Mapping;

/// Octets of a chunk.
pub const CHUNK: usize = 2048;

/// A region of equal chunks.
#[derive(Debug)]
pub struct Umem {
    base: NonNull<u8>,
    chunks: usize,
    number: u32,
}

// SAFETY: the value is an address, a length and a number; the memory is reached through chunks alone.
unsafe impl Send for Umem {}
// SAFETY: as above.
unsafe impl Sync for Umem {}

impl Umem {
    /// A region of `chunks` chunks, with all of them.
    pub fn new(chunks: usize) -> io::Result<(Self, Vec<Chunk>)> {
        /// Tells regions apart, in all of the process.
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mapping = Mapping::anonymous(chunks * CHUNK)?;
        let base = mapping
            .at(0, mapping.len(), CHUNK)
            .ok_or(io::ErrorKind::InvalidInput)?;
        // It stays mapped for as long as there are chunks: for ever.
        std::mem::forget(mapping);
        let umem = Self { base, chunks, number };
        // SAFETY: each chunk is handed out this once.
        let all = (0..chunks).map(|index| unsafe { umem.chunk(index) }).collect();
        Ok((umem, all))
    }

    /// Its number, which no other region of the process has.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Address and length, octets.
    pub(super) fn region(&self) -> (u64, u64) {
        (self.base.as_ptr() as u64, (self.chunks * CHUNK) as u64)
    }

    /// # Safety
    /// Nothing else may refer to the chunk.
    unsafe fn chunk(&self, index: usize) -> Chunk {
        assert!(index < self.chunks, "the region has no such chunk");
        // SAFETY: the index was just checked, so the octets lie in the mapping, which is never unmapped; the caller answers for there
        // being no other reference to them.
        let octets = unsafe { std::slice::from_raw_parts_mut(self.base.add(index * CHUNK).as_ptr(), CHUNK) };
        Chunk::of(octets, self.number)
    }
}

/// The chunks that one socket has lent to the kernel.
#[derive(Debug)]
pub struct Lent {
    umem: Arc<Umem>,
    /// One bit for each chunk.
    map: Box<[u64]>,
}

impl Lent {
    /// None of them.
    pub fn new(umem: Arc<Umem>) -> Self {
        let words = umem.chunks.div_ceil(64);
        Self {
            umem,
            map: vec![0; words].into(),
        }
    }

    /// Lends a chunk, and gives its address in the UMEM. A chunk of another region comes back.
    #[inline]
    pub fn lend(&mut self, chunk: Chunk) -> Result<u64, Chunk> {
        if chunk.umem() != self.umem.number {
            return Err(chunk);
        }
        let address = chunk.as_ptr() as usize - self.umem.base.as_ptr() as usize;
        let index = address / CHUNK;
        self.map[index / 64] |= 1 << (index % 64);
        Ok(address as u64)
    }

    /// The chunk that this address lies in, if it was lent; from now on it is not.
    #[inline]
    pub fn recover(&mut self, address: u64) -> Option<Chunk> {
        let index = usize::try_from(address).ok()? / CHUNK;
        let word = self.map.get_mut(index / 64)?;
        let bit = 1 << (index % 64);
        if *word & bit == 0 {
            return None;
        }
        *word &= !bit;
        // SAFETY: the bit says that `lend` took the one handle on the chunk, and clearing it that this is done once. The kernel has
        // given the chunk back, or the socket is closed: it writes there no more.
        Some(unsafe { self.umem.chunk(index) })
    }

    /// All chunks that are lent. Only after the socket was closed, and the kernel is done with it.
    pub fn recover_all(&mut self) -> Vec<Chunk> {
        (0..self.umem.chunks)
            .filter_map(|index| self.recover((index * CHUNK) as u64))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_recovered_once_and_keeps_what_was_written() {
        let (umem, mut chunks) = Umem::new(70).unwrap();
        let umem = Arc::new(umem);
        let mut lent = Lent::new(Arc::clone(&umem));
        let mut chunk = chunks.pop().unwrap();
        chunk[256..260].copy_from_slice(b"abcd");
        let address = lent.lend(chunk).ok().unwrap();
        assert_eq!(address, 69 * CHUNK as u64);
        // An address anywhere in the chunk names it.
        let chunk = lent.recover(address + 256).unwrap();
        assert_eq!(&chunk[256..260], b"abcd");
        assert!(lent.recover(address).is_none());
        assert!(lent.recover(70 * CHUNK as u64).is_none() && lent.recover(u64::MAX).is_none());

        // Another socket of the same region recovers nothing that it has not lent.
        let mut other = Lent::new(Arc::clone(&umem));
        let address = lent.lend(chunk).ok().unwrap();
        assert!(other.recover(address).is_none());
        assert_eq!(lent.recover_all().len(), 1);
        assert!(lent.recover_all().is_empty());
    }

    #[test]
    fn a_chunk_of_another_region_comes_back() {
        let (umem, _) = Umem::new(2).unwrap();
        let (_, mut strangers) = Umem::new(2).unwrap();
        let mut lent = Lent::new(Arc::new(umem));
        assert!(lent.lend(strangers.pop().unwrap()).is_err());
        assert!(lent.lend(crate::pool::Pool::new(1).take().unwrap()).is_err());
    }
}
