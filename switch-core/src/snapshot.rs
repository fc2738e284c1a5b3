//! The compiled configuration that a worker reads: immutable, replaced whole by one swap.
//!
//! What the switch learns ([`Fdb`], [`PortState`]) is only referred to, so it survives the swap.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::addr::MacAddr;
use crate::fdb::{AgeingTicks, Fdb};
use crate::id::{PortId, SwitchId};
use crate::security::{Guard, PortState, SecurityPolicy};
use crate::team::{Exit, Hears, Role};
use crate::vid::Vid;
use crate::vlan::VlanPolicy;

/// What happens to a frame from a new source when the port has reached its limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overflow {
    /// Drop it.
    Drop,
    /// Forward it without learning.
    Flood,
}

/// A bound on the MAC addresses learnt behind one port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MacLimit {
    /// How many.
    pub count: u32,
    /// And then.
    pub overflow: Overflow,
}

/// A port as the pipeline knows it.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its number.
    pub id: PortId,
    /// The switch it belongs to, an index into the switches given to [`Snapshot::new`].
    pub switch: SwitchId,
    /// False when the administrator has disabled it.
    pub enabled: bool,
    /// True when its device is there and carries traffic; frames are sent only to ports that are up.
    pub up: bool,
    /// VLAN membership.
    pub vlan: VlanPolicy,
    /// Promiscuous mode, MAC changes, forged transmits.
    pub security: SecurityPolicy,
    /// The configured MAC address of the guest.
    pub mac: Option<MacAddr>,
    /// Never talks to another isolated port.
    pub isolated: bool,
    /// Bound on learnt addresses.
    pub mac_limit: Option<MacLimit>,
    /// It waits for its guest's first announcement: until then frames are neither taken nor given. Such a port is not up.
    pub dormant: bool,
    /// What it is to the uplinks of its switch.
    pub role: Role,
    /// What the port has shown of its guest.
    pub state: Arc<PortState>,
}

/// A switch as the pipeline knows it.
#[derive(Clone, Debug)]
pub struct Switch {
    /// Largest payload of a frame after its Ethernet header and tags, octets.
    pub mtu: u16,
    /// How long a learnt address lasts without being seen.
    pub ageing: Duration,
    /// The MAC table.
    pub fdb: Arc<Fdb>,
}

/// The whole configuration of the datapath.
#[derive(Debug)]
pub struct Snapshot {
    generation: u64,
    switches: Box<[Switch]>,
    ports: Box<[Option<Compiled>]>,
    floods: Box<[FloodTable]>,
}

/// Octets of an Ethernet header.
const ETHERNET: u32 = 14;

/// A port beside what a frame asks of it first, worked out once.
#[derive(Debug)]
pub(crate) struct Compiled {
    /// The port itself.
    pub(crate) port: Port,
    /// Frames may be sent to it: it is up and enabled.
    pub(crate) live: bool,
    /// Its security policy can object to a source.
    pub(crate) guarded: bool,
    /// Neither isolation nor its security policy can object to a frame for it.
    pub(crate) is_open: bool,
    /// What [`Compiled::reaches`] compares.
    traits: u64,
    /// What the traits of a port must be, of those in `minded`, to get a frame from this one.
    wanted: u64,
    /// Which traits this port minds.
    minded: u64,
    /// Behind which port its stations are: itself, or for an uplink all uplinks.
    pub(crate) place: PortId,
    /// It stands for all uplinks.
    pub(crate) is_outside: bool,
    /// The number of the VLAN whose frames come and go without a tag; [`Vid::COUNT`] if there is none, or it has no frames of its own.
    pub(crate) untagged: u16,
    /// The configured address, as [`MacAddr::to_u64`]; 0 if there is none.
    pub(crate) mac: u64,
    /// Some port of its switch that is live accepts promiscuous mode.
    pub(crate) watched: bool,
    /// The ageing time of its switch.
    pub(crate) ageing: AgeingTicks,
    /// Octets of the longest untagged frame.
    pub(crate) longest: u32,
    /// Its switch.
    pub(crate) switch: Switch,
}

/// Of [`Compiled::traits`], whose lowest 16 bits are the switch.
const LIVE: u64 = 1 << 16;
const ISOLATED: u64 = 1 << 17;
/// No port has this one.
const NOTHING: u64 = 1 << 18;
/// Takes unicast frames by the uplink with number 0; those of the others follow.
const HEARS: u32 = 32;

