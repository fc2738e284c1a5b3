//! A guest that moves from one host to another: two switches, each with its uplinks to a Linux bridge, and QEMU's own live migration. The bridge's FDB says
//! where the network believes the guest to be.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use switch_core::addr::MacAddr;
use vswitch_tests::frame::{Random, mac};
use vswitch_tests::guest::{Guest, Offloads, VhostUser};
use vswitch_tests::lab::Lab;
use vswitch_tests::netns::Namespace;
use vswitch_tests::process::{Output, run};
use vswitch_tests::wait::{BOUND, wait_for, wait_until};

use super::qemu::{serve, sha256};
use super::vhost_user::{configure, longest_gap};

/// Two hosts and the network between them.
struct World {
    here: Lab,
    there: Lab,
    wire: Namespace,
    /// Behind the bridge, with the address 10.0.0.1.
    station: Namespace,
    mac: MacAddr,
}

impl World {
    /// So many uplinks on each host; more keys of the guest's port on the second one.
    fn new(uplinks: usize, keys: &str) -> Self {
        let (here, there) = (Lab::new(), Lab::new());
        let wire = here.quiet("wire");
        wire.sh("ip link add br0 type bridge stp_state 0 mcast_snooping 0 forward_delay 0");
        wire.up("br0");
        for (lab, host) in [(&here, "a"), (&there, "b")] {
            lab.host().quiet();
            for n in 1..=uplinks {
                let far = format!("{host}{n}");
                lab.veth((&lab.host(), &format!("eth{n}")), (&wire, &far));
                wire.sh(&format!("ip link set {far} master br0"));
            }
        }
        let station = here.namespace("station");
        here.veth((&wire, "far"), (&station, "eth0"));
        wire.sh("ip link set far master br0");
        station.address("eth0", "10.0.0.1/24");
        station.address("eth0", "fd00::1/64");
        let world = Self {
            here,
            there,
            wire,
            station,
            mac: mac(0xbeef),
        };
        for (lab, keys) in [(&world.here, ""), (&world.there, keys)] {
            let devices: Vec<String> = (1..=uplinks)
                .map(|n| format!("up{n}: {{ device: eth{n} }}"))
                .collect();
            lab.start(&format!(
                "version: 1\nworkers: {{ count: 1 }}\nswitches: {{ vs0: {{ uplinks: {{ {} }}, port-groups: {{ web: {{}} }}, ports: {{ vm: {{ port-group: web, vhost-user: {}, mac: \"{}\", {keys} }} }} }} }}\n",
                devices.join(", "),
                world.end(lab).socket.display(),
                world.mac,
            ));
        }
        world
    }

    /// The hypervisor's side of the guest's port.
    fn end(&self, lab: &Lab) -> VhostUser {
        VhostUser {
            socket: lab.path("vm.sock"),
            listens: true,
            pairs: 1,
        }
    }

    /// Starts the guest on the first host.
    fn boot(&self) -> Guest {
        let end = self.end(&self.here);
        let mut guest = Guest::start_vhost_user(&self.here, &self.here.host(), &end, self.mac, Offloads::On);
        configure(&mut guest, 2);
        self.here.wait_up("vm");
        wait_until("the guest answers", BOUND, || self.station.pings("10.0.0.2", 1));
        guest
    }

    /// Starts a hypervisor on the second host that waits for the guest, at a socket.
    fn await_guest(&self) -> (Guest, PathBuf) {
        let state = self.there.path("state.sock");
        let (host, end) = (self.there.host(), self.end(&self.there));
        let guest = Guest::await_migration(&self.there, &host, &end, self.mac, Offloads::On, &state);
        (guest, state)
    }

    /// Takes the state of the guest's port to the second host.
    fn carry_over(&self) -> Value {
        let document = self.here.ctl(&["port", "export", "vm"]);
        let import = ["-o", "json", "port", "import", "vm", "-f", "-"];
        let report = self.there.ctl_with_input(&import, &document).ok();
        serde_json::from_str(&report).expect("a report")
    }

    /// Where the bridge believes the guest to be: `a1`, `b2`.
    fn outside(&self) -> Option<String> {
        let fdb = self.wire.ok(&["bridge", "-j", "fdb", "show", "br", "br0"]);
        let rows: Value = serde_json::from_str(&fdb).expect("bridge prints JSON");
        let mut rows = rows.as_array().expect("a list").iter();
        let row = rows.find(|row| row["mac"] == self.mac.to_string() && row["state"] != "permanent")?;
        row["ifname"].as_str().map(str::to_owned)
    }

    fn is_on(&self, host: &str) -> bool {
        self.outside().is_some_and(|port| port.starts_with(host))
    }
}

/// What `info migrate` says of how long the guest stood still, ms.
fn downtime(guest: &Guest) -> f64 {
    let status = guest.monitor("info migrate");
    let line = status
        .lines()
        .find_map(|line| line.trim().strip_prefix("downtime:"));
    let number = line.and_then(|line| line.trim().trim_end_matches("ms").trim().parse().ok());
    number.unwrap_or_else(|| panic!("QEMU tells the downtime:\n{status}"))
}

/// When the last answer before the longest gap came, and the first one after it; seconds.
fn around_gap(ping: &Output) -> (f64, f64) {
    let times: Vec<f64> = ping
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix('[')?.split(']').next()?.parse().ok())
        .collect();
    let pairs = times.windows(2).map(|pair| (pair[0], pair[1]));
    let gap = |(before, after): &(f64, f64)| after - before;
    pairs.max_by(|a, b| gap(a).total_cmp(&gap(b))).expect("some came")
}

