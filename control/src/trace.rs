//! `trace`: the way of one frame in words. It runs the real pipeline over the live snapshot in dry mode, so it says
//! what would happen to the frame and leaves no trace in the switch's state; each step comes with the setting that
//! decided it.

use switch_core::fdb::Learnt;
use switch_core::frame::{FrameView, Hop};
use switch_core::id::PortId;
use switch_core::offload::Offload;
use switch_core::pipeline::{Mode, Step, forward};
use switch_core::snapshot::{Overflow, Port, Snapshot};
use switch_core::team::{Exit, Role};
use switch_core::time::Timestamp;
use switch_core::verdict::DropReason;
use switch_core::vid::Vid;
use switch_core::vlan::VlanPolicy;

use crate::api::model::{TraceHop, TraceReport, TraceStep};
use crate::summary::summarise;

/// What the numbers of a snapshot are called.
pub trait Names {
    /// Name of a port.
    fn port(&self, port: PortId) -> String;
    /// Name of its port group.
    fn group(&self, port: PortId) -> String;
}

/// Says what would happen to `frame` if `port`, a port of the snapshot, sent it now.
pub fn trace(
    snapshot: &Snapshot,
    now: Timestamp,
    port: &Port,
    frame: &[u8],
    names: &dyn Names,
) -> TraceReport {
    let view = FrameView {
        port: port.id,
        header: frame,
        len: frame.len(),
        offload: Offload::default(),
    };
    let mut hops = Vec::new();
    let mut taken: Vec<Step> = Vec::new();
    let verdict = forward(snapshot, now, &view, Mode::Dry, &mut hops, &mut taken);
    let teller = Teller {
        snapshot,
        port,
        names,
    };
    let mut steps: Vec<TraceStep> = taken.iter().map(|step| teller.step(step)).collect();
    let summary = summarise(frame, frame.len());
    match verdict {
        Ok(()) => TraceReport {
            frame: summary,
            steps,
            verdict: "forward".to_owned(),
            reason: None,
            explanation: format!(
                "it goes to {}",
                hops.iter()
                    .map(|hop| names.port(hop.port))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
            hops: hops.iter().map(|hop| teller.hop(hop)).collect(),
        },
        Err(reason) => {
            let hit = taken.iter().rev().find_map(|step| match step {
                Step::Hit { port } => Some(*port),
                _ => None,
            });
            let why = teller.reason(reason, hit);
            steps.push(said(stage_of(reason), "drop", why.clone()));
            TraceReport {
                frame: summary,
                steps,
                verdict: "drop".to_owned(),
                reason: Some(reason.name().to_owned()),
                explanation: why,
                hops: Vec::new(),
            }
        }
    }
}

fn said(stage: &str, decision: impl Into<String>, why: impl Into<String>) -> TraceStep {
    TraceStep {
        stage: stage.to_owned(),
        decision: decision.into(),
        why: why.into(),
    }
}

/// The stage that drops for a reason.
fn stage_of(reason: DropReason) -> &'static str {
    use DropReason as R;
    match reason {
        R::Runt | R::TooLong | R::VlanTruncated | R::BadOffload | R::RxTruncated | R::PortDisabled => "parse",
        R::VlanReserved | R::VlanTagged | R::VlanUntagged | R::VlanNotAllowed => "vlan-ingress",
        R::BadSource | R::ReservedAddress => "parse",
        R::ForgedTransmit => "security",
        R::NotActivated => "activation",
        R::StaticMac | R::MacLimit | R::Reflection => "learn",
        R::NoUplink => "team",
        R::Duplicate | R::UplinkUnused => "lookup",
        R::SamePort | R::Isolated | R::MacChanged | R::NoDestination => "lookup",
        R::EgressVlan | R::VlanNested => "vlan-egress",
        _ => "send",
    }
}

struct Teller<'a> {
    snapshot: &'a Snapshot,
    port: &'a Port,
    names: &'a dyn Names,
}

