//! What is measured. Each scenario gives rows for [`crate::report`].

use anyhow::{Context, Result};

use crate::peer::{Bench, Peer, Running};
use crate::report::{Case, Series, Unit, Wanted};
use crate::traffic;

pub mod idle;

use crate::peer::bare::BareLoop;
use crate::peer::bridge::Bridge;
use crate::peer::ovs::{Ovs, PortType};
use crate::peer::vswitch::{Ports, Vswitch};

/// Names of all scenarios, as `cargo xtask bench` takes them, `core` aside.
pub const NAMES: [&str; 3] = ["tap", "packet", "idle"];

/// Runs a scenario.
pub fn run(name: &str, bench: &Bench) -> Result<Vec<Case>> {
    match name {
        "tap" => tap(bench),
        "packet" => packet(bench),
        "idle" => idle::run(bench),
        _ => anyhow::bail!("there is no scenario `{name}`; there are {}", NAMES.join(", ")),
    }
}

/// Measures a peer while it has its turn.
type Measure = Box<dyn Fn(&Bench, &dyn Peer) -> Result<f64>>;

/// What is measured while a peer has its turn.
struct Measurement {
    name: String,
    unit: Unit,
    measure: Measure,
}

/// Lets every peer take its turn in every round; the first is ours.
fn in_turns(
    scenario: &str,
    bench: &Bench,
    peers: &[(Box<dyn Peer>, Option<Wanted>)],
    measurements: &[Measurement],
) -> Result<Vec<Case>> {
    let mut cases: Vec<Case> = measurements
        .iter()
        .map(|measurement| Case {
            scenario: scenario.to_owned(),
            name: measurement.name.clone(),
            unit: measurement.unit,
            series: peers
                .iter()
                .map(|(peer, wanted)| Series {
                    peer: peer.name(),
                    config: peer.config(),
                    figures: Vec::new(),
                    wanted: *wanted,
                })
                .collect(),
        })
        .collect();
    for round in 1..=bench.rounds {
        for (index, (peer, _)) in peers
            .iter()
            .enumerate()
            .filter(|(_, (peer, _))| bench.wants(&peer.name()))
        {
            let turn = || -> Result<Vec<f64>> {
                let mut running: Running = peer.start(bench)?;
                let mut figures = Vec::new();
                for measurement in measurements {
                    figures.push((measurement.measure)(bench, peer.as_ref())?);
                    running.check()?;
                }
                Ok(figures)
            };
            let figures = turn().with_context(|| format!("{}, round {round}", peer.name()));
            let figures = match figures {
                Ok(figures) => figures,
                // A peer that fails costs only its own column; we may not.
                Err(error) if index > 0 && !xtask::host::interrupted() => {
                    eprintln!("  no figure: {error:#}");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let said: Vec<String> = figures
                .iter()
                .zip(&cases)
                .map(|(figure, case)| format!("{} {}", case.name, case.unit.say(*figure)))
                .collect();
            eprintln!(
                "  {scenario} {round}/{}  {:<34} {}",
                bench.rounds,
                peer.name(),
                said.join("   ")
            );
            for (figure, case) in figures.into_iter().zip(&mut cases) {
                case.series[index].figures.push(figure);
            }
        }
    }
    for case in &mut cases {
        case.series.retain(|series| bench.wants(&series.peer));
    }
    Ok(cases)
}

/// P3: TCP between two TAPs, super-frames and partial checksums allowed.
fn tap(bench: &Bench) -> Result<Vec<Case>> {
    let peers: Vec<(Box<dyn Peer>, Option<Wanted>)> = vec![
        (Box::new(Vswitch(Ports::Tap)), None),
        (Box::new(BareLoop), Some(Wanted::Ratio(0.9))),
        (Box::new(Bridge), None),
        (Box::new(Ovs(PortType::Afxdp)), Some(Wanted::Ratio(4.0))),
        (Box::new(Ovs(PortType::System)), None),
    ];
    let measurement = |streams: usize| Measurement {
        name: format!("TCP, {streams} stream{}", if streams == 1 { "" } else { "s" }),
        unit: Unit::BitsPerSecond,
        measure: Box::new(move |bench, peer| {
            let receiver = if peer.has_own_core() {
                bench.traffic_core
            } else {
                bench.switch_core
            };
            traffic::tcp(bench, receiver, streams)
        }),
    };
    in_turns("tap", bench, &peers, &[measurement(1), measurement(4)])
}

/// P4, AF_PACKET: small frames through two veths, more than anyone can switch.
fn packet(bench: &Bench) -> Result<Vec<Case>> {
    let peers: Vec<(Box<dyn Peer>, Option<Wanted>)> = vec![
        (Box::new(Vswitch(Ports::Packet)), None),
        (Box::new(Ovs(PortType::System)), Some(Wanted::Ratio(3.0))),
        (Box::new(Ovs(PortType::Afxdp)), None),
        (Box::new(Bridge), None),
    ];
    let measurement = Measurement {
        name: "64 octets, overload".into(),
        unit: Unit::FramesPerSecond,
        measure: Box::new(|bench, _| traffic::flood(bench)),
    };
    in_turns("packet", bench, &peers, &[measurement])
}
