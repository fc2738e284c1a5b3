//! The device side of a split virtqueue (VirtIO 1.2, section 2.7): the guest makes buffers available, the device uses them.
//!
//! Everything in the rings is the guest's to write, at any time, and nothing it writes is believed: an index beyond the ring, a descriptor outside
//! of the guest's memory, a chain longer than the ring or an indirect table within another make the ring [`Broken`], which costs the port.
//! A value is read by a volatile read, and what was read is what is checked and used. Where a chain is walked again (a frame that needs a larger
//! buffer, buffers that are counted before they are filled) it may be another chain by then, and is checked again.
//!
//! Ordering: the available index is read with Acquire before the entries that it covers; the used entries are written before the used index, with
//! Release. A full fence lies between our write of an index and our read of the other side's wish to be told (2.7.7.1, 2.7.10).
//!
//! One thread has a ring. The addresses were checked against the guest's memory, which the ring holds mapped, when the ring was made.

mod copy;
mod rings;

use std::cell::Cell;
use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::cache::{prefetch, prefetch_to_write};
use super::dirty::DirtyLog;
use super::eventfd;
use super::guest::{GuestMemory, Payload, Slice};

pub use copy::Header;
use copy::{Room, Source, copy_short};
use rings::{Descriptor, Index, Rings, read_unaligned_volatile};

#[cfg(target_endian = "big")]
compile_error!("what a guest of VirtIO 1 writes is little-endian, and is used as it is");

/// Octets of `struct virtio_net_hdr_mrg_rxbuf`, which a device of VirtIO 1.0 always uses (5.1.6).
pub const HEADER: usize = 12;

/// Octets of `struct virtio_net_hdr`, which a legacy device without mergeable buffers uses (5.1.6.1).
pub const LEGACY_HEADER: usize = 10;

/// Most buffers fetched at once.
pub const BATCH: usize = 64;

/// How many buffers ahead of their header's reading they are brought near: enough to hide the way from the other core.
const AHEAD: usize = 8;

/// Octets that caches move at once.
const LINE: usize = 64;

/// The most buffers of a chain. No driver has a use for more (Linux has 18 for a frame of 64 KiB), and each costs time; QEMU has the same limit.
const MAX_CHAIN: u32 = 1024;

/// Buffers of chains that are walked to give the guest a batch: four times what 64 super-frames take. A guest with smaller buffers gets fewer frames, so
/// that other ports do not wait for it.
const PATIENCE: u32 = 16_384;

/// What each buffer of a chain from the guest counts at least, octets: a frame in very many parts is a batch of its own.
const TOIL: u32 = 128;

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
    /// Octets of the buffer, or of what was put into it.
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

/// A frame for the guest.
#[derive(Clone, Copy)]
pub struct Content<'a> {
    /// The header in front of it.
    pub header: Header,
    /// Its first octets.
    pub head: &'a [u8],
    /// The rest, in another guest's memory.
    pub payload: Option<&'a Payload>,
}

