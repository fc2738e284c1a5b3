//! The switch of this project.

use anyhow::{Context, Result};
use xtask::host::{self, Background};

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
}

/// `vswitchd` with one worker.
#[derive(Clone, Copy, Debug)]
pub struct Vswitch(pub Ports);

impl Peer for Vswitch {
    fn name(&self) -> String {
        match self.0 {
            Ports::Tap => "vswitch, tap".into(),
            Ports::Packet => "vswitch, device (af-packet)".into(),
        }
    }

    fn config(&self) -> String {
        "one worker on the switch's core; one port group with a VLAN; the security policy's defaults (all reject); offloads on"
            .into()
    }

    fn start(&self, bench: &Bench) -> Result<Running> {
        let mut running = Running {
            processes: Vec::new(),
        };
        make_namespaces()?;
        let mut ports = String::new();
        for (netns, mac) in NAMESPACES.into_iter().zip(MACS) {
            let device = match self.0 {
                Ports::Tap => format!("tap: eth0, netns: {netns}"),
                Ports::Packet => format!("device: p{netns}"),
            };
            ports.push_str(&format!(
                "      {netns}: {{ port-group: web, {device}, mac: \"{mac}\" }}\n"
            ));
        }
        if self.0 == Ports::Packet {
            make_veths()?;
        }
        running.processes.push(daemon(bench, &ports)?);
        bring_up()?;
        wait_for_path(&mut running)?;
        Ok(running)
    }
}

/// Starts `vswitchd` with these lines as its ports, and waits until it answers.
pub fn daemon(bench: &Bench, ports: &str) -> Result<Background> {
    let config = format!(
        "version: 1\nworkers: {{ cores: [{}] }}\nswitches:\n  vs0:\n    port-groups:\n      web: {{ vlan: 100 }}\n    ports:{}",
        bench.switch_core,
        if ports.is_empty() {
            " {}\n".to_owned()
        } else {
            format!("\n{ports}")
        }
    );
    let config = write_file(bench, "switch.yaml", &config)?;
    let socket = bench.dir.join("ctl.sock");
    let state = bench.dir.join("state");
    if state.exists() {
        std::fs::remove_dir_all(&state)?;
    }
    let mut command = bench.own("vswitchd");
    command.arg("--config").arg(config).arg("--state").arg(state);
    command
        .arg("--socket")
        .arg(&socket)
        .args(["--metrics", "127.0.0.1:9731"]);
    let mut daemon = Background::start(&mut bench.on_switch_core(&command), &bench.log("vswitchd"))?;
    daemon
        .ready(START, || {
            let mut list = bench.own("vswitchctl");
            list.arg("--socket").arg(&socket).args(["port", "list"]);
            Ok(host::output(&mut list, START)?.status.success())
        })
        .with_context(|| "vswitchd")?;
    Ok(daemon)
}
