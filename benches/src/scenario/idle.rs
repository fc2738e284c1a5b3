//! P10: what a switch costs that has nothing to do, and how long the first frame after a pause takes.

use std::fs;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use xtask::host::{self, Background};
use xtask::sandbox;

use super::Figures;
use crate::peer::Bench;
use crate::peer::vswitch::{Ports, daemon, wait_for_ports, write_config};
use crate::report::{Case, Unit, Wanted};
use crate::traffic::{Ends, stations};

const PORTS: usize = 100;
/// Keys of /proc/PID/status: memory of its own, and what it shares with the kernel or with files.
const OWN: &str = "RssAnon:";
const MAPPED: [&str; 2] = ["RssFile:", "RssShmem:"];
const TIME: Duration = Duration::from_secs(10);

/// The kinds of ports.
const KINDS: [Ports; 4] = [Ports::Tap, Ports::Packet, Ports::Xdp, Ports::VhostUser];

/// CPU share over ten seconds, memory per port, and the time of single frames.
pub fn run(bench: &Bench) -> Result<Vec<Case>> {
    sandbox::add_netns("ports")?;
    let empty = {
        let empty = daemon(bench, write_config(bench, "", true)?)?;
        host::measure_for(Duration::from_millis(500))?;
        Memory::of(&empty)?
    };
    let mut figures = Figures::new("idle", "P10");
    let [p50, p99] = wake_up(bench)?;
    for (name, figure) in [("p50", p50), ("p99", p99)] {
        figures.add(
            &format!("wake-up, no switch, {name}"),
            Unit::Seconds,
            Some(figure),
            None,
            "a thread on the switch's core that sleeps in the kernel, woken through a pipe from the generator's after pauses of 10 ms: what the machine itself takes",
        );
    }
    for ports in KINDS {
        let kind = ports.name();
        if !bench.wants(kind) {
            continue;
        }
        let one = one(bench, ports);
        host::sh("ip netns del ports")?;
        sandbox::add_netns("ports")?;
        let one = match one {
            Ok(one) => Some(one),
            Err(error) if host::interrupted() => return Err(error),
            Err(error) => {
                eprintln!("  no figure: {kind}: {error:#}");
                None
            }
        };
        let one = one.as_ref();
        figures.add(
            &format!("CPU, {PORTS} {kind} ports"),
            Unit::PercentOfCore,
            one.map(|one| one.share),
            Some(Wanted::AtMost(1.0)),
            "user and system time of all threads over ten seconds",
        );
        for (name, figure, wanted) in [
            ("p50", one.map(|one| one.p50), None),
            ("p99", one.map(|one| one.p99), Some(Wanted::AtMost(100e-6))),
        ] {
            figures.add(
                &format!("first frame, {kind}, {name}"),
                Unit::Seconds,
                figure,
                wanted,
                "single frames after pauses of 10 ms between two of the 100 ports",
            );
        }
        figures.target = "P9".into();
        figures.add(
            &format!("memory per {kind} port"),
            Unit::Octets,
            one.map(|one| (one.memory.own - empty.own).max(0.0) / PORTS as f64),
            Some(Wanted::AtMost(100.0 * 1024.0)),
            "the process's own memory (RssAnon) beyond that without ports",
        );
        figures.add(
            &format!("rings per {kind} port"),
            Unit::Octets,
            one.map(|one| (one.memory.mapped - empty.mapped).max(0.0) / PORTS as f64),
            None,
            "rings and frames shared with the kernel (RssFile and RssShmem beyond those without ports); a guest's memory is its own",
        );
        figures.target = "P10".into();
    }
    Ok(figures.cases)
}

