//! Random switches and frames, made of arbitrary octets, so that one generator serves property tests (which shrink
//! octets), the fuzzer (which mutates them) and long runs (which draw them from a seed).
//!
//! Addresses, VLANs and lengths come from small pools around the edges, so that what must meet does meet.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use switch_core::addr::MacAddr;
use switch_core::decisions::Decisions;
use switch_core::fdb::{Fdb, Filter};
use switch_core::frame::{FrameView, Hop};
use switch_core::id::{PortId, SwitchId};
use switch_core::offload::{Checksum, Gso, GsoKind, Offload, VIRTIO_NET_HDR_LEN};
use switch_core::pipeline::{Mode, Silent, Step, forward};
use switch_core::security::{PortState, SecurityPolicy};
use switch_core::snapshot::{MacLimit, Overflow, Port, Snapshot, Switch};
use switch_core::team::{Exit, Hears, Role, Shares, UplinkSet};
use switch_core::time::Timestamp;
use switch_core::verdict::DropReason;
use switch_core::vid::{Tag, Tpid, Vid};
use switch_core::vlan::{VlanPolicy, VlanSet};

use super::twin::{SlowHop, SlowSwitch};
use super::{AGEING, id, mac, vid};

/// Octets to be used up as decisions; zeros once they are.
#[derive(Clone, Debug)]
pub struct Choices<'a> {
    octets: &'a [u8],
}

impl<'a> Choices<'a> {
    pub fn new(octets: &'a [u8]) -> Self {
        Self { octets }
    }

    pub fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }

    pub fn octet(&mut self) -> u8 {
        let Some((first, rest)) = self.octets.split_first() else {
            return 0;
        };
        self.octets = rest;
        *first
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.octet(), self.octet()])
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.octet()) % bound
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn take(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.octets.split_at(most.min(self.octets.len()));
        self.octets = rest;
        taken
    }
}

const VIDS: [u16; 5] = [1, 2, 100, 0, 4094];
const STATIONS: u64 = 8;
const MOST_PORTS: usize = 8;

fn some_vid(choices: &mut Choices<'_>) -> Vid {
    vid(choices.pick(&VIDS))
}

fn station(choices: &mut Choices<'_>) -> MacAddr {
    mac(choices.below(STATIONS as usize) as u64)
}

fn vlan(choices: &mut Choices<'_>) -> VlanPolicy {
    match choices.below(8) {
        0 | 1 => VlanPolicy::Unaware,
        2 | 3 => VlanPolicy::Access(some_vid(choices)),
        4 => VlanPolicy::Tunnel(some_vid(choices)),
        _ => {
            let members = choices.octet();
            let vlans = if members == 0 {
                VlanSet::all()
            } else {
                let chosen = VIDS
                    .iter()
                    .enumerate()
                    .filter(|(i, v)| members >> i & 1 == 1 && **v != 0);
                chosen.map(|(_, v)| vid(*v)).collect()
            };
            VlanPolicy::Trunk {
                vlans,
                native: choices.one_in(2).then(|| some_vid(choices)),
                tpid: choices.pick(&[Tpid::Dot1Q, Tpid::Dot1Q, Tpid::Dot1Ad]),
            }
        }
    }
}

/// VLANs of a world in which most ports hear each other.
fn shared_vlan(choices: &mut Choices<'_>) -> VlanPolicy {
    match choices.below(4) {
        0 => VlanPolicy::Tunnel(vid(1)),
        1 => VlanPolicy::Trunk {
            vlans: VlanSet::all(),
            native: Some(vid(1)),
            tpid: Tpid::Dot1Q,
        },
        _ => VlanPolicy::Access(vid(1)),
    }
}

/// The station that lives behind a port.
fn resident(port: PortId) -> MacAddr {
    mac(u64::from(port.get()) / 2 % STATIONS)
}

