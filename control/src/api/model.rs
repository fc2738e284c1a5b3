//! The documents of the API: what `vswitchctl -o json` prints, and what programs rely on. Keys may be added, never renamed.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use switch_core::addr::MacAddr;

/// `GET /v1/version`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Version {
    /// Always `vswitchd`.
    pub name: String,
    /// Version of the daemon.
    pub version: String,
    /// Generation of the configuration in force; 0 before the first.
    pub generation: u64,
    /// Process id of the daemon.
    pub pid: u32,
    /// The configuration in force waits for its confirmation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm: Option<PendingConfirm>,
}

/// A configuration that is taken back unless `POST /v1/confirm` comes in time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PendingConfirm {
    /// Its generation, which is in force and not in the store.
    pub generation: u64,
    /// The generation that comes back.
    pub back_to: u64,
    /// Seconds until then, rounded up.
    pub seconds_left: u64,
}

/// `POST /v1/rollback`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct RollbackRequest {
    /// The generation to apply again; left out: the one before, or the one before the unconfirmed one.
    #[serde(default)]
    pub generation: Option<u64>,
}

/// `PUT /v1/config`: a whole configuration, as text in the file's own form (YAML or JSON).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ApplyRequest {
    /// The text.
    pub text: String,
    /// What to call it in messages, such as the file's name.
    pub name: String,
    /// Say what would change, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Go back to the configuration before, unless `POST /v1/confirm` comes within so many seconds.
    #[serde(default)]
    pub confirm_seconds: Option<u64>,
    /// A word for the history.
    #[serde(default)]
    pub comment: Option<String>,
}

/// One difference between two configurations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Change {
    /// What happens to it.
    pub action: ChangeAction,
    /// Where, as a path in the file: `switches.vs0.ports.vm1.port-group`.
    pub path: String,
    /// The value before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<serde_json::Value>,
    /// The value after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<serde_json::Value>,
}

/// Kind of a [`Change`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeAction {
    /// It was not there.
    Add,
    /// It is there no more.
    Remove,
    /// It has another value.
    Change,
}

/// What an apply, a rollback or a small edit did, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ApplyReport {
    /// Generation now in force.
    pub generation: u64,
    /// False for a dry run, and where nothing differs.
    pub applied: bool,
    /// The differences.
    pub changes: Vec<Change>,
    /// What the administrator should know, such as a port whose device is not there yet.
    pub warnings: Vec<String>,
}

/// The body of every answer that is not 2xx.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ApiError {
    /// What went wrong and what to do, one sentence.
    pub error: String,
    /// All errors of a configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// One error in a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Problem {
    /// What is wrong.
    pub message: String,
    /// Where, as a path in the file.
    pub path: String,
    /// Line in the text, from 1; 0 if it has none.
    pub line: usize,
    /// Column in the line, from 1; 0 if it has none.
    pub column: usize,
    /// What to do, such as the nearest known name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// `GET /v1/config`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ConfigDocument {
    /// Its generation.
    pub generation: u64,
    /// The configuration.
    pub config: serde_json::Value,
}

/// A row of `GET /v1/history`, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct HistoryRow {
    /// Generation.
    pub generation: u64,
    /// When it was committed, RFC 3339, UTC.
    pub time: String,
    /// Who asked for it: `uid 0`, or `file` at the start of the daemon.
    pub author: String,
    /// What was asked: `apply switch.yaml`, `port add vm4`, `rollback to 3`.
    pub comment: String,
    /// Number of differences to the generation before.
    pub changes: usize,
    /// Whether it is in force.
    pub current: bool,
    /// Whether it waits for its confirmation: it is in force and not in the store, and may be taken back.
    #[serde(default)]
    pub pending: bool,
}

/// State of a port or uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PortState {
    /// It carries frames.
    Up,
    /// It does not; `reason` says why.
    Down,
}