/// How long it takes until a thread on the switch's core runs that one on the generator's wakes, without any switch: seconds, half of the times
/// and 99 in 100.
fn wake_up(bench: &Bench) -> Result<[f64; 2]> {
    const PAUSE: Duration = Duration::from_millis(10);
    const TIMES: usize = 400;
    let (mut reader, mut writer) = std::io::pipe()?;
    let start = Instant::now();
    let pin = |core: usize| -> Result<()> {
        let mut cores = CpuSet::new();
        cores.set(core)?;
        Ok(sched_setaffinity(Pid::from_raw(0), &cores)?)
    };
    let (from, to) = (bench.traffic_core, bench.switch_core);
    let sleeper = std::thread::spawn(move || -> Result<Histogram<u64>> {
        pin(to)?;
        let mut histogram = Histogram::<u64>::new(3)?;
        let mut stamp = [0; 8];
        while reader.read_exact(&mut stamp).is_ok() {
            let now = u64::try_from(start.elapsed().as_nanos())?;
            histogram.record(now.saturating_sub(u64::from_ne_bytes(stamp)))?;
        }
        Ok(histogram)
    });
    // A thread of its own, so that nothing else stays pinned.
    let waker = std::thread::spawn(move || -> Result<()> {
        pin(from)?;
        for _ in 0..TIMES {
            std::thread::sleep(PAUSE);
            let stamp = u64::try_from(start.elapsed().as_nanos())?;
            writer.write_all(&stamp.to_ne_bytes())?;
        }
        Ok(())
    });
    waker.join().ok().context("the waker has panicked")??;
    let histogram = sleeper.join().ok().context("the sleeper has panicked")??;
    Ok([0.5, 0.99].map(|quantile| histogram.value_at_quantile(quantile) as f64 / 1e9))
}

struct One {
    share: f64,
    p50: f64,
    p99: f64,
    memory: Memory,
}

fn one(bench: &Bench, ports: Ports) -> Result<One> {
    let mut lines = String::new();
    let socket = |index: usize| bench.dir.join(format!("t{index}.sock"));
    for index in 0..PORTS {
        let device = match ports {
            Ports::Tap => format!("tap: t{index}, netns: ports"),
            Ports::Packet | Ports::Xdp => {
                host::sh(&format!(
                    "ip link add d{index} type veth peer name t{index} netns ports"
                ))?;
                host::sh(&format!("ip link set d{index} addrgenmode none up"))?;
                let driver = if ports == Ports::Xdp {
                    "af-xdp"
                } else {
                    "af-packet"
                };
                format!("device: d{index}, driver: {driver}")
            }
            Ports::VhostUser => format!("vhost-user: {}", socket(index).display()),
        };
        lines.push_str(&format!("      p{index}: {{ port-group: web, {device} }}\n"));
    }
    let daemon = daemon(bench, write_config(bench, &lines, true)?)?;
    let ends = if ports == Ports::VhostUser {
        Ends::Guests((0..PORTS).map(socket).collect())
    } else {
        for index in 0..PORTS {
            host::sh_in("ports", &format!("ip link set t{index} addrgenmode none up"))?;
        }
        wait_for_ports(bench, PORTS)?;
        Ends::Netdevs(["ports/t0".into(), "ports/t1".into()])
    };
    // Guests keep a vhost-user port up, so they are there before and silent while the time is taken.
    let settle = Duration::from_secs(2);
    let silence = if ports == Ports::VhostUser {
        settle + TIME + settle
    } else {
        Duration::ZERO
    };
    let phases = [
        format!("wait-{}:2:64", silence.as_millis()),
        "idle-10:2:64".into(),
    ];
    let mut traffic = (ports == Ports::VhostUser)
        .then(|| stations(bench, &ends, TIME / 3, &phases))
        .transpose()?;
    if let Some(traffic) = &mut traffic {
        traffic.ready(|| {
            wait_for_ports(bench, PORTS)?;
            Ok(true)
        })?;
    }
    // What setting up has left behind is not idleness.
    host::measure_for(settle)?;
    let before = cpu_time(&daemon)?;
    host::measure_for(TIME)?;
    let share = 100.0 * (cpu_time(&daemon)? - before) / TIME.as_secs_f64();
    let memory = Memory::of(&daemon)?;
    let traffic = match traffic {
        Some(traffic) => traffic,
        None => stations(bench, &ends, TIME / 3, &phases)?,
    };
    let outcomes = traffic.outcomes()?;
    let first = outcomes.last().context("no outcome")?;
    Ok(One {
        share,
        p50: first.p50,
        p99: first.p99,
        memory,
    })
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

/// Memory of a process, octets.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Its own.
    pub own: f64,
    /// Shared with the kernel or with files.
    pub mapped: f64,
}

impl Memory {
    /// As it is now.
    pub fn of(process: &Background) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
        let value = |key: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
            let kib = kib.with_context(|| format!("its status has no {key}"))?;
            Ok(1024.0 * kib.trim().parse::<f64>()?)
        };
        Ok(Self {
            own: value(OWN)?,
            mapped: MAPPED.into_iter().map(value).sum::<Result<f64>>()?,
        })
    }
}
