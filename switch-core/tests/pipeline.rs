//! Rules of a frame's way, one by one.

use std::sync::Arc;
use std::time::Duration;

use switch_core::fdb::Fdb;
use switch_core::frame::{FrameView, Hop};
use switch_core::id::{PortId, SwitchId};
use switch_core::offload::Offload;
use switch_core::pipeline::{Mode, Silent, forward};
use switch_core::security::{PortState, SecurityPolicy};
use switch_core::snapshot::{Port, Snapshot, Switch};
use switch_core::time::Timestamp;
use switch_core::verdict::DropReason;
use switch_core::vlan::VlanPolicy;

fn id(number: u16) -> PortId {
    PortId::new(number).unwrap()
}

/// Ports 0, 1, … of one switch with these VLAN policies and no security policy.
fn snapshot(policies: &[VlanPolicy]) -> Snapshot {
    let open = SecurityPolicy {
        promiscuous: false,
        mac_changes: true,
        forged_transmits: true,
    };
    let ports = (0..)
        .zip(policies)
        .map(|(number, vlan)| Port {
            id: id(number),
            switch: SwitchId(0),
            enabled: true,
            up: true,
            vlan: vlan.clone(),
            security: open,
            mac: None,
            isolated: false,
            mac_limit: None,
            state: Arc::new(PortState::default()),
        })
        .collect();
    let switch = Switch {
        mtu: 1500,
        ageing: Duration::from_secs(300),
        fdb: Arc::new(Fdb::new(100, 1)),
    };
    Snapshot::new(1, vec![switch], ports)
}

/// A frame of 64 octets; `after` is what follows the addresses.
fn frame(destination: [u8; 6], source: [u8; 6], after: &[u8]) -> Vec<u8> {
    let mut frame = [&destination[..], &source, after].concat();
    frame.resize(64, 0);
    frame
}

fn send(snapshot: &Snapshot, from: u16, frame: &[u8]) -> Result<Vec<Hop>, DropReason> {
    let view = FrameView {
        port: id(from),
        header: frame,
        len: frame.len(),
        offload: Offload::default(),
    };
    let mut hops = Vec::new();
    let now = Timestamp::from_secs(86_400);
    forward(snapshot, now, &view, Mode::Live, &mut hops, &mut Silent)?;
    Ok(hops)
}

const ALL: [u8; 6] = [0xff; 6];

#[test]
fn a_source_is_any_individual_address_but_zero() {
    let snapshot = snapshot(&[VlanPolicy::Unaware, VlanPolicy::Unaware]);
    let sent = |source| send(&snapshot, 0, &frame(ALL, source, &[0x88, 0xb5])).map(|hops| hops.len());
    for first in (2..=0xfe).step_by(2) {
        assert_eq!(sent([first, 0, 0, 0, 0, 0]), Ok(1), "{first:#x}");
        assert_eq!(sent([first, 0xff, 0xff, 0xff, 0xff, 0xff]), Ok(1), "{first:#x}");
        assert_eq!(sent([first | 1, 0, 0, 0, 0, 1]), Err(DropReason::BadSource));
    }
    assert_eq!(sent([0, 0, 0, 0, 0, 1]), Ok(1));
    assert_eq!(sent([0; 6]), Err(DropReason::BadSource));
    assert_eq!(sent(ALL), Err(DropReason::BadSource));
}
