//! Traffic, and how much of it arrived.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask::host::{self, Background, SHORT};

use crate::load::Outcome;
use crate::peer::{Bench, MACS};

/// Bits per second that TCP carries from `a` to `b` over `streams` connections, as the receiver counts them.
pub fn tcp(bench: &Bench, receiver_core: usize, streams: usize) -> Result<f64> {
    let mut server = host::inside("b", "iperf3");
    server.args(["-s", "-1"]);
    let server = Bench::pinned(receiver_core, &server);
    let log = bench.log("iperf3-server");
    let mut server = Background::start(&mut { server }, &log)?;
    server.ready(SHORT, || {
        let listening = host::sh_in("b", "ss -Hltn sport = :5201")?;
        Ok(!listening.trim().is_empty())
    })?;
    let mut client = host::inside("a", "iperf3");
    client.args(["-c", "10.0.0.2", "-J", "-P", &streams.to_string()]);
    client.args(["-t", &bench.time.as_secs().to_string()]);
    let out = host::output(&mut bench.on_traffic_core(&client), SHORT + 2 * bench.time)?;
    let result: Value =
        serde_json::from_str(&out.stdout).with_context(|| format!("iperf3: {}", out.stderr))?;
    let rate = result["end"]["sum_received"]["bits_per_second"].as_f64();
    rate.with_context(|| format!("iperf3: {}", result["error"]))
}

/// Frames per second that arrive at `b` while `a` sends as many as one core can, 64 octets each on the wire.
///
/// The frames are for a station behind `b`'s netdev, which is given another address, so that its stack drops them at once.
pub fn flood(bench: &Bench) -> Result<f64> {
    let [from, to] = MACS;
    host::sh_in("b", "ip link set eth0 address 02:00:00:00:00:bb")?;
    host::sh_in("a", &format!("ip neigh replace 10.0.0.2 lladdr {to} dev eth0"))?;
    // Frames leave one by one and complete.
    host::sh_in("a", "ethtool -K eth0 tx off tx-udp-segmentation off")?;
    // The switch learns where both are.
    for (netns, from, to) in [("b", to, from), ("a", from, to)] {
        let mut hello = host::inside(netns, bench.bin.join("flood"));
        host::run(hello.args(["--learn", "eth0", from, to]), SHORT)?;
    }
    let flood = host::inside("a", bench.bin.join("flood"));
    let _flood = Background::start(&mut bench.on_traffic_core(&flood), &bench.log("flood"))?;
    host::measure_for(Duration::from_millis(300))?;
    let (begin, first) = received()?;
    host::measure_for(bench.time)?;
    let (end, last) = received()?;
    Ok((last - first) as f64 / (end - begin).as_secs_f64())
}

/// Frames that have arrived at `b`, and when that was so.
fn received() -> Result<(Instant, u64)> {
    let text = host::sh_in("b", "ip -j -s link show eth0")?;
    let now = Instant::now();
    let links: Value = serde_json::from_str(&text)?;
    let packets = links[0]["stats64"]["rx"]["packets"].as_u64();
    Ok((
        now,
        packets.context("`ip -s link` gave no count of received packets")?,
    ))
}

/// Where stations are.
#[derive(Clone, Debug)]
pub enum Ends {
    /// Guests that listen at these sockets; the first two send.
    Guests(Vec<PathBuf>),
    /// Netdevs, as NAMESPACE/DEVICE.
    Netdevs([String; 2]),
}

/// The `stations` program at work.
#[derive(Debug)]
pub struct Stations {
    process: Background,
    /// How long it may take.
    bound: Duration,
    phases: usize,
}

/// Lets two stations send to each other, `time` for each phase.
pub fn stations(bench: &Bench, ends: &Ends, time: Duration, phases: &[String]) -> Result<Stations> {
    let mut command = bench.own("stations");
    command.arg("--millis").arg(time.as_millis().to_string());
    match ends {
        Ends::Guests(sockets) => command.args(sockets),
        Ends::Netdevs(ports) => command.arg("--netdev").args(ports),
    };
    command.arg("--").args(phases);
    let process = Background::start(&mut bench.on_traffic_core(&command), &bench.log("stations"))?;
    let each = u32::try_from(phases.len())?;
    Ok(Stations {
        process,
        bound: Duration::from_secs(60) + each * time,
        phases: phases.len(),
    })
}

impl Stations {
    /// Waits for a condition while they are at work.
    pub fn ready(&mut self, condition: impl FnMut() -> Result<bool>) -> Result<()> {
        self.process.ready(self.bound, condition)
    }

    /// What each phase gave.
    pub fn outcomes(mut self) -> Result<Vec<Outcome>> {
        let status = self.process.wait(self.bound)?;
        let log = self.process.log();
        let outcomes: Vec<Outcome> = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        ensure!(
            status.success() && outcomes.len() == self.phases,
            "the stations failed ({status}):\n{}",
            log.trim()
        );
        Ok(outcomes)
    }
}

/// A closed loop between the two ports of a switch: as much as it can do.
pub trait Loop {
    /// Lets it run for so long. Returns the frames that arrived a second, both ways together. At other times it sends nothing.
    fn turn(&mut self, time: Duration) -> Result<f64>;
}

/// The closed loop of the `stations` program.
#[derive(Debug)]
pub struct StationsLoop {
    process: Background,
    turns: usize,
}

impl StationsLoop {
    /// How long the stations may take to be known, or to answer.
    const BOUND: Duration = Duration::from_secs(60);

    /// Starts it between two guests at the bench's sockets, and lets them become known.
    pub fn start(bench: &Bench, phase: &str) -> Result<Self> {
        let mut command = bench.own("stations");
        command.arg("--turns").args(bench.sockets()).arg("--").arg(phase);
        let command = &mut bench.on_traffic_core(&command);
        let process = Background::start_listening(command, &bench.log("stations"))?;
        let mut stations = Self { process, turns: 0 };
        stations.turn(Duration::from_millis(50))?;
        Ok(stations)
    }
}

impl Loop for StationsLoop {
    fn turn(&mut self, time: Duration) -> Result<f64> {
        self.process.say(&time.as_millis().to_string())?;
        let log = self.process.log_path().to_owned();
        let mut outcome = None;
        self.process.ready(Self::BOUND, || {
            let text = std::fs::read_to_string(&log)?;
            let whole = text.lines().nth(self.turns).filter(|line| line.ends_with('}'));
            outcome = whole.map(serde_json::from_str::<Outcome>).transpose()?;
            Ok(outcome.is_some())
        })?;
        self.turns += 1;
        Ok(outcome.context("the stations gave no outcome")?.rate)
    }
}