const fn flag(is: bool, flag: u64) -> u64 {
    if is { flag } else { 0 }
}

impl Compiled {
    /// Whether a frame from this port may leave by `to`, as far as both ports' switch, states and isolation go, and no
    /// other port is to see it. False if this port is disabled.
    #[inline(always)]
    pub(crate) const fn reaches(&self, to: &Self) -> bool {
        to.traits & self.minded == self.wanted
    }

    /// By which uplink its frames leave, if it is inside.
    #[inline]
    pub(crate) fn exit(&self) -> &Exit {
        match &self.port.role {
            Role::Inside { exit, .. } => exit,
            Role::Uplink { .. } | Role::Outside => &Exit::None,
        }
    }

    /// The number of the uplink that it is.
    #[inline]
    pub(crate) fn uplink(&self) -> Option<u8> {
        match self.port.role {
            Role::Uplink { number, .. } => Some(number),
            Role::Inside { .. } | Role::Outside => None,
        }
    }

    /// By which uplinks it takes frames.
    #[inline]
    pub(crate) fn hears(&self) -> Hears {
        match self.port.role {
            Role::Inside { hears, .. } => hears,
            Role::Uplink { .. } | Role::Outside => Hears::default(),
        }
    }

    /// The port's source security.
    #[inline]
    pub(crate) fn guard(&self) -> Guard<'_> {
        Guard {
            policy: self.port.security,
            mac: self.mac,
            state: &self.port.state,
        }
    }

    fn new(port: Port, switch: &Switch, watched: bool) -> Self {
        let home = u64::from(port.switch.0);
        let live = port.up && port.enabled;
        // A frame that someone else wants to see too, or that may not come in, has no usual way.
        let usual = port.enabled && !watched && !port.dormant;
        let mut minded = u64::from(u16::MAX) | LIVE;
        if port.isolated {
            minded |= ISOLATED;
        }
        let (mut heard, mut by) = (0, 0);
        let mut place = port.id;
        match port.role {
            Role::Inside { hears, .. } => heard = u64::from(hears.unicast.bits()) << HEARS,
            Role::Uplink { number, outside } => {
                by = 1 << (HEARS + u32::from(number));
                place = outside;
            }
            Role::Outside => {}
        }
        let is_outside = port.role == Role::Outside;
        let untagged = port.vlan.untagged().filter(|_| !is_outside);
        Self {
            traits: home | flag(live, LIVE) | flag(port.isolated, ISOLATED) | heard,
            wanted: home | LIVE | flag(!usual, NOTHING) | by,
            minded: minded | NOTHING | by,
            place,
            is_outside,
            watched,
            ageing: AgeingTicks::of(switch.ageing),
            longest: u32::from(switch.mtu) + ETHERNET,
            switch: switch.clone(),
            live: port.up && port.enabled,
            is_open: !port.isolated && port.security.mac_changes && !is_outside,
            guarded: !(port.security.forged_transmits && port.security.mac_changes),
            untagged: untagged.map_or(Vid::COUNT as u16, Vid::get),
            mac: port.mac.map_or(0, MacAddr::to_u64),
            port,
        }
    }
}

/// Who hears a flood, per VLAN of one switch.
#[derive(Debug)]
struct FloodTable {
    /// Index into `lists` per VLAN.
    of_vid: Box<[u16]>,
    lists: Vec<Members>,
}

/// The ports of one VLAN that are up.
#[derive(Debug, Default, PartialEq, Eq)]
struct Members {
    all: Box<[PortId]>,
    promiscuous: Box<[PortId]>,
}