/// A row of `GET /v1/ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PortRow {
    /// Name of the port.
    pub name: String,
    /// Its switch.
    pub switch: String,
    /// Its port group; `null` for an uplink.
    pub group: Option<String>,
    /// `tap`, `device`, `vhost-user` or `stream`.
    pub kind: String,
    /// Name of the netdev, or path of the socket.
    pub device: String,
    /// `up` or `down`.
    pub state: PortState,
    /// Why it is down.
    pub reason: Option<String>,
    /// The port's MAC address: the configured one, or with `security.mac-changes: accept` or without a configured one the guest's.
    #[schemars(with = "Option<String>")]
    pub mac: Option<MacAddr>,
    /// VLAN in short: `100`, `trunk 100,200-299 native 1`, `trunk all`, `tunnel 200`, or `none`.
    pub vlan: String,
}

/// `GET /v1/ports/NAME`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PortDetail {
    /// As in the list.
    #[serde(flatten)]
    pub row: PortRow,
    /// How its device is attached, where there is more than one way: `af-packet` or `af-xdp` and its modes, and with `driver: auto` why; for
    /// `vhost-user` what was agreed on with the guest's driver.
    pub driver: Option<String>,
    /// The uplink by which its frames leave; `null` where a hash decides, or there is none.
    #[serde(default)]
    pub uplink: Option<String>,
    /// The MAC address that the guest uses, if it is not the port's: `security.mac-changes` refuses it.
    #[schemars(with = "Option<String>")]
    pub guest_mac: Option<MacAddr>,
    /// Settings in force, group and port taken together, in the file's words.
    pub settings: serde_json::Value,
    /// Number of MAC addresses behind it.
    pub macs: usize,
    /// Its queues and who serves them; none while it has no device.
    pub queues: Vec<QueueRow>,
    /// Its counters.
    pub stats: PortStats,
}

/// A queue of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct QueueRow {
    /// Its number, from 0.
    pub queue: usize,
    /// The worker that serves it.
    pub worker: usize,
    /// Whether the other side uses it; a guest may use fewer queues than it could.
    pub in_use: bool,
    /// Frames received by it since it was opened, a super-frame as one.
    pub frames: u64,
}

/// An element of `GET /v1/workers`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct WorkerRow {
    /// Its number, from 0.
    pub worker: usize,
    /// How many queues it serves.
    pub queues: usize,
    /// Nanoseconds spent on frames since it was started.
    pub busy: u64,
    /// Nanoseconds since it was started.
    pub total: u64,
    /// Frames received, a super-frame as one.
    pub frames: u64,
    /// Frames handed over to other workers, which own the queue to send them by.
    pub handed_over: u64,
}

/// One direction of [`PortStats`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
pub struct Direction {
    /// Frames; a super-frame counts as the frames it becomes on the wire.
    pub packets: u64,
    /// Octets from the destination address to the end of the payload.
    pub bytes: u64,
    /// Frames to one station.
    pub unicast: u64,
    /// Frames to a group other than broadcast.
    pub multicast: u64,
    /// Frames to all.
    pub broadcast: u64,
}

/// A row of `GET /v1/stats`. Receive: from the port into the switch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
pub struct PortStats {
    /// Name of the port.
    pub name: String,
    /// From the port into the switch.
    pub receive: Direction,
    /// From the switch to the port.
    pub transmit: Direction,
    /// Frames dropped, by reason; only reasons that occurred.
    pub drops: BTreeMap<String, u64>,
    /// Frames the kernel dropped before the switch could read them.
    pub kernel_drops: u64,
}

/// A row of `GET /v1/groups`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct GroupRow {
    /// Name of the port group.
    pub name: String,
    /// Its switch.
    pub switch: String,
    /// VLAN in short, as in [`PortRow`].
    pub vlan: String,
    /// Names of its ports.
    pub ports: Vec<String>,
    /// Its settings, in the file's words.
    pub settings: serde_json::Value,
}

/// A row of `GET /v1/uplinks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct UplinkRow {
    /// Name of the uplink.
    pub name: String,
    /// Its switch.
    pub switch: String,
    /// Name of the netdev.
    pub device: String,
    /// `up` or `down`.
    pub state: PortState,
    /// Why it is down.
    pub reason: Option<String>,
    /// Whether a team uses it at present.
    pub active: bool,
    /// How many ports leave by it alone (`balance: port-id` or `explicit`).
    pub ports: usize,
    /// Stations that were announced by it.
    pub announced: u64,
    /// How far it is agreed on with the neighbour, in words, with `balance: lacp`.
    #[serde(default)]
    pub lacp: Option<String>,
    /// What is at its other end, where that says so.
    pub neighbour: Option<String>,
}

