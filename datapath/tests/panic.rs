//! A worker that panics on a frame's way loses that batch, counts it, and has all its buffers afterwards.

mod support;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;

use datapath::frame::Frame;
use datapath::io::{BATCH, Outgoing, Queue};
use datapath::pool::{HEADROOM, Pool};
use support::{frame, id, port, snapshot, start, wait_until};
use switch_core::offload::Capabilities;
use switch_core::vlan::VlanPolicy;

/// What octet 20 of a frame is that must not be sent.
const PANIC: u8 = 0xee;

/// Makes a full batch of every datagram, and panics when it is to send a frame marked with [`PANIC`].
struct FullBatches {
    socket: UnixDatagram,
}

impl Queue for FullBatches {
    fn receive(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> io::Result<bool> {
        let mut buffer = [0; 2048];
        let Ok(len) = self.socket.recv(&mut buffer) else {
            return Ok(false);
        };
        while batch.len() < BATCH {
            let mut chunk = pool.take().expect("a batch finds its buffers");
            chunk[HEADROOM..][..len].copy_from_slice(&buffer[..len]);
            batch.push(Frame::new(chunk, HEADROOM, len));
        }
        assert!(pool.free() >= BATCH, "and so do the segments of a super-frame");
        Ok(true)
    }

    fn transmit(&mut self, batch: &mut [Frame], _: &mut [Outgoing]) {
        assert_ne!(batch[0].bytes()[20], PANIC, "the test asks for this panic");
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::NONE
    }
}

#[test]
fn a_panic_costs_its_batch_and_no_buffers() {
    let datapath = start();
    let mut sockets = Vec::new();
    for number in 0..2 {
        let (inside, outside) = UnixDatagram::pair().unwrap();
        inside.set_nonblocking(true).unwrap();
        datapath.attach(id(number), vec![Box::new(FullBatches { socket: inside })]);
        sockets.push(outside);
    }
    datapath.publish(snapshot(
        1,
        (0..2).map(|number| port(number, VlanPolicy::Unaware)).collect(),
    ));

    let mut deadly = frame(0, 1);
    deadly[20] = PANIC;
    for restarts in 1..=5 {
        // One batch goes well, so that the next is usually that of a port which just had frames.
        sockets[0].send(&frame(0, 1)).unwrap();
        sockets[0].send(&deadly).unwrap();
        wait_until("the restart", || datapath.worker_stats()[0].restarts == restarts);
    }
    sockets[0].send(&frame(0, 1)).unwrap();
    wait_until("the batch after the last", || {
        datapath.port_stats(id(1)).transmit.packets == 6 * BATCH as u64
    });
    assert_eq!(datapath.worker_stats()[0].restarts, 5);
}
