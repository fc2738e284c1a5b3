//! The switch of this project.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;
use xtask::host::{self, Background, SHORT};

use super::{
    Bench, MACS, NAMESPACES, Peer, Running, START, bring_up, make_namespaces, make_veths, wait_for_path,
    write_file,
};

/// How the switch is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// TAPs that it makes, one in each namespace.
    Tap,
    /// veths, through AF_PACKET.
    Packet,
    /// veths, through AF_XDP.
    Xdp,
    /// The memory of guests.
    VhostUser,
}

impl Ports {
    /// As tables say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tap => "tap",
            Self::Packet => "device (af-packet)",
            Self::Xdp => "device (af-xdp)",
            Self::VhostUser => "vhost-user",
        }
    }
}

/// `vswitchd` with one worker.
#[derive(Clone, Copy, Debug)]
pub struct Vswitch {
    /// How it is attached.
    pub ports: Ports,
    /// A port may send from any address, as it may where there is no security policy.
    pub open: bool,
}

impl Vswitch {
    /// With the security policy's defaults: one address behind each port.
    pub fn new(ports: Ports) -> Self {
        Self { ports, open: false }
    }

    /// With any number of addresses behind each port.
    pub const fn open(ports: Ports) -> Self {
        Self { ports, open: true }
    }
}

impl Peer for Vswitch {
    fn name(&self) -> String {
        format!("vswitch, {}", self.ports.name())
    }

    fn config(&self) -> String {
        let policy = if self.open {
            "MAC changes and forged transmits accepted, a MAC table of 131072"
        } else {
            "the security policy's defaults (all reject)"
        };
        let others = if self.ports == Ports::VhostUser {
            "the other threads on the generator's"
        } else {
            "and all else"
        };
        format!(
            "one worker on the switch's core, {others}; one port group with a VLAN; {policy}; offloads on"
        )
    }

    fn start(&self, bench: &Bench) -> Result<Running> {
        let mut running = Running {
            processes: Vec::new(),
        };
        match self.ports {
            Ports::VhostUser => {}
            Ports::Tap => make_namespaces()?,
            Ports::Packet | Ports::Xdp => {
                make_namespaces()?;
                make_veths()?;
            }
        }
        let mut ports = String::new();
        let sockets = bench.sockets();
        for ((netns, mac), socket) in NAMESPACES.into_iter().zip(MACS).zip(&sockets) {
            let device = match self.ports {
                Ports::Tap => format!("tap: eth0, netns: {netns}"),
                Ports::Packet => format!("device: p{netns}, driver: af-packet"),
                Ports::Xdp => format!("device: p{netns}, driver: af-xdp"),
                Ports::VhostUser => format!("vhost-user: {}", socket.display()),
            };
            let mac = if self.open {
                String::new()
            } else {
                format!(", mac: \"{mac}\"")
            };
            ports.push_str(&format!("      {netns}: {{ port-group: web, {device}{mac} }}\n"));
        }
        if self.ports == Ports::Xdp {
            // AF_XDP hands frames over without a word on checksums that are still to be completed.
            for netns in NAMESPACES {
                host::sh_in(netns, "ethtool -K eth0 tx off")?;
            }
        }
        let config = write_config(bench, &ports, self.open)?;
        running.processes.push(match self.ports {
            // What is not the worker keeps off the worker's core by itself, as do Open vSwitch's other threads with DPDK.
            Ports::VhostUser => unpinned_daemon(bench, config)?,
            Ports::Tap | Ports::Packet | Ports::Xdp => daemon(bench, config)?,
        });
        if self.ports != Ports::VhostUser {
            bring_up()?;
            wait_for_path(&mut running)?;
        }
        Ok(running)
    }
}

/// A configuration with these lines as its ports.
pub fn write_config(bench: &Bench, ports: &str, open: bool) -> Result<PathBuf> {
    let (table, policy) = if open {
        (
            "    mac-table: { size: 131072 }\n",
            ", security: { mac-changes: accept, forged-transmits: accept }",
        )
    } else {
        ("", "")
    };
    let ports = if ports.is_empty() {
        " {}\n".to_owned()
    } else {
        format!("\n{ports}")
    };
    let config = format!(
        "version: 1\nworkers: {{ cores: [{}] }}\nswitches:\n  vs0:\n{table}    port-groups:\n      web: {{ vlan: 100{policy} }}\n    ports:{ports}",
        bench.switch_core,
    );
    write_file(bench, "switch.yaml", &config)
}

/// Starts `vswitchd` with a configuration, on the core that switches, and waits until it answers.
pub fn daemon(bench: &Bench, config: PathBuf) -> Result<Background> {
    start(bench, config, |command| bench.on_switch_core(command))
}

/// The same, with all threads but the worker's where the kernel lets them run.
pub fn unpinned_daemon(bench: &Bench, config: PathBuf) -> Result<Background> {
    start(bench, config, |command| {
        let mut copy = Command::new(command.get_program());
        copy.args(command.get_args());
        copy
    })
}

fn start(bench: &Bench, config: PathBuf, place: impl FnOnce(&Command) -> Command) -> Result<Background> {
    let state = bench.dir.join("state");
    if state.exists() {
        std::fs::remove_dir_all(&state)?;
    }
    let mut command = bench.own("vswitchd");
    command.arg("--config").arg(config).arg("--state").arg(state);
    command
        .arg("--socket")
        .arg(bench.dir.join("ctl.sock"))
        .args(["--metrics", "off"]);
    let mut daemon = Background::start(&mut place(&command), &bench.log("vswitchd"))?;
    daemon
        .ready(START, || {
            Ok(host::output(control(bench).args(["port", "list"]), START)?
                .status
                .success())
        })
        .with_context(|| "vswitchd")?;
    Ok(daemon)
}

/// `vswitchctl` for the daemon of this bench.
pub fn control(bench: &Bench) -> Command {
    let mut command = bench.own("vswitchctl");
    command.arg("--socket").arg(bench.dir.join("ctl.sock"));
    command
}

/// Waits until so many ports are there and up.
pub fn wait_for_ports(bench: &Bench, count: usize) -> Result<()> {
    host::wait_until(START, || {
        let rows = host::run(control(bench).args(["-o", "json", "port", "list"]), SHORT)?;
        let rows: Value = serde_json::from_str(&rows)?;
        let rows = rows.as_array().context("`port list` gave no list")?;
        Ok(rows.len() == count && rows.iter().all(|row| row["state"] == "up"))
    })
    .context("not all ports came up")
}
