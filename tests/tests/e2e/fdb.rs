//! The MAC table: learning, ageing, moves, flush, static entries, limits, and what happens when it is full.

use switch_core::addr::MacAddr;
use vswitch_tests::frame::{DOT1Q, frame, mac};
use vswitch_tests::wait::{BOUND, wait_until};

use crate::wires::{OPEN, Wires};

const THREE: [(&str, &str); 3] = [
    ("a", "port-group: all"),
    ("b", "port-group: all"),
    ("c", "port-group: all"),
];

fn three(keys: &str) -> Wires {
    Wires::new(keys, &format!("all: {{ {OPEN} }}"), &THREE)
}

fn behind(wires: &Wires, number: u32) -> Option<String> {
    wires.lab.mac_port(&mac(number).to_string(), None)
}

#[test]
fn an_unknown_station_is_flooded_to_and_a_known_one_is_not() {
    let mut wires = three("");
    assert_eq!(wires.probe("a", mac(2), mac(1), &[]).ports(), ["b", "c"]);
    assert_eq!(wires.probe("b", mac(1), mac(2), &[]).ports(), ["a"]);
    assert_eq!(wires.probe("a", mac(2), mac(1), &[]).ports(), ["b"]);
    assert_eq!(behind(&wires, 1).as_deref(), Some("a"));
    assert_eq!(behind(&wires, 2).as_deref(), Some("b"));
    // Groups are flooded, and never learnt.
    let group = MacAddr([0x01, 0x00, 0x5e, 1, 2, 3]);
    assert_eq!(wires.probe("a", group, mac(1), &[]).ports(), ["b", "c"]);
    // A frame never goes back to where it came from.
    assert_eq!(wires.probe("a", mac(1), mac(3), &[]).reason(), "same-port");
}

#[test]
fn an_entry_ages_when_nothing_is_heard() {
    let mut wires = three("mac-table: { ageing: 1s },");
    wires.learn("a", mac(1));
    wires.learn("b", mac(2));
    assert_eq!(behind(&wires, 1).as_deref(), Some("a"));
    wait_until("both entries are gone", BOUND, || {
        behind(&wires, 1).or(behind(&wires, 2)).is_none()
    });
    assert_eq!(wires.probe("b", mac(1), mac(2), &[]).ports(), ["a", "c"]);
    let aged = || {
        wires
            .lab
            .metrics()
            .sum("vswitch_mac_table_aged_total", &[])
            .unwrap_or_default()
    };
    wait_until("the table has let go of the aged entry", BOUND, || aged() >= 1.0);
}

#[test]
fn a_station_that_moves_is_followed_at_once() {
    let mut wires = three("");
    wires.learn("a", mac(1));
    wires.learn("b", mac(2));
    assert_eq!(wires.probe("b", mac(1), mac(2), &[]).ports(), ["a"]);
    wires.learn("c", mac(1));
    assert_eq!(wires.probe("b", mac(1), mac(2), &[]).ports(), ["c"]);
    assert_eq!(behind(&wires, 1).as_deref(), Some("c"));
    assert_eq!(
        wires.lab.metrics().sum("vswitch_mac_table_moves_total", &[]),
        Some(1.0)
    );
    wait_until("the move is told", BOUND, || {
        let events = wires.lab.ctl(&["events"]);
        events.contains("mac-moved") && events.contains(&mac(1).to_string())
    });
}

#[test]
fn entries_are_flushed_by_port_and_by_vlan() {
    let ports = [
        ("t", "port-group: all, vlan: { trunk: [100, 200] }"),
        ("a", "port-group: all, vlan: 100"),
        ("b", "port-group: all, vlan: 200"),
    ];
    let mut wires = Wires::new("", &format!("all: {{ {OPEN} }}"), &ports);
    let fill = |wires: &mut Wires| {
        wires.probe("t", MacAddr::BROADCAST, mac(1), &[(DOT1Q, 100)]);
        wires.probe("t", MacAddr::BROADCAST, mac(2), &[(DOT1Q, 200)]);
        wires.learn("a", mac(3));
        wires.learn("b", mac(4));
    };
    let known = |wires: &Wires| [1, 2, 3, 4].map(|number| behind(wires, number).is_some());
    fill(&mut wires);
    assert_eq!(known(&wires), [true; 4]);
    wires.lab.ctl(&["mac", "flush", "--port", "t"]);
    assert_eq!(known(&wires), [false, false, true, true]);
    fill(&mut wires);
    wires.lab.ctl(&["mac", "flush", "--vlan", "200"]);
    assert_eq!(known(&wires), [true, false, true, false]);
    fill(&mut wires);
    wires.lab.ctl(&["mac", "flush", "--port", "t", "--vlan", "100"]);
    assert_eq!(known(&wires), [false, true, true, true]);
    wires.lab.ctl(&["mac", "flush"]);
    assert_eq!(known(&wires), [false; 4]);
    assert_eq!(wires.probe("a", mac(1), mac(3), &[]).ports(), ["t"]);
}

