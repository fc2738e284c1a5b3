//! Memory shared with the kernel or with another process.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

/// A mapping, unmapped when dropped. Reached through raw pointers only: others are at it too.
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

    /// `len` octets that a socket offers at `offset`.
    pub(super) fn of_socket(fd: BorrowedFd<'_>, offset: libc::off_t, len: usize) -> io::Result<Self> {
        Self::map(len, libc::MAP_SHARED | libc::MAP_POPULATE, fd.as_raw_fd(), offset)
    }

    /// `len` octets of a file, from its start, shared with all who have it. Pages come as they are used. On hugetlbfs `len` is a
    /// multiple of its page size.
    pub(super) fn of_file(file: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        Self::map(len, libc::MAP_SHARED | libc::MAP_NORESERVE, file.as_raw_fd(), 0)
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
