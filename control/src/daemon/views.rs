//! What the API shows: each view is put together at the moment it is asked for, from the configuration in force,
//! the state of the ports and the counters of the datapath.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use datapath::{Capture, CaptureFilter, DirectionStats};
use serde_json::Value;
use switch_core::addr::MacAddr;
use switch_core::fdb::{Filter, Kind as FdbKind};
use switch_core::id::PortId;
use switch_core::verdict::DropReason;
use switch_core::vid::Vid;

use super::edit::not_found;
use super::ports::Runtime;
use super::{Daemon, Failure};
use crate::api::model::{
    ConfigDocument, Direction, Flushed, GroupRow, HistoryRow, MacFlush, MacRow, PortDetail, PortRow,
    PortState, PortStats, QueueRow, TeamPort, TeamRow, TraceReport, TraceRequest, Tree, TreeGroup,
    TreeSwitch, UplinkDetail, UplinkRow, Version, WorkerRow,
};
use crate::config::model::Balance;
use crate::config::text;
use crate::config::units::Name;
use crate::config::validate::{EffectivePort, ValidConfig};
use crate::events::rfc3339;
use crate::lacp::Aggregate;
use crate::metrics::{PortSample, Sample, SwitchSample};
use crate::trace::{Names, trace};

/// Longest frame that can be traced, octets: a super-frame and its headers.
const LONGEST_FRAME: usize = 65_536 + 256;

/// A frame that cannot be traced.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// Not octets in hexadecimal.
    #[error("`frame` is not hexadecimal: pairs of the digits 0-9 and a-f are expected")]
    Hex,
    /// Longer than any frame.
    #[error("`frame` is longer than {LONGEST_FRAME} octets")]
    TooLong,
}

impl Daemon {
    /// `GET /v1/version`
    pub fn version(&self) -> Version {
        Version {
            name: "vswitchd".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            generation: self.generation,
            pid: std::process::id(),
            confirm: self.pending(),
        }
    }

    /// `GET /v1/config`
    pub fn config_document(&self) -> ConfigDocument {
        ConfigDocument {
            generation: self.generation,
            config: self.config.config().to_value(),
        }
    }

    /// The configuration in force.
    pub fn config(&self) -> &ValidConfig {
        &self.config
    }

    /// `GET /v1/show`
    pub fn show(&self) -> Tree {
        let switches = self.config.switches().iter().enumerate().map(|(index, switch)| {
            let fdb = self.registry.fdb(switch.name.as_str());
            let groups = switch.groups.iter().map(|group| TreeGroup {
                name: group.name.as_str().to_owned(),
                vlan: group.rules.vlan.to_string(),
                ports: self
                    .config
                    .ports()
                    .iter()
                    .filter(|port| port.switch == index && port.group.as_ref() == Some(&group.name))
                    .map(|port| self.port_row(port))
                    .collect(),
            });
            TreeSwitch {
                name: switch.name.as_str().to_owned(),
                mtu: switch.mtu,
                macs: fdb.map_or(0, |fdb| fdb.counters().entries),
                mac_table_size: switch.mac_table_size as u64,
                uplinks: self.uplinks_of(index).map(|port| self.uplink_row(port)).collect(),
                groups: groups.collect(),
            }
        });
        Tree {
            generation: self.generation,
            switches: switches.collect(),
        }
    }

    /// `GET /v1/ports`
    pub fn port_rows(&self) -> Vec<PortRow> {
        self.config
            .ports()
            .iter()
            .map(|port| self.port_row(port))
            .collect()
    }

    fn port_row(&self, port: &EffectivePort) -> PortRow {
        let name = port.name.as_str();
        let runtime = self.ports.get(name);
        let dormant = self.registry.is_dormant(port);
        let up = port.enabled && runtime.is_some_and(Runtime::is_up) && !dormant;
        let guest = self.guest_mac(port);
        // An address that the policy refuses is the guest's, and not the port's.
        let refuses = !port.rules.security.mac_changes;
        PortRow {
            name: name.to_owned(),
            switch: self.config.switch_of(port).name.as_str().to_owned(),
            group: port.group.as_ref().map(|group| group.as_str().to_owned()),
            kind: port.attachment.kind().to_owned(),
            device: port.attachment.device().to_owned(),
            state: if up { PortState::Up } else { PortState::Down },
            reason: runtime
                .and_then(Runtime::reason)
                .or_else(|| dormant.then(waits_for_guest)),
            mac: port.mac.filter(|_| refuses).or(guest).or(port.mac),
            vlan: port.rules.vlan.to_string(),
        }
    }

