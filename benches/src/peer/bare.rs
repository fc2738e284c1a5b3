//! The bare loop: reads a frame of up to 64 KiB from one TAP and writes it to the other, and nothing else.
//! No switch on the same two TAPs can copy less; the distance to it is what deciding about frames costs.

use anyhow::Result;
use xtask::host::Background;

use super::{Bench, Peer, Running, START, bring_up, make_namespaces, wait_for_path};

/// The `bare-loop` program of this crate.
#[derive(Clone, Copy, Debug)]
pub struct BareLoop;

impl Peer for BareLoop {
    fn name(&self) -> String {
        "bare read/write loop, tap".into()
    }

    fn config(&self) -> String {
        "two TAPs with vnet_hdr and the offloads that the switch asks for; one thread on the switch's core"
            .into()
    }

    fn start(&self, bench: &Bench) -> Result<Running> {
        let mut running = Running {
            processes: Vec::new(),
        };
        make_namespaces()?;
        let mut program = Background::start(
            &mut bench.on_switch_core(&bench.own("bare-loop")),
            &bench.log("bare-loop"),
        )?;
        let ready = program.ready(START, || {
            Ok(std::fs::read_to_string(bench.log("bare-loop"))?.contains("ready"))
        });
        running.processes.push(program);
        ready?;
        bring_up()?;
        wait_for_path(&mut running)?;
        Ok(running)
    }
}
