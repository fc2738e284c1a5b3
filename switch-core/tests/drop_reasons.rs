//! Every reason for which the core drops a frame, by a frame that it drops for this reason.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{ACCEPT, Bench, REJECT, frame, id, mac, port, switch, tagged, trunk, vid};
use switch_core::addr::MacAddr;
use switch_core::fdb::Fdb;
use switch_core::id::SwitchId;
use switch_core::offload::{Gso, GsoKind, Offload};
use switch_core::security::{CHANGE_AFTER, SecurityPolicy};
use switch_core::snapshot::{MacLimit, Overflow, Port, Switch};
use switch_core::verdict::DropReason;
use switch_core::vid::Tpid;
use switch_core::vlan::VlanPolicy;

/// Two ports; the test changes what it needs.
fn two(change: impl Fn(&mut [Port])) -> Bench {
    let mut ports = vec![port(1), port(2)];
    change(&mut ports);
    Bench::new(ports)
}

fn broadcast(source: u64) -> Vec<u8> {
    frame(MacAddr::BROADCAST, mac(source))
}

#[test]
fn runt() {
    let mut bench = two(|_| {});
    assert_eq!(bench.ports(1, &broadcast(1)[..13]), Err(DropReason::Runt));
    assert_eq!(bench.ports(1, &[]), Err(DropReason::Runt));
    assert_eq!(bench.ports(1, &broadcast(1)[..14]), Ok(vec![2]));
}

#[test]
fn port_disabled() {
    let mut bench = two(|ports| ports[0].enabled = false);
    assert_eq!(bench.ports(1, &broadcast(1)), Err(DropReason::PortDisabled));
    assert_eq!(
        bench.ports(9, &broadcast(1)),
        Err(DropReason::PortDisabled),
        "nor one that is not there"
    );
}

#[test]
fn too_long() {
    let mut bench = two(|ports| {
        for port in ports {
            port.vlan = trunk(&[5], Some(1));
        }
    });
    let mut long = broadcast(1);
    long.resize(1515, 0);
    assert_eq!(bench.ports(1, &long), Err(DropReason::TooLong));
    assert_eq!(bench.ports(1, &long[..1514]), Ok(vec![2]));
    let one = tagged(&long, 0x8100, 5);
    assert_eq!(bench.ports(1, &one), Err(DropReason::TooLong));
    assert_eq!(bench.ports(1, &one[..1518]), Ok(vec![2]));
    let two = tagged(&tagged(&long, 0x8100, 7), 0x8100, 5);
    assert_eq!(bench.ports(1, &two), Err(DropReason::TooLong));
    assert_eq!(bench.ports(1, &two[..1522]), Ok(vec![2]));
    let gso = |size| Offload {
        gso: Some(Gso {
            kind: GsoKind::Tcp4,
            size,
            header_len: 54,
            ecn: false,
        }),
        ..Offload::default()
    };
    long.resize(60_000, 0);
    assert_eq!(bench.send_as(1, &long, gso(1461)), Err(DropReason::TooLong));
    assert!(bench.send_as(1, &long, gso(1460)).is_ok());
}

#[test]
fn vlan_truncated() {
    let mut bench = two(|_| {});
    for tpid in [0x8100, 0x88a8] {
        let frame = tagged(&broadcast(1), tpid, 0);
        for len in 14..18 {
            assert_eq!(bench.ports(1, &frame[..len]), Err(DropReason::VlanTruncated));
        }
        assert_eq!(bench.ports(1, &frame[..18]), Ok(vec![2]));
    }
}

#[test]
fn vlan_reserved() {
    let policies = [
        VlanPolicy::Unaware,
        VlanPolicy::Access(vid(5)),
        VlanPolicy::Tunnel(vid(5)),
        trunk(&[5], Some(5)),
    ];
    for policy in policies {
        let mut bench = two(|ports| ports[0].vlan = policy.clone());
        let frame = tagged(&broadcast(1), 0x8100, 0xffff);
        assert_eq!(
            bench.ports(1, &frame),
            Err(DropReason::VlanReserved),
            "{policy:?}"
        );
    }
    let mut bench = two(|ports| {
        ports[0].vlan = VlanPolicy::Trunk {
            vlans: [vid(5)].into_iter().collect(),
            native: None,
            tpid: Tpid::Dot1Ad,
        };
    });
    let frame = tagged(&broadcast(1), 0x88a8, 0xfff);
    assert_eq!(bench.ports(1, &frame), Err(DropReason::VlanReserved));
}