    /// The address that the guest behind a port uses, as far as it is known.
    fn guest_mac(&self, port: &EffectivePort) -> Option<MacAddr> {
        self.registry.state(port.name.as_str())?.effective()
    }

    /// `GET /v1/ports/NAME`
    pub fn port_detail(&self, name: &str) -> Result<PortDetail, Failure> {
        let port = self.known_port(name)?;
        let id = self.registry.port_id(name);
        let switch = self.config.switch_of(port);
        let macs = self.registry.fdb(switch.name.as_str()).map_or(0, |fdb| {
            fdb.entries(self.datapath.now(), switch.ageing)
                .iter()
                .filter(|entry| Some(entry.port) == id)
                .count()
        });
        let row = self.port_row(port);
        Ok(PortDetail {
            guest_mac: self.guest_mac(port).filter(|mac| Some(*mac) != row.mac),
            row,
            driver: self.ports.get(name).and_then(Runtime::driver).map(str::to_owned),
            uplink: self.uplink_of(port).map(|uplink| uplink.as_str().to_owned()),
            settings: port.settings(),
            macs,
            queues: id.map(|id| self.queue_rows(id)).unwrap_or_default(),
            stats: self.stats_of(name),
        })
    }

    fn queue_rows(&self, port: PortId) -> Vec<QueueRow> {
        let queues = self.datapath.queue_stats(port).into_iter().enumerate();
        queues
            .map(|(queue, stats)| QueueRow {
                queue,
                worker: stats.worker,
                in_use: stats.live,
                frames: stats.frames,
            })
            .collect()
    }

    /// `GET /v1/workers`
    pub fn worker_rows(&self) -> Vec<WorkerRow> {
        let mut queues = vec![0; self.datapath.workers()];
        for port in self.config.ports() {
            let id = self.registry.port_id(port.name.as_str());
            for queue in id.into_iter().flat_map(|id| self.datapath.queue_stats(id)) {
                queues[queue.worker] += 1;
            }
        }
        let workers = self.datapath.worker_stats().into_iter().zip(queues).enumerate();
        workers
            .map(|(worker, (stats, queues))| WorkerRow {
                worker,
                queues,
                busy: stats.busy_nanos,
                total: stats.total_nanos,
                frames: stats.frames,
                handed_over: stats.handed_over,
            })
            .collect()
    }

    /// `GET /v1/stats`
    pub fn stats(&self) -> Vec<PortStats> {
        self.config
            .ports()
            .iter()
            .map(|port| self.stats_of(port.name.as_str()))
            .collect()
    }

    /// `GET /v1/ports/NAME/stats`
    pub fn port_stats(&self, name: &str) -> Result<PortStats, Failure> {
        let port = self.known_port(name)?;
        Ok(self.stats_of(port.name.as_str()))
    }

    pub(super) fn stats_of(&self, name: &str) -> PortStats {
        let Some(id) = self.registry.port_id(name) else {
            return PortStats {
                name: name.to_owned(),
                ..PortStats::default()
            };
        };
        let stats = self.imports.total(name, self.datapath.port_stats(id));
        let drops: BTreeMap<String, u64> = DropReason::ALL
            .iter()
            .map(|reason| (reason.name().to_owned(), stats.drops[reason.index()]))
            .filter(|(_, count)| *count > 0)
            .collect();
        PortStats {
            name: name.to_owned(),
            receive: direction(&stats.receive),
            transmit: direction(&stats.transmit),
            drops,
            kernel_drops: stats.kernel_drops,
        }
    }

    /// `GET /v1/groups`
    pub fn group_rows(&self) -> Vec<GroupRow> {
        let mut rows = Vec::new();
        for (index, switch) in self.config.switches().iter().enumerate() {
            for group in &switch.groups {
                let ports = self.config.ports().iter();
                rows.push(GroupRow {
                    name: group.name.as_str().to_owned(),
                    switch: switch.name.as_str().to_owned(),
                    vlan: group.rules.vlan.to_string(),
                    ports: ports
                        .filter(|port| port.switch == index && port.group.as_ref() == Some(&group.name))
                        .map(|port| port.name.as_str().to_owned())
                        .collect(),
                    settings: group.settings(),
                });
            }
        }
        rows
    }

    /// `GET /v1/groups/NAME`; `SWITCH/NAME` where two switches have groups of one name.
    pub fn group_row(&self, name: &str) -> Result<GroupRow, Failure> {
        let rows = self.group_rows();
        let named = |row: &&GroupRow| row.name == name || format!("{}/{}", row.switch, row.name) == name;
        let found: Vec<&GroupRow> = rows.iter().filter(named).collect();
        match found[..] {
            [row] => Ok(row.clone()),
            [] => Err(not_found(
                "port group",
                name,
                rows.iter().map(|row| row.name.as_str()),
            )),
            _ => Err(Failure::BadRequest(format!(
                "several switches have a port group `{name}`; name it as SWITCH/{name}"
            ))),
        }
    }

