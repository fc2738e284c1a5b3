//! Telling the network outside by which uplink a station is reached.
//!
//! Switches outside learn where a station is from the frames it sends. When one leaves by another uplink than before (its own has failed, or is back), or has
//! just been attached, the switch sends a RARP request in its name there, as hypervisors do when a guest has moved. Of what a port had before, the snapshots tell:
//! what differs between two of them is announced, and nothing else.
//!
//! A failure may concern thousands of stations, so the frames go out a few at a time ([`BURST`], [`PAUSE`]). By which uplink is found when a frame is sent: a
//! station that waits and moves on meanwhile is announced once, where it is then, or not at all.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use datapath::Datapath;
use switch_core::addr::MacAddr;
use switch_core::announce::rarp;
use switch_core::id::PortId;
use switch_core::snapshot::{Port, Snapshot, Switch};
use switch_core::team::{Exit, Role};
use switch_core::time::Timestamp;
use switch_core::vid::Vid;
use tokio::time::Instant;

use crate::config::validate::EffectivePort;
use crate::teams::{self, Teams};

/// Frames that are sent at once.
const BURST: usize = 64;

/// And after a while the next ones: 6400 a second.
const PAUSE: Duration = Duration::from_millis(10);

/// The most stations that wait. More need longer than a network remembers where they are.
const MOST: usize = 1 << 20;

/// How long after its start the daemon takes a port that comes up for one that was there before.
const RESTART: Duration = Duration::from_secs(10);

/// A station behind a port.
type Station = (PortId, Vid, MacAddr);

/// What is still to be announced.
#[derive(Debug)]
pub(super) struct Announcer {
    queue: VecDeque<Station>,
    /// What is in the queue.
    queued: HashSet<Station>,
    next: Option<Instant>,
    /// Ports that were there before the daemon was started, with their uplinks: the network outside knows where they are.
    known: HashMap<String, String>,
    known_until: Instant,
    /// Frames sent by each uplink.
    sent: HashMap<PortId, u64>,
}

impl Announcer {
    /// Nothing is to be announced of what is as it was before a restart.
    pub(super) fn new(memory: &teams::Memory) -> Self {
        Self {
            queue: VecDeque::new(),
            queued: HashSet::new(),
            next: None,
            known: memory.uplinks().collect(),
            known_until: Instant::now() + RESTART,
            sent: HashMap::new(),
        }
    }

    /// When [`Announcer::send`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Announcements that were sent by an uplink.
    pub(super) fn sent(&self, uplink: PortId) -> u64 {
        self.sent.get(&uplink).copied().unwrap_or(0)
    }

    /// The numbers of these ports will be others'.
    pub(super) fn forget(&mut self, ports: &[PortId]) {
        if ports.is_empty() {
            return;
        }
        let ports: HashSet<PortId> = ports.iter().copied().collect();
        self.sent.retain(|port, _| !ports.contains(port));
        self.queued.retain(|(port, ..)| !ports.contains(port));
        self.queue.retain(|(port, ..)| !ports.contains(port));
    }

