//! The device side of a split virtqueue (VirtIO 1.2, section 2.7): the guest makes buffers available, the device uses them.
//!
//! Everything in the rings is the guest's to write, at any time, and nothing it writes is believed: an index beyond the ring, a descriptor outside
//! of the guest's memory, a chain longer than the ring or an indirect table within another make the ring [`Broken`], which costs the port.
//! Each value is read once, by a volatile read, and what was read is what is checked and used.
//!
//! Ordering: the available index is read with Acquire before the entries that it covers; the used entries are written before the used index, with
//! Release. A full fence lies between our write of an index and our read of the other side's wish to be told (2.7.7.1, 2.7.10).
//!
//! One thread has a ring. The addresses were checked against the guest's memory, which the ring holds mapped, when the ring was made.

use std::cell::Cell;
use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use super::cache::{prefetch, prefetch_to_write};
use super::dirty::DirtyLog;
use super::eventfd;
use super::guest::{GuestMemory, Payload, Slice};

/// Octets of `struct virtio_net_hdr_mrg_rxbuf`, which a device of VirtIO 1.0 always uses (5.1.6).
pub const HEADER: usize = 12;

/// Octets of `struct virtio_net_hdr`, which a legacy device without mergeable buffers uses (5.1.6.1).
pub const LEGACY_HEADER: usize = 10;

/// Most buffers fetched at once.
pub const BATCH: usize = 64;

/// How many buffers ahead are brought near: enough to hide the way from the other core, and few enough to stay in the first cache, whose sets the
/// buffers of a guest share unevenly (they lie 2 KiB apart, say).
const AHEAD: usize = 8;

/// The most buffers of a chain. No driver has a use for more (Linux has 18 for a frame of 64 KiB), and each costs time; QEMU has the same limit.
const MAX_CHAIN: u32 = 1024;

/// Buffers of chains that are walked in one batch: four times what a batch of 64 super-frames takes. A guest that splits its frames finer gets fewer
/// of them into a batch, so that other ports do not wait for it.
const PATIENCE: u32 = 16_384;

/// The largest ring (2.7).
pub const MAX_SIZE: u16 = 32_768;

/// `VIRTQ_DESC_F_*`
pub(crate) mod flag {
    pub const NEXT: u16 = 1;
    pub const WRITE: u16 = 2;
    pub const INDIRECT: u16 = 4;
}
/// `VIRTQ_AVAIL_F_NO_INTERRUPT`
const NO_INTERRUPT: u16 = 1;
/// `VIRTQ_USED_F_NO_NOTIFY`
const NO_NOTIFY: u16 = 1;

/// `struct virtq_desc`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Descriptor {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    /// Of its two words as they are in memory.
    #[inline(always)]
    fn of(address: u64, rest: u64) -> Self {
        let rest = u64::from_le(rest);
        Self {
            addr: u64::from_le(address),
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

/// The guest broke the rules of the ring; the ring is of no more use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Broken {
    /// The available index is further ahead than the ring is long.
    #[error("the available index runs ahead of the ring")]
    Index,
    /// An entry names a descriptor beyond the ring.
    #[error("a descriptor number is beyond the ring")]
    Descriptor,
    /// A chain comes back to itself, or is longer than the ring or [`MAX_CHAIN`].
    #[error("a descriptor chain is longer than the ring, or than 1024 buffers")]
    Loop,
    /// A buffer of no octets.
    #[error("a buffer is empty")]
    Empty,
    /// An indirect table where none may be, or one of an impossible length.
    #[error("an indirect descriptor table is malformed")]
    Indirect,
    /// A buffer outside of the guest's memory.
    #[error("a buffer is outside of the guest's memory")]
    Address,
    /// A buffer for the device to write among those for it to read, or the other way round.
    #[error("a buffer has the wrong direction")]
    Direction,
    /// The guest has taken away memory that it had shared.
    #[error("shared memory was taken away")]
    Memory,
    /// What is to tell of new buffers cannot be waited for.
    #[error("the descriptor for its notifications cannot be waited for")]
    Kick,
}

/// How a ring is laid out, as the front-end says, and what was negotiated.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Entries, a power of two.
    pub size: u16,
    /// Address of the descriptor table in the front-end's process.
    pub descriptors: u64,
    /// Address of the available ring there.
    pub available: u64,
    /// Address of the used ring there.
    pub used: u64,
    /// Index of the next entry to take.
    pub base: u16,
    /// `VIRTIO_F_EVENT_IDX`
    pub event_index: bool,
    /// `VIRTIO_NET_F_MRG_RXBUF`: a frame may be given in several buffers.
    pub mergeable: bool,
    /// Frames have a [`LEGACY_HEADER`] in front, not a [`HEADER`].
    pub legacy: bool,
}

