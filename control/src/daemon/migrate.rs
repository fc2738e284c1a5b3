//! What of a port goes with its guest to another host: `port export` there, `port import` here.
//!
//! A document may be imported before the guest has arrived, and again when it has: what it says is taken once more, and nothing is counted twice. What the
//! guest has shown of itself (its address, those behind it) is taken up when the port carries frames, for until then the guest is still elsewhere.

use std::collections::HashMap;
use std::time::SystemTime;

use datapath::PortStats;
use serde_json::Value;
use switch_core::fdb::Kind;
use switch_core::verdict::DropReason;
use switch_core::vid::Vid;

use super::{Daemon, Failure};
use crate::api::model::{Direction, ImportReport, PortDocument, PortMac};
use crate::config::validate::EffectivePort;
use crate::events::{Kind as EventKind, rfc3339};

/// Version of the document.
const VERSION: u32 = 1;

/// The most addresses that a document may have: as many as a MAC table.
const MAX_MACS: usize = switch_core::fdb::Fdb::MAX_CAPACITY;

/// Settings that decide what a guest may do: where they differ, it is not the same port.
const POLICY: [&str; 6] = ["vlan", "security", "mac-limit", "isolated", "mac", "enabled"];

/// What was imported for the ports.
#[derive(Debug, Default)]
pub(super) struct Imports(HashMap<String, Import>);

#[derive(Debug)]
struct Import {
    /// What was counted elsewhere.
    counters: PortStats,
    /// What was counted here before, which the document has already if the guest was here before.
    before: PortStats,
    /// The guest has left again since: the next import is of its return.
    left: bool,
    /// What the guest has shown of itself, until it is taken up.
    document: Option<PortDocument>,
}

impl Imports {
    /// The counters of a port, with what was counted elsewhere.
    pub(super) fn total(&self, port: &str, mut here: PortStats) -> PortStats {
        let Some(Import {
            counters: elsewhere,
            before,
            ..
        }) = self.0.get(port)
        else {
            return here;
        };
        let add = |here: &mut u64, elsewhere: u64, before: u64| {
            *here = here.saturating_sub(before).saturating_add(elsewhere);
        };
        let directions = [
            (&mut here.receive, &elsewhere.receive, &before.receive),
            (&mut here.transmit, &elsewhere.transmit, &before.transmit),
        ];
        for (here, elsewhere, before) in directions {
            add(&mut here.packets, elsewhere.packets, before.packets);
            add(&mut here.bytes, elsewhere.bytes, before.bytes);
            add(&mut here.unicast, elsewhere.unicast, before.unicast);
            add(&mut here.multicast, elsewhere.multicast, before.multicast);
            add(&mut here.broadcast, elsewhere.broadcast, before.broadcast);
        }
        for (index, here) in here.drops.iter_mut().enumerate() {
            add(here, elsewhere.drops[index], before.drops[index]);
        }
        add(
            &mut here.kernel_drops,
            elsewhere.kernel_drops,
            before.kernel_drops,
        );
        here
    }

    /// Forgets the ports that are there no more.
    pub(super) fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| is_there(name));
    }
}

impl Daemon {
    /// `GET /v1/ports/NAME/export`
    pub fn export_port(&mut self, name: &str) -> Result<PortDocument, Failure> {
        if let Some(import) = self.imports.0.get_mut(name) {
            import.left = true;
        }
        let port = self.guest_port(name)?;
        let switch = self.config.switch_of(port);
        let id = self.registry.port_id(name);
        let fdb = self.registry.fdb(switch.name.as_str());
        let entries = fdb.map(|fdb| fdb.entries(self.datapath.now(), switch.ageing));
        let own = entries.into_iter().flatten();
        let own = own.filter(|entry| Some(entry.port) == id && entry.kind == Kind::Dynamic);
        Ok(PortDocument {
            version: VERSION,
            name: name.to_owned(),
            switch: switch.name.as_str().to_owned(),
            group: port.group.as_ref().map(|group| group.as_str().to_owned()),
            exported: rfc3339(SystemTime::now()),
            settings: port.settings(),
            guest_mac: self.registry.state(name).and_then(|state| state.effective()),
            macs: own
                .map(|entry| PortMac {
                    mac: entry.mac,
                    vlan: entry.vid.get(),
                })
                .collect(),
            counters: self.stats_of(name),
            addresses: Vec::new(),
            multicast_groups: Vec::new(),
            shaper: None,
            connections: Vec::new(),
            nat: Vec::new(),
            leases: Vec::new(),
        })
    }

