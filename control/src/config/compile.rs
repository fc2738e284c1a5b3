//! From a right configuration to the snapshot that the workers read, and the [`Registry`] of what outlives a snapshot.
//!
//! [`compile()`] is pure but for the registry. Order of an apply, with the daemon's part in brackets:
//!
//! 1. [open the new ports' devices: all that can fail]
//! 2. [`compile()`]: numbers the new ports, and takes out of the MAC tables what the change makes wrong
//! 3. [attach the new ports' queues, publish the snapshot: returns when no worker reads the old one]
//! 4. [`Registry::settle`]: takes out what workers learnt by the old snapshot meanwhile; says which ports went
//! 5. [detach those ports, set their counters to zero], then [`Registry::release`] each
//!
//! Thread rule: the registry belongs to the one task that applies configurations; the tables and states it hands out are shared.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use switch_core::addr::MacAddr;
use switch_core::fdb::{Fdb, Filter};
use switch_core::id::{PortId, SwitchId};
use switch_core::security::PortState;
use switch_core::snapshot::{self, Snapshot};
use switch_core::team::{Exit, Hears, Role, Shares, UplinkSet};
use switch_core::vid::{Tpid, Vid};
use switch_core::vlan::{VlanPolicy, VlanSet};

use super::model::{Activation, Balance};
use super::units::Name;
use super::validate::{Attachment, EffectivePort, EffectiveSwitch, OUTSIDE, Rules, ValidConfig};
use crate::teams::Teams;

/// What survives a change of configuration: numbers and states of ports, MAC tables of switches.
#[derive(Debug)]
pub struct Registry {
    seed: u64,
    ports: HashMap<Name, Slot>,
    /// Name by id, of ports that are there or retired.
    names: Vec<Option<Name>>,
    /// Ids that were released, the one released first in front: a number comes back as late as possible.
    free: VecDeque<PortId>,
    /// Ports that went, not yet told by [`Registry::settle`].
    retired: Vec<PortId>,
    /// Ids told by [`Registry::settle`], not yet released.
    leaving: HashSet<PortId>,
    switches: HashMap<Name, Table>,
    /// Of each switch with uplinks: what stands for all of them.
    outsides: HashMap<Name, PortId>,
    /// Ports with `activation: announce` whose guest has announced itself.
    activated: HashSet<String>,
    /// Ports whose learnt entries the next [`Registry::settle`] flushes again.
    stale: BTreeSet<PortId>,
}

/// A port that is there.
#[derive(Debug)]
struct Slot {
    id: PortId,
    state: Arc<PortState>,
    /// What its learnt addresses depend on.
    place: Place,
    /// What its guest's state depends on.
    guest: (Attachment, Option<MacAddr>),
    up: bool,
}

#[derive(Debug, PartialEq)]
struct Place {
    switch: Name,
    group: Option<Name>,
    vlan: super::model::Vlan,
    device: Attachment,
}

/// The MAC table of a switch that is there.
#[derive(Debug)]
struct Table {
    fdb: Arc<Fdb>,
    /// The configuration's entries.
    statics: HashMap<(Vid, MacAddr), PortId>,
    /// The table is another than the one that `statics` were put into.
    resized: bool,
}

impl Table {
    /// Takes out all entries of a port. `Fdb::forget_port` would look at every slot, even for a port without entries.
    fn forget(&mut self, id: PortId) {
        flush(&self.fdb, id);
        self.statics.retain(|(vid, mac), port| {
            let keep = *port != id;
            if !keep {
                self.fdb.remove(*vid, *mac);
            }
            keep
        });
    }
}

