//! Ports without devices: a queue on one end of a pair of datagram sockets, the test on the other.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod channel;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datapath::frame::Frame;
use datapath::io::{BATCH, Outgoing, Queue};
use datapath::pool::{HEADROOM, Pool};
use datapath::{Datapath, Options};
use switch_core::fdb::Fdb;
use switch_core::id::{PortId, SwitchId};
use switch_core::offload::Capabilities;
use switch_core::security::{PortState, SecurityPolicy};
use switch_core::snapshot::{Port, Snapshot, Switch};
use switch_core::vlan::VlanPolicy;

/// Sent to a port, this breaks its device with the error [`BROKEN`].
pub const BREAK: [u8; 1] = [0];
/// EBADFD, what a TAP says whose netdev was deleted.
pub const BROKEN: i32 = 77;

pub struct SocketQueue {
    socket: UnixDatagram,
}

impl Queue for SocketQueue {
    fn receive(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> io::Result<bool> {
        while batch.len() < BATCH {
            let Some(mut chunk) = pool.take() else {
                return Ok(true);
            };
            match self.socket.recv(&mut chunk[HEADROOM..]) {
                Ok(len) if chunk[HEADROOM..][..len] == BREAK => {
                    pool.give(chunk);
                    return Err(io::Error::from_raw_os_error(BROKEN));
                }
                Ok(len) => batch.push(Frame::new(chunk, HEADROOM, len)),
                Err(error) => {
                    pool.give(chunk);
                    return if error.kind() == io::ErrorKind::WouldBlock {
                        Ok(false)
                    } else {
                        Err(error)
                    };
                }
            }
        }
        Ok(true)
    }

    fn transmit(&mut self, batch: &mut [Frame], outgoing: &mut [Outgoing]) {
        for item in outgoing {
            let frame = &mut batch[usize::from(item.frame)];
            frame.retag(item.tag);
            self.socket
                .send(frame.bytes())
                .expect("the test reads what it is sent");
        }
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }
}

/// A queue, and the socket on which its frames are sent and received. The socket waits ten seconds at most.
pub fn queue() -> (Box<dyn Queue>, UnixDatagram) {
    let (inside, outside) = UnixDatagram::pair().unwrap();
    inside.set_nonblocking(true).unwrap();
    outside.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (Box::new(SocketQueue { socket: inside }), outside)
}

pub fn id(number: u16) -> PortId {
    PortId::new(number).unwrap()
}

pub fn port(number: u16, vlan: VlanPolicy) -> Port {
    Port {
        id: id(number),
        switch: SwitchId(0),
        enabled: true,
        up: true,
        vlan,
        security: SecurityPolicy::default(),
        mac: None,
        isolated: false,
        mac_limit: None,
        dormant: false,
        role: switch_core::team::Role::default(),
        state: Arc::new(PortState::default()),
    }
}

pub fn snapshot(generation: u64, ports: Vec<Port>) -> Arc<Snapshot> {
    let fdb = Arc::new(Fdb::new(1024, 1));
    let switch = Switch {
        mtu: 1500,
        ageing: Duration::from_secs(300),
        fdb,
    };
    Arc::new(Snapshot::new(generation, vec![switch], ports))
}

pub fn start() -> Datapath {
    start_workers(1)
}

pub fn start_workers(workers: usize) -> Datapath {
    Datapath::start(
        &Options {
            workers,
            cores: Vec::new(),
        },
        Box::new(|| {}),
    )
    .unwrap()
}

/// A frame of 64 octets from one station to another (`0` as destination: broadcast).
pub fn frame(destination: u8, source: u8) -> Vec<u8> {
    let mut frame = if destination == 0 {
        vec![0xff; 6]
    } else {
        vec![2, 0, 0, 0, 0, destination]
    };
    frame.extend([2, 0, 0, 0, 0, source, 0x88, 0xb5]);
    frame.resize(64, 0x5a);
    frame
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "waited in vain: {what}"
        );
        std::thread::yield_now();
    }
}
