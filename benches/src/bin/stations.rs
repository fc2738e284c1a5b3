//! Two stations that send to each other through a switch, each behind a port: guests with vhost-user, or netdevs.
//!
//! Prints a line of JSON for each phase: see [`vswitch_benches::load`].

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use vswitch_benches::load::{Load, Outcome, Pace, Phase};
use vswitch_benches::station::guest::{self, Guest};
use vswitch_benches::station::netdev::Netdev;
use vswitch_benches::station::{Flows, Station};

/// Sends frames between two ports of a switch
#[derive(Parser)]
struct Arguments {
    /// The ports are netdevs, NETNS/DEVICE; else sockets of vhost-user ports, at which the switch connects
    #[arg(long)]
    netdev: bool,
    /// Lets the stations be heard, and then runs the one phase for each line of input, which says for how many milliseconds
    #[arg(long)]
    turns: bool,
    /// Milliseconds of each phase
    #[arg(long, default_value_t = 2000)]
    millis: u64,
    /// The two ports; more sockets get guests that are silent
    #[arg(num_args = 2.., required = true)]
    ports: Vec<String>,
    /// PACE:STATIONS:OCTETS; pace is closed, load (90 % of the last closed loop), idle-MILLISECONDS, steady-RATE or wait-MILLISECONDS
    #[arg(last = true)]
    phases: Vec<Phase>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.ports.len() >= 2, "there are two ports");
    ensure!(
        !arguments.turns || arguments.phases.len() == 1,
        "with --turns there is one phase"
    );
    if arguments.netdev {
        netdevs(&arguments)
    } else {
        guests(&arguments)
    }
}

fn guests(arguments: &Arguments) -> Result<()> {
    /// Entries of the queues of those that are silent.
    const FEW: u16 = 64;
    let listeners: Vec<UnixListener> = arguments
        .ports
        .iter()
        .map(|path| Guest::listen(Path::new(path)))
        .collect::<Result<_>>()?;
    let mut stations = [
        Guest::accept(&listeners[0], guest::SIZE)?,
        Guest::accept(&listeners[1], guest::SIZE)?,
    ];
    let _silent: Vec<Guest> = listeners[2..]
        .iter()
        .map(|listener| Guest::accept(listener, FEW))
        .collect::<Result<_>>()?;
    let mut before = None;
    for phase in &arguments.phases {
        let flows = flows(*phase)?;
        for (station, flows) in stations.iter_mut().zip(&flows) {
            station.prepare(flows)?;
        }
        let mut load = Load::new(stations, flows);
        one(arguments, *phase, &mut load, &mut before)?;
        stations = load.end();
    }
    Ok(())
}

fn netdevs(arguments: &Arguments) -> Result<()> {
    let mut before = None;
    for phase in &arguments.phases {
        let [left, right] = flows(*phase)?;
        let open = |port: &str, flows: &Flows| {
            let (netns, device) = port.split_once('/').context("a port is NETNS/DEVICE")?;
            Netdev::new(netns, device, flows)
        };
        let stations = [
            open(&arguments.ports[0], &left)?,
            open(&arguments.ports[1], &right)?,
        ];
        let mut load = Load::new(stations, [left, right]);
        one(arguments, *phase, &mut load, &mut before)?;
    }
    Ok(())
}

fn flows(phase: Phase) -> Result<[Flows; 2]> {
    Ok([
        Flows::new(0, phase.macs, phase.octets)?,
        Flows::new(1, phase.macs, phase.octets)?,
    ])
}

fn one<S: Station>(
    arguments: &Arguments,
    phase: Phase,
    load: &mut Load<S>,
    before: &mut Option<Outcome>,
) -> Result<()> {
    load.warm_up().with_context(|| phase.to_string())?;
    if arguments.turns {
        for line in std::io::stdin().lines() {
            let time = Duration::from_millis(line?.trim().parse().context("a line is a number")?);
            println!("{}", serde_json::to_string(&load.run(phase, time, *before)?)?);
        }
        return Ok(());
    }
    let time = Duration::from_millis(arguments.millis);
    let outcome = load
        .run(phase, time, *before)
        .with_context(|| phase.to_string())?;
    if phase.pace == Pace::Closed {
        *before = Some(outcome);
    }
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}