/// `GET /v1/uplinks/NAME`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct UplinkDetail {
    /// As in the list.
    #[serde(flatten)]
    pub row: UplinkRow,
    /// How its device is attached, as in [`PortDetail`].
    pub driver: Option<String>,
    /// Settings in force, in the file's words.
    pub settings: serde_json::Value,
    /// Its queues and who serves them; none while it has no device.
    pub queues: Vec<QueueRow>,
    /// Its counters.
    pub stats: PortStats,
}

/// A row of `GET /v1/teams`: how the ports of a group share the uplinks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TeamRow {
    /// Its switch.
    pub switch: String,
    /// Its port group.
    pub group: String,
    /// By what the traffic is shared out: `port-id`, `source-mac`, `ip-hash`, `explicit` or `lacp`.
    pub balance: String,
    /// The uplinks that are used now, in order.
    pub active: Vec<String>,
    /// Those that could be used.
    pub standby: Vec<String>,
    /// Those that can't.
    pub failed: Vec<String>,
    /// The other side of an aggregate, as it says itself: the address of its system, and the key of the aggregate.
    pub partner: Option<String>,
    /// Its ports, each with its uplink.
    pub ports: Vec<TeamPort>,
    /// Its settings, in the file's words.
    pub settings: serde_json::Value,
}

/// A port of a [`TeamRow`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TeamPort {
    /// Its name.
    pub port: String,
    /// The uplink by which it leaves; `null` where a hash decides, or there is none.
    pub uplink: Option<String>,
}

/// A row of `GET /v1/macs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct MacRow {
    /// The address.
    #[schemars(with = "String")]
    pub mac: MacAddr,
    /// Its VLAN; 0 for ports without VLAN awareness.
    pub vlan: u16,
    /// The port it is behind.
    pub port: String,
    /// Its switch.
    pub switch: String,
    /// `dynamic` or `static`.
    pub kind: String,
    /// Seconds since it was last seen; `null` for static entries.
    pub age: Option<u64>,
}

/// `POST /v1/macs` and `DELETE /v1/macs`: a static entry, part of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct MacEdit {
    /// Port it is behind.
    pub port: String,
    /// The address.
    #[schemars(with = "String")]
    pub mac: MacAddr,
    /// Its VLAN; left out: the port's own (access or native).
    #[serde(default)]
    pub vlan: Option<u16>,
}

/// `POST /v1/macs/flush`: removes learnt entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct MacFlush {
    /// Only behind this port.
    #[serde(default)]
    pub port: Option<String>,
    /// Only in this VLAN.
    #[serde(default)]
    pub vlan: Option<u16>,
}

/// Answer to [`MacFlush`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Flushed {
    /// How many entries were removed.
    pub removed: usize,
}

/// `POST /v1/ports`, `PATCH /v1/ports/NAME`: keys of a port as in the file (`port-group`, `tap`, `device`, `vhost-user`, `stream`, `mac`, `vlan` …).
/// A dotted key such as `security.promiscuous` sets one key of a map and leaves its neighbours alone. In a PATCH a key with
/// the value `null` is removed, so that the group's holds again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PortEdit {
    /// The switch; left out where there is only one, or where the port is known.
    #[serde(default)]
    pub switch: Option<String>,
    /// Name of the port (POST only).
    #[serde(default)]
    pub name: Option<String>,
    /// The keys.
    pub settings: serde_json::Map<String, serde_json::Value>,
}

