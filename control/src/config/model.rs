//! The configuration file as its owner writes it: it may be wrong, and holds only what is written.
//!
//! Every key is optional unless the documentation says otherwise, and a key left out stays left out when the configuration
//! is printed again; [`super::validate`] puts in the defaults. The order of switches, groups and ports is the owner's.
//! Unknown keys are errors.

use std::fmt;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use switch_core::vid::Tpid;

use super::units::{
    Ageing, Core, LinkDelay, MacCount, Mtu, Name, NetdevName, Netns, QueuePairs, SocketPath, StationMac,
    TableSize, VlanId, VlanList, WorkerCount, WorkerNumber,
};

/// Version of the file's form. There is one so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct FormatVersion;

impl TryFrom<i64> for FormatVersion {
    type Error = String;

    fn try_from(version: i64) -> Result<Self, String> {
        if version == 1 {
            Ok(Self)
        } else {
            Err(format!(
                "version {version} of the configuration is not supported by this version; 1 is"
            ))
        }
    }
}

impl From<FormatVersion> for i64 {
    fn from(_: FormatVersion) -> Self {
        1
    }
}

impl JsonSchema for FormatVersion {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "FormatVersion".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "const": 1 })
    }
}

/// Configuration of vswitchd.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a map with the keys of a configuration"
)]
#[schemars(title = "vswitch configuration")]
pub struct Config {
    /// Version of the file's form: 1. Required.
    pub version: FormatVersion,
    /// The threads that move frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<Workers>,
    /// The switches by name.
    #[serde(default)]
    pub switches: IndexMap<Name, Switch>,
}

/// The threads that move frames: `count` or `cores`. Default: one per core.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a map with `count` or `cores`"
)]
pub struct Workers {
    /// How many, not pinned to cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<WorkerCount>,
    /// One worker pinned to each of these cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cores: Option<Vec<Core>>,
}

/// A switch.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a map with the keys of a switch"
)]
pub struct Switch {
    /// Largest payload of a frame after its Ethernet header and tags, octets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = 1500))]
    pub mtu: Option<Mtu>,
    /// The MAC table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_table: Option<MacTable>,
    /// The uplinks by name: the devices by which the ports reach the network outside. A name is unique across all uplinks and ports.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub uplinks: IndexMap<Name, Uplink>,
    /// How the ports share the uplinks; a group may override it, key by key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teaming: Option<Teaming>,
    /// The port groups by name: what their ports have in common.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub port_groups: IndexMap<Name, PortGroup>,
    /// The ports by name; a name is unique across all switches.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub ports: IndexMap<Name, Port>,
}

/// The MAC table of a switch.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a map with `size` and `ageing`"
)]
pub struct MacTable {
    /// How many addresses it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = 32768))]
    pub size: Option<TableSize>,
    /// How long a learnt address lasts without being seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "300s"))]
    pub ageing: Option<Ageing>,
}

/// A device by which a switch reaches the network outside. It carries all VLANs, tagged, and untagged the frames of ports without `vlan`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a map with the keys of an uplink"
)]
pub struct Uplink {
    /// Name of the netdev: a NIC, or one end of a veth. Required.
    pub device: NetdevName,
    /// How it is attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "auto"))]
    pub driver: Option<Driver>,
    /// The device may send and be given super-frames and partial checksums.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = true))]
    pub offloads: Option<bool>,
    /// Under load, poll the device in place of its interrupts (through AF_XDP only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = false))]
    pub busy_poll: Option<bool>,
    /// False: the uplink carries nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = true))]
    pub enabled: Option<bool>,
    /// The worker that serves it, from 0. Default: the switch chooses, by load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerNumber>,
    /// The workers that serve its queues, in place of `worker`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<Vec<WorkerNumber>>,
}

impl Uplink {
    /// The same, as a port has it.
    pub(super) fn as_port(&self) -> Port {
        Port {
            device: Some(self.device.clone()),
            driver: self.driver,
            offloads: self.offloads,
            busy_poll: self.busy_poll,
            enabled: self.enabled,
            worker: self.worker,
            workers: self.workers.clone(),
            ..Port::default()
        }
    }
}

