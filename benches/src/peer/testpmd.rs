//! DPDK's testpmd: between two vhost ports in `io` mode, the limit of DPDK's vhost, since it looks at no frame; and
//! between two virtio-user ports as a generator that is not ours, whose closed loop sends what it receives.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recvmsg, sendmsg, socket,
};
use serde_json::Value;
use xtask::host::{self, Background};

use super::{Bench, MACS, Peer, Running, START};
use crate::traffic::Loop;

/// Memory of one testpmd, MiB; it comes out of huge pages.
const MEMORY: usize = 256;

/// A loop that was paused goes round for so long before it is counted.
const SETTLE: Duration = Duration::from_millis(30);

/// testpmd as a switch that looks at nothing.
#[derive(Clone, Copy, Debug)]
pub struct Io;

impl Peer for Io {
    fn name(&self) -> String {
        "testpmd io, vhost".into()
    }

    fn config(&self) -> String {
        let version = host::sh("dpkg-query -f ${Version} -W dpdk").unwrap_or_default();
        format!(
            "DPDK {version}; two net_vhost ports with client=1, one forwarding core (the switch's), bursts of 32, no lookup"
        )
    }

    fn start(&self, bench: &Bench) -> Result<Running> {
        let mut command = testpmd("switch", bench.traffic_core, bench.switch_core);
        for (index, socket) in bench.sockets().iter().enumerate() {
            command.arg(format!(
                "--vdev=net_vhost{index},iface={},client=1,queues=1",
                socket.display()
            ));
        }
        command.args(["--", "-i", "--nb-cores=1", "--forward-mode=io", "--auto-start"]);
        command.args(["--no-mlockall", "--total-num-mbufs=16384"]);
        let mut testpmd = Background::start_listening(&mut command, &bench.log("testpmd-switch"))?;
        testpmd.ready(START, || Ok(Counters::open("switch").is_ok()))?;
        Ok(Running {
            processes: vec![testpmd],
        })
    }
}

/// A closed loop of testpmd between two virtio-user ports, which goes on for good while it has its turn.
#[derive(Debug)]
pub struct ClosedLoop {
    guests: Background,
    counters: Counters,
}

impl ClosedLoop {
    /// Starts it between the bench's sockets; each frame takes `octets` on the wire.
    pub fn start(bench: &Bench, octets: usize) -> Result<Self> {
        // The directory is one switch's own, and so has to be the name.
        let name = bench.dir.file_name().context("a bench has a directory")?;
        let name = format!("guests-{}", name.display());
        let mut command = testpmd(&name, bench.traffic_core, bench.traffic_core);
        command.arg("--single-file-segments");
        for (index, (socket, mac)) in bench.sockets().iter().zip(MACS).enumerate() {
            let _ = std::fs::remove_file(socket);
            command.arg(format!(
                "--vdev=net_virtio_user{index},path={},server=1,queues=1,queue_size=1024,mac={mac}",
                socket.display()
            ));
        }
        command.args(["--", "-i", "--nb-cores=1", "--forward-mode=io"]);
        command.args(["--no-mlockall", "--total-num-mbufs=16384"]);
        for (port, mac) in [(0, MACS[1]), (1, MACS[0])] {
            command.arg(format!("--eth-peer={port},{mac}"));
        }
        let mut guests = Background::start_listening(&mut command, &bench.log("testpmd-guests"))?;
        guests.ready(START, || Ok(Counters::open(&name).is_ok()))?;
        let counters = Counters::open(&name)?;
        guests.say("set burst 32")?;
        guests.say(&format!("set txpkts {}", octets - 4))?;
        // One way first, so that the switch learns where both are before frames are under way for good.
        guests.say("start tx_first 1")?;
        guests.ready(START, || Ok(counters.received()? > 0))?;
        guests.say("stop")?;
        let before = counters.received()?;
        guests.say("start tx_first 8")?;
        guests.ready(START, || Ok(counters.received()? > before + 100_000))?;
        guests.pause()?;
        Ok(Self { guests, counters })
    }
}

impl Loop for ClosedLoop {
    fn turn(&mut self, time: Duration) -> Result<f64> {
        self.guests.resume()?;
        host::measure_for(SETTLE)?;
        let (begin, first) = (Instant::now(), self.counters.received()?);
        host::measure_for(time)?;
        let (end, last) = (Instant::now(), self.counters.received()?);
        self.guests.check()?;
        self.guests.pause()?;
        ensure!(last > first, "no frame goes around");
        Ok((last - first) as f64 / (end - begin).as_secs_f64())
    }
}

/// testpmd with one core for commands and one for frames, and a name of its own.
fn testpmd(name: &str, control: usize, frames: usize) -> Command {
    let mut command = host::program("dpdk-testpmd");
    command.args(["--no-pci", "--in-memory", "-m", &MEMORY.to_string()]);
    command.args(["--lcores", &format!("0@{control},1@{frames}")]);
    command.arg(format!("--file-prefix={name}"));
    command
}

/// A running testpmd's counters, from DPDK's telemetry socket.
#[derive(Debug)]
struct Counters(OwnedFd);

impl Counters {
    fn open(name: &str) -> Result<Self> {
        let path = Path::new("/run/dpdk").join(name).join("dpdk_telemetry.v2");
        let socket = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        connect(socket.as_raw_fd(), &UnixAddr::new(&path)?)?;
        let counters = Self(socket);
        counters.read().context("it did not say who it is")?;
        Ok(counters)
    }

    fn read(&self) -> Result<Value> {
        let mut octets = vec![0; 1 << 16];
        let mut parts = [IoSliceMut::new(&mut octets)];
        let len = recvmsg::<()>(self.0.as_raw_fd(), &mut parts, None, MsgFlags::empty())?.bytes;
        Ok(serde_json::from_slice(&octets[..len])?)
    }

    /// Frames that its ports have received.
    fn received(&self) -> Result<u64> {
        let mut sum = 0;
        for port in [0, 1] {
            let question = format!("/ethdev/stats,{port}");
            let parts = [IoSlice::new(question.as_bytes())];
            sendmsg::<()>(self.0.as_raw_fd(), &parts, &[], MsgFlags::empty(), None)?;
            let answer = self.read()?;
            let count = answer["/ethdev/stats"]["ipackets"].as_u64();
            sum += count.with_context(|| format!("telemetry: {answer}"))?;
        }
        Ok(sum)
    }
}
