//! Ports on vhost-user, each with a real guest: what it does with a network, in either role of the socket, with several queues; its
//! resets and its end, the switch's end under it, and its move to another hypervisor.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixListener;

use switch_core::addr::MacAddr;
use vswitch_tests::frame::{Random, mac};
use vswitch_tests::guest::{Guest, Offloads, VhostUser};
use vswitch_tests::lab::Lab;
use vswitch_tests::netns::Namespace;
use vswitch_tests::process::Output;
use vswitch_tests::stats::Stats;
use vswitch_tests::vhost::FrontEnd;
use vswitch_tests::wait::{BOUND, wait_until};

use super::qemu::{serve, sha256, transfers};

/// Who listens on a port's socket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Listens {
    Qemu,
    Switch,
}

/// A port with a guest: its place in the configuration, and its end in QEMU.
struct Port {
    name: &'static str,
    mac: MacAddr,
    end: VhostUser,
}

impl Port {
    fn new(lab: &Lab, name: &'static str, number: u32, listens: Listens, pairs: usize) -> Self {
        Self {
            name,
            mac: mac(0xbe00 + number),
            end: VhostUser {
                socket: lab.path(&format!("{name}.sock")),
                listens: listens == Listens::Qemu,
                pairs,
            },
        }
    }

    /// Its line of the configuration.
    fn line(&self, group: &str) -> String {
        format!(
            "      {}: {{ port-group: {group}, vhost-user: {}, mode: {}, mac: \"{}\" }}\n",
            self.name,
            self.end.socket.display(),
            if self.end.listens { "client" } else { "server" },
            self.mac
        )
    }

    /// Boots its guest, and gives it addresses that end in `host`.
    fn boot(&self, lab: &Lab, host: u8, offloads: Offloads) -> Guest {
        let mut guest = Guest::start_vhost_user(lab, &lab.host(), &self.end, self.mac, offloads);
        configure(&mut guest, host);
        lab.wait_up(self.name);
        guest
    }
}

pub(crate) fn configure(guest: &mut Guest, host: u8) {
    guest.sh(&format!(
        "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip address add 10.0.0.{host}/24 dev eth0 && ip -6 address add fd00::{host}/64 dev eth0 && ip link set eth0 up"
    ));
}

/// The start of a configuration whose ports follow.
fn switch(workers: usize, groups: &str) -> String {
    format!(
        "version: 1\nworkers: {{ count: {workers} }}\nswitches:\n  vs0:\n    port-groups:\n{groups}    ports:\n"
    )
}

const WEB: &str = "      web: { vlan: 100 }\n";

/// A station on a TAP of port group `web`, with addresses that end in 1. The TAP stays when the switch ends.
fn station(lab: &Lab) -> (Namespace, String) {
    let station = lab.namespace("station");
    let line = format!(
        "      station: {{ port-group: web, tap: eth0, netns: {}, persistent: true }}\n",
        station.name()
    );
    (station, line)
}

fn address(station: &Namespace) {
    station.address("eth0", "10.0.0.1/24");
    station.address("eth0", "fd00::1/64");
}

/// Nothing was dropped but for want of room, and what `allowed` names.
fn assert_drops(since: &Stats, allowed: &[&str]) {
    for (reason, count) in since.drops() {
        assert!(
            reason == "tx-queue-full" || allowed.contains(&reason.as_str()),
            "{count} frames dropped for {reason}: {since:#?}"
        );
    }
}

/// Everything that a guest with addresses that end in 2 does with a network that has the station.
fn exercise(lab: &Lab, station: &Namespace, guest: &mut Guest) {
    wait_until("the guest answers", BOUND, || station.pings("10.0.0.2", 1));
    wait_until("the guest answers over IPv6", BOUND, || {
        station.pings("fd00::2", 1)
    });
    let before = lab.stats();
    assert!(station.pings("10.0.0.2", 3));
    guest.sh("ping -c 2 10.0.0.1 && ping -c 2 fd00::1");
    transfers(station, guest);
    assert_drops(&lab.stats().since(&before), &[]);
}

