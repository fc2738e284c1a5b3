//! The rings of an AF_XDP socket: one side produces, the other consumes, each at a 32-bit index that only it writes.
//!
//! `acquire → data → release`: a producer may write the entries between its index and the consumer's plus the ring's size, and
//! publishes them by storing its index with Release; a consumer reads the entries below the producer's index, which it loads
//! with Acquire, and gives them back by storing its own with Release. Both keep a copy of the other's index and look again
//! only when it runs out. The indices run over at 2^32; the size is a power of two.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::sys::mapping::Mapping;

/// Where a ring lies: its mapping, the offsets of its parts there, octets, and how many entries it has.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub mapping: Arc<Mapping>,
    pub offsets: libc::xdp_ring_offset,
    pub size: u32,
}

/// What lies in rings: plain data of the kernel's interface, valid whatever its bits.
pub trait Entry: Copy + Send {}
impl Entry for u64 {}
impl Entry for libc::xdp_desc {}

/// What both sides see.
struct Shared<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
    /// Holds what the pointers point into.
    _mapping: Arc<Mapping>,
    _entries: PhantomData<T>,
}

// SAFETY: the pointers lead into a mapping that the value holds alive, and belong to no thread.
unsafe impl<T: Entry> Send for Shared<T> {}

impl<T: Entry> Shared<T> {
    /// `None` if a part does not lie in the mapping, or the size is no power of two.
    fn new(place: &Place) -> Option<Self> {
        let Place {
            mapping,
            offsets,
            size,
        } = place;
        let word = |offset: u64| {
            let address = mapping.at(offset.try_into().ok()?, size_of::<u32>(), align_of::<u32>())?;
            Some(address.cast::<AtomicU32>())
        };
        let entries = mapping.at(
            offsets.desc.try_into().ok()?,
            size_of::<T>().checked_mul(*size as usize)?,
            align_of::<T>(),
        )?;
        size.is_power_of_two().then_some(())?;
        Some(Self {
            producer: word(offsets.producer)?,
            consumer: word(offsets.consumer)?,
            flags: word(offsets.flags)?,
            entries: entries.cast(),
            size: *size,
            _mapping: Arc::clone(mapping),
            _entries: PhantomData,
        })
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: `new` has checked that the word lies aligned in the mapping, which `self` holds alive; all access is atomic.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as for the producer's.
        unsafe { self.consumer.as_ref() }
    }

    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as for the producer's.
        unsafe { self.flags.as_ref() }
    }

    fn entry(&self, index: u32) -> *mut T {
        // SAFETY: the masked index is below the size, and `new` has checked that so many entries lie in the mapping.
        unsafe { self.entries.add((index & (self.size - 1)) as usize).as_ptr() }
    }
}

/// Our side of a ring that the kernel consumes.
pub struct Producer<T: Entry> {
    shared: Shared<T>,
    /// The next entry to write; those before it that are not yet published are ours too.
    next: u32,
    /// The consumer's index when we last looked.
    consumed: u32,
}

impl<T: Entry> Producer<T> {
    pub(super) fn new(place: &Place) -> Option<Self> {
        let shared = Shared::new(place)?;
        let next = shared.producer().load(Ordering::Relaxed);
        let consumed = shared.consumer().load(Ordering::Acquire);
        Some(Self {
            shared,
            next,
            consumed,
        })
    }

    /// How many entries may be pushed.
    #[inline]
    pub fn free(&mut self) -> usize {
        (self.shared.size - self.unconsumed()) as usize
    }