impl Registry {
    /// Nothing is there yet. `seed` feeds the hash of the MAC tables: random, and unknown to guests.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            ports: HashMap::new(),
            names: Vec::new(),
            free: VecDeque::new(),
            retired: Vec::new(),
            leaving: HashSet::new(),
            switches: HashMap::new(),
            outsides: HashMap::new(),
            activated: HashSet::new(),
            stale: BTreeSet::new(),
        }
    }

    /// The number of a port of the last compiled configuration.
    pub fn port_id(&self, name: &str) -> Option<PortId> {
        self.ports.get(name).map(|slot| slot.id)
    }

    /// The name of a port; also of one that went and is not released yet.
    pub fn port_name(&self, id: PortId) -> Option<&Name> {
        self.names.get(id.index())?.as_ref()
    }

    /// The name of the switch of a port of the last compiled configuration.
    pub fn switch_of(&self, port: &str) -> Option<&Name> {
        self.ports.get(port).map(|slot| &slot.place.switch)
    }

    /// Takes these ports for activated, as they were before a restart.
    pub fn remember_activated<'a>(&mut self, ports: impl Iterator<Item = &'a str>) {
        self.activated.extend(ports.map(str::to_owned));
    }

    /// The ports whose guest has announced itself.
    pub fn activated(&self) -> BTreeSet<String> {
        self.activated.iter().cloned().collect()
    }

    /// Whether a port waits for its guest's announcement.
    pub fn is_dormant(&self, port: &EffectivePort) -> bool {
        port.rules.activation == Activation::Announce && !self.activated.contains(port.name.as_str())
    }

    /// What a port has shown of its guest.
    pub fn state(&self, port: &str) -> Option<&Arc<PortState>> {
        self.ports.get(port).map(|slot| &slot.state)
    }

    /// The MAC table of a switch.
    pub fn fdb(&self, switch: &str) -> Option<&Arc<Fdb>> {
        self.switches.get(switch).map(|table| &table.fdb)
    }

    /// Whether an entry is one of the configuration's.
    pub fn is_static(&self, switch: &str, vid: Vid, mac: MacAddr) -> bool {
        self.switches
            .get(switch)
            .is_some_and(|table| table.statics.contains_key(&(vid, mac)))
    }

    /// To be called when no worker reads the snapshot before the last compiled one any more. Takes out of the MAC tables what
    /// was learnt by it meanwhile, and returns the ports that went, each once; they keep their ids until [`Registry::release`].
    pub fn settle(&mut self) -> Vec<PortId> {
        for table in self.switches.values() {
            for port in &self.stale {
                flush(&table.fdb, *port);
            }
            for port in &self.retired {
                flush(&table.fdb, *port);
            }
        }
        self.stale.clear();
        self.leaving.extend(&self.retired);
        std::mem::take(&mut self.retired)
    }

    /// Makes the id of a port that went free for another, once its queues are detached and its counters zero.
    /// An id that [`Registry::settle`] has not told is left alone.
    pub fn release(&mut self, id: PortId) {
        if self.leaving.remove(&id) {
            self.names[id.index()] = None;
            self.free.push_back(id);
        }
    }

    /// A number for a new port. Fresh ones first, so that one which was in use rests as long as possible.
    fn number(&mut self, name: &Name) -> PortId {
        let fresh = u16::try_from(self.names.len()).ok().and_then(PortId::new);
        let id = match fresh {
            Some(id) if self.free.is_empty() || self.names.len() < RESERVE => {
                self.names.push(None);
                id
            }
            fresh => match (self.free.pop_front(), fresh) {
                (Some(id), _) => id,
                (None, Some(id)) => {
                    self.names.push(None);
                    id
                }
                (None, None) => panic!(
                    "a valid configuration has at most half as many ports as there are ids, and those that went are released"
                ),
            },
        };
        self.names[id.index()] = Some(name.clone());
        id
    }
}

/// How many numbers are given out before released ones are used again. A snapshot's tables are as long as the greatest number.
const RESERVE: usize = 64;

fn flush(fdb: &Fdb, port: PortId) {
    fdb.flush(Filter {
        port: Some(port),
        vid: None,
    });
}

