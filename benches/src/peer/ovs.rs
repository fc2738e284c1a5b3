//! Open vSwitch with its user-space datapath (`netdev`), in a directory and with a database of its own.

use std::process::Command;

use anyhow::{Context, Result};
use xtask::host::{self, Background};

use super::{Bench, NAMESPACES, Peer, Running, START, bring_up, make_namespaces, make_veths, wait_for_path};

/// How Open vSwitch reads its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortType {
    /// AF_XDP in native mode, polled by a thread of its own.
    Afxdp,
    /// AF_PACKET, read by the main thread.
    System,
}

impl PortType {
    fn name(self) -> &'static str {
        match self {
            Self::Afxdp => "afxdp",
            Self::System => "system",
        }
    }
}

/// Open vSwitch on veth.
#[derive(Clone, Copy, Debug)]
pub struct Ovs(pub PortType);

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

impl Peer for Ovs {
    fn name(&self) -> String {
        format!("Open vSwitch netdev, {}", self.0.name())
    }

    fn config(&self) -> String {
        let version = host::sh("ovs-vswitchd --version").unwrap_or_default();
        let version = version.lines().next().unwrap_or_default().to_owned();
        let ports = match self.0 {
            PortType::Afxdp => "type=afxdp xdp-mode=native n_rxq=1, pmd-cpu-mask on the switch's core",
            PortType::System => "type=system, read by the main thread on the switch's core",
        };
        format!(
            "{version}; datapath_type=netdev; {ports}; guests with tx checksum offload and TSO off (else TCP stalls)"
        )
    }

    fn start(&self, bench: &Bench) -> Result<Running> {
        let mut running = Running {
            processes: Vec::new(),
        };
        make_namespaces()?;
        make_veths()?;
        for netns in NAMESPACES {
            host::sh_in(netns, "ethtool -K eth0 tx off")?;
        }
        let database = bench.dir.join("ovs.db");
        if database.exists() {
            std::fs::remove_file(&database)?;
        }
        host::run(
            host::program("ovsdb-tool")
                .arg("create")
                .arg(&database)
                .arg(SCHEMA),
            START,
        )?;
        let path = |name: &str| bench.dir.join(name);
        let socket = format!("unix:{}", path("ovs.sock").display());
        let mut server = host::program("ovsdb-server");
        server
            .arg(&database)
            .arg(format!("--remote=punix:{}", path("ovs.sock").display()))
            .arg(format!("--unixctl={}", path("ovsdb.ctl").display()));
        let mut server = Background::start(&mut bench.on_traffic_core(&server), &bench.log("ovsdb-server"))?;
        let vsctl = |line: &str| {
            let mut command = host::program("ovs-vsctl");
            command
                .arg(format!("--db={socket}"))
                .arg("--timeout=20")
                .args(line.split(' '));
            host::run(&mut command, START)
        };
        server.ready(START, || Ok(path("ovs.sock").exists()))?;
        vsctl("--no-wait init")?;
        let mask = format!("{:#x}", 1_u64 << bench.switch_core);
        vsctl(&format!(
            "--no-wait set Open_vSwitch . other_config:pmd-cpu-mask={mask}"
        ))?;
        let mut daemon = host::program("ovs-vswitchd");
        daemon
            .arg(&socket)
            .arg(format!("--unixctl={}", path("ovs.ctl").display()));
        let mut daemon = bench.on_switch_core(&daemon);
        with_directory(&mut daemon, bench);
        running
            .processes
            .push(Background::start(&mut daemon, &bench.log("ovs-vswitchd"))?);
        running.processes.push(server);
        vsctl("add-br br0 -- set bridge br0 datapath_type=netdev fail-mode=standalone")?;
        let kind = match self.0 {
            PortType::Afxdp => "type=afxdp options:n_rxq=1 options:xdp-mode=native",
            PortType::System => "type=system",
        };
        for port in ["pa", "pb"] {
            vsctl(&format!("add-port br0 {port} -- set interface {port} {kind}"))?;
        }
        bring_up()?;
        wait_for_path(&mut running).with_context(|| {
            format!(
                "Open vSwitch: {}",
                vsctl("show").unwrap_or_else(|error| error.to_string())
            )
        })?;
        Ok(running)
    }
}

fn with_directory(command: &mut Command, bench: &Bench) {
    for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR"] {
        command.env(variable, &bench.dir);
    }
}
