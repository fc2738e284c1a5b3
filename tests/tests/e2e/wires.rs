//! A switch whose ports are TAPs in silent namespaces, driven frame by frame.

use std::cell::Cell;
use std::collections::BTreeMap;

use switch_core::addr::MacAddr;
use vswitch_tests::frame;
use vswitch_tests::lab::Lab;
use vswitch_tests::netns::Namespace;
use vswitch_tests::raw::Raw;
use vswitch_tests::stats::Stats;
use vswitch_tests::wait::BOUND;

/// What became of one frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The frame as each port got it.
    pub got: BTreeMap<String, Vec<u8>>,
    /// Drops that it caused at the port that it came from, by reason.
    pub drops: BTreeMap<String, u64>,
}

impl Outcome {
    /// Names of the ports that got it.
    pub fn ports(&self) -> Vec<&str> {
        self.got.keys().map(String::as_str).collect()
    }

    /// The reason of its one drop; empty if there was none.
    pub fn reason(&self) -> &str {
        self.drops.keys().next().map_or("", String::as_str)
    }
}

/// Keys of a group whose ports may send from any address.
pub const OPEN: &str = "security: { forged-transmits: accept, mac-changes: accept }";

/// The lab, and one packet socket for each port.
pub struct Wires {
    pub lab: Lab,
    sockets: BTreeMap<String, Raw>,
    marks: Cell<u32>,
}

impl Wires {
    /// Starts a switch. `keys` are keys of the switch in YAML flow form (`mtu: 9000,`), or empty; `groups` are the port groups,
    /// one a line; `ports` have a name and keys in flow form (`port-group: web, vlan: 100`), the TAP being added.
    pub fn new(keys: &str, groups: &str, ports: &[(&str, &str)]) -> Self {
        let lab = Lab::new();
        let config = Self::config(&lab, keys, groups, ports);
        for (name, _) in ports {
            lab.quiet(name);
        }
        lab.start(&config);
        let mut wires = Self {
            lab,
            sockets: BTreeMap::new(),
            marks: Cell::new(1),
        };
        for (name, _) in ports {
            wires.open(name);
        }
        wires.lab.wait_all_up();
        wires
    }

    /// The configuration that [`Wires::new`] starts with, for another one to apply.
    pub fn config(lab: &Lab, keys: &str, groups: &str, ports: &[(&str, &str)]) -> String {
        let groups: Vec<String> = groups
            .lines()
            .map(|line| line.trim().trim_end_matches(',').to_owned())
            .collect();
        let ports: Vec<String> = ports
            .iter()
            .map(|(name, keys)| {
                format!(
                    "{name}: {{ tap: eth0, netns: {}, {keys} }}",
                    lab.namespace(name).name()
                )
            })
            .collect();
        format!(
            "version: 1\nworkers: {{ count: 1 }}\nswitches: {{ vs0: {{ {keys} port-groups: {{ {} }}, ports: {{ {} }} }} }}\n",
            groups.join(", "),
            ports.join(", ")
        )
    }

    /// Opens the socket of a port whose TAP is there, in place of one that there was.
    pub fn open(&mut self, name: &str) {
        let namespace = self.namespace(name);
        namespace.up("eth0");
        self.sockets.insert(name.to_owned(), namespace.raw("eth0"));
    }

    /// The namespace behind a port.
    pub fn namespace(&self, port: &str) -> Namespace {
        self.lab.namespace(port)
    }

    /// The socket behind a port.
    pub fn socket(&mut self, port: &str) -> &mut Raw {
        self.sockets.get_mut(port).expect("the port was opened")
    }

    /// A mark that no other frame has.
    pub fn mark(&self) -> u32 {
        self.marks.replace(self.marks.get() + 1)
    }

    /// Sends a small frame into a port and sees what becomes of it.
    pub fn probe(&mut self, from: &str, to: MacAddr, source: MacAddr, tags: &[(u16, u16)]) -> Outcome {
        let mark = self.mark();
        self.offer(from, &frame::frame(to, source, tags, mark))
    }

    /// Sends a frame into a port, waits until the switch has decided about it, and collects all copies.
    /// Counters and copies have to agree: the frame is received once, and either dropped once, or sent to each port that gets
    /// it, once.
    pub fn offer(&mut self, from: &str, octets: &[u8]) -> Outcome {
        for socket in self.sockets.values_mut() {
            socket.drain();
        }
        let before = self.lab.stats();
        self.sockets[from].send(octets);
        let decided = |since: &Stats| {
            since.received() == 1 && since.transmitted() + since.drops().values().sum::<u64>() > 0
        };
        self.lab
            .stats_until("the frame is decided about", &before, decided);
        // All counters of one frame are there once they are the same twice.
        let mut since = self.lab.stats().since(&before);
        loop {
            let again = self.lab.stats().since(&before);
            if again == since {
                break;
            }
            since = again;
        }
        assert_eq!(since.port(from).receive.packets, 1, "{since:#?}");
        let mut outcome = Outcome {
            drops: since.port(from).drops.clone(),
            ..Outcome::default()
        };
        for (name, socket) in &mut self.sockets {
            let sent = since.port(name).transmit.packets;
            if name == from {
                assert_eq!(sent, 0, "`{from}` got its own frame back");
            } else {
                assert!(sent <= 1, "`{name}` got {sent} copies");
                assert_eq!(since.port(name).drops, BTreeMap::new(), "at `{name}`");
            }
            if sent == 1 {
                let got = socket.receive(BOUND);
                outcome.got.insert(
                    name.clone(),
                    got.unwrap_or_else(|| panic!("`{name}` never got its copy")),
                );
            }
            assert_eq!(
                socket.drain(),
                Vec::<Vec<u8>>::new(),
                "`{name}` got more than was counted"
            );
        }
        let dropped: u64 = outcome.drops.values().sum();
        assert_eq!(
            dropped,
            u64::from(outcome.got.is_empty()),
            "dropped or sent, not both: {outcome:?}"
        );
        outcome
    }

    /// Sends a frame so that the switch learns where its source is.
    pub fn learn(&mut self, port: &str, source: MacAddr) {
        self.probe(port, MacAddr::BROADCAST, source, &[]);
    }

    /// [`Raw::send_all`] into a port.
    pub fn flood(&self, from: &str, frames: impl Iterator<Item = Vec<u8>>) -> u64 {
        self.sockets[from].send_all(frames)
    }

    /// All sockets by the name of their port.
    pub fn sockets(&self) -> &BTreeMap<String, Raw> {
        &self.sockets
    }
}
