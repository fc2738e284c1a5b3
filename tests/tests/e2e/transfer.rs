//! Files cross the switch octet by octet as they were sent, whatever the two ends leave to be offloaded.
//!
//! The switch passes super-frames and partial checksums from port to port, and cuts and sums in software where the port
//! that a frame leaves by can't take them. An error there is silent corruption or a stall, so each combination is sent through.

use std::net::IpAddr;

use vswitch_tests::lab::Lab;
use vswitch_tests::netns::Namespace;
use vswitch_tests::transfer::{Datagrams, tcp, udp};

const FILE: usize = 20 << 20;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Port {
    /// A TAP of the switch.
    Tap,
    /// One end of a veth pair, the station at the other end.
    Device,
    /// As `Device`, by AF_XDP.
    Xdp,
    /// A TAP that may send and be given whole wire frames only.
    PlainTap,
    /// A veth that may be given whole wire frames only.
    PlainDevice,
}

impl Port {
    fn plain(self) -> bool {
        matches!(self, Self::PlainTap | Self::PlainDevice)
    }
}

fn connect(lab: &Lab, kinds: [Port; 2]) -> [Namespace; 2] {
    let host = lab.host();
    let stations = ["a", "b"].map(|name| lab.namespace(name));
    let mut ports = String::new();
    for ((name, kind), station) in ["a", "b"].iter().zip(kinds).zip(&stations) {
        let attachment = match kind {
            Port::Tap | Port::PlainTap => format!("tap: eth0, netns: {}", station.name()),
            Port::Device | Port::PlainDevice => {
                lab.veth((&host, &format!("veth-{name}")), (station, "eth0"));
                format!("device: veth-{name}, driver: af-packet")
            }
            Port::Xdp => {
                lab.veth((&host, &format!("veth-{name}")), (station, "eth0"));
                format!("device: veth-{name}, driver: af-xdp")
            }
        };
        let offloads = !kind.plain();
        ports.push_str(&format!(
            "      {name}: {{ port-group: all, offloads: {offloads}, {attachment} }}\n"
        ));
    }
    // A veth has one queue, and AF_XDP needs one for each worker.
    let workers = if kinds.contains(&Port::Xdp) {
        "workers: { count: 1 }"
    } else {
        ""
    };
    lab.start(&format!(
        "version: 1\n{workers}\nswitches:\n  vs0:\n    port-groups: {{ all: {{ vlan: 7 }} }}\n    ports:\n{ports}"
    ));
    for (number, station) in stations.iter().enumerate() {
        station.address("eth0", &format!("10.0.0.{}/24", number + 1));
        station.address("eth0", &format!("fd00::{}/64", number + 1));
    }
    lab.wait_all_up();
    stations
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Whether the station's device does segmentation at all; a plain TAP cannot be told to.
fn set_offloads(kind: Port, station: &Namespace, on: bool) {
    if !(on && kind.plain()) {
        station.offloads("eth0", on);
    }
}

fn all_ways(kinds: [Port; 2]) {
    let lab = Lab::new();
    let [a, b] = connect(&lab, kinds);
    for (on_a, on_b) in [(true, true), (true, false), (false, true), (false, false)] {
        set_offloads(kinds[0], &a, on_a);
        set_offloads(kinds[1], &b, on_b);
        println!("{kinds:?}, offloads {on_a} and {on_b}");
        let before = lab.stats();
        tcp(&a, &b, ip("10.0.0.2"), FILE);
        tcp(&b, &a, ip("10.0.0.1"), FILE);
        tcp(&a, &b, ip("fd00::2"), FILE / 4);
        tcp(&b, &a, ip("fd00::1"), FILE / 4);
        for how in [Datagrams::Single, Datagrams::Segmented] {
            udp(&a, &b, ip("10.0.0.2"), 300, 1400, how);
            udp(&b, &a, ip("fd00::1"), 300, 1400, how);
        }
        let since = lab.stats().since(&before);
        // Super-frames count as the frames that they become on the wire.
        let (packets, bytes) = (since.port("b").transmit.packets, since.port("b").transmit.bytes);
        assert!(
            packets >= (FILE / 1500) as u64 && bytes > FILE as u64,
            "{since:#?}"
        );
        for reason in ["bad-offload", "tx-offload", "rx-truncated", "too-long"] {
            assert_eq!(since.drops().get(reason), None, "{since:#?}");
        }
    }
}

#[test]
fn tap_to_tap() {
    all_ways([Port::Tap, Port::Tap]);
}

#[test]
fn tap_to_device() {
    all_ways([Port::Tap, Port::Device]);
}

#[test]
fn device_to_device() {
    all_ways([Port::Device, Port::Device]);
}

#[test]
fn xdp_to_xdp() {
    all_ways([Port::Xdp, Port::Xdp]);
}

#[test]
fn tap_to_xdp() {
    all_ways([Port::Tap, Port::Xdp]);
}

#[test]
fn device_to_xdp() {
    all_ways([Port::Device, Port::Xdp]);
}

#[test]
fn tap_to_plain_tap() {
    all_ways([Port::Tap, Port::PlainTap]);
}

#[test]
fn device_to_plain_device() {
    all_ways([Port::Device, Port::PlainDevice]);
}

/// The device itself takes no super-frames, as a TAP whose guest takes none; the port does not know.
#[test]
fn tap_to_a_device_that_segments_nothing() {
    let lab = Lab::new();
    let [a, b] = connect(&lab, [Port::Tap, Port::Device]);
    let before = lab.stats();
    for (tso, gso) in [("off", "on"), ("off", "off")] {
        lab.host()
            .ok(&["ethtool", "-K", "veth-b", "tso", tso, "gso", gso]);
        tcp(&a, &b, ip("10.0.0.2"), FILE);
        tcp(&b, &a, ip("fd00::1"), FILE);
        udp(&a, &b, ip("10.0.0.2"), 300, 1400, Datagrams::Segmented);
    }
    lab.host().offloads("veth-b", false);
    tcp(&a, &b, ip("fd00::2"), FILE);
    let drops = lab.stats().since(&before).drops();
    assert_eq!(drops.get("tx-error"), None, "{drops:?}");
}

#[test]
fn super_frames_cross_whole() {
    let lab = Lab::new();
    let [a, b] = connect(&lab, [Port::Tap, Port::Device]);
    let mut socket = b.raw_vnet("eth0");
    tcp(&a, &b, ip("10.0.0.2"), FILE);
    let longest = socket.drain().iter().map(Vec::len).max();
    assert!(
        longest > Some(20_000),
        "the longest frame at the receiver has {longest:?} octets"
    );
}
