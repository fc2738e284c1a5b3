//! The three parts of a ring as they lie in the guest's memory, each access where it must be atomic or volatile.

use std::ptr::NonNull;
use std::sync::atomic::AtomicU16;

use super::{Layout, MAX_SIZE};
use crate::sys::cache::{prefetch, prefetch_to_write};
use crate::sys::guest::GuestMemory;

/// `struct virtq_desc`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Descriptor {
    pub addr: u64,
    pub len: u32,
    pub flags: u16,
    pub next: u16,
}

impl Descriptor {
    /// Of its two words as they are in memory.
    #[inline(always)]
    pub(super) fn of(address: u64, rest: u64) -> Self {
        Self {
            addr: address,
            len: rest as u32,
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
        }
    }
}

/// `struct virtq_used_elem`
#[repr(C)]
#[derive(Clone, Copy)]
struct Used {
    id: u32,
    len: u32,
}

/// A place in a ring, counted without end and compared modulo 2^16 (2.7.6).
///
/// It is kept in 32 bits because it is written and read again for each frame: a compiler may read two neighbouring 16-bit
/// fields at once, which a processor can't serve from the write just made, so that it waits for all writes before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Index(u32);

impl Index {
    pub(super) fn new(index: u16) -> Self {
        Self(index.into())
    }

    #[inline(always)]
    pub(super) fn get(self) -> u16 {
        self.0 as u16
    }

    #[inline(always)]
    pub(super) fn plus(self, count: u16) -> Self {
        Self((self.0 + u32::from(count)) & 0xffff)
    }

    /// How far it is past `earlier`.
    #[inline(always)]
    pub(super) fn since(self, earlier: Self) -> u16 {
        (self.0 as u16).wrapping_sub(earlier.0 as u16)
    }
}

/// Descriptors, available ring and used ring.
pub(super) struct Rings {
    descriptors: NonNull<Descriptor>,
    /// flags, idx, ring[size], used_event
    available: NonNull<u16>,
    /// flags, idx, ring[size] of [`Used`], avail_event
    used: NonNull<u16>,
    /// The size less one; 32 bits wide for the same reason as an [`Index`].
    mask: u32,
}

impl Rings {
    /// `None` if they do not lie in the guest's memory, with all their parts and aligned as 2.7 wants it, or their size is impossible. The memory must
    /// outlive the value.
    pub(super) fn new(memory: &GuestMemory, layout: &Layout) -> Option<Self> {
        let size = layout.size;
        if !size.is_power_of_two() || size > MAX_SIZE {
            return None;
        }
        let entries = u64::from(size);
        let place = |user: u64, len: u64, align: usize| {
            let (_, host) = memory.find_user(user, len)?;
            (host.as_ptr() as usize).is_multiple_of(align).then_some(host)
        };
        Some(Self {
            descriptors: place(layout.descriptors, 16 * entries, 16)?.cast(),
            available: place(layout.available, 6 + 2 * entries, 2)?.cast(),
            used: place(layout.used, 6 + 8 * entries, 4)?.cast(),
            mask: u32::from(size) - 1,
        })
    }

    /// Octets of the used ring.
    pub(super) fn used_len(&self) -> usize {
        6 + 8 * self.size() as usize
    }

    pub(super) fn available_index(&self) -> &AtomicU16 {
        // SAFETY: the available ring lies in mapped memory, aligned to 2; all access to its index is atomic.
        unsafe { AtomicU16::from_ptr(self.available.as_ptr().add(1)) }
    }

    pub(super) fn available_flags(&self) -> u16 {
        // SAFETY: as above, the first word of the available ring.
        unsafe { self.available.as_ptr().read_volatile() }
    }

    /// The used index at which the guest wants to be told.
    pub(super) fn used_event(&self) -> u16 {
        let at = 2 + self.mask as usize + 1;
        // SAFETY: as above, the word behind the available ring's entries, which `new` counted in.
        unsafe { self.available.as_ptr().add(at).read_volatile() }
    }

    #[inline(always)]
    pub(super) fn slot(&self, index: Index) -> usize {
        (index.0 & self.mask) as usize
    }

    /// Whether a descriptor has this number.
    #[inline(always)]
    pub(super) fn has(&self, number: u16) -> bool {
        u32::from(number) <= self.mask
    }

    #[inline]
    pub(super) fn available_entry(&self, index: Index) -> u16 {
        let at = 2 + self.slot(index);
        // SAFETY: as above, the masked index is within the ring.
        unsafe { self.available.as_ptr().add(at).read_volatile() }
    }

    pub(super) fn used_index(&self) -> &AtomicU16 {
        // SAFETY: the used ring lies in mapped memory, aligned to 4; all access to its index is atomic.
        unsafe { AtomicU16::from_ptr(self.used.as_ptr().add(1)) }
    }

    pub(super) fn set_used_flags(&self, flags: u16) {
        // SAFETY: as above, the first word of the used ring.
        unsafe { self.used.as_ptr().write_volatile(flags) }
    }

    /// The available index at which we want to be told.
    pub(super) fn set_available_event(&self, index: u16) {
        let at = 2 + 4 * (self.mask as usize + 1);
        // SAFETY: as above, the word behind the used ring's entries, which `new` counted in.
        unsafe { self.used.as_ptr().add(at).write_volatile(index) }
    }

    #[inline]
    pub(super) fn write_used(&mut self, index: Index, id: u16, len: u32) {
        let at = 2 + 4 * self.slot(index);
        let entry = Used { id: id.into(), len };
        // SAFETY: as above, the masked index is within the ring; entries of 8 octets lie behind the first two words, aligned to 4.
        unsafe { self.used.as_ptr().add(at).cast::<Used>().write(entry) };
    }

    /// Brings near where `count` used entries are to be written.
    #[inline]
    pub(super) fn prefetch_used(&self, first: Index, count: u16) {
        const PER_LINE: u16 = 8;
        for ahead in (0..count).step_by(usize::from(PER_LINE)) {
            let at = 2 + 4 * self.slot(first.plus(ahead));
            prefetch_to_write(self.used.as_ptr().wrapping_add(at));
        }
    }

    #[inline(always)]
    pub(super) fn descriptor(&self, index: u16) -> Descriptor {
        // SAFETY: the table has `mask + 1` descriptors, aligned to 16, in mapped memory.
        unsafe {
            let words = self
                .descriptors
                .as_ptr()
                .add((u32::from(index) & self.mask) as usize)
                .cast::<u64>();
            Descriptor::of(words.read_volatile(), words.add(1).read_volatile())
        }
    }

    /// Brings near a descriptor. It need not exist.
    #[inline(always)]
    pub(super) fn prefetch_descriptor(&self, number: u16) {
        prefetch(self.descriptors.as_ptr().wrapping_add(usize::from(number)));
    }

    /// The whole table of descriptors, and how many these are.
    #[inline]
    pub(super) fn table(&self) -> (NonNull<Descriptor>, u32) {
        (self.descriptors, self.mask + 1)
    }

    /// Entries.
    #[inline(always)]
    pub(super) fn size(&self) -> u32 {
        self.mask + 1
    }
}

/// # Safety
/// The descriptor lies in mapped memory.
pub(super) unsafe fn read_unaligned_volatile(from: *const Descriptor) -> Descriptor {
    // SAFETY: the caller's; an array of octets needs no alignment.
    let octets = unsafe { from.cast::<[u8; 16]>().read_volatile() };
    let both = u128::from_ne_bytes(octets);
    Descriptor::of(both as u64, (both >> 64) as u64)
}
