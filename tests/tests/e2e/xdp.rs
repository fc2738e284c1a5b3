//! `device` ports through AF_XDP: between veths, and to ports of the other kinds.

use serde_json::Value;
use switch_core::addr::MacAddr;
use vswitch_tests::frame::{DOT1Q, Random, frame, mac, marked, sized, tags};
use vswitch_tests::lab::{Lab, METRICS_PORT, binary};
use vswitch_tests::netns::Namespace;
use vswitch_tests::wait::{BOUND, wait_until};

/// Joins a new namespace to the switch's by a veth, `veth-NAME` at the switch and `eth0` in it. The switch's end has one queue.
fn veth(lab: &Lab, name: &str, station: &Namespace) {
    lab.veth((&lab.host(), &format!("veth-{name}")), (station, "eth0"));
}

fn config(workers: usize, groups: &str, ports: &str) -> String {
    config_of_mtu(1500, workers, groups, ports)
}

fn config_of_mtu(mtu: u16, workers: usize, groups: &str, ports: &str) -> String {
    format!(
        "version: 1\nworkers: {{ count: {workers} }}\nswitches: {{ vs0: {{ mtu: {mtu}, port-groups: {{ {groups} }}, ports: {{ {ports} }} }} }}\n"
    )
}

/// A switch between silent stations behind AF_XDP veths; each port has its own keys.
fn between(lab: &Lab, groups: &str, ports: &[(&str, &str)]) -> Vec<Namespace> {
    between_of_mtu(1500, lab, groups, ports)
}

fn between_of_mtu(mtu: u16, lab: &Lab, groups: &str, ports: &[(&str, &str)]) -> Vec<Namespace> {
    let stations: Vec<Namespace> = ports.iter().map(|(name, _)| lab.quiet(name)).collect();
    let mut rows = String::new();
    for ((name, keys), station) in ports.iter().zip(&stations) {
        veth(lab, name, station);
        lab.host().sh(&format!("ip link set veth-{name} mtu {mtu}"));
        station.sh(&format!("ip link set eth0 mtu {mtu}"));
        rows.push_str(&format!(
            "{name}: {{ device: veth-{name}, driver: af-xdp, {keys} }}, "
        ));
    }
    lab.start(&config_of_mtu(mtu, 1, groups, &rows));
    lab.wait_all_up();
    stations
}

