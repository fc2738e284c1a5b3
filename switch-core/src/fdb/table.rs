//! The slots of the MAC table: an open-addressed table of atomics with linear probing, read without a lock.
//!
//! Written by the holder of the table's mutex only, except for [`Slots::refresh`].

use std::hash::BuildHasher;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use foldhash::fast::FixedState;

use crate::addr::MacAddr;
use crate::id::PortId;
use crate::time::Timestamp;
use crate::vid::Vid;

/// How far from its home slot an entry lies at most. The table is at most half full, so chains stay far below it
/// unless someone guesses the seed.
pub(super) const PROBE_LIMIT: usize = 128;

/// The key of a free slot.
const EMPTY: u64 = 0;
/// The key of a slot that is being rewritten; no [`Key`] has this value.
const BUSY: u64 = 1;

/// The coarse clock: 2^28 ns a tick, modulo 2^32 ticks (36 years).
///
/// An entry is written once a tick at most, so the tick is what an address that is heard all the time costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Clock(u32);

impl Clock {
    const SHIFT: u32 = 28;

    #[inline]
    pub(super) const fn at(now: Timestamp) -> Self {
        Self((now.as_nanos() >> Self::SHIFT) as u32)
    }

    /// A time by which the duration has surely passed.
    pub(super) fn after(self, duration: Duration) -> Self {
        // Both ends are rounded down.
        Self(self.0.wrapping_add(Self::whole_ticks(duration) + 2))
    }

    /// Whether it comes before another time.
    pub(super) const fn is_before(self, other: Self) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// As a number.
    pub(super) const fn get(self) -> u32 {
        self.0
    }

    /// The time of [`Clock::get`].
    pub(super) const fn of(number: u32) -> Self {
        Self(number)
    }

    /// The ticks that a duration holds; half of what the clock counts at most.
    pub(super) fn whole_ticks(duration: Duration) -> u32 {
        let most = u32::MAX / 2;
        u32::try_from(duration.as_nanos() >> Self::SHIFT).map_or(most, |ticks| ticks.min(most))
    }
}

/// Address and VLAN in one number that is never [`EMPTY`] or [`BUSY`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Key(u64);

impl Key {
    const LIVE: u64 = 1 << 63;

    #[inline]
    pub(super) const fn new(vid: Vid, mac: MacAddr) -> Self {
        Self::of_number(vid, mac.to_u64())
    }

    /// Of an address as [`MacAddr::to_u64`] gives it.
    #[inline]
    pub(super) const fn of_number(vid: Vid, mac: u64) -> Self {
        Self::of_vid(vid.get()).with(mac)
    }

    /// The part of the key that is the VLAN's, and the mark that it is one.
    #[inline]
    pub(super) const fn of_vid(vid: u16) -> Self {
        Self(Self::LIVE | (vid as u64) << 48)
    }

    /// [`Key::of_vid`] with an address.
    #[inline]
    pub(super) const fn with(self, mac: u64) -> Self {
        Self(self.0 | mac)
    }

    pub(super) fn mac(self) -> MacAddr {
        MacAddr::from_u64(self.0)
    }

    pub(super) fn vid(self) -> Vid {
        Vid::new((self.0 >> 48) as u16 & 0x0fff).expect("a key is made from a Vid")
    }
}

/// Port, kind, time last seen, and a stamp: bits of the key's hash that tie the value to its key.
///
/// Bits 0-15 port, 16 static, 17-31 stamp, 32-63 coarse time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Value(u64);

impl Value {
    const STATIC: u64 = 1 << 16;
    const STAMP: u64 = 0x7fff << 17;

    #[inline]
    pub(super) fn port(self) -> PortId {
        PortId::from_number(self.0 as u16)
    }

    #[inline]
    pub(super) const fn is_static(self) -> bool {
        self.0 & Self::STATIC != 0
    }