    pub(super) fn uplinks_of(&self, switch: usize) -> impl Iterator<Item = &EffectivePort> {
        let ports = self.config.ports().iter();
        ports.filter(move |port| port.switch == switch && port.is_uplink())
    }

    /// `GET /v1/uplinks`
    pub fn uplink_rows(&self) -> Vec<UplinkRow> {
        let ports = self.config.ports().iter().filter(|port| port.is_uplink());
        ports.map(|port| self.uplink_row(port)).collect()
    }

    fn uplink_row(&self, port: &EffectivePort) -> UplinkRow {
        let row = self.port_row(port);
        let switch = self.config.switch_of(port);
        let teams = switch
            .groups
            .iter()
            .filter_map(|group| self.teams.team(&switch.name, &group.name));
        let leaves = |other: &&EffectivePort| self.uplink_of(other) == Some(&port.name);
        UplinkRow {
            active: teams.into_iter().any(|team| team.active.contains(&port.name)),
            ports: self.config.ports().iter().filter(leaves).count(),
            announced: self
                .registry
                .port_id(&row.name)
                .map_or(0, |id| self.announcer.sent(id)),
            lacp: self
                .aggregates
                .get(&switch.name)
                .and_then(|aggregate| aggregate.describe(&row.name)),
            neighbour: None,
            name: row.name,
            switch: row.switch,
            device: row.device,
            state: row.state,
            reason: row.reason,
        }
    }

    /// The uplink by which all frames of a port leave.
    fn uplink_of(&self, port: &EffectivePort) -> Option<&Name> {
        let (switch, group) = (&self.config.switch_of(port).name, port.group.as_ref()?);
        let balance = self.teams.team(switch, group)?.balance();
        let uplink = self.teams.uplink(switch, group, port.name.as_str());
        uplink.filter(|_| matches!(balance, Balance::PortId | Balance::Explicit))
    }

    /// `GET /v1/uplinks/NAME`
    pub fn uplink_detail(&self, name: &str) -> Result<UplinkDetail, Failure> {
        let known = self.config.port(name).filter(|port| port.is_uplink());
        let Some(port) = known else {
            let uplinks = self.config.ports().iter().filter(|port| port.is_uplink());
            return Err(not_found("uplink", name, uplinks.map(|port| port.name.as_str())));
        };
        let id = self.registry.port_id(name);
        Ok(UplinkDetail {
            row: self.uplink_row(port),
            driver: self.ports.get(name).and_then(Runtime::driver).map(str::to_owned),
            settings: port.settings(),
            queues: id.map(|id| self.queue_rows(id)).unwrap_or_default(),
            stats: self.stats_of(name),
        })
    }

    /// `GET /v1/teams`
    pub fn team_rows(&self) -> Vec<TeamRow> {
        let names = |names: &[Name]| names.iter().map(|name| name.as_str().to_owned()).collect();
        let mut rows = Vec::new();
        for (index, switch) in self.config.switches().iter().enumerate() {
            for group in &switch.groups {
                let Some(team) = self.teams.team(&switch.name, &group.name) else {
                    continue;
                };
                let own =
                    |port: &&EffectivePort| port.switch == index && port.group.as_ref() == Some(&group.name);
                let ports = self.config.ports().iter().filter(own).map(|port| TeamPort {
                    port: port.name.as_str().to_owned(),
                    uplink: self.uplink_of(port).map(|uplink| uplink.as_str().to_owned()),
                });
                let settings = group.teaming.settings();
                rows.push(TeamRow {
                    switch: switch.name.as_str().to_owned(),
                    group: group.name.as_str().to_owned(),
                    balance: settings["balance"].as_str().unwrap_or_default().to_owned(),
                    active: names(&team.active),
                    standby: names(&team.standby),
                    failed: names(&team.failed),
                    partner: self
                        .aggregates
                        .get(&switch.name)
                        .and_then(Aggregate::partner)
                        .map(|partner| format!("{} key {}", partner.system, partner.key)),
                    ports: ports.collect(),
                    settings,
                });
            }
        }
        rows
    }

