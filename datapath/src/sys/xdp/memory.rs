//! Memory shared with the kernel.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

/// A mapping, unmapped when dropped. Reached through raw pointers only: the kernel is at it too.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the value is an address and a length; who dereferences it answers for how.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` gives out nothing but the address.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// `len` octets of zeros to share with the kernel; the system's figures count them as shared.
    pub(super) fn anonymous(len: usize) -> io::Result<Self> {
        Self::map(len, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0)
    }

    /// `len` octets that a descriptor offers at `offset`.
    pub(super) fn of(fd: BorrowedFd<'_>, offset: libc::off_t, len: usize) -> io::Result<Self> {
        Self::map(len, libc::MAP_SHARED | libc::MAP_POPULATE, fd.as_raw_fd(), offset)
    }

    fn map(len: usize, flags: libc::c_int, fd: libc::c_int, offset: libc::off_t) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; nothing is unmapped or overwritten.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd, offset) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, len })
    }

    /// The address of `size` octets at `offset`, if they lie in the mapping and are aligned to `align`.
    pub(super) fn at(&self, offset: usize, size: usize, align: usize) -> Option<NonNull<u8>> {
        let end = offset.checked_add(size)?;
        let fits = end <= self.len && (self.base.as_ptr() as usize + offset).is_multiple_of(align);
        // SAFETY: `offset` is within the mapping, as was just checked.
        fits.then(|| unsafe { self.base.add(offset) })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this address and length, and those who point into it hold it alive.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

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