/// A chain that was looked up, usually one buffer.
#[derive(Clone, Copy)]
struct Fetched {
    /// Where the buffer lies; `None` if the chain has to be walked.
    start: Option<NonNull<u8>>,
    /// Octets of the buffer.
    len: u32,
    /// Number of the chain's first descriptor.
    head: u16,
}

/// A frame as the guest put it up, copied as far as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Octets copied, the header included.
    pub copied: usize,
    /// Octets altogether.
    pub len: usize,
}

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
    fn octets(self, buffers: u16) -> [u8; HEADER] {
        let mut octets = [0; HEADER];
        octets[..8].copy_from_slice(&self.front.to_le_bytes());
        octets[8..10].copy_from_slice(&self.checksum_offset.to_le_bytes());
        octets[10..].copy_from_slice(&buffers.to_le_bytes());
        octets
    }
}

/// What became of a frame for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// It lies in the guest's buffers.
    Sent,
    /// The guest has not enough buffers for it at present.
    Full,
    /// The guest's buffers are too small for it.
    TooLong,
}

/// A place in a ring, counted without end and compared modulo 2^16 (2.7.6).
///
/// It is kept in 32 bits because it is written and read again for each frame: a compiler may read two neighbouring 16-bit
/// fields at once, which a processor can't serve from the write just made, so that it waits for all writes before.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Index(u32);

impl Index {
    fn new(index: u16) -> Self {
        Self(index.into())
    }

    #[inline(always)]
    fn get(self) -> u16 {
        self.0 as u16
    }

    #[inline(always)]
    fn plus(self, count: u16) -> Self {
        Self((self.0 + u32::from(count)) & 0xffff)
    }

    /// How far it is past `earlier`.
    #[inline(always)]
    fn since(self, earlier: Self) -> u16 {
        (self.0 as u16).wrapping_sub(earlier.0 as u16)
    }
}

/// Where to say what was written to the guest's memory, while it is being migrated.
struct Log {
    pages: Arc<DirtyLog>,
    /// The used ring's place in the log, if its writes are to be logged too.
    used: Option<u64>,
}

/// One ring.
pub struct Vring {
    memory: Arc<GuestMemory>,
    descriptors: NonNull<Descriptor>,
    /// flags, idx, ring[size], used_event
    available: NonNull<u16>,
    /// flags, idx, ring[size] of [`Used`], avail_event
    used: NonNull<u16>,
    /// The size less one; 32 bits wide for the same reason as an [`Index`].
    mask: u32,
    event_index: bool,
    mergeable: bool,
    /// Octets of the header in front of each frame.
    header: usize,
    call: Option<File>,
    log: Option<Log>,
    /// The next available entry to take.
    next_available: Index,
    /// The guest's available index when last looked at.
    seen_available: Index,
    /// The next used entry to write; those since `published` are not yet the guest's to see.
    next_used: Index,
    published: Index,
    /// The next chains, looked up ahead of time.
    fetched: [Fetched; BATCH],
    fetched_len: usize,
    /// How many of them frames for the guest were put into.
    given: usize,
    /// Chains that were taken and not yet used.
    taken: u16,
    /// Buffers of chains that were walked in this batch.
    walked: Cell<u32>,
}

