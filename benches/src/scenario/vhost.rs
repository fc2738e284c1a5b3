//! P1, P2, P5 and P11: between two guests that share their memory with the switch.

use anyhow::{Context, Result};

use super::{Measurement, Peers, in_turns};
use crate::load::Outcome;
use crate::peer::ovs::{Ovs, PortType};
use crate::peer::testpmd::{self, Io};
use crate::peer::vswitch::{Ports, Vswitch};
use crate::peer::{Bench, NAMESPACES};
use crate::report::{Case, Series, Unit, Wanted};
use crate::traffic::{Ends, stations};

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

/// P1 and P2: small frames of two stations and of many, and full ones.
pub fn vhost(bench: &Bench) -> Result<Vec<Case>> {
    let ratio = |least| Some(Wanted::Ratio(least));
    let peers: Peers = vec![
        (Box::new(Vswitch::open(Ports::VhostUser)), vec![]),
        (
            Box::new(Ovs(PortType::VhostUser { tso: false })),
            vec![ratio(1.2), ratio(1.2), ratio(1.8)],
        ),
        (Box::new(Io), vec![ratio(1.0), ratio(1.0)]),
    ];
    let frames = |target: &str, name: &str, measure: super::Measure| Measurement {
        target: target.into(),
        names: vec![name.into()],
        unit: Unit::FramesPerSecond,
        measure,
    };
    let measurements = [
        frames(
            "P1",
            "64 octets, 2 MACs, loop of testpmd",
            Box::new(|bench, _| Ok(vec![testpmd::closed_loop(bench, 64)?])),
        ),
        frames(
            "P1",
            &format!("64 octets, {SOME} MACs"),
            Box::new(|bench, _| Ok(vec![guests(bench, &[&closed(SOME, 64)])?.rate])),
        ),
        frames(
            "P2",
            "1518 octets, loop of testpmd",
            Box::new(|bench, _| Ok(vec![testpmd::closed_loop(bench, 1518)?])),
        ),
    ];
    in_turns("vhost", bench, &peers, &measurements)
}

/// P2: super-frames of 64 KiB.
pub fn super_frames(bench: &Bench) -> Result<Vec<Case>> {
    let peers: Peers = vec![
        (Box::new(Vswitch::open(Ports::VhostUser)), vec![]),
        (
            Box::new(Ovs(PortType::VhostUser { tso: true })),
            vec![Some(Wanted::Ratio(1.8))],
        ),
    ];
    let measurement = Measurement {
        target: "P2".into(),
        names: vec!["TCP super-frames of 64 KiB".into()],
        unit: Unit::BitsPerSecond,
        measure: Box::new(|bench, _| {
            let rate = guests(bench, &[&closed(2, SUPER)])?.rate;
            Ok(vec![rate * 8.0 * (SUPER - 4) as f64])
        }),
    };
    in_turns("super", bench, &peers, &[measurement])
}

/// P5: every frame from another station to another one.
pub fn macs(bench: &Bench) -> Result<Vec<Case>> {
    let peers: Peers = vec![
        (Box::new(Vswitch::open(Ports::VhostUser)), vec![]),
        (
            Box::new(Ovs(PortType::VhostUser { tso: false })),
            vec![None, Some(Wanted::Ratio(3.0))],
        ),
    ];
    let frames = |name: String, macs: usize| Measurement {
        target: "P5".into(),
        names: vec![name],
        unit: Unit::FramesPerSecond,
        measure: Box::new(move |bench, _| Ok(vec![guests(bench, &[&closed(macs, 64)])?.rate])),
    };
    let measurements = [
        frames("64 octets, 2 MACs".into(), 2),
        frames(format!("64 octets, {MANY} MACs"), MANY),
    ];
    let mut cases = in_turns("macs", bench, &peers, &measurements)?;
    if let [few, many] = &mut cases[..]
        && let Some(ours) = few.series.first().filter(|ours| !ours.figures.is_empty())
    {
        many.series.push(Series {
            peer: "itself with 2 MACs".into(),
            wanted: Some(Wanted::Ratio(0.8)),
            ..ours.clone()
        });
    }
    Ok(cases)
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
