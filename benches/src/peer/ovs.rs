//! Open vSwitch with its user-space datapath (`netdev`), in a directory and with a database of its own.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use xtask::host::{self, Background};
use xtask::packages;

use super::{Bench, NAMESPACES, Peer, Running, START, bring_up, make_namespaces, make_veths, wait_for_path};

/// How Open vSwitch reads its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortType {
    /// AF_XDP in native mode, polled by a thread of its own.
    Afxdp,
    /// AF_PACKET, read by the main thread.
    System,
    /// vhost-user by DPDK, polled by a thread of its own. `tso` lets super-frames through whole, which costs the others.
    VhostUser {
        /// `userspace-tso-enable`.
        tso: bool,
    },
}

/// Open vSwitch between two ports.
#[derive(Clone, Copy, Debug)]
pub struct Ovs(pub PortType);

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// How much memory DPDK takes, MiB.
const MEMORY: usize = 512;

impl PortType {
    fn name(self) -> &'static str {
        match self {
            Self::Afxdp => "netdev, afxdp",
            Self::System => "netdev, system",
            Self::VhostUser { tso: false } => "DPDK, vhost-user",
            Self::VhostUser { tso: true } => "DPDK, vhost-user, TSO",
        }
    }

    /// Columns of `Open_vSwitch` beyond those of all.
    fn settings(self) -> Vec<String> {
        match self {
            Self::Afxdp | Self::System => Vec::new(),
            Self::VhostUser { tso } => vec![
                "dpdk-init=true".into(),
                "dpdk-extra=--no-pci --in-memory --file-prefix=ovs".into(),
                "dpdk-lcore-mask=0x1".into(),
                format!("dpdk-socket-mem={MEMORY}"),
                format!("userspace-tso-enable={tso}"),
                "smc-enable=true".into(),
                // Its limit of flows starts at 10000 and rises by 1000 with each pass of its revalidator.
                "max-revalidator=100".into(),
                "max-idle=600000".into(),
                "n-handler-threads=1".into(),
                "n-revalidator-threads=1".into(),
            ],
        }
    }
}

impl Peer for Ovs {
    fn name(&self) -> String {
        format!("Open vSwitch {}", self.0.name())
    }

    fn config(&self) -> String {
        let version = host::sh("ovs-vswitchd --version").unwrap_or_default();
        let version = version.lines().next().unwrap_or_default().to_owned();
        let guests = "guests with tx checksum offload and TSO off (else TCP stalls)";
        let ports = match self.0 {
            PortType::Afxdp => {
                format!("type=afxdp xdp-mode=native n_rxq=1, pmd-cpu-mask on the switch's core; {guests}")
            }
            PortType::System => {
                format!("type=system, read by the main thread on the switch's core; {guests}")
            }
            PortType::VhostUser { .. } => format!(
                "type=dpdkvhostuserclient, one PMD (pmd-cpu-mask) on the switch's core, the other threads on the generator's; \
                 mac-table-size=200000; {}",
                self.0.settings().join(" ")
            ),
        };
        format!("{version}; datapath_type=netdev, one NORMAL flow; {ports}")
    }

    fn start(&self, bench: &Bench) -> Result<Running> {
        let mut running = Running {
            processes: Vec::new(),
        };
        let vhost_user = matches!(self.0, PortType::VhostUser { .. });
        if !vhost_user {
            make_namespaces()?;
            make_veths()?;
            for netns in NAMESPACES {
                host::sh_in(netns, "ethtool -K eth0 tx off")?;
            }
        }
        let switch = Daemon::start(bench, self.0)?;
        let Daemon {
            daemon,
            server,
            control,
        } = switch;
        running.processes.extend([daemon, server]);
        match self.0 {
            PortType::Afxdp | PortType::System => {
                let kind = if self.0 == PortType::System {
                    "type=system"
                } else {
                    "type=afxdp options:n_rxq=1 options:xdp-mode=native"
                };
                for port in ["pa", "pb"] {
                    control.run(&format!("add-port br0 {port} -- set interface {port} {kind}"))?;
                }
                bring_up()?;
                wait_for_path(&mut running)
                    .with_context(|| control.run("show").unwrap_or_else(|error| error.to_string()))?;
            }
            PortType::VhostUser { .. } => {
                for (port, socket) in ["pa", "pb"].into_iter().zip(bench.sockets()) {
                    control.run(&format!(
                        "add-port br0 {port} -- set interface {port} type=dpdkvhostuserclient options:vhost-server-path={}",
                        socket.display()
                    ))?;
                }
            }
        }
        Ok(running)
    }
}