#[test]
fn bad_source() {
    let mut bench = two(|_| {});
    for source in [
        MacAddr::ZERO,
        MacAddr::BROADCAST,
        MacAddr([1, 0, 0x5e, 0, 0, 1]),
        MacAddr([1, 0, 0, 0, 0, 0]),
    ] {
        let frame = frame(MacAddr::BROADCAST, source);
        assert_eq!(bench.ports(1, &frame), Err(DropReason::BadSource), "{source}");
    }
}

#[test]
fn reserved_address() {
    let mut bench = two(|_| {});
    for last in 0..16 {
        let frame = frame(MacAddr([1, 0x80, 0xc2, 0, 0, last]), mac(1));
        assert_eq!(bench.ports(1, &frame), Err(DropReason::ReservedAddress));
    }
    let next = frame(MacAddr([1, 0x80, 0xc2, 0, 0, 16]), mac(1));
    assert_eq!(bench.ports(1, &next), Ok(vec![2]));
}

#[test]
fn vlan_tagged() {
    for policy in [VlanPolicy::Unaware, VlanPolicy::Access(vid(5))] {
        let mut bench = two(|ports| {
            for port in ports {
                port.vlan = policy.clone();
            }
        });
        let own = tagged(&broadcast(1), 0x8100, 5);
        assert_eq!(bench.ports(1, &own), Err(DropReason::VlanTagged));
        let priority = tagged(&broadcast(1), 0x8100, 0xe000);
        assert_eq!(bench.ports(1, &priority), Ok(vec![2]));
    }
}

#[test]
fn vlan_untagged() {
    let mut bench = two(|ports| ports[0].vlan = trunk(&[5], None));
    assert_eq!(bench.ports(1, &broadcast(1)), Err(DropReason::VlanUntagged));
    let priority = tagged(&broadcast(1), 0x8100, 0xe000);
    assert_eq!(bench.ports(1, &priority), Err(DropReason::VlanUntagged));
}

#[test]
fn vlan_not_allowed() {
    let mut bench = two(|ports| ports[0].vlan = trunk(&[5], None));
    let other = tagged(&broadcast(1), 0x8100, 6);
    assert_eq!(bench.ports(1, &other), Err(DropReason::VlanNotAllowed));
}

#[test]
fn forged_transmit() {
    let mut bench = two(|ports| {
        ports[0].security = REJECT;
        ports[0].mac = Some(mac(1));
    });
    assert_eq!(bench.ports(1, &broadcast(3)), Err(DropReason::ForgedTransmit));
    assert_eq!(bench.ports(1, &broadcast(1)), Ok(vec![2]));
    let fdb = &bench.snapshot.switches()[0].fdb;
    assert_eq!(fdb.counters().learnt, 1, "a forged source is not learnt");
}

#[test]
fn static_mac() {
    let mut bench = two(|_| {});
    let fdb = Arc::clone(&bench.snapshot.switches()[0].fdb);
    fdb.insert_static(vid(0), mac(1), id(2)).unwrap();
    assert_eq!(bench.ports(1, &broadcast(1)), Err(DropReason::StaticMac));
    assert_eq!(bench.ports(2, &broadcast(1)), Ok(vec![1]));
}

#[test]
fn mac_limit() {
    for (overflow, verdict) in [
        (Overflow::Drop, Err(DropReason::MacLimit)),
        (Overflow::Flood, Ok(vec![2])),
    ] {
        let mut bench = two(|ports| ports[0].mac_limit = Some(MacLimit { count: 1, overflow }));
        assert_eq!(bench.ports(1, &broadcast(1)), Ok(vec![2]));
        assert_eq!(bench.ports(1, &broadcast(3)), verdict);
        assert_eq!(bench.snapshot.switches()[0].fdb.counters().entries, 1);
    }
}

#[test]
fn same_port() {
    let mut bench = two(|_| {});
    bench.ports(1, &broadcast(1)).unwrap();
    assert_eq!(bench.ports(1, &frame(mac(1), mac(3))), Err(DropReason::SamePort));
}

#[test]
fn isolated() {
    let mut bench = Bench::new(
        (1..=3)
            .map(|number| Port {
                isolated: number != 3,
                ..port(number)
            })
            .collect(),
    );
    assert_eq!(bench.ports(1, &broadcast(1)), Ok(vec![3]));
    assert_eq!(bench.ports(2, &frame(mac(1), mac(2))), Err(DropReason::Isolated));
    assert_eq!(bench.ports(3, &frame(mac(1), mac(3))), Ok(vec![1]));
}