/// Mixes the seed of the registry and a switch's name into the seed of its MAC table.
fn table_seed(seed: u64, name: &Name) -> u64 {
    // The finaliser of splitmix64 over each octet: what matters is that the registry's seed is secret, not how it is spread.
    name.as_str().bytes().fold(seed, |state, octet| {
        let mut z = (state ^ u64::from(octet)).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// Puts a configuration into the form that workers read. `up` says of each port, by name, whether its device is there and
/// carries traffic. `teams` has been updated with this configuration. `generation` grows with every snapshot.
pub fn compile(
    config: &ValidConfig,
    generation: u64,
    registry: &mut Registry,
    up: &dyn Fn(&str) -> bool,
    teams: &Teams,
) -> Snapshot {
    registry.retire(config);
    let switches: Vec<snapshot::Switch> = registry.tables(config);
    let mut statics: HashMap<&Name, HashMap<(Vid, MacAddr), PortId>> = HashMap::new();
    let mut ports = Vec::with_capacity(config.ports().len());
    for port in config.ports() {
        let switch = &config.switch_of(port).name;
        let up = up(port.name.as_str());
        let dormant = registry.waits(port);
        let up = up && !dormant;
        let (id, state) = registry.port(port, switch, up);
        let own = statics.entry(switch).or_default();
        own.extend(port.static_macs.iter().map(|entry| (*entry, id)));
        let Rules {
            security,
            mac_limit,
            isolated,
            ..
        } = port.rules;
        ports.push(snapshot::Port {
            id,
            // `validate` bounds the number of switches far below 2^16.
            switch: SwitchId(port.switch as u16),
            enabled: port.enabled,
            up,
            vlan: port.vlan_policy(),
            security,
            mac: port.mac,
            isolated,
            mac_limit,
            dormant,
            role: Role::default(),
            state,
        });
    }
    registry.give_roles(config, teams, &mut ports);
    for switch in config.switches() {
        registry.synchronise(&switch.name, statics.remove(&switch.name).unwrap_or_default());
    }
    Snapshot::new(generation, switches, ports)
}

impl Registry {
    /// Switches and ports that are not in the configuration any more.
    fn retire(&mut self, config: &ValidConfig) {
        let wanted: HashSet<&str> = config
            .switches()
            .iter()
            .map(|switch| switch.name.as_str())
            .collect();
        self.switches.retain(|name, _| wanted.contains(name.as_str()));
        let has_uplinks = |name: &Name| {
            let switch = config.switches().iter().find(|switch| switch.name == *name);
            switch.is_some_and(|switch| !switch.uplinks.is_empty())
        };
        let gone: Vec<Name> = self
            .outsides
            .keys()
            .filter(|name| !has_uplinks(name))
            .cloned()
            .collect();
        for name in gone {
            if let Some(outside) = self.outsides.remove(&name) {
                if let Some(table) = self.switches.get_mut(&name) {
                    table.forget(outside);
                }
                self.retired.push(outside);
            }
        }
        let waits = |port: &&EffectivePort| port.rules.activation == Activation::Announce;
        let waiting: HashSet<&str> = config
            .ports()
            .iter()
            .filter(waits)
            .map(|port| port.name.as_str())
            .collect();
        self.activated.retain(|name| waiting.contains(name.as_str()));
        let wanted: HashSet<&str> = config.ports().iter().map(|port| port.name.as_str()).collect();
        let gone: Vec<Name> = self
            .ports
            .keys()
            .filter(|name| !wanted.contains(name.as_str()))
            .cloned()
            .collect();
        for name in gone {
            if let Some(slot) = self.ports.remove(&name) {
                if let Some(table) = self.switches.get_mut(&slot.place.switch) {
                    table.forget(slot.id);
                }
                self.stale.remove(&slot.id);
                self.retired.push(slot.id);
            }
        }
    }

    /// Says of each port what it is to the uplinks of its switch, and adds what stands for all of them.
    fn give_roles(&mut self, config: &ValidConfig, teams: &Teams, ports: &mut Vec<snapshot::Port>) {
        for (index, switch) in config.switches().iter().enumerate() {
            if switch.uplinks.is_empty() {
                continue;
            }
            let outside = match self.outsides.get(&switch.name) {
                Some(outside) => *outside,
                None => {
                    let name = OUTSIDE.parse::<Name>().expect("it is a name");
                    let id = self.number(&name);
                    self.outsides.insert(switch.name.clone(), id);
                    id
                }
            };
            let mut shares = HashMap::new();
            // A port of the configuration and its compiled form stand at the same place.
            for (port, compiled) in config.ports().iter().zip(ports.iter_mut()) {
                if port.switch != index {
                    continue;
                }
                compiled.role = if port.is_uplink() {
                    let number = switch.uplinks.iter().position(|name| *name == port.name);
                    Role::Uplink {
                        number: number.expect("it is one of its switch's") as u8,
                        outside,
                    }
                } else {
                    self.inside(port, switch, teams, &mut shares)
                };
            }
            ports.push(snapshot::Port {
                id: outside,
                switch: SwitchId(index as u16),
                enabled: true,
                // Where none of them is, each port says so.
                up: true,
                vlan: VlanPolicy::Trunk {
                    vlans: VlanSet::all(),
                    native: Some(Vid::UNAWARE),
                    tpid: Tpid::Dot1Q,
                },
                security: Rules::of_uplink().security,
                mac: None,
                isolated: false,
                mac_limit: None,
                dormant: false,
                role: Role::Outside,
                state: Arc::default(),
            });
        }
    }

    /// By which uplinks a port leaves, and which it hears. `known` are the shares of teams that were worked out.
    fn inside<'a>(
        &self,
        port: &'a EffectivePort,
        switch: &EffectiveSwitch,
        teams: &Teams,
        known: &mut HashMap<&'a Name, Option<Shares>>,
    ) -> Role {
        let team = port
            .group
            .as_ref()
            .and_then(|group| teams.team(&switch.name, group));
        let Some(team) = team else { return Role::default() };
        let id = |name: &Name| self.port_id(name.as_str());
        let set = |names: &mut dyn Iterator<Item = &Name>| -> UplinkSet {
            let number = |name: &Name| switch.uplinks.iter().position(|uplink| uplink == name);
            names.filter_map(number).map(|number| number as u8).collect()
        };
        let in_use = || team.active.iter();
        let work_out = || {
            let places: Vec<PortId> = team.places().into_iter().filter_map(id).collect();
            let fit: Vec<PortId> = in_use().filter_map(id).collect();
            Shares::new(&places, |uplink| fit.contains(&uplink))
        };
        let group = port.group.as_ref();
        let mut shares = || match group {
            Some(group) => known.entry(group).or_insert_with(work_out).clone(),
            None => None,
        };
        let own = group.and_then(|group| teams.uplink(&switch.name, group, port.name.as_str()));
        let (exit, groups) = match team.balance() {
            Balance::PortId | Balance::Explicit => (
                own.and_then(id).map_or(Exit::None, Exit::One),
                set(&mut own.into_iter()),
            ),
            // Of the copies that come in, one is taken.
            Balance::SourceMac => (
                shares().map_or(Exit::None, Exit::BySource),
                set(&mut in_use().take(1)),
            ),
            // The network outside sends one copy to the aggregate, by any of its links.
            Balance::IpHash | Balance::Lacp => (
                shares().map_or(Exit::None, Exit::ByFlow),
                set(&mut team.members()),
            ),
        };
        let unicast = set(&mut team.members());
        Role::Inside {
            exit,
            hears: Hears { unicast, groups },
        }
    }

    /// The switches with their MAC tables, new or of another size where the configuration says so.
    fn tables(&mut self, config: &ValidConfig) -> Vec<snapshot::Switch> {
        let mut switches = Vec::with_capacity(config.switches().len());
        for switch in config.switches() {
            let seed = table_seed(self.seed, &switch.name);
            let table = self.switches.entry(switch.name.clone()).or_insert_with(|| Table {
                fdb: Arc::new(Fdb::new(switch.mac_table_size, seed)),
                statics: HashMap::new(),
                resized: false,
            });
            if table.fdb.capacity() != switch.mac_table_size {
                table.fdb = Arc::new(table.fdb.resized(switch.mac_table_size));
                table.resized = true;
            }
            switches.push(snapshot::Switch {
                mtu: switch.mtu,
                ageing: switch.ageing,
                fdb: Arc::clone(&table.fdb),
            });
        }
        switches
    }

    /// Whether a port waits for its guest's announcement; behind another device than before is another guest.
    fn waits(&mut self, port: &EffectivePort) -> bool {
        let name = port.name.as_str();
        let Some(slot) = self.ports.get(&port.name) else {
            return self.is_dormant(port);
        };
        if port.rules.activation != Activation::Announce || slot.guest.0 != port.attachment {
            slot.state.await_announcement();
            self.activated.remove(name);
        } else if slot.state.has_announced() {
            self.activated.insert(name.to_owned());
        }
        self.is_dormant(port)
    }

    /// Whether the guest of a port that waits has announced itself since the last snapshot.
    pub fn has_woken(&self, port: &EffectivePort) -> bool {
        let state = || self.state(port.name.as_str());
        self.is_dormant(port) && state().is_some_and(|state| state.has_announced())
    }

    /// The number and the state of a port, new if it was not there; flushes what it had learnt where that no longer holds.
    fn port(&mut self, port: &EffectivePort, switch: &Name, up: bool) -> (PortId, Arc<PortState>) {
        let up = up && port.enabled;
        let place = Place {
            switch: switch.clone(),
            group: port.group.clone(),
            vlan: port.rules.vlan.clone(),
            device: port.attachment.clone(),
        };
        let guest = (port.attachment.clone(), port.mac);
        let Some(slot) = self.ports.get_mut(&port.name) else {
            let id = self.number(&port.name);
            let state = Arc::new(PortState::default());
            self.ports.insert(
                port.name.clone(),
                Slot {
                    id,
                    state: Arc::clone(&state),
                    place,
                    guest,
                    up,
                },
            );
            return (id, state);
        };
        if slot.place != place || (slot.up && !up) {
            if slot.place.switch != place.switch
                && let Some(table) = self.switches.get_mut(&slot.place.switch)
            {
                table.forget(slot.id);
            }
            if let Some(table) = self.switches.get(switch) {
                flush(&table.fdb, slot.id);
            }
            self.stale.insert(slot.id);
        }
        slot.place = place;
        slot.up = up;
        if slot.guest != guest {
            // A new state, not a reset one: workers still judge by the old until the new snapshot is theirs.
            slot.state = Arc::new(PortState::default());
            slot.guest = guest;
        }
        (slot.id, Arc::clone(&slot.state))
    }

    /// Makes the static entries of a switch's MAC table those of the configuration.
    fn synchronise(&mut self, switch: &Name, wanted: HashMap<(Vid, MacAddr), PortId>) {
        let Some(table) = self.switches.get_mut(switch) else {
            return;
        };
        for (entry, port) in &table.statics {
            if wanted.get(entry) != Some(port) {
                table.fdb.remove(entry.0, entry.1);
            }
        }
        for (entry, port) in &wanted {
            if (table.resized || table.statics.get(entry) != Some(port))
                && let Err(full) = table.fdb.insert_static(entry.0, entry.1, *port)
            {
                tracing::error!(%switch, mac = %entry.1, vlan = %entry.0, "static entry left out: {full}");
            }
        }
        table.statics = wanted;
        table.resized = false;
    }
}
