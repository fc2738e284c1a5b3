//! Nothing is lost without a reason: frames in, with the copies that floods made, are frames out and drops.

use std::time::Duration;

use switch_core::addr::MacAddr;
use vswitch_tests::frame::{DOT1AD, DOT1Q, EXPERIMENTAL, Random, header, mac};

use crate::wires::Wires;

const FRAMES: u64 = 1_000_000;

/// Ports of every kind, so that frames find every way out and most reasons not to.
const PORTS: [(&str, &str); 8] = [
    ("a", "port-group: open, vlan: 100"),
    ("b", "port-group: open, vlan: { trunk: [100, 200] }"),
    ("c", "port-group: open, vlan: { trunk: [], native: 100 }"),
    ("d", "port-group: open, vlan: { dot1q-tunnel: 200 }"),
    ("e", "port-group: strict, vlan: 100"),
    (
        "f",
        "port-group: strict, vlan: 100, isolated: true, security: { promiscuous: accept }",
    ),
    (
        "g",
        "port-group: open, vlan: 100, isolated: true, mac-limit: { count: 4, overflow: drop }",
    ),
    ("h", "port-group: open, vlan: none"),
];

fn random_frame(random: &mut Random) -> Vec<u8> {
    let station = |random: &mut Random| mac(random.below(40) as u32);
    let destination = match random.below(10) {
        0 => MacAddr::BROADCAST,
        1 => MacAddr([0x33, 0x33, 0, 0, 0, random.below(4) as u8]),
        2 => MacAddr([0x01, 0x80, 0xc2, 0, 0, random.below(20) as u8]),
        _ => station(random),
    };
    let source = match random.below(20) {
        0 => MacAddr([0x53, 0, 0, 0, 0, 1]),
        1 => MacAddr::ZERO,
        _ => station(random),
    };
    let tags: Vec<(u16, u16)> = (0..[0, 0, 0, 1, 1, 2][random.below(6)])
        .map(|_| {
            let vid = *random.pick(&[0, 1, 100, 100, 200, 200, 300, 4095]);
            (
                *random.pick(&[DOT1Q, DOT1Q, DOT1Q, DOT1AD]),
                vid | (random.below(16) as u16) << 12,
            )
        })
        .collect();
    let mut octets = header(destination, source, &tags);
    octets.extend(EXPERIMENTAL.to_be_bytes());
    // Most are short, some fill the MTU, a few exceed it; a few are cut inside their tag.
    let len = match random.below(50) {
        0 => 1486 + random.below(100),
        1 => 14 + random.below(6),
        _ => 60 + random.below(60),
    };
    octets.resize(len, 0xa5);
    octets
}

#[test]
fn a_million_random_frames_are_all_accounted_for() {
    let groups = "open: { security: { forged-transmits: accept, mac-changes: accept } }\nstrict: {}";
    let wires = Wires::new("mac-table: { size: 32, ageing: 2s },", groups, &PORTS);
    for (name, _) in PORTS {
        // Longer frames than the switch's MTU are to reach it.
        wires
            .namespace(name)
            .ok(&["ip", "link", "set", "eth0", "mtu", "2000"]);
    }
    let copies = || {
        wires
            .lab
            .metrics()
            .sum("vswitch_worker_flood_copies_total", &[])
            .expect("the metric is there") as u64
    };
    let (before, copies_before) = (wires.lab.stats(), copies());
    let mut sent = 0;
    let mut seed = 0;
    // Until so many have come in: what the kernel drops before the switch does not count.
    while wires.lab.stats().since(&before).received() < FRAMES {
        sent += std::thread::scope(|scope| {
            let senders: Vec<_> = wires
                .sockets()
                .values()
                .map(|socket| {
                    seed += 1;
                    let mut random = Random::new(seed);
                    // With pauses, so that the switch gets its share of the cores and the kernel's queues suffice.
                    scope.spawn(move || {
                        let mut count = 0;
                        for _ in 0..100 {
                            let frames = std::iter::repeat_with(|| random_frame(&mut random));
                            count += socket.send_all(frames.take(100));
                            std::thread::sleep(Duration::from_millis(2));
                        }
                        count
                    })
                })
                .collect();
            senders
                .into_iter()
                .map(|sender| sender.join().expect("a sender ends"))
                .sum::<u64>()
        });
    }
    // At rest when two looks agree on all counters.
    let mut last = wires.lab.stats();
    wires.lab.stats_until("the last frame is through", &before, |_| {
        let now = wires.lab.stats();
        let rest = now == last;
        last = now;
        rest
    });
    let since = last.since(&before);
    let copies = copies() - copies_before;
    let dropped: u64 = since.drops().values().sum();
    println!(
        "{} in + {copies} copies = {} out + {dropped} dropped; {sent} sent; {:#?}",
        since.received(),
        since.transmitted(),
        since.drops()
    );
    assert!(since.received() >= FRAMES && since.received() <= sent);
    assert_eq!(since.received() + copies, since.transmitted() + dropped);
    for reason in [
        "too-long",
        "vlan-truncated",
        "vlan-reserved",
        "bad-source",
        "reserved-address",
        "vlan-tagged",
        "vlan-untagged",
        "vlan-not-allowed",
        "forged-transmit",
        "mac-limit",
        "same-port",
        "no-destination",
    ] {
        assert!(
            since.drops().contains_key(reason),
            "no frame found its way to `{reason}`"
        );
    }
    for (name, port) in &since.0 {
        for (direction, counters) in [("receive", port.receive), ("transmit", port.transmit)] {
            let kinds = counters.unicast + counters.multicast + counters.broadcast;
            assert_eq!(kinds, counters.packets, "{name} {direction}: {counters:?}");
        }
        // What the switch says it gave a port, the port's netdev has got.
        let link = wires.namespace(name).link("eth0").expect("the TAP is there");
        let got = link["stats64"]["rx"]["packets"]
            .as_u64()
            .expect("a link has statistics");
        let total = wires.lab.stats().port(name).transmit.packets;
        assert_eq!(got, total, "{name}: {link:#}");
    }
    // The exposition tells the same.
    let metrics = wires.lab.metrics();
    let sum = |name| metrics.sum(name, &[]).expect("the metric is there") as u64;
    assert_eq!(sum("vswitch_port_receive_packets_total"), last.received());
    assert_eq!(
        sum("vswitch_port_drops_total"),
        last.drops().values().sum::<u64>()
    );
}
