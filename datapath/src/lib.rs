//! How frames get in and out: workers, buffers, and the devices behind ports.
//!
//! The control plane opens devices ([`io`]), hands their queues to the workers ([`Datapath::attach`]) and publishes
//! snapshots ([`Datapath::publish`]). A worker runs every frame to completion: receive, decide
//! ([`switch_core::pipeline::forward`]), send. The only `unsafe` code is in `sys`.

mod capture;
mod events;
pub mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod io;
pub mod offload;
pub mod pool;
mod stats;
#[allow(unsafe_code)]
mod sys;
mod worker;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use switch_core::id::PortId;
use switch_core::snapshot::Snapshot;
use switch_core::time::Timestamp;

pub use capture::{Capture, CaptureFilter, Captured, Seen};
pub use events::Event;
pub use stats::{BATCH_BUCKETS, DirectionStats, PortStats, WorkerStats};

use capture::Captures;
use events::Events;
use stats::{PortCounters, WorkerCounters};
use sys::poll::Waker;
use worker::{Command, Worker};

/// How many workers, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Number of workers, at least 1.
    pub workers: usize,
    /// Core of each worker; empty: not pinned.
    pub cores: Vec<usize>,
}

/// The datapath cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A thread or its descriptors cannot be made.
    #[error("worker {worker} cannot be started: {source}")]
    Spawn {
        /// Which worker.
        worker: usize,
        /// The system's error.
        source: std::io::Error,
    },
    /// The core is not there, or not allowed.
    #[error(
        "worker {worker} cannot be pinned to core {core}: {source}; name cores that `nproc` counts in `workers.cores`"
    )]
    Pin {
        /// Which worker.
        worker: usize,
        /// Which core.
        core: usize,
        /// The system's error.
        source: std::io::Error,
    },
}

/// What all threads of the datapath see.
pub(crate) struct Shared {
    started: Instant,
    captures: Arc<Captures>,
    events: Arc<Events>,
    workers: Box<[WorkerShared]>,
}

pub(crate) struct WorkerShared {
    waker: Waker,
    counters: WorkerCounters,
}

impl Shared {
    /// Now, on the clock of the snapshot's state. Starts at one day, so that no difference to a past time underflows.
    fn now(&self) -> Timestamp {
        Timestamp::from_secs(86_400) + self.started.elapsed()
    }
}

struct Handle {
    commands: Sender<Command>,
    thread: JoinHandle<()>,
}

/// What only the control plane sees.
struct Control {
    snapshot: Arc<Snapshot>,
    /// One per worker.
    counters: HashMap<PortId, Box<[Arc<PortCounters>]>>,
}

/// The running datapath. All methods may be called from any thread; none is on a frame's way, and some wait for the
/// workers, for the length of a batch. Dropping it stops the workers and closes all ports.
pub struct Datapath {
    shared: Arc<Shared>,
    handles: Vec<Handle>,
    control: Mutex<Control>,
}

