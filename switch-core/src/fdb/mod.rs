//! The MAC table (FDB): which port a station is behind, per VLAN (IEEE 802.1Q-2018, clause 8.8).
//!
//! One table per switch, shared by all workers. It is bounded, and it is fair: when it is full, the oldest entry of the
//! port that holds most makes room, so a guest that floods it with addresses only hurts itself.
//!
//! Threads:
//! - [`Fdb::lookup`] and [`Fdb::learn`] of a known address take no lock. A slot is two atomics; the key is read before and
//!   after the value, and the value carries bits of the key's hash, so a slot that is being reused never yields a wrong port.
//!   A reader may miss an entry while a deletion moves it; the frame is then flooded.
//! - Changes (new, moved, evicted, aged, flushed) are made under a mutex that a frame's way only ever tries: when another
//!   thread holds it, the answer is [`Learnt::Busy`]. The control plane waits for it, but holds it for a slice of the table
//!   at a time.
//! - Refreshing an entry is a compare-and-swap of the slot's value, done when the coarse clock has moved on since. The
//!   entry then also goes to the end of its port's list, if the mutex is free.
//!
//! Invariants, held under the mutex:
//! - Every live key is reachable from its home slot over live slots, within `table::PROBE_LIMIT`.
//! - Every dynamic entry is in the list of its port, oldest first; static entries are in none.
//! - That an announced station is held inside ([`Fdb::hold`]) goes where its entry goes, and ends with it, or with a change of the table's size.
//! - Nothing is allocated after [`Fdb::new`], except by the calls that return a collection.
//!
//! The coarse clock ticks every 2^28 ns (about a quarter of a second). An entry never expires before its time, and at most three ticks late.

use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use crate::addr::MacAddr;
use crate::id::PortId;
use crate::snapshot::MacLimit;
use crate::time::Timestamp;
use crate::vid::Vid;

mod ledger;
mod table;
#[cfg(test)]
mod tests;

use ledger::Ledger;
use table::{Clock, Key, Slots, Value};

/// What became of a source address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Learnt {
    /// Already known behind this port.
    Known,
    /// Learnt.
    New,
    /// It was behind another port before.
    Moved {
        /// Which.
        from: PortId,
    },
    /// A static entry of this port.
    Static,
    /// A static entry of another port: the frame is dropped.
    StaticElsewhere {
        /// Which.
        owner: PortId,
    },
    /// The port is at its limit: not learnt.
    Limited,
    /// The table is full of static entries: not learnt.
    Full,
    /// The frame came in from outside, and the station was just heard behind this port inside: the frame is its own reflection and dropped.
    Reflected {
        /// Which.
        port: PortId,
    },
    /// Another worker is writing to the table; the next frame will be learnt.
    Busy,
}

/// Kind of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Learnt from traffic; ages.
    Dynamic,
    /// Configured; never ages, moves or is evicted.
    Static,
}

/// An entry as shown to the administrator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The VLAN.
    pub vid: Vid,
    /// The address.
    pub mac: MacAddr,
    /// Where it is.
    pub port: PortId,
    /// Dynamic or static.
    pub kind: Kind,
    /// Since it was last seen; zero for static entries.
    pub age: Duration,
}

/// Which entries a flush removes; `None` matches all. Static entries stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Filter {
    /// Only entries of this port.
    pub port: Option<PortId>,
    /// Only entries of this VLAN.
    pub vid: Option<Vid>,
}

/// Totals since the table was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FdbCounters {
    /// Entries now, static ones included.
    pub entries: u64,
    /// Addresses learnt.
    pub learnt: u64,
    /// Addresses that moved to another port.
    pub moves: u64,
    /// Entries evicted because the table was full.
    pub evictions: u64,
    /// Entries removed by ageing.
    pub aged: u64,
}

/// No room for another static entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the MAC table is full of static entries; raise `mac-table.size`")]
pub struct FdbFull;

/// An ageing time as the table counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AgeingTicks(u32);

impl AgeingTicks {
    pub(crate) fn of(ageing: Duration) -> Self {
        Self(Clock::whole_ticks(ageing))
    }
}

/// Entries that a processor's first cache surely holds, each in a line of its own.
const LARGE: u64 = 128;

/// For how long what a station inside has sent, or what announced it, may come back from outside.
pub const LATELY: Duration = Duration::from_secs(5);

/// Slots that the control plane looks at before it lets the workers write again.
const SLICE: usize = 512;