#[test]
fn a_static_entry_never_moves_ages_or_is_flushed() {
    let mut wires = three("mac-table: { ageing: 1s },");
    wires.lab.ctl(&["mac", "add", "a", &mac(1).to_string()]);
    assert_eq!(behind(&wires, 1).as_deref(), Some("a"));
    assert_eq!(
        wires.probe("b", MacAddr::BROADCAST, mac(1), &[]).reason(),
        "static-mac"
    );
    assert_eq!(wires.probe("b", mac(1), mac(2), &[]).ports(), ["a"]);
    wires.lab.ctl(&["mac", "flush"]);
    assert_eq!(behind(&wires, 1).as_deref(), Some("a"));
    wires.learn("c", mac(3));
    wait_until("a dynamic entry ages", BOUND, || behind(&wires, 3).is_none());
    assert_eq!(behind(&wires, 1).as_deref(), Some("a"));
    // It is part of the configuration, so it is there again after a crash.
    wires.lab.kill();
    wires.lab.launch();
    for (name, _) in THREE {
        wires.open(name);
    }
    wires.lab.wait_all_up();
    assert_eq!(wires.probe("b", mac(1), mac(2), &[]).ports(), ["a"]);
    wires.lab.ctl(&["mac", "del", "a", &mac(1).to_string()]);
    assert_eq!(behind(&wires, 1), None);
    assert_eq!(
        wires.probe("b", MacAddr::BROADCAST, mac(1), &[]).ports(),
        ["a", "c"]
    );
    assert_eq!(behind(&wires, 1).as_deref(), Some("b"));
}

#[test]
fn a_port_at_its_mac_limit_drops_or_floods() {
    let ports = [
        ("drop", "port-group: all, mac-limit: { count: 2, overflow: drop }"),
        (
            "flood",
            "port-group: all, mac-limit: { count: 2, overflow: flood }",
        ),
        ("free", "port-group: all"),
    ];
    let mut wires = Wires::new("", &format!("all: {{ {OPEN} }}"), &ports);
    for (port, first) in [("drop", 10), ("flood", 20)] {
        assert_eq!(
            wires.probe(port, MacAddr::BROADCAST, mac(first), &[]).got.len(),
            2
        );
        assert_eq!(
            wires
                .probe(port, MacAddr::BROADCAST, mac(first + 1), &[])
                .got
                .len(),
            2
        );
    }
    assert_eq!(
        wires.probe("drop", MacAddr::BROADCAST, mac(12), &[]).reason(),
        "mac-limit"
    );
    assert_eq!(
        wires.probe("flood", MacAddr::BROADCAST, mac(22), &[]).ports(),
        ["drop", "free"]
    );
    assert_eq!(behind(&wires, 22), None, "beyond the limit nothing is learnt");
    // The ones that were there first go on.
    assert_eq!(wires.probe("drop", mac(20), mac(10), &[]).ports(), ["flood"]);
    // There is room again after a flush.
    wires.lab.ctl(&["mac", "flush", "--port", "drop"]);
    assert_eq!(wires.probe("drop", MacAddr::BROADCAST, mac(12), &[]).got.len(), 2);
}

#[test]
fn a_flood_of_addresses_costs_only_its_own_port() {
    let mut wires = three("mac-table: { size: 64 },");
    wires.learn("a", mac(1));
    wires.learn("b", mac(2));
    let before = wires.lab.stats();
    let sent = wires.flood(
        "c",
        (0..5000).map(|number| frame(mac(1), mac(1000 + number), &[], 1)),
    );
    // The TAP's own queue in the kernel may overflow before the switch.
    let station = wires.namespace("c");
    wires.lab.stats_until("all are seen", &before, |since| {
        let link = station.link("eth0").expect("the TAP is there");
        let lost = link["stats64"]["tx"]["dropped"]
            .as_u64()
            .expect("a link has statistics");
        since.port("c").receive.packets + lost >= sent
    });
    assert_eq!(behind(&wires, 1).as_deref(), Some("a"));
    assert_eq!(behind(&wires, 2).as_deref(), Some("b"));
    let metrics = wires.lab.metrics();
    assert!(metrics.sum("vswitch_mac_table_entries", &[]) <= Some(64.0));
    assert!(metrics.sum("vswitch_mac_table_evictions_total", &[]) > Some(100.0));
    // Nobody else's frames are flooded on that account.
    wires.socket("a").drain();
    assert_eq!(wires.probe("b", mac(1), mac(2), &[]).ports(), ["a"]);
    assert_eq!(wires.probe("a", mac(2), mac(1), &[]).ports(), ["b"]);
}

#[test]
fn entries_of_a_port_that_goes_are_flushed() {
    let mut wires = three("");
    wires.learn("a", mac(1));
    wires.learn("b", mac(2));
    wires.lab.ctl(&["port", "del", "a"]);
    assert_eq!(behind(&wires, 1), None);
    assert_eq!(behind(&wires, 2).as_deref(), Some("b"));
    let rows = wires.lab.json(&["port", "list"]);
    assert_eq!(rows.as_array().map(Vec::len), Some(2));
}