/// Open vSwitch with a bridge `br0` that has no port yet.
#[derive(Debug)]
pub struct Daemon {
    /// `ovs-vswitchd`
    pub daemon: Background,
    /// `ovsdb-server`
    pub server: Background,
    /// `ovs-vsctl`
    pub control: Control,
}

/// Changes its configuration.
#[derive(Debug)]
pub struct Control {
    database: String,
}

impl Control {
    /// Runs `ovs-vsctl` with arguments split at spaces, and waits until the daemon has done it.
    pub fn run(&self, line: &str) -> Result<String> {
        self.run_all(line.split(' '))
    }

    /// The same, with the arguments as they are.
    pub fn run_all<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<String> {
        let mut command = host::program("ovs-vsctl");
        command.arg(&self.database).arg("--timeout=100").args(args);
        host::run(&mut command, Duration::from_secs(110))
    }
}

impl Daemon {
    /// Starts it, with what ports of this type need.
    pub fn start(bench: &Bench, ports: PortType) -> Result<Self> {
        let path = |name: &str| bench.dir.join(name);
        let database = path("ovs.db");
        if database.exists() {
            std::fs::remove_file(&database)?;
        }
        let mut create = host::program("ovsdb-tool");
        host::run(create.arg("create").arg(&database).arg(SCHEMA), START)?;
        let socket = format!("unix:{}", path("ovs.sock").display());
        let mut server = host::program("ovsdb-server");
        server
            .arg(&database)
            .arg(format!("--remote=punix:{}", path("ovs.sock").display()))
            .arg(format!("--unixctl={}", path("ovsdb.ctl").display()));
        let mut server = Background::start(&mut bench.on_traffic_core(&server), &bench.log("ovsdb-server"))?;
        let control = Control {
            database: format!("--db={socket}"),
        };
        server.ready(START, || Ok(path("ovs.sock").exists()))?;
        control.run("--no-wait init")?;
        let mut settings = ports.settings();
        settings.push(format!("pmd-cpu-mask={:#x}", 1_u64 << bench.switch_core));
        let settings: Vec<String> = settings
            .iter()
            .filter_map(|setting| setting.split_once('='))
            .map(|(key, value)| format!("other_config:{key}=\"{value}\""))
            .collect();
        let set = ["--no-wait", "set", "Open_vSwitch", "."].into_iter();
        control.run_all(set.chain(settings.iter().map(String::as_str)))?;
        let (program, core) = match ports {
            PortType::VhostUser { .. } => (packages::OVS_DPDK, bench.traffic_core),
            PortType::Afxdp | PortType::System => ("ovs-vswitchd", bench.switch_core),
        };
        let mut daemon = host::program(program);
        daemon
            .arg(&socket)
            .arg(format!("--unixctl={}", path("ovs.ctl").display()));
        let mut daemon = Bench::pinned(core, &daemon);
        with_directory(&mut daemon, bench);
        let daemon = Background::start(&mut daemon, &bench.log("ovs-vswitchd"))?;
        control.run("add-br br0 -- set bridge br0 datapath_type=netdev fail-mode=standalone other-config:mac-table-size=200000")?;
        Ok(Self {
            daemon,
            server,
            control,
        })
    }
}

fn with_directory(command: &mut Command, bench: &Bench) {
    for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR"] {
        command.env(variable, &bench.dir);
    }
}
