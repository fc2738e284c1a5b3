//! vde_switch of VDE 2 between two TAPs: the other switch in user space that libvirt and QEMU know.

use anyhow::Result;
use xtask::host::{self, Background};

use super::{Bench, MACS, NAMESPACES, Peer, Running, START, bring_up, make_namespaces, wait_for_path};

/// vde_switch.
#[derive(Clone, Copy, Debug)]
pub struct Vde;

impl Peer for Vde {
    fn name(&self) -> String {
        "vde_switch, tap".into()
    }

    fn config(&self) -> String {
        let version =
            host::run(host::program("vde_switch").arg("--version"), host::SHORT).unwrap_or_default();
        let version = version.lines().next().unwrap_or_default().to_owned();
        format!(
            "{version}; two TAPs, which it opens without vnet_hdr, so without offloads; on the switch's core"
        )
    }

    fn start(&self, bench: &Bench) -> Result<Running> {
        let mut running = Running {
            processes: Vec::new(),
        };
        make_namespaces()?;
        let mut command = host::program("vde_switch");
        command.arg("--sock").arg(bench.dir.join("vde"));
        for netns in NAMESPACES {
            command.args(["--tap", &format!("p{netns}")]);
        }
        let mut switch =
            Background::start_listening(&mut bench.on_switch_core(&command), &bench.log("vde_switch"))?;
        let there = || {
            let made = |netns| host::sh(&format!("ip link show p{netns}")).is_ok();
            Ok(NAMESPACES.into_iter().all(made))
        };
        let ready = switch.ready(START, there);
        running.processes.push(switch);
        ready?;
        for (netns, mac) in NAMESPACES.into_iter().zip(MACS) {
            host::sh(&format!("ip link set p{netns} netns {netns} name eth0"))?;
            host::sh_in(netns, &format!("ip link set eth0 address {mac}"))?;
        }
        bring_up()?;
        wait_for_path(&mut running)?;
        Ok(running)
    }
}