impl Datapath {
    /// Starts the workers with an empty snapshot. `notify` is called, from a worker, when an event is waiting; it must not block.
    pub fn start(options: &Options, notify: Box<dyn Fn() + Send + Sync>) -> Result<Self, StartError> {
        let count = options.workers.max(1);
        let spawn_error = |worker| move |source| StartError::Spawn { worker, source };
        let workers = (0..count)
            .map(|worker| {
                let waker = Waker::new().map_err(spawn_error(worker))?;
                Ok(WorkerShared {
                    waker,
                    counters: WorkerCounters::default(),
                })
            })
            .collect::<Result<_, _>>()?;
        let shared = Arc::new(Shared {
            started: Instant::now(),
            captures: Arc::new(Captures::default()),
            events: Arc::new(Events::new(notify)),
            workers,
        });
        let mut datapath = Self {
            shared: Arc::clone(&shared),
            handles: Vec::with_capacity(count),
            control: Mutex::new(Control {
                snapshot: Arc::new(Snapshot::empty()),
                counters: HashMap::new(),
            }),
        };
        for index in 0..count {
            let (commands, receiver) = unbounded();
            let worker = Worker::new(index, Arc::clone(&shared), receiver).map_err(spawn_error(index))?;
            let core = options.cores.get(index).copied();
            let (pinned, answer) = bounded(1);
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    let result = core.map_or(Ok(()), sys::cpu::pin_to_core);
                    let go_on = result.is_ok();
                    // The starter waits for this answer; if it is gone, so is the datapath.
                    let _ = pinned.send(result);
                    if go_on {
                        worker.run();
                    }
                })
                .map_err(spawn_error(index))?;
            datapath.handles.push(Handle { commands, thread });
            if let (Ok(Err(source)), Some(core)) = (answer.recv(), core) {
                return Err(StartError::Pin {
                    worker: index,
                    core,
                    source,
                });
            }
        }
        Ok(datapath)
    }

    /// How many workers run: the number of queues that [`Datapath::attach`] wants.
    pub fn workers(&self) -> usize {
        self.handles.len()
    }

    /// Now, on the clock of the snapshot's state.
    pub fn now(&self) -> Timestamp {
        self.shared.now()
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        // No method leaves the state half-changed when it panics.
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn command(&self, worker: usize, command: Command) {
        // A worker that has ended takes no commands; what the command holds is dropped, so nobody waits for it.
        let _ = self.handles[worker].commands.send(command);
        self.shared.workers[worker].waker.wake();
    }

    /// Hands a port's queues to the workers, one each. The port carries frames once a published snapshot has it.
    /// Queues that were there before are replaced and closed.
    ///
    /// # Panics
    /// If there are not as many queues as workers.
    pub fn attach(&self, port: PortId, queues: Vec<Box<dyn io::Queue>>) {
        assert_eq!(queues.len(), self.workers(), "one queue per worker");
        let mut control = self.control();
        let counters = control
            .counters
            .entry(port)
            .or_insert_with(|| (0..self.workers()).map(|_| Arc::default()).collect());
        let (done, old) = unbounded();
        for (worker, (queue, counters)) in queues.into_iter().zip(counters.iter()).enumerate() {
            let (counters, done) = (Arc::clone(counters), done.clone());
            self.command(
                worker,
                Command::Attach {
                    port,
                    queue,
                    counters,
                    done,
                },
            );
        }
        drop(done);
        drop(control);
        close(&old);
    }

    /// Takes the port's queues back and closes them; its counters stay. Returns when it is done.
    pub fn detach(&self, port: PortId) {
        let (done, old) = unbounded();
        for worker in 0..self.workers() {
            self.command(
                worker,
                Command::Detach {
                    port,
                    done: done.clone(),
                },
            );
        }
        drop(done);
        close(&old);
    }

    /// Forgets a port's counters, when its number is to be another port's. Call after [`Datapath::detach`].
    pub fn reset_stats(&self, port: PortId) {
        if let Some(counters) = self.control().counters.get(&port) {
            counters.iter().for_each(|counters| counters.reset());
        }
    }

    /// Replaces the snapshot; returns when no worker reads the old one any more.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        let mut control = self.control();
        let (done, finished) = unbounded();
        for worker in 0..self.workers() {
            let (snapshot, done) = (Arc::clone(&snapshot), done.clone());
            self.command(worker, Command::Snapshot { snapshot, done });
        }
        drop(done);
        let _: Result<(), _> = finished.recv();
        control.snapshot = snapshot;
    }

    /// The snapshot last published.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.control().snapshot)
    }

    /// Totals of a port; zero for one that was never attached.
    pub fn port_stats(&self, port: PortId) -> PortStats {
        let mut sum = PortStats::default();
        if let Some(counters) = self.control().counters.get(&port) {
            counters.iter().for_each(|counters| counters.add_to(&mut sum));
        }
        sum
    }

    /// Totals of each worker.
    pub fn worker_stats(&self) -> Vec<WorkerStats> {
        let total = self.shared.started.elapsed().as_nanos() as u64;
        self.shared
            .workers
            .iter()
            .map(|worker| worker.counters.read(total))
            .collect()
    }

    /// Where a port with a peer, that is about to be opened, says how that peer is.
    pub fn peer_sink(&self) -> io::PeerSink {
        io::PeerSink::new(&self.shared.events)
    }

    /// The next event, if one is there. Never waits.
    pub fn try_event(&self) -> Option<Event> {
        self.shared.events.take()
    }

    /// Events lost because nobody took them.
    pub fn lost_events(&self) -> u64 {
        self.shared.events.lost()
    }

    /// Starts a capture.
    pub fn capture(&self, filter: CaptureFilter) -> Capture {
        Capture::start(Arc::clone(&self.shared.captures), filter)
    }
}

/// Closes queues as the workers give them back, until the last worker is done.
fn close(old: &Receiver<Box<dyn io::Queue>>) {
    while let Ok(queue) = old.recv() {
        drop(queue);
    }
}

impl Drop for Datapath {
    fn drop(&mut self) {
        for worker in 0..self.handles.len() {
            self.command(worker, Command::Stop);
        }
        for handle in self.handles.drain(..) {
            // A worker catches its own panics; one that got away has been logged by the panic hook.
            let _ = handle.thread.join();
        }
    }
}
