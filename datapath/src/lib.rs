//! How frames get in and out: workers, buffers, and the devices behind ports.
//!
//! The control plane opens devices ([`io`]), hands their queues to the workers ([`Datapath::attach`]) and publishes
//! snapshots ([`Datapath::publish`]). A worker runs every frame to completion: receive, decide
//! ([`switch_core::pipeline::forward`]), send. The only `unsafe` code is in `sys`.

mod assign;
mod capture;
mod closer;
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
mod waits;
mod worker;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam::channel::{Sender, bounded, unbounded};
use crossbeam::utils::CachePadded;
use switch_core::id::PortId;
use switch_core::snapshot::Snapshot;
use switch_core::time::Timestamp;

pub use capture::{Capture, CaptureFilter, Captured, Seen};
pub use closer::Closing;
pub use events::Event;
pub use stats::{BATCH_BUCKETS, DirectionStats, PortStats, QueueStats, WorkerStats};

use assign::{Balance, Measured};
use capture::Captures;
use closer::Closer;
use events::Events;
use stats::{PortCounters, QueueCounters, WorkerCounters};
use sys::poll::Waker;
use worker::lanes::Lanes;
use worker::queues::{Arrival, Layout};
use worker::{Command, Worker};

/// How many workers, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Number of workers, at least 1.
    pub workers: usize,
    /// Core of each worker; empty: not pinned.
    pub cores: Vec<usize>,
}

/// Which workers serve a port's queues.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// Spread over the workers, and moved between them as their load asks for.
    #[default]
    Automatic,
    /// Queue by queue these workers, and from the first again if there are more queues. A number that no worker has stands for the
    /// remainder by the number of workers.
    Pinned(Vec<usize>),
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
    /// The worker has looked for frames in vain and wants to be woken. Read once per batch by those who hand frames over, so it shares its line
    /// with nothing that is written for each frame.
    sleeping: CachePadded<AtomicBool>,
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

/// What the control plane knows of a port.
struct PortControl {
    /// One per worker.
    counters: Box<[Arc<PortCounters>]>,
    /// While it is attached.
    queues: Vec<QueueControl>,
    pinned: bool,
}

struct QueueControl {
    worker: u16,
    /// Of the port, as its workers have it; and which of them is this queue's.
    live: (Arc<[AtomicBool]>, usize),
    load: Arc<QueueCounters>,
    /// As last measured.
    work: u64,
}

/// What only the control plane sees.
struct Control {
    snapshot: Arc<Snapshot>,
    ports: HashMap<PortId, PortControl>,
    balance: Balance<(PortId, u16)>,
    /// As last measured: when, and how long each worker had been busy, nanoseconds.
    measured: (u64, Vec<u64>),
}

impl Control {
    /// What the queues of each worker but those of one port are expected to cost.
    fn loads(&self, workers: usize, but: PortId) -> Vec<u64> {
        let others = self.ports.iter().filter(|(port, _)| **port != but);
        let queues = others.flat_map(|(_, port)| port.queues.iter().enumerate());
        assign::loads(workers, queues.map(|(number, queue)| (number, queue.worker)))
    }
}

/// The running datapath. All methods may be called from any thread; none is on a frame's way, and some wait for the
/// workers, for the length of a batch. Dropping it stops the workers and closes all ports.
///
/// Locks: `changes` is held by one change of the workers' queues or snapshot at a time, while it waits for them; `control` for a few
/// instructions, never while something is waited for, so that counters can be read at any time.
pub struct Datapath {
    shared: Arc<Shared>,
    handles: Vec<Handle>,
    changes: Mutex<()>,
    control: Mutex<Control>,
    closer: Closer,
}