/// When the guest's port came up first; seconds.
fn up_at(lab: &Lab) -> f64 {
    let events = lab.json(&["events"]);
    let mut events = events.as_array().expect("a list").iter();
    let up = events.find(|event| event["kind"] == "port-up" && event["port"] == "vm");
    let time = up.expect("it is up")["time"].as_str().expect("a time");
    let seconds = run("date", &["-d", time, "+%s.%N"]).ok();
    seconds.trim().parse().expect("a number")
}

/// How often a guest may crash: about one move in ten does under load. One of its traces fits a known fault of QEMU without KVM, which misses pages that a guest
/// writes while it is migrated (qemu-devel, September 2015, "Page dirtying and migration in pure-QEMU VM mode"); that it is the cause of all is not proven. A used
/// ring of ours that is not logged would look alike, and be hidden here: hence the console is printed.
const CRASHES: usize = 3;

/// A guest moves while it is asked 500 times a second and has a connection open.
fn moves(uplinks: usize, keys: &str, what: &str) {
    for _ in 0..CRASHES {
        match try_to_move(uplinks, keys, what) {
            Ok(()) => return,
            Err(console) => println!("{what}: the guest has crashed; once more:\n{console}"),
        }
    }
    panic!("{what}: the guest has crashed {CRASHES} times");
}

/// What the guest says if it has crashed.
fn try_to_move(uplinks: usize, keys: &str, what: &str) -> Result<(), String> {
    let world = World::new(uplinks, keys);
    let mut here = world.boot();
    assert!(world.is_on("a"));
    let (mut there, state) = world.await_guest();
    here.begin("for i in 1 2 3 4 5 6 7 8 9; do nc 10.0.0.1 4003 </dev/null >/tmp/got && test -s /tmp/got && break; sleep 1; done; sha256sum /tmp/got");
    let data = Random::new(9).octets(3 << 20);
    // Before it moves, and once more when it has: what was counted meanwhile goes along.
    world.carry_over();
    let moved = std::thread::scope(|scope| {
        let pings = scope.spawn(|| {
            let ping = ["ping", "-n", "-D", "-i", "0.002", "-w", "14", "10.0.0.2"];
            world.station.exec(&ping)
        });
        let sent = scope.spawn(|| {
            serve(&world.station, 4003, |mut stream| {
                for part in data.chunks(1 << 16) {
                    stream.write_all(part).expect("the guest takes the file");
                    std::thread::sleep(Duration::from_millis(100));
                }
                stream.shutdown(Shutdown::Write).expect("the connection stands");
                let _ = stream.read(&mut [0]);
            });
        });
        here.migrate(&state);
        world.there.wait_up("vm");
        wait_until("the bridge knows where it is", BOUND, || world.is_on("b"));
        let downtime = downtime(&here);
        world.carry_over();
        here.kill();
        let pings = pings.join().expect("a ping ends");
        if sent.join().is_err() {
            let console = there.console();
            assert!(
                console.contains("Kernel panic") || console.contains("BUG:"),
                "the connection does not outlive the move; the guest says:\n{console}"
            );
            return Err(console);
        }
        assert!(!pings.stdout.contains("DUP!"), "{}", pings.stdout);
        let gap = longest_gap(&pings);
        let (last, first) = around_gap(&pings);
        let up = up_at(&world.there);
        println!(
            "{what}: silent for {gap:.0} ms, of which the guest stood still {downtime:.0} ms: {:.0} ms more; its port came up after {:.0} ms, and it answered {:.0} ms later",
            gap - downtime,
            1000.0 * (up - last),
            1000.0 * (first - up),
        );
        Ok(())
    });
    moved?;
    let (output, _) = there.end();
    assert!(output.contains(&sha256(&data)), "{output}");
    world.here.wait_down("vm");
    assert!(world.is_on("b"));
    wait_for("the first host knows that it is outside", BOUND, || {
        let port = world.here.mac_port(&world.mac.to_string(), None);
        (port.as_deref() == Some("uplinks")).then_some(())
    });
    let at = world.there.mac_port(&world.mac.to_string(), None);
    assert_eq!(at.as_deref(), Some("vm"));
    let moves = world.there.metrics().sum("vswitch_mac_table_moves_total", &[]);
    println!("{what}: moves seen on the second host: {moves:?}");
    let counted = world.there.stats().port("vm").receive.packets;
    let before = world.here.stats().port("vm").receive.packets;
    assert!(
        before > 100 && counted > before,
        "{before} on the first host, {counted} in all"
    );
    // Nothing is counted twice: the guest is asked no more.
    assert_eq!(world.carry_over()["warnings"], serde_json::json!([]));
    let again = world.there.stats().port("vm").receive.packets;
    assert!(again - counted < 50, "{again} after {counted}");
    Ok(())
}

#[test]
fn a_guest_moves_to_another_host() {
    moves(1, "", "one uplink each");
}

#[test]
fn a_guest_moves_to_a_port_that_waits_for_it() {
    moves(1, "activation: announce", "a port that waits");
}

#[test]
fn a_guest_moves_over_teams() {
    moves(2, "", "two uplinks each");
}
