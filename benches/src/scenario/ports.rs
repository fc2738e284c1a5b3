//! P9: a thousand ports at once: how long it takes, what they weigh, and whether those that were there notice.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xtask::host;
use xtask::sandbox;

use super::Figures;
use super::idle::Memory;
use crate::peer::Bench;
use crate::peer::ovs::{Daemon, PortType};
use crate::peer::vswitch::{control, unpinned_daemon, wait_for_ports, write_config};
use crate::report::{Case, Series, Unit, Wanted};
use crate::traffic::{Ends, stations};

const PORTS: usize = 1000;

/// Frames a second of the flow that looks for a gap.
const RATE: usize = 5000;

/// How often the thousand ports are made: each time takes long with the peer.
const ROUNDS: usize = 3;

/// Time, memory and gap; and Open vSwitch's time for the same.
pub fn run(bench: &Bench) -> Result<Vec<Case>> {
    let rounds = bench.rounds.min(ROUNDS);
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    let ovs = "Open vSwitch netdev, tap";
    let mut asks_ovs = bench.wants(ovs);
    for round in 1..=rounds {
        let one = one(bench);
        clean()?;
        let one = one?;
        eprintln!(
            "  ports {round}/{rounds}  vswitch, tap  apply {:.3} s, memory per port {:.1} KiB, longest under way {:.2} ms before, {:.2} ms during",
            one.apply,
            one.memory / 1024.0,
            1e3 * one.before,
            1e3 * one.during
        );
        ours.push(one);
        if asks_ovs {
            let time = open_vswitch(bench);
            clean()?;
            match time {
                Ok(time) => {
                    eprintln!("  ports {round}/{rounds}  {ovs}  {time:.2} s");
                    theirs.push(time);
                }
                Err(error) if host::interrupted() => return Err(error),
                Err(error) => {
                    // No more turns, so that the figures of a round stay side by side.
                    eprintln!("  no figure: {ovs}: {error:#}");
                    asks_ovs = false;
                }
            }
        }
    }
    let mut figures = Figures::new("ports", "P9");
    let all = |what: fn(&One) -> f64| ours.iter().map(what).collect::<Vec<f64>>();
    figures.add_all(
        &format!("apply, {PORTS} more tap ports"),
        Unit::Seconds,
        all(|one| one.apply),
        Some(Wanted::AtMost(1.0)),
        "`vswitchctl apply` from its start to its end: the TAPs are made and forward",
    );
    if let Some(case) = figures.cases.last_mut().filter(|_| bench.wants(ovs)) {
        case.series.push(Series {
            peer: ovs.into(),
            config: format!(
                "one `ovs-vsctl` with {PORTS} times `add-port … type=tap`, from its start to its end; datapath_type=netdev"
            ),
            figures: theirs,
            wanted: Some(Wanted::RatioAtMost(0.1)),
        });
    }
    figures.add_all(
        &format!("memory per port of {PORTS}"),
        Unit::Octets,
        all(|one| one.memory),
        Some(Wanted::AtMost(100.0 * 1024.0)),
        "the process's own memory (RssAnon) beyond that with two ports",
    );
    figures.add_all(
        "longest frame under way, nothing else",
        Unit::Seconds,
        all(|one| one.before),
        None,
        "one of 5000 frames a second between two TAPs, from its sending to the kernel's stamp at the far side",
    );
    figures.add_all(
        "longest frame under way, apply",
        Unit::Seconds,
        all(|one| one.during),
        Some(Wanted::AtMost(1e-3)),
        "the same while the ports are added; the kernel makes them on the same two cores",
    );
    Ok(figures.cases)
}

struct One {
    apply: f64,
    memory: f64,
    before: f64,
    during: f64,
}

fn lines(count: usize) -> String {
    (0..count).fold(String::new(), |mut lines, index| {
        let _ = writeln!(
            lines,
            "      p{index}: {{ port-group: web, tap: t{index}, netns: ports }}"
        );
        lines
    })
}

fn one(bench: &Bench) -> Result<One> {
    sandbox::add_netns("ports")?;
    let daemon = unpinned_daemon(bench, write_config(bench, &lines(2), true)?)?;
    for index in [0, 1] {
        host::sh_in("ports", &format!("ip link set t{index} addrgenmode none up"))?;
    }
    wait_for_ports(bench, 2)?;
    let empty = Memory::of(&daemon)?;
    let ends = Ends::Netdevs(["ports/t0".into(), "ports/t1".into()]);
    let phase = [format!("steady-{RATE}:2:64")];
    let before = stations(bench, &ends, bench.time, &phase)?.outcomes()?;
    let config = write_config(bench, &lines(2 + PORTS), true)?;
    let flow = stations(bench, &ends, bench.time + Duration::from_secs(2), &phase)?;
    host::measure_for(Duration::from_secs(1))?;
    let start = Instant::now();
    let mut apply = control(bench);
    host::run(apply.arg("apply").arg("-f").arg(config), Duration::from_secs(60))?;
    let time = start.elapsed();
    let during = flow.outcomes()?;
    let memory = Memory::of(&daemon)?;
    let longest =
        |outcomes: &[crate::load::Outcome]| outcomes.first().map(|outcome| outcome.max).context("no outcome");
    Ok(One {
        apply: time.as_secs_f64(),
        memory: (memory.own - empty.own).max(0.0) / PORTS as f64,
        before: longest(&before)?,
        during: longest(&during)?,
    })
}

/// Seconds that Open vSwitch takes for as many TAPs.
fn open_vswitch(bench: &Bench) -> Result<f64> {
    let switch = Daemon::start(bench, PortType::System)?;
    let mut args: Vec<String> = Vec::new();
    for index in 0..PORTS {
        if index > 0 {
            args.push("--".into());
        }
        args.extend(["add-port".into(), "br0".into(), format!("t{index}")]);
        args.extend(["--", "set", "interface"].map(str::to_owned));
        args.extend([format!("t{index}"), "type=tap".into()]);
    }
    let start = Instant::now();
    switch.control.run_all(args.iter().map(String::as_str))?;
    let took = start.elapsed().as_secs_f64();
    // Its TAPs outlive it, and every daemon after it would be told of them.
    switch.control.run("del-br br0")?;
    ensure!(
        host::sh("ip link show t0").is_err(),
        "Open vSwitch has left its TAPs"
    );
    Ok(took)
}

/// Takes away what a switch has left.
fn clean() -> Result<()> {
    // Fails only where nothing was made.
    let _ = host::sh("ip netns del ports");
    host::check_interrupted()
}