    /// Queues what is reached by another uplink since a snapshot was replaced by another. `wants` gives the port of a number if its team wants it.
    pub(super) fn compare<'a>(
        &mut self,
        before: &Snapshot,
        after: &Snapshot,
        datapath: &Datapath,
        wants: impl Fn(PortId) -> Option<&'a EffectivePort>,
        teams: &Teams,
    ) {
        let now = datapath.now();
        let mut changed: HashMap<PortId, &Port> = HashMap::new();
        for port in after.ports().filter(|port| exit(port).is_some()) {
            let old = before.port(port.id);
            if old.and_then(exit) == exit(port) {
                continue;
            }
            let Some(wanted) = wants(port.id) else { continue };
            let is_new = old.and_then(exit).is_none();
            if is_new {
                arrive(port, after, now);
            }
            if !(is_new && self.is_known(wanted, teams)) {
                changed.insert(port.id, port);
            }
        }
        let switches: HashSet<_> = changed.values().map(|port| port.switch).collect();
        for switch in switches {
            let Switch { fdb, ageing, .. } = after.switch(switch);
            for entry in fdb.entries(now, *ageing) {
                let Some(port) = changed.get(&entry.port) else {
                    continue;
                };
                let uplink = |port: &Port| exit(port)?.of_station(entry.mac.to_u64(), entry.vid.get());
                let (old, new) = (before.port(port.id).and_then(uplink), uplink(port));
                if new.is_some() && new != old {
                    self.add((port.id, entry.vid, entry.mac));
                }
            }
        }
    }

    /// Queues stations behind a port.
    pub(super) fn announce(&mut self, port: PortId, stations: &[(Vid, MacAddr)]) {
        for (vid, mac) in stations {
            self.add((port, *vid, *mac));
        }
    }

    fn add(&mut self, station: Station) {
        if self.queue.len() < MOST && self.queued.insert(station) {
            self.queue.push_back(station);
            self.next.get_or_insert_with(Instant::now);
        }
    }

    /// Whether a port that has come up leaves by the uplink that it had before the daemon was started. Says so once.
    fn is_known(&mut self, port: &EffectivePort, teams: &Teams) -> bool {
        if self.known_until <= Instant::now() {
            self.known.clear();
        }
        let name = port.name.as_str();
        let known = self.known.remove(name);
        known.is_some_and(|known| teams.memory().uplink(name) == Some(&known))
    }

    /// Sends what is due.
    pub(super) fn send(&mut self, datapath: &Datapath, now: Instant) {
        if self.next.is_none_or(|next| next > now) {
            return;
        }
        let (snapshot, time) = (datapath.snapshot(), datapath.now());
        let mut frames: HashMap<PortId, Vec<Vec<u8>>> = HashMap::new();
        let mut left = BURST;
        while left > 0
            && let Some(station) = self.queue.pop_front()
        {
            self.queued.remove(&station);
            let (port, vid, mac) = station;
            let Some(port) = snapshot.port(port) else { continue };
            let switch = snapshot.switch(port.switch);
            let is_here = switch.fdb.lookup(vid, mac, time, switch.ageing) == Some(port.id);
            let uplink = exit(port).and_then(|exit| exit.of_station(mac.to_u64(), vid.get()));
            if let Some(uplink) = uplink.filter(|_| is_here) {
                // It comes back by the other uplinks, and is no station outside.
                switch.fdb.hold(vid, mac, port.id, time);
                frames.entry(uplink).or_default().push(rarp(mac, vid));
                left -= 1;
            }
        }
        for (uplink, frames) in frames {
            let count = frames.len() as u64;
            if datapath.send(uplink, frames) {
                *self.sent.entry(uplink).or_default() += count;
            }
        }
        self.next = (!self.queue.is_empty()).then(|| now + PAUSE);
    }
}

/// A guest whose address is configured has arrived: it need not speak first to be reached. Where another port inside has the address, it has to.
fn arrive(port: &Port, snapshot: &Snapshot, now: Timestamp) {
    let (Some(vid), Some(mac)) = (port.vlan.untagged(), port.mac) else {
        return;
    };
    let Switch { fdb, ageing, .. } = snapshot.switch(port.switch);
    let at = fdb
        .lookup(vid, mac, now, *ageing)
        .and_then(|at| snapshot.port(at));
    if at.is_none_or(|at| at.role == Role::Outside) {
        fdb.place(vid, mac, port.id, now, *ageing, port.mac_limit);
    }
}

/// By which uplink a port leaves, if it is inside and carries frames.
fn exit(port: &Port) -> Option<&Exit> {
    match &port.role {
        Role::Inside { exit, .. } if port.up && port.enabled && *exit != Exit::None => Some(exit),
        _ => None,
    }
}
