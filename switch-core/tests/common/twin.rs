//! The slow twins: a MAC table and a forwarding function as one would say them, not as one would run them.
//!
//! Written from the meanings of the features alone. They share the configuration types with the fast ones, and what an announcement and a share of the
//! traffic are, nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use switch_core::addr::MacAddr;
use switch_core::announce::announces;
use switch_core::fdb::{Filter, Learnt};
use switch_core::id::PortId;
use switch_core::offload::Offload;
use switch_core::snapshot::{MacLimit, Overflow, Port};
use switch_core::team::{Exit, Hears, Role};
use switch_core::time::Timestamp;
use switch_core::verdict::DropReason;
use switch_core::vid::{Tpid, Vid};
use switch_core::vlan::VlanPolicy;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlowEntry {
    pub port: PortId,
    pub fixed: bool,
    pub seen: Timestamp,
    pub announced: Option<Timestamp>,
}

/// A MAC table without a bound; whoever uses it tells it what the bounded one evicted.
#[derive(Clone, Default, Debug)]
pub struct SlowFdb {
    pub entries: BTreeMap<(Vid, MacAddr), SlowEntry>,
    pub learnt: u64,
    pub moves: u64,
    pub aged: u64,
}

impl SlowFdb {
    fn live(&self, vid: Vid, mac: MacAddr, now: Timestamp, ageing: Duration) -> Option<SlowEntry> {
        let entry = *self.entries.get(&(vid, mac))?;
        (entry.fixed || now.since(entry.seen) <= ageing).then_some(entry)
    }

    pub fn held(&self, port: PortId) -> usize {
        self.entries
            .values()
            .filter(|entry| entry.port == port && !entry.fixed)
            .count()
    }

    pub fn lookup(&self, vid: Vid, mac: MacAddr, now: Timestamp, ageing: Duration) -> Option<PortId> {
        self.live(vid, mac, now, ageing).map(|entry| entry.port)
    }

    pub fn learn(
        &mut self,
        vid: Vid,
        mac: MacAddr,
        port: PortId,
        now: Timestamp,
        ageing: Duration,
        limit: Option<MacLimit>,
    ) -> Learnt {
        let live = self.live(vid, mac, now, ageing);
        match live {
            Some(entry) if entry.fixed && entry.port == port => return Learnt::Static,
            Some(entry) if entry.fixed => return Learnt::StaticElsewhere { owner: entry.port },
            Some(entry) if entry.port == port => {
                self.entries.get_mut(&(vid, mac)).unwrap().seen = now;
                return Learnt::Known;
            }
            _ => {}
        }
        let expired = live.is_none().then(|| self.entries.remove(&(vid, mac))).flatten();
        if limit.is_some_and(|limit| self.held(port) >= limit.count as usize) {
            if let Some(entry) = expired {
                self.entries.insert((vid, mac), entry);
            }
            return Learnt::Limited;
        }
        self.aged += u64::from(expired.is_some());
        self.entries.insert(
            (vid, mac),
            SlowEntry {
                port,
                fixed: false,
                seen: now,
                announced: None,
            },
        );
        if let Some(entry) = live {
            self.moves += 1;
            return Learnt::Moved { from: entry.port };
        }
        self.learnt += 1;
        Learnt::New
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
    ) -> bool {
        let Some(entry) = self
            .live(vid, mac, now, ageing)
            .filter(|entry| entry.port != outside)
        else {
            return false;
        };
        let lately = |at: Timestamp| now.since(at) <= Duration::from_secs(5);
        if entry.fixed {
            true
        } else if announced {
            entry.announced.is_some_and(lately)
        } else {
            lately(entry.seen)
        }
    }

    pub fn insert_static(&mut self, vid: Vid, mac: MacAddr, port: PortId) {
        let seen = Timestamp::default();
        self.entries.insert(
            (vid, mac),
            SlowEntry {
                port,
                fixed: true,
                seen,
                announced: None,
            },
        );
    }

    fn remove_if(&mut self, matches: impl Fn(Vid, &SlowEntry) -> bool) -> usize {
        let before = self.entries.len();
        self.entries.retain(|(vid, _), entry| !matches(*vid, entry));
        before - self.entries.len()
    }

    pub fn flush(&mut self, filter: Filter) -> usize {
        self.remove_if(|vid, entry| {
            let port_matches = filter.port.is_none() || filter.port == Some(entry.port);
            let vid_matches = filter.vid.is_none() || filter.vid == Some(vid);
            !entry.fixed && port_matches && vid_matches
        })
    }