    /// Writes the next entry; [`Producer::submit`] publishes it. False if the ring is full.
    #[inline]
    pub fn push(&mut self, entry: T) -> bool {
        if self.next.wrapping_sub(self.consumed) >= self.shared.size && self.free() == 0 {
            return false;
        }
        // SAFETY: the entry is between the consumer's index and that plus the size, so the consumer doesn't read it
        // before `submit`.
        unsafe { self.shared.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Publishes what was pushed.
    #[inline]
    pub fn submit(&mut self) {
        self.shared.producer().store(self.next, Ordering::Release);
    }

    /// Whether the kernel has gone to sleep on this ring and wants a system call to look at it again (`XDP_USE_NEED_WAKEUP`).
    /// Ask after [`Producer::submit`].
    #[inline]
    pub fn wants_waking(&self) -> bool {
        self.shared.flags().load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    /// Entries that the consumer has not taken.
    #[inline]
    pub fn unconsumed(&mut self) -> u32 {
        self.consumed = self.shared.consumer().load(Ordering::Acquire);
        // Not more than the size, whatever the other side wrote.
        self.next.wrapping_sub(self.consumed).min(self.shared.size)
    }

    /// Overwrites the published entries that the consumer has not taken with `entry`. Only where the consumer is known to be
    /// at rest.
    pub fn replace_unconsumed(&mut self, entry: T) {
        for back in 1..=self.unconsumed() {
            // SAFETY: `unconsumed` is at most the size, and the entry lies in the mapping for any index. The consumer,
            // which the caller knows to be at rest, reads it anew when it goes on.
            unsafe { self.shared.entry(self.next.wrapping_sub(back)).write(entry) };
        }
    }
}

/// Our side of a ring that the kernel produces.
pub struct Consumer<T: Entry> {
    shared: Shared<T>,
    /// The next entry to read; those before it that are not yet given back are ours too.
    next: u32,
    /// The producer's index when we last looked.
    produced: u32,
}

impl<T: Entry> Consumer<T> {
    pub(super) fn new(place: &Place) -> Option<Self> {
        let shared = Shared::new(place)?;
        let next = shared.consumer().load(Ordering::Relaxed);
        Some(Self {
            shared,
            next,
            produced: next,
        })
    }

    /// The next entry, which stays the next.
    #[inline]
    pub fn peek(&mut self) -> Option<T> {
        if self.next == self.produced {
            self.produced = self.shared.producer().load(Ordering::Acquire);
            if self.next == self.produced {
                return None;
            }
        }
        // SAFETY: the entry lies in the mapping for any index, is valid whatever its bits, and the producer, whose index is
        // beyond it, doesn't write it before `release`.
        Some(unsafe { self.shared.entry(self.next).read() })
    }

    /// The next entry; [`Consumer::release`] gives it back.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        let entry = self.peek()?;
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// Gives back what was read.
    #[inline]
    pub fn release(&mut self) {
        self.shared.consumer().store(self.next, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const SIZE: u32 = 8;

    fn place() -> Place {
        let offsets = libc::xdp_ring_offset {
            producer: 0,
            consumer: 64,
            flags: 128,
            desc: 192,
        };
        Place {
            mapping: Arc::new(Mapping::anonymous(4096).unwrap()),
            offsets,
            size: SIZE,
        }
    }

    fn ring(start: u32) -> (Producer<u64>, Consumer<u64>) {
        let place = place();
        let shared = Shared::<u64>::new(&place).unwrap();
        shared.producer().store(start, Ordering::Relaxed);
        shared.consumer().store(start, Ordering::Relaxed);
        (Producer::new(&place).unwrap(), Consumer::new(&place).unwrap())
    }

    #[derive(Clone, Debug)]
    enum Operation {
        Push(u64),
        Submit,
        Peek,
        Pop,
        Release,
        Replace(u64),
    }

    fn operation() -> impl Strategy<Value = Operation> {
        prop_oneof![
            4 => any::<u64>().prop_map(Operation::Push),
            2 => Just(Operation::Submit),
            1 => Just(Operation::Peek),
            4 => Just(Operation::Pop),
            2 => Just(Operation::Release),
            1 => any::<u64>().prop_map(Operation::Replace),
        ]
    }

    proptest! {
        /// The ring against its oracle: three queues for what is written, published, and read but not given back.
        #[test]
        fn a_ring_is_a_bounded_queue(
            start in prop_oneof![Just(0), Just(u32::MAX - 3), any::<u32>()],
            operations in prop::collection::vec(operation(), 0..200),
        ) {
            let (mut producer, mut consumer) = ring(start);
            let (mut written, mut published, mut read) = (VecDeque::new(), VecDeque::new(), 0usize);
            for operation in operations {
                match operation {
                    Operation::Push(value) => {
                        let room = written.len() + published.len() + read < SIZE as usize;
                        prop_assert_eq!(producer.push(value), room);
                        if room {
                            written.push_back(value);
                        }
                    }
                    Operation::Submit => {
                        producer.submit();
                        published.append(&mut written);
                    }
                    Operation::Peek => prop_assert_eq!(consumer.peek(), published.front().copied()),
                    Operation::Pop => {
                        let value = published.pop_front();
                        read += usize::from(value.is_some());
                        prop_assert_eq!(consumer.pop(), value);
                    }
                    Operation::Release => {
                        consumer.release();
                        read = 0;
                    }
                    // The consumer must be at rest, with nothing read and not given back, and all published.
                    Operation::Replace(value) => {
                        consumer.release();
                        read = 0;
                        producer.submit();
                        published.append(&mut written);
                        producer.replace_unconsumed(value);
                        published.iter_mut().for_each(|entry| *entry = value);
                    }
                }
                prop_assert_eq!(producer.free(), SIZE as usize - written.len() - published.len() - read);
            }
        }
    }

    #[test]
    fn a_ring_that_does_not_fit_its_mapping_is_refused() {
        let mut beyond = place();
        beyond.offsets.desc = 4096 - 8 * 7;
        assert!(Producer::<u64>::new(&beyond).is_none());
        let mut unaligned = place();
        unaligned.offsets.producer = 2;
        assert!(Producer::<u64>::new(&unaligned).is_none());
        let mut odd = place();
        odd.size = 6;
        assert!(Consumer::<u64>::new(&odd).is_none());
    }

    proptest! {
        /// All four rings of a socket at once, with a kernel that does what it may: every chunk is in one place.
        #[test]
        fn chunks_go_round_and_none_is_lost_or_doubled(
            start in prop_oneof![Just(0), Just(u32::MAX - 3), any::<u32>()],
            steps in prop::collection::vec((0u8..6, 1usize..5), 0..300),
        ) {
            // Our side and the kernel's of each ring; receive and transmit carry descriptors, here by their address.
            let (mut fill, mut fill_kernel) = ring(start);
            let (mut receive_kernel, mut receive) = ring(start);
            let (mut transmit, mut transmit_kernel) = ring(start);
            let (mut completion_kernel, mut completion) = ring(start);
            let mut ours: Vec<u64> = (0..20).collect();
            let mut kernel: Vec<u64> = Vec::new();
            for (step, count) in steps {
                match step {
                    0 => {
                        for _ in 0..count {
                            let Some(chunk) = ours.pop() else { break };
                            if !fill.push(chunk) {
                                ours.push(chunk);
                            }
                        }
                        fill.submit();
                    }
                    1 => {
                        for _ in 0..count {
                            if receive_kernel.free() == 0 { break }
                            let Some(chunk) = fill_kernel.pop() else { break };
                            prop_assert!(receive_kernel.push(chunk));
                        }
                        fill_kernel.release();
                        receive_kernel.submit();
                    }
                    2 => {
                        ours.extend(std::iter::from_fn(|| receive.pop()).take(count));
                        receive.release();
                    }
                    3 => {
                        for _ in 0..count {
                            let Some(chunk) = ours.pop() else { break };
                            if !transmit.push(chunk) {
                                ours.push(chunk);
                            }
                        }
                        transmit.submit();
                    }
                    4 => {
                        kernel.extend(std::iter::from_fn(|| transmit_kernel.pop()).take(count));
                        transmit_kernel.release();
                        while let Some(chunk) = kernel.pop() {
                            if !completion_kernel.push(chunk) {
                                kernel.push(chunk);
                                break;
                            }
                        }
                        completion_kernel.submit();
                    }
                    _ => {
                        ours.extend(std::iter::from_fn(|| completion.pop()).take(count));
                        completion.release();
                    }
                }
            }
            let mut all = ours;
            all.append(&mut kernel);
            all.extend(std::iter::from_fn(|| fill_kernel.pop()));
            all.extend(std::iter::from_fn(|| receive.pop()));
            all.extend(std::iter::from_fn(|| transmit_kernel.pop()));
            all.extend(std::iter::from_fn(|| completion.pop()));
            all.sort_unstable();
            prop_assert_eq!(all, (0..20).collect::<Vec<u64>>());
        }
    }

    #[test]
    fn the_kernel_says_when_it_wants_to_be_woken() {
        let place = place();
        let producer = Producer::<u64>::new(&place).unwrap();
        assert!(!producer.wants_waking());
        producer
            .shared
            .flags()
            .store(libc::XDP_RING_NEED_WAKEUP, Ordering::Relaxed);
        assert!(producer.wants_waking());
    }

    #[test]
    fn a_mad_consumer_makes_no_room_that_is_not_there() {
        let (mut producer, consumer) = ring(0);
        consumer.shared.consumer().store(77, Ordering::Relaxed);
        assert_eq!(producer.free(), 0);
    }
}
