//! A port whose frames go through channels without a bound: no kernel buffer that overflows when the test is slow.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, unbounded};
use datapath::frame::Frame;
use datapath::io::{BATCH, Outgoing, Queue};
use datapath::pool::{HEADROOM, Pool};
use switch_core::offload::Capabilities;

/// What octet 20 of a frame is that makes the queue panic that is to send it.
pub const PANIC: u8 = 0xee;

struct ChannelQueue {
    frames: Receiver<Vec<u8>>,
    sent: Sender<(usize, Vec<u8>)>,
    number: usize,
    bell: UnixStream,
    own_bell: UnixStream,
    gate: Arc<Mutex<()>>,
    takes: Arc<AtomicBool>,
    /// Whether the bell is rung; a queue without this rings always.
    armed: Option<Arc<AtomicBool>>,
    /// Frames were received, and not yet given back.
    unfinished: bool,
}

/// The test's side of a port.
pub struct Outside {
    frames: Vec<(Sender<Vec<u8>>, UnixStream)>,
    /// Whether each queue wants its bell rung.
    armed: Vec<Option<Arc<AtomicBool>>>,
    /// What was sent to the port: by which queue, and the frame.
    pub sent: Receiver<(usize, Vec<u8>)>,
    /// Held, it stops whoever sends to the port.
    pub gate: Arc<Mutex<()>>,
    /// Whether each queue takes frames; it looks when frames come.
    pub takes: Vec<Arc<AtomicBool>>,
}

/// A port with so many queues.
pub fn channel_queues(count: usize) -> (Vec<Box<dyn Queue>>, Outside) {
    queues(count, false)
}

/// The same with queues that are asked for frames while there are some, and told of none meanwhile, as the rings of a guest.
pub fn shared_queues(count: usize) -> (Vec<Box<dyn Queue>>, Outside) {
    queues(count, true)
}

fn queues(count: usize, shared: bool) -> (Vec<Box<dyn Queue>>, Outside) {
    let gate = Arc::default();
    let (sent, out) = unbounded();
    let (mut queues, mut frames, mut takes): (Vec<Box<dyn Queue>>, Vec<_>, Vec<_>) = Default::default();
    let mut armed = Vec::new();
    for number in 0..count {
        let (into, inside) = unbounded();
        let (bell, ringer) = UnixStream::pair().unwrap();
        bell.set_nonblocking(true).unwrap();
        ringer.set_nonblocking(true).unwrap();
        let flag = Arc::new(AtomicBool::new(true));
        let bell_wanted = shared.then(|| Arc::new(AtomicBool::new(true)));
        armed.push(bell_wanted.clone());
        queues.push(Box::new(ChannelQueue {
            frames: inside,
            sent: sent.clone(),
            number,
            bell,
            own_bell: ringer.try_clone().unwrap(),
            gate: Arc::clone(&gate),
            takes: Arc::clone(&flag),
            armed: bell_wanted,
            unfinished: false,
        }));
        frames.push((into, ringer));
        takes.push(flag);
    }
    let outside = Outside {
        frames,
        armed,
        sent: out,
        gate,
        takes,
    };
    (queues, outside)
}

/// A full bell rings.
fn ring(mut bell: &UnixStream) {
    let _ = bell.write(&[1]);
}

impl Outside {
    /// Gives a queue frames.
    pub fn send(&self, queue: usize, frames: impl IntoIterator<Item = Vec<u8>>) {
        let (into, bell) = &self.frames[queue];
        for frame in frames {
            into.send(frame).expect("the queue is open");
        }
        if self.armed[queue].as_ref().is_none_or(|armed| armed.load(SeqCst)) {
            ring(bell);
        }
    }

    /// Whether a queue is closed.
    pub fn is_closed(&self, queue: usize) -> bool {
        self.frames[queue].0.send(Vec::new()).is_err()
    }

    /// The next frame that the port was sent.
    pub fn next(&self) -> (usize, Vec<u8>) {
        self.sent
            .recv_timeout(Duration::from_secs(10))
            .expect("a frame within ten seconds")
    }
}

impl Queue for ChannelQueue {
    fn receive(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> io::Result<bool> {
        assert!(!self.unfinished, "what was received before was not given back");
        let _ = self.bell.read(&mut [0; 1024]);
        while batch.len() < BATCH {
            let Ok(octets) = self.frames.try_recv() else {
                return Ok(false);
            };
            self.unfinished = true;
            let mut chunk = pool.take().expect("a batch finds its buffers");
            chunk[HEADROOM..][..octets.len()].copy_from_slice(&octets);
            batch.push(Frame::new(chunk, HEADROOM, octets.len()));
        }
        if self.armed.is_none() {
            ring(&self.own_bell);
        }
        Ok(true)
    }

    fn finish(&mut self) {
        self.unfinished = false;
    }

    fn wake(&mut self) -> bool {
        let Some(armed) = &self.armed else { return false };
        let _ = self.bell.read(&mut [0; 1024]);
        armed.store(false, SeqCst);
        true
    }

    fn arm(&mut self) -> bool {
        let Some(armed) = &self.armed else { return false };
        armed.store(true, SeqCst);
        !self.frames.is_empty()
    }

    fn transmit(&mut self, batch: &mut [Frame], outgoing: &mut [Outgoing]) {
        drop(self.gate.lock().unwrap_or_else(PoisonError::into_inner));
        for item in outgoing {
            let frame = &mut batch[usize::from(item.frame)];
            frame.retag(item.tag);
            assert_ne!(frame.bytes()[20], PANIC, "the test asks for this panic");
            let _ = self.sent.send((self.number, frame.bytes().to_vec()));
        }
    }

    fn takes_frames(&self) -> bool {
        self.takes.load(Relaxed)
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }
}