    /// `POST /v1/ports/NAME/import`
    pub fn import_port(&mut self, name: &str, document: PortDocument) -> Result<ImportReport, Failure> {
        let port = self.guest_port(name)?;
        if document.version != VERSION {
            return Err(Failure::BadRequest(format!(
                "the document is of version {}, and this vswitchd knows {VERSION}",
                document.version
            )));
        }
        if document.macs.len() > MAX_MACS {
            return Err(Failure::BadRequest(format!(
                "the document has {} MAC addresses; at most {MAX_MACS} are taken",
                document.macs.len()
            )));
        }
        let warnings = differences(port, &document);
        let macs = document.macs.len();
        let here = self.registry.port_id(name).map(|id| self.datapath.port_stats(id));
        let known = self.imports.0.get(name).filter(|known| !known.left);
        let import = Import {
            counters: counters(&document),
            before: known.map_or(here.unwrap_or_default(), |known| known.before.clone()),
            left: false,
            document: Some(document),
        };
        self.imports.0.insert(name.to_owned(), import);
        let message = format!("the state of port {name} was imported: {macs} MAC addresses and the counters");
        self.tell_of(EventKind::Imported, Some(name), message);
        let now = self.take_up_imports();
        Ok(ImportReport {
            port: name.to_owned(),
            macs,
            taken_up: now.iter().any(|port| port == name),
            warnings,
        })
    }

    /// A port that may have a guest.
    fn guest_port(&self, name: &str) -> Result<&EffectivePort, Failure> {
        let port = self.known_port(name)?;
        if port.is_uplink() {
            return Err(Failure::BadRequest(format!(
                "`{name}` is an uplink, and no guest moves with it; name a port"
            )));
        }
        Ok(port)
    }

    /// Takes up what guests have shown of themselves elsewhere, of ports that carry frames now. Returns their names.
    pub(super) fn take_up_imports(&mut self) -> Vec<String> {
        let snapshot = self.datapath.snapshot();
        let mut taken = Vec::new();
        for (name, import) in &mut self.imports.0 {
            let id = self.registry.port_id(name);
            let Some(port) = id
                .and_then(|id| snapshot.port(id))
                .filter(|port| port.up && port.enabled)
            else {
                continue;
            };
            let Some(document) = import.document.take() else {
                continue;
            };
            if let (None, Some(mac), Some(state)) = (port.mac, document.guest_mac, self.registry.state(name))
            {
                state.restore(mac);
            }
            let switch = snapshot.switch(port.switch);
            let now = self.datapath.now();
            let known = document
                .macs
                .iter()
                .filter_map(|known| Some((Vid::new(known.vlan)?, known.mac)));
            let stations: Vec<_> = known
                .filter(|(vid, mac)| mac.is_station() && port.vlan.carries(*vid))
                .collect();
            for (vid, mac) in &stations {
                switch
                    .fdb
                    .place(*vid, *mac, port.id, now, switch.ageing, port.mac_limit);
            }
            self.announcer.announce(port.id, &stations);
            taken.push(name.clone());
        }
        if !taken.is_empty() {
            self.announcer.send(&self.datapath, tokio::time::Instant::now());
            self.wake.notify_one();
        }
        taken
    }
}

/// What a guest may do here and not where it comes from, or the other way round.
fn differences(port: &EffectivePort, document: &PortDocument) -> Vec<String> {
    let here = port.settings();
    let null = Value::Null;
    let of = |settings: &Value, key: &str| settings.get(key).unwrap_or(&null).clone();
    POLICY
        .iter()
        .map(|key| (key, of(&here, key), of(&document.settings, key)))
        .filter(|(_, here, there)| here != there)
        .map(|(key, here, there)| {
            format!("`{key}` is {here} here, and was {there} where the port comes from")
        })
        .collect()
}