/// How ports share the uplinks of their switch.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a map with the keys of a team"
)]
pub struct Teaming {
    /// By what the traffic is shared out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "port-id"))]
    pub balance: Option<Balance>,
    /// The uplinks that are used, in order. Default: all that are not in `standby`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<Vec<Name>>,
    /// The uplinks that stand in for one of `active` that has failed, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<Vec<Name>>,
    /// What an uplink's failure is told by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "link"))]
    pub detect: Option<Detect>,
    /// An uplink of `active` that has recovered is used again at once; false: when the one that stands in for it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = true))]
    pub failback: Option<bool>,
    /// The network outside is told of a station whenever it is reached by another uplink than before (RARP).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = true))]
    pub notify: Option<bool>,
    /// How uplinks are agreed on (`balance: lacp` only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lacp: Option<Lacp>,
    /// How long an uplink that has come up is not used yet, unless there is no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "0s"))]
    pub up_delay: Option<LinkDelay>,
    /// How long an uplink that has gone down is not given up yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "0s"))]
    pub down_delay: Option<LinkDelay>,
}

/// By what the traffic of a team is shared out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    expecting = "`port-id`, `source-mac`, `ip-hash`, `explicit` or `lacp`"
)]
pub enum Balance {
    /// Each port has an uplink, and keeps it.
    #[default]
    PortId,
    /// Each station has an uplink, by the hash of its address and VLAN.
    SourceMac,
    /// Each flow has an uplink, by the hash of its addresses and ports. The network outside must have the uplinks as one aggregate.
    IpHash,
    /// All take the first uplink of the order that is up.
    Explicit,
    /// As `ip-hash`, with uplinks that are agreed on with the neighbour (IEEE 802.1AX). For all groups of a switch, or none.
    Lacp,
}

/// How uplinks are agreed on with the neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a map with `mode`, `rate` and `fallback`"
)]
pub struct Lacp {
    /// Who begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "active"))]
    pub mode: Option<LacpMode>,
    /// How often the neighbour is to be heard, and how soon its silence is noticed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "slow"))]
    pub rate: Option<LacpRate>,
    /// Where nobody speaks LACP, the first uplink that is up is used all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = false))]
    pub fallback: Option<bool>,
}

/// Who begins to speak LACP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", expecting = "`active` or `passive`")]
pub enum LacpMode {
    /// The switch.
    #[default]
    Active,
    /// The neighbour.
    Passive,
}

/// How often LACP is to be heard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", expecting = "`fast` or `slow`")]
pub enum LacpRate {
    /// Once a second; silence is noticed after 3 s.
    Fast,
    /// Every 30 s; silence is noticed after 90 s.
    #[default]
    Slow,
}

/// What an uplink's failure is told by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", expecting = "`link`")]
pub enum Detect {
    /// Its carrier.
    #[default]
    Link,
}

/// What a group of ports has in common.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a map with the keys of a port group"
)]
pub struct PortGroup {
    /// How the group reaches others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "bridged"))]
    pub mode: Option<GroupMode>,
    /// How its ports share the uplinks; overrides the switch's, key by key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teaming: Option<Teaming>,
    /// VLAN membership; left out: untagged frames in the switch's own VLAN 0, tagged frames dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<Vlan>,
    /// The security policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security: Option<Security>,
    /// Bound on the MAC addresses learnt behind each port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_limit: Option<MacLimit>,
    /// When the ports begin to carry frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "now"))]
    pub activation: Option<Activation>,
    /// The ports talk to no other isolated port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = false))]
    pub isolated: Option<bool>,
}

/// When a port begins to carry frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", expecting = "`now` or `announce`")]
pub enum Activation {
    /// As soon as its device does.
    #[default]
    Now,
    /// When its guest has announced itself (RARP, gratuitous ARP, unsolicited neighbour advertisement): for the port that a guest is about to move to by live
    /// migration, so that nothing which it sends before draws its address away from where it still is.
    Announce,
}

/// How a port group reaches others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", expecting = "`bridged`")]
pub enum GroupMode {
    /// As a bridge does: by MAC address and VLAN.
    #[default]
    Bridged,
}

/// VLAN membership of a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Vlan {
    /// `none`: as if the key were left out; for a port whose group has a VLAN.
    None,
    /// `100`: untagged frames in one VLAN.
    Access(VlanId),
    /// `{trunk: [...], native: N, ethertype: 802.1q}`.
    Trunk {
        /// VLANs that pass tagged; the empty list stands for all.
        vlans: VlanList,
        /// VLAN of untagged frames.
        native: Option<VlanId>,
        /// EtherType of the tags; left out: 802.1q.
        ethertype: Option<Tpid>,
    },
    /// `{dot1q-tunnel: 200}`: every frame, tagged or not, is payload of one service VLAN.
    Tunnel(VlanId),
}

