//! Ports that never run dry: they have equal turns, and neither a quiet port nor a command waits long for them.

mod support;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use datapath::frame::Frame;
use datapath::io::{Outgoing, Queue};
use datapath::pool::{HEADROOM, Pool};
use support::{frame, id, port, queue, snapshot, start};
use switch_core::offload::Capabilities;
use switch_core::vlan::VlanPolicy;

/// How many ports never run dry.
const BUSY: usize = 3;

/// The first busy port's turn in which the quiet port becomes ready.
const SIGNAL: usize = 1000;

/// Batches that the busy ports may have meanwhile: what is left of the hot rounds, and each one in the first look at all ports.
const PATIENCE: usize = 16 + BUSY;

/// How often each busy port was read. Only the worker counts, so what it sees of it is exact.
type Turns = Arc<[AtomicUsize; BUSY]>;

fn now(turns: &Turns) -> [usize; BUSY] {
    std::array::from_fn(|port| turns[port].load(Relaxed))
}

/// Always has a frame. At [`SIGNAL`] it makes another port ready and says how often each port was read.
struct Busy {
    number: usize,
    turns: Turns,
    /// Has a datagram that nobody takes.
    ready: UnixDatagram,
    _writer: UnixDatagram,
    signal: Option<(UnixDatagram, Sender<[usize; BUSY]>)>,
}

impl Queue for Busy {
    fn receive(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> io::Result<bool> {
        let turn = self.turns[self.number].fetch_add(1, Relaxed) + 1;
        if let Some((socket, told)) = self.signal.take_if(|_| turn == SIGNAL) {
            socket.send(&[1]).unwrap();
            told.send(now(&self.turns)).unwrap();
        }
        let mut chunk = pool.take().expect("a batch finds its buffers");
        let octets = frame(0, self.number as u8 + 1);
        chunk[HEADROOM..][..octets.len()].copy_from_slice(&octets);
        batch.push(Frame::new(chunk, HEADROOM, octets.len()));
        Ok(true)
    }

    fn transmit(&mut self, _: &mut [Frame], _: &mut [Outgoing]) {}

    fn readiness(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }
}

/// Takes what it is signalled, and says how often the busy ports were read by then.
struct Quiet {
    socket: UnixDatagram,
    turns: Turns,
    told: Sender<[usize; BUSY]>,
}

impl Queue for Quiet {
    fn receive(&mut self, _: &mut Pool, _: &mut Vec<Frame>) -> io::Result<bool> {
        if self.socket.recv(&mut [0]).is_ok() {
            self.told.send(now(&self.turns)).unwrap();
        }
        Ok(false)
    }

    fn transmit(&mut self, _: &mut [Frame], _: &mut [Outgoing]) {}

    fn readiness(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }
}

#[test]
fn busy_ports_share_and_let_others_and_commands_in() {
    let (told, reports) = channel();
    let (done, finished) = channel();
    // In a thread of its own, for a command that starves would wait for ever.
    let test = std::thread::spawn(move || {
        let datapath = start();
        let turns = Turns::default();
        let (inside, outside) = UnixDatagram::pair().unwrap();
        inside.set_nonblocking(true).unwrap();
        let mut signal = Some((outside, told.clone()));
        for number in 0..BUSY {
            let (ready, writer) = UnixDatagram::pair().unwrap();
            writer.send(&[1]).unwrap();
            let busy = Busy {
                number,
                turns: Arc::clone(&turns),
                ready,
                _writer: writer,
                signal: signal.take(),
            };
            datapath.attach(id(number as u16), vec![Box::new(busy)]);
        }
        let quiet = Quiet {
            socket: inside,
            turns,
            told,
        };
        datapath.attach(id(BUSY as u16), vec![Box::new(quiet)]);
        let ports = |count| {
            (0..count)
                .map(|number| port(number, VlanPolicy::Unaware))
                .collect()
        };
        datapath.publish(snapshot(1, ports(BUSY as u16 + 1)));
        let signalled = reports.recv().unwrap();
        let served = reports.recv().unwrap();

        // Commands that come while the ports are busy.
        let (replacement, _socket) = queue();
        datapath.attach(id(BUSY as u16), vec![replacement]);
        datapath.publish(snapshot(2, ports(BUSY as u16)));
        for number in 0..=BUSY {
            datapath.detach(id(number as u16));
        }
        done.send((signalled, served)).unwrap();
    });
    let (signalled, served) = finished
        .recv_timeout(Duration::from_secs(30))
        .expect("neither a port nor a command starves");
    test.join().unwrap();
    for turns in [signalled, served] {
        let apart = turns.iter().max().unwrap() - turns.iter().min().unwrap();
        assert!(apart <= 1, "turns of equally busy ports: {turns:?}");
    }
    let meanwhile: usize = (0..BUSY).map(|port| served[port] - signalled[port]).sum();
    assert!(
        meanwhile <= PATIENCE,
        "{meanwhile} batches passed a port that was ready"
    );
}