    /// `GET /v1/teams/GROUP`; `SWITCH/GROUP` where two switches have groups of one name.
    pub fn team_row(&self, name: &str) -> Result<TeamRow, Failure> {
        let rows = self.team_rows();
        let named = |row: &&TeamRow| row.group == name || format!("{}/{}", row.switch, row.group) == name;
        let found: Vec<&TeamRow> = rows.iter().filter(named).collect();
        match found[..] {
            [row] => Ok(row.clone()),
            [] if self.group_row(name).is_ok() => Err(Failure::NotFound(format!(
                "the switch of port group `{name}` has no uplinks; name its devices under `uplinks` in the configuration"
            ))),
            [] => Err(not_found(
                "port group",
                name,
                rows.iter().map(|row| row.group.as_str()),
            )),
            _ => Err(Failure::BadRequest(format!(
                "several switches have a port group `{name}`; name it as SWITCH/{name}"
            ))),
        }
    }

    /// `GET /v1/macs`, by VLAN and address.
    pub fn mac_rows(&self) -> Vec<MacRow> {
        let now = self.datapath.now();
        let mut rows = Vec::new();
        for switch in self.config.switches() {
            let Some(fdb) = self.registry.fdb(switch.name.as_str()) else {
                continue;
            };
            let mut entries = fdb.entries(now, switch.ageing);
            entries.sort_by_key(|entry| (entry.vid, entry.mac));
            rows.extend(entries.into_iter().map(|entry| {
                MacRow {
                    mac: entry.mac,
                    vlan: entry.vid.get(),
                    port: self.port_name(entry.port),
                    switch: switch.name.as_str().to_owned(),
                    kind: match entry.kind {
                        FdbKind::Dynamic => "dynamic",
                        FdbKind::Static => "static",
                    }
                    .to_owned(),
                    age: (entry.kind == FdbKind::Dynamic).then_some(entry.age.as_secs()),
                }
            }));
        }
        rows
    }

    /// The port that a request is limited to, if it names one.
    fn wanted_port(&self, name: Option<&str>) -> Result<Option<PortId>, Failure> {
        let Some(name) = name else { return Ok(None) };
        self.known_port(name)?;
        Ok(self.registry.port_id(name))
    }

    /// `POST /v1/macs/flush`
    pub fn flush_macs(&self, flush: &MacFlush) -> Result<Flushed, Failure> {
        let port = self.wanted_port(flush.port.as_deref())?;
        let vid = match flush.vlan {
            Some(vlan) => Some(Vid::try_from(vlan).map_err(|error| Failure::BadRequest(error.to_string()))?),
            None => None,
        };
        let filter = Filter { port, vid };
        let fdbs = self
            .config
            .switches()
            .iter()
            .filter_map(|switch| self.registry.fdb(switch.name.as_str()));
        Ok(Flushed {
            removed: fdbs.map(|fdb| fdb.flush(filter)).sum(),
        })
    }

    /// `GET /v1/history`, newest first; in front what waits for its confirmation.
    pub fn history(&self) -> Result<Vec<HistoryRow>, Failure> {
        let current = self.pending.is_none().then_some(self.generation);
        let stored = self.store.history().map_err(Failure::Read)?;
        let stored = stored.into_iter().map(|row| HistoryRow {
            time: rfc3339(UNIX_EPOCH + Duration::from_millis(row.unix_millis)),
            current: Some(row.generation) == current,
            generation: row.generation,
            author: row.author,
            comment: row.comment,
            changes: row.changes,
            pending: false,
        });
        Ok(self.pending_row().into_iter().chain(stored).collect())
    }

    /// `GET /v1/history/GENERATION`
    pub fn history_entry(&self, generation: u64) -> Result<ConfigDocument, Failure> {
        if self.pending.is_some() && generation == self.generation {
            return Ok(self.config_document());
        }
        Ok(ConfigDocument {
            generation,
            config: self.stored_config(generation)?,
        })
    }

    fn stored_config(&self, generation: u64) -> Result<Value, Failure> {
        match self.store.get(generation).map_err(Failure::Read)? {
            Some(entry) => Ok(entry.config),
            None => Err(Failure::NotFound(format!(
                "there is no generation {generation}; `vswitchctl history` lists what is kept"
            ))),
        }
    }

    /// A right configuration from the history.
    pub(super) fn stored(&self, generation: u64) -> Result<ValidConfig, Failure> {
        text::load_value(&self.stored_config(generation)?).map_err(Failure::Invalid)
    }

    /// `POST /v1/trace`
    pub fn trace(&self, request: &TraceRequest) -> Result<TraceReport, Failure> {
        let frame = unhex(&request.frame).map_err(|error| Failure::BadRequest(error.to_string()))?;
        self.known_port(&request.port)?;
        let snapshot = self.datapath.snapshot();
        let id = self.registry.port_id(&request.port);
        let Some(port) = id.and_then(|id| snapshot.port(id)) else {
            return Err(Failure::NotFound(format!(
                "port `{}` is not in force yet",
                request.port
            )));
        };
        Ok(trace(&snapshot, self.datapath.now(), port, &frame, self))
    }

