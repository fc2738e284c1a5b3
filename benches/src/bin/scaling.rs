//! What a second worker is worth: frames per second of one worker and of two, in process, between ports that are memory.
//!
//! No generator takes a core away: a port's queue makes its frames when it is asked for them and forgets what it is given, so all that is
//! measured is the worker: buffers, decision, counters, and the lanes between workers. Two scenarios: every pair of ports on one worker (`apart`), and every
//! pair on two (`across`), so that each frame is handed over. Measured in turns (one, two, one, two …), because machines are shared; what counts is the
//! ratio, the median of the rounds. A frame counts when it was sent; what found a lane full does not.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use datapath::frame::Frame;
use datapath::io::{BATCH, Outgoing, Queue};
use datapath::pool::{HEADROOM, Pool};
use datapath::{Datapath, Options, Placement};
use switch_core::addr::MacAddr;
use switch_core::fdb::Fdb;
use switch_core::id::{PortId, SwitchId};
use switch_core::offload::Capabilities;
use switch_core::security::{PortState, SecurityPolicy};
use switch_core::snapshot::{Port, Snapshot, Switch};
use switch_core::vid::Vid;
use switch_core::vlan::VlanPolicy;

/// Frames per second of two workers and of one, in process
#[derive(Parser)]
struct Arguments {
    /// Rounds of each scenario
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Milliseconds of each measurement
    #[arg(long, default_value_t = 400)]
    millis: u64,
    /// Octets of a frame
    #[arg(long, default_value_t = 64)]
    octets: usize,
}

/// Ports: the stations of 0 and 1 talk to each other, and those of 2 and 3.
const PORTS: u16 = 4;

/// Which worker serves each port, with two.
const SCENARIOS: [(&str, [usize; PORTS as usize]); 2] = [("apart", [0, 0, 1, 1]), ("across", [0, 1, 0, 1])];

/// Always has frames for one station.
struct Memory {
    frame: Vec<u8>,
    /// Has an octet that nobody takes.
    ready: UnixStream,
    _bell: UnixStream,
}

impl Queue for Memory {
    fn receive(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> io::Result<bool> {
        while batch.len() < BATCH {
            let Some(mut chunk) = pool.take() else { break };
            chunk[HEADROOM..][..self.frame.len()].copy_from_slice(&self.frame);
            batch.push(Frame::new(chunk, HEADROOM, self.frame.len()));
        }
        Ok(true)
    }

    fn transmit(&mut self, batch: &mut [Frame], outgoing: &mut [Outgoing]) {
        for item in outgoing {
            batch[usize::from(item.frame)].retag(item.tag);
        }
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "{} rounds of {} ms, frames of {} octets, {cores} cores",
        arguments.rounds, arguments.millis, arguments.octets
    );
    println!(
        "{:8} {:>14} {:>14} {:>7}",
        "scenario", "1 worker", "2 workers", "ratio"
    );
    for (name, placement) in SCENARIOS {
        let mut rounds = Vec::new();
        for _ in 0..arguments.rounds.max(1) {
            let one = measure(&arguments, 1, [0; PORTS as usize])?;
            let two = measure(&arguments, 2, placement)?;
            rounds.push((two / one, one, two));
        }
        rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (ratio, one, two) = rounds[rounds.len() / 2];
        println!("{name:8} {one:>12.0}/s {two:>12.0}/s {ratio:>7.2}");
    }
    Ok(())
}

/// Frames per second.
fn measure(arguments: &Arguments, workers: usize, placement: [usize; PORTS as usize]) -> Result<f64> {
    let options = Options {
        workers,
        cores: (0..workers).collect(),
    };
    let datapath = Datapath::start(&options, Box::new(|| {})).context("starting the workers")?;
    let fdb = Arc::new(Fdb::new(1024, 0x5eed));
    let mut ports = Vec::new();
    for (number, worker) in (0..PORTS).zip(placement) {
        let id = PortId::new(number).context("a port's number")?;
        fdb.insert_static(Vid::UNAWARE, station(number), id)
            .map_err(|_| anyhow::anyhow!("the table has no room"))?;
        let mut frame = vec![0; arguments.octets.clamp(60, 1514)];
        frame[..6].copy_from_slice(&station(number ^ 1).0);
        frame[6..12].copy_from_slice(&station(number).0);
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        let (ready, mut bell) = UnixStream::pair().context("a pair of sockets")?;
        bell.write_all(&[1]).context("a pair of sockets")?;
        let queue = Memory {
            frame,
            ready,
            _bell: bell,
        };
        datapath.attach_to(id, vec![Box::new(queue)], &Placement::Pinned(vec![worker]));
        ports.push(Port {
            id,
            switch: SwitchId(0),
            enabled: true,
            up: true,
            vlan: VlanPolicy::Unaware,
            security: SecurityPolicy::default(),
            mac: Some(station(number)),
            isolated: false,
            mac_limit: None,
            dormant: false,
            role: switch_core::team::Role::default(),
            state: Arc::new(PortState::default()),
        });
    }
    let switch = Switch {
        mtu: 1500,
        ageing: Duration::from_secs(300),
        fdb,
    };
    datapath.publish(Arc::new(Snapshot::new(1, vec![switch], ports)));
    let sent = || {
        (0..PORTS)
            .filter_map(PortId::new)
            .map(|port| datapath.port_stats(port).transmit.packets)
            .sum::<u64>()
    };
    // The first touch of each buffer is the kernel's work.
    std::thread::sleep(Duration::from_millis(50));
    let (begin, before) = (Instant::now(), sent());
    std::thread::sleep(Duration::from_millis(arguments.millis));
    let (frames, seconds) = (sent() - before, begin.elapsed().as_secs_f64());
    Ok(frames as f64 / seconds)
}

fn station(port: u16) -> MacAddr {
    MacAddr::from_u64(0x0200_0000_0001 + u64::from(port))
}