// SAFETY: the pointers lead into memory that the value holds mapped, and belong to no thread.
unsafe impl Send for Vring {}

impl Vring {
    /// Takes a ring up. `None` if it does not lie in the guest's memory, aligned as 2.7 wants it, or its size is impossible.
    pub fn new(memory: Arc<GuestMemory>, layout: &Layout, call: Option<File>) -> Option<Self> {
        let size = layout.size;
        if !size.is_power_of_two() || size > MAX_SIZE {
            return None;
        }
        let entries = u64::from(size);
        let place = |user: u64, len: u64, align: usize| {
            let (_, host) = memory.find_user(user, len)?;
            (host.as_ptr() as usize).is_multiple_of(align).then_some(host)
        };
        let descriptors = place(layout.descriptors, 16 * entries, 16)?.cast();
        let available = place(layout.available, 6 + 2 * entries, 2)?.cast();
        let used = place(layout.used, 6 + 8 * entries, 4)?.cast();
        let nothing = Fetched {
            start: None,
            len: 0,
            head: 0,
        };
        let base = Index::new(layout.base);
        let mut ring = Self {
            memory,
            descriptors,
            available,
            used,
            mask: u32::from(size) - 1,
            event_index: layout.event_index,
            mergeable: layout.mergeable,
            header: if layout.legacy { LEGACY_HEADER } else { HEADER },
            call,
            log: None,
            next_available: base,
            seen_available: base,
            next_used: base,
            published: base,
            fetched: [nothing; BATCH],
            fetched_len: 0,
            given: 0,
            taken: 0,
            walked: Cell::new(0),
        };
        // A device that was here before may have used more than it took up again (it ended in between): go on where the
        // guest believes us to be.
        ring.next_used = Index::new(ring.used_index().load(Ordering::Relaxed));
        ring.published = ring.next_used;
        Some(ring)
    }

    /// Octets of the header in front of each frame.
    #[inline]
    pub fn header(&self) -> usize {
        self.header
    }

    /// Index of the next entry to take, for whoever takes the ring over.
    pub fn base(&self) -> u16 {
        self.next_available.get()
    }

    /// Whether the guest has taken memory away.
    pub fn is_broken(&self) -> bool {
        self.memory.is_broken() || self.log.as_ref().is_some_and(|log| log.pages.is_broken())
    }

    /// Logs what is written from now on: frames, and the used ring as if it began at the guest address `used`.
    pub fn log_writes(&mut self, pages: Arc<DirtyLog>, used: Option<u64>) {
        self.log = Some(Log { pages, used });
    }

    /// Logs a part of a frame that was written.
    #[cold]
    fn log_frame(&self, start: NonNull<u8>, len: usize) {
        if let Some(log) = &self.log
            && let Some(guest) = self.memory.guest_address(start)
        {
            log.pages.mark(guest, len);
        }
    }

    /// Logs the used ring, after a part of it was written.
    #[inline]
    fn log_used(&self) {
        if let Some(log) = &self.log
            && let Some(used) = log.used
        {
            log.pages.mark(used, 6 + 8 * (self.mask as usize + 1));
        }
    }

    /// What tells the guest of used buffers from now on. What it was told before by other means may have been lost: it is told again.
    pub fn set_call(&mut self, call: Option<File>) {
        self.call = call;
        self.call();
    }

    // The places in the rings. `new` has checked that both rings lie in mapped memory with all their parts.

    fn available_index(&self) -> &AtomicU16 {
        // SAFETY: the available ring lies in mapped memory, aligned to 2; all access to its index is atomic.
        unsafe { AtomicU16::from_ptr(self.available.as_ptr().add(1)) }
    }