impl Teller<'_> {
    /// A setting of the traced port, as the administrator finds it.
    fn setting(&self, key: &str) -> String {
        self.setting_of(key, self.port.id)
    }

    fn setting_of(&self, key: &str, port: PortId) -> String {
        format!(
            "`{key}` of port {} (port group {})",
            self.names.port(port),
            self.names.group(port)
        )
    }

    fn vlan(vid: Vid) -> String {
        if vid == Vid::UNAWARE {
            "the VLAN of ports without `vlan`".to_owned()
        } else {
            format!("VLAN {vid}")
        }
    }

    fn step(&self, step: &Step) -> TraceStep {
        match *step {
            Step::Parsed {
                destination,
                source,
                tag,
            } => {
                let kind = if destination.is_broadcast() {
                    "broadcast"
                } else if destination.is_multicast() {
                    "multicast"
                } else {
                    "unicast"
                };
                let (decision, why) = match tag {
                    Some(tag) => (
                        format!(
                            "{source} > {destination}, {kind}, tagged {} priority {}",
                            tag.raw_vid(),
                            tag.pcp()
                        ),
                        format!(
                            "its EtherType {:#06x} is a tag for this port",
                            tag.tpid.ethertype()
                        ),
                    ),
                    None => (
                        format!("{source} > {destination}, {kind}, untagged"),
                        if self.port.vlan.tpid().is_none() {
                            "a tunnel port takes every tag for payload".to_owned()
                        } else {
                            "there is no tag after the addresses".to_owned()
                        },
                    ),
                };
                said("parse", decision, why)
            }
            Step::Vlan { vid, priority } => {
                let mut decision = Self::vlan(vid);
                if priority != 0 {
                    decision += &format!(", priority {}", priority >> 13);
                }
                let key = self.setting("vlan");
                let why = match &self.port.vlan {
                    VlanPolicy::Unaware => {
                        format!("port {} has no `vlan`", self.names.port(self.port.id))
                    }
                    VlanPolicy::Access(own) => format!("{key} is {own}, an access VLAN"),
                    VlanPolicy::Trunk { native, .. } if *native == Some(vid) => {
                        format!("{key} is a trunk with native VLAN {vid}")
                    }
                    VlanPolicy::Trunk { .. } => format!("{key} is a trunk that lists {vid}"),
                    VlanPolicy::Tunnel(own) => format!("{key} is a tunnel through {own}"),
                };
                said("vlan-ingress", decision, why)
            }
            Step::Security { effective } => {
                let why = match effective {
                    Some(mac) if self.port.security.forged_transmits => {
                        format!(
                            "{} is accept; the guest's effective address is {mac}",
                            self.setting("security.forged-transmits")
                        )
                    }
                    Some(mac) => format!("the guest's effective address is {mac}"),
                    None => "nothing is known of the guest's address".to_owned(),
                };
                said("security", "the source may pass", why)
            }
            Step::Learnt(learnt) => self.learnt(learnt),
            Step::Hit { port } => said(
                "lookup",
                format!("the destination is behind {}", self.names.port(port)),
                "the MAC table has it",
            ),
            Step::Flood { members } => said(
                "lookup",
                "flood",
                format!(
                    "the destination is a group or unknown; {members} ports that are up carry the VLAN, this one among them"
                ),
            ),
            Step::Withheld { port, reason } => said(
                "withheld",
                format!("not to {}", self.names.port(port)),
                match reason {
                    DropReason::Isolated => format!(
                        "{} and {} are both true",
                        self.setting("isolated"),
                        self.setting_of("isolated", port)
                    ),
                    DropReason::MacChanged => format!(
                        "{} is reject, and its guest uses another address than the configured one",
                        self.setting_of("security.mac-changes", port)
                    ),
                    DropReason::SamePort => "the frame came from there".to_owned(),
                    _ => reason.explain().to_owned(),
                },
            ),
            Step::OtherStation { port, effective } => said(
                "withheld",
                format!("not to {}", self.names.port(port)),
                format!(
                    "its guest is {effective}, and {} and {} are reject, so it is no other station",
                    self.setting_of("security.mac-changes", port),
                    self.setting_of("security.forged-transmits", port)
                ),
            ),
            Step::Exit { uplink } => said(
                "team",
                format!("outside, by {}", self.names.port(uplink)),
                match &self.port.role {
                    Role::Inside {
                        exit: Exit::One(_), ..
                    } => "it is the port's uplink".to_owned(),
                    Role::Inside {
                        exit: Exit::BySource(_),
                        ..
                    } => "the hash of the source address and VLAN says so".to_owned(),
                    _ => "the hash of the flow says so".to_owned(),
                },
            ),
            Step::Hop(hop) => {
                let decision = match hop.tag {
                    Some(tag) => {
                        format!("to {}, tagged {}", self.names.port(hop.port), tag.raw_vid())
                    }
                    None => format!("to {}, untagged", self.names.port(hop.port)),
                };
                let why = match self.snapshot.port(hop.port).map(|port| &port.vlan) {
                    Some(VlanPolicy::Trunk { native, .. }) if hop.tag.is_none() => format!(
                        "{} has the frame's VLAN {} as native",
                        self.setting_of("vlan", hop.port),
                        native.unwrap_or(Vid::UNAWARE)
                    ),
                    Some(VlanPolicy::Trunk { .. }) => {
                        format!("{} is a trunk that lists it", self.setting_of("vlan", hop.port))
                    }
                    Some(VlanPolicy::Access(vid) | VlanPolicy::Tunnel(vid)) => {
                        format!("{} is {vid}", self.setting_of("vlan", hop.port))
                    }
                    _ => format!("port {} has no `vlan`", self.names.port(hop.port)),
                };
                said("vlan-egress", decision, why)
            }
        }
    }

    fn learnt(&self, learnt: Learnt) -> TraceStep {
        let (decision, why) = match learnt {
            Learnt::Known => (
                "nothing to learn".to_owned(),
                "the source is known behind this port".to_owned(),
            ),
            Learnt::New => (
                "learn the source".to_owned(),
                "the MAC table does not have it yet".to_owned(),
            ),
            Learnt::Moved { from } => (
                "move the source here".to_owned(),
                format!("the MAC table has it behind {}", self.names.port(from)),
            ),
            Learnt::Static => (
                "nothing to learn".to_owned(),
                format!("{} has the source", self.setting("static-macs")),
            ),
            Learnt::Reflected { port } => (
                "refuse the source".to_owned(),
                format!(
                    "it is a station behind {}, and the frame its own reflection",
                    self.names.port(port)
                ),
            ),
            Learnt::StaticElsewhere { owner } => (
                "refuse the source".to_owned(),
                format!("{} has it", self.setting_of("static-macs", owner)),
            ),
            Learnt::Limited => (
                "not learnt".to_owned(),
                match self.port.mac_limit {
                    Some(limit) => format!(
                        "{} is reached ({} addresses), and its `overflow` is {}",
                        self.setting("mac-limit"),
                        limit.count,
                        match limit.overflow {
                            Overflow::Drop => "drop",
                            Overflow::Flood => "flood",
                        }
                    ),
                    None => "the MAC table has no room for it".to_owned(),
                },
            ),
            Learnt::Full => (
                "not learnt".to_owned(),
                "the MAC table is full of static entries; raise `mac-table.size`".to_owned(),
            ),
            Learnt::Busy => (
                "not learnt now".to_owned(),
                "another worker is writing to the MAC table; the next frame will be learnt".to_owned(),
            ),
        };
        said("learn", decision, why)
    }

    fn hop(&self, hop: &Hop) -> TraceHop {
        TraceHop {
            port: self.names.port(hop.port),
            vlan: hop.tag.map(switch_core::vid::Tag::raw_vid),
        }
    }

    /// The reason's explanation, and the setting that decided it. `hit` is the port of the destination, where it is known.
    fn reason(&self, reason: DropReason, hit: Option<PortId>) -> String {
        use DropReason as R;
        let hit = hit.unwrap_or(self.port.id);
        let key = match reason {
            R::MacChanged => {
                let setting = self.setting_of("security.mac-changes", hit);
                return format!("{} It is decided by {setting}.", reason.explain());
            }
            R::EgressVlan | R::VlanNested => {
                let setting = self.setting_of("vlan", hit);
                return format!("{} It is decided by {setting}.", reason.explain());
            }
            R::Isolated => {
                return format!(
                    "{} They are {} and {}.",
                    reason.explain(),
                    self.setting("isolated"),
                    self.setting_of("isolated", hit)
                );
            }
            R::PortDisabled => "enabled",
            R::VlanTagged | R::VlanUntagged | R::VlanNotAllowed => "vlan",
            R::ForgedTransmit => "security.forged-transmits",
            R::MacLimit => "mac-limit",
            R::TooLong => {
                let mtu = self.snapshot.switch(self.port.switch).mtu;
                return format!("{} The switch's `mtu` is {mtu}.", reason.explain());
            }
            _ => return reason.explain().to_owned(),
        };
        format!("{} It is decided by {}.", reason.explain(), self.setting(key))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;
    use std::time::Duration;

    use switch_core::fdb::Fdb;
    use switch_core::id::SwitchId;
    use switch_core::security::SecurityPolicy;
    use switch_core::snapshot::Switch;

    use super::*;

    struct Numbered;

    impl Names for Numbered {
        fn port(&self, port: PortId) -> String {
            format!("vm{}", port.get())
        }
        fn group(&self, _: PortId) -> String {
            "web".to_owned()
        }
    }

    fn port(id: u16, vlan: VlanPolicy) -> Port {
        Port {
            id: PortId::new(id).unwrap(),
            switch: SwitchId(0),
            enabled: true,
            up: true,
            vlan,
            security: SecurityPolicy::default(),
            mac: None,
            isolated: false,
            mac_limit: None,
            dormant: false,
            role: Role::default(),
            state: Arc::default(),
        }
    }

    fn snapshot() -> Snapshot {
        let access = || VlanPolicy::Access(Vid::new(100).unwrap());
        let switch = Switch {
            mtu: 1500,
            ageing: Duration::from_secs(300),
            fdb: Arc::new(Fdb::new(64, 1)),
        };
        let mut fixed = port(1, access());
        fixed.mac = Some("52:54:00:00:00:01".parse().unwrap());
        Snapshot::new(1, vec![switch], vec![fixed, port(2, access())])
    }

    fn run(snapshot: &Snapshot, port: u16, frame: &[u8]) -> TraceReport {
        let port = snapshot.port(PortId::new(port).unwrap()).unwrap();
        trace(snapshot, Timestamp::from_secs(1), port, frame, &Numbered)
    }

    fn frame(source: u8) -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend([0x52, 0x54, 0, 0, 0, source, 0x88, 0xb5]);
        frame.resize(60, 0);
        frame
    }

    #[test]
    fn a_forwarded_frame_tells_its_whole_way_and_leaves_no_trace() {
        let snapshot = snapshot();
        let report = run(&snapshot, 1, &frame(1));
        assert_eq!(report.verdict, "forward", "{report:?}");
        assert_eq!(
            report.hops,
            [TraceHop {
                port: "vm2".into(),
                vlan: None
            }]
        );
        let stages: HashSet<_> = report.steps.iter().map(|step| step.stage.as_str()).collect();
        for stage in [
            "parse",
            "vlan-ingress",
            "security",
            "learn",
            "lookup",
            "vlan-egress",
        ] {
            assert!(stages.contains(stage), "{stage} is not in {report:?}");
        }
        assert_eq!(snapshot.switches()[0].fdb.counters().entries, 0);
    }

    #[test]
    fn a_drop_at_the_destination_names_the_destinations_setting() {
        let switch = Switch {
            mtu: 1500,
            ageing: Duration::from_secs(300),
            fdb: Arc::new(Fdb::new(64, 1)),
        };
        let vid = Vid::new(100).unwrap();
        switch
            .fdb
            .insert_static(vid, "52:54:00:00:00:02".parse().unwrap(), PortId::new(2).unwrap())
            .unwrap();
        let isolated = |id| Port {
            isolated: true,
            ..port(id, VlanPolicy::Access(vid))
        };
        let snapshot = Snapshot::new(1, vec![switch], vec![isolated(1), isolated(2)]);
        let mut known = frame(1);
        known[..6].copy_from_slice(&[0x52, 0x54, 0, 0, 0, 2]);
        let report = run(&snapshot, 1, &known);
        assert_eq!(report.reason.as_deref(), Some("isolated"), "{report:?}");
        assert!(
            report.explanation.contains("`isolated` of port vm2"),
            "{}",
            report.explanation
        );
    }

    #[test]
    fn a_drop_names_the_setting_that_decided_it() {
        let report = run(&snapshot(), 1, &frame(9));
        assert_eq!(report.reason.as_deref(), Some("forged-transmit"), "{report:?}");
        assert!(
            report
                .explanation
                .contains("`security.forged-transmits` of port vm1 (port group web)"),
            "{}",
            report.explanation
        );
        assert_eq!(report.steps.last().unwrap().stage, "security");
        let mut tagged = frame(1);
        tagged.splice(12..12, [0x81, 0x00, 0, 7]);
        let report = run(&snapshot(), 1, &tagged);
        assert_eq!(report.reason.as_deref(), Some("vlan-tagged"), "{report:?}");
        assert!(report.explanation.contains("`vlan` of port vm1"));
    }
}
