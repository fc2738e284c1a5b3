//! P10: what a switch costs that has nothing to do.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use xtask::host::{self, Background, SHORT};
use xtask::sandbox;

use crate::peer::vswitch::{Ports, daemon};
use crate::peer::{Bench, START};
use crate::report::{Case, Series, Unit, Wanted};

const PORTS: usize = 100;
/// Keys of /proc/PID/status: memory of its own, and what is mapped from files and sockets.
const OWN: &str = "RssAnon:";
const MAPPED: [&str; 2] = ["RssFile:", "RssShmem:"];
const TIME: Duration = Duration::from_secs(10);

/// CPU share over ten seconds, and memory per port.
pub fn run(bench: &Bench) -> Result<Vec<Case>> {
    sandbox::add_netns("ports")?;
    let empty = {
        let empty = daemon(bench, "")?;
        host::measure_for(Duration::from_millis(500))?;
        (status(&empty, OWN)?, shared(&empty)?)
    };
    let mut cases = Vec::new();
    for (ports, kind) in [(Ports::Tap, "tap"), (Ports::Packet, "af-packet")] {
        let (share, own, mapped) = one(bench, ports)?;
        let mut case = |name: String, unit: Unit, figure: f64, most: Option<f64>, config: &str| {
            eprintln!("  idle      {name:<34} {}", unit.say(figure));
            cases.push(Case {
                scenario: "idle".into(),
                name,
                unit,
                series: vec![Series {
                    peer: "vswitch".into(),
                    config: config.into(),
                    figures: vec![figure],
                    wanted: most.map(Wanted::AtMost),
                }],
            });
        };
        case(
            format!("CPU, {PORTS} {kind} ports"),
            Unit::PercentOfCore,
            share,
            Some(1.0),
            "user and system time of all threads",
        );
        case(
            format!("memory per {kind} port"),
            Unit::Octets,
            (own - empty.0).max(0.0) / PORTS as f64,
            Some(100.0 * 1024.0),
            "the process's own memory (RssAnon) beyond that without ports",
        );
        if ports == Ports::Packet {
            case(
                format!("rings per {kind} port"),
                Unit::Octets,
                (mapped - empty.1).max(0.0) / PORTS as f64,
                None,
                "the receive ring and the frames to send, shared with the kernel (RssFile and RssShmem beyond those without ports)",
            );
        }
    }
    Ok(cases)
}

/// Share of a core in percent, octets of its own, and octets shared with the kernel.
fn one(bench: &Bench, ports: Ports) -> Result<(f64, f64, f64)> {
    let mut lines = String::new();
    for index in 0..PORTS {
        let device = match ports {
            Ports::Tap => format!("tap: t{index}, netns: ports"),
            Ports::Packet => {
                host::sh(&format!(
                    "ip link add d{index} type veth peer name t{index} netns ports"
                ))?;
                host::sh(&format!("ip link set d{index} addrgenmode none up"))?;
                format!("device: d{index}")
            }
        };
        lines.push_str(&format!("      p{index}: {{ port-group: web, {device} }}\n"));
    }
    let daemon = daemon(bench, &lines)?;
    for index in 0..PORTS {
        host::sh_in("ports", &format!("ip link set t{index} addrgenmode none up"))?;
    }
    host::wait_until(START, || {
        let mut list = bench.own("vswitchctl");
        list.arg("--socket")
            .arg(bench.dir.join("ctl.sock"))
            .args(["-o", "json", "port", "list"]);
        let rows: Value = serde_json::from_str(&host::run(&mut list, SHORT)?)?;
        let rows = rows.as_array().context("`port list` gave no list")?;
        Ok(rows.len() == PORTS && rows.iter().all(|row| row["state"] == "up"))
    })
    .context("not all ports came up")?;
    // What setting up has left behind is not idleness.
    host::measure_for(Duration::from_secs(2))?;
    let before = cpu_time(&daemon)?;
    host::measure_for(TIME)?;
    let share = 100.0 * (cpu_time(&daemon)? - before) / TIME.as_secs_f64();
    Ok((share, status(&daemon, OWN)?, shared(&daemon)?))
}

/// Seconds of processor time that a process has used.
fn cpu_time(process: &Background) -> Result<f64> {
    // `schedstat` of each thread is in nanoseconds; `stat` of the process only in ticks of 10 ms.
    let mut nanos = 0.0;
    let tasks = format!("/proc/{}/task", process.pid());
    for task in fs::read_dir(&tasks).with_context(|| tasks.clone())? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let first = text.split_whitespace().next().context("an empty schedstat")?;
        nanos += first.parse::<f64>()?;
    }
    Ok(nanos / 1e9)
}

/// Octets that a process shares with the kernel or with files.
fn shared(process: &Background) -> Result<f64> {
    MAPPED.into_iter().map(|key| status(process, key)).sum()
}

/// A figure of a process's memory, octets.
fn status(process: &Background, key: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib = kib.with_context(|| format!("its status has no {key}"))?;
    Ok(1024.0 * kib.trim().parse::<f64>()?)
}
