//! The writer's side of the MAC table: which entries a port has, oldest first, and which port has most.
//!
//! Only the holder of the table's mutex comes here. Every operation takes a bounded number of steps, so that a flood of
//! new addresses costs the same per frame whatever the size of the table.
//!
//! Lists are doubly linked over arrays of numbers that are one too high, so that 0 means none and fresh zeroed memory,
//! which the kernel hands out only when it is touched, is an empty ledger.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::FdbFull;
use super::table::{Clock, Key, Slots, Value};
use crate::id::PortId;

/// How many refreshed entries are passed over in search of an old one.
const SECOND_CHANCES: usize = 8;

/// [`super::FdbCounters`], readable without the mutex, written only under it.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) entries: AtomicU64,
    pub(super) learnt: AtomicU64,
    pub(super) moves: AtomicU64,
    pub(super) evictions: AtomicU64,
    pub(super) aged: AtomicU64,
}

impl Counters {
    /// Adds to one of them.
    pub(super) fn add(&self, counter: &AtomicU64, more: u64) {
        counter.store(counter.load(Relaxed).wrapping_add(more), Relaxed);
    }

    /// Takes over another table's totals, not its entries.
    pub(super) fn copy_from(&self, other: &Self) {
        for (to, from) in [
            (&self.learnt, &other.learnt),
            (&self.moves, &other.moves),
            (&self.evictions, &other.evictions),
            (&self.aged, &other.aged),
        ] {
            to.store(from.load(Relaxed), Relaxed);
        }
    }
}

/// The links of many lists over one set of members.
#[derive(Debug)]
struct Links {
    before: Box<[u32]>,
    after: Box<[u32]>,
}

/// First and last member of one list.
#[derive(Clone, Copy)]
struct Ends {
    first: u32,
    last: u32,
}

impl Links {
    fn new(members: usize) -> Self {
        Self {
            before: zeroed(members),
            after: zeroed(members),
        }
    }

    fn push_last(&mut self, ends: &mut Ends, member: usize) {
        let id = member as u32 + 1;
        self.before[member] = ends.last;
        self.after[member] = 0;
        match ends.last {
            0 => ends.first = id,
            last => self.after[last as usize - 1] = id,
        }
        ends.last = id;
    }

    fn take(&mut self, ends: &mut Ends, member: usize) {
        let (before, after) = (self.before[member], self.after[member]);
        match before {
            0 => ends.first = after,
            before => self.after[before as usize - 1] = after,
        }
        match after {
            0 => ends.last = before,
            after => self.before[after as usize - 1] = before,
        }
    }

    /// Gives the place of member `from` to `to`.
    fn replace(&mut self, ends: &mut Ends, from: usize, to: usize) {
        let id = to as u32 + 1;
        let (before, after) = (self.before[from], self.after[from]);
        self.before[to] = before;
        self.after[to] = after;
        match before {
            0 => ends.first = id,
            before => self.after[before as usize - 1] = id,
        }
        match after {
            0 => ends.last = id,
            after => self.before[after as usize - 1] = id,
        }
    }
}

/// Many lists of the same members' kind, each by its number.
#[derive(Debug)]
struct Heads {
    first: Box<[u32]>,
    last: Box<[u32]>,
}

impl Heads {
    fn new(lists: usize) -> Self {
        Self {
            first: zeroed(lists),
            last: zeroed(lists),
        }
    }

    fn first(&self, list: usize) -> Option<usize> {
        (self.first[list] as usize).checked_sub(1)
    }

    fn with(&mut self, list: usize, change: impl FnOnce(&mut Ends)) {
        let mut ends = Ends {
            first: self.first[list],
            last: self.last[list],
        };
        change(&mut ends);
        self.first[list] = ends.first;
        self.last[list] = ends.last;
    }
}

fn zeroed(len: usize) -> Box<[u32]> {
    vec![0; len].into_boxed_slice()
}

/// Who holds what.
#[derive(Debug)]
pub(super) struct Ledger {
    capacity: usize,
    entries: usize,
    statics: usize,
    /// Grows with every removal, by which entries may change their slots.
    changes: u64,
    /// The dynamic entries of a port, in the order in which they were learnt or last passed over.
    of_port: Heads,
    entry_links: Links,
    /// The coarse time at which an entry was put last into its list.
    queued: Box<[u32]>,
    /// Until when the entry's station does not move outside; 0 if it may. The coarse clock may stand at 0 once in 36 years.
    held_until: Box<[u32]>,
    /// Dynamic entries per port.
    held: Box<[u32]>,
    /// The ports that hold so many.
    holding: Heads,
    port_links: Links,
    /// The highest number that a port holds.
    most: u32,
}

impl Ledger {
    pub(super) fn new(capacity: usize, slots: usize) -> Self {
        Self {
            capacity,
            entries: 0,
            statics: 0,
            changes: 0,
            of_port: Heads::new(PortId::COUNT),
            entry_links: Links::new(slots),
            queued: zeroed(slots),
            held_until: zeroed(slots),
            held: zeroed(PortId::COUNT),
            holding: Heads::new(capacity + 1),
            port_links: Links::new(PortId::COUNT),
            most: 0,
        }
    }

    /// Dynamic entries of a port.
    pub(super) fn held(&self, port: PortId) -> u32 {
        self.held[port.index()]
    }

    /// Whether nothing can be evicted to make room.
    pub(super) fn is_all_static(&self) -> bool {
        self.statics >= self.capacity
    }

