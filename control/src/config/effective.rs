//! A configuration that is right, with all defaults put in: what [`Config::validate`] makes of the file, in the words of the rest of the control plane.
//!
//! What is left out at a port is its group's, and what is left out there the default. The invariants are those of [`super::validate`].

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use switch_core::addr::MacAddr;
use switch_core::security::SecurityPolicy;
use switch_core::snapshot;
use switch_core::vid::Vid;
use switch_core::vlan::VlanPolicy;

use super::attachment::Attachment;
use super::model::{
    Activation, Balance, Config, GroupMode, MacLimit, Overflow, Policy, PortGroup, Security, Switch, Vlan,
};
use super::teaming::{EffectiveLacp, EffectiveTeaming};
use super::units::{Name, VlanList, WorkerCount};

/// How many workers, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WorkerPlan {
    /// One per core.
    PerCore,
    /// So many, not pinned.
    Count(usize),
    /// One pinned to each of these cores.
    Cores(Vec<usize>),
}

impl WorkerPlan {
    /// The plan for the datapath on a host with `cores` cores.
    pub fn options(&self, cores: usize) -> datapath::Options {
        let (workers, cores) = match self {
            Self::PerCore => (cores.clamp(1, WorkerCount::MAX.into()), Vec::new()),
            Self::Count(count) => (*count, Vec::new()),
            Self::Cores(cores) => (cores.len(), cores.clone()),
        };
        datapath::Options { workers, cores }
    }
}

/// A switch with all defaults put in.
#[derive(Clone, PartialEq, Debug)]
pub struct EffectiveSwitch {
    /// Its name.
    pub name: Name,
    /// Largest payload of a frame, octets.
    pub mtu: u16,
    /// Capacity of its MAC table.
    pub mac_table_size: usize,
    /// How long a learnt address lasts.
    pub ageing: std::time::Duration,
    /// Its uplinks, in the owner's order, which is that of their numbers.
    pub uplinks: Vec<Name>,
    /// How its uplinks are agreed on with the neighbour, if they are.
    pub lacp: Option<EffectiveLacp>,
    /// Its groups, in the owner's order.
    pub groups: Vec<EffectiveGroup>,
}

/// What a group, or a group and a port taken together, says about frames.
#[derive(Clone, PartialEq, Debug)]
pub struct Rules {
    /// VLAN membership in the file's words.
    pub vlan: Vlan,
    /// Security policy.
    pub security: SecurityPolicy,
    /// Bound on learnt addresses.
    pub mac_limit: Option<snapshot::MacLimit>,
    /// Talks to no other isolated port.
    pub isolated: bool,
    /// When the port begins to carry frames.
    pub activation: Activation,
}

/// A port group with all defaults put in.
#[derive(Clone, PartialEq, Debug)]
pub struct EffectiveGroup {
    /// Its name.
    pub name: Name,
    /// How it reaches others.
    pub mode: GroupMode,
    /// How its ports share the uplinks.
    pub teaming: EffectiveTeaming,
    /// What it says about frames.
    pub rules: Rules,
}

/// A port with its group's settings and all defaults put in, or an uplink.
#[derive(Clone, PartialEq, Debug)]
pub struct EffectivePort {
    /// Its name.
    pub name: Name,
    /// Index of its switch in [`ValidConfig::switches`].
    pub switch: usize,
    /// Its port group; `None`: it is an uplink.
    pub group: Option<Name>,
    /// What is behind it.
    pub attachment: Attachment,
    /// The configured MAC address of the guest.
    pub mac: Option<MacAddr>,
    /// False when the administrator has disabled it.
    pub enabled: bool,
    /// What is said about its frames.
    pub rules: Rules,
    /// Entries of the MAC table that never age.
    pub static_macs: Vec<(Vid, MacAddr)>,
    /// The workers that serve it; empty: the switch chooses.
    pub workers: Vec<usize>,
}

/// A configuration that is right, with the effective settings of its switches and ports.
#[derive(Clone, PartialEq, Debug)]
pub struct ValidConfig {
    pub(super) config: Config,
    pub(super) workers: WorkerPlan,
    pub(super) switches: Vec<EffectiveSwitch>,
    pub(super) ports: Vec<EffectivePort>,
    /// Where in `ports` each is.
    pub(super) by_name: HashMap<Name, usize>,
}

