//! What is measured. Each scenario gives rows for [`crate::report`].

use anyhow::{Context, Result, ensure};

use crate::peer::bare::BareLoop;
use crate::peer::bridge::Bridge;
use crate::peer::ovs::{Ovs, PortType};
use crate::peer::vde::Vde;
use crate::peer::vswitch::{Ports, Vswitch};
use crate::peer::{Bench, Peer, Running};
use crate::report::{Case, Series, Unit, Wanted};
use crate::traffic;

pub mod idle;
pub mod ports;
pub mod side_by_side;
pub mod vhost;

/// Runs a scenario.
type Run = fn(&Bench) -> Result<Vec<Case>>;

/// All scenarios, as `cargo xtask bench` takes them, `core` aside.
const SCENARIOS: [(&str, Run); 8] = [
    ("vhost", vhost::vhost),
    ("super", vhost::super_frames),
    ("macs", vhost::macs),
    ("latency", vhost::latency),
    ("tap", tap),
    ("packet", packet),
    ("ports", ports::run),
    ("idle", idle::run),
];

/// Runs a scenario.
pub fn run(name: &str, bench: &Bench) -> Result<Vec<Case>> {
    let found = SCENARIOS.iter().find(|(known, _)| *known == name);
    let (_, run) = found.with_context(|| format!("there is no scenario `{name}`"))?;
    run(bench)
}

/// Measures a peer while it has its turn: a figure for each of the measurement's names.
type Measure = Box<dyn Fn(&Bench, &dyn Peer) -> Result<Vec<f64>>>;

/// What is measured while a peer has its turn.
struct Measurement {
    /// The target that it is about.
    target: String,
    names: Vec<String>,
    unit: Unit,
    measure: Measure,
}

/// Peers with what is wanted beside them, in the order of the figures; the first is ours.
type Peers = Vec<(Box<dyn Peer>, Vec<Option<Wanted>>)>;

/// Figures of scenarios in which only we take part.
struct Figures {
    scenario: String,
    /// The target that the next figures are about.
    target: String,
    cases: Vec<Case>,
}

impl Figures {
    fn new(scenario: &str, target: &str) -> Self {
        Self {
            scenario: scenario.to_owned(),
            target: target.to_owned(),
            cases: Vec::new(),
        }
    }

    /// One figure, or none if it could not be measured.
    fn add(&mut self, name: &str, unit: Unit, figure: Option<f64>, wanted: Option<Wanted>, config: &str) {
        if let Some(figure) = figure {
            eprintln!("  {:<9} {name:<38} {}", self.scenario, unit.say(figure));
        }
        self.add_all(name, unit, figure.into_iter().collect(), wanted, config);
    }

    /// A figure of each round.
    fn add_all(&mut self, name: &str, unit: Unit, figures: Vec<f64>, wanted: Option<Wanted>, config: &str) {
        self.cases.push(Case {
            scenario: self.scenario.clone(),
            target: self.target.clone(),
            name: name.to_owned(),
            unit,
            series: vec![Series {
                peer: "vswitch".into(),
                config: config.to_owned(),
                figures,
                wanted,
            }],
        });
    }
}