impl Content<'_> {
    /// Octets of the frame.
    pub fn len(&self) -> usize {
        self.head.len() + self.payload.map_or(0, Payload::len)
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

/// Where to say what was written to the guest's memory, while it is being migrated.
struct Log {
    pages: Arc<DirtyLog>,
    /// The used ring's place in the log, if its writes are to be logged too.
    used: Option<u64>,
}

/// One ring.
pub struct Vring {
    memory: Arc<GuestMemory>,
    rings: Rings,
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
    /// Chains that were taken and not yet used.
    taken: u16,
    /// Buffers of chains that were walked, for the limits on them.
    walked: Cell<u32>,
}

// SAFETY: the pointers lead into memory that the value holds mapped, and belong to no thread.
unsafe impl Send for Vring {}

impl Vring {
    /// Takes a ring up. `None` if it does not lie in the guest's memory, aligned as 2.7 wants it, or its size is impossible.
    pub fn new(memory: Arc<GuestMemory>, layout: &Layout, call: Option<File>) -> Option<Self> {
        let rings = Rings::new(&memory, layout)?;
        let nothing = Fetched {
            start: None,
            len: 0,
            head: 0,
        };
        let base = Index::new(layout.base);
        let mut ring = Self {
            memory,
            rings,
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
            taken: 0,
            walked: Cell::new(0),
        };
        // A device that was here before may have used more than it took up again (it ended in between): go on where the
        // guest believes us to be.
        ring.next_used = Index::new(ring.rings.used_index().load(Ordering::Relaxed));
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
            log.pages.mark(used, self.rings.used_len());
        }
    }

    /// What tells the guest of used buffers from now on. What it was told before by other means may have been lost: it is told again.
    pub fn set_call(&mut self, call: Option<File>) {
        self.call = call;
        self.call();
    }

    #[inline]
    fn write_used(&mut self, id: u16, len: u32) {
        self.rings.write_used(self.next_used, id, len);
        self.next_used = self.next_used.plus(1);
    }

    /// How many chains the guest has made available and we have not taken.
    #[inline]
    fn waiting(&mut self) -> Result<u16, Broken> {
        let mut waiting = self.seen_available.since(self.next_available);
        if waiting == 0 {
            waiting = self.look_again();
        }
        if u32::from(waiting) > self.rings.size() {
            return Err(Broken::Index);
        }
        Ok(waiting)
    }

    /// Reads the guest's index anew.
    #[inline]
    fn look_again(&mut self) -> u16 {
        self.seen_available = Index::new(self.rings.available_index().load(Ordering::Acquire));
        self.seen_available.since(self.next_available)
    }

    /// Looks up the next chains, at most `limit`, and brings their memory near: to be read, or to be written.
    #[inline(always)]
    fn look_up(&mut self, limit: usize, writable: bool) -> Result<usize, Broken> {
        self.fetched_len = 0;
        let count = usize::from(self.waiting()?).min(limit).min(BATCH);
        self.rings.prefetch_used(self.next_used, count as u16);
        for index in 0..count {
            let head = self.rings.available_entry(self.next_available.plus(index as u16));
            if !self.rings.has(head) {
                return Err(Broken::Descriptor);
            }
            self.fetched[index].head = head;
            self.rings.prefetch_descriptor(head);
        }
        for index in 0..count {
            let descriptor = self.rings.descriptor(self.fetched[index].head);
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
                self.prefetch_buffer(index);
            }
        }
        self.fetched_len = count;
        Ok(count)
    }

    /// Brings near the front of a chain that was looked up: the shortest frame and its header are longer than a line.
    ///
    /// A line that the guest wrote is brought for us alone even if it is only read: it costs the same, and neither side has to wait for the other to let
    /// go of it when it next writes there. Not so a line that has nothing but the header, which is the same again as a rule, and is not written then.
    #[inline(always)]
    fn prefetch_buffer(&self, index: usize) {
        if let Some(Fetched {
            start: Some(start), ..
        }) = self.fetched.get(index)
        {
            let start = start.as_ptr();
            if start.addr() % LINE + self.header < LINE {
                prefetch_to_write(start);
            } else {
                prefetch(start);
            }
            prefetch_to_write(start.wrapping_add(LINE));
        }
    }

    // From the guest.

    /// Looks up the next chains, at most `limit`. [`Vring::copy`] then takes them by number.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn fetch(&mut self, limit: usize) -> Result<usize, Broken> {
        self.look_up(limit, false)
    }

    /// How much work the chains walked since the last call were, as if they had been octets to copy.
    pub fn toil(&self) -> usize {
        (self.walked.take() * TOIL) as usize
    }

    /// Copies the `index`-th fetched chain, which the guest filled, if it is one buffer and fits. Returns its octets.
    #[inline(always)]
    pub fn copy_whole(&self, index: usize, to: &mut [u8]) -> Option<usize> {
        self.prefetch_buffer(index + AHEAD);
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
            None => self.walk(self.rings.descriptor(fetched.head), false, take)?,
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
            self.rings.table()
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

    /// Puts frames into the guest's buffers, each behind its header, and tells `answer` what became of each, in their order. After the first for
    /// which there is no buffer there are none for others. To follow: [`Vring::publish`].
    ///
    /// Two loops, because a store to a cache line that the guest has read waits until the guest's core has let go of it. As many as the processor can
    /// remember wait at the same time, so that there had better be no others between them: the first loop finds each frame its buffer, and fills it
    /// if a part of the frame lies in another guest's memory; the second, in `copy_placed`, copies the frames that lie whole in their chunk.
    ///
    /// # Errors
    /// The ring is broken. The guest is shown none of the frames.
    #[inline(always)]
    pub fn give<'a, T>(
        &mut self,
        frames: impl IntoIterator<Item = (T, Content<'a>)>,
        mut answer: impl FnMut(T, Given),
    ) -> Result<(), Broken> {
        // What is to be copied to each buffer that was looked up and has a frame.
        let mut heads: [&[u8]; BATCH] = [&[]; BATCH];
        let mut placed = 0;
        let mut full = false;
        for (frame, content) in frames {
            if !full && placed == self.fetched_len {
                // More frames than buffers were looked up.
                self.copy_placed(&heads[..placed]);
                placed = 0;
                full = self.look_up(1, true)? == 0;
            }
            if full {
                answer(frame, Given::Full);
                continue;
            }
            self.prefetch_buffer(placed + AHEAD);
            let len = self.header + content.len();
            let fetched = &mut self.fetched[placed % BATCH];
            let given = match fetched.start {
                // The usual buffer holds the frame whole.
                Some(start) if fetched.len as usize >= len => {
                    fetched.len = len as u32;
                    let mut room = Room { start, left: len };
                    room.write_header(content.header, 1, self.header);
                    heads[placed % BATCH] = match content.payload {
                        None => content.head,
                        Some(payload) => {
                            room.write_all(content.head, payload);
                            &[]
                        }
                    };
                    placed += 1;
                    Given::Sent
                }
                _ => {
                    self.copy_placed(&heads[..placed]);
                    placed = 0;
                    self.give_in_parts(content)?
                }
            };
            full = given == Given::Full;
            answer(frame, given);
        }
        self.copy_placed(&heads[..placed]);
        Ok(())
    }

    /// Copies the frames that are whole in their chunk into the buffers that were found for them, and uses these.
    #[inline(never)]
    fn copy_placed(&mut self, heads: &[&[u8]]) {
        let fetched = &self.fetched[..heads.len()];
        for (buffer, head) in fetched.iter().zip(heads) {
            let len = head.len().min((buffer.len as usize).saturating_sub(self.header));
            if let Some(start) = buffer.start
                && len > 0
            {
                // SAFETY: `buffer.len` octets from `start` on lie in mapped guest memory, to which no reference is made; header and `len` octets are
                // no more than that.
                unsafe { copy_short(head.as_ptr(), start.as_ptr().add(self.header), len) };
            }
        }
        if self.log.is_some() {
            for buffer in fetched {
                if let Some(start) = buffer.start {
                    self.log_frame(start, buffer.len as usize);
                }
            }
        }
        for index in 0..heads.len() {
            let Fetched { head, len, .. } = self.fetched[index];
            self.write_used(head, len);
        }
        self.next_available = self.next_available.plus(heads.len() as u16);
        self.fetched_len = 0;
    }

    /// A frame for a buffer of several parts, or for several buffers.
    #[inline(never)]
    fn give_in_parts(&mut self, content: Content<'_>) -> Result<Given, Broken> {
        let Content {
            header,
            head,
            payload,
        } = content;
        let len = self.header + content.len();
        // What was looked up does not say what is in a chain, and its number of chains is not known yet.
        self.fetched_len = 0;
        if self.walked.get() > PATIENCE {
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
                    now if u32::from(now) > self.rings.size() => return Err(Broken::Index),
                    now if now <= chains => return Ok(Given::Full),
                    _ => {}
                }
            }
            let number = self.rings.available_entry(self.next_available.plus(chains));
            if !self.rings.has(number) {
                return Err(Broken::Descriptor);
            }
            let mut size = 0usize;
            self.walk(self.rings.descriptor(number), true, |slice| {
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
            let number = self.rings.available_entry(self.next_available);
            if !self.rings.has(number) {
                return Err(Broken::Descriptor);
            }
            let mut written = 0;
            self.walk(self.rings.descriptor(number), true, |slice| {
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
        self.rings
            .used_index()
            .store(self.next_used.get(), Ordering::Release);
        self.published = self.next_used;
        self.log_used();
        fence(Ordering::SeqCst);
        let wanted = if self.event_index {
            // 2.7.7.2: the index passed the one asked for.
            let event = Index::new(self.rings.used_event());
            self.next_used.since(event).wrapping_sub(1) < self.next_used.since(before)
        } else {
            self.rings.available_flags() & NO_INTERRUPT == 0
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
            self.rings.set_available_event(self.next_available.get());
        } else {
            self.rings.set_used_flags(0);
        }
        self.log_used();
        fence(Ordering::SeqCst);
        // A broken ring is for the next fetch to find.
        self.waiting().map_or(true, |waiting| waiting > 0)
    }

    /// Asks the guest not to tell of new buffers.
    pub fn disarm(&mut self) {
        if !self.event_index {
            self.rings.set_used_flags(NO_NOTIFY);
            self.log_used();
        }
        // With an event index the guest tells once, when it passes the index that was asked for last.
    }
}

#[cfg(test)]
pub(crate) mod driver;
#[cfg(test)]
mod tests;