    /// Changes whenever entries may have changed their slots.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Adds an entry that is not there yet; makes room if there is none.
    pub(super) fn insert(
        &mut self,
        slots: &Slots,
        counters: &Counters,
        key: Key,
        value: Value,
    ) -> Result<(), FdbFull> {
        if self.entries >= self.capacity {
            let victim = self.victim(slots, value.port()).ok_or(FdbFull)?;
            self.evict(slots, counters, victim);
        }
        let vacancy = slots.vacancy(key).map_err(|in_the_way| {
            in_the_way
                .filter(|at| !slots.value_at(*at).is_static())
                .max_by_key(|at| self.held(slots.value_at(*at).port()))
        });
        let at = match vacancy {
            Ok(at) => at,
            Err(victim) => {
                self.evict(slots, counters, victim.ok_or(FdbFull)?);
                // The chain is one shorter now; if it is still too long, the address stays unknown.
                slots.vacancy(key).map_err(|_| FdbFull)?
            }
        };
        slots.put(at, key, value);
        self.held_until[at] = 0;
        self.entries += 1;
        if value.is_static() {
            self.statics += 1;
        } else {
            self.queue(at, value);
            self.count(value.port(), 1);
        }
        counters.entries.store(self.entries as u64, Relaxed);
        Ok(())
    }

    /// Removes the entry of a slot, and closes the gap in its chain.
    pub(super) fn remove(&mut self, slots: &Slots, counters: &Counters, at: usize) {
        let value = slots.value_at(at);
        self.changes += 1;
        self.entries -= 1;
        if value.is_static() {
            self.statics -= 1;
        } else {
            self.unqueue(at, value);
            self.count(value.port(), -1);
        }
        counters.entries.store(self.entries as u64, Relaxed);
        let mut hole = at;
        while let Some(from) = slots.follower(hole) {
            let (key, value) = slots.get(from).expect("a follower is an entry");
            slots.put(hole, key, value);
            if !value.is_static() {
                self.queued[hole] = self.queued[from];
                self.held_until[hole] = self.held_until[from];
                let links = &mut self.entry_links;
                self.of_port
                    .with(value.port().index(), |ends| links.replace(ends, from, hole));
            }
            hole = from;
        }
        slots.clear(hole);
    }

    /// Puts an entry behind another port.
    pub(super) fn move_entry(&mut self, slots: &Slots, at: usize, port: PortId, clock: Clock) {
        let old = slots.value_at(at);
        let new = old.moved_to(port, clock);
        self.unqueue(at, old);
        self.count(old.port(), -1);
        slots.set_value(at, new);
        self.held_until[at] = 0;
        self.queue(at, new);
        self.count(port, 1);
    }

    /// Keeps the station of an entry from moving outside until then.
    pub(super) fn hold_until(&mut self, at: usize, until: Clock) {
        self.held_until[at] = until.get();
    }

    /// Whether it is kept from that.
    pub(super) fn is_held(&self, at: usize, clock: Clock) -> bool {
        let until = self.held_until[at];
        until != 0 && clock.is_before(Clock::of(until))
    }

    fn evict(&mut self, slots: &Slots, counters: &Counters, at: usize) {
        self.remove(slots, counters, at);
        counters.add(&counters.evictions, 1);
    }

    /// The oldest entry of the port that holds most: `claimant` itself, if no other holds more.
    ///
    /// An entry seen since it was queued (its refresh found the mutex taken) goes to the end of the list. Of those and the
    /// first that was not seen since, looked at one after the other but only a few, the one seen longest ago is the victim.
    fn victim(&mut self, slots: &Slots, claimant: PortId) -> Option<usize> {
        if self.most == 0 {
            return None;
        }
        let list = if self.held(claimant) == self.most {
            claimant.index()
        } else {
            self.holding.first(self.most as usize)?
        };
        let mut oldest: Option<(usize, u32)> = None;
        for _ in 0..SECOND_CHANCES {
            let at = self.of_port.first(list)?;
            let value = slots.value_at(at);
            if oldest.is_none_or(|(_, seen)| (value.seen().wrapping_sub(seen) as i32) < 0) {
                oldest = Some((at, value.seen()));
            }
            if value.seen() == self.queued[at] {
                break;
            }
            self.requeue(at, value);
        }
        oldest.map(|(at, _)| at)
    }

    /// Puts an entry last in its port's list.
    pub(super) fn requeue(&mut self, at: usize, value: Value) {
        self.unqueue(at, value);
        self.queue(at, value);
    }

    fn queue(&mut self, at: usize, value: Value) {
        self.queued[at] = value.seen();
        let links = &mut self.entry_links;
        self.of_port
            .with(value.port().index(), |ends| links.push_last(ends, at));
    }

    fn unqueue(&mut self, at: usize, value: Value) {
        let links = &mut self.entry_links;
        self.of_port
            .with(value.port().index(), |ends| links.take(ends, at));
    }

    /// Notes that a port holds one entry more or less.
    fn count(&mut self, port: PortId, change: i32) {
        let index = port.index();
        let old = self.held[index];
        let new = old
            .checked_add_signed(change)
            .expect("a port holds the entries that are in its list");
        self.held[index] = new;
        let links = &mut self.port_links;
        if old > 0 {
            self.holding.with(old as usize, |ends| links.take(ends, index));
        }
        if new > 0 {
            self.holding
                .with(new as usize, |ends| links.push_last(ends, index));
        }
        // One step up or down always leads to a number that some port holds, or to zero.
        if new > self.most || (old == self.most && self.holding.first(old as usize).is_none()) {
            self.most = new;
        }
    }
}
