//! A worker: one thread that runs every frame of its queues to completion.
//!
//! It owns one queue of every port, its own buffers and its own counters; nothing that another thread can hold is
//! taken on a frame's way (the MAC table's writer lock is only ever tried). It reads one snapshot and one
//! time per batch. Changes reach it as [`Command`]s between batches. It sleeps in epoll when no frame waits: after a
//! batch it looks again for [`SPIN`] before it does, so that a busy port costs no wake-up per frame. Ports that just had
//! frames are hot: they are read again, in turns, before the kernel is asked about all ports ([`HOT_BATCHES`]).

mod awake;
mod batch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender};
use switch_core::id::PortId;
use switch_core::snapshot::Snapshot;

use crate::Shared;
use crate::events::Event;
use crate::frame::Frame;
use crate::io::{BATCH, Outgoing, Queue};
use crate::pool::Pool;
use crate::stats::PortCounters;
use crate::sys::poll::Poller;

use batch::Scratch;

/// How long a worker looks for more frames after a batch before it sleeps.
const SPIN: Duration = Duration::from_micros(20);

/// Batches of the ports that just had frames before the kernel is asked about all ports again.
///
/// A read says as much as epoll does and brings the frame too, so a busy port is the cheaper to serve the more often
/// it is simply read. The price is what a port that becomes ready in the meantime waits, so that is what is bounded, whatever
/// the number of hot ports: by as many batches as here, each of at most [`BATCH`] frames and, of long ones, of
/// [`BATCH_OCTETS`](crate::io::BATCH_OCTETS). A first look at [`READY`] ports costs four times that anyway.
const HOT_BATCHES: usize = 16;

/// Chunks of a worker: a batch, the frames that a super-frame becomes, and some to spare.
const CHUNKS: usize = 3 * BATCH;

/// Ready ports taken from the kernel at once.
const READY: usize = 64;

/// The number of the waker among the port numbers.
const WAKE: u64 = u64::MAX;

/// What the control plane asks of a worker. Each carries a sender that the worker drops when it is done.
pub(crate) enum Command {
    /// Take a queue of a port. The one that was there before goes back.
    Attach {
        port: PortId,
        queue: Box<dyn Queue>,
        counters: Arc<PortCounters>,
        done: Sender<Box<dyn Queue>>,
    },
    /// Give a port's queue back; closing it takes long, so that is not for the worker.
    Detach {
        port: PortId,
        done: Sender<Box<dyn Queue>>,
    },
    /// Read this snapshot from now on.
    Snapshot {
        snapshot: Arc<Snapshot>,
        done: Sender<()>,
    },
    /// End.
    Stop,
}

/// A port as its worker has it.
struct Attached {
    queue: Box<dyn Queue>,
    counters: Arc<PortCounters>,
    /// Whether the poller waits for it.
    listening: bool,
    /// Its device broke, or cannot be waited for.
    failed: bool,
    /// When sending last began to fail, for the event.
    send_failed: Option<Instant>,
    /// Rounds in which it was asked in vain, if it is asked without being ready ([`Queue::wake`]).
    awake: Option<u32>,
    /// Frames of the present batch that are to leave by it.
    outgoing: Vec<Outgoing>,
}

pub(crate) struct Worker {
    index: usize,
    shared: Arc<Shared>,
    commands: Receiver<Command>,
    poller: Poller,
    snapshot: Arc<Snapshot>,
    /// By [`PortId::index`].
    ports: Vec<Option<Attached>>,
    pool: Pool,
    batch: Vec<Frame>,
    scratch: Scratch,
    /// Ports that had frames when they were last read, each once; kept for its memory.
    hot: Vec<PortId>,
    /// Ports that are asked in every round, each once.
    awake: Vec<PortId>,
    /// Second in which kernel drops were last asked for.
    drops_asked: u64,
}

impl Worker {
    pub(crate) fn new(
        index: usize,
        shared: Arc<Shared>,
        commands: Receiver<Command>,
    ) -> std::io::Result<Self> {
        let poller = Poller::new(READY)?;
        poller.add(shared.workers[index].waker.fd(), WAKE)?;
        Ok(Self {
            index,
            shared,
            commands,
            poller,
            snapshot: Arc::new(Snapshot::empty()),
            ports: Vec::new(),
            pool: Pool::new(CHUNKS),
            batch: Vec::with_capacity(BATCH),
            scratch: Scratch::default(),
            hot: Vec::with_capacity(READY),
            awake: Vec::new(),
            drops_asked: 0,
        })
    }

    /// Runs until [`Command::Stop`]. An internal error loses the batch under way, is logged, and the worker goes on:
    /// no frame may stop the others' traffic.
    pub(crate) fn run(mut self) {
        loop {
            let run = std::panic::AssertUnwindSafe(|| self.serve());
            match std::panic::catch_unwind(run) {
                Ok(()) => return,
                Err(_) => {
                    tracing::error!(
                        worker = self.index,
                        "internal error on a frame's way; its batch is lost"
                    );
                    self.shared.workers[self.index].counters.restarted();
                    self.recover();
                }
            }
        }
    }