/// Lets every peer take its turn in every round; the first is ours.
///
/// A peer that fails has no more turns, so that the figures of a round stay side by side.
fn in_turns(scenario: &str, bench: &Bench, peers: &Peers, measurements: &[Measurement]) -> Result<Vec<Case>> {
    let names = measurements
        .iter()
        .flat_map(|measurement| measurement.names.iter().map(move |name| (measurement, name)));
    let mut cases: Vec<Case> = names
        .enumerate()
        .map(|(figure, (measurement, name))| Case {
            scenario: scenario.to_owned(),
            target: measurement.target.clone(),
            name: name.clone(),
            unit: measurement.unit,
            series: peers
                .iter()
                .map(|(peer, wanted)| Series {
                    peer: peer.name(),
                    config: peer.config(),
                    figures: Vec::new(),
                    wanted: wanted.get(figure).copied().flatten(),
                })
                .collect(),
        })
        .collect();
    let mut failed = vec![false; peers.len()];
    for round in 1..=bench.rounds {
        for (index, (peer, _)) in peers
            .iter()
            .enumerate()
            .filter(|(_, (peer, _))| bench.wants(&peer.name()))
        {
            if failed[index] {
                continue;
            }
            let turn = || -> Result<Vec<f64>> {
                let mut running: Running = peer.start(bench)?;
                let mut figures = Vec::new();
                for measurement in measurements {
                    let some = (measurement.measure)(bench, peer.as_ref())
                        .with_context(|| measurement.names.join(", "))?;
                    ensure!(
                        some.len() == measurement.names.len(),
                        "a figure has no name, or a name no figure"
                    );
                    figures.extend(some);
                    running.check()?;
                }
                Ok(figures)
            };
            let figures = turn().with_context(|| format!("{}, round {round}", peer.name()));
            let figures = match figures {
                Ok(figures) => figures,
                Err(error) if xtask::host::interrupted() => return Err(error),
                // Who fails costs only its own column.
                Err(error) => {
                    eprintln!("  no figure: {error:#}");
                    failed[index] = true;
                    continue;
                }
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

/// P3: TCP between two TAPs, super-frames and partial checksums allowed; and the smallest frames.
fn tap(bench: &Bench) -> Result<Vec<Case>> {
    let both = |least| vec![Some(Wanted::Ratio(least)); 2];
    let peers: Peers = vec![
        (Box::new(Vswitch::new(Ports::Tap)), vec![]),
        (Box::new(BareLoop), both(1.0)),
        (Box::new(Bridge), both(0.6)),
        (Box::new(Ovs(PortType::Afxdp)), both(4.0)),
        (Box::new(Ovs(PortType::System)), both(4.0)),
        (Box::new(Vde), vec![]),
    ];
    let tcp = |streams: usize| Measurement {
        target: "P3".into(),
        names: vec![format!(
            "TCP, {streams} stream{}",
            if streams == 1 { "" } else { "s" }
        )],
        unit: Unit::BitsPerSecond,
        measure: Box::new(move |bench, peer| {
            let receiver = if peer.has_own_core() {
                bench.traffic_core
            } else {
                bench.switch_core
            };
            Ok(vec![traffic::tcp(bench, receiver, streams)?])
        }),
    };
    in_turns(
        "tap",
        bench,
        &peers,
        &[tcp(1), tcp(4), small("P4", "64 octets, overload, TAP")],
    )
}

/// P4: small frames through two veths, more than anyone can switch.
fn packet(bench: &Bench) -> Result<Vec<Case>> {
    let packet: Peers = vec![
        (Box::new(Vswitch::new(Ports::Packet)), vec![]),
        (Box::new(Ovs(PortType::System)), vec![Some(Wanted::Ratio(3.0))]),
        (Box::new(Bridge), vec![]),
    ];
    let xdp: Peers = vec![
        (Box::new(Vswitch::new(Ports::Xdp)), vec![]),
        (Box::new(Ovs(PortType::Afxdp)), vec![Some(Wanted::Ratio(1.2))]),
    ];
    let mut cases = in_turns(
        "packet",
        bench,
        &packet,
        &[small("P4", "64 octets, overload, AF_PACKET")],
    )?;
    cases.extend(in_turns(
        "packet",
        bench,
        &xdp,
        &[small("P4", "64 octets, overload, AF_XDP")],
    )?);
    Ok(cases)
}

fn small(target: &str, name: &str) -> Measurement {
    Measurement {
        target: target.into(),
        names: vec![name.into()],
        unit: Unit::FramesPerSecond,
        measure: Box::new(|bench, _| Ok(vec![traffic::flood(bench)?])),
    }
}