/// Gives a file from one guest to the other over HTTP, and compares the sums. The server's addresses end in `host`.
fn fetch(server: &mut Guest, host: u8, client: &mut Guest) {
    let sum = |text: String| text.split_whitespace().next().unwrap_or_default().to_owned();
    server.sh("mkdir -p /tmp/www && dd if=/dev/urandom of=/tmp/www/file bs=1M count=4 2>/dev/null; pidof httpd >/dev/null || httpd -p 80 -h /tmp/www");
    let sent = sum(server.sh("sha256sum /tmp/www/file"));
    client.sh(&format!("wget -q -O /tmp/got http://10.0.0.{host}/file"));
    assert_eq!(sum(client.sh("sha256sum /tmp/got")), sent);
}

#[test]
fn a_guest_is_carried_dies_and_comes_back() {
    let lab = Lab::new();
    let (station, line) = station(&lab);
    let port = Port::new(&lab, "vm", 1, Listens::Qemu, 1);
    // The station's frames come in by both workers, and only one has a ring to the guest.
    lab.start(&(switch(2, WEB) + &line + &port.line("web")));
    address(&station);
    let reason = lab.wait_down("vm");
    assert!(reason.contains("there is no socket"), "{reason}");
    let row = lab.port("vm");
    assert_eq!(row["kind"], "vhost-user");
    for offloads in [Offloads::On, Offloads::Off] {
        let mut guest = port.boot(&lab, 2, offloads);
        exercise(&lab, &station, &mut guest);
        assert_eq!(
            lab.mac_port(&port.mac.to_string(), Some(100)).as_deref(),
            Some("vm")
        );
        guest.kill();
        let reason = lab.wait_down("vm");
        assert!(
            reason.contains("has closed") || reason.contains("nobody listens"),
            "{reason}"
        );
        wait_until("the dead guest's address is forgotten", BOUND, || {
            lab.mac_port(&port.mac.to_string(), None).is_none()
        });
    }
}

#[test]
fn a_port_says_that_its_hypervisor_waits_for_the_guest() {
    let lab = Lab::new();
    let ports = [
        Port::new(&lab, "vm1", 1, Listens::Qemu, 1),
        Port::new(&lab, "vm2", 2, Listens::Switch, 1),
    ];
    let hypervisor = UnixListener::bind(&ports[0].end.socket).expect("the directory is the test's own");
    let lines: String = ports.iter().map(|port| port.line("web")).collect();
    lab.start(&(switch(1, WEB) + &lines));
    let says = |port: &str, what: &str| {
        wait_until(&format!("{port} says: {what}"), BOUND, || {
            let row = lab.port(port);
            row["state"] == "down" && row["reason"].as_str().is_some_and(|reason| reason.contains(what))
        });
    };
    let connected = "is connected, but the guest's network driver has not started";
    let connection = hypervisor.accept().expect("the switch connects");
    says("vm1", connected);
    drop((connection, hypervisor));
    says("vm1", "nobody listens");

    let guest = FrontEnd::connect(&ports[1].end.socket);
    guest.negotiate();
    says("vm2", connected);
    drop(guest);
    says("vm2", "has closed");
}

#[test]
fn two_guests_talk_over_several_queues_and_are_reset() {
    let lab = Lab::new();
    let ports = [
        Port::new(&lab, "vm1", 1, Listens::Qemu, 2),
        Port::new(&lab, "vm2", 2, Listens::Switch, 2),
    ];
    let lines: String = ports.iter().map(|port| port.line("web")).collect();
    lab.start(&(switch(2, WEB) + &lines));
    let reason = lab.wait_down("vm2");
    assert!(reason.contains("nobody has connected"), "{reason}");
    let [mut one, mut two] =
        [1, 2].map(|number| ports[usize::from(number) - 1].boot(&lab, number, Offloads::On));
    for guest in [&mut one, &mut two] {
        // One interrupt and one queue more for each pair: the driver uses both.
        guest.sh("test -e /sys/class/net/eth0/queues/rx-1 && test -e /sys/class/net/eth0/queues/tx-1");
    }
    let talk = |one: &mut Guest, two: &mut Guest| {
        let before = lab.stats();
        one.sh("ping -c 3 10.0.0.2 && ping -c 3 fd00::2");
        two.sh("ping -c 3 10.0.0.1 && ping -c 3 fd00::1");
        fetch(one, 1, two);
        fetch(two, 2, one);
        assert_drops(&lab.stats().since(&before), &[]);
    };
    talk(&mut one, &mut two);

    for _ in 0..2 {
        one.reset();
        let reason = lab.wait_down("vm1");
        assert!(reason.contains("network driver is not running"), "{reason}");
        one.wait_ready();
        configure(&mut one, 1);
        lab.wait_up("vm1");
        one.sh("ping -c 2 10.0.0.2");
    }
    talk(&mut one, &mut two);

    two.kill();
    let reason = lab.wait_down("vm2");
    assert!(reason.contains("closed"), "{reason}");
    let mut two = ports[1].boot(&lab, 2, Offloads::Off);
    talk(&mut one, &mut two);
}

