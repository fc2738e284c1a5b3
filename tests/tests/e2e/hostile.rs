//! A station that sends anything at all, with any offload header: the switch goes on, and so does everyone else's traffic.

use std::time::{Duration, Instant};

use switch_core::addr::MacAddr;
use vswitch_tests::frame::{DOT1AD, DOT1Q, Random, header, mac};
use vswitch_tests::lab::Lab;
use vswitch_tests::netns::Namespace;
use vswitch_tests::raw::VNET_HEADER_LEN;

/// How long it goes on at the least.
const TIME: Duration = Duration::from_secs(6);

/// Frames that each attacker sends at the least.
const FRAMES: u64 = 2000;

/// A `struct virtio_net_hdr` that says anything, most often something that the kernel lets pass.
fn vnet_header(random: &mut Random, frame_len: usize) -> [u8; VNET_HEADER_LEN] {
    // Half say nothing, so that the frame itself reaches the switch.
    if random.below(2) == 0 {
        return [0; VNET_HEADER_LEN];
    }
    let plausible = [14, 18, 22, 34, 54, 58, 66, 74, 86];
    let number = |random: &mut Random| match random.below(3) {
        0 => random.number() as u16,
        1 => *random.pick(&plausible),
        _ => random.below(frame_len + 1) as u16,
    };
    // NEEDS_CSUM, DATA_VALID, RSC_INFO; none, TCPV4, UDP, TCPV6, UDP_L4, ECN.
    let flags = *random.pick(&[0, 0, 1, 1, 1, 2, 3, 0xff]);
    let kind = *random.pick(&[0, 0, 1, 1, 3, 4, 4, 5, 0x81, 0x84, 0xff]);
    let (len, size, start, offset) = (
        number(random),
        number(random),
        number(random),
        *random.pick(&[6, 16, 0, 0xffff, 2]),
    );
    let mut octets = [flags, kind, 0, 0, 0, 0, 0, 0, 0, 0];
    for (at, value) in [(2, len), (4, size), (6, start), (8, offset)] {
        octets[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    octets
}

/// A frame of 14 to 65535 octets: noise, or an IP packet whose fields lie.
fn hostile_frame(random: &mut Random) -> Vec<u8> {
    let destination = *random.pick(&[
        MacAddr::BROADCAST,
        mac(1),
        mac(2),
        mac(3),
        MacAddr([0x33, 0x33, 0, 0, 0, 1]),
    ]);
    let tags: Vec<(u16, u16)> = (0..[0, 0, 0, 1, 2][random.below(5)])
        .map(|_| (*random.pick(&[DOT1Q, DOT1AD]), random.number() as u16))
        .collect();
    let mut octets = header(destination, mac(random.below(8) as u32), &tags);
    let payload = match random.below(5) {
        0 => 0,
        1 => random.below(65_500),
        2 => random.below(9_300),
        _ => random.below(1_500),
    };
    let noise = random.octets(payload);
    let (ethertype, mut packet) = match random.below(6) {
        0 => (random.number() as u16, noise),
        1 => (0x0806, noise),
        kind @ (2 | 3) => {
            let (protocol, len) = (*random.pick(&[1, 6, 17, 4, 0]), random.number() as u16);
            let mut packet = vec![if kind == 2 { 0x45 } else { random.number() as u8 }, 0];
            packet.extend(
                if random.below(2) == 0 {
                    len
                } else {
                    payload as u16 + 20
                }
                .to_be_bytes(),
            );
            packet.extend([
                0,
                0,
                *random.pick(&[0, 0x40, 0x20]),
                0,
                64,
                protocol,
                0,
                0,
                10,
                0,
                0,
                9,
                10,
                0,
                0,
                2,
            ]);
            packet.extend(noise);
            (0x0800, packet)
        }
        _ => {
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend((payload as u16).to_be_bytes());
            packet.extend([*random.pick(&[0, 6, 17, 43, 44, 58, 60]), 64]);
            packet.extend([0xfd; 32]);
            packet.extend(noise);
            (0x86dd, packet)
        }
    };
    octets.extend(ethertype.to_be_bytes());
    octets.append(&mut packet);
    octets.truncate(65_535);
    // Some are cut anywhere.
    if random.below(8) == 0 {
        octets.truncate(14 + random.below(octets.len().saturating_sub(14) + 1));
    }
    octets
}

fn attack(station: &Namespace, seed: u64) -> (u64, u64) {
    let mut random = Random::new(seed);
    let socket = station.raw_vnet("eth0");
    let (mut taken, mut refused) = (0, 0);
    let start = Instant::now();
    // A busy machine gives an attacker little of its time, so that long alone says nothing.
    while start.elapsed() < TIME || (taken < FRAMES && start.elapsed() < 20 * TIME) {
        let frame = hostile_frame(&mut random);
        let mut octets = vnet_header(&mut random, frame.len()).to_vec();
        octets.extend(frame);
        // The kernel refuses the worst itself.
        match socket.try_send(&octets) {
            Ok(()) => taken += 1,
            Err(_) => refused += 1,
        }
    }
    (taken, refused)
}

#[test]
fn the_switch_and_its_other_stations_survive_anything() {
    let lab = Lab::new();
    let host = lab.host();
    let [a, b, tap, wire] = ["a", "b", "tap", "wire"].map(|name| lab.namespace(name));
    lab.veth((&host, "veth-wire"), (&wire, "eth0"));
    lab.start(&format!(
        "version: 1
switches:
  vs0:
    mtu: 9000
    port-groups:
      quiet: {{ vlan: 100 }}
      hostile: {{ vlan: {{ trunk: [100, 200], native: 100 }}, security: {{ forged-transmits: accept, mac-changes: accept }} }}
    ports:
      a: {{ port-group: quiet, tap: eth0, netns: {} }}
      b: {{ port-group: quiet, tap: eth0, netns: {}, offloads: false }}
      tap: {{ port-group: hostile, tap: eth0, netns: {} }}
      wire: {{ port-group: hostile, device: veth-wire }}
",
        a.name(),
        b.name(),
        tap.name()
    ));
    for (number, station) in [&a, &b].into_iter().enumerate() {
        station.address("eth0", &format!("10.0.0.{}/24", number + 1));
    }
    for station in [&tap, &wire] {
        station.up("eth0");
        station.ok(&["ip", "link", "set", "eth0", "mtu", "65521"]);
    }
    lab.wait_all_up();
    assert!(a.pings("10.0.0.2", 2));
    let pid = lab.pid();
    let before = lab.stats();
    std::thread::scope(|scope| {
        let attackers =
            [(&tap, 1), (&wire, 2)].map(|(station, seed)| scope.spawn(move || attack(station, seed)));
        // Meanwhile the others' traffic goes on: slower perhaps, but it goes.
        let ping = a.exec(&["ping", "-n", "-i", "0.05", "-c", "100", "-W", "5", "10.0.0.2"]);
        println!("{}", ping.stdout);
        for attacker in attackers {
            let (taken, refused) = attacker.join().expect("an attacker ends");
            println!("{taken} frames taken by the kernel, {refused} refused");
            assert!(taken >= FRAMES, "the attack takes place");
        }
        let received: u32 = ping
            .stdout
            .split(", ")
            .find_map(|part| part.strip_suffix(" received"))
            .and_then(|number| number.parse().ok())
            .expect("ping counts");
        assert!(received >= 50, "{ping}");
    });
    assert_eq!(lab.pid(), pid);
    assert!(a.pings("10.0.0.2", 5), "all is as before");
    let since = lab.stats().since(&before);
    println!("{:#?}", since.drops());
    assert!(since.port("tap").receive.packets > 500 && since.port("wire").receive.packets > 500);
    let log = lab.log();
    assert!(!log.contains("panicked"), "{log}");
    // The log has a bound too.
    assert!(log.lines().count() < 1000, "{} lines of log", log.lines().count());
    lab.stop();
}