#[test]
fn egress_vlan() {
    let mut bench = two(|ports| {
        ports[0].vlan = trunk(&[5, 6], None);
        ports[1].vlan = trunk(&[6], None);
    });
    let fdb = Arc::clone(&bench.snapshot.switches()[0].fdb);
    fdb.insert_static(vid(5), mac(2), id(2)).unwrap();
    let frame = tagged(&frame(mac(2), mac(1)), 0x8100, 5);
    assert_eq!(bench.ports(1, &frame), Err(DropReason::EgressVlan));
}

#[test]
fn vlan_nested() {
    let mut bench = two(|ports| {
        ports[0].vlan = VlanPolicy::Access(vid(5));
        ports[1].vlan = trunk(&[7], Some(5));
    });
    let fdb = Arc::clone(&bench.snapshot.switches()[0].fdb);
    fdb.insert_static(vid(5), mac(2), id(2)).unwrap();
    let frame = frame(mac(2), mac(1));
    assert_eq!(bench.ports(1, &tagged(&frame, 0x8100, 0)), Ok(vec![2]));
    let nested = tagged(&tagged(&frame, 0x8100, 7), 0x8100, 0);
    assert_eq!(bench.ports(1, &nested), Err(DropReason::VlanNested));
}

#[test]
fn mac_changed() {
    let mut bench = two(|ports| {
        ports[0].security = REJECT;
        ports[0].mac = Some(mac(1));
    });
    let to_guest = frame(mac(1), mac(2));
    bench.ports(1, &broadcast(1)).unwrap();
    assert_eq!(bench.ports(2, &to_guest), Ok(vec![1]));
    for _ in 0..CHANGE_AFTER {
        assert_eq!(bench.ports(1, &broadcast(3)), Err(DropReason::ForgedTransmit));
    }
    assert_eq!(bench.ports(2, &to_guest), Err(DropReason::MacChanged));
    bench.ports(1, &broadcast(1)).unwrap();
    assert_eq!(bench.ports(2, &to_guest), Ok(vec![1]));
}

#[test]
fn no_destination() {
    let mut bench = two(|ports| ports[1].up = false);
    assert_eq!(bench.ports(1, &broadcast(1)), Err(DropReason::NoDestination));
    let other = SwitchId(1);
    let ports = vec![
        port(1),
        Port {
            switch: other,
            ..port(2)
        },
    ];
    let mut bench = Bench::of(vec![switch(), switch()], ports);
    assert_eq!(bench.ports(1, &broadcast(1)), Err(DropReason::NoDestination));
}

#[test]
fn a_known_port_that_is_down_is_a_miss() {
    let mut ports = vec![port(1), port(2), port(3)];
    ports[1].up = false;
    let fdb = Arc::new(Fdb::new(100, 1));
    fdb.insert_static(vid(0), mac(2), id(2)).unwrap();
    let switch = Switch {
        mtu: 1500,
        ageing: Duration::from_secs(300),
        fdb,
    };
    let mut bench = Bench::of(vec![switch], ports);
    assert_eq!(bench.ports(1, &frame(mac(2), mac(1))), Ok(vec![3]));
}

#[test]
fn promiscuous_ports_see_each_frame_of_their_vlans_once() {
    let watch = SecurityPolicy {
        promiscuous: true,
        ..ACCEPT
    };
    let mut ports: Vec<Port> = (1..=5).map(port).collect();
    ports[2].security = watch;
    ports[3].security = watch;
    ports[3].vlan = VlanPolicy::Access(vid(7));
    let mut bench = Bench::new(ports);
    bench.ports(2, &broadcast(2)).unwrap();
    bench.ports(3, &broadcast(3)).unwrap();
    assert_eq!(bench.ports(1, &frame(mac(2), mac(1))), Ok(vec![2, 3]));
    assert_eq!(bench.ports(1, &frame(mac(3), mac(1))), Ok(vec![3]));
    assert_eq!(bench.ports(1, &broadcast(1)), Ok(vec![2, 3, 5]));
}

#[test]
fn unknown_unicast_is_withheld_from_guests_with_another_address() {
    let mut ports: Vec<Port> = (1..=4).map(port).collect();
    for (at, address) in [(1, 2), (2, 3)] {
        ports[at].security = REJECT;
        ports[at].mac = Some(mac(address));
    }
    let mut bench = Bench::new(ports);
    assert_eq!(bench.ports(1, &frame(mac(2), mac(1))), Ok(vec![2, 4]));
    assert_eq!(bench.ports(1, &frame(mac(9), mac(1))), Ok(vec![4]));
    assert_eq!(bench.ports(1, &broadcast(1)), Ok(vec![2, 3, 4]));
}
