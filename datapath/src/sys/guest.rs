//! The memory that a virtual machine shares with the switch (vhost-user, "Memory region description"), and what of a frame lies there.
//!
//! The guest writes to its memory whenever it likes, also while the switch reads it. So no reference is ever made to it: octets are
//! copied out by raw pointers, decisions are made on the copy, and what was copied is what counts. Every access is within a region
//! ([`GuestMemory::find`] checks it, in release builds too).
//!
//! A guest may also truncate the file behind its memory; reading there raises SIGBUS. [`crate::sys::sigbus`] then puts
//! zeros in the file's place and marks the memory broken, which costs the port and nothing else.
//!
//! And it may share a file whose pages only come when somebody else gives them (FUSE, a network file system): reading there would stop a worker for as
//! long as that takes, so only memory and local file systems are taken.
//!
//! Lifetimes: a [`Payload`] points into memory that the ring which the frame came from holds mapped. A queue lets go of a ring only between batches
//! (`io::vhost_user`), when no frame is left; and frames with a payload never leave their worker.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;

use super::mapping::Mapping;
use super::sigbus::Watch;

/// One region as the front-end describes it.
#[derive(Debug)]
pub struct Region {
    /// Address in the guest.
    pub guest: u64,
    /// Address in the front-end's own process, by which it names its rings.
    pub user: u64,
    /// Octets.
    pub len: u64,
    /// Where the region begins in the file.
    pub offset: u64,
    /// The file that backs it.
    pub file: File,
}

/// A region, mapped.
#[derive(Debug)]
struct Mapped {
    guest: u64,
    user: u64,
    len: u64,
    /// Where the region begins in the mapping, which begins at a page of the file.
    base: NonNull<u8>,
    watch: Watch,
    _mapping: Mapping,
}

/// The mapped memory of one guest.
#[derive(Debug)]
pub struct GuestMemory {
    regions: Box<[Mapped]>,
}

// SAFETY: the pointers lead into mappings that the value holds; all access is by raw pointers, checked against the regions.
unsafe impl Send for GuestMemory {}
// SAFETY: as above; no access gives out a reference.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// Most regions of one guest: what QEMU and the protocol use.
    pub const MAX_REGIONS: usize = 64;

    /// Maps regions.
    ///
    /// # Errors
    /// InvalidInput for a region that is empty, overlaps another or is longer than its file; what mmap says.
    pub fn map(regions: &[Region]) -> io::Result<Self> {
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        if regions.len() > Self::MAX_REGIONS {
            return Err(invalid("too many memory regions"));
        }
        let mapped = regions.iter().fold(0u64, |sum, one| {
            sum.saturating_add(one.offset).saturating_add(one.len)
        });
        if mapped > most_memory() {
            return Err(invalid("that is more than four times the memory of this host"));
        }
        for (index, one) in regions.iter().enumerate() {
            for other in &regions[..index] {
                let apart = |a: u64, b: u64| a + one.len <= b || b + other.len <= a;
                let ends = [one.guest, one.user, other.guest, other.user]
                    .iter()
                    .all(|start| start.checked_add(one.len.max(other.len)).is_some());
                if !ends || !apart(one.guest, other.guest) || !apart(one.user, other.user) {
                    return Err(invalid("memory regions overlap"));
                }
            }
        }
        let regions = regions.iter().map(Mapped::new).collect::<io::Result<_>>()?;
        Ok(Self { regions })
    }

    /// The host address of `len` octets at `guest`, if one region holds them all.
    #[inline]
    pub fn find(&self, guest: u64, len: u64) -> Option<NonNull<u8>> {
        self.regions.iter().find_map(|region| {
            let at = guest.wrapping_sub(region.guest);
            region.at(at, len)
        })
    }

    /// The guest address and host address of `len` octets that the front-end has at `user`.
    pub fn find_user(&self, user: u64, len: u64) -> Option<(u64, NonNull<u8>)> {
        self.regions.iter().find_map(|region| {
            let at = user.wrapping_sub(region.user);
            let host = region.at(at, len)?;
            Some((region.guest + at, host))
        })
    }

    /// Where the guest has what lies at a host address.
    pub(super) fn guest_address(&self, host: NonNull<u8>) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let at = (host.as_ptr() as u64).wrapping_sub(region.base.as_ptr() as u64);
            (at < region.len).then(|| region.guest + at)
        })
    }

    /// Whether the guest has taken memory away that it had shared.
    pub fn is_broken(&self) -> bool {
        self.regions.iter().any(|region| region.watch.is_broken())
    }
}

/// Octets that one guest may share at most: more than it can use, and little enough of the address space for the others to find room.
fn most_memory() -> u64 {
    const LEAST: u64 = 1 << 36;
    // SAFETY: sysconf takes no pointer. Without an answer it is -1.
    let [pages, size] = [libc::_SC_PHYS_PAGES, libc::_SC_PAGESIZE].map(|name| unsafe { libc::sysconf(name) });
    let all = u64::try_from(pages)
        .unwrap_or(0)
        .saturating_mul(u64::try_from(size).unwrap_or(0));
    all.saturating_mul(4).max(LEAST)
}