/// The counters of a document. Reasons that this version does not know are left out.
fn counters(document: &PortDocument) -> PortStats {
    let direction = |from: &Direction| datapath::DirectionStats {
        packets: from.packets,
        bytes: from.bytes,
        unicast: from.unicast,
        multicast: from.multicast,
        broadcast: from.broadcast,
    };
    let from = &document.counters;
    let mut drops = [0; DropReason::COUNT];
    for (reason, count) in &from.drops {
        if let Some(reason) = DropReason::from_name(reason) {
            drops[reason.index()] = *count;
        }
    }
    PortStats {
        receive: direction(&from.receive),
        transmit: direction(&from.transmit),
        drops,
        kernel_drops: from.kernel_drops,
        queue_depth: 0,
    }
}

#[cfg(test)]
mod tests {
    use switch_core::addr::MacAddr;
    use switch_core::frame::FrameView;
    use switch_core::offload::Offload;
    use switch_core::pipeline::{self, Mode, Silent};

    use super::*;
    use crate::api::model::PortState;
    use crate::daemon::testing::World;
    use crate::daemon::tests::{TWO, apply, state};

    #[tokio::test]
    async fn the_state_of_a_port_goes_to_another_host_and_is_counted_once() {
        let (mut here, mut there) = (World::new(), World::new());
        let text = TWO.replace("netns: ns1", "netns: ns1, activation: announce");
        apply(&mut here, TWO);
        apply(&mut there, &text);
        let station = MacAddr([2, 0, 0, 0, 0, 7]);
        let learn = |world: &World| {
            let snapshot = world.datapath.snapshot();
            let port = snapshot.ports().next().unwrap();
            let mut frame = vec![0xff; 60];
            frame[6..12].copy_from_slice(&station.0);
            let view = FrameView {
                port: port.id,
                header: &frame,
                len: frame.len(),
                offload: Offload::default(),
            };
            pipeline::forward(
                &snapshot,
                world.datapath.now(),
                &view,
                Mode::Live,
                &mut Vec::new(),
                &mut Silent,
            )
            .unwrap();
        };
        learn(&here);
        let mut document = here.daemon.export_port("vm1").unwrap();
        assert_eq!(document.macs.len(), 1);
        assert_eq!((document.macs[0].mac, document.macs[0].vlan), (station, 100));
        assert_eq!(document.guest_mac, Some(station));
        document.counters.receive.packets = 41;
        document.counters.drops.insert("forged-transmit".to_owned(), 2);
        document.counters.drops.insert("of-a-later-version".to_owned(), 5);
        // A program may send it as text.
        let document: PortDocument =
            serde_json::from_value(serde_json::to_value(&document).unwrap()).unwrap();

        for _ in 0..2 {
            let report = there.daemon.import_port("vm1", document.clone()).unwrap();
            assert_eq!(
                (report.macs, report.taken_up, report.warnings.len()),
                (1, false, 0)
            );
            let stats = there.daemon.port_stats("vm1").unwrap();
            assert_eq!(stats.receive.packets, 41);
            assert_eq!(stats.drops, [("forged-transmit".to_owned(), 2)].into());
        }
        assert!(there.daemon.mac_rows().is_empty(), "the guest is still elsewhere");
        let (state, reason) = state(&there, "vm1");
        assert_eq!(state, PortState::Down);
        assert!(reason.unwrap().contains("announce"));

        // It is here now.
        apply(&mut there, TWO);
        let rows = there.daemon.mac_rows();
        assert_eq!((rows[0].mac, rows[0].port.as_str()), (station, "vm1"));
        assert_eq!(there.daemon.port_detail("vm1").unwrap().row.mac, Some(station));

        let other = TWO.replace("vlan: 100", "vlan: 200");
        apply(&mut there, &other);
        let report = there.daemon.import_port("vm1", document.clone()).unwrap();
        assert!(report.taken_up);
        assert_eq!(
            report.warnings,
            ["`vlan` is 200 here, and was 100 where the port comes from"]
        );
        let mut newer = document.clone();
        // It goes back: what was counted here is in the document.
        there.daemon.export_port("vm1").unwrap();
        let mut back = document.clone();
        back.counters.receive.packets = 60;
        for _ in 0..2 {
            there.daemon.import_port("vm1", back.clone()).unwrap();
            assert_eq!(there.daemon.port_stats("vm1").unwrap().receive.packets, 60);
        }
        newer.version = 2;
        let refused = there.daemon.import_port("vm1", newer).unwrap_err();
        assert!(refused.to_string().contains("version 2"), "{refused}");
        assert!(matches!(
            there.daemon.import_port("vm9", document),
            Err(Failure::NotFound(_))
        ));
    }
}