#[test]
fn port_groups_and_their_security_hold_for_guests() {
    let lab = Lab::new();
    let (station, line) = station(&lab);
    let ports = [
        Port::new(&lab, "vm1", 1, Listens::Qemu, 1),
        Port::new(&lab, "vm2", 2, Listens::Qemu, 1),
    ];
    let groups = format!("{WEB}      db: {{ vlan: 200 }}\n");
    lab.start(&(switch(1, &groups) + &line + &ports[0].line("web") + &ports[1].line("db")));
    address(&station);
    let mut one = ports[0].boot(&lab, 2, Offloads::On);
    let mut two = ports[1].boot(&lab, 3, Offloads::On);
    one.sh("ping -c 2 10.0.0.1");
    // Another VLAN.
    assert!(!two.try_sh("ping -c 2 -W 1 10.0.0.1").1);
    assert!(!one.try_sh("ping -c 2 -W 1 10.0.0.3").1);
    assert_eq!(
        lab.mac_port(&ports[1].mac.to_string(), Some(200)).as_deref(),
        Some("vm2")
    );
    // Another source than the port's own.
    let before = lab.stats();
    let forged = mac(0xbad);
    one.sh(&format!(
        "ip link set eth0 down && ip link set eth0 address {forged} && ip link set eth0 up"
    ));
    assert!(!one.try_sh("ping -c 2 -W 1 10.0.0.1").1);
    let since = lab.stats().since(&before);
    assert!(since.drops().contains_key("forged-transmit"), "{since:#?}");
    assert_eq!(lab.mac_port(&forged.to_string(), None), None);
    one.sh(&format!(
        "ip link set eth0 down && ip link set eth0 address {} && ip link set eth0 up && ping -c 2 10.0.0.1",
        ports[0].mac
    ));
}

/// Longest time between two answers of a `ping -D`, ms.
pub(crate) fn longest_gap(ping: &Output) -> f64 {
    let times: Vec<f64> = ping
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix('[')?.split(']').next()?.parse().ok())
        .collect();
    assert!(times.len() > 2, "{ping}");
    times
        .windows(2)
        .map(|pair| 1000.0 * (pair[1] - pair[0]))
        .fold(0.0, f64::max)
}

#[test]
fn guests_outlive_the_switch() {
    let lab = Lab::new();
    let (station, line) = station(&lab);
    let neighbour = lab.namespace("neighbour");
    let neighbours = format!(
        "      neighbour: {{ port-group: web, tap: eth0, netns: {}, persistent: true, mac: \"{}\" }}\n",
        neighbour.name(),
        mac(4)
    );
    let ports = [
        Port::new(&lab, "vm1", 1, Listens::Qemu, 1),
        Port::new(&lab, "vm2", 2, Listens::Switch, 2),
    ];
    let lines: String = ports.iter().map(|port| port.line("web")).collect();
    // More workers than the first guest has pairs of queues.
    lab.start(&(switch(2, WEB) + &line + &neighbours + &lines));
    address(&station);
    neighbour.address("eth0", "10.0.0.4/24");
    let mut one = ports[0].boot(&lab, 2, Offloads::On);
    let mut two = ports[1].boot(&lab, 3, Offloads::On);
    exercise(&lab, &station, &mut one);
    one.sh("ping -c 1 10.0.0.3");
    // A TAP without a switch has no carrier, and the kernel forgets whom it knew behind it. It asks as soon as the switch is back, when the
    // guests may not be, and then not for a second: which would be all that could be measured.
    for (host, mac) in [(2, ports[0].mac), (3, ports[1].mac), (4, mac(4))] {
        let (address, mac) = (format!("10.0.0.{host}"), mac.to_string());
        station.ok(&[
            "ip",
            "neigh",
            "replace",
            &address,
            "lladdr",
            &mac,
            "nud",
            "permanent",
            "dev",
            "eth0",
        ]);
    }
    for round in 0..3 {
        let before = lab.stats();
        let pings = std::thread::scope(|scope| {
            let pings = ["10.0.0.2", "10.0.0.3", "10.0.0.4"].map(|to| {
                let station = &station;
                scope.spawn(move || {
                    station.exec(&["ping", "-n", "-D", "-i", "0.005", "-w", "6", "-W", "2", to])
                })
            });
            lab.stats_until("there is something to interrupt", &before, |since| {
                ["vm1", "vm2"]
                    .iter()
                    .all(|port| since.port(port).receive.packets > 20)
            });
            lab.kill();
            lab.launch();
            pings.map(|ping| ping.join().expect("a ping ends"))
        });
        let [client, server, tap] = pings.each_ref().map(longest_gap);
        println!(
            "restart {round}: nothing heard for {client:.0} ms from a guest (QEMU listens), {server:.0} ms (QEMU connects again), \
             {tap:.0} ms from a persistent TAP"
        );
        lab.wait_all_up();
        let before = lab.stats();
        one.sh("ping -c 2 10.0.0.3");
        two.sh("ping -c 2 10.0.0.1");
        assert_drops(&lab.stats().since(&before), &[]);
    }
    exercise(&lab, &station, &mut one);
    fetch(&mut two, 3, &mut one);
    // An orderly end removes the socket on which the switch listens, and only that.
    lab.stop();
    assert!(ports[0].end.socket.exists() && !ports[1].end.socket.exists());
}