/// Short form: `100`, `trunk 100,200-299 native 1`, `trunk all`, `tunnel 200`, `none`.
impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Access(vlan) => vlan.fmt(f),
            Self::Trunk {
                vlans,
                native,
                ethertype,
            } => {
                write!(f, "trunk {vlans}")?;
                if let Some(native) = native {
                    write!(f, " native {native}")?;
                }
                if *ethertype == Some(Tpid::Dot1Ad) {
                    f.write_str(" 802.1ad")?;
                }
                Ok(())
            }
            Self::Tunnel(vlan) => write!(f, "tunnel {vlan}"),
        }
    }
}

/// The map form of [`Vlan`].
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a map with `trunk` or `dot1q-tunnel`"
)]
struct VlanMap {
    /// VLANs that pass tagged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trunk: Option<VlanList>,
    /// VLAN of untagged and priority-tagged frames; left out: they are dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    native: Option<VlanId>,
    /// EtherType of the tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<EtherTypeName>", extend("default" = "802.1q"))]
    ethertype: Option<Tpid>,
    /// Every frame, tagged or not, is payload of this service VLAN (QinQ).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dot1q_tunnel: Option<VlanId>,
}

/// The words of [`Tpid`] for the schema.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
enum EtherTypeName {
    #[schemars(rename = "802.1q")]
    Dot1Q,
    #[schemars(rename = "802.1ad")]
    Dot1Ad,
}

impl VlanMap {
    fn vlan<E: serde::de::Error>(self) -> Result<Vlan, E> {
        match (self.trunk, self.dot1q_tunnel) {
            (Some(_), Some(_)) => Err(E::custom("`trunk` and `dot1q-tunnel` exclude each other")),
            (Some(vlans), None) => Ok(Vlan::Trunk {
                vlans,
                native: self.native,
                ethertype: self.ethertype,
            }),
            (None, Some(_)) if self.native.is_some() => Err(E::custom(
                "`native` belongs to a `trunk`, not to a `dot1q-tunnel`",
            )),
            (None, Some(_)) if self.ethertype.is_some() => Err(E::custom(
                "`ethertype` belongs to a `trunk`; a `dot1q-tunnel` is always 802.1ad outside",
            )),
            (None, Some(vlan)) => Ok(Vlan::Tunnel(vlan)),
            (None, None) => Err(E::missing_field("trunk")),
        }
    }
}

impl Serialize for Vlan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_str("none"),
            Self::Access(vlan) => vlan.serialize(serializer),
            Self::Trunk {
                vlans,
                native,
                ethertype,
            } => VlanMap {
                trunk: Some(vlans.clone()),
                native: *native,
                ethertype: *ethertype,
                ..VlanMap::default()
            }
            .serialize(serializer),
            Self::Tunnel(vlan) => VlanMap {
                dot1q_tunnel: Some(*vlan),
                ..VlanMap::default()
            }
            .serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Vlan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Vlan;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a VLAN such as 100, a map with `trunk` or `dot1q-tunnel`, or `none`")
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Vlan, E> {
                value.try_into().map(Vlan::Access).map_err(E::custom)
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Vlan, E> {
                self.visit_i64(i64::try_from(value).unwrap_or(i64::MAX))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vlan, E> {
                match text {
                    "none" => Ok(Vlan::None),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Vlan, A::Error> {
                VlanMap::deserialize(serde::de::value::MapAccessDeserializer::new(map))?.vlan()
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Vlan {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Vlan".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let access = generator.subschema_for::<VlanId>();
        let map = generator.subschema_for::<VlanMap>();
        schemars::json_schema!({
            "oneOf": [access, map, { "const": "none" }],
            "description": "One VLAN (access), a trunk, a tunnel, or `none`.",
        })
    }
}

/// Accept or reject.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", expecting = "`accept` or `reject`")]
pub enum Policy {
    /// It may.
    Accept,
    /// It may not.
    #[default]
    Reject,
}

/// The security policy: each of the three `accept` or `reject` (default).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a map with `promiscuous`, `mac-changes` and `forged-transmits`"
)]
pub struct Security {
    /// The port sees every frame that its VLAN policy allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "reject"))]
    pub promiscuous: Option<Policy>,
    /// The guest may take another MAC address than the configured one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "reject"))]
    pub mac_changes: Option<Policy>,
    /// The guest may send from other MAC addresses than its effective one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "reject"))]
    pub forged_transmits: Option<Policy>,
}

/// Bound on the MAC addresses learnt behind one port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a map with `count` and `overflow`"
)]
pub struct MacLimit {
    /// How many. Required.
    pub count: MacCount,
    /// What happens to a frame from one more address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "drop"))]
    pub overflow: Option<Overflow>,
}

