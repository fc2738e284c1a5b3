//! Which queues a worker has, and how it reaches the others.
//!
//! Every worker knows every port: the owner of each queue, and which queues take frames at present. The owners are the worker's own copy, changed
//! by [`Command`]s; what takes frames is a flag per queue that only its owner writes. A worker sends by a queue of its own if it has one of the port
//! (by the flow's hash if it has several), else by the flow's hash among all that take frames.
//!
//! # The move of a queue
//! No frame is lost or overtakes another of its flow while the control plane moves a queue from worker A to worker B
//! ([`crate::Datapath`] waits for each step at all workers before it begins the next):
//!
//! 1. **Route.** B is told, then all others but A: they send the queue's frames to B from now on. B holds them, and those of its own.
//! 2. **Release.** A sends all that was handed over to it before, gives the queue up, and sends to B from now on.
//! 3. **Fence.** All workers send what was handed over to them: what A received by the queue, and what B had others send for the port, has left.
//! 4. **Arrive.** B has the queue, sends what it held, and receives.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use switch_core::flow;
use switch_core::id::PortId;

use super::lanes::Handed;
use super::{Attached, Command, Worker};
use crate::events::Event;
use crate::frame::Frame;
use crate::io::{BATCH, Queue};
use crate::stats::{PortCounters, QueueCounters};

/// New queues that are listened to before frames of others have their turn: each takes a system call of some microseconds.
const HEARD_AT_ONCE: usize = 16;

/// A queue on its way to the worker that is to own it.
pub(crate) struct Arrival {
    /// Which of the port's queues.
    pub number: u16,
    pub queue: Box<dyn Queue>,
    pub load: Arc<QueueCounters>,
}

/// What all workers are told of a port.
#[derive(Clone)]
pub(crate) struct Layout {
    /// The worker of each queue.
    pub owners: Arc<[u16]>,
    /// Whether each queue takes frames; written by its owner.
    pub live: Arc<[AtomicBool]>,
}

/// A queue of this worker that takes frames.
#[derive(Clone, Copy)]
enum Own {
    Slot(usize),
    /// It is on its way here.
    Coming(u16),
}

/// How a frame gets to a port.
pub(super) enum Way {
    /// By the queue in this slot.
    Own(usize),
    /// By a queue that another worker has, or that is on its way to this one.
    Away { queue: u16, worker: u16 },
    /// Not at all.
    Nowhere,
}

/// A port as each worker has it, whether or not it has a queue of it.
pub(super) struct Port {
    pub counters: Arc<PortCounters>,
    /// Of each queue; empty while the port has no device.
    owners: Vec<u16>,
    live: Arc<[AtomicBool]>,
    /// Number and slot of each queue that this worker has.
    slots: Vec<(u16, usize)>,
    /// Those that take frames.
    own: Vec<Own>,
    /// The queue that is on its way to this worker.
    pub coming: Option<u16>,
    /// What is to be sent by it.
    pub held: VecDeque<Handed>,
    /// This worker.
    me: u16,
}

impl Port {
    /// How this frame gets to the port.
    #[inline]
    pub(super) fn way(&self, frame: &Frame) -> Way {
        let own = match self.own[..] {
            [own] => own,
            [] => return self.away(frame),
            ref several => several[flow::hash(frame.bytes()) as usize % several.len()],
        };
        match own {
            Own::Slot(slot) => Way::Own(slot),
            Own::Coming(queue) => Way::Away {
                queue,
                worker: self.me,
            },
        }
    }

    /// Where this worker sends all frames for the port, if it has one queue of it.
    #[inline]
    pub(super) fn only_slot(&self) -> Option<usize> {
        match self.own[..] {
            [Own::Slot(slot)] => Some(slot),
            _ => None,
        }
    }

    fn away(&self, frame: &Frame) -> Way {
        let mut live = self.live.iter().zip(&self.owners).enumerate();
        let mut live = live.by_ref().filter(|(_, (live, _))| live.load(Relaxed));
        let found = if self.owners.len() == 1 {
            live.next()
        } else {
            let count = self.live.iter().filter(|live| live.load(Relaxed)).count();
            // None left if the last one stops in between.
            let place = flow::hash(frame.bytes()) as usize % count.max(1);
            live.nth(place)
        };
        match found {
            Some((queue, (_, worker))) => Way::Away {
                queue: queue as u16,
                worker: *worker,
            },
            None => Way::Nowhere,
        }
    }

    /// Whether the port has no device.
    pub(super) fn is_gone(&self) -> bool {
        self.owners.is_empty()
    }