/// The MAC table of one switch.
#[derive(Debug)]
pub struct Fdb {
    slots: Slots,
    capacity: usize,
    seed: u64,
    ledger: Mutex<Ledger>,
    counters: ledger::Counters,
}

impl Fdb {
    /// The smallest capacity; a lower one is raised to it.
    pub const MIN_CAPACITY: usize = 10;
    /// The largest capacity; a higher one is lowered to it.
    pub const MAX_CAPACITY: usize = 1 << 20;

    /// A table for up to `capacity` entries, hashed with `seed`, which guests must not know.
    pub fn new(capacity: usize, seed: u64) -> Self {
        let capacity = capacity.clamp(Self::MIN_CAPACITY, Self::MAX_CAPACITY);
        let slots = Slots::new(capacity, seed);
        Self {
            ledger: Mutex::new(Ledger::new(capacity, slots.len())),
            slots,
            capacity,
            seed,
            counters: ledger::Counters::default(),
        }
    }

    /// A table of another capacity with the same entries and counters (the freshest, where not all fit).
    pub fn resized(&self, capacity: usize) -> Self {
        let other = Self::new(capacity, self.seed);
        other.counters.copy_from(&self.counters);
        {
            let from = self.lock();
            let mut entries: Vec<(Key, Value)> = self.slots.iter().collect();
            entries.sort_unstable_by_key(|(key, value)| (value.is_static(), value.seen(), *key));
            let left_out = entries.len().saturating_sub(other.capacity);
            let mut to = other.lock();
            for (key, value) in entries.drain(..).skip(left_out) {
                // A window full of static entries is the only way to fail; the entry is then learnt again or refused anew.
                let _ = to.insert(&other.slots, &other.counters, key, value);
            }
            drop(from);
        }
        other
    }

    /// How many entries fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Where a frame to `mac` goes. Lock-free.
    #[inline]
    pub fn lookup(&self, vid: Vid, mac: MacAddr, now: Timestamp, ageing: Duration) -> Option<PortId> {
        self.lookup_number(vid, mac.to_u64(), now, ageing)
    }

    /// [`Fdb::lookup`] of an address as [`MacAddr::to_u64`] gives it.
    #[inline(always)]
    pub(crate) fn lookup_number(
        &self,
        vid: Vid,
        mac: u64,
        now: Timestamp,
        ageing: Duration,
    ) -> Option<PortId> {
        let value = self.slots.value_of(Key::of_number(vid, mac))?;
        value.is_live(Clock::at(now), ageing).then(|| value.port())
    }

    /// Whether [`Fdb::learn`] would find nothing to do: the address is known behind the port, and was just seen.
    /// False says nothing.
    #[inline(always)]
    pub(crate) fn is_fresh(&self, vid: Vid, mac: u64, port: PortId, now: Timestamp) -> bool {
        self.slots
            .is_fresh(Key::of_number(vid, mac), port, Clock::at(now))
    }

    /// Where a frame from station `source` behind `port` to `destination` goes, if both are known and there is nothing to
    /// learn. `None` says nothing. Addresses as [`MacAddr::to_u64`] gives them; `vid` may be [`Vid::COUNT`], where nothing
    /// is known. By reference, the ageing time is read when it is wanted and occupies no register until then.
    #[inline(always)]
    pub(crate) fn usual(
        &self,
        vid: u16,
        source: u64,
        port: PortId,
        destination: u64,
        now: Timestamp,
        ageing: &AgeingTicks,
    ) -> Option<PortId> {
        let clock = Clock::at(now);
        let base = Key::of_vid(vid);
        let (source, destination) = (base.with(source), base.with(destination));
        let at_home = if self.slots.is_fresh(source, port, clock) {
            self.slots.value_at_home(destination)
        } else {
            None
        };
        let value = match at_home {
            Some(value) => value,
            None => self.usual_in_chain(source, port, destination, clock)?,
        };
        value.is_surely_live(clock, ageing.0).then(|| value.port())
    }

    /// What [`Fdb::usual`] looks at, where an entry does not stand in its home slot.
    #[inline(never)]
    fn usual_in_chain(&self, source: Key, port: PortId, destination: Key, clock: Clock) -> Option<Value> {
        let (_, seen) = self.slots.find(source)?;
        if seen != self.slots.value(source, port, clock) {
            return None;
        }
        self.slots.find(destination).map(|(_, value)| value)
    }