    fn serve(&mut self) {
        let mut last_work = Instant::now();
        loop {
            let look_on = last_work.elapsed() < SPIN || self.lay_all();
            let timeout = look_on.then_some(Duration::ZERO);
            if let Err(error) = self.poller.wait(timeout) {
                tracing::error!(worker = self.index, %error, "waiting for frames failed");
            }
            let mut started = None;
            self.hot.clear();
            for index in 0..self.poller.len() {
                let number = self.poller.ready(index);
                if number == WAKE {
                    self.shared.workers[self.index].waker.clear();
                }
                if !self.commands.is_empty() && self.obey() {
                    return;
                }
                if let Some(port) = u16::try_from(number).ok().and_then(PortId::new)
                    && !self.wake(port)
                {
                    let now = self.shared.now();
                    started.get_or_insert(now);
                    if self.serve_port(port, now) {
                        self.hot.push(port);
                    }
                }
            }
            if !self.awake.is_empty() {
                started.get_or_insert(self.shared.now());
                self.serve_awake();
            }
            if !self.hot.is_empty() {
                if self.serve_hot() {
                    return;
                }
                let now = self.shared.now();
                let busy = started.map_or(Duration::ZERO, |started| now.since(started));
                self.shared.workers[self.index]
                    .counters
                    .busy(busy.as_nanos() as u64);
                last_work = Instant::now();
                self.ask_kernel_drops(now.as_nanos() / 1_000_000_000);
            }
        }
    }

    /// Serves the hot ports in whole rounds, so that each has as many turns as the others; one that is dry is hot no longer.
    /// True to end.
    fn serve_hot(&mut self) -> bool {
        for _ in 0..HOT_BATCHES / self.hot.len() {
            let mut still = 0;
            for index in 0..self.hot.len() {
                if !self.commands.is_empty() && self.obey() {
                    return true;
                }
                let port = self.hot[index];
                if self.serve_port(port, self.shared.now()) {
                    self.hot[still] = port;
                    still += 1;
                }
            }
            self.hot.truncate(still);
            if still == 0 {
                break;
            }
        }
        false
    }

    /// Carries out what the control plane asks. True to end.
    fn obey(&mut self) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Attach {
                    port,
                    queue,
                    counters,
                    done,
                } => {
                    if let Some(old) = self.take_port(port) {
                        // The asker waits for exactly this, and a lost queue only closes here instead of there.
                        let _ = done.send(old.queue);
                    }
                    if self.ports.len() <= port.index() {
                        self.ports.resize_with(port.index() + 1, || None);
                    }
                    self.ports[port.index()] = Some(Attached {
                        queue,
                        counters,
                        listening: false,
                        failed: false,
                        send_failed: None,
                        awake: None,
                        outgoing: Vec::with_capacity(BATCH),
                    });
                    self.listen();
                }
                Command::Detach { port, done } => {
                    if let Some(old) = self.take_port(port) {
                        let _ = done.send(old.queue);
                    }
                }
                Command::Snapshot { snapshot, done } => {
                    self.scratch.reserve(snapshot.ports().count());
                    self.snapshot = snapshot;
                    self.listen();
                    drop(done);
                }
                Command::Stop => return true,
            }
        }
        false
    }

    /// Waits for the ports that the snapshot has, and for no others: what they receive stays with the kernel.
    fn listen(&mut self) {
        for (index, slot) in self.ports.iter_mut().enumerate() {
            let Some(attached) = slot else { continue };
            let Some(port) = u16::try_from(index).ok().and_then(PortId::new) else {
                continue;
            };
            let wanted = self.snapshot.port(port).is_some() && !attached.failed;
            if wanted && !attached.listening {
                match self.poller.add(attached.queue.readiness(), u64::from(port.get())) {
                    Ok(()) => attached.listening = true,
                    Err(error) => {
                        attached.failed = true;
                        self.shared.events.tell(Event::PortFailed {
                            port,
                            errno: error.raw_os_error().unwrap_or(0),
                        });
                    }
                }
            } else if !wanted && attached.listening {
                self.poller.remove(attached.queue.readiness());
                attached.listening = false;
            }
        }
    }

    fn take_port(&mut self, port: PortId) -> Option<Attached> {
        let mut attached = self.ports.get_mut(port.index())?.take()?;
        attached.queue.retire(&mut self.pool);
        if attached.listening {
            self.poller.remove(attached.queue.readiness());
        }
        Some(attached)
    }

    /// The device of a port broke: it is left alone until it is attached again.
    fn fail(&mut self, port: PortId, error: &std::io::Error) {
        if let Some(Some(attached)) = self.ports.get_mut(port.index()) {
            if attached.listening {
                self.poller.remove(attached.queue.readiness());
                attached.listening = false;
            }
            attached.failed = true;
            self.shared.events.tell(Event::PortFailed {
                port,
                errno: error.raw_os_error().unwrap_or(0),
            });
        }
    }

    fn ask_kernel_drops(&mut self, second: u64) {
        if second == self.drops_asked {
            return;
        }
        self.drops_asked = second;
        self.scratch.new_second();
        for attached in self.ports.iter_mut().flatten() {
            let drops = attached.queue.take_kernel_drops();
            if drops > 0 {
                attached.counters.add_kernel_drops(drops);
            }
        }
    }

    /// Makes the state whole again after a batch was lost half-way.
    fn recover(&mut self) {
        for attached in self.ports.iter_mut().flatten() {
            attached.outgoing.clear();
        }
        self.hot.clear();
        self.scratch.recover(&mut self.pool);
        for frame in self.batch.drain(..) {
            frame.release(&mut self.pool);
        }
        // A buffer that was just going from hand to hand is lost.
        if self.pool.free() < 2 * BATCH {
            self.pool = Pool::new(CHUNKS);
        }
    }
}