fn port(choices: &mut Choices<'_>, number: usize, switches: usize, sociable: bool) -> Port {
    let flags = choices.octet();
    let own = id(number as u16 * 2);
    Port {
        // Gaps in the numbers are part of the game.
        id: own,
        switch: SwitchId(choices.below(switches) as u16),
        enabled: !choices.one_in(8),
        up: !choices.one_in(8),
        vlan: if sociable {
            shared_vlan(choices)
        } else {
            vlan(choices)
        },
        security: SecurityPolicy {
            promiscuous: flags & 7 == 7,
            mac_changes: flags & 8 != 0,
            forged_transmits: flags & 16 != 0,
        },
        mac: match choices.below(6) {
            0 => Some(station(choices)),
            1 | 2 => Some(resident(own)),
            _ => None,
        },
        isolated: flags & 0x60 == 0x60,
        mac_limit: choices.one_in(4).then(|| MacLimit {
            count: choices.below(4) as u32,
            overflow: choices.pick(&[Overflow::Drop, Overflow::Flood]),
        }),
        dormant: false,
        role: Role::default(),
        state: Arc::new(PortState::default()),
    }
}

/// Makes uplinks of the last ports of a switch, and gives the others a team.
fn add_uplinks(choices: &mut Choices<'_>, switch: SwitchId, ports: &mut Vec<Port>) {
    let outside = id((2 * MOST_PORTS) as u16 + 1 + switch.0);
    let mut own: Vec<&mut Port> = ports.iter_mut().filter(|port| port.switch == switch).collect();
    let count = choices.below(8).saturating_sub(4).min(own.len());
    if count == 0 {
        return;
    }
    let everything = VlanPolicy::Trunk {
        vlans: VlanSet::all(),
        native: Some(Vid::UNAWARE),
        tpid: Tpid::Dot1Q,
    };
    let inside = own.len() - count;
    let uplinks: Vec<PortId> = own[inside..].iter().map(|port| port.id).collect();
    for (number, port) in own[inside..].iter_mut().enumerate() {
        port.role = Role::Uplink {
            number: number as u8,
            outside,
        };
        port.vlan = everything.clone();
        port.security = super::ACCEPT;
        (port.mac, port.isolated, port.mac_limit) = (None, false, None);
    }
    let up = own[inside..].iter().any(|port| port.up && port.enabled);
    for port in &mut own[..inside] {
        let set = |octet: u8| -> UplinkSet { (0..count as u8).filter(|bit| octet >> bit & 1 == 1).collect() };
        let shares = || Shares::new(&uplinks, |_| true).expect("there are some");
        port.role = Role::Inside {
            exit: match choices.below(6) {
                0 => Exit::None,
                1 => Exit::BySource(shares()),
                2 => Exit::ByFlow(shares()),
                _ => Exit::One(uplinks[choices.below(count)]),
            },
            hears: Hears {
                unicast: set(choices.octet()),
                groups: set(choices.octet()),
            },
        };
    }
    ports.push(Port {
        id: outside,
        switch,
        up,
        vlan: everything,
        role: Role::Outside,
        ..super::port(0)
    });
}

/// A switch under test beside its twin.
pub struct World {
    pub snapshot: Snapshot,
    pub slow: SlowSwitch,
    pub now: Timestamp,
    hops: Vec<Hop>,
    buffer: Vec<u8>,
    /// Every change of the fast one is made to the slow one, and they are compared.
    compare: bool,
}

/// Reads the octets as a switch and what happens to it, and holds it to its twin all the way.
pub fn play(octets: &[u8]) -> Tally {
    let mut choices = Choices::new(octets);
    let mut world = World::new(&mut choices, true);
    let mut tally = Tally::default();
    while !choices.is_empty() {
        world.step(&mut choices, &mut tally);
    }
    world.compare_tables();
    let drops: u64 = tally.drops.iter().sum();
    assert_eq!(tally.frames + tally.copies, tally.hops + drops);
    tally
}

/// What happened to the frames of a run.
#[derive(Clone, Debug)]
pub struct Tally {
    pub frames: u64,
    pub hops: u64,
    /// Hops beyond the first of each frame.
    pub copies: u64,
    pub drops: [u64; DropReason::COUNT],
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            frames: 0,
            hops: 0,
            copies: 0,
            drops: [0; DropReason::COUNT],
        }
    }
}

