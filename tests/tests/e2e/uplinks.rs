//! Uplinks and teams against a Linux bridge as the network outside: its FDB says where it believes the VMs to be, and it sends everything back that a
//! bridge with several links to one switch sends back.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use switch_core::addr::MacAddr;
use switch_core::announce::announces;
use vswitch_tests::frame::{frame, mac, marked};
use vswitch_tests::lab::Lab;
use vswitch_tests::netns::Namespace;
use vswitch_tests::raw::Raw;
use vswitch_tests::wait::{BOUND, wait_for, wait_until};

/// The station behind the bridge.
const FAR: u32 = 99;

/// A switch with some uplinks to a bridge, VMs on TAPs, and a station behind the bridge.
struct World {
    lab: Lab,
    wire: Namespace,
    far: Raw,
    vms: Vec<Raw>,
}

impl World {
    /// So many uplinks and VMs; keys of the team, and of each port beside its TAP.
    fn new(uplinks: usize, vms: usize, teaming: &str, keys: &str) -> Self {
        let lab = Lab::new();
        let wire = lab.quiet("wire");
        wire.sh("ip link add br0 type bridge stp_state 0 mcast_snooping 0 forward_delay 0");
        wire.up("br0");
        lab.host().quiet();
        for n in 1..=uplinks {
            let (near, far) = (format!("eth{n}"), format!("w{n}"));
            lab.veth((&lab.host(), &near), (&wire, &far));
            wire.sh(&format!("ip link set {far} master br0"));
        }
        let station = lab.quiet("far");
        lab.veth((&wire, "wfar"), (&station, "eth0"));
        wire.sh("ip link set wfar master br0");
        for n in 1..=vms {
            lab.quiet(&format!("vm{n}"));
        }
        lab.start(&Self::config(&lab, uplinks, vms, teaming, keys));
        let mut world = Self {
            far: station.raw("eth0"),
            lab,
            wire,
            vms: Vec::new(),
        };
        world.open_vms(vms);
        world.lab.wait_all_up();
        world
    }

    fn config(lab: &Lab, uplinks: usize, vms: usize, teaming: &str, keys: &str) -> String {
        let uplinks: Vec<String> = (1..=uplinks)
            .map(|n| format!("up{n}: {{ device: eth{n} }}"))
            .collect();
        let ports: Vec<String> = (1..=vms)
            .map(|n| {
                let netns = lab.namespace(&format!("vm{n}"));
                format!(
                    "vm{n}: {{ port-group: web, tap: eth0, netns: {}, mac: \"{}\", {keys} }}",
                    netns.name(),
                    mac(n as u32)
                )
            })
            .collect();
        format!(
            "version: 1\nworkers: {{ count: 1 }}\nswitches: {{ vs0: {{ uplinks: {{ {} }}, teaming: {{ {teaming} }}, port-groups: {{ web: {{}} }}, ports: {{ {} }} }} }}\n",
            uplinks.join(", "),
            ports.join(", ")
        )
    }

    fn open_vms(&mut self, vms: usize) {
        self.vms = (1..=vms)
            .map(|n| {
                let vm = self.lab.namespace(&format!("vm{n}"));
                vm.up("eth0");
                vm.raw("eth0")
            })
            .collect();
    }

    /// Where the bridge believes a station to be.
    fn outside(&self, station: MacAddr) -> Option<String> {
        let fdb = self.wire.ok(&["bridge", "-j", "fdb", "show", "br", "br0"]);
        let rows: Value = serde_json::from_str(&fdb).expect("bridge prints JSON");
        let mut rows = rows.as_array().expect("a list").iter();
        let row = rows.find(|row| row["mac"] == station.to_string() && row["state"] != "permanent")?;
        row["ifname"].as_str().map(str::to_owned)
    }

    /// The uplink of each VM, as the switch says.
    fn uplinks(&self) -> BTreeMap<String, String> {
        let team = self.lab.json(&["team", "show", "web"]);
        let ports = team["ports"].as_array().expect("a list").iter();
        ports
            .map(|row| {
                let uplink = row["uplink"].as_str().unwrap_or("-").to_owned();
                (row["port"].as_str().expect("a name").to_owned(), uplink)
            })
            .collect()
    }

    /// Stations announced by all uplinks since the daemon was started.
    fn announced(&self) -> u64 {
        let rows = self.lab.json(&["uplink", "list"]);
        let rows = rows.as_array().expect("a list").iter();
        rows.map(|row| row["announced"].as_u64().expect("a number")).sum()
    }