fn driver(lab: &Lab, port: &str) -> String {
    lab.json(&["port", "show", port])["driver"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// The XDP program on a device, as `ip` tells of it.
fn program(namespace: &Namespace, device: &str) -> Option<Value> {
    namespace
        .link(device)
        .expect("the device is there")
        .get("xdp")
        .cloned()
}

#[test]
fn stations_behind_every_kind_of_port_reach_each_other() {
    let lab = Lab::new();
    let names = ["x", "y", "p", "t"];
    let stations = names.map(|name| lab.namespace(name));
    for (name, station) in names.iter().zip(&stations).take(3) {
        veth(&lab, name, station);
    }
    lab.start(&config(
        1,
        "all: { vlan: 100 }",
        &format!(
            "x: {{ port-group: all, device: veth-x, driver: af-xdp }}, y: {{ port-group: all, device: veth-y, driver: af-xdp }}, \
             p: {{ port-group: all, device: veth-p, driver: af-packet }}, t: {{ port-group: all, tap: eth0, netns: {} }}",
            stations[3].name()
        ),
    ));
    for (number, station) in stations.iter().enumerate() {
        station.address("eth0", &format!("10.0.0.{}/24", number + 1));
        station.address("eth0", &format!("fd00::{}/64", number + 1));
    }
    lab.wait_all_up();
    for from in &stations[..2] {
        for to in 1..=4 {
            assert!(from.pings(&format!("10.0.0.{to}"), 3), "{} to {to}", from.name());
            assert!(from.pings(&format!("fd00::{to}"), 3), "{} to {to}", from.name());
        }
        // In fragments.
        from.ok(&["ping", "-n", "-c", "2", "-i", "0.1", "-s", "4000", "10.0.0.4"]);
    }
    assert_eq!(driver(&lab, "x"), "af-xdp (native, copy)");
    assert_eq!(driver(&lab, "p"), "af-packet");
    assert_eq!(driver(&lab, "t"), "");
    let shown = lab.ctl(&["-o", "table", "port", "show", "x"]);
    assert!(shown.contains("af-xdp (native, copy)"), "{shown}");
}

#[test]
fn auto_leaves_a_veth_to_af_packet_and_says_why() {
    let lab = Lab::new();
    veth(&lab, "a", &lab.quiet("a"));
    lab.start(&config(1, "all: {}", "a: { port-group: all, device: veth-a }"));
    lab.wait_all_up();
    let driver = driver(&lab, "a");
    assert!(
        driver.starts_with("af-packet (") && driver.contains("not a NIC"),
        "{driver}"
    );
}

#[test]
fn frames_of_all_lengths_keep_their_order() {
    const COUNT: u32 = 2000;
    let lab = Lab::new();
    let at = between_of_mtu(
        9000,
        &lab,
        "all: {}",
        &[("a", "port-group: all"), ("b", "port-group: all")],
    );
    let mut to = at[1].raw("eth0");
    let from = at[0].raw("eth0");
    // Around what one chunk takes in (1792) and out (2048), and jumbo frames.
    let lengths = [60, 64, 1514, 1791, 1792, 1793, 2047, 2048, 2049, 4096, 9014];
    let len = |mark: u32| lengths[mark as usize % lengths.len()];
    for first in (0..COUNT).step_by(100) {
        from.send_all((first..first + 100).map(|mark| sized(mac(2), mac(1), &[], mark, len(mark))));
        for mark in first..first + 100 {
            let got = to
                .receive(BOUND)
                .unwrap_or_else(|| panic!("frame {mark} of {} arrives", len(mark)));
            assert_eq!(got, sized(mac(2), mac(1), &[], mark, len(mark)), "frame {mark}");
        }
    }
}

#[test]
fn tags_are_pushed_popped_and_kept() {
    let lab = Lab::new();
    let at = between(
        &lab,
        "access: { vlan: 100 }, trunk: { vlan: { trunk: [100, 200] } }",
        &[
            ("a", "port-group: access"),
            ("t", "port-group: trunk"),
            ("u", "port-group: trunk"),
        ],
    );
    let mut sockets: Vec<_> = at.iter().map(|station| station.raw("eth0")).collect();
    let mut arrives = |from: usize, sent: Vec<u8>, mark: u32, wanted: &[Option<Vec<(u16, u16)>>]| {
        sockets[from].send(&sent);
        for (to, wanted) in wanted.iter().enumerate() {
            if let Some(wanted) = wanted {
                let got = sockets[to].receive(BOUND).expect("it arrives");
                assert!(marked(&got, mark), "at {to}: {got:x?}");
                assert_eq!(tags(&got), *wanted, "at {to}");
            }
        }
    };
    // Floods: each port gets its copy with its own tag.
    let (station, trunk) = (mac(1), mac(2));
    arrives(
        0,
        frame(MacAddr::BROADCAST, station, &[], 1),
        1,
        &[None, Some(vec![(DOT1Q, 100)]), Some(vec![(DOT1Q, 100)])],
    );
    arrives(
        1,
        frame(MacAddr::BROADCAST, trunk, &[(DOT1Q, 100)], 2),
        2,
        &[Some(vec![]), None, Some(vec![(DOT1Q, 100)])],
    );
    // To known stations, where the chunk itself is handed over.
    for mark in 3..103 {
        arrives(
            0,
            frame(trunk, station, &[], mark),
            mark,
            &[None, Some(vec![(DOT1Q, 100)]), None],
        );
        arrives(
            1,
            frame(station, trunk, &[(DOT1Q, 100)], mark + 1000),
            mark + 1000,
            &[Some(vec![]), None, None],
        );
    }
    arrives(
        2,
        frame(MacAddr::BROADCAST, mac(3), &[(DOT1Q, 200)], 5000),
        5000,
        &[None, Some(vec![(DOT1Q, 200)]), None],
    );
}

#[test]
fn a_capture_sees_frames_that_are_handed_over_whole() {
    let lab = Lab::new();
    let at = between(
        &lab,
        "all: {}",
        &[("a", "port-group: all"), ("b", "port-group: all")],
    );
    let (one, two) = (at[0].raw("eth0"), at[1].raw("eth0"));
    two.send(&frame(mac(99), mac(2), &[], 0));
    wait_until("the station is known", BOUND, || {
        lab.mac_port(&mac(2).to_string(), None).is_some()
    });
    let file = lab.path("all.pcapng");
    let mut capture = lab.spawn_ctl(
        "capture",
        &[
            "capture",
            "b",
            "--count",
            "20",
            "-w",
            file.to_str().expect("a path of ASCII"),
        ],
    );
    wait_until("the capture runs", BOUND, || file.exists());
    let mut mark = 1;
    wait_until("all is captured", BOUND, || {
        one.send(&frame(mac(2), mac(1), &[], mark));
        mark += 1;
        capture.ended().is_some()
    });
    let text = lab
        .host()
        .ok(&["tshark", "-r", file.to_str().expect("a path of ASCII"), "-x"]);
    // Destination, source, and the first octets of the pattern behind the mark.
    assert_eq!(
        text.matches("52 54 00 00 00 02 52 54 00 00 00 01").count(),
        20,
        "{text}"
    );
}

#[test]
fn the_device_goes_down_and_up_and_away_and_back() {
    let lab = Lab::new();
    let at = between(
        &lab,
        "all: {}",
        &[("a", "port-group: all"), ("b", "port-group: all")],
    );
    let from = at[0].raw("eth0");
    let mut to = at[1].raw("eth0");
    let mut mark = 0;
    let mut arrives = |to: &mut vswitch_tests::raw::Raw| {
        mark += 1;
        from.send(&frame(mac(2), mac(1), &[], mark));
        assert!(marked(&to.receive(BOUND).expect("it arrives"), mark));
    };
    arrives(&mut to);
    for _ in 0..3 {
        lab.host().sh("ip link set veth-b down");
        lab.wait_down("b");
        let before = lab.stats();
        from.send_all((5000..5300).map(|mark| sized(mac(2), mac(1), &[], mark, 60)));
        lab.stats_until("all are dropped", &before, |since| {
            since.port("a").dropped() + since.port("b").dropped() == 300
        });
        lab.host().sh("ip link set veth-b up");
        lab.wait_up("b");
        to.drain();
        arrives(&mut to);
    }
    for _ in 0..3 {
        lab.host().sh("ip link del veth-b");
        lab.wait_down("b");
        veth(&lab, "b", &at[1]);
        lab.wait_up("b");
        to = at[1].raw("eth0");
        arrives(&mut to);
    }
    assert_eq!(driver(&lab, "b"), "af-xdp (native, copy)");
}

#[test]
fn program_and_promiscuity_end_with_the_daemon_however_it_ends() {
    let lab = Lab::new();
    between(
        &lab,
        "all: {}",
        &[("a", "port-group: all"), ("b", "port-group: all")],
    );
    let host = lab.host();
    let promiscuous = || host.link("veth-a").expect("it is there")["promiscuity"].as_u64();
    assert!(program(&host, "veth-a").is_some());
    assert_eq!(promiscuous(), Some(1));
    lab.kill();
    wait_until("the program is gone", BOUND, || {
        program(&host, "veth-a").is_none()
    });
    wait_until("promiscuity is gone", BOUND, || promiscuous() == Some(0));
    lab.launch();
    lab.wait_all_up();
    assert!(program(&host, "veth-a").is_some());
    lab.stop();
    assert!(program(&host, "veth-a").is_none());
    assert_eq!(promiscuous(), Some(0));
}

#[test]
fn the_hosts_stack_sees_nothing() {
    let lab = Lab::new();
    let host = lab.host();
    let at = between(
        &lab,
        "all: {}",
        &[("a", "port-group: all"), ("b", "port-group: all")],
    );
    host.sh("ip address add 10.0.0.9/24 dev veth-a");
    at[0].address("eth0", "10.0.0.1/24");
    assert!(!at[0].pings("10.0.0.9", 2));
}

#[test]
fn what_stands_in_the_way_is_told() {
    let lab = Lab::new();
    between(&lab, "all: {}", &[("a", "port-group: all")]);
    // Another switch on the same device.
    let mut other = lab.spawn_daemon("state2", "ctl2.sock", METRICS_PORT + 1);
    let ctl = |arguments: &[&str]| -> Value {
        let program = binary("vswitchctl");
        let socket = lab.path("ctl2.sock");
        let mut command = vec![
            program.to_str().expect("a path of ASCII"),
            "--socket",
            socket.to_str().expect("a path of ASCII"),
            "-o",
            "json",
        ];
        command.extend(arguments);
        serde_json::from_str(&lab.host().exec(&command).stdout).unwrap_or_default()
    };
    wait_until("the other switch says who is in the way", BOUND, || {
        assert_eq!(other.ended(), None, "{}", other.output());
        let reason = ctl(&["port", "list"])[0]["reason"].to_string();
        reason.contains("another program has `veth-a` by XDP")
    });
    drop(other);
    lab.stop();
}

#[test]
fn all_queues_are_served_by_any_number_of_workers() {
    for (queues, workers) in [(2, 2), (1, 2), (3, 2), (2, 1)] {
        all_arrive(queues, workers);
    }
}

/// Frames between two veths with so many queues, and a switch with so many workers.
fn all_arrive(queues: usize, workers: usize) {
    const COUNT: u32 = 200;
    let lab = Lab::new();
    let host = lab.host();
    let at = ["a", "b"].map(|name| {
        let station = lab.quiet(name);
        host.sh(&format!(
            "ip link add veth-{name} numrxqueues {queues} numtxqueues {queues} type veth peer name eth0 netns {} numrxqueues {queues} numtxqueues {queues}",
            station.name()
        ));
        host.up(&format!("veth-{name}"));
        station.up("eth0");
        station
    });
    lab.start(&config(
        workers,
        "all: { security: { forged-transmits: accept, mac-changes: accept } }",
        "a: { port-group: all, device: veth-a, driver: af-xdp }, b: { port-group: all, device: veth-b, driver: af-xdp }",
    ));
    lab.wait_all_up();
    let from = at[0].raw("eth0");
    let mut to = at[1].raw("eth0");
    // From many stations, so that all queues get some.
    from.send_all((0..COUNT).map(|mark| frame(mac(1000), mac(mark), &[], mark)));
    let mut got: Vec<Vec<u8>> = (0..COUNT)
        .map(|_| to.receive(BOUND).expect("it arrives"))
        .collect();
    got.sort();
    let mut wanted: Vec<Vec<u8>> = (0..COUNT)
        .map(|mark| frame(mac(1000), mac(mark), &[], mark))
        .collect();
    wanted.sort();
    assert_eq!(got, wanted, "{queues} queues, {workers} workers");
}

#[test]
fn a_driver_that_runs_no_program_is_served_generically() {
    let lab = Lab::new();
    let host = lab.host();
    let at = ["a", "b"].map(|name| {
        let station = lab.quiet(name);
        // A veth runs no program natively while its peer has more queues to send by than it has to receive.
        host.sh(&format!(
            "ip link add veth-{name} numrxqueues 1 numtxqueues 1 type veth peer name eth0 netns {} numrxqueues 1 numtxqueues 2",
            station.name()
        ));
        host.up(&format!("veth-{name}"));
        station.up("eth0");
        station
    });
    lab.start(&config(
        1,
        "all: {}",
        "a: { port-group: all, device: veth-a, driver: af-xdp }, b: { port-group: all, device: veth-b, driver: af-xdp }",
    ));
    lab.wait_all_up();
    assert_eq!(driver(&lab, "a"), "af-xdp (generic, copy)");
    let from = at[0].raw("eth0");
    let mut to = at[1].raw("eth0");
    for mark in 0..300 {
        let sent = sized(mac(2), mac(1), &[], mark, 60 + mark as usize * 4);
        from.send(&sent);
        assert_eq!(to.receive(BOUND).expect("it arrives"), sent);
    }
}

#[test]
fn all_frames_are_accounted_for() {
    const FRAMES: u64 = 200_000;
    let lab = Lab::new();
    let keys = "port-group: all";
    let at = between(
        &lab,
        "all: { security: { forged-transmits: accept, mac-changes: accept } }",
        &[
            ("a", keys),
            ("b", keys),
            ("c", "port-group: all, busy-poll: true"),
        ],
    );
    let sockets: Vec<_> = at.iter().map(|station| station.raw("eth0")).collect();
    let copies = || {
        lab.metrics()
            .sum("vswitch_worker_flood_copies_total", &[])
            .expect("the metric is there") as u64
    };
    let got = |station: &Namespace| {
        let link = station.link("eth0").expect("the veth is there");
        link["stats64"]["rx"]["packets"]
            .as_u64()
            .expect("a link has statistics")
    };
    // The host's stack has spoken before the switch kept it from the devices.
    let got_before: Vec<u64> = at.iter().map(got).collect();
    let (before, copies_before) = (lab.stats(), copies());
    let mut seed = 0;
    while lab.stats().since(&before).received() < FRAMES {
        std::thread::scope(|scope| {
            for socket in &sockets {
                seed += 1;
                let mut random = Random::new(seed);
                scope.spawn(move || {
                    for _ in 0..20 {
                        let frames = std::iter::repeat_with(|| {
                            let len = 60 + random.below(1455);
                            let to = mac(random.below(30) as u32);
                            sized(to, mac(random.below(30) as u32), &[], 7, len)
                        });
                        socket.send_all(frames.take(200));
                    }
                });
            }
        });
    }
    // At rest when two looks agree on all counters.
    let mut last = lab.stats();
    lab.stats_until("the last frame is through", &before, |_| {
        let now = lab.stats();
        let rest = now == last;
        last = now;
        rest
    });
    let since = last.since(&before);
    let dropped: u64 = since.drops().values().sum();
    let copies = copies() - copies_before;
    println!("{since:#?}, {copies} copies");
    assert_eq!(since.received() + copies, since.transmitted() + dropped);
    for ((name, station), before) in ["a", "b", "c"].iter().zip(&at).zip(got_before) {
        assert_eq!(got(station) - before, since.port(name).transmit.packets, "{name}");
    }
}
