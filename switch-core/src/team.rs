//! Uplinks and NIC teaming: by which uplink a port's frames leave the switch, and which it hears (IEEE 802.1AX and vSphere have the words).
//!
//! Stations outside are behind all uplinks of a switch together: the MAC table has them at one port that stands for all, [`Role::Outside`], so that a station
//! which is heard by another uplink than before has not moved. Which uplink a frame takes is the sender's affair ([`Exit`]), and no frame goes from one
//! uplink to another.
//!
//! The network outside sends a broadcast to every uplink that it has not been told to be one aggregate. So a port takes frames for groups and for unknown
//! stations by some uplinks only ([`Hears`]), and a frame whose source was just heard inside is its own reflection ([`crate::fdb::Fdb::learn_outside`]).
//!
//! Which uplink is fit, and which port has which, the control plane decides and puts into the snapshot.

use std::sync::Arc;

use crate::flow;
use crate::id::PortId;

/// The most uplinks of one switch.
pub const MAX_UPLINKS: usize = 32;

/// What a port is to the uplinks of its switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is inside.
    Inside {
        /// By which uplink its frames leave.
        exit: Exit,
        /// By which uplinks it is reached.
        hears: Hears,
    },
    /// It is an uplink.
    Uplink {
        /// Its number among those of the switch, below [`MAX_UPLINKS`].
        number: u8,
        /// The port of this switch that stands for all uplinks.
        outside: PortId,
    },
    /// It stands for all uplinks: stations outside are behind it. It has no device, and no hop leads to it.
    Outside,
}

impl Default for Role {
    /// A port of a switch without uplinks.
    fn default() -> Self {
        Self::Inside {
            exit: Exit::None,
            hears: Hears::default(),
        }
    }
}

/// Uplinks of one switch, by their numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UplinkSet(u32);

impl UplinkSet {
    /// None of them.
    pub const EMPTY: Self = Self(0);

    /// Whether it has the uplink of this number.
    #[inline]
    pub const fn contains(self, number: u8) -> bool {
        self.0 >> (number as u32 % u32::BITS) & 1 == 1
    }

    /// A bit for each of them.
    #[inline]
    pub(crate) const fn bits(self) -> u32 {
        self.0
    }
}

impl FromIterator<u8> for UplinkSet {
    /// # Panics
    /// If a number is not below [`MAX_UPLINKS`].
    fn from_iter<T: IntoIterator<Item = u8>>(numbers: T) -> Self {
        Self(numbers.into_iter().fold(0, |set, number| {
            assert!(usize::from(number) < MAX_UPLINKS, "uplink {number}");
            set | 1 << number
        }))
    }
}

/// By which uplinks a port takes frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hears {
    /// Those for its own stations.
    pub unicast: UplinkSet,
    /// Those for groups and for unknown stations, of which every uplink may bring a copy.
    pub groups: UplinkSet,
}

/// By which uplink a port's frames leave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Exit {
    /// By none: there is none, or none that is fit.
    #[default]
    None,
    /// All by this one.
    One(PortId),
    /// By the hash of source address and VLAN.
    BySource(Shares),
    /// By the hash of the flow: addresses, and ports where there are some.
    ByFlow(Shares),
}

impl Exit {
    /// The uplink of a frame from station `source`, if its address and VLAN are all that matters.
    #[inline]
    pub fn of_station(&self, source: u64, vid: u16) -> Option<PortId> {
        match self {
            Self::One(uplink) => Some(*uplink),
            Self::BySource(shares) => Some(shares.of(mix(source | u64::from(vid) << 48))),
            Self::None | Self::ByFlow(_) => None,
        }
    }

    /// The uplink of a frame; `header` is its first octets, `source` its source address as [`crate::addr::MacAddr::to_u64`] gives it.
    #[inline]
    pub fn of_frame(&self, header: &[u8], source: u64, vid: u16) -> Option<PortId> {
        match self {
            Self::ByFlow(shares) => Some(shares.of(flow::hash(header))),
            _ => self.of_station(source, vid),
        }
    }
}