    fn available_flags(&self) -> u16 {
        // SAFETY: as above, the first word of the available ring.
        unsafe { self.available.as_ptr().read_volatile() }
    }

    /// The used index at which the guest wants to be told.
    fn used_event(&self) -> u16 {
        let at = 2 + self.mask as usize + 1;
        // SAFETY: as above, the word behind the available ring's entries, which `new` counted in.
        unsafe { self.available.as_ptr().add(at).read_volatile() }
    }

    #[inline(always)]
    fn slot(&self, index: Index) -> usize {
        (index.0 & self.mask) as usize
    }

    /// Whether a descriptor has this number.
    #[inline(always)]
    fn has(&self, number: u16) -> bool {
        u32::from(number) <= self.mask
    }

    #[inline]
    fn available_entry(&self, index: Index) -> u16 {
        let at = 2 + self.slot(index);
        // SAFETY: as above, the masked index is within the ring.
        unsafe { self.available.as_ptr().add(at).read_volatile() }
    }

    fn used_index(&self) -> &AtomicU16 {
        // SAFETY: the used ring lies in mapped memory, aligned to 4; all access to its index is atomic.
        unsafe { AtomicU16::from_ptr(self.used.as_ptr().add(1)) }
    }

    fn set_used_flags(&self, flags: u16) {
        // SAFETY: as above, the first word of the used ring.
        unsafe { self.used.as_ptr().write_volatile(flags) }
    }

    /// The available index at which we want to be told.
    fn set_available_event(&self, index: u16) {
        let at = 2 + 4 * (self.mask as usize + 1);
        // SAFETY: as above, the word behind the used ring's entries, which `new` counted in.
        unsafe { self.used.as_ptr().add(at).write_volatile(index) }
    }

    #[inline]
    fn write_used(&mut self, id: u16, len: u32) {
        let at = 2 + 4 * self.slot(self.next_used);
        let entry = Used { id: id.into(), len };
        // SAFETY: as above, the masked index is within the ring; entries of 8 octets lie behind the first two words, aligned to 4.
        unsafe { self.used.as_ptr().add(at).cast::<Used>().write(entry) };
        self.next_used = self.next_used.plus(1);
    }

    /// Brings near where the next `count` used entries are to be written.
    #[inline]
    fn prefetch_used(&self, count: u16) {
        const PER_LINE: u16 = 8;
        for ahead in (0..count).step_by(usize::from(PER_LINE)) {
            let at = 2 + 4 * self.slot(self.next_used.plus(ahead));
            prefetch_to_write(self.used.as_ptr().wrapping_add(at));
        }
    }