impl ValidConfig {
    /// A configuration without switches.
    pub fn empty() -> Self {
        Self {
            config: Config::default(),
            workers: WorkerPlan::PerCore,
            switches: Vec::new(),
            ports: Vec::new(),
            by_name: HashMap::new(),
        }
    }

    /// What its owner wrote.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How many workers, and where.
    pub fn workers(&self) -> &WorkerPlan {
        &self.workers
    }

    /// The switches, in the owner's order, which is that of their ids in a snapshot.
    pub fn switches(&self) -> &[EffectiveSwitch] {
        &self.switches
    }

    /// The uplinks and ports of all switches, in the owner's order, of each switch the uplinks first.
    pub fn ports(&self) -> &[EffectivePort] {
        &self.ports
    }

    /// One switch.
    pub fn switch(&self, name: &str) -> Option<&EffectiveSwitch> {
        self.switches.iter().find(|switch| switch.name == *name)
    }

    /// One port.
    pub fn port(&self, name: &str) -> Option<&EffectivePort> {
        self.ports.get(*self.by_name.get(name)?)
    }

    /// The switch of one of the [`ValidConfig::ports`].
    pub fn switch_of(&self, port: &EffectivePort) -> &EffectiveSwitch {
        &self.switches[port.switch]
    }
}

impl Rules {
    fn of(group: &PortGroup) -> Self {
        let rules = Self {
            vlan: Vlan::None,
            security: SecurityPolicy::default(),
            mac_limit: None,
            isolated: false,
            activation: Activation::Now,
        };
        rules.overridden(
            group.vlan.as_ref(),
            group.security,
            group.mac_limit,
            group.isolated,
            group.activation,
        )
    }

    pub(super) fn overridden(
        mut self,
        vlan: Option<&Vlan>,
        security: Option<Security>,
        mac_limit: Option<MacLimit>,
        isolated: Option<bool>,
        activation: Option<Activation>,
    ) -> Self {
        if let Some(vlan) = vlan {
            self.vlan = vlan.clone();
        }
        let security = security.unwrap_or_default();
        let accepts =
            |policy: Option<Policy>, before: bool| policy.map_or(before, |policy| policy == Policy::Accept);
        self.security = SecurityPolicy {
            promiscuous: accepts(security.promiscuous, self.security.promiscuous),
            mac_changes: accepts(security.mac_changes, self.security.mac_changes),
            forged_transmits: accepts(security.forged_transmits, self.security.forged_transmits),
        };
        if let Some(limit) = mac_limit {
            let inherited = self
                .mac_limit
                .map_or(snapshot::Overflow::Drop, |limit| limit.overflow);
            self.mac_limit = Some(snapshot::MacLimit {
                count: limit.count.get(),
                overflow: match limit.overflow {
                    Some(Overflow::Drop) => snapshot::Overflow::Drop,
                    Some(Overflow::Flood) => snapshot::Overflow::Flood,
                    None => inherited,
                },
            });
        }
        self.isolated = isolated.unwrap_or(self.isolated);
        self.activation = activation.unwrap_or(self.activation);
        self
    }

    /// VLAN membership as the switch core has it.
    pub fn vlan_policy(&self) -> VlanPolicy {
        match &self.vlan {
            Vlan::None => VlanPolicy::Unaware,
            Vlan::Access(vlan) => VlanPolicy::Access(vlan.vid()),
            Vlan::Trunk {
                vlans,
                native,
                ethertype,
            } => VlanPolicy::Trunk {
                vlans: vlans.set(),
                native: native.map(super::units::VlanId::vid),
                tpid: ethertype.unwrap_or_default(),
            },
            Vlan::Tunnel(vlan) => VlanPolicy::Tunnel(vlan.vid()),
        }
    }

    /// Those of an uplink: everything passes, with the tag of its VLAN.
    pub(super) fn of_uplink() -> Self {
        Self {
            vlan: Vlan::Trunk {
                vlans: VlanList::default(),
                native: None,
                ethertype: None,
            },
            security: SecurityPolicy {
                promiscuous: false,
                mac_changes: true,
                forged_transmits: true,
            },
            mac_limit: None,
            isolated: false,
            activation: Activation::Now,
        }
    }

