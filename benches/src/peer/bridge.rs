//! The Linux bridge on veth: no copy and no context switch, but in the kernel.

use anyhow::Result;
use xtask::host;

use super::{Bench, Peer, Running, bring_up, make_namespaces, make_veths, wait_for_path};

/// The Linux bridge.
#[derive(Clone, Copy, Debug)]
pub struct Bridge;

impl Peer for Bridge {
    fn name(&self) -> String {
        "Linux bridge, veth".into()
    }

    fn config(&self) -> String {
        "offloads on, STP off, multicast snooping off; it switches in the sender's context, so the receiver gets the second core"
            .into()
    }

    fn has_own_core(&self) -> bool {
        false
    }

    fn start(&self, _: &Bench) -> Result<Running> {
        let mut running = Running {
            processes: Vec::new(),
        };
        make_namespaces()?;
        make_veths()?;
        host::sh("ip link add br0 type bridge stp_state 0 mcast_snooping 0")?;
        host::sh("ip link set br0 addrgenmode none up")?;
        for port in ["pa", "pb"] {
            host::sh(&format!("ip link set {port} master br0"))?;
        }
        bring_up()?;
        wait_for_path(&mut running)?;
        Ok(running)
    }
}
