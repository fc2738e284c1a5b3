//! LACP on the uplinks of the switches that have `balance: lacp`: joins the machines ([`crate::lacp`]) with links, frames and teams.
//!
//! An uplink that the neighbour does not use counts as down for the teams: they are settled anew whenever what is in use changes.

use std::collections::BTreeSet;

use switch_core::addr::MacAddr;
use switch_core::id::PortId;
use switch_core::wire::lacp::Lacpdu;
use tokio::time::Instant;

use super::Daemon;
use super::ports::Runtime;
use crate::config::validate::{EffectivePort, EffectiveSwitch};
use crate::lacp::{Aggregate, Settings};

/// Which uplinks may be one aggregate: each switch has one.
const KEY: u16 = 1;

/// Octets in front of the payload.
const ETHERNET: usize = 14;

impl Daemon {
    /// Takes up which aggregates there are, and how their links are.
    pub(super) fn look_at_aggregates(&mut self, now: Instant) {
        let mut known = std::mem::take(&mut self.aggregates);
        for (index, switch) in self.config.switches().iter().enumerate() {
            let old = known.remove(&switch.name);
            let Some(settings) = self.lacp_settings(index, switch, old.as_ref()) else {
                continue;
            };
            let old = old.filter(|old| *old.settings() == settings);
            let mut aggregate = old.unwrap_or_else(|| Aggregate::new(settings));
            let ports = (1..).zip(self.uplinks_of(index)).map(|(number, port)| {
                let name = port.name.as_str();
                let up = port.enabled && self.ports.get(name).is_some_and(Runtime::is_up);
                (name, number, up)
            });
            aggregate.set_ports(ports, now);
            self.aggregates.insert(switch.name.clone(), aggregate);
        }
    }

    /// How the aggregate of a switch behaves. It is known by the address of its first uplink that has one, for as long as it is there.
    fn lacp_settings(
        &self,
        index: usize,
        switch: &EffectiveSwitch,
        known: Option<&Aggregate>,
    ) -> Option<Settings> {
        let lacp = switch.lacp?;
        let system = known.map(|known| known.settings().system);
        let address = || self.uplinks_of(index).find_map(|port| self.address_of(port));
        Some(Settings {
            active: lacp.active,
            fast: lacp.fast,
            fallback: lacp.fallback,
            system: system.or_else(address)?,
            key: KEY,
        })
    }

    fn address_of(&self, port: &EffectivePort) -> Option<MacAddr> {
        self.links.named(port.attachment.device())?.address
    }

    /// The uplinks that may be used if their link is up: all, where there is no LACP.
    pub(super) fn uplinks_agreed(&self) -> BTreeSet<String> {
        let agreed = self.agreed();
        let uplinks = self.config.ports().iter().filter(|port| port.is_uplink());
        let may = |port: &&EffectivePort| {
            self.config.switch_of(port).lacp.is_none() || agreed.contains(port.name.as_str())
        };
        uplinks
            .filter(may)
            .map(|port| port.name.as_str().to_owned())
            .collect()
    }

    /// A frame of a slow protocol has come in by an uplink. True if that changes which uplinks are in use.
    pub(super) fn slow_received(&mut self, port: PortId, frame: &[u8], now: Instant) -> bool {
        let name = self.port_name(port);
        let payload = frame.get(ETHERNET..).map(Lacpdu::parse);
        let switch = self.config.port(&name).map(|port| self.config.switch_of(port));
        let aggregate = switch.and_then(|switch| self.aggregates.get_mut(&switch.name));
        let (Some(Ok(pdu)), Some(aggregate)) = (payload, aggregate) else {
            return false;
        };
        aggregate.receive(&name, &pdu, now);
        self.tick_aggregates(now)
    }

    /// Does what is due. True if it changes which uplinks are in use.
    pub(super) fn tick_aggregates(&mut self, now: Instant) -> bool {
        let mut out = Vec::new();
        for aggregate in self.aggregates.values_mut() {
            out.extend(aggregate.tick(now));
        }
        for (name, pdu) in out {
            let port = self.config.port(&name);
            let address = port.and_then(|port| self.address_of(port));
            if let (Some(address), Some(id)) = (address, self.registry.port_id(&name)) {
                // A device that is gone says so itself.
                let _ = self.datapath.send(id, vec![pdu.to_frame(address)]);
            }
        }
        let agreed = self.agreed();
        let changed = agreed != self.agreed;
        self.agreed = agreed;
        changed
    }

    /// The uplinks that are in use by agreement.
    fn agreed(&self) -> BTreeSet<String> {
        let uplinks = self.config.ports().iter().filter(|port| port.is_uplink());
        let of = |port: &&EffectivePort| {
            let switch = &self.config.switch_of(port).name;
            let aggregate = self.aggregates.get(switch);
            aggregate.is_some_and(|aggregate| aggregate.is_distributing(port.name.as_str()))
        };
        uplinks
            .filter(of)
            .map(|port| port.name.as_str().to_owned())
            .collect()
    }

    /// When [`Daemon::tick_aggregates`] has something to do.
    pub(super) fn aggregates_due(&self, now: Instant) -> Option<Instant> {
        let aggregates = self.aggregates.values();
        aggregates.filter_map(|aggregate| aggregate.deadline(now)).min()
    }
}