/// Whether the pages of a file are there without anybody's help.
fn is_local(file: &File) -> io::Result<bool> {
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    const HUGETLBFS: u64 = 0x9584_58f6;
    const EXT: u64 = 0xef53;
    const XFS: u64 = 0x5846_5342;
    const BTRFS: u64 = 0x9123_683e;
    // SAFETY: all-zero is a valid statfs, and it lives through the call, which writes it; the descriptor is open.
    let facts = unsafe {
        let mut facts: libc::statfs = std::mem::zeroed();
        super::check(libc::fstatfs(file.as_raw_fd(), &mut facts))?;
        facts
    };
    // The type is signed or not, and of 32 or 64 bits, as the architecture likes.
    let kind = facts.f_type as u64 & 0xffff_ffff;
    Ok([TMPFS, RAMFS, HUGETLBFS, EXT, XFS, BTRFS].contains(&kind))
}

impl Mapped {
    fn new(region: &Region) -> io::Result<Self> {
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        if !is_local(&region.file)? {
            return Err(invalid(
                "a memory region lies in a file system that may keep its readers waiting; share a memfd, or a file of tmpfs or hugetlbfs",
            ));
        }
        let end = region.offset.checked_add(region.len);
        let end = end.ok_or(invalid("a memory region's end overflows"))?;
        if region.len == 0 {
            return Err(invalid("a memory region is empty"));
        }
        if region.guest.checked_add(region.len).is_none() || region.user.checked_add(region.len).is_none() {
            return Err(invalid("a memory region's end overflows"));
        }
        if region.file.metadata()?.len() < end {
            return Err(invalid("a memory region is longer than its file"));
        }
        // A file is mapped from its start, in whole pages of its own size: hugetlbfs wants both the offset and the length so.
        let page = region.file.metadata()?.blksize().max(1);
        let len = end
            .checked_next_multiple_of(page)
            .and_then(|len| usize::try_from(len).ok());
        let len = len.ok_or(invalid("a memory region is too long"))?;
        let mapping = Mapping::of_file(region.file.as_fd(), len)?;
        let start = region.offset as usize;
        let base = mapping
            .at(start, region.len as usize, 1)
            .ok_or(invalid("a memory region is too long"))?;
        let watch = Watch::new(&mapping)?;
        Ok(Self {
            guest: region.guest,
            user: region.user,
            len: region.len,
            base,
            watch,
            _mapping: mapping,
        })
    }

    #[inline]
    fn at(&self, at: u64, len: u64) -> Option<NonNull<u8>> {
        let fits = at < self.len && len <= self.len - at;
        // SAFETY: `at` is below the region's length, and the region lies in the mapping, as `new` has checked.
        fits.then(|| unsafe { self.base.add(at as usize) })
    }
}

/// A part of a frame in guest memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slice {
    pub start: NonNull<u8>,
    pub len: u32,
}

/// The octets of a frame that were not copied out of the guest's memory.
#[derive(Debug)]
pub struct Payload {
    slices: [Slice; Payload::SLICES],
    count: usize,
    len: usize,
}

// SAFETY: the pointers belong to no thread; who follows them relies on the lifetimes in the module's head.
unsafe impl Send for Payload {}

impl Default for Payload {
    fn default() -> Self {
        let nothing = Slice {
            start: NonNull::dangling(),
            len: 0,
        };
        Self {
            slices: [nothing; Self::SLICES],
            count: 0,
            len: 0,
        }
    }
}

impl Payload {
    /// Most parts: a super-frame of 64 KiB in pages, and one for what its headers left of theirs.
    pub const SLICES: usize = 24;

    /// Octets altogether.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets all parts.
    #[inline]
    pub fn clear(&mut self) {
        self.count = 0;
        self.len = 0;
    }

    /// Appends a part of memory that stays mapped as the module's head says. False if there is no room for another.
    #[inline]
    pub(super) fn push(&mut self, slice: Slice) -> bool {
        let Some(place) = self.slices.get_mut(self.count) else {
            return false;
        };
        *place = slice;
        self.count += 1;
        self.len += slice.len as usize;
        true
    }

    #[inline]
    pub(super) fn slices(&self) -> &[Slice] {
        &self.slices[..self.count.min(Self::SLICES)]
    }

    /// Copies all parts to the front of `to`; what does not fit is left out. Returns how many octets were copied.
    pub fn copy_to(&self, to: &mut [u8]) -> usize {
        let mut done = 0;
        for slice in self.slices() {
            let len = (slice.len as usize).min(to.len() - done);
            // SAFETY: the slice lies in mapped guest memory (the module's head), `to` has room for `len` octets from `done` on, and no
            // reference is made to guest memory, so the two don't overlap.
            unsafe { std::ptr::copy_nonoverlapping(slice.start.as_ptr(), to.as_mut_ptr().add(done), len) };
            done += len;
        }
        done
    }
}