/// What happens to a frame from a new address when a port has reached its [`MacLimit`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", expecting = "`drop` or `flood`")]
pub enum Overflow {
    /// It is dropped.
    #[default]
    Drop,
    /// It is forwarded without being learnt.
    Flood,
}

/// A port. It has a `port-group` and one of `tap`, `device`, `vhost-user` and `stream`; a key of its group given here overrides it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a map with the keys of a port"
)]
#[schemars(transform = require_port_group)]
pub struct Port {
    /// Name of its port group. Required: only [`super::validate`] says so, so that what else is wrong with the port is found too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Name")]
    pub port_group: Option<Name>,
    /// Name of a TAP that the switch makes and owns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<NetdevName>,
    /// Name of an existing netdev: a VM's TAP, a veth, a NIC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<NetdevName>,
    /// Path of the socket by which a hypervisor shares a VM's memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vhost_user: Option<SocketPath>,
    /// Path of a Unix stream socket on which each frame is sent behind its length: QEMU's `-netdev stream`, passt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<SocketPath>,
    /// The configured MAC address of the guest; left out: the first one seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<StationMac>,
    /// False: the port carries nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = true))]
    pub enabled: Option<bool>,
    /// The TAP's netdev stays when the daemon ends (`tap` only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = false))]
    pub persistent: Option<bool>,
    /// Network namespace in which the TAP is made: a name under /run/netns, or a path (`tap` only). Default: the daemon's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<Netns>,
    /// How the device is attached (`device` only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "auto"))]
    pub driver: Option<Driver>,
    /// The device may send and be given super-frames and partial checksums (`tap` and `device` only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = true))]
    pub offloads: Option<bool>,
    /// Who listens on the socket (`vhost-user` and `stream` only). Default: `client` with `vhost-user`, `server` with `stream`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<SocketMode>,
    /// The most pairs of queues that the VM may use (`vhost-user` only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = QueuePairs::ALL.get()))]
    pub queues: Option<QueuePairs>,
    /// The worker that serves the port, from 0. Default: the switch chooses, by load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerNumber>,
    /// The workers that serve the port's queues, in place of `worker`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<Vec<WorkerNumber>>,
    /// MAC table entries of this port that never age and never move.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub static_macs: Vec<StaticMac>,
    /// Overrides the group's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<Vlan>,
    /// Overrides the group's, key by key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security: Option<Security>,
    /// Overrides the group's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_limit: Option<MacLimit>,
    /// Overrides the group's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolated: Option<bool>,
    /// Overrides the group's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// Under load, poll the device in place of its interrupts (`device` through AF_XDP only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = false))]
    pub busy_poll: Option<bool>,
}

fn require_port_group(schema: &mut schemars::Schema) {
    schema.insert("required".to_owned(), serde_json::json!(["port-group"]));
}

/// How a `device` is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", expecting = "`auto`, `af-xdp` or `af-packet`")]
pub enum Driver {
    /// AF_XDP for a NIC whose driver runs XDP programs, AF_PACKET for all else: a VM's TAP and a veth may carry super-frames and
    /// partial checksums, which AF_XDP loses.
    #[default]
    Auto,
    /// AF_XDP: frames by shared memory, without offloads.
    AfXdp,
    /// AF_PACKET with `PACKET_VNET_HDR`: super-frames and partial checksums pass through.
    AfPacket,
}

/// Who listens on a port's socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", expecting = "`client` or `server`")]
pub enum SocketMode {
    /// The other side; the switch connects, and again whenever the connection is lost.
    Client,
    /// The switch.
    Server,
}

impl From<SocketMode> for datapath::io::SocketMode {
    fn from(mode: SocketMode) -> Self {
        match mode {
            SocketMode::Client => Self::Client,
            SocketMode::Server => Self::Server,
        }
    }
}

/// A MAC table entry that never ages and never moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a map with `mac` and `vlan`"
)]
pub struct StaticMac {
    /// The address. Required.
    pub mac: StationMac,
    /// Its VLAN; left out: that of the port's untagged frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<VlanId>,
}