#[test]
fn a_guest_moves_to_another_hypervisor_with_its_connections() {
    let lab = Lab::new();
    let (station, line) = station(&lab);
    let mut ports = [
        Port::new(&lab, "here", 1, Listens::Qemu, 1),
        Port::new(&lab, "there", 2, Listens::Switch, 1),
    ];
    // One guest, which may be at either port.
    ports[1].mac = ports[0].mac;
    let lines: String = ports.iter().map(|port| port.line("web")).collect();
    lab.start(&(switch(1, WEB) + &line + &lines));
    address(&station);
    let mac = ports[0].mac;
    let mut here = ports[0].boot(&lab, 2, Offloads::On);
    exercise(&lab, &station, &mut here);
    assert_eq!(lab.mac_port(&mac.to_string(), None).as_deref(), Some("here"));
    let state = lab.path("state.sock");
    let mut there = Guest::await_migration(&lab, &lab.host(), &ports[1].end, mac, Offloads::On, &state);

    // The guest counts what it is sent meanwhile: each octet has to be where it belongs in the memory that is copied.
    here.sh("mkdir -p /tmp/www && dd if=/dev/urandom of=/tmp/www/file bs=1M count=4 2>/dev/null; httpd -p 80 -h /tmp/www");
    let sum = here.sh("sha256sum /tmp/www/file");
    here.begin("for i in 1 2 3 4 5 6 7 8 9; do nc 10.0.0.1 4003 </dev/null >/tmp/got && test -s /tmp/got && break; sleep 1; done; sha256sum /tmp/got");
    let data = Random::new(9).octets(6 << 20);
    let sent = std::thread::scope(|scope| {
        let pings = scope.spawn(|| station.exec(&["ping", "-n", "-D", "-i", "0.01", "-w", "20", "10.0.0.2"]));
        let sent = scope.spawn(|| {
            serve(&station, 4003, |mut stream| {
                for part in data.chunks(1 << 16) {
                    stream.write_all(part).expect("the guest takes the file");
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
                stream.shutdown(Shutdown::Write).expect("the connection stands");
                let _ = stream.read(&mut [0]);
            });
        });
        here.migrate(&state);
        lab.wait_up("there");
        here.kill();
        let sent = sent.join();
        println!(
            "migration: nothing heard for {:.0} ms from the guest",
            longest_gap(&pings.join().expect("a ping ends"))
        );
        sent
    });
    sent.expect("the connection outlives the move");
    lab.wait_down("here");
    assert_eq!(lab.mac_port(&mac.to_string(), None).as_deref(), Some("there"));
    let (output, _) = there.end();
    assert!(output.contains(&sha256(&data)), "{output}");
    assert_eq!(there.sh("sha256sum /tmp/www/file"), sum);
    exercise(&lab, &station, &mut there);
}