    /// The coarse time it was last seen.
    #[inline]
    pub(super) const fn seen(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[inline]
    const fn ticks(self, clock: Clock) -> u32 {
        let ticks = clock.0.wrapping_sub(self.seen());
        // Another worker's batch may have begun a little later than this one.
        if ticks > u32::MAX / 2 { 0 } else { ticks }
    }

    /// [`Value::is_live`] for an ageing time in ticks, as [`Clock::whole_ticks`] gives it. False says nothing.
    #[inline(always)]
    pub(super) const fn is_surely_live(self, clock: Clock, ageing: u32) -> bool {
        clock.0.wrapping_sub(self.seen()) <= ageing
    }

    /// Time since it was last seen, in whole ticks; zero if static.
    pub(super) const fn age(self, clock: Clock) -> Duration {
        if self.is_static() {
            return Duration::ZERO;
        }
        Duration::from_nanos((self.ticks(clock) as u64) << Clock::SHIFT)
    }

    /// Whether it was seen within `time`; a little longer counts too.
    pub(super) fn is_recent(self, clock: Clock, time: Duration) -> bool {
        clock.is_before(Clock(self.seen()).after(time))
    }

    /// False once it has not been seen for `ageing`.
    #[inline]
    pub(super) fn is_live(self, clock: Clock, ageing: Duration) -> bool {
        // Both ends are rounded down, so one tick more keeps an entry from expiring early.
        let ticks = self.ticks(clock);
        ticks <= 1 || self.is_static() || Self::is_within(ticks - 1, ageing)
    }

    #[inline(never)]
    fn is_within(ticks: u32, ageing: Duration) -> bool {
        u128::from(ticks) <= ageing.as_nanos() >> Clock::SHIFT
    }

    /// The same entry, seen at `clock`.
    const fn seen_at(self, clock: Clock) -> Self {
        Self(self.0 & 0xffff_ffff | (clock.0 as u64) << 32)
    }

    /// The same entry behind another port.
    pub(super) const fn moved_to(self, port: PortId, clock: Clock) -> Self {
        Self(self.0 & Self::STAMP | port.get() as u64).seen_at(clock)
    }
}

/// A key and its value, side by side in one cache line.
#[derive(Debug, Default)]
#[repr(align(16))]
struct Slot {
    key: AtomicU64,
    value: AtomicU64,
}

/// The slots, a power of two, at least twice as many as entries.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Box<[Slot]>,
    /// One less than their number.
    mask: usize,
    /// What keys are mixed with before they are multiplied, and by what they are: both unknown to guests.
    secrets: [u64; 2],
}

impl Slots {
    pub(super) fn new(capacity: usize, seed: u64) -> Self {
        let slots = (capacity * 2).next_power_of_two();
        let random = FixedState::with_seed(seed);
        Self {
            slots: std::iter::repeat_with(Slot::default).take(slots).collect(),
            mask: slots - 1,
            secrets: [random.hash_one(0), random.hash_one(1) | 1],
        }
    }

    /// How many slots there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The folded multiplication by which foldhash hashes, with both of its operands secret.
    #[inline]
    fn hash(&self, key: Key) -> u64 {
        let [mixed, factor] = self.secrets;
        let product = u128::from(key.0 ^ mixed) * u128::from(factor);
        product as u64 ^ (product >> 64) as u64
    }

    #[inline]
    const fn stamp(hash: u64) -> u64 {
        hash >> 32 & Value::STAMP
    }

    #[inline]
    fn home(&self, hash: u64) -> usize {
        hash as usize & self.mask
    }

    /// The slot `distance` after `at`.
    #[inline]
    fn after(&self, at: usize, distance: usize) -> usize {
        (at + distance) & self.mask
    }

    /// A dynamic entry's value.
    pub(super) fn value(&self, key: Key, port: PortId, clock: Clock) -> Value {
        Value(Self::stamp(self.hash(key)) | u64::from(port.get())).seen_at(clock)
    }

    /// A static entry's value.
    pub(super) fn static_value(&self, key: Key, port: PortId) -> Value {
        Value(self.value(key, port, Clock(0)).0 | Value::STATIC)
    }

    /// Whether a dynamic entry of `port` needs no refresh, and stands where it is found first. False says nothing.
    #[inline(always)]
    pub(super) fn is_fresh(&self, key: Key, port: PortId, clock: Clock) -> bool {
        let hash = self.hash(key);
        let fresh = u64::from(clock.0) << 32 | Self::stamp(hash) | u64::from(port.get());
        self.slots.get(self.home(hash)).is_some_and(|slot| {
            // Were the slot given to another key in between, to one with this very value: then this one has only just
            // gone, and the next frame finds that out.
            slot.key.load(Acquire) == key.0 && slot.value.load(Relaxed) == fresh
        })
    }

    /// The address of a key's home slot.
    #[inline(always)]
    pub(super) fn address(&self, key: Key) -> *const u8 {
        self.slots.as_ptr().wrapping_add(self.home(self.hash(key))).cast()
    }