    #[inline(always)]
    fn descriptor(&self, index: u16) -> Descriptor {
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

    /// How many chains the guest has made available and we have not taken.
    #[inline]
    fn waiting(&mut self) -> Result<u16, Broken> {
        let mut waiting = self.seen_available.since(self.next_available);
        if waiting == 0 {
            waiting = self.look_again();
        }
        if u32::from(waiting) > self.mask + 1 {
            return Err(Broken::Index);
        }
        Ok(waiting)
    }

    /// Reads the guest's index anew.
    #[inline]
    fn look_again(&mut self) -> u16 {
        self.seen_available = Index::new(self.available_index().load(Ordering::Acquire));
        self.seen_available.since(self.next_available)
    }

    /// Looks up the next chains, at most `limit`, and brings their memory near: to be read, or to be written.
    #[inline(always)]
    fn look_up(&mut self, limit: usize, writable: bool) -> Result<usize, Broken> {
        self.fetched_len = 0;
        self.given = 0;
        let count = usize::from(self.waiting()?).min(limit).min(BATCH);
        self.prefetch_used(count as u16);
        for index in 0..count {
            let head = self.available_entry(self.next_available.plus(index as u16));
            if !self.has(head) {
                return Err(Broken::Descriptor);
            }
            self.fetched[index].head = head;
            prefetch(self.descriptors.as_ptr().wrapping_add(usize::from(head)));
        }
        for index in 0..count {
            let descriptor = self.descriptor(self.fetched[index].head);
            let start = if descriptor.flags & (flag::NEXT | flag::INDIRECT) == 0 {
                if (descriptor.flags & flag::WRITE != 0) != writable {
                    return Err(Broken::Direction);
                }
                let start = self.memory.find(descriptor.addr, descriptor.len.into());
                Some(start.ok_or(Broken::Address)?)
            } else {
                None
            };
            self.fetched[index].start = start;
            self.fetched[index].len = descriptor.len;
            if index < AHEAD {
                self.prefetch_buffer(index, writable);
            }
        }
        self.fetched_len = count;
        Ok(count)
    }

    /// Brings near the front of a chain that was looked up: the shortest frame and its header are longer than a line.
    #[inline(always)]
    fn prefetch_buffer(&self, index: usize, writable: bool) {
        if let Some(Fetched {
            start: Some(start), ..
        }) = self.fetched.get(index)
        {
            let start = start.as_ptr();
            let bring = if writable { prefetch_to_write } else { prefetch };
            bring(start);
            bring(start.wrapping_add(64));
        }
    }

    // From the guest.

    /// Looks up the next chains, at most `limit`. [`Vring::copy`] then takes them by number.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn fetch(&mut self, limit: usize) -> Result<usize, Broken> {
        self.walked.set(0);
        self.look_up(limit, false)
    }

    /// Whether the chains of this batch have taken so long that the rest is for the next.
    #[inline]
    pub fn is_tired(&self) -> bool {
        self.walked.get() > PATIENCE
    }

    /// Copies the `index`-th fetched chain, which the guest filled, if it is one buffer and fits. Returns its octets.
    #[inline(always)]
    pub fn copy_whole(&self, index: usize, to: &mut [u8]) -> Option<usize> {
        self.prefetch_buffer(index + AHEAD, false);
        let fetched = self.fetched[..self.fetched_len].get(index)?;
        let start = fetched.start?;
        let len = fetched.len as usize;
        let to = to.get_mut(..len)?;
        // SAFETY: the buffer lies in mapped guest memory, of which no reference is made, and `to` has its length.
        unsafe { copy_short(start.as_ptr(), to.as_mut_ptr(), len) };
        Some(len)
    }

