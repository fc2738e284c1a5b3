//! Telling the network outside by which uplink a station is reached.
//!
//! Switches outside learn where a station is from the frames it sends. When one leaves by another uplink than before (its own has failed, or is back), or has
//! just been attached, the switch sends a RARP request in its name there, as hypervisors do when a guest has moved. Of what a port had before, the snapshots tell:
//! what differs between two of them is announced, and nothing else.
//!
//! A failure may concern thousands of stations, so the frames go out a few at a time ([`BURST`], [`PAUSE`]).

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use datapath::Datapath;
use switch_core::addr::MacAddr;
use switch_core::announce::rarp;
use switch_core::fdb::Entry;
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

/// What is still to be announced.
#[derive(Debug, Default)]
pub(super) struct Announcer {
    queue: VecDeque<(PortId, Vec<u8>)>,
    next: Option<Instant>,
    /// Ports that were there before the daemon was started, with their uplinks: the network outside knows where they are.
    known: HashMap<String, String>,
    /// Frames sent by each uplink.
    sent: HashMap<PortId, u64>,
}

impl Announcer {
    /// Nothing is to be announced of what is as it was before a restart.
    pub(super) fn new(memory: &teams::Memory) -> Self {
        Self {
            known: memory.uplinks().collect(),
            ..Self::default()
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
        let differs = |port: &&Port| before.port(port.id).is_none_or(|old| exit(old) != exit(port));
        let changed: Vec<&Port> = after.ports().filter(differs).filter(|port| port.up).collect();
        let mut stations: BTreeSet<(PortId, Vid, MacAddr)> = BTreeSet::new();
        for switch in changed.iter().map(|port| port.switch).collect::<BTreeSet<_>>() {
            let own: HashMap<PortId, &Port> = changed
                .iter()
                .filter(|port| port.switch == switch)
                .filter(|port| wants(port.id).is_some_and(|wants| !self.is_known(wants, teams)))
                .map(|port| (port.id, *port))
                .collect();
            let switch = after.switch(switch);
            for port in own.values() {
                if let (Some(vid), Some(mac)) = (port.vlan.untagged(), port.mac) {
                    // It may not have spoken yet, and is not to be taken for a station outside when what announces it comes back.
                    switch
                        .fdb
                        .learn(vid, mac, port.id, now, switch.ageing, port.mac_limit);
                }
            }
            for entry in switch.fdb.entries(now, switch.ageing) {
                let Entry {
                    vid, mac, port: id, ..
                } = entry;
                let Some(port) = own.get(&id) else { continue };
                let uplink =
                    |port: &Port| exit(port).and_then(|exit| exit.of_station(mac.to_u64(), vid.get()));
                let old = before.port(id).and_then(uplink);
                if let Some(uplink) = uplink(port).filter(|uplink| Some(*uplink) != old) {
                    // It comes back by the other uplinks, and is no station outside.
                    switch.fdb.note_announced(vid, mac, id, now);
                    stations.insert((uplink, vid, mac));
                }
            }
        }
        let frames = stations
            .into_iter()
            .map(|(uplink, vid, mac)| (uplink, rarp(mac, vid)));
        self.queue.extend(frames);
        if !self.queue.is_empty() && self.next.is_none() {
            self.next = Some(Instant::now());
        }
    }

    /// Queues stations of a port, each at its uplink.
    pub(super) fn announce(
        &mut self,
        port: &Port,
        switch: &Switch,
        stations: &[(Vid, MacAddr)],
        now: Timestamp,
    ) {
        let Some(exit) = exit(port) else { return };
        for (vid, mac) in stations {
            if let Some(uplink) = exit.of_station(mac.to_u64(), vid.get()) {
                switch.fdb.note_announced(*vid, *mac, port.id, now);
                self.queue.push_back((uplink, rarp(*mac, *vid)));
            }
        }
        if !self.queue.is_empty() && self.next.is_none() {
            self.next = Some(Instant::now());
        }
    }

    /// Whether a port that has come up leaves by the uplink that it had before the daemon was started. Says so once.
    fn is_known(&mut self, port: &EffectivePort, teams: &Teams) -> bool {
        let name = port.name.as_str();
        let known = self.known.remove(name);
        known.is_some_and(|known| teams.memory().uplink(name) == Some(&known))
    }

    /// Sends what is due.
    pub(super) fn send(&mut self, datapath: &Datapath, now: Instant) {
        if self.next.is_none_or(|next| next > now) {
            return;
        }
        let mut frames: HashMap<PortId, Vec<Vec<u8>>> = HashMap::new();
        for (uplink, frame) in self.queue.drain(..self.queue.len().min(BURST)) {
            *self.sent.entry(uplink).or_default() += 1;
            frames.entry(uplink).or_default().push(frame);
        }
        for (uplink, frames) in frames {
            datapath.send(uplink, frames);
        }
        self.next = (!self.queue.is_empty()).then(|| now + PAUSE);
    }
}

/// By which uplink a port leaves, if it is inside and carries frames.
fn exit(port: &Port) -> Option<&Exit> {
    match &port.role {
        Role::Inside { exit, .. } if port.up && port.enabled && *exit != Exit::None => Some(exit),
        _ => None,
    }
}
