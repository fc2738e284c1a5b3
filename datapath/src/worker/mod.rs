//! A worker: one thread that runs every frame of its queues to completion.
//!
//! It owns some queues of some ports ([`queues`]), its own buffers and its own counters; nothing that another thread can hold is
//! taken on a frame's way (the MAC table's writer lock is only ever tried). Frames for queues that others own go to them by [`lanes`]. It reads one
//! snapshot and one time per batch. Changes reach it as [`Command`]s between batches. It sleeps in epoll when no frame waits: after a
//! batch it looks again for [`SPIN`] before it does, so that a busy port costs no wake-up per frame. Queues that just had
//! frames are hot: they are read again, in turns, before the kernel is asked about all ([`HOT_BATCHES`]).
//!
//! What threads share: the snapshot, its tables (lock-free to read), the lanes' rings, the flag of a worker that sleeps, and for each queue whether
//! it takes frames; counters are written by one thread and read by others. All else is the worker's own.

mod awake;
mod batch;
pub(crate) mod lanes;
pub(crate) mod queues;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender};
use switch_core::id::PortId;
use switch_core::snapshot::Snapshot;

use crate::Shared;
use crate::events::Event;
use crate::frame::Frame;
use crate::io::{BATCH, LONG, Outgoing, Queue};
use crate::pool::Pool;
use crate::stats::{PortCounters, QueueCounters};
use crate::sys::poll::Poller;
use crate::waits::Waits;

use batch::Scratch;
use lanes::Lanes;
use queues::{Arrival, Layout, Port};

/// How long a worker looks for more frames after a batch before it sleeps.
const SPIN: Duration = Duration::from_micros(20);

/// Batches of the ports that just had frames before the kernel is asked about all ports again.
///
/// A read says as much as epoll does and brings the frame too, so a busy port is the cheaper to serve the more often
/// it is simply read. The price is what a port that becomes ready in the meantime waits, so that is what is bounded, whatever
/// the number of hot ports: by as many batches as here, each of at most [`BATCH`] frames and, of long ones, of
/// [`BATCH_OCTETS`](crate::io::BATCH_OCTETS). A first look at [`READY`] ports costs four times that anyway.
const HOT_BATCHES: usize = 16;

/// Chunks of a worker for itself: a batch, the frames that a super-frame becomes, and some to spare.
const CHUNKS: usize = 3 * BATCH;

/// Ready ports taken from the kernel at once.
const READY: usize = 64;

/// The number of the waker among the port numbers.
const WAKE: u64 = u64::MAX;

/// What the control plane asks of a worker. Each carries a sender that the worker drops when it is done.
pub(crate) enum Command {
    /// Know a port, and take these of its queues. Those that were there before go back.
    Attach {
        port: PortId,
        layout: Layout,
        queues: Vec<Arrival>,
        counters: Arc<PortCounters>,
        done: Sender<Box<dyn Queue>>,
    },
    /// Give the queues of ports back; closing them takes long, so that is not for the worker.
    Detach {
        ports: Arc<[PortId]>,
        done: Sender<(PortId, Box<dyn Queue>)>,
    },
    /// Read this snapshot from now on.
    Snapshot {
        snapshot: Arc<Snapshot>,
        done: Sender<()>,
    },
    /// Send everything that was handed over before.
    Fence { done: Sender<()> },
    /// Send frames of the switch's own by a port.
    Send { port: PortId, frames: Vec<Vec<u8>> },
    /// A queue moves, first step ([`queues`]).
    Route {
        port: PortId,
        queue: u16,
        to: u16,
        done: Sender<()>,
    },
    /// The second.
    Release {
        port: PortId,
        queue: u16,
        to: u16,
        done: Sender<Box<dyn Queue>>,
    },
    /// The last.
    Arrive { port: PortId, arrival: Arrival },
    /// End.
    Stop,
}

/// A queue as its worker has it.
struct Attached {
    queue: Box<dyn Queue>,
    port: PortId,
    /// Which of the port's queues.
    number: u16,
    counters: Arc<PortCounters>,
    load: Arc<QueueCounters>,
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
    ports: Vec<Option<Port>>,
    /// A slot for each queue of this worker.
    queues: Vec<Option<Attached>>,
    lanes: Lanes,
    pool: Pool,
    batch: Vec<Frame>,
    scratch: Scratch,
    /// Slots of queues that had frames when they were last read, each once; kept for its memory.
    hot: Vec<usize>,
    /// Slots of queues that are asked in every round, each once.
    awake: Vec<usize>,
    /// Slots of queues that are still to be listened to. Whoever adds a queue lists them anew ([`Worker::listen`]), for it may get the slot of one that
    /// went.
    unheard: Vec<usize>,
    /// Who waits until there are none.
    listening_told: Option<Sender<()>>,
    /// Second in which kernel drops were last asked for.
    drops_asked: u64,
    /// When the present round began, behind the wait for frames.
    round_began: Instant,
    /// What it had waited for, and when that was noted: every now and then, and behind the wait for frames, where alone it sleeps of its own will.
    waits: Waits,
    waits_noted: Instant,
}