impl Datapath {
    /// Starts the workers with an empty snapshot. The calling thread, and what it starts afterwards, keep off the cores that workers are pinned
    /// to, if others are left: a worker would have to wait for them. `notify` is called, from a worker, when an event is waiting; it must not block.
    pub fn start(options: &Options, notify: Box<dyn Fn() + Send + Sync>) -> Result<Self, StartError> {
        let count = options.workers.max(1);
        let spawn_error = |worker| move |source| StartError::Spawn { worker, source };
        let workers = (0..count)
            .map(|worker| {
                let waker = Waker::new().map_err(spawn_error(worker))?;
                Ok(WorkerShared {
                    waker,
                    counters: WorkerCounters::default(),
                    sleeping: CachePadded::default(),
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
            changes: Mutex::default(),
            control: Mutex::new(Control {
                snapshot: Arc::new(Snapshot::empty()),
                ports: HashMap::new(),
                balance: Balance::default(),
                measured: (0, vec![0; count]),
            }),
            closer: Closer::default(),
        };
        for (index, lanes) in Lanes::connect(count).into_iter().enumerate() {
            let (commands, receiver) = unbounded();
            let worker =
                Worker::new(index, Arc::clone(&shared), receiver, lanes).map_err(spawn_error(index))?;
            let core = options.cores.get(index).copied();
            let (pinned, answer) = bounded(1);
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    if let Some(core) = core
                        && let Err(error) = sys::cpu::pin_to_core(core)
                    {
                        // A machine that has lost a core has not lost its network.
                        tracing::error!(
                            "worker {index} cannot be pinned to core {core}, and runs anywhere: {error}; name cores that `nproc` counts in `workers.cores`"
                        );
                    }
                    // Who waits for it may have given up.
                    let _ = pinned.send(());
                    worker.run();
                })
                .map_err(spawn_error(index))?;
            datapath.handles.push(Handle { commands, thread });
            // So that all are where they belong before the first frame; a thread that has ended shows elsewhere.
            let _ = answer.recv();
        }
        if let Err(error) = sys::cpu::keep_off(&options.cores) {
            tracing::warn!(%error, "the control plane runs on the workers' cores too");
        }
        Ok(datapath)
    }

    /// How many workers run.
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

    /// The right to change what the workers have. Held while they are waited for.
    fn change(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has every worker carry out a command and waits until all have.
    fn command_all(&self, command: impl Fn(usize, Sender<()>) -> Option<Command>) {
        let (done, finished) = unbounded();
        for worker in 0..self.workers() {
            if let Some(command) = command(worker, done.clone()) {
                self.command(worker, command);
            }
        }
        drop(done);
        // Nothing is sent; it ends when the last worker has dropped its sender.
        let _: Result<(), _> = finished.recv();
    }

    /// Waits until everything has left that was handed over from worker to worker before.
    fn fence(&self) {
        if self.workers() > 1 {
            self.command_all(|_, done| Some(Command::Fence { done }));
        }
    }

    /// Hands a port's queues, at least one, to workers of the datapath's choice. The port carries frames once a published snapshot has
    /// it. Queues that were there before are replaced, and closed when this returns.
    pub fn attach(&self, port: PortId, queues: Vec<Box<dyn io::Queue>>) {
        self.attach_to(port, queues, &Placement::Automatic);
    }

    /// As [`Datapath::attach`], to workers of the caller's choice.
    pub fn attach_to(&self, port: PortId, queues: Vec<Box<dyn io::Queue>>, placement: &Placement) {
        let changing = self.change();
        let (commands, old) = {
            let mut control = self.control();
            let homes: Vec<Option<usize>> = queues.iter().map(|queue| queue.worker()).collect();
            let owners = self.owners(&control, port, &homes, placement);
            let known = control.ports.entry(port).or_insert_with(|| PortControl {
                counters: (0..self.workers()).map(|_| Arc::default()).collect(),
                queues: Vec::new(),
                pinned: false,
            });
            known.pinned = *placement != Placement::Automatic;
            let live: Arc<[AtomicBool]> = queues.iter().map(|_| AtomicBool::new(false)).collect();
            let new = owners.iter().enumerate().map(|(number, worker)| QueueControl {
                worker: *worker,
                live: (Arc::clone(&live), number),
                load: Arc::default(),
                work: 0,
            });
            known.queues = new.collect();
            let layout = Layout {
                owners: owners.into(),
                live,
            };
            let mut arrivals: Vec<Vec<Arrival>> =
                std::iter::repeat_with(Vec::new).take(self.workers()).collect();
            for ((number, queue), known) in queues.into_iter().enumerate().zip(&known.queues) {
                arrivals[usize::from(known.worker)].push(Arrival {
                    number: number as u16,
                    queue,
                    load: Arc::clone(&known.load),
                });
            }
            let (done, old) = unbounded();
            let commands: Vec<Command> = arrivals
                .into_iter()
                .zip(known.counters.iter())
                .map(|(queues, counters)| Command::Attach {
                    port,
                    layout: layout.clone(),
                    queues,
                    counters: Arc::clone(counters),
                    done: done.clone(),
                })
                .collect();
            (commands, old)
        };
        for (worker, command) in commands.into_iter().enumerate() {
            self.command(worker, command);
        }
        let old: Vec<Box<dyn io::Queue>> = old.iter().collect();
        drop(changing);
        // Closing takes long, and keeps up nobody else.
        drop(old);
    }

    /// Sends frames of the switch's own by a port that is attached: whole frames, with their tags. Does not wait for it; false if the
    /// port has no device. They count as transmitted by the port, and were received by none.
    pub fn send(&self, port: PortId, frames: Vec<Vec<u8>>) -> bool {
        let worker = {
            let control = self.control();
            let known = control.ports.get(&port);
            let Some(queue) = known.and_then(|port| port.queues.first()) else {
                return false;
            };
            usize::from(queue.worker)
        };
        self.command(worker, Command::Send { port, frames });
        true
    }

    /// The worker of each queue of a port. `homes` are the workers that its queues are opened for ([`io::Queue::worker`]).
    fn owners(
        &self,
        control: &Control,
        port: PortId,
        homes: &[Option<usize>],
        placement: &Placement,
    ) -> Vec<u16> {
        let workers = self.workers();
        match placement {
            Placement::Pinned(wanted) if !wanted.is_empty() => (0..homes.len())
                .map(|number| (wanted[number % wanted.len()] % workers) as u16)
                .collect(),
            _ => {
                let spread = assign::spread(&mut control.loads(workers, port), homes.len());
                let at_home = |(home, spread): (&Option<usize>, u16)| {
                    home.filter(|home| *home < workers)
                        .map_or(spread, |home| home as u16)
                };
                homes.iter().zip(spread).map(at_home).collect()
            }
        }
    }

    /// Has the queues of an attached port served by other workers from now on, without losing or reordering frames.
    pub fn place(&self, port: PortId, placement: &Placement) {
        let _changing = self.change();
        let moves: Vec<(u16, u16)> = {
            let mut control = self.control();
            let count = control.ports.get(&port).map_or(0, |port| port.queues.len());
            // The homes count only while nothing is pinned, and then nothing is moved here.
            let owners = self.owners(&control, port, &vec![None; count], placement);
            let Some(known) = control.ports.get_mut(&port) else {
                return;
            };
            known.pinned = *placement != Placement::Automatic;
            if !known.pinned {
                // Where they are is as good as anywhere until it is measured.
                return;
            }
            let queues = known.queues.iter().zip(owners).enumerate();
            queues
                .filter(|(_, (queue, to))| queue.worker != *to)
                .map(|(number, (_, to))| (number as u16, to))
                .collect()
        };
        for (number, to) in moves {
            self.move_queue(port, number, to);
        }
    }

    /// Moves a queue to another worker, as `worker::queues` says. The caller holds `changes`.
    fn move_queue(&self, port: PortId, queue: u16, to: u16) {
        let (from, load) = {
            let control = self.control();
            let known = control.ports.get(&port);
            let Some(known) = known.and_then(|port| port.queues.get(usize::from(queue))) else {
                return;
            };
            (usize::from(known.worker), Arc::clone(&known.load))
        };
        if from == usize::from(to) {
            return;
        }
        // The new owner first, so that it holds what the others send to it.
        let route = |to_itself: bool| {
            self.command_all(|worker, done| {
                let asked = worker != from && (worker == usize::from(to)) == to_itself;
                asked.then_some(Command::Route {
                    port,
                    queue,
                    to,
                    done,
                })
            });
        };
        route(true);
        route(false);
        let (done, released) = unbounded();
        self.command(
            from,
            Command::Release {
                port,
                queue,
                to,
                done,
            },
        );
        let Ok(released) = released.recv() else {
            tracing::error!(
                ?port,
                queue,
                "the worker that is to give the queue up does not have it"
            );
            return;
        };
        self.fence();
        let arrival = Arrival {
            number: queue,
            queue: released,
            load,
        };
        self.command(usize::from(to), Command::Arrive { port, arrival });
        if let Some(known) = self.control().ports.get_mut(&port)
            && let Some(known) = known.queues.get_mut(usize::from(queue))
        {
            known.worker = to;
        }
    }

    /// Measures how busy the workers and their queues were since the last call, and moves one queue if that relieves a worker
    /// that is short of time. To be called at a slow pace, such as every few seconds. Says what was moved, and to which worker.
    pub fn rebalance(&self) -> Option<(PortId, u16, usize)> {
        let _changing = self.change();
        let ((port, queue), to) = {
            let mut control = self.control();
            let control = &mut *control;
            let now = self.shared.started.elapsed().as_nanos() as u64;
            let (then, before) = &mut control.measured;
            let elapsed = now.saturating_sub(std::mem::replace(then, now)).max(1);
            let workers = self.shared.workers.iter();
            let busy: Vec<f64> = workers
                .zip(before)
                .map(|(worker, before)| {
                    let nanos = worker.counters.read(now).busy_nanos;
                    nanos.saturating_sub(std::mem::replace(before, nanos)) as f64 / elapsed as f64
                })
                .collect();
            let mut queues = Vec::new();
            for (port, known) in &mut control.ports {
                for (number, queue) in known.queues.iter_mut().enumerate() {
                    let work = queue.load.work();
                    queues.push(Measured {
                        key: (*port, number as u16),
                        worker: queue.worker,
                        work: work.saturating_sub(std::mem::replace(&mut queue.work, work)),
                        free: !known.pinned,
                    });
                }
            }
            control.balance.measure(&busy, &queues)?
        };
        self.move_queue(port, queue, to);
        Some((port, queue, usize::from(to)))
    }

    /// Takes the port's queues back and closes them; its counters stay. Returns when it is done.
    pub fn detach(&self, port: PortId) {
        // Closed here, in the caller's time.
        drop(self.take_queues(&[port]));
    }

    /// Takes the queues of many ports back and closes them in the background; their counters stay. Each has a [`Closing`], in the ports' order.
    pub fn retire(&self, ports: &[PortId]) -> Vec<Closing> {
        let mut queues = self.take_queues(ports);
        let of = |port| queues.remove(&port).unwrap_or_default();
        ports
            .iter()
            .copied()
            .map(of)
            .map(|queues| self.closer.close(queues))
            .collect()
    }

    fn take_queues(&self, ports: &[PortId]) -> HashMap<PortId, Vec<Box<dyn io::Queue>>> {
        let _changing = self.change();
        let (done, old) = unbounded();
        let ports: Arc<[PortId]> = ports.into();
        for worker in 0..self.workers() {
            let (ports, done) = (Arc::clone(&ports), done.clone());
            self.command(worker, Command::Detach { ports, done });
        }
        drop(done);
        let mut queues: HashMap<PortId, Vec<_>> = HashMap::new();
        for (port, queue) in old {
            queues.entry(port).or_default().push(queue);
        }
        let mut control = self.control();
        for port in ports.iter() {
            if let Some(known) = control.ports.get_mut(port) {
                known.queues.clear();
            }
        }
        queues
    }

    /// Forgets a port's counters, when its number is to be another port's. Call after [`Datapath::detach`] or [`Datapath::retire`].
    pub fn reset_stats(&self, port: PortId) {
        if let Some(port) = self.control().ports.get(&port) {
            port.counters.iter().for_each(|counters| counters.reset());
        }
    }

    /// Replaces the snapshot; returns when no worker reads the old one any more, and all has left that was decided by it.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        let _changing = self.change();
        self.command_all(|_, done| {
            let snapshot = Arc::clone(&snapshot);
            Some(Command::Snapshot { snapshot, done })
        });
        self.fence();
        self.control().snapshot = snapshot;
    }

    /// The snapshot last published.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.control().snapshot)
    }

    /// Totals of a port; zero for one that was never attached.
    pub fn port_stats(&self, port: PortId) -> PortStats {
        let mut sum = PortStats::default();
        if let Some(port) = self.control().ports.get(&port) {
            port.counters
                .iter()
                .for_each(|counters| counters.add_to(&mut sum));
        }
        sum
    }

    /// The queues of an attached port: who serves them, and what they have received.
    pub fn queue_stats(&self, port: PortId) -> Vec<QueueStats> {
        let control = self.control();
        let queues = control.ports.get(&port).map(|port| port.queues.iter());
        let stats = |queue: &QueueControl| QueueStats {
            worker: queue.worker.into(),
            live: queue.live.0[queue.live.1].load(Ordering::Relaxed),
            frames: queue.load.frames(),
        };
        queues.into_iter().flatten().map(stats).collect()
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

    /// Captures that run.
    pub fn captures(&self) -> usize {
        self.shared.captures.sinks.load().len()
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