    /// Copies the front of the `index`-th fetched chain, which the guest filled, to `to`, and lists in `payload` where the rest lies.
    /// Where the rest has more parts than a payload holds, or `payload` is `None`, what is not copied is only counted.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn copy(
        &self,
        index: usize,
        to: &mut [u8],
        mut payload: Option<&mut Payload>,
    ) -> Result<Taken, Broken> {
        let Some(fetched) = self.fetched[..self.fetched_len].get(index) else {
            return Err(Broken::Descriptor);
        };
        let mut taken = Taken { copied: 0, len: 0 };
        let mut take = |slice: Slice| {
            let len = (slice.len as usize).min(to.len() - taken.copied);
            // SAFETY: the slice lies in mapped guest memory, of which no reference is made, and `to` has room for `len` octets more.
            unsafe {
                let to = to.as_mut_ptr().add(taken.copied);
                std::ptr::copy_nonoverlapping(slice.start.as_ptr(), to, len);
            }
            taken.copied += len;
            taken.len = taken.len.saturating_add(slice.len as usize);
            if len < slice.len as usize
                && let Some(payload) = &mut payload
            {
                // SAFETY: `len` is within the slice.
                let start = unsafe { slice.start.add(len) };
                let len = slice.len - len as u32;
                payload.push(Slice { start, len });
            }
        };
        match fetched.start {
            Some(start) => take(Slice {
                start,
                len: fetched.len,
            }),
            None => self.walk(self.descriptor(fetched.head), false, take)?,
        }
        Ok(taken)
    }

    /// Calls `each` with the buffers of a chain that begins with `first`. A buffer for the other direction is an error.
    fn walk(&self, first: Descriptor, writable: bool, mut each: impl FnMut(Slice)) -> Result<(), Broken> {
        let indirect = first.flags & flag::INDIRECT != 0;
        let (table, count) = if indirect {
            // 2.7.5.3.1: not together with NEXT, and a whole number of descriptors.
            if first.flags & flag::NEXT != 0 || first.len == 0 || !first.len.is_multiple_of(16) {
                return Err(Broken::Indirect);
            }
            let table = self.memory.find(first.addr, first.len.into());
            (table.ok_or(Broken::Address)?.cast(), first.len / 16)
        } else {
            (self.descriptors, self.mask + 1)
        };
        let read = |index: u16| {
            if u32::from(index) >= count {
                return Err(Broken::Descriptor);
            }
            // SAFETY: the table of `count` descriptors lies in mapped guest memory and the index is below that.
            Ok(unsafe { read_unaligned_volatile(table.as_ptr().add(usize::from(index))) })
        };
        let mut descriptor = if indirect { read(0)? } else { first };
        for _ in 0..count.min(MAX_CHAIN) {
            self.walked.set(self.walked.get() + 1);
            if descriptor.flags & flag::INDIRECT != 0 {
                return Err(Broken::Indirect);
            }
            if (descriptor.flags & flag::WRITE != 0) != writable {
                return Err(Broken::Direction);
            }
            if descriptor.len == 0 {
                return Err(Broken::Empty);
            }
            let start = self.memory.find(descriptor.addr, descriptor.len.into());
            each(Slice {
                start: start.ok_or(Broken::Address)?,
                len: descriptor.len,
            });
            if descriptor.flags & flag::NEXT == 0 {
                return Ok(());
            }
            descriptor = read(descriptor.next)?;
        }
        Err(Broken::Loop)
    }

    /// Takes the first `count` fetched chains for good: they are ours until [`Vring::use_taken`].
    pub fn take(&mut self, count: usize) {
        let count = count.min(self.fetched_len) as u16;
        self.next_available = self.next_available.plus(count);
        self.taken = count;
        self.fetched_len = 0;
    }

    /// Gives the chains taken last back to the guest, which may now use their memory anew.
    pub fn use_taken(&mut self) {
        for index in 0..self.taken {
            self.write_used(self.fetched[usize::from(index)].head, 0);
        }
        self.taken = 0;
        self.publish();
    }

    // To the guest.

    /// Looks up the next buffers of the guest, at most `limit`, for [`Vring::give`].
    pub fn prefetch(&mut self, limit: usize) {
        self.walked.set(0);
        // What is wrong shows again when a frame is to be given.
        let _ = self.look_up(limit, true);
    }

    /// Puts a frame, behind its header, into the next buffers of the guest. The guest sees it after [`Vring::publish`].
    ///
    /// # Errors
    /// The ring is broken.
    #[inline(always)]
    pub fn give(&mut self, header: Header, head: &[u8], payload: Option<&Payload>) -> Result<Given, Broken> {
        if self.given == self.fetched_len && self.look_up(1, true)? == 0 {
            return Ok(Given::Full);
        }
        let len = self.header + head.len() + payload.map_or(0, Payload::len);
        let Fetched {
            start,
            len: room,
            head: number,
        } = self.fetched[self.given % BATCH];
        // The usual buffer holds the frame whole.
        let Some(start) = start.filter(|_| room as usize >= len) else {
            return self.give_in_parts(len, header, head, payload);
        };
        self.prefetch_buffer(self.given + AHEAD, true);
        let mut place = Place {
            start,
            left: room as usize,
        };
        place.write_header(header, 1, self.header);
        place.write(head);
        for slice in payload.map_or(&[][..], Payload::slices) {
            place.write_slice(*slice);
        }
        if self.log.is_some() {
            self.log_frame(start, len);
        }
        self.given += 1;
        self.next_available = self.next_available.plus(1);
        self.write_used(number, len as u32);
        Ok(Given::Sent)
    }

    /// A frame for a buffer of several parts, or for several buffers.
    #[inline(never)]
    fn give_in_parts(
        &mut self,
        len: usize,
        header: Header,
        head: &[u8],
        payload: Option<&Payload>,
    ) -> Result<Given, Broken> {
        // What was looked up does not say what is in a chain, and its number of chains is not known yet.
        self.fetched_len = 0;
        self.given = 0;
        if self.is_tired() {
            return Ok(Given::Full);
        }
        // How many chains it takes, and that they are there.
        let (mut chains, mut room) = (0u16, 0usize);
        while room < len {
            if chains > 0 && !self.mergeable {
                return Ok(Given::TooLong);
            }
            if self.seen_available.since(self.next_available) == chains {
                match self.look_again() {
                    now if u32::from(now) > self.mask + 1 => return Err(Broken::Index),
                    now if now <= chains => return Ok(Given::Full),
                    _ => {}
                }
            }
            let number = self.available_entry(self.next_available.plus(chains));
            if !self.has(number) {
                return Err(Broken::Descriptor);
            }
            let mut size = 0usize;
            self.walk(self.descriptor(number), true, |slice| {
                size = size.saturating_add(slice.len as usize);
            })?;
            // An empty buffer would never end this.
            if size < self.header {
                return Err(Broken::Address);
            }
            room = room.saturating_add(size);
            chains += 1;
        }
        let header = header.octets(chains);
        let mut source = Source::new(&header[..self.header], head, payload);
        for _ in 0..chains {
            let number = self.available_entry(self.next_available);
            if !self.has(number) {
                return Err(Broken::Descriptor);
            }
            let mut written = 0;
            self.walk(self.descriptor(number), true, |slice| {
                let len = source.fill(slice);
                if self.log.is_some() {
                    self.log_frame(slice.start, len);
                }
                written += len;
            })?;
            self.next_available = self.next_available.plus(1);
            self.write_used(number, written as u32);
        }
        // Should the guest have made its buffers smaller in between, it gets what it asked for.
        Ok(Given::Sent)
    }

    /// Lets the guest see what was used, and tells it if it wants to be told.
    pub fn publish(&mut self) {
        if self.next_used == self.published {
            return;
        }
        let before = self.published;
        self.used_index().store(self.next_used.get(), Ordering::Release);
        self.published = self.next_used;
        self.log_used();
        fence(Ordering::SeqCst);
        let wanted = if self.event_index {
            // 2.7.7.2: the index passed the one asked for.
            let event = Index::new(self.used_event());
            self.next_used.since(event).wrapping_sub(1) < self.next_used.since(before)
        } else {
            self.available_flags() & NO_INTERRUPT == 0
        };
        if wanted {
            self.call();
        }
    }

    /// Tells the guest to look at its used buffers, whether it wants to be told or not.
    ///
    /// Needed when a ring is taken up again: a device that was here before may have ended between showing what it used and telling, and with an
    /// event index the guest would then never be told again.
    pub fn call(&mut self) {
        if let Some(call) = &self.call {
            eventfd::signal(call);
        }
    }

    // Notifications from the guest.

    /// Asks the guest to tell of new buffers. True if some came meanwhile: then there may be no telling.
    pub fn arm(&mut self) -> bool {
        if self.event_index {
            self.set_available_event(self.next_available.get());
        } else {
            self.set_used_flags(0);
        }
        self.log_used();
        fence(Ordering::SeqCst);
        // A broken ring is for the next fetch to find.
        self.waiting().map_or(true, |waiting| waiting > 0)
    }

    /// Asks the guest not to tell of new buffers.
    pub fn disarm(&mut self) {
        if !self.event_index {
            self.set_used_flags(NO_NOTIFY);
            self.log_used();
        }
        // With an event index the guest tells once, when it passes the index that was asked for last.
    }
}