    /// A link between switch and bridge loses its carrier, or has it back.
    fn link(&self, number: usize, up: bool) {
        let to = if up { "up" } else { "down" };
        self.wire.sh(&format!("ip link set w{number} {to}"));
        let state = if up { "up" } else { "down" };
        wait_until("the switch has seen it", BOUND, || {
            self.lab.json(&["uplink", "show", &format!("up{number}")])["state"] == state
        });
    }

    /// Each VM sends a broadcast, and then the station outside does.
    fn all_speak(&mut self, mark: u32) {
        for (n, vm) in (1u32..).zip(&self.vms) {
            vm.send(&frame(MacAddr::BROADCAST, mac(n), &[], mark + n));
        }
        self.far.send(&frame(MacAddr::BROADCAST, mac(FAR), &[], mark));
    }
}

/// How many frames with this mark there are.
fn count(frames: &[Vec<u8>], mark: u32) -> usize {
    frames.iter().filter(|frame| marked(frame, mark)).count()
}

/// Everything that comes until nothing has come for a while.
fn all(socket: &mut Raw) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| socket.receive(Duration::from_millis(300))).collect()
}

/// Nobody gets a broadcast twice, or his own, with so many uplinks.
fn broadcasts_come_once(uplinks: usize, teaming: &str) {
    let vms = 4;
    let mut world = World::new(uplinks, vms, teaming, "");
    // What announces them comes back too.
    let reflections = |world: &World| world.lab.stats().drops().get("reflection").copied().unwrap_or(0);
    let each = (vms * (uplinks - 1)) as u64;
    wait_until("all VMs are announced", BOUND, || reflections(&world) == each);
    for round in 1..=3 {
        let mark = 100 * round;
        world.all_speak(mark);
        let outside = all(&mut world.far);
        for n in 1..=vms as u32 {
            assert_eq!(count(&outside, mark + n), 1, "of VM {n}, outside, {teaming}");
        }
        for (own, vm) in (1u32..).zip(&mut world.vms) {
            let got = all(vm);
            for n in 0..=vms as u32 {
                let wanted = usize::from(n != own);
                assert_eq!(count(&got, mark + n), wanted, "of {n}, at VM {own}, {teaming}");
            }
        }
    }
    // What the bridge has sent back was dropped for what it is.
    println!("{uplinks} uplinks, {teaming}: {:?}", world.lab.stats().drops());
    assert_eq!(reflections(&world), 4 * each);
    let moved = world.lab.ctl(&["events"]).contains("mac-moved");
    assert!(!moved, "nothing has moved");
    for n in 1..=vms as u32 {
        let port = world.lab.mac_port(&mac(n).to_string(), None);
        assert_eq!(port, Some(format!("vm{n}")));
    }
    let far = world.lab.mac_port(&mac(FAR).to_string(), None);
    assert_eq!(far.as_deref(), Some("uplinks"));
}

#[test]
fn a_broadcast_comes_once_with_two_and_three_uplinks() {
    for uplinks in [2, 3] {
        for teaming in ["", "balance: source-mac", "balance: explicit"] {
            broadcasts_come_once(uplinks, teaming);
        }
    }
}

#[test]
fn vlans_leave_tagged_and_come_back_by_the_ports_of_their_own() {
    let mut world = World::new(2, 2, "", "vlan: 100");
    let tag = &[(0x8100, 100)];
    world.vms[0].send(&frame(MacAddr::BROADCAST, mac(1), &[], 1));
    let got = world
        .far
        .receive_where(BOUND, |got| marked(got, 1))
        .expect("it arrives");
    assert_eq!(got, frame(MacAddr::BROADCAST, mac(1), tag, 1));
    world.far.send(&frame(mac(1), mac(FAR), tag, 2));
    let got = world.vms[0]
        .receive_where(BOUND, |got| marked(got, 2))
        .expect("it arrives");
    assert_eq!(got, frame(mac(1), mac(FAR), &[], 2));
    // By now the station outside is known, and its frames take the short way.
    for mark in 3..20 {
        world.vms[0].send(&frame(mac(FAR), mac(1), &[], mark));
        let got = world
            .far
            .receive_where(BOUND, |got| marked(got, mark))
            .expect("it arrives");
        assert_eq!(got, frame(mac(FAR), mac(1), tag, mark));
    }
    // Other VLANs, and none, are not those of the ports.
    world.far.send(&frame(mac(1), mac(FAR), &[(0x8100, 101)], 30));
    world.far.send(&frame(mac(1), mac(FAR), &[], 31));
    let got = all(&mut world.vms[0]);
    assert_eq!((count(&got, 30), count(&got, 31)), (0, 0));
}

