//! MAC table (skeleton)
use crate::addr::MacAddr;
use crate::id::PortId;
use crate::snapshot::MacLimit;
use crate::time::Timestamp;
use crate::vid::Vid;
use std::time::Duration;

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

/// The MAC table of one switch.
#[derive(Debug)]
pub struct Fdb {}

#[allow(unused_variables, missing_docs)]
impl Fdb {
    pub const MIN_CAPACITY: usize = 10;
    pub const MAX_CAPACITY: usize = 1 << 20;
    /// A table for up to `capacity` entries, hashed with `seed`, which guests must not know.
    pub fn new(capacity: usize, seed: u64) -> Self {
        todo!()
    }
    /// A table of another capacity with the same entries and counters (the freshest, where not all fit).
    pub fn resized(&self, capacity: usize) -> Self {
        todo!()
    }
    pub fn capacity(&self) -> usize {
        todo!()
    }
    /// Where a frame to `mac` goes. Lock-free.
    #[inline]
    pub fn lookup(&self, vid: Vid, mac: MacAddr, now: Timestamp, ageing: Duration) -> Option<PortId> {
        todo!()
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
        todo!()
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
        todo!()
    }
    pub fn insert_static(&self, vid: Vid, mac: MacAddr, port: PortId) -> Result<(), FdbFull> {
        todo!()
    }
    /// Removes one entry of any kind; false if there was none.
    pub fn remove(&self, vid: Vid, mac: MacAddr) -> bool {
        todo!()
    }
    /// Removes dynamic entries; returns how many.
    pub fn flush(&self, filter: Filter) -> usize {
        todo!()
    }
    /// Removes every entry of a port, static ones included; returns how many.
    pub fn forget_port(&self, port: PortId) -> usize {
        todo!()
    }
    /// Removes entries not seen for `ageing`; returns how many.
    pub fn age(&self, now: Timestamp, ageing: Duration) -> usize {
        todo!()
    }
    /// All live entries, in no order.
    pub fn entries(&self, now: Timestamp, ageing: Duration) -> Vec<Entry> {
        todo!()
    }
    pub fn counters(&self) -> FdbCounters {
        todo!()
    }
}
