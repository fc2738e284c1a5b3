//! Who switches: each joins `eth0` of namespace `a` with `eth0` of namespace `b`, or two guests by vhost-user, and says how it
//! is configured.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use xtask::host::{self, Background};
use xtask::sandbox;

pub mod bare;
pub mod bridge;
pub mod ovs;
pub mod testpmd;
pub mod vde;
pub mod vswitch;

/// The namespaces that a peer joins.
pub const NAMESPACES: [&str; 2] = ["a", "b"];

/// The MAC addresses behind the ports: the ones that traffic comes from and goes to.
pub const MACS: [&str; 2] = ["02:00:00:00:00:0a", "02:00:00:00:00:0b"];

/// How long a peer may take until it is ready.
pub const START: Duration = Duration::from_secs(30);

/// Where everything runs.
#[derive(Clone, Debug)]
pub struct Bench {
    /// A temporary directory for sockets, databases and logs.
    pub dir: PathBuf,
    /// The directory of the programs under test, `vswitchd` and those of this crate.
    pub bin: PathBuf,
    /// The core that generates and receives traffic.
    pub traffic_core: usize,
    /// The core that switches.
    pub switch_core: usize,
    /// How often each peer has its turn.
    pub rounds: usize,
    /// How long it is measured each time.
    pub time: Duration,
    /// Only peers whose name contains this.
    pub only: Option<String>,
    /// Only cases whose name contains this, where a scenario has several.
    pub case: Option<String>,
    /// The directory of another build of the switch, to be measured beside this one.
    pub beside: Option<PathBuf>,
}

impl Bench {
    /// A command that stays on one core.
    pub fn pinned(core: usize, command: &Command) -> Command {
        let mut taskset = host::program("taskset");
        taskset.args(["-c", &core.to_string()]).arg(command.get_program());
        taskset.args(command.get_args());
        taskset
    }

    /// Whether a peer of this name is to be measured.
    pub fn wants(&self, peer: &str) -> bool {
        self.only.as_deref().is_none_or(|part| peer.contains(part))
    }

    /// Whether a case of this name is to be measured.
    pub fn wants_case(&self, case: &str) -> bool {
        self.case.as_deref().is_none_or(|part| case.contains(part))
    }

    /// A command on the core that switches.
    pub fn on_switch_core(&self, command: &Command) -> Command {
        Self::pinned(self.switch_core, command)
    }

    /// A command on the core that generates and receives.
    pub fn on_traffic_core(&self, command: &Command) -> Command {
        Self::pinned(self.traffic_core, command)
    }

    /// One of our own programs.
    pub fn own(&self, name: &str) -> Command {
        Command::new(self.bin.join(name))
    }

    /// The sockets of two vhost-user ports, at which the guests listen and the switch connects.
    pub fn sockets(&self) -> [PathBuf; 2] {
        NAMESPACES.map(|name| self.dir.join(format!("{name}.sock")))
    }

    /// The file that a program's output goes to.
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }
}

/// Something that switches frames between two namespaces, or between two guests: then it connects to [`Bench::sockets`].
pub trait Peer {
    /// Its name in tables, which also says the kind of its ports.
    fn name(&self) -> String;

    /// What makes it what it is: versions, options, offloads.
    fn config(&self) -> String;

    /// Whether it switches in a process of its own on the core for that. If not, the second core is free for the receiver.
    fn has_own_core(&self) -> bool {
        true
    }

    /// Makes the namespaces and starts it.
    fn start(&self, bench: &Bench) -> Result<Running>;
}

/// A peer at work. Dropping it takes everything down.
#[derive(Debug)]
pub struct Running {
    /// Its processes, the switch first.
    pub processes: Vec<Background>,
}

impl Running {
    /// Takes its processors away until [`Self::resume`].
    pub fn pause(&self) -> Result<()> {
        self.processes.iter().try_for_each(Background::pause)
    }

    /// Lets it go on.
    pub fn resume(&self) -> Result<()> {
        self.processes.iter().try_for_each(Background::resume)
    }

    /// An error if one of its processes has ended.
    pub fn check(&mut self) -> Result<()> {
        self.processes.iter_mut().try_for_each(Background::check)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.processes.clear();
        for netns in NAMESPACES {
            // Fails only if a start failed before it was made; what lives in it goes with it.
            let _ = host::sh(&format!("ip netns del {netns}"));
        }
        for device in ["pa", "pb", "br0"] {
            let _ = host::sh(&format!("ip link del {device}"));
        }
    }
}

/// Makes the two namespaces.
pub fn make_namespaces() -> Result<()> {
    NAMESPACES.into_iter().try_for_each(sandbox::add_netns)
}

/// Makes a veth into each namespace; the ends outside are `pa` and `pb`.
pub fn make_veths() -> Result<()> {
    for (netns, mac) in NAMESPACES.into_iter().zip(MACS) {
        host::sh(&format!(
            "ip link add p{netns} type veth peer name eth0 netns {netns} address {mac}"
        ))?;
        host::sh(&format!("ip link set p{netns} addrgenmode none"))?;
        host::sh(&format!("ip link set p{netns} up"))?;
    }
    Ok(())
}

/// Brings `eth0` up in both namespaces, with IPv4 addresses 10.0.0.1 and 10.0.0.2 and without IPv6's own traffic.
pub fn bring_up() -> Result<()> {
    for (index, netns) in NAMESPACES.into_iter().enumerate() {
        host::sh_in(netns, "ip link set eth0 addrgenmode none")?;
        host::sh_in(netns, &format!("ip address add 10.0.0.{}/24 dev eth0", index + 1))?;
        host::sh_in(netns, "ip link set eth0 up")?;
    }
    Ok(())
}

/// Waits until `b` answers `a`.
pub fn wait_for_path(running: &mut Running) -> Result<()> {
    host::wait_until(START, || {
        running.check()?;
        let ping = host::output(
            host::inside("a", "ping").args(["-c", "1", "-W", "1", "-q", "10.0.0.2"]),
            host::SHORT,
        )?;
        Ok(ping.status.success())
    })
    .context("no frame gets from a to b")
}

/// Writes a file into the bench's directory.
pub fn write_file(bench: &Bench, name: &str, text: &str) -> Result<PathBuf> {
    let path = bench.dir.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