impl World {
    pub fn new(choices: &mut Choices<'_>, compare: bool) -> Self {
        let switches: Vec<Switch> = (0..1 + choices.below(2))
            .map(|_| Switch {
                mtu: choices.pick(&[100, 1500]),
                ageing: AGEING,
                // Room for every address in every VLAN: what is evicted is for the table's own twin to check.
                fdb: Arc::new(Fdb::new(64, choices.octet().into())),
            })
            .collect();
        let sociable = choices.one_in(2);
        let mut ports: Vec<Port> = (0..2 + choices.below(MOST_PORTS - 1))
            .map(|number| port(choices, number, switches.len(), sociable))
            .collect();
        for port in &mut ports {
            port.dormant = choices.one_in(16);
            port.up &= !port.dormant;
        }
        for switch in 0..switches.len() {
            add_uplinks(choices, SwitchId(switch as u16), &mut ports);
        }
        let mtus = switches.iter().map(|switch| usize::from(switch.mtu)).collect();
        Self {
            slow: SlowSwitch::new(ports.clone(), mtus, AGEING),
            snapshot: Snapshot::new(1, switches, ports),
            now: Timestamp::from_secs(1000),
            hops: Vec::with_capacity(MOST_PORTS),
            buffer: Vec::with_capacity(2048),
            compare,
        }
    }

    /// One frame, or once in a while something else that happens to a switch.
    pub fn step(&mut self, choices: &mut Choices<'_>, tally: &mut Tally) {
        match choices.octet() {
            0xf0..=0xf3 => self.now = self.now + Duration::from_secs(choices.octet().into()),
            0xf4 => {
                for (at, switch) in self.snapshot.switches().iter().enumerate() {
                    let aged = switch.fdb.age(self.now, AGEING);
                    if self.compare {
                        assert_eq!(aged, self.slow.fdbs[at].age(self.now, AGEING));
                    }
                }
            }
            0xf5 => {
                let filter = Filter {
                    port: choices.one_in(2).then(|| some_port(choices)),
                    vid: choices.one_in(2).then(|| some_vid(choices)),
                };
                for (at, switch) in self.snapshot.switches().iter().enumerate() {
                    let flushed = switch.fdb.flush(filter);
                    if self.compare {
                        assert_eq!(flushed, self.slow.fdbs[at].flush(filter));
                    }
                }
            }
            0xf6 => {
                let at = choices.below(self.snapshot.switches().len());
                let (vid, mac, port) = (some_vid(choices), station(choices), some_port(choices));
                let fdb = &self.snapshot.switches()[at].fdb;
                fdb.insert_static(vid, mac, port)
                    .expect("there is room for every address");
                if self.compare {
                    self.slow.fdbs[at].insert_static(vid, mac, port);
                }
            }
            0xfc..=0xff => self.train(choices, tally),
            kind => self.frame(kind, choices, tally),
        }
    }

    fn frame(&mut self, kind: u8, choices: &mut Choices<'_>, tally: &mut Tally) {
        let from = some_port(choices);
        let mut frame = std::mem::take(&mut self.buffer);
        let mtu = self
            .snapshot
            .port(from)
            .map_or(1500, |port| usize::from(self.snapshot.switch(port.switch).mtu));
        let offload = if kind >= 0xe8 {
            // What a guest writes: a header of its own making, and any octets behind it.
            let header: [u8; VIRTIO_NET_HDR_LEN] = std::array::from_fn(|_| choices.octet());
            let len = usize::from(choices.octet());
            frame.clear();
            frame.extend(choices.take(len));
            if kind == 0xef {
                frame.resize(frame.len() + usize::from(choices.octet()) * 8, 0);
            }
            Offload::decode(&header, &frame, frame.len())
        } else {
            write_frame(&mut frame, choices, from, mtu);
            Ok(some_offload(choices, frame.len()))
        };
        match offload {
            Ok(offload) => self.send(from, &frame, offload, tally),
            Err(_) => {
                tally.frames += 1;
                tally.drops[DropReason::BadOffload.index()] += 1;
            }
        }
        self.buffer = frame;
    }

    /// Sends one frame through both, checks what must hold for any frame, and compares.
    pub fn send(&mut self, from: PortId, frame: &[u8], offload: Offload, tally: &mut Tally) {
        let view = view(from, frame, offload);
        let expected = self
            .compare
            .then(|| expect(&self.snapshot, &mut self.slow, self.now, &view, frame));
        let live = forward(
            &self.snapshot,
            self.now,
            &view,
            Mode::Live,
            &mut self.hops,
            &mut Silent,
        );
        check(&self.snapshot, from, live, &self.hops, expected, tally);
    }