    /// Where this worker has a queue of the port.
    #[inline]
    pub(super) fn slot(&self, number: u16) -> Option<usize> {
        let (_, slot) = self.slots.iter().find(|(known, _)| *known == number)?;
        Some(*slot)
    }

    fn is_live(&self, number: u16) -> bool {
        self.live
            .get(usize::from(number))
            .is_some_and(|live| live.load(Relaxed))
    }

    fn list_own(&mut self) {
        let mut own = std::mem::take(&mut self.own);
        own.clear();
        let live = self.slots.iter().filter(|(number, _)| self.is_live(*number));
        own.extend(live.map(|(_, slot)| Own::Slot(*slot)));
        own.extend(
            self.coming
                .filter(|number| self.is_live(*number))
                .map(Own::Coming),
        );
        self.own = own;
    }
}

impl Worker {
    /// Carries out what the control plane asks. True to end.
    pub(super) fn obey(&mut self) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Attach {
                    port,
                    layout,
                    queues,
                    counters,
                    done,
                } => {
                    self.take_port(port, |queue| {
                        // The asker waits for exactly this, and a lost queue only closes here instead of there.
                        let _ = done.send(queue);
                    });
                    if self.ports.len() <= port.index() {
                        self.ports.resize_with(port.index() + 1, || None);
                    }
                    self.ports[port.index()] = Some(Port {
                        counters,
                        owners: layout.owners.to_vec(),
                        live: layout.live,
                        slots: Vec::new(),
                        own: Vec::new(),
                        coming: None,
                        held: VecDeque::new(),
                        me: self.index as u16,
                    });
                    for arrival in queues {
                        self.add_queue(port, arrival);
                    }
                    self.listen();
                }
                Command::Detach { ports, done } => {
                    for port in ports.iter() {
                        self.take_port(*port, |queue| {
                            let _ = done.send((*port, queue));
                        });
                    }
                }
                Command::Snapshot { snapshot, done } => {
                    self.scratch.reserve(snapshot.ports().count());
                    self.snapshot = snapshot;
                    self.listening_told = Some(done);
                    self.listen();
                }
                Command::Send { port, frames } => self.send_own(port, &frames),
                Command::Fence { done } => {
                    self.drain_lanes();
                    drop(done);
                }
                Command::Route {
                    port,
                    queue,
                    to,
                    done,
                } => {
                    self.route(port, queue, to);
                    drop(done);
                }
                Command::Release {
                    port,
                    queue,
                    to,
                    done,
                } => {
                    self.drain_lanes();
                    let slot = match self.ports.get(port.index()) {
                        Some(Some(port)) => port.slot(queue),
                        _ => None,
                    };
                    if let Some(attached) = slot.and_then(|slot| self.take_queue(slot)) {
                        let _ = done.send(attached.queue);
                    }
                    self.route(port, queue, to);
                }
                Command::Arrive { port, arrival } => {
                    let number = arrival.number;
                    self.add_queue(port, arrival);
                    self.send_held(port, number);
                    self.listen();
                }
                Command::Stop => return true,
            }
        }
        false
    }

    fn add_queue(&mut self, port: PortId, arrival: Arrival) {
        let Some(Some(known)) = self.ports.get_mut(port.index()) else {
            return;
        };
        let slot = match self.queues.iter().position(Option::is_none) {
            Some(slot) => slot,
            None => {
                self.queues.push(None);
                self.queues.len() - 1
            }
        };
        known.slots.push((arrival.number, slot));
        self.queues[slot] = Some(Attached {
            queue: arrival.queue,
            port,
            number: arrival.number,
            counters: Arc::clone(&known.counters),
            load: arrival.load,
            listening: false,
            failed: false,
            send_failed: None,
            awake: None,
            outgoing: Vec::with_capacity(BATCH),
        });
        self.refresh(slot);
        if let Some(Some(known)) = self.ports.get_mut(port.index()) {
            known.list_own();
        }
    }

    /// Looks again whether a queue takes frames.
    pub(super) fn refresh(&mut self, slot: usize) {
        let Some(Some(attached)) = self.queues.get(slot) else {
            return;
        };
        let takes = attached.queue.takes_frames() && !attached.failed;
        let Some(Some(port)) = self.ports.get_mut(attached.port.index()) else {
            return;
        };
        if let Some(live) = port.live.get(usize::from(attached.number))
            && live.load(Relaxed) != takes
        {
            live.store(takes, Relaxed);
            port.list_own();
        }
    }

    /// Sends by another worker's queue from now on, or holds what is to be sent until the queue arrives here.
    fn route(&mut self, port: PortId, queue: u16, to: u16) {
        let Some(Some(port)) = self.ports.get_mut(port.index()) else {
            return;
        };
        if let Some(owner) = port.owners.get_mut(usize::from(queue)) {
            *owner = to;
            if usize::from(to) == self.index {
                port.coming = Some(queue);
            }
            port.list_own();
        }
    }

    /// Sends what was held for a queue that has arrived.
    fn send_held(&mut self, port: PortId, number: u16) {
        loop {
            let Some(Some(known)) = self.ports.get_mut(port.index()) else {
                return;
            };
            if known.coming == Some(number) {
                known.coming = None;
                known.list_own();
            }
            let now = known.held.len().min(BATCH);
            if now == 0 {
                return;
            }
            for _ in 0..now {
                if let Some(Some(known)) = self.ports.get_mut(port.index())
                    && let Some(handed) = known.held.pop_front()
                {
                    self.lanes.let_go(&handed);
                    self.arrive(handed);
                }
            }
            self.send_handed();
        }
    }

    /// Waits for the ports that the snapshot has, and for no others: what they receive stays with the kernel. For new ones
    /// [`Worker::listen_to_some`] does it bit by bit.
    pub(super) fn listen(&mut self) {
        self.unheard.clear();
        for (slot, attached) in self.queues.iter_mut().enumerate() {
            let Some(attached) = attached else { continue };
            let wanted = self.snapshot.port(attached.port).is_some() && !attached.failed;
            if wanted && !attached.listening {
                self.unheard.push(slot);
            } else if !wanted && attached.listening {
                self.poller.remove(attached.queue.readiness());
                attached.listening = false;
            }
        }
    }

    /// Waits for some of the new ports, so few that traffic does not wait for it.
    ///
    /// Each is looked at as if it had shown that it is ready: one that sleeps until its other side tells of frames may come from
    /// another worker that kept it awake, or have frames that were told of while nobody listened.
    pub(super) fn listen_to_some(&mut self) {
        for _ in 0..HEARD_AT_ONCE {
            let Some(slot) = self.unheard.pop() else { break };
            let Some(Some(attached)) = self.queues.get_mut(slot) else {
                continue;
            };
            if attached.listening || attached.failed {
                continue;
            }
            match self.poller.add(attached.queue.readiness(), slot as u64) {
                Ok(()) => {
                    attached.listening = true;
                    self.wake(slot);
                }
                Err(error) => self.fail(slot, &error),
            }
        }
        if self.unheard.is_empty() {
            self.listening_told = None;
        }
    }

    /// Takes a port's queues out; the port stays known without a device.
    fn take_port(&mut self, port: PortId, mut give: impl FnMut(Box<dyn Queue>)) {
        let Some(Some(known)) = self.ports.get_mut(port.index()) else {
            return;
        };
        known.owners.clear();
        known.coming = None;
        let slots: Vec<usize> = known.slots.iter().map(|(_, slot)| *slot).collect();
        for handed in std::mem::take(&mut known.held) {
            let (frames, _) = handed.frame.offload.wire_frames(handed.frame.len());
            known
                .counters
                .count_drop(switch_core::verdict::DropReason::TxPortDown, frames);
            self.lanes.let_go(&handed);
            self.lanes.release(handed.frame, &mut self.pool);
        }
        for slot in slots {
            if let Some(attached) = self.take_queue(slot) {
                give(attached.queue);
            }
        }
    }

    fn take_queue(&mut self, slot: usize) -> Option<Attached> {
        let mut attached = self.queues.get_mut(slot)?.take()?;
        attached
            .counters
            .add_kernel_drops(attached.queue.take_kernel_drops());
        attached.queue.retire(&mut self.pool);
        if attached.listening {
            self.poller.remove(attached.queue.readiness());
        }
        self.awake.retain(|awake| *awake != slot);
        if let Some(Some(port)) = self.ports.get_mut(attached.port.index()) {
            port.slots.retain(|(_, known)| *known != slot);
            port.list_own();
        }
        Some(attached)
    }

    /// The device of a queue broke: it is left alone until it is attached again.
    pub(super) fn fail(&mut self, slot: usize, error: &std::io::Error) {
        let Some(Some(attached)) = self.queues.get_mut(slot) else {
            return;
        };
        if attached.listening {
            self.poller.remove(attached.queue.readiness());
            attached.listening = false;
        }
        attached.failed = true;
        let port = attached.port;
        self.refresh(slot);
        self.shared.events.tell(Event::PortFailed {
            port,
            errno: error.raw_os_error().unwrap_or(0),
        });
    }
}