/// Room in guest memory.
struct Place {
    start: NonNull<u8>,
    left: usize,
}

impl Place {
    #[inline]
    fn write(&mut self, from: &[u8]) {
        let len = from.len().min(self.left);
        // SAFETY: `left` octets from `start` on lie in mapped guest memory, to which no reference is made; `len` is at most that.
        unsafe {
            copy_short(from.as_ptr(), self.start.as_ptr(), len);
            self.start = self.start.add(len);
        }
        self.left -= len;
    }

    /// Writes a header of `len` octets, [`HEADER`] or [`LEGACY_HEADER`].
    #[inline]
    fn write_header(&mut self, header: Header, buffers: u16, len: usize) {
        if self.left < HEADER {
            self.write(&header.octets(buffers)[..len]);
            return;
        }
        let start = self.start.as_ptr();
        // SAFETY: there is room for a whole header, as was just checked, in mapped guest memory; the writes need no alignment. What
        // is written behind a shorter header is the frame's place and is overwritten with it, or room that the frame leaves.
        unsafe {
            start.cast::<u64>().write_unaligned(header.front.to_le());
            start
                .add(8)
                .cast::<u16>()
                .write_unaligned(header.checksum_offset.to_le());
            start.add(10).cast::<u16>().write_unaligned(buffers.to_le());
            self.start = self.start.add(len);
        }
        self.left -= len;
    }