    /// `GET /v1/capture`
    pub fn capture(&self, port: Option<&str>, drops_only: bool, snap_len: u32) -> Result<Capture, Failure> {
        let port = self.wanted_port(port)?;
        Ok(self.datapath.capture(CaptureFilter {
            port,
            drops_only,
            snap_len,
        }))
    }

    /// What a scrape of `/metrics` shows.
    pub fn sample(&self) -> Sample {
        let ports = self.config.ports().iter().filter_map(|port| {
            let name = port.name.as_str();
            let id = self.registry.port_id(name)?;
            Some(PortSample {
                switch: self.config.switch_of(port).name.as_str().to_owned(),
                group: port
                    .group
                    .as_ref()
                    .map_or_else(String::new, |group| group.as_str().to_owned()),
                uplink: port.is_uplink().then(|| self.uplink_row(port)),
                port: name.to_owned(),
                up: port.enabled
                    && self.ports.get(name).is_some_and(Runtime::is_up)
                    && !self.registry.is_dormant(port),
                stats: self.imports.total(name, self.datapath.port_stats(id)),
                queues: self
                    .datapath
                    .queue_stats(id)
                    .iter()
                    .map(|queue| queue.worker)
                    .collect(),
            })
        });
        let switches = self.config.switches().iter().filter_map(|switch| {
            let fdb = self.registry.fdb(switch.name.as_str())?;
            Some(SwitchSample {
                switch: switch.name.as_str().to_owned(),
                macs: fdb.counters(),
                capacity: fdb.capacity(),
            })
        });
        Sample {
            ports: ports.collect(),
            switches: switches.collect(),
            workers: self.datapath.worker_stats(),
            generation: self.generation,
            confirm_pending: self.pending.is_some(),
            applies: self.apply_counts(),
            lost_events: self.datapath.lost_events(),
            captures: self.datapath.captures(),
        }
    }

    /// How an unconfirmed configuration would stand in the history.
    fn pending_row(&self) -> Option<HistoryRow> {
        let pending = self.pending.as_ref()?;
        Some(HistoryRow {
            generation: self.generation,
            time: rfc3339(pending.since),
            author: pending.request.author.clone(),
            comment: pending.request.comment.clone(),
            changes: pending.changes,
            current: true,
            pending: true,
        })
    }
}

impl Names for Daemon {
    fn port(&self, port: PortId) -> String {
        self.port_name(port)
    }

    fn group(&self, port: PortId) -> String {
        let name = self.port_name(port);
        match self.config.port(&name) {
            Some(EffectivePort {
                group: Some(group), ..
            }) => group.as_str().to_owned(),
            Some(_) => "of uplinks".to_owned(),
            None => "that is gone".to_owned(),
        }
    }
}

fn waits_for_guest() -> String {
    "waits for its guest to announce itself (`activation: announce`); `vswitchctl port set NAME activation=now` ends the wait".to_owned()
}

fn direction(stats: &DirectionStats) -> Direction {
    Direction {
        packets: stats.packets,
        bytes: stats.bytes,
        unicast: stats.unicast,
        multicast: stats.multicast,
        broadcast: stats.broadcast,
    }
}

/// Octets in hexadecimal; white space and colons between them are let pass.
fn unhex(text: &str) -> Result<Vec<u8>, TraceError> {
    let mut octets = Vec::with_capacity(text.len() / 2);
    let mut high = None;
    for character in text.chars() {
        if character.is_ascii_whitespace() || character == ':' {
            if high.is_some() {
                return Err(TraceError::Hex);
            }
            continue;
        }
        let digit = character.to_digit(16).ok_or(TraceError::Hex)? as u8;
        match high.take() {
            None => high = Some(digit),
            Some(first) => octets.push(first << 4 | digit),
        }
        if octets.len() > LONGEST_FRAME {
            return Err(TraceError::TooLong);
        }
    }
    match high {
        None => Ok(octets),
        Some(_) => Err(TraceError::Hex),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_are_read_in_pairs() {
        assert_eq!(unhex("ff:00 1A\n2b").unwrap(), [0xff, 0, 0x1a, 0x2b]);
        for bad in ["f", "f f0", "zz", "0:1"] {
            assert!(unhex(bad).is_err(), "{bad}");
        }
        assert!(unhex(&"00".repeat(LONGEST_FRAME + 1)).is_err());
    }
}
