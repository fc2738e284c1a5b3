//! P1, P2, P5 and P11: between two guests that share their memory with the switch.

use anyhow::{Context, Result, ensure};

use super::side_by_side::{self, About, Entry};
use super::{Measurement, Peers, in_turns};
use crate::load::Outcome;
use crate::peer::ovs::{Ovs, PortType};
use crate::peer::testpmd::{ClosedLoop, Io};
use crate::peer::vswitch::{Ports, Vswitch};
use crate::peer::{Bench, NAMESPACES, Peer};
use crate::report::{Case, Unit, Wanted};
use crate::traffic::{Ends, StationsLoop, stations};

/// Stations of P1's second figure, and of P5. The nearest powers of two to a thousand and to 64 thousand.
const SOME: usize = 1024;
const MANY: usize = 65_536;

/// A super-frame's octets on the wire: 45 segments.
const SUPER: usize = 54 + 45 * 1446 + 4;

/// The last outcome of phases between two guests.
fn guests(bench: &Bench, phases: &[&str]) -> Result<Outcome> {
    last(bench, &Ends::Guests(bench.sockets().to_vec()), phases)
}

/// The same between the netdevs of the two namespaces.
fn netdevs(bench: &Bench, phases: &[&str]) -> Result<Outcome> {
    last(
        bench,
        &Ends::Netdevs(NAMESPACES.map(|netns| format!("{netns}/eth0"))),
        phases,
    )
}

fn last(bench: &Bench, ends: &Ends, phases: &[&str]) -> Result<Outcome> {
    let phases: Vec<String> = phases.iter().map(|phase| (*phase).to_owned()).collect();
    let outcomes = stations(bench, ends, bench.time, &phases)?.outcomes()?;
    outcomes.last().copied().context("no outcome")
}

fn closed(macs: usize, octets: usize) -> String {
    format!("closed:{macs}:{octets}")
}

/// What goes round between a switch and its guests.
#[derive(Clone)]
enum Round {
    /// The closed loop of our own stations: a phase of theirs.
    Stations(String),
    /// The closed loop of testpmd, with frames of so many octets.
    Testpmd(usize),
}

/// A switch with a loop.
fn entry(what: &Round, peer: impl Peer + 'static, wanted: Option<Wanted>) -> Entry {
    let what = what.clone();
    Entry {
        name: peer.name(),
        peer: Box::new(peer),
        bin: None,
        start: Box::new(move |bench| {
            Ok(match &what {
                Round::Stations(phase) => Box::new(StationsLoop::start(bench, phase)?),
                Round::Testpmd(octets) => Box::new(ClosedLoop::start(bench, *octets)?),
            })
        }),
        wanted,
    }
}

const OURS: Vswitch = Vswitch::open(Ports::VhostUser);
const DPDK: Ovs = Ovs(PortType::VhostUser { tso: false });

fn ratio(least: f64) -> Option<Wanted> {
    Some(Wanted::Ratio(least))
}

fn about<'a>(scenario: &'a str, target: &'a str, name: &'a str) -> About<'a> {
    About {
        scenario,
        target,
        name,
        unit: Unit::FramesPerSecond,
        frame: 1.0,
    }
}

/// The other build of the switch that the user has named, beside ours.
fn with_other_build(bench: &Bench, mut entries: Vec<Entry>, ours: Entry) -> Vec<Entry> {
    entries.extend(bench.beside.as_ref().map(|bin| Entry {
        name: "vswitch, the other build".into(),
        bin: Some(bin.clone()),
        ..ours
    }));
    entries
}