impl Snapshot {
    /// Puts switches and ports together. `generation` grows with every snapshot.
    ///
    /// # Panics
    /// If two ports have one id, or a port names a switch that is not there: the compiler of the configuration numbers both.
    pub fn new(generation: u64, switches: Vec<Switch>, ports: Vec<Port>) -> Self {
        let slots = ports.iter().map(|port| port.id.index() + 1).max().unwrap_or(0);
        let mut table: Box<[Option<Compiled>]> = std::iter::repeat_with(|| None).take(slots).collect();
        let mut watched = vec![false; switches.len()];
        for port in &ports {
            if port.up
                && port.enabled
                && port.security.promiscuous
                && let Some(watched) = watched.get_mut(port.switch.index())
            {
                *watched = true;
            }
        }
        for port in ports {
            assert!(
                port.switch.index() < switches.len(),
                "{:?} names a switch that is not there",
                port.id
            );
            let slot = &mut table[port.id.index()];
            assert!(slot.is_none(), "{:?} is there twice", port.id);
            let switch = port.switch.index();
            *slot = Some(Compiled::new(port, &switches[switch], watched[switch]));
        }
        let floods = (0..switches.len())
            .map(|switch| {
                FloodTable::new(
                    table
                        .iter()
                        .flatten()
                        .map(|compiled| &compiled.port)
                        .filter(|port| port.switch.index() == switch),
                )
            })
            .collect();
        Self {
            generation,
            switches: switches.into(),
            ports: table,
            floods,
        }
    }

    /// A configuration without switches or ports.
    pub fn empty() -> Self {
        Self::new(0, Vec::new(), Vec::new())
    }

    /// The number given to [`Snapshot::new`].
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// All ports, in the order of their ids.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        self.ports.iter().flatten().map(|compiled| &compiled.port)
    }

    /// One port.
    #[inline]
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.compiled(id).map(|compiled| &compiled.port)
    }

    /// One port, as the pipeline wants it.
    #[inline]
    pub(crate) fn compiled(&self, id: PortId) -> Option<&Compiled> {
        self.ports.get(id.index())?.as_ref()
    }

    /// All switches, in the order of their ids.
    pub fn switches(&self) -> &[Switch] {
        &self.switches
    }

    /// The switch of a port of this snapshot.
    #[inline]
    pub fn switch(&self, id: SwitchId) -> &Switch {
        &self.switches[id.index()]
    }

    /// Every port of `switch` that is up, enabled and carries `vid`, in the order of their ids; for the uplinks the one that stands for all.
    #[inline]
    pub fn members(&self, switch: SwitchId, vid: Vid) -> &[PortId] {
        &self.floods[switch.index()].members(vid).all
    }

    /// Those of [`Snapshot::members`] whose security policy accepts promiscuous mode.
    #[inline]
    pub fn promiscuous(&self, switch: SwitchId, vid: Vid) -> &[PortId] {
        &self.floods[switch.index()].members(vid).promiscuous
    }
}

impl FloodTable {
    fn new<'a>(ports: impl Iterator<Item = &'a Port>) -> Self {
        // One stands for all uplinks.
        let is_uplink = |port: &Port| matches!(port.role, Role::Uplink { .. });
        let ports: Vec<&Port> = ports
            .filter(|port| port.up && port.enabled && !is_uplink(port))
            .collect();
        // Equal lists are stored once. Most VLANs have the members of the trunks that carry everything, so where no port
        // parts the 64 VLANs of a word, one look serves all of them.
        let mut lists: Vec<Members> = Vec::new();
        let mut known: HashMap<Box<[PortId]>, u16> = HashMap::new();
        let mut of_vid = Vec::with_capacity(Vid::COUNT);
        let mut words: Vec<u64> = Vec::with_capacity(ports.len());
        for first in (0..Vid::COUNT).step_by(64) {
            let vids = (Vid::COUNT - first).min(64);
            let full = u64::MAX >> (64 - vids);
            words.clear();
            words.extend(ports.iter().map(|port| port.vlan.carries_word(first / 64)));
            let uniform = words.iter().all(|word| *word == 0 || *word == full);
            for bit in 0..vids {
                if uniform && bit > 0 {
                    of_vid.push(of_vid[first]);
                    continue;
                }
                let members = || {
                    let ports = ports.iter().zip(&words);
                    ports
                        .filter(|(_, word)| **word >> bit & 1 == 1)
                        .map(|(port, _)| *port)
                };
                let all: Box<[PortId]> = members().map(|port| port.id).collect();
                let next = lists.len() as u16;
                let list = *known.entry(all).or_insert_with_key(|all| {
                    lists.push(Members {
                        all: all.clone(),
                        promiscuous: members()
                            .filter(|port| port.security.promiscuous)
                            .map(|port| port.id)
                            .collect(),
                    });
                    next
                });
                of_vid.push(list);
            }
        }
        Self {
            of_vid: of_vid.into(),
            lists,
        }
    }

    #[inline]
    fn members(&self, vid: Vid) -> &Members {
        &self.lists[usize::from(self.of_vid[vid.index()])]
    }
}
