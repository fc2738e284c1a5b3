//! What a switch never forwards, whatever its configuration; and that nothing else is held back.

use switch_core::addr::MacAddr;
use vswitch_tests::frame::{DOT1Q, Random, frame, header, mac, sized};

use crate::wires::{OPEN, Wires};

fn two(keys: &str, vlan: &str) -> Wires {
    let port = format!("port-group: all, vlan: {vlan}");
    Wires::new(keys, &format!("all: {{ {OPEN} }}"), &[("a", &port), ("b", &port)])
}

#[test]
fn reserved_group_addresses_stay_on_their_link() {
    let mut wires = two("", "none");
    for last in 0..=0x0f {
        let to = MacAddr([0x01, 0x80, 0xc2, 0, 0, last]);
        assert_eq!(
            wires.probe("a", to, mac(1), &[]).reason(),
            "reserved-address",
            "{to}"
        );
    }
    for to in [
        [0x01, 0x80, 0xc2, 0, 0, 0x10],
        [0x01, 0x80, 0xc2, 0, 1, 0],
        [0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcc],
    ] {
        assert_eq!(wires.probe("a", MacAddr(to), mac(1), &[]).ports(), ["b"]);
    }
}

#[test]
fn frames_from_no_station_are_dropped() {
    let mut wires = two("", "none");
    for source in [
        MacAddr::ZERO,
        MacAddr::BROADCAST,
        MacAddr([0x01, 0, 0x5e, 0, 0, 1]),
        MacAddr([0x53, 0, 0, 0, 0, 1]),
    ] {
        assert_eq!(
            wires.probe("a", mac(2), source, &[]).reason(),
            "bad-source",
            "{source}"
        );
        assert_eq!(wires.lab.mac_port(&source.to_string(), None), None);
    }
}

/// Frames of the switch's MTU pass with none, one and two tags; one octet more does not.
fn at_the_mtu(mtu: usize) {
    let mut wires = two(&format!("mtu: {mtu},"), "{ trunk: [100], native: 1 }");
    for port in ["a", "b"] {
        let link = wires.namespace(port).link("eth0").expect("the TAP is there");
        assert_eq!(
            link["mtu"].as_u64(),
            Some(mtu as u64),
            "the TAP gets the switch's MTU"
        );
        // The stations may lie about it.
        wires
            .namespace(port)
            .ok(&["ip", "link", "set", "eth0", "mtu", "9600"]);
    }
    for tags in [&[][..], &[(DOT1Q, 100)], &[(DOT1Q, 100), (DOT1Q, 7)]] {
        let longest = mtu + 14 + 4 * tags.len();
        let octets = sized(MacAddr::BROADCAST, mac(1), tags, 1, longest);
        let outcome = wires.offer("a", &octets);
        assert_eq!(
            outcome.got.get("b"),
            Some(&octets),
            "{longest} octets: {:?}",
            outcome.drops
        );
        let outcome = wires.offer("a", &sized(MacAddr::BROADCAST, mac(1), tags, 1, longest + 1));
        assert_eq!(outcome.reason(), "too-long", "{} octets", longest + 1);
    }
}

#[test]
fn an_ordinary_frame_may_fill_the_mtu_and_no_more() {
    at_the_mtu(1500);
}

#[test]
fn a_jumbo_frame_may_fill_the_mtu_and_no_more() {
    at_the_mtu(9216);
}

#[test]
fn damaged_payload_is_the_receivers_affair() {
    let mut wires = two("", "none");
    let mut random = Random::new(5);
    // IPv4 and IPv6 headers that say anything, cut anywhere; an LLC frame; a frame without payload.
    for ethertype in [0x0800u16, 0x86dd, 0x0806, 0x0026, 0x88cc] {
        for len in [0, 1, 5, 19, 20, 40, 60, 300, 1500] {
            let mut octets = header(MacAddr::BROADCAST, mac(1), &[]);
            octets.extend(ethertype.to_be_bytes());
            octets.extend(random.octets(len));
            let outcome = wires.offer("a", &octets);
            assert_eq!(
                outcome.got.get("b"),
                Some(&octets),
                "{ethertype:04x} and {len} octets: {:?}",
                outcome.drops
            );
        }
    }
}

#[test]
fn the_shortest_frame_crosses() {
    let mut wires = two("", "none");
    let mut octets = frame(MacAddr::BROADCAST, mac(1), &[], 1);
    octets.truncate(14);
    assert_eq!(wires.offer("a", &octets).got["b"], octets);
}