/// The finaliser of MurmurHash3, from whose upper half a share is taken.
fn mix(mut number: u64) -> u32 {
    number ^= number >> 33;
    number = number.wrapping_mul(0xff51_afd7_ed55_8ccd);
    number ^= number >> 33;
    number = number.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (number >> 32) as u32
}

/// Traffic in shares of equal size, each with an uplink. Open vSwitch has as many (`BOND_BUCKETS`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shares(Arc<[PortId; Shares::COUNT]>);

impl Shares {
    /// How many shares there are.
    pub const COUNT: usize = 256;

    /// Shares the traffic out among `members` alike, and what falls to those that are not fit among those that are: nothing else changes its uplink when
    /// one fails or comes back. `None` if none is fit.
    pub fn new(members: &[PortId], fit: impl Fn(PortId) -> bool) -> Option<Self> {
        let usable: Vec<PortId> = members.iter().copied().filter(|uplink| fit(*uplink)).collect();
        if usable.is_empty() {
            return None;
        }
        let share = |number: usize| {
            let (turn, own) = (number / members.len(), members[number % members.len()]);
            if fit(own) {
                own
            } else {
                usable[turn % usable.len()]
            }
        };
        Some(Self(Arc::new(std::array::from_fn(share))))
    }

    /// The uplink of each share.
    pub fn iter(&self) -> impl Iterator<Item = PortId> {
        self.0.iter().copied()
    }

    #[inline]
    fn of(&self, hash: u32) -> PortId {
        self.0[hash as usize % Self::COUNT]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn id(number: u16) -> PortId {
        PortId::new(number).unwrap()
    }

    #[test]
    fn shares_are_alike_and_only_those_of_a_failed_uplink_move() {
        let members = [id(1), id(2), id(3)];
        let whole = Shares::new(&members, |_| true).unwrap();
        let without = Shares::new(&members, |uplink| uplink != id(2)).unwrap();
        let count = |shares: &Shares| {
            let mut counts = BTreeMap::new();
            shares
                .iter()
                .for_each(|uplink| *counts.entry(uplink).or_insert(0) += 1);
            counts
        };
        assert_eq!(count(&whole), [(id(1), 86), (id(2), 85), (id(3), 85)].into());
        assert_eq!(count(&without), [(id(1), 129), (id(3), 127)].into());
        for (before, after) in whole.iter().zip(without.iter()) {
            assert!(before == after || before == id(2));
        }
        assert_eq!(Shares::new(&members, |_| false), None);
        assert_eq!(Shares::new(&[], |_| true), None);
    }

    #[test]
    fn a_thousand_stations_and_ten_thousand_flows_are_spread_evenly() {
        let members = [id(1), id(2), id(3)];
        let shares = Shares::new(&members, |_| true).unwrap();
        let even = |exit: &Exit, frames: &mut dyn Iterator<Item = (Vec<u8>, u64)>, total: usize| {
            let mut counts = BTreeMap::new();
            for (header, source) in frames {
                let uplink = exit.of_frame(&header, source, 100).unwrap();
                *counts.entry(uplink).or_insert(0usize) += 1;
            }
            for (uplink, count) in counts {
                assert!(count.abs_diff(total / 3) < total / 20, "{uplink:?}: {count}");
            }
        };
        let mut stations = (0..1000u64).map(|n| (Vec::new(), 0x5254_0000_0000 | n));
        even(&Exit::BySource(shares.clone()), &mut stations, 1000);
        let mut flows = (0..10_000u16).map(|port| {
            let mut frame = Vec::new();
            etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
                .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
                .udp(port, 53)
                .write(&mut frame, &[])
                .unwrap();
            (frame, 0x0202_0202_0202)
        });
        even(&Exit::ByFlow(shares), &mut flows, 10_000);
    }
}