    /// Sends frames of one port as one batch, of which some follow the one before.
    fn train(&mut self, choices: &mut Choices<'_>, tally: &mut Tally) {
        let from = some_port(choices);
        let mtu = self
            .snapshot
            .port(from)
            .map_or(1500, |port| usize::from(self.snapshot.switch(port.switch).mtu));
        let mut decisions = Decisions::new(&self.snapshot, self.now, from, &mut self.hops);
        let mut frame = Vec::new();
        write_frame(&mut frame, choices, from, mtu);
        for _ in 0..2 + choices.below(4) {
            let offload = some_offload(choices, frame.len());
            let view = view(from, &frame, offload);
            let expected = self
                .compare
                .then(|| expect(&self.snapshot, &mut self.slow, self.now, &view, &frame));
            let live = decisions.forward(&view, &mut Silent);
            check(&self.snapshot, from, live, decisions.hops(), expected, tally);
            match choices.below(4) {
                // The same header, and more or less behind it.
                0 => {
                    let len = 8 * usize::from(choices.octet());
                    frame.resize(len, 0);
                }
                1 => write_frame(&mut frame, choices, from, mtu),
                2 => {
                    let at = choices.below(14);
                    if let Some(octet) = frame.get_mut(at) {
                        *octet = choices.octet();
                    }
                }
                _ => {}
            }
        }
    }

    /// The tables hold the same, and their counters agree.
    pub fn compare_tables(&self) {
        for (switch, slow) in self.snapshot.switches().iter().zip(&self.slow.fdbs) {
            let fast: Vec<_> = switch
                .fdb
                .entries(self.now, Duration::MAX)
                .iter()
                .map(|entry| (entry.vid, entry.mac, entry.port))
                .collect();
            let slow_entries: Vec<_> = slow
                .entries
                .iter()
                .map(|((vid, mac), entry)| (*vid, *mac, entry.port))
                .collect();
            assert_eq!(fast, slow_entries);
            let counters = switch.fdb.counters();
            assert_eq!(counters.entries, slow.entries.len() as u64);
            assert_eq!(
                (counters.learnt, counters.moves, counters.aged),
                (slow.learnt, slow.moves, slow.aged)
            );
        }
    }
}

/// Where a frame goes, or why it goes nowhere.
type Way = Result<BTreeSet<SlowHop>, DropReason>;

fn view(from: PortId, frame: &[u8], offload: Offload) -> FrameView<'_> {
    FrameView {
        port: from,
        header: &frame[..frame.len().min(FrameView::HEADER_LEN)],
        len: frame.len(),
        offload,
    }
}

/// Lets the twin decide about a frame, and a trace say it before it happens.
fn expect(
    snapshot: &Snapshot,
    slow: &mut SlowSwitch,
    now: Timestamp,
    view: &FrameView<'_>,
    frame: &[u8],
) -> Way {
    let (mut hops, mut steps) = (Vec::new(), Vec::new());
    let dry = forward(snapshot, now, view, Mode::Dry, &mut hops, &mut steps);
    let dry_hops = sorted(&hops);
    let told: Vec<Hop> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Hop(hop) => Some(*hop),
            _ => None,
        })
        .collect();
    assert_eq!(sorted(&told), dry_hops, "the observer is told of every hop");
    let slow = slow.forward(now, view.port, frame, view.offload);
    assert_eq!(dry.map(|()| dry_hops), slow, "dry, {steps:?}");
    slow
}

