//! P1, P2, P5 and P11: between two guests that share their memory with the switch.

use anyhow::{Context, Result};

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

/// A switch with the closed loop of our own stations.
fn with_stations(peer: impl Peer + 'static, phase: &str, wanted: Option<Wanted>) -> Entry {
    let phase = phase.to_owned();
    Entry {
        name: peer.name(),
        peer: Box::new(peer),
        bin: None,
        start: Box::new(move |bench| Ok(Box::new(StationsLoop::start(bench, &phase)?))),
        wanted,
    }
}

/// A switch with the closed loop of testpmd.
fn with_testpmd(peer: impl Peer + 'static, octets: usize, wanted: Option<Wanted>) -> Entry {
    Entry {
        name: peer.name(),
        peer: Box::new(peer),
        bin: None,
        start: Box::new(move |bench| Ok(Box::new(ClosedLoop::start(bench, octets)?))),
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
    let (some, name) = (closed(SOME, 64), format!("64 octets, {SOME} MACs"));
    Ok(vec![
        side_by_side::run(
            bench,
            &about("vhost", "P1", "64 octets, 2 MACs, loop of testpmd"),
            &with_other_build(
                bench,
                vec![
                    with_testpmd(OURS, 64, None),
                    with_testpmd(DPDK, 64, ratio(1.2)),
                    with_testpmd(Io, 64, ratio(1.0)),
                ],
                with_testpmd(OURS, 64, None),
            ),
        )?,
        side_by_side::run(
            bench,
            &about("vhost", "P1", &name),
            &with_other_build(
                bench,
                vec![
                    with_stations(OURS, &some, None),
                    with_stations(DPDK, &some, ratio(1.2)),
                    with_stations(Io, &some, ratio(1.0)),
                ],
                with_stations(OURS, &some, None),
            ),
        )?,
        side_by_side::run(
            bench,
            &about("vhost", "P2", "1518 octets, loop of testpmd"),
            &with_other_build(
                bench,
                vec![
                    with_testpmd(OURS, 1518, None),
                    with_testpmd(DPDK, 1518, ratio(1.8)),
                    with_testpmd(Io, 1518, None),
                ],
                with_testpmd(OURS, 1518, None),
            ),
        )?,
    ])
}

/// P2: super-frames of 64 KiB.
pub fn super_frames(bench: &Bench) -> Result<Vec<Case>> {
    let phase = closed(2, SUPER);
    let about = About {
        unit: Unit::BitsPerSecond,
        frame: 8.0 * (SUPER - 4) as f64,
        ..about("super", "P2", "TCP super-frames of 64 KiB")
    };
    let dpdk = Ovs(PortType::VhostUser { tso: true });
    let entries = [
        with_stations(OURS, &phase, None),
        with_stations(dpdk, &phase, ratio(1.8)),
    ];
    Ok(vec![side_by_side::run(bench, &about, &entries)?])
}

/// P5: every frame from another station to another one.
pub fn macs(bench: &Bench) -> Result<Vec<Case>> {
    let (few, many) = (closed(2, 64), closed(MANY, 64));
    let itself = Entry {
        name: "vswitch, 2 MACs".into(),
        ..with_stations(OURS, &few, ratio(0.8))
    };
    Ok(vec![side_by_side::run(
        bench,
        &about("macs", "P5", &format!("64 octets, {MANY} MACs")),
        &with_other_build(
            bench,
            vec![
                with_stations(OURS, &many, None),
                with_stations(DPDK, &many, ratio(3.0)),
                itself,
            ],
            with_stations(OURS, &many, None),
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