    /// Whether the entries are so many that a lookup may wait for memory, and [`Fdb::addresses`] are worth their while.
    #[inline]
    pub(crate) fn is_large(&self) -> bool {
        self.counters.entries.load(Relaxed) > LARGE
    }

    /// Where in memory a frame from `source` to `destination` looks first.
    #[inline(always)]
    pub(crate) fn addresses(&self, vid: u16, source: u64, destination: u64) -> [*const u8; 2] {
        let base = Key::of_vid(vid);
        [source, destination].map(|mac| self.slots.address(base.with(mac)))
    }

    /// Learns that `mac` is behind `port`. Never waits.
    #[inline]
    pub fn learn(
        &self,
        vid: Vid,
        mac: MacAddr,
        port: PortId,
        now: Timestamp,
        ageing: Duration,
        limit: Option<MacLimit>,
    ) -> Learnt {
        let key = Key::new(vid, mac);
        let clock = Clock::at(now);
        if self.slots.is_fresh(key, port, clock) {
            return Learnt::Known;
        }
        if let Some((at, value)) = self.slots.find(key) {
            if value.is_static() {
                return static_answer(value, port);
            }
            if value.port() == port && value.is_live(clock, ageing) {
                // Losing against another refresh or a change of the slot costs nothing: the next frame tries again.
                if self.slots.refresh(at, value, clock) {
                    self.requeue(key);
                }
                return Learnt::Known;
            }
        }
        self.learn_changed(key, port, clock, ageing, limit)
    }

    /// Learns that `mac` is behind `outside`, the port that stands for all uplinks, unless it was heard behind a port inside less than [`LATELY`] ago: then the
    /// frame is taken for what the network outside has sent back of that. One that announces the station (`announced`) moves it, unless it was announced inside
    /// so lately ([`Fdb::hold`]). A static entry inside stays. Never waits.
    pub fn learn_outside(
        &self,
        vid: Vid,
        mac: MacAddr,
        outside: PortId,
        now: Timestamp,
        ageing: Duration,
        announced: bool,
    ) -> Learnt {
        match self.reflected(vid, mac, outside, now, ageing, announced) {
            Some(port) => Learnt::Reflected { port },
            None => self.learn(vid, mac, outside, now, ageing, None),
        }
    }

    /// What [`Fdb::learn_outside`] would answer, without doing it.
    pub fn preview_outside(
        &self,
        vid: Vid,
        mac: MacAddr,
        outside: PortId,
        now: Timestamp,
        ageing: Duration,
        announced: bool,
    ) -> Learnt {
        match self.reflected(vid, mac, outside, now, ageing, announced) {
            Some(port) => Learnt::Reflected { port },
            None => self.preview(vid, mac, outside, now, ageing, None),
        }
    }