#[test]
fn only_the_ports_of_a_failed_uplink_move_are_announced_and_come_back() {
    let mut world = World::new(3, 6, "", "");
    world.all_speak(100);
    wait_until("the bridge knows all", BOUND, || {
        (1..=6).all(|n| world.outside(mac(n)).is_some())
    });
    let before = world.uplinks();
    println!("{before:?}");
    for number in 1..=3 {
        let own = before
            .values()
            .filter(|uplink| **uplink == format!("up{number}"))
            .count();
        assert_eq!(own, 2, "the ports are spread");
    }
    let wire = |uplink: &str| uplink.replace("up", "w");
    let as_the_switch_says = |world: &World| {
        let uplinks = world.uplinks();
        wait_until(
            "the bridge believes each VM where the switch says it is",
            BOUND,
            || (1..=6).all(|n| world.outside(mac(n)) == Some(wire(&uplinks[&format!("vm{n}")]))),
        );
        uplinks
    };
    as_the_switch_says(&world);
    let announced = world.announced();
    world.far.drain();

    world.link(1, false);
    let during = as_the_switch_says(&world);
    let moved: Vec<&String> = before
        .keys()
        .filter(|port| before[*port] != during[*port])
        .collect();
    assert_eq!(moved.len(), 2, "{before:?} {during:?}");
    assert!(
        moved
            .iter()
            .all(|port| before[*port] == "up1" && during[*port] != "up1")
    );
    assert_eq!(world.announced() - announced, 2);
    let seen = all(&mut world.far);
    let of = |n: u32| seen.iter().filter(|frame| announces(frame, mac(n))).count();
    let seen: Vec<usize> = (1..=6).map(of).collect();
    let wanted: Vec<usize> = (1..=6)
        .map(|n| usize::from(moved.contains(&&format!("vm{n}"))))
        .collect();
    assert_eq!(seen, wanted, "each station that moved is announced once");
    let events = world.lab.ctl(&["events"]);
    assert!(
        events.contains("team-changed") && events.contains("up1 is down"),
        "{events}"
    );

    world.link(1, true);
    assert_eq!(as_the_switch_says(&world), before, "by failback");
    assert_eq!(world.announced() - announced, 4);

    // Two of three.
    world.link(1, false);
    world.link(2, false);
    let during = as_the_switch_says(&world);
    assert!(during.values().all(|uplink| uplink == "up3"), "{during:?}");
    world.link(2, true);
    world.link(1, true);
    assert_eq!(as_the_switch_says(&world), before);
}

#[test]
fn a_restart_keeps_the_uplinks_and_announces_nothing() {
    let mut world = World::new(
        3,
        5,
        "active: [up1], standby: [up2, up3], failback: false",
        "persistent: true",
    );
    world.all_speak(100);
    let all_at = |world: &World, uplink: &str| world.uplinks().values().all(|own| own == uplink);
    assert!(all_at(&world, "up1"));
    world.link(1, false);
    assert!(all_at(&world, "up2"));
    world.link(1, true);
    assert!(all_at(&world, "up2"), "without failback what stands in stays");
    for kill in [true, false] {
        world.far.drain();
        if kill {
            world.lab.kill();
        } else {
            world.lab.stop();
        }
        world.lab.launch();
        world.lab.wait_all_up();
        assert!(all_at(&world, "up2"), "and after a restart");
        assert_eq!(world.announced(), 0);
        let seen = all(&mut world.far);
        assert!(!(1..=5).any(|n| seen.iter().any(|frame| announces(frame, mac(n)))));
    }
    world.link(2, false);
    assert!(all_at(&world, "up1"));
    assert_eq!(world.announced(), 5);
}

/// How long frames from the one to the other were lost around something, in the eyes of the receiver.
fn gap(from: &Raw, to: &mut Raw, source: MacAddr, destination: MacAddr, around: impl FnOnce()) -> Duration {
    const EACH: Duration = Duration::from_micros(500);
    let sent: Mutex<Vec<Instant>> = Mutex::default();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut mark = 1000;
            while !ended.load(Ordering::Relaxed) {
                sent.lock().expect("nobody panics").push(Instant::now());
                let _ = from.try_send(&frame(destination, source, &[], mark));
                mark += 1;
                std::thread::sleep(EACH);
            }
        });
        let counted = || sent.lock().expect("nobody panics").len();
        wait_until("some were sent", BOUND, || counted() > 200);
        around();
        let so_far = counted();
        wait_until("more were sent", BOUND, || counted() > so_far + 400);
        ended.store(true, Ordering::Relaxed);
    });
    let sent = sent.into_inner().expect("nobody panics");
    let frames = all(to);
    let came = |mark: usize| count(&frames, 1000 + mark as u32);
    let came: Vec<usize> = (0..sent.len()).map(came).collect();
    assert!(came.iter().all(|count| *count <= 1), "nothing comes twice");
    let there: Vec<usize> = (0..sent.len()).filter(|mark| came[*mark] == 1).collect();
    assert!(there.len() > 300, "{} of {} came", there.len(), sent.len());
    let gaps = there.windows(2).map(|pair| sent[pair[1]] - sent[pair[0]]);
    gaps.max().unwrap_or_default()
}