/// `GET /v1/ports/NAME/export` and `POST /v1/ports/NAME/import`: what of a port goes with its guest to another host. More keys may follow; those that are not
/// known are passed over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PortDocument {
    /// Version of the document: 1.
    pub version: u32,
    /// Name of the port where it comes from.
    pub name: String,
    /// Its switch.
    pub switch: String,
    /// Its port group.
    #[serde(default)]
    pub group: Option<String>,
    /// When it was exported, RFC 3339, UTC.
    pub exported: String,
    /// Settings in force, group and port taken together, in the file's words.
    #[serde(default)]
    pub settings: serde_json::Value,
    /// The address that the guest uses.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub guest_mac: Option<MacAddr>,
    /// All addresses behind the port.
    #[serde(default)]
    pub macs: Vec<PortMac>,
    /// Its counters.
    #[serde(default)]
    pub counters: PortStats,
    /// IP addresses of the guest; not in this version.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Groups that the guest has joined; not in this version.
    #[serde(default)]
    pub multicast_groups: Vec<serde_json::Value>,
    /// Credit of its shapers; not in this version.
    #[serde(default)]
    pub shaper: Option<serde_json::Value>,
    /// Connections that are tracked; not in this version.
    #[serde(default)]
    pub connections: Vec<serde_json::Value>,
    /// NAT bindings; not in this version.
    #[serde(default)]
    pub nat: Vec<serde_json::Value>,
    /// DHCP leases; not in this version.
    #[serde(default)]
    pub leases: Vec<serde_json::Value>,
}

/// An address of a [`PortDocument`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PortMac {
    /// The address.
    #[schemars(with = "String")]
    pub mac: MacAddr,
    /// Its VLAN; 0 for ports without VLAN awareness.
    pub vlan: u16,
}

/// What an import did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ImportReport {
    /// Name of the port.
    pub port: String,
    /// MAC addresses in the document.
    pub macs: usize,
    /// Whether they are in the MAC table and announced; else they will be when the port carries frames.
    pub taken_up: bool,
    /// What differs between the port here and where it comes from.
    pub warnings: Vec<String>,
}

/// `POST /v1/trace`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TraceRequest {
    /// The port that the frame is to come from.
    pub port: String,
    /// The frame from the destination address on, hexadecimal.
    pub frame: String,
}

/// Answer to [`TraceRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TraceReport {
    /// The frame in one line, as tcpdump would say it.
    pub frame: String,
    /// Each stage in the order of the frame's way.
    pub steps: Vec<TraceStep>,
    /// `forward` or `drop`.
    pub verdict: String,
    /// Name of the drop reason.
    pub reason: Option<String>,
    /// Why it is dropped, or where it goes.
    pub explanation: String,
    /// Ports that get a copy, with the tag it carries.
    pub hops: Vec<TraceHop>,
}

/// A stage of a [`TraceReport`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TraceStep {
    /// `parse`, `vlan-ingress`, `security`, `learn`, `lookup`, `withheld`, `vlan-egress`.
    pub stage: String,
    /// What was decided.
    pub decision: String,
    /// Why.
    pub why: String,
}

/// A copy of a traced frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TraceHop {
    /// Port it leaves by.
    pub port: String,
    /// VID of the tag it leaves with; `null`: untagged.
    pub vlan: Option<u16>,
}

/// A line of `GET /v1/events` (NDJSON; `?follow=true` goes on).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct EventRow {
    /// When, RFC 3339 with milliseconds, UTC.
    pub time: String,
    /// `apply`, `rollback`, `port-up`, `port-down`, `mac-moved`, `queue-moved`, `send-failed`, `activated`, `imported`, `team-changed`, `left-alone`, `start`, `stop` …
    pub kind: String,
    /// The port it is about.
    pub port: Option<String>,
    /// One sentence.
    pub message: String,
}

/// `GET /v1/show`: the whole switch as a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Tree {
    /// Generation in force.
    pub generation: u64,
    /// Its switches.
    pub switches: Vec<TreeSwitch>,
}

/// A switch of a [`Tree`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TreeSwitch {
    /// Its name.
    pub name: String,
    /// Its MTU.
    pub mtu: u16,
    /// Entries in its MAC table.
    pub macs: u64,
    /// Capacity of its MAC table.
    pub mac_table_size: u64,
    /// Its uplinks.
    #[serde(default)]
    pub uplinks: Vec<UplinkRow>,
    /// Its groups, each with its ports.
    pub groups: Vec<TreeGroup>,
}

/// A port group of a [`TreeSwitch`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TreeGroup {
    /// Its name.
    pub name: String,
    /// VLAN in short.
    pub vlan: String,
    /// Its ports.
    pub ports: Vec<PortRow>,
}