    /// The rules in the file's words, none left out.
    fn settings(&self) -> Map<String, Value> {
        let word = |accept: bool| json!(if accept { Policy::Accept } else { Policy::Reject });
        let limit = self.mac_limit.map(|limit| {
            let overflow = match limit.overflow {
                snapshot::Overflow::Drop => Overflow::Drop,
                snapshot::Overflow::Flood => Overflow::Flood,
            };
            json!({ "count": limit.count, "overflow": overflow })
        });
        let mut settings = Map::new();
        settings.insert("vlan".into(), json!(self.vlan));
        settings.insert(
            "security".into(),
            json!({
                "promiscuous": word(self.security.promiscuous),
                "mac-changes": word(self.security.mac_changes),
                "forged-transmits": word(self.security.forged_transmits),
            }),
        );
        settings.insert("mac-limit".into(), json!(limit));
        settings.insert("isolated".into(), json!(self.isolated));
        settings.insert("activation".into(), json!(self.activation));
        settings
    }
}

impl EffectiveGroup {
    /// The settings in force, in the file's words.
    pub fn settings(&self) -> Value {
        let mut settings = Map::new();
        settings.insert("mode".into(), json!(self.mode));
        if self.teaming.members().next().is_some() {
            settings.insert("teaming".into(), self.teaming.settings());
        }
        settings.extend(self.rules.settings());
        Value::Object(settings)
    }
}

impl EffectivePort {
    /// Whether it is an uplink.
    pub fn is_uplink(&self) -> bool {
        self.group.is_none()
    }

    /// VLAN membership as the switch core has it.
    pub fn vlan_policy(&self) -> VlanPolicy {
        match self.rules.vlan_policy() {
            // The frames of ports without `vlan` leave as they are.
            VlanPolicy::Trunk { vlans, tpid, .. } if self.is_uplink() => VlanPolicy::Trunk {
                vlans,
                native: Some(Vid::UNAWARE),
                tpid,
            },
            policy => policy,
        }
    }

    /// The settings in force, group and port taken together, in the file's words.
    pub fn settings(&self) -> Value {
        let mut settings = Map::new();
        if let Some(group) = &self.group {
            settings.insert("port-group".into(), json!(group));
        }
        settings.extend(self.attachment.settings());
        if self.is_uplink() {
            settings.insert("enabled".into(), json!(self.enabled));
            if !self.workers.is_empty() {
                settings.insert("workers".into(), json!(self.workers));
            }
            return Value::Object(settings);
        }
        settings.insert("mac".into(), json!(self.mac));
        settings.insert("enabled".into(), json!(self.enabled));
        settings.extend(self.rules.settings());
        let macs: Vec<Value> = self
            .static_macs
            .iter()
            .map(|(vid, mac)| json!({ "mac": mac, "vlan": vid }))
            .collect();
        settings.insert("static-macs".into(), json!(macs));
        if !self.workers.is_empty() {
            settings.insert("workers".into(), json!(self.workers));
        }
        Value::Object(settings)
    }
}

/// A switch with all defaults put in.
pub(super) fn effective_switch(name: &Name, switch: &Switch) -> EffectiveSwitch {
    let table = switch.mac_table.clone().unwrap_or_default();
    let teaming = EffectiveTeaming::of(switch.teaming.as_ref(), None, &switch.uplinks);
    EffectiveSwitch {
        name: name.clone(),
        mtu: switch.mtu.unwrap_or_default().get(),
        mac_table_size: table.size.unwrap_or_default().get() as usize,
        ageing: table.ageing.unwrap_or_default().get(),
        uplinks: switch.uplinks.keys().cloned().collect(),
        lacp: (teaming.balance == Balance::Lacp).then_some(teaming.lacp),
        groups: switch
            .port_groups
            .iter()
            .map(|(name, group)| EffectiveGroup {
                name: name.clone(),
                mode: group.mode.unwrap_or_default(),
                teaming: EffectiveTeaming::of(
                    switch.teaming.as_ref(),
                    group.teaming.as_ref(),
                    &switch.uplinks,
                ),
                rules: Rules::of(group),
            })
            .collect(),
    }
}