    pub fn forget_port(&mut self, port: PortId) -> usize {
        self.remove_if(|_, entry| entry.port == port)
    }

    pub fn age(&mut self, now: Timestamp, ageing: Duration) -> usize {
        let removed = self.remove_if(|_, entry| !entry.fixed && now.since(entry.seen) > ageing);
        self.aged += removed as u64;
        removed
    }
}

/// What is known of a guest's address.
#[derive(Clone, Default, Debug)]
struct Guest {
    first: Option<MacAddr>,
    effective: Option<MacAddr>,
    /// The last sources, if they were all the same stranger.
    row: Vec<MacAddr>,
}

/// A frame on its way out: the port, and the octets of the outer tag that is put on.
pub type SlowHop = (PortId, Option<[u8; 4]>);

/// A switch (or several) by the book.
#[derive(Debug)]
pub struct SlowSwitch {
    pub ports: Vec<Port>,
    pub mtus: Vec<usize>,
    pub ageing: Duration,
    pub fdbs: Vec<SlowFdb>,
    guests: BTreeMap<PortId, Guest>,
    /// Ports whose guest has announced itself while they waited for it.
    awake: BTreeSet<PortId>,
}

impl SlowSwitch {
    pub fn new(ports: Vec<Port>, mtus: Vec<usize>, ageing: Duration) -> Self {
        Self {
            guests: BTreeMap::new(),
            awake: BTreeSet::new(),
            fdbs: vec![SlowFdb::default(); mtus.len()],
            ports,
            mtus,
            ageing,
        }
    }

    fn hears(port: &Port) -> Hears {
        match port.role {
            Role::Inside { hears, .. } => hears,
            _ => Hears::default(),
        }
    }

    fn configured(&self, port: &Port) -> Option<MacAddr> {
        port.mac.or_else(|| self.guests.get(&port.id)?.first)
    }

    fn effective(&self, port: &Port) -> Option<MacAddr> {
        self.guests
            .get(&port.id)
            .and_then(|guest| guest.effective)
            .or(port.mac)
    }

    /// Its guest has taken another address, and must not.
    fn is_shut(&self, port: &Port) -> bool {
        let other = match (self.effective(port), self.configured(port)) {
            (Some(effective), Some(configured)) => effective != configured,
            _ => false,
        };
        other && !port.security.mac_changes
    }

    /// Source security. True if the frame may pass.
    fn secure(&mut self, port: &Port, source: MacAddr) -> bool {
        let policy = port.security;
        if policy.forged_transmits {
            // Nothing is learnt about the guest, except that it is back.
            let back = self.configured(port) == Some(source) && self.effective(port).is_some();
            if back && !policy.mac_changes {
                self.guests.entry(port.id).or_default().effective = Some(source);
            }
            return true;
        }
        let configured = self.configured(port);
        let effective = self.effective(port);
        let guest = self.guests.entry(port.id).or_default();
        let Some(configured) = configured else {
            guest.first = Some(source);
            guest.effective = Some(source);
            return true;
        };
        if source == configured {
            guest.effective = Some(source);
            guest.row.clear();
            return true;
        }
        if Some(source) == effective {
            guest.row.clear();
            return policy.mac_changes;
        }
        if guest.row.first().is_some_and(|first| *first != source) {
            guest.row.clear();
        }
        guest.row.push(source);
        if guest.row.len() < 3 {
            return false;
        }
        guest.row.clear();
        guest.effective = Some(source);
        policy.mac_changes
    }

    /// The VLAN of a frame and its priority bits.
    fn classify(policy: &VlanPolicy, tag: Option<(u16, u16)>) -> Result<(Vid, u16), DropReason> {
        let own = match policy {
            VlanPolicy::Tunnel(service) => return Ok((*service, 0)),
            VlanPolicy::Unaware | VlanPolicy::Access(_) => 0x8100,
            VlanPolicy::Trunk { tpid, .. } => tpid.ethertype(),
        };
        let (number, priority) = match tag {
            Some((tpid, tci)) if tpid == own => (tci & 0xfff, tci & 0xf000),
            _ => (0, 0),
        };
        if number == 4095 {
            return Err(DropReason::VlanReserved);
        }
        match policy {
            VlanPolicy::Unaware if number == 0 => Ok((Vid::UNAWARE, priority)),
            VlanPolicy::Access(vid) if number == 0 => Ok((*vid, priority)),
            VlanPolicy::Unaware | VlanPolicy::Access(_) | VlanPolicy::Tunnel(_) => {
                Err(DropReason::VlanTagged)
            }
            VlanPolicy::Trunk { native, .. } if number == 0 => {
                native.map(|vid| (vid, priority)).ok_or(DropReason::VlanUntagged)
            }
            VlanPolicy::Trunk { .. } => {
                let vid = Vid::new(number).unwrap();
                if Self::takes_part(policy, vid) {
                    Ok((vid, priority))
                } else {
                    Err(DropReason::VlanNotAllowed)
                }
            }
        }
    }

