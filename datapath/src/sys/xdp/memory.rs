//! The frames that a socket shares with the kernel.

use std::io;

use crate::sys::mapping::Mapping;

/// The frames of a socket: equal chunks of [`Umem::CHUNK`] octets.
#[derive(Debug)]
pub struct Umem {
    pub(super) mapping: Mapping,
}

impl Umem {
    /// Size of a chunk, the smallest that AF_XDP takes.
    pub const CHUNK: usize = 2048;

    /// So many chunks, not yet registered with a socket.
    pub fn new(chunks: usize) -> io::Result<Self> {
        let mapping = Mapping::anonymous(chunks * Self::CHUNK)?;
        Ok(Self { mapping })
    }

    /// How many chunks.
    pub fn chunks(&self) -> usize {
        self.mapping.len() / Self::CHUNK
    }

    /// Writes `bytes` to the front of a chunk. Returns its address in the UMEM, or `None` if there is no such
    /// chunk or the bytes don't fit. The chunk must not be with the kernel, or a frame is sent garbled.
    pub fn write(&mut self, chunk: usize, bytes: &[u8]) -> Option<u64> {
        let start = chunk.checked_mul(Self::CHUNK)?;
        if bytes.len() > Self::CHUNK {
            return None;
        }
        let to = self.mapping.at(start, Self::CHUNK, 1)?;
        // SAFETY: `at` has checked that the chunk lies in the mapping, and `bytes` is no longer than it; a borrowed slice
        // can't overlap a mapping to which no reference is ever made.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
        Some(start as u64)
    }
}
