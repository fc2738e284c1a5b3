//! Uplinks as an administrator thinks of them: two VMs inside, three uplinks, and a network outside that sends back what it hears.

mod common;

use std::time::Duration;

use common::{Bench, frame, id, mac, port, switch, vid};
use switch_core::addr::MacAddr;
use switch_core::snapshot::Port;
use switch_core::team::{Exit, Hears, Role, UplinkSet};
use switch_core::verdict::DropReason;
use switch_core::vid::{Tpid, Vid};
use switch_core::vlan::{VlanPolicy, VlanSet};

const VM: u16 = 1;
const OTHER_VM: u16 = 2;
const UP: [u16; 3] = [11, 12, 13];
const OUTSIDE: u16 = 20;

fn set(numbers: &[u8]) -> UplinkSet {
    numbers.iter().copied().collect()
}

fn vm(number: u16, exit: Exit, groups: &[u8]) -> Port {
    Port {
        vlan: VlanPolicy::Access(vid(100)),
        role: Role::Inside {
            exit,
            hears: Hears {
                unicast: set(&[0, 1]),
                groups: set(groups),
            },
        },
        ..port(number)
    }
}

fn uplink(number: u16, role: Role) -> Port {
    Port {
        vlan: VlanPolicy::Trunk {
            vlans: VlanSet::all(),
            native: Some(Vid::UNAWARE),
            tpid: Tpid::Dot1Q,
        },
        role,
        ..port(number)
    }
}

/// The first VM has the first uplink, the other the second; nobody uses the third.
fn bench() -> Bench {
    let mut ports = vec![
        vm(VM, Exit::One(id(UP[0])), &[0]),
        vm(OTHER_VM, Exit::One(id(UP[1])), &[1]),
        uplink(OUTSIDE, Role::Outside),
    ];
    ports.extend(UP.iter().enumerate().map(|(number, up)| {
        let role = Role::Uplink {
            number: number as u8,
            outside: id(OUTSIDE),
        };
        uplink(*up, role)
    }));
    Bench::of(vec![switch()], ports)
}

fn tagged(frame: &[u8]) -> Vec<u8> {
    common::tagged(frame, 0x8100, 100)
}