    fn takes_part(policy: &VlanPolicy, vid: Vid) -> bool {
        match policy {
            VlanPolicy::Unaware => vid.get() == 0,
            VlanPolicy::Access(own) | VlanPolicy::Tunnel(own) => vid == *own,
            VlanPolicy::Trunk { vlans, native, .. } => {
                vlans.iter().any(|member| member == vid) || *native == Some(vid)
            }
        }
    }

    fn leaving(port: &Port, vid: Vid, priority: u16) -> SlowHop {
        let tag = match &port.vlan {
            VlanPolicy::Trunk { native, tpid, .. } if *native != Some(vid) => {
                let tci = (priority | vid.get()).to_be_bytes();
                let tpid = match tpid {
                    Tpid::Dot1Q => [0x81, 0x00],
                    Tpid::Dot1Ad => [0x88, 0xa8],
                };
                Some([tpid[0], tpid[1], tci[0], tci[1]])
            }
            _ => None,
        };
        (port.id, tag)
    }

    pub fn forward(
        &mut self,
        now: Timestamp,
        from: PortId,
        frame: &[u8],
        offload: Offload,
    ) -> Result<BTreeSet<SlowHop>, DropReason> {
        let number = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        if frame.len() < 14 {
            return Err(DropReason::Runt);
        }
        let port = self
            .ports
            .iter()
            .find(|port| port.id == from && port.enabled)
            .cloned()
            .ok_or(DropReason::PortDisabled)?;
        let tag_at =
            |at: usize| (frame.len() >= at + 2 && [0x8100, 0x88a8].contains(&number(at))).then(|| number(at));
        let mut tags = 0;
        let mut outer = None;
        if let Some(tpid) = tag_at(12) {
            if frame.len() < 18 {
                return Err(DropReason::VlanTruncated);
            }
            outer = Some((tpid, number(14)));
            tags = 1;
            if tpid == 0x8100 && number(14) & 0xfff == 4095 {
                return Err(DropReason::VlanReserved);
            }
            if tag_at(16).is_some() && frame.len() >= 22 {
                tags = 2;
            }
        }
        let longest = match offload.gso {
            Some(gso) => frame
                .len()
                .min(usize::from(gso.header_len) + usize::from(gso.size)),
            None => frame.len(),
        };
        if longest > self.mtus[port.switch.index()] + 14 + 4 * tags {
            return Err(DropReason::TooLong);
        }
        let destination = MacAddr(frame[..6].try_into().unwrap());
        let source = MacAddr(frame[6..12].try_into().unwrap());
        if source == MacAddr::ZERO || source.0[0] % 2 == 1 {
            return Err(DropReason::BadSource);
        }
        if destination.0[..5] == [1, 0x80, 0xc2, 0, 0] && destination.0[5] < 16 {
            return Err(DropReason::ReservedAddress);
        }
        let (vid, priority) = Self::classify(&port.vlan, outer)?;
        let taken_off = match &port.vlan {
            VlanPolicy::Tunnel(_) => false,
            VlanPolicy::Trunk { tpid, .. } => tag_at(12) == Some(tpid.ethertype()),
            VlanPolicy::Unaware | VlanPolicy::Access(_) => tag_at(12) == Some(0x8100),
        };
        let payload_tag = tag_at(if taken_off { 16 } else { 12 });
        if !self.secure(&port, source) {
            return Err(DropReason::ForgedTransmit);
        }
        let ageing = self.ageing;
        let announced = announces(frame, source);
        let group = destination.0[0] % 2 == 1;
        if port.dormant && announced && group {
            self.awake.insert(from);
        }
        if port.dormant && !self.awake.contains(&from) {
            return Err(DropReason::NotActivated);
        }
        let (place, uplink) = match port.role {
            Role::Uplink { number, outside } => (outside, Some(number)),
            _ => (from, None),
        };
        let exit = match &port.role {
            Role::Inside { exit, .. } => exit.clone(),
            _ => Exit::None,
        };
        let exit = exit.of_frame(frame, source.to_u64(), vid.get());
        let has_exit = matches!(&port.role, Role::Inside { exit, .. } if *exit != Exit::None);
        let fdb = &mut self.fdbs[port.switch.index()];
        if uplink.is_some() && fdb.reflected(vid, source, place, now, ageing, announced && group) {
            return Err(DropReason::Reflection);
        }
        match fdb.learn(vid, source, place, now, ageing, port.mac_limit) {
            Learnt::StaticElsewhere { .. } => return Err(DropReason::StaticMac),
            Learnt::Limited if port.mac_limit.unwrap().overflow == Overflow::Drop => {
                return Err(DropReason::MacLimit);
            }
            _ => {}
        }

        if group
            && announced
            && has_exit
            && let Some(entry) = fdb
                .entries
                .get_mut(&(vid, source))
                .filter(|entry| entry.port == from)
        {
            entry.announced = Some(now);
        }
        let at = fdb.lookup(vid, destination, now, ageing).filter(|_| !group);
        let there = |other: &&Port| other.switch == port.switch && other.up && other.enabled;
        let known = at.and_then(|at| self.ports.iter().filter(there).find(|other| other.id == at));
        let refused = |other: &Port| {
            if port.isolated && other.isolated {
                Some(DropReason::Isolated)
            } else if self.is_shut(other) {
                Some(DropReason::MacChanged)
            } else if Self::leaving(other, vid, priority).1.is_none()
                && match &other.vlan {
                    VlanPolicy::Tunnel(_) => false,
                    VlanPolicy::Trunk { tpid, .. } => payload_tag == Some(tpid.ethertype()),
                    VlanPolicy::Unaware | VlanPolicy::Access(_) => payload_tag == Some(0x8100),
                }
            {
                Some(DropReason::VlanNested)
            } else {
                None
            }
        };
        let mut known = known;
        let leaves_by = exit.and_then(|exit| self.ports.iter().filter(there).find(|other| other.id == exit));
        if let Some(to) = known {
            if to.id == place {
                return Err(DropReason::SamePort);
            }
            if uplink.is_some_and(|uplink| !Self::hears(to).unicast.contains(uplink)) {
                return Err(DropReason::UplinkUnused);
            }
            if to.role == Role::Outside {
                known = Some(leaves_by.ok_or(DropReason::NoUplink)?);
            }
        }
        if let Some(known) = known {
            if !Self::takes_part(&known.vlan, vid) {
                return Err(DropReason::EgressVlan);
            }
            if let Some(reason) = refused(known) {
                return Err(reason);
            }
        }
        let is_uplink = |other: &&Port| matches!(other.role, Role::Uplink { .. });
        let hears = |other: &&Port| {
            let hears = Self::hears(other);
            let set = if known.is_some() {
                hears.unicast
            } else {
                hears.groups
            };
            uplink.is_none_or(|uplink| set.contains(uplink))
        };
        // Of those that a flood is for, the uplinks are one.
        let mut members: Vec<&Port> = self
            .ports
            .iter()
            .filter(there)
            .filter(|other| !is_uplink(other) && other.id != place)
            .filter(|other| Self::takes_part(&other.vlan, vid))
            .collect();
        let duplicate = known.is_none() && !members.iter().all(hears);
        members.retain(hears);
        let for_outside = members.iter().any(|other| other.role == Role::Outside);
        members.retain(|other| other.role != Role::Outside);
        members.extend(match known {
            // Also one that a static entry names.
            Some(known) => Some(known).filter(is_uplink),
            None => leaves_by.filter(|_| for_outside),
        });
        let hops: BTreeSet<SlowHop> = members
            .into_iter()
            .filter(|other| refused(other).is_none())
            .filter(|other| match known {
                Some(known) => other.id == known.id || other.security.promiscuous,
                None if group || other.security.promiscuous || other.security.forged_transmits => true,
                None => self
                    .effective(other)
                    .is_none_or(|effective| effective == destination),
            })
            .map(|other| Self::leaving(other, vid, priority))
            .collect();
        if hops.is_empty() && duplicate {
            return Err(DropReason::Duplicate);
        }
        if hops.is_empty() && for_outside && known.is_none() && leaves_by.is_none() {
            return Err(DropReason::NoUplink);
        }
        if hops.is_empty() {
            return Err(DropReason::NoDestination);
        }
        Ok(hops)
    }
}