impl Worker {
    pub(crate) fn new(
        index: usize,
        shared: Arc<Shared>,
        commands: Receiver<Command>,
        lanes: Lanes,
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
            queues: Vec::new(),
            pool: Pool::new(CHUNKS + lanes.lends()),
            lanes,
            batch: Vec::with_capacity(BATCH),
            scratch: Scratch::default(),
            hot: Vec::with_capacity(READY),
            awake: Vec::new(),
            unheard: Vec::new(),
            listening_told: None,
            drops_asked: 0,
            round_began: Instant::now(),
            waits: Waits::default(),
            waits_noted: Instant::now(),
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
        let shared = Arc::clone(&self.shared);
        let own = &shared.workers[self.index];
        loop {
            self.listen_to_some();
            let now = Instant::now();
            self.look_for_waits(now);
            self.round_began = now;
            let look_on = now - last_work < SPIN
                || !self.unheard.is_empty()
                || self.lay_all()
                || !self.lanes.fall_asleep(&own.sleeping);
            let timeout = look_on.then_some(Duration::ZERO);
            if !look_on {
                // Also of a port whose frames all find the kernel full, so that there is never work.
                self.ask_kernel_drops(self.shared.now().as_nanos() / 1_000_000_000);
            }
            if let Err(error) = self.poller.wait(timeout) {
                tracing::error!(worker = self.index, %error, "waiting for frames failed");
            }
            if !look_on {
                own.sleeping.store(false, Relaxed);
                self.note_waits();
            }
            let mut started = None;
            self.hot.clear();
            for index in 0..self.poller.len() {
                let number = self.poller.ready(index);
                if number == WAKE {
                    own.waker.clear();
                }
                if !self.commands.is_empty() && self.obey() {
                    return;
                }
                if number != WAKE {
                    let slot = number as usize;
                    if !self.wake(slot) {
                        let now = self.shared.now();
                        started.get_or_insert(now);
                        if self.serve_queue(slot, now) {
                            self.hot.push(slot);
                        }
                    }
                }
            }
            if !self.awake.is_empty() {
                started.get_or_insert(self.shared.now());
                self.serve_awake();
            }
            let mut handed = false;
            if self.lanes.waits() {
                started.get_or_insert(self.shared.now());
                handed = self.serve_lanes();
            }
            if handed || !self.hot.is_empty() {
                if self.serve_hot(handed) {
                    return;
                }
                let now = self.shared.now();
                let busy = started.map_or(Duration::ZERO, |started| now.since(started));
                own.counters.busy(busy.as_nanos() as u64);
                last_work = Instant::now();
                self.ask_kernel_drops(now.as_nanos() / 1_000_000_000);
            }
        }
    }

    /// Serves the hot queues in whole rounds, so that each has as many turns as the others, and in each round what was `handed` over; a
    /// queue that is dry is hot no longer. True to end.
    fn serve_hot(&mut self, mut handed: bool) -> bool {
        for _ in 0..HOT_BATCHES / (self.hot.len() + usize::from(handed)) {
            let mut still = 0;
            for index in 0..self.hot.len() {
                if !self.commands.is_empty() && self.obey() {
                    return true;
                }
                let slot = self.hot[index];
                if self.serve_queue(slot, self.shared.now()) {
                    self.hot[still] = slot;
                    still += 1;
                }
            }
            self.hot.truncate(still);
            if self.lanes.waits() {
                if !self.commands.is_empty() && self.obey() {
                    return true;
                }
                handed = self.serve_lanes();
            }
            if still == 0 && !handed {
                break;
            }
        }
        false
    }

    /// After a round: if it was long because something had to be waited for, the queues look for it from now on.
    fn look_for_waits(&mut self, now: Instant) {
        if now - self.round_began > LONG && self.waits.were_there_since() {
            self.suspect();
        }
        if now - self.waits_noted > LONG {
            self.note_waits();
        }
    }

    /// What is waited for from now on was not meant to be.
    fn note_waits(&mut self) {
        self.waits = Waits::now();
        self.round_began = Instant::now();
        self.waits_noted = self.round_began;
    }

    /// Has the queues time their calls, and tells what they found since the last time.
    #[cold]
    fn suspect(&mut self) {
        for attached in self.queues.iter_mut().flatten() {
            if let Some(times) = attached.queue.suspect() {
                let port = attached.port;
                self.shared.events.tell(Event::LeftAlone { port, times });
            }
        }
    }

    fn ask_kernel_drops(&mut self, second: u64) {
        if second == self.drops_asked {
            return;
        }
        self.drops_asked = second;
        self.scratch.new_second();
        for attached in self.queues.iter_mut().flatten() {
            let drops = attached.queue.take_kernel_drops();
            if drops > 0 {
                attached.counters.add_kernel_drops(drops);
            }
        }
    }

    /// Makes the state whole again after a batch was lost half-way.
    fn recover(&mut self) {
        for attached in self.queues.iter_mut().flatten() {
            attached.outgoing.clear();
        }
        self.hot.clear();
        self.scratch.recover(&mut self.pool);
        self.release_batch();
        for attached in self.queues.iter_mut().flatten() {
            attached.queue.finish();
        }
        self.lanes.collect(&mut self.pool);
        self.listen();
        // A buffer that was just going from hand to hand is lost.
        let free = self.pool.free().min(self.pool.free_small());
        if free + self.lanes.lent() < self.lanes.lends() + 2 * BATCH {
            self.pool = Pool::new(CHUNKS + self.lanes.lends());
        }
    }
}