/// What QEMU sends when a guest has arrived.
fn rarp(station: MacAddr) -> Vec<u8> {
    let mut frame = frame(MacAddr::BROADCAST, station);
    frame[12..22].copy_from_slice(&[0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
    frame[22..28].copy_from_slice(&station.0);
    frame[32..38].copy_from_slice(&station.0);
    frame
}

#[test]
fn each_vm_leaves_by_its_own_uplink_and_hears_broadcasts_by_it() {
    let mut bench = bench();
    let broadcast = frame(MacAddr::BROADCAST, mac(1));
    assert_eq!(bench.ports(VM, &broadcast), Ok(vec![OTHER_VM, UP[0]]));
    let tag = bench.hops.iter().find(|hop| hop.port == id(UP[0])).unwrap().tag;
    assert_eq!(tag.map(|tag| tag.tci), Some(100));

    let from_outside = tagged(&frame(MacAddr::BROADCAST, mac(9)));
    assert_eq!(bench.ports(UP[0], &from_outside), Ok(vec![VM]));
    assert_eq!(bench.ports(UP[1], &from_outside), Ok(vec![OTHER_VM]));
    assert_eq!(bench.ports(UP[2], &from_outside), Err(DropReason::Duplicate));
    // Heard by three uplinks, it has moved by none, and is reached by each sender's own.
    assert_eq!(bench.ports(VM, &frame(mac(9), mac(1))), Ok(vec![UP[0]]));
    assert_eq!(bench.ports(OTHER_VM, &frame(mac(9), mac(2))), Ok(vec![UP[1]]));
    assert_eq!(bench.snapshot.switches()[0].fdb.counters().moves, 0);
}

#[test]
fn unicast_comes_in_by_every_uplink_of_the_team_and_goes_to_no_other_uplink() {
    let mut bench = bench();
    bench.ports(VM, &frame(MacAddr::BROADCAST, mac(1))).unwrap();
    let to_vm = tagged(&frame(mac(1), mac(9)));
    assert_eq!(bench.ports(UP[0], &to_vm), Ok(vec![VM]));
    assert_eq!(bench.ports(UP[1], &to_vm), Ok(vec![VM]));
    assert_eq!(bench.ports(UP[2], &to_vm), Err(DropReason::UplinkUnused));
    let outside = tagged(&frame(mac(9), mac(8)));
    assert_eq!(bench.ports(UP[1], &outside), Err(DropReason::SamePort));
}

#[test]
fn what_the_network_sends_back_is_dropped_and_moves_nothing() {
    let mut bench = bench();
    let sent = frame(MacAddr::BROADCAST, mac(1));
    bench.ports(VM, &sent).unwrap();
    for up in UP {
        assert_eq!(bench.ports(up, &tagged(&sent)), Err(DropReason::Reflection));
    }
    assert_eq!(bench.ports(OTHER_VM, &frame(mac(1), mac(2))), Ok(vec![VM]));
}

#[test]
fn a_station_that_has_left_without_a_word_is_followed_when_it_was_silent_inside() {
    let mut bench = bench();
    bench.ports(VM, &frame(MacAddr::BROADCAST, mac(1))).unwrap();
    let from_outside = tagged(&frame(mac(2), mac(1)));
    bench.now = bench.now + Duration::from_secs(5);
    assert_eq!(bench.ports(UP[1], &from_outside), Err(DropReason::Reflection));
    bench.now = bench.now + Duration::from_secs(1);
    bench.ports(UP[1], &from_outside).unwrap();
    assert_eq!(bench.ports(OTHER_VM, &frame(mac(1), mac(2))), Ok(vec![UP[1]]));
    // A guest that takes the address of a station outside has it no longer than it goes on.
    bench.ports(VM, &frame(mac(2), mac(1))).unwrap();
    assert_eq!(bench.ports(UP[1], &from_outside), Err(DropReason::Reflection));
    bench.now = bench.now + Duration::from_secs(6);
    bench.ports(UP[1], &from_outside).unwrap();
    assert_eq!(bench.ports(OTHER_VM, &frame(mac(1), mac(2))), Ok(vec![UP[1]]));
}

#[test]
fn what_the_switch_announces_of_a_silent_station_does_not_move_it_when_it_comes_back() {
    let mut bench = bench();
    bench.ports(VM, &frame(MacAddr::BROADCAST, mac(1))).unwrap();
    bench.now = bench.now + Duration::from_secs(30);
    let fdb = bench.snapshot.switches()[0].fdb.clone();
    fdb.hold(vid(100), mac(1), id(VM), bench.now);
    // Another entry is taken out meanwhile: what is held goes along with its own.
    fdb.insert_static(vid(100), mac(5), id(VM)).unwrap();
    fdb.remove(vid(100), mac(5));
    let announcement = tagged(&rarp(mac(1)));
    assert_eq!(bench.ports(UP[1], &announcement), Err(DropReason::Reflection));
    assert_eq!(bench.ports(OTHER_VM, &frame(mac(1), mac(2))), Ok(vec![VM]));
    bench.now = bench.now + Duration::from_secs(6);
    bench.ports(UP[1], &announcement).unwrap();
    assert_eq!(bench.ports(OTHER_VM, &frame(mac(1), mac(2))), Ok(vec![UP[1]]));
}

#[test]
fn what_comes_back_of_a_static_station_is_a_reflection() {
    let mut bench = bench();
    let fdb = bench.snapshot.switches()[0].fdb.clone();
    fdb.insert_static(vid(100), mac(1), id(VM)).unwrap();
    bench.now = bench.now + Duration::from_secs(30);
    for frame in [tagged(&rarp(mac(1))), tagged(&frame(mac(2), mac(1)))] {
        assert_eq!(bench.ports(UP[1], &frame), Err(DropReason::Reflection));
    }
}

#[test]
fn only_what_is_for_all_announces() {
    let mut bench = bench();
    let mut unicast = rarp(mac(1));
    unicast[..6].copy_from_slice(&mac(7).0);
    bench.ports(VM, &unicast).unwrap();
    assert_eq!(bench.ports(UP[1], &tagged(&unicast)), Err(DropReason::Reflection));
}

#[test]
fn an_announcement_from_outside_moves_a_station_but_not_its_own_reflection() {
    let mut bench = bench();
    let announcement = rarp(mac(1));
    assert_eq!(bench.ports(VM, &announcement), Ok(vec![OTHER_VM, UP[0]]));
    // It comes back by the other uplink.
    bench.now = bench.now + Duration::from_secs(5);
    assert_eq!(
        bench.ports(UP[1], &tagged(&announcement)),
        Err(DropReason::Reflection)
    );
    assert_eq!(bench.ports(OTHER_VM, &frame(mac(1), mac(2))), Ok(vec![VM]));
    // Much later it is the guest on another host.
    bench.now = bench.now + Duration::from_secs(1);
    assert_eq!(bench.ports(UP[1], &tagged(&announcement)), Ok(vec![OTHER_VM]));
    assert_eq!(bench.ports(OTHER_VM, &frame(mac(1), mac(2))), Ok(vec![UP[1]]));
    assert_eq!(bench.snapshot.switches()[0].fdb.counters().moves, 1);
    // And back again: the first announcement counts, whoever heard the station last.
    assert_eq!(bench.ports(VM, &announcement), Ok(vec![OTHER_VM, UP[0]]));
    assert_eq!(bench.ports(OTHER_VM, &frame(mac(1), mac(2))), Ok(vec![VM]));
}

#[test]
fn without_an_uplink_nothing_leaves() {
    let mut bench = bench();
    let mut ports: Vec<Port> = bench.snapshot.ports().cloned().collect();
    bench
        .ports(UP[0], &tagged(&frame(MacAddr::BROADCAST, mac(9))))
        .unwrap();
    let switches = bench.snapshot.switches().to_vec();
    ports[0] = vm(VM, Exit::None, &[]);
    bench.snapshot = switch_core::snapshot::Snapshot::new(2, switches, ports);
    assert_eq!(bench.ports(VM, &frame(mac(9), mac(1))), Err(DropReason::NoUplink));
    assert_eq!(
        bench.ports(VM, &frame(MacAddr::BROADCAST, mac(1))),
        Ok(vec![OTHER_VM])
    );
}

#[test]
fn a_port_that_waits_for_an_announcement_takes_nothing_before_and_all_after() {
    let mut bench = bench();
    let mut ports: Vec<Port> = bench.snapshot.ports().cloned().collect();
    let switches = bench.snapshot.switches().to_vec();
    let asleep = |ports: &mut Vec<Port>, dormant: bool| {
        ports[0].dormant = dormant;
        ports[0].up = !dormant;
        switch_core::snapshot::Snapshot::new(2, switches.clone(), ports.clone())
    };
    bench.snapshot = asleep(&mut ports, true);
    // An early frame moves nothing, and nothing is sent to it.
    assert_eq!(
        bench.ports(VM, &frame(mac(9), mac(1))),
        Err(DropReason::NotActivated)
    );
    assert_eq!(
        bench.ports(UP[0], &tagged(&frame(MacAddr::BROADCAST, mac(1)))),
        Err(DropReason::Duplicate)
    );
    assert_eq!(bench.ports(OTHER_VM, &frame(mac(1), mac(2))), Ok(vec![UP[1]]));
    // The announcement is flooded, and what follows it passes.
    assert_eq!(bench.ports(VM, &rarp(mac(1))), Ok(vec![OTHER_VM, UP[0]]));
    assert_eq!(bench.ports(VM, &frame(mac(2), mac(1))), Ok(vec![OTHER_VM]));
    bench.snapshot = asleep(&mut ports, false);
    assert_eq!(bench.ports(OTHER_VM, &frame(mac(1), mac(2))), Ok(vec![VM]));
}