#[test]
fn traffic_goes_on_when_an_uplink_fails_and_when_it_is_back() {
    let mut world = World::new(2, 1, "active: [up1], standby: [up2]", "");
    world.all_speak(1);
    let station = world.lab.namespace("far").raw("eth0");
    let vm = world.lab.namespace("vm1").raw("eth0");
    let (lab, wire) = (&world.lab, &world.wire);
    let link = |up: bool| {
        wire.sh(&format!("ip link set w1 {}", if up { "up" } else { "down" }));
        wait_until("the team has changed", BOUND, || {
            lab.json(&["team", "show", "web"])["active"][0] == if up { "up1" } else { "up2" }
        });
    };
    for up in [false, true] {
        let what = if up { "is back" } else { "fails" };
        link(!up);
        world.far.drain();
        let out = gap(&vm, &mut world.far, mac(1), mac(FAR), || link(up));
        link(!up);
        world.vms[0].drain();
        let back = gap(&station, &mut world.vms[0], mac(FAR), mac(1), || link(up));
        println!("an uplink {what}: gap from the VM {out:?}, to the VM {back:?}");
    }
}

/// Each of the four kinds of announcement of a station.
fn announcements(station: MacAddr) -> [(&'static str, Vec<u8>); 4] {
    let arp = |ethertype: u16, operation: u8, sender: [u8; 4], target: (MacAddr, [u8; 4])| {
        let mut frame = [MacAddr::BROADCAST.0, station.0].concat();
        frame.extend(ethertype.to_be_bytes());
        frame.extend([0, 1, 8, 0, 6, 4, 0, operation]);
        frame.extend([&station.0[..], &sender, &target.0.0, &target.1].concat());
        frame.resize(60, 0);
        frame
    };
    let ip = [10, 0, 0, 7];
    let kind = etherparse::icmpv6::NeighborAdvertisementHeader {
        router: false,
        solicited: false,
        r#override: true,
    };
    let own: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    let all: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let mut advertisement = Vec::new();
    etherparse::PacketBuilder::ethernet2(station.0, [0x33, 0x33, 0, 0, 0, 1])
        .ipv6(own, all, 255)
        .icmpv6(etherparse::Icmpv6Type::NeighborAdvertisement(kind))
        .write(&mut advertisement, &[&own[..], &[2, 1], &station.0].concat())
        .expect("it fits");
    [
        ("RARP", arp(0x8035, 3, [0; 4], (station, [0; 4]))),
        ("ARP request", arp(0x0806, 1, ip, (MacAddr::ZERO, ip))),
        ("ARP reply", arp(0x0806, 2, ip, (station, ip))),
        ("unsolicited advertisement", advertisement),
    ]
}

#[test]
fn each_kind_of_announcement_moves_a_station_over_a_team() {
    let vms = 4;
    let mut world = World::new(2, vms, "", "security: { forged-transmits: accept }");
    let station = |n: usize| mac(50 + n as u32);
    let at = |world: &World, n: usize| world.lab.mac_port(&station(n).to_string(), None);
    for n in 0..4 {
        let (kind, announcement) = &announcements(station(n))[n];
        // It is here, without having announced itself.
        world.vms[n].send(&frame(MacAddr::BROADCAST, station(n), &[], 1));
        let port = format!("vm{}", n + 1);
        wait_for("it is known", BOUND, || {
            (at(&world, n) == Some(port.clone())).then_some(())
        });
        // What it sent comes back, also by the other uplink, and it stays.
        world.far.send(&frame(MacAddr::BROADCAST, station(n), &[], 2));
        let moves = |world: &World| world.lab.metrics().sum("vswitch_mac_table_moves_total", &[]);
        let before = moves(&world);
        wait_until("it was a reflection", BOUND, || {
            world
                .lab
                .stats()
                .drops()
                .get("reflection")
                .is_some_and(|count| *count > 0)
        });
        assert_eq!(at(&world, n), Some(port.clone()));
        // It says on another host that it is there.
        world.far.send(announcement);
        wait_for(&format!("{kind} moves it outside"), BOUND, || {
            (at(&world, n).as_deref() == Some("uplinks")).then_some(())
        });
        // And is back: every other port hears it, and so does the network outside.
        let other = (n + 1) % vms;
        world.vms[other].drain();
        world.far.drain();
        world.vms[n].send(announcement);
        wait_for(&format!("{kind} moves it inside"), BOUND, || {
            (at(&world, n) == Some(port.clone())).then_some(())
        });
        let is_it = |got: &[u8]| got == announcement.as_slice();
        assert!(world.vms[other].receive_where(BOUND, is_it).is_some(), "{kind}");
        assert!(world.far.receive_where(BOUND, is_it).is_some(), "{kind}");
        // The bridge has sent it back by the other uplink; it moved once there and once back.
        wait_until("the bridge believes it here", BOUND, || {
            world.outside(station(n)).is_some_and(|port| port != "wfar")
        });
        assert_eq!(at(&world, n), Some(port));
        assert_eq!(
            moves(&world).zip(before).map(|(now, before)| now - before),
            Some(2.0),
            "{kind}"
        );
    }
}

#[test]
fn a_port_that_waits_for_its_guest_is_silent_until_the_guest_is_announced() {
    let mut world = World::new(2, 1, "", "");
    let guest = world.lab.quiet("guest");
    let config = World::config(&world.lab, 2, 1, "", "").replace(
        "ports: {",
        &format!(
            "ports: {{ guest: {{ port-group: web, tap: eth0, netns: {}, mac: \"{}\", activation: announce, persistent: true }},",
            guest.name(),
            mac(50)
        ),
    );
    world.lab.apply(&config);
    guest.up("eth0");
    let mut tap = guest.raw("eth0");
    assert!(world.lab.wait_down("guest").contains("announce"));
    // It is still outside, and an early frame does not draw it here.
    let at = |world: &World| world.lab.mac_port(&mac(50).to_string(), None);
    world.far.send(&frame(MacAddr::BROADCAST, mac(50), &[], 1));
    wait_until("it is outside", BOUND, || {
        at(&world).as_deref() == Some("uplinks")
    });
    tap.drain();
    tap.send(&frame(MacAddr::BROADCAST, mac(50), &[], 2));
    wait_until("the early frame is dropped", BOUND, || {
        world.lab.stats().port("guest").drops.get("not-activated") == Some(&1)
    });
    world.far.send(&frame(mac(50), mac(FAR), &[], 3));
    assert_eq!(at(&world).as_deref(), Some("uplinks"));
    assert_eq!(count(&all(&mut tap), 3), 0);
    assert_eq!(count(&all(&mut world.far), 2), 0);
    // As QEMU says that it has arrived.
    let [(_, rarp), ..] = announcements(mac(50));
    world.far.drain();
    tap.send(&rarp);
    assert!(
        world
            .far
            .receive_where(BOUND, |got| got == rarp.as_slice())
            .is_some()
    );
    world.lab.wait_up("guest");
    assert_eq!(at(&world).as_deref(), Some("guest"));
    assert!(world.lab.ctl(&["events"]).contains("activated"));
    world.far.send(&frame(mac(50), mac(FAR), &[], 4));
    assert!(tap.receive_where(BOUND, |got| marked(got, 4)).is_some());
    // It need not do so again when the daemon is started anew.
    world.lab.write("switch.yaml", &config);
    world.lab.kill();
    world.lab.launch();
    world.lab.wait_up("guest");
}

#[test]
fn an_uplink_with_the_hosts_addresses_wants_a_confirmation() {
    let lab = Lab::new();
    let other = lab.namespace("other");
    lab.veth((&lab.host(), "eth1"), (&other, "eth0"));
    lab.host().address("eth1", "10.9.0.1/24");
    lab.start("version: 1\nworkers: { count: 1 }\n");
    let config = "version: 1\nworkers: { count: 1 }\nswitches: { vs0: { uplinks: { up1: { device: eth1 } }, port-groups: { lan: {} } } }\n";
    let refused = lab.try_apply(config).stderr;
    assert!(
        refused.contains("10.9.0.1") && refused.contains("--confirm"),
        "{refused}"
    );
    assert_eq!(lab.json(&["uplink", "list"]), serde_json::json!([]));
    let file = lab.write("other.yaml", config);
    let file = file.display().to_string();
    let report = lab.ctl(&["apply", "-f", &file, "--confirm", "60s"]);
    assert!(report.contains("10.9.0.1"), "{report}");
    lab.ctl(&["confirm"]);
    // What was confirmed is not asked about again.
    lab.apply(&config.replace("lan: {}", "lan: {}, more: {}"));
}