/// P1 and P2: small frames of two stations and of many, and full ones.
pub fn vhost(bench: &Bench) -> Result<Vec<Case>> {
    let many = format!("64 octets, {SOME} MACs");
    let races = [
        (
            about("vhost", "P1", "64 octets, 2 MACs, loop of testpmd"),
            Round::Testpmd(64),
            (ratio(1.2), ratio(1.0)),
        ),
        (
            about("vhost", "P1", &many),
            Round::Stations(closed(SOME, 64)),
            (ratio(1.2), ratio(1.0)),
        ),
        (
            about("vhost", "P2", "1518 octets, loop of testpmd"),
            Round::Testpmd(1518),
            (ratio(1.8), None),
        ),
    ];
    let wanted: Vec<_> = races
        .iter()
        .filter(|(about, ..)| bench.wants_case(about.name))
        .collect();
    ensure!(!wanted.is_empty(), "no case of vhost has such a name");
    wanted
        .into_iter()
        .map(|(about, what, (beside_ovs, beside_io))| {
            let entries = vec![
                entry(what, OURS, None),
                entry(what, DPDK, *beside_ovs),
                entry(what, Io, *beside_io),
            ];
            side_by_side::run(
                bench,
                about,
                &with_other_build(bench, entries, entry(what, OURS, None)),
            )
        })
        .collect()
}

/// P2: super-frames of 64 KiB.
pub fn super_frames(bench: &Bench) -> Result<Vec<Case>> {
    let what = Round::Stations(closed(2, SUPER));
    let about = About {
        unit: Unit::BitsPerSecond,
        frame: 8.0 * (SUPER - 4) as f64,
        ..about("super", "P2", "TCP super-frames of 64 KiB")
    };
    let dpdk = Ovs(PortType::VhostUser { tso: true });
    let entries = [entry(&what, OURS, None), entry(&what, dpdk, ratio(1.8))];
    Ok(vec![side_by_side::run(bench, &about, &entries)?])
}

/// P5: every frame from another station to another one.
pub fn macs(bench: &Bench) -> Result<Vec<Case>> {
    let [few, many] = [2, MANY].map(|macs| Round::Stations(closed(macs, 64)));
    let itself = Entry {
        name: "vswitch, 2 MACs".into(),
        ..entry(&few, OURS, ratio(0.8))
    };
    Ok(vec![side_by_side::run(
        bench,
        &about("macs", "P5", &format!("64 octets, {MANY} MACs")),
        &with_other_build(
            bench,
            vec![entry(&many, OURS, None), entry(&many, DPDK, ratio(3.0)), itself],
            entry(&many, OURS, None),
        ),
    )?])
}

/// P11: how long a frame takes while the switch is nearly busy, each at nine tenths of what it can do.
pub fn latency(bench: &Bench) -> Result<Vec<Case>> {
    let half = || vec![None, Some(Wanted::RatioAtMost(0.5))];
    let guest_peers: Peers = vec![
        (Box::new(Vswitch::open(Ports::VhostUser)), vec![]),
        (Box::new(Ovs(PortType::VhostUser { tso: false })), half()),
    ];
    let netdev_peers: Peers = vec![
        (Box::new(Vswitch::new(Ports::Packet)), vec![]),
        (Box::new(Ovs(PortType::System)), half()),
        (Box::new(Ovs(PortType::Afxdp)), vec![]),
    ];
    let phases = ["closed:2:64", "load:2:64"];
    let measurement = |name: &str, measure: fn(&Bench, &[&str]) -> Result<Outcome>| Measurement {
        target: "P11".into(),
        names: ["p50", "p99"]
            .map(|quantile| format!("{name}, 90 % load, {quantile}"))
            .into(),
        unit: Unit::Seconds,
        measure: Box::new(move |bench, _| {
            let outcome = measure(bench, &phases)?;
            Ok(vec![outcome.p50, outcome.p99])
        }),
    };
    let mut cases = in_turns(
        "latency",
        bench,
        &guest_peers,
        &[measurement("vhost-user", guests)],
    )?;
    cases.extend(in_turns(
        "latency",
        bench,
        &netdev_peers,
        &[measurement("veth", netdevs)],
    )?);
    Ok(cases)
}