    /// The value of a key that stands in its home slot. `None` says nothing.
    #[inline(always)]
    pub(super) fn value_at_home(&self, key: Key) -> Option<Value> {
        let hash = self.hash(key);
        let slot = self.slots.get(self.home(hash))?;
        if slot.key.load(Acquire) != key.0 {
            return None;
        }
        let value = slot.value.load(Acquire);
        let ours = (value ^ Self::stamp(hash)) & Value::STAMP == 0 && slot.key.load(Relaxed) == key.0;
        ours.then_some(Value(value))
    }

    /// The value of a key: its home slot here, the rest of the chain out of line.
    #[inline(always)]
    pub(super) fn value_of(&self, key: Key) -> Option<Value> {
        match self.value_at_home(key) {
            Some(value) => Some(value),
            None => self.value_in_chain(key),
        }
    }

    #[inline(never)]
    fn value_in_chain(&self, key: Key) -> Option<Value> {
        self.find(key).map(|(_, value)| value)
    }

    /// The slot and the value of a key.
    #[inline]
    pub(super) fn find(&self, key: Key) -> Option<(usize, Value)> {
        let hash = self.hash(key);
        let mut at = self.home(hash);
        for _ in 0..PROBE_LIMIT {
            let slot = &self.slots[at];
            let found = slot.key.load(Acquire);
            if found == key.0 {
                let value = slot.value.load(Acquire);
                // The slot may have been given to another key in between, and even given back.
                if (value ^ Self::stamp(hash)) & Value::STAMP == 0 && slot.key.load(Relaxed) == key.0 {
                    return Some((at, Value(value)));
                }
            } else if found == EMPTY {
                return None;
            }
            at = self.after(at, 1);
        }
        None
    }

    /// What a slot holds.
    pub(super) fn get(&self, at: usize) -> Option<(Key, Value)> {
        let slot = &self.slots[at];
        let key = slot.key.load(Acquire);
        let value = slot.value.load(Acquire);
        (key & Key::LIVE != 0 && slot.key.load(Relaxed) == key).then_some((Key(key), Value(value)))
    }

    /// Every entry, in the order of the slots.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (Key, Value)> {
        (0..self.slots.len()).filter_map(|at| self.get(at))
    }

    /// Notes that the entry was seen. May be called without the mutex: if the slot changed since, nothing happens. True if it was noted.
    #[inline]
    pub(super) fn refresh(&self, at: usize, value: Value, clock: Clock) -> bool {
        // Never backwards: another worker's batch may have begun later than this one.
        value.ticks(clock) > 0
            && self.slots[at]
                .value
                .compare_exchange(value.0, value.seen_at(clock).0, Release, Relaxed)
                .is_ok()
    }

    /// The value of a slot that is known to hold an entry.
    pub(super) fn value_at(&self, at: usize) -> Value {
        Value(self.slots[at].value.load(Relaxed))
    }

    /// Replaces the value of an entry, which keeps its stamp.
    pub(super) fn set_value(&self, at: usize, value: Value) {
        self.slots[at].value.store(value.0, Release);
    }

    /// The free slot nearest to the key's home, or the slots that are in the way.
    pub(super) fn vacancy(&self, key: Key) -> Result<usize, impl Iterator<Item = usize>> {
        let home = self.home(self.hash(key));
        (0..PROBE_LIMIT)
            .map(|distance| self.after(home, distance))
            .find(|at| self.slots[*at].key.load(Relaxed) == EMPTY)
            .ok_or_else(move || (0..PROBE_LIMIT).map(move |distance| self.after(home, distance)))
    }

    /// Writes an entry into a slot that is free or whose entry is no longer wanted there.
    pub(super) fn put(&self, at: usize, key: Key, value: Value) {
        let slot = &self.slots[at];
        // A reader that sees the new value then also sees that the old key is gone.
        slot.key.store(BUSY, Relaxed);
        slot.value.store(value.0, Release);
        slot.key.store(key.0, Release);
    }

    /// Frees a slot.
    pub(super) fn clear(&self, at: usize) {
        self.slots[at].key.store(EMPTY, Release);
    }

    /// The next entry after `hole` in its chain that may stand in `hole`.
    pub(super) fn follower(&self, hole: usize) -> Option<usize> {
        let mut at = hole;
        loop {
            at = self.after(at, 1);
            let key = self.slots[at].key.load(Relaxed);
            if key == EMPTY {
                return None;
            }
            let mask = self.mask;
            let from_home = at.wrapping_sub(self.home(self.hash(Key(key)))) & mask;
            if from_home >= at.wrapping_sub(hole) & mask {
                return Some(at);
            }
        }
    }
}