/// Checks what must hold for any frame, compares, and counts.
fn check(
    snapshot: &Snapshot,
    from: PortId,
    live: Result<(), DropReason>,
    hops: &[Hop],
    expected: Option<Way>,
    tally: &mut Tally,
) {
    if let Some(expected) = expected {
        assert_eq!(live.map(|()| sorted(hops)), expected);
    }
    tally.frames += 1;
    tally.hops += hops.len() as u64;
    match live {
        Ok(()) => {
            assert!(!hops.is_empty());
            tally.copies += hops.len() as u64 - 1;
        }
        Err(reason) => {
            assert!(hops.is_empty());
            tally.drops[reason.index()] += 1;
        }
    }
    let switch = snapshot.port(from).map(|port| port.switch);
    for (at, hop) in hops.iter().enumerate() {
        assert_ne!(hop.port, from, "never back");
        assert!(
            hops[..at].iter().all(|other| other.port != hop.port),
            "no port twice"
        );
        let to = snapshot.port(hop.port).expect("hops are ports of the snapshot");
        assert!(to.up && to.enabled && Some(to.switch) == switch);
        assert_ne!(to.role, Role::Outside, "it has no device");
        let is_uplink = |port: &Port| matches!(port.role, Role::Uplink { .. });
        assert!(
            !is_uplink(to) || !snapshot.port(from).is_some_and(is_uplink),
            "never from uplink to uplink"
        );
        let trunk = matches!(to.vlan, VlanPolicy::Trunk { .. });
        assert!(trunk || hop.tag.is_none(), "only trunks are given tags");
    }
}

fn sorted(hops: &[Hop]) -> BTreeSet<SlowHop> {
    hops.iter()
        .map(|hop| (hop.port, hop.tag.map(Tag::to_bytes)))
        .collect()
}

/// A port that is there, or one number beside it.
fn some_port(choices: &mut Choices<'_>) -> PortId {
    let octet = usize::from(choices.octet());
    let odd = usize::from(octet >= 0xfc);
    id((octet % MOST_PORTS * 2 + odd) as u16)
}

fn write_frame(frame: &mut Vec<u8>, choices: &mut Choices<'_>, from: PortId, mtu: usize) {
    frame.clear();
    let destination = match choices.below(16) {
        0..=8 => station(choices),
        9 | 10 => MacAddr::BROADCAST,
        11 | 12 => MacAddr([0x01, 0, 0x5e, 0, 0, 1]),
        13 => MacAddr([0x01, 0x80, 0xc2, 0, 0, choices.octet() % 0x20]),
        14 => MacAddr::ZERO,
        _ => mac(0x1000 + u64::from(choices.octet())),
    };
    let source = match choices.below(32) {
        0 => MacAddr::BROADCAST,
        1 => MacAddr::ZERO,
        2 => MacAddr([0x33, 0x33, 0, 0, 0, 1]),
        3..=15 => station(choices),
        _ => resident(from),
    };
    frame.extend(destination.0);
    frame.extend(source.0);
    let tags = [0, 0, 0, 1, 1, 1, 2, 3][choices.below(8)];
    for _ in 0..tags {
        let tpid: u16 = choices.pick(&[0x8100, 0x8100, 0x8100, 0x88a8, 0x88a8, 0x9100]);
        let number = if choices.one_in(16) {
            4095
        } else {
            choices.pick(&VIDS)
        };
        let priority = u16::from(choices.octet() & 0xf) << 12;
        frame.extend(tpid.to_be_bytes());
        frame.extend((priority | number).to_be_bytes());
    }
    frame.extend(
        choices
            .pick(&[0x0800_u16, 0x0806, 0x86dd, 0x8100, 0x05ff, 0x8035])
            .to_be_bytes(),
    );
    if frame.ends_with(&[0x80, 0x35]) {
        // As QEMU announces a station.
        frame.extend([0, 1, 8, 0, 6, 4, 0, 3]);
        for _ in 0..2 {
            frame.extend(source.0);
            frame.extend([0; 4]);
        }
    }
    let len = match choices.below(16) {
        0 => choices.below(24),
        1..=3 => mtu + 14 + choices.below(12) - 1,
        _ => 60,
    };
    frame.resize(len, 0);
}

fn some_offload(choices: &mut Choices<'_>, len: usize) -> Offload {
    if !choices.one_in(8) {
        return Offload::default();
    }
    let header_len = 54.min(len) as u16;
    Offload {
        checksum: Checksum::Partial {
            start: 34,
            offset: 16,
        },
        gso: choices.one_in(2).then(|| Gso {
            kind: choices.pick(&[GsoKind::Tcp4, GsoKind::Tcp6, GsoKind::Udp]),
            size: 1 + choices.u16() % 2000,
            header_len,
            ecn: false,
        }),
    }
}