    #[inline]
    fn write_slice(&mut self, from: Slice) {
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
struct Source<'a> {
    header: &'a [u8],
    head: &'a [u8],
    payload: &'a [Slice],
    /// Octets of the first slice of the payload that are done.
    done: usize,
}

impl<'a> Source<'a> {
    fn new(header: &'a [u8], head: &'a [u8], payload: Option<&'a Payload>) -> Self {
        Self {
            header,
            head,
            payload: payload.map_or(&[], Payload::slices),
            done: 0,
        }
    }

    /// Fills a buffer. Returns how many octets there were for it.
    fn fill(&mut self, buffer: Slice) -> usize {
        let mut place = Place {
            start: buffer.start,
            left: buffer.len as usize,
        };
        for part in [&mut self.header, &mut self.head] {
            let (now, later) = part.split_at(part.len().min(place.left));
            place.write(now);
            *part = later;
        }
        while place.left > 0
            && let Some((slice, later)) = self.payload.split_first()
        {
            let left = slice.len as usize - self.done;
            let len = left.min(place.left);
            // SAFETY: `done` is within the slice.
            let start = unsafe { slice.start.add(self.done) };
            place.write_slice(Slice {
                start,
                len: len as u32,
            });
            if len == left {
                (self.payload, self.done) = (later, 0);
            } else {
                self.done += len;
            }
        }
        buffer.len as usize - place.left
    }
}

/// Copies octets, of which there are few as a rule: the smallest frames are many, and a call costs as much as copying one.
///
/// # Safety
/// As for [`std::ptr::copy_nonoverlapping`].
#[inline(always)]
unsafe fn copy_short(from: *const u8, to: *mut u8, len: usize) {
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

/// # Safety
/// The descriptor lies in mapped memory.
unsafe fn read_unaligned_volatile(from: *const Descriptor) -> Descriptor {
    // SAFETY: the caller's; an array of octets needs no alignment.
    let octets = unsafe { from.cast::<[u8; 16]>().read_volatile() };
    let both = u128::from_ne_bytes(octets);
    let [address, rest] = if cfg!(target_endian = "little") {
        [both as u64, (both >> 64) as u64]
    } else {
        [(both >> 64) as u64, both as u64]
    };
    Descriptor::of(address, rest)
}

#[cfg(test)]
pub(crate) mod driver;
#[cfg(test)]
mod tests;