    /// The port inside behind which the source of a frame from outside is and stays.
    fn reflected(
        &self,
        vid: Vid,
        mac: MacAddr,
        outside: PortId,
        now: Timestamp,
        ageing: Duration,
        announced: bool,
    ) -> Option<PortId> {
        let (key, clock) = (Key::new(vid, mac), Clock::at(now));
        let (_, value) = self.slots.find(key)?;
        if value.port() == outside || !value.is_live(clock, ageing) {
            return None;
        }
        let stays = if value.is_static() {
            true
        } else if announced {
            let is_held = |ledger: MutexGuard<'_, Ledger>| {
                let found = self.slots.find(key);
                found.is_some_and(|(at, _)| ledger.is_held(at, clock))
            };
            // Who can't look takes it for a reflection: the next announcement is heard.
            self.try_lock().is_none_or(is_held)
        } else {
            value.is_recent(clock, LATELY)
        };
        stays.then(|| value.port())
    }

    /// A station behind a port inside was announced there: for [`LATELY`] what announces it from outside is that very announcement on its way back. Does
    /// nothing if the table is being written to.
    pub fn try_hold(&self, vid: Vid, mac: MacAddr, port: PortId, now: Timestamp) {
        if let Some(ledger) = self.try_lock() {
            self.hold_entry(ledger, vid, mac, port, now);
        }
    }

    /// [`Fdb::try_hold`] for the control plane: waits for the right to write.
    pub fn hold(&self, vid: Vid, mac: MacAddr, port: PortId, now: Timestamp) {
        self.hold_entry(self.lock(), vid, mac, port, now);
    }

    fn hold_entry(
        &self,
        mut ledger: MutexGuard<'_, Ledger>,
        vid: Vid,
        mac: MacAddr,
        port: PortId,
        now: Timestamp,
    ) {
        if let Some((at, value)) = self.slots.find(Key::new(vid, mac))
            && value.port() == port
        {
            ledger.hold_until(at, Clock::at(now).after(LATELY));
        }
    }

    /// Puts an entry last in its port's list, unless another thread is writing: it is then passed over later.
    #[cold]
    #[inline(never)]
    fn requeue(&self, key: Key) {
        let Some(mut ledger) = self.try_lock() else { return };
        if let Some((at, value)) = self.slots.find(key)
            && !value.is_static()
        {
            ledger.requeue(at, value);
        }
    }

    /// [`Fdb::learn`] for the control plane: waits for the right to write, so that it is never [`Learnt::Busy`].
    pub fn place(
        &self,
        vid: Vid,
        mac: MacAddr,
        port: PortId,
        now: Timestamp,
        ageing: Duration,
        limit: Option<MacLimit>,
    ) -> Learnt {
        let (key, clock) = (Key::new(vid, mac), Clock::at(now));
        self.learn_with(self.lock(), key, port, clock, ageing, limit)
    }

    /// The rest of [`Fdb::learn`], where the table has to change.
    #[cold]
    #[inline(never)]
    fn learn_changed(
        &self,
        key: Key,
        port: PortId,
        clock: Clock,
        ageing: Duration,
        limit: Option<MacLimit>,
    ) -> Learnt {
        match self.try_lock() {
            Some(ledger) => self.learn_with(ledger, key, port, clock, ageing, limit),
            None => Learnt::Busy,
        }
    }

    fn learn_with(
        &self,
        mut ledger: MutexGuard<'_, Ledger>,
        key: Key,
        port: PortId,
        clock: Clock,
        ageing: Duration,
        limit: Option<MacLimit>,
    ) -> Learnt {
        let answer = self.judge(&ledger, key, port, clock, ageing, limit);
        match answer {
            Learnt::Known => {
                if let Some((at, value)) = self.slots.find(key) {
                    self.slots.refresh(at, value, clock);
                    ledger.requeue(at, self.slots.value_at(at));
                }
            }
            Learnt::Moved { .. } => {
                if let Some((at, _)) = self.slots.find(key) {
                    ledger.move_entry(&self.slots, at, port, clock);
                    self.counters.add(&self.counters.moves, 1);
                }
            }
            Learnt::New => {
                if let Some((at, _)) = self.slots.find(key) {
                    ledger.remove(&self.slots, &self.counters, at);
                    self.counters.add(&self.counters.aged, 1);
                }
                let value = self.slots.value(key, port, clock);
                if ledger.insert(&self.slots, &self.counters, key, value).is_err() {
                    return Learnt::Full;
                }
                self.counters.add(&self.counters.learnt, 1);
            }
            _ => {}
        }
        answer
    }

    /// What `learn` would answer, without doing it.
    pub fn preview(
        &self,
        vid: Vid,
        mac: MacAddr,
        port: PortId,
        now: Timestamp,
        ageing: Duration,
        limit: Option<MacLimit>,
    ) -> Learnt {
        self.judge(
            &self.lock(),
            Key::new(vid, mac),
            port,
            Clock::at(now),
            ageing,
            limit,
        )
    }

    /// What becomes of a source, from the table as it is.
    fn judge(
        &self,
        ledger: &Ledger,
        key: Key,
        port: PortId,
        clock: Clock,
        ageing: Duration,
        limit: Option<MacLimit>,
    ) -> Learnt {
        let known = self.slots.find(key).map(|(_, value)| value);
        let live = known.filter(|value| value.is_live(clock, ageing));
        if let Some(value) = live {
            if value.is_static() {
                return static_answer(value, port);
            }
            if value.port() == port {
                return Learnt::Known;
            }
        }
        // An expired entry of this very address gives its place back.
        let own = known.is_some_and(|value| live.is_none() && value.port() == port);
        let held = ledger.held(port) - u32::from(own);
        if limit.is_some_and(|limit| held >= limit.count) {
            return Learnt::Limited;
        }
        match live {
            Some(value) => Learnt::Moved { from: value.port() },
            None if known.is_none() && ledger.is_all_static() => Learnt::Full,
            None => Learnt::New,
        }
    }

    /// Adds an entry that never ages, moves or is evicted, or turns the address's entry into one.
    pub fn insert_static(&self, vid: Vid, mac: MacAddr, port: PortId) -> Result<(), FdbFull> {
        let key = Key::new(vid, mac);
        let mut ledger = self.lock();
        if let Some((at, _)) = self.slots.find(key) {
            ledger.remove(&self.slots, &self.counters, at);
        }
        let value = self.slots.static_value(key, port);
        ledger.insert(&self.slots, &self.counters, key, value)
    }

    /// Removes one entry of any kind; false if there was none.
    pub fn remove(&self, vid: Vid, mac: MacAddr) -> bool {
        let mut ledger = self.lock();
        let found = self.slots.find(Key::new(vid, mac));
        if let Some((at, _)) = found {
            ledger.remove(&self.slots, &self.counters, at);
        }
        found.is_some()
    }

    /// Removes dynamic entries; returns how many.
    pub fn flush(&self, filter: Filter) -> usize {
        if filter.port.is_some_and(|port| self.lock().held(port) == 0) {
            return 0;
        }
        self.sweep(|key, value| {
            !value.is_static()
                && filter.port.is_none_or(|port| value.port() == port)
                && filter.vid.is_none_or(|vid| key.vid() == vid)
        })
    }

    /// Removes every entry of a port, static ones included; returns how many.
    pub fn forget_port(&self, port: PortId) -> usize {
        self.sweep(|_, value| value.port() == port)
    }

    /// Removes entries not seen for `ageing`; returns how many.
    pub fn age(&self, now: Timestamp, ageing: Duration) -> usize {
        let clock = Clock::at(now);
        let removed = self.sweep(|_, value| !value.is_live(clock, ageing));
        let _ledger = self.lock();
        self.counters.add(&self.counters.aged, removed as u64);
        removed
    }

    /// All live entries, in the order of VLAN and address.
    pub fn entries(&self, now: Timestamp, ageing: Duration) -> Vec<Entry> {
        let clock = Clock::at(now);
        // A deletion moves entries towards lower slots, so going downwards may see one twice but does not miss it
        // (except one that is moved round the table's start, once in a great while).
        let mut entries: Vec<Entry> = self
            .slots
            .iter()
            .rev()
            .filter(|(_, value)| value.is_live(clock, ageing))
            .map(|(key, value)| Entry {
                vid: key.vid(),
                mac: key.mac(),
                port: value.port(),
                kind: if value.is_static() {
                    Kind::Static
                } else {
                    Kind::Dynamic
                },
                age: value.age(clock),
            })
            .collect();
        entries.sort_unstable_by_key(|entry| (entry.vid, entry.mac));
        entries.dedup_by_key(|entry| (entry.vid, entry.mac));
        entries
    }

    /// The totals. Takes no lock.
    pub fn counters(&self) -> FdbCounters {
        FdbCounters {
            entries: self.counters.entries.load(Relaxed),
            learnt: self.counters.learnt.load(Relaxed),
            moves: self.counters.moves.load(Relaxed),
            evictions: self.counters.evictions.load(Relaxed),
            aged: self.counters.aged.load(Acquire),
        }
    }

    /// The right to change the table, if no other thread has it.
    fn try_lock(&self) -> Option<MutexGuard<'_, Ledger>> {
        match self.ledger.try_lock() {
            Ok(ledger) => Some(ledger),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Waits for the right to change the table; never on a frame's way.
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what matches, a slice of slots at a time.
    fn sweep(&self, matches: impl Fn(Key, Value) -> bool) -> usize {
        let mut removed = 0;
        let mut at = 0;
        let mut changes = 0;
        while at < self.slots.len() {
            let mut ledger = self.lock();
            // What another thread removed since may have drawn entries back over the edge of the last slice.
            if at > 0 && ledger.changes() != changes {
                at = at.saturating_sub(table::PROBE_LIMIT);
            }
            let end = (at + SLICE).min(self.slots.len());
            while at < end {
                match self.slots.get(at) {
                    // The slot may hold another entry afterwards, so it is looked at again.
                    Some((key, value)) if matches(key, value) => {
                        ledger.remove(&self.slots, &self.counters, at);
                        removed += 1;
                    }
                    _ => at += 1,
                }
            }
            changes = ledger.changes();
        }
        removed
    }
}

fn static_answer(value: Value, port: PortId) -> Learnt {
    if value.port() == port {
        Learnt::Static
    } else {
        Learnt::StaticElsewhere { owner: value.port() }
    }
}
