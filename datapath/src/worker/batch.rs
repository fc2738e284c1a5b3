//! The way of a batch: receive, decide, send, hand over.

use std::sync::Arc;

use switch_core::addr::MacAddr;
use switch_core::decisions::Decisions;
use switch_core::frame::Hop;
use switch_core::id::PortId;
use switch_core::pipeline::{Observer, Step};
use switch_core::team::Role;
use switch_core::time::Timestamp;
use switch_core::verdict::DropReason;
use switch_core::vid::{Tag, Vid};
use switch_core::vlan::outer_tag;
use switch_core::wire::{ethertype, lacp};

use super::lanes::Handed;
use super::queues::Way;
use super::{Attached, Worker};
use crate::assign;
use crate::capture::{self, Seen, Sink};
use crate::events::Event;
use crate::frame::Frame;
use crate::io::{BATCH, BATCH_OCTETS, Outgoing, SendFailure};
use crate::offload::Segmenter;
use crate::pool::{HEADROOM, Pool};
use crate::stats::Tally;
use crate::sys::cache;

/// Frames for the switch itself that a worker tells of in a second: twice what all uplinks of a switch may have to say.
const SLOW_TOLD: u32 = 200;

/// MAC moves that a worker tells of in a second; all are counted in the table.
const MOVES_TOLD: u32 = 100;

/// How often a port's failing to send is told of, seconds.
const SEND_FAILURES_APART: u64 = 10;

/// Frames that a software-segmented super-frame is sent in at once.
const SEGMENTS: usize = BATCH;

/// One copy of a frame that leaves by a queue which this worker does not have.
struct Away {
    /// Which frame of the batch.
    frame: u16,
    port: PortId,
    queue: u16,
    worker: u16,
    tag: Option<Tag>,
}

/// Lists that a batch fills and empties; kept for their memory.
#[derive(Default)]
pub(super) struct Scratch {
    hops: Vec<Hop>,
    /// Slots of the queues with something to send in this batch.
    sending: Vec<usize>,
    /// What other workers are to send, by frame.
    away: Vec<Away>,
    segments: Vec<Frame>,
    segments_outgoing: Vec<Outgoing>,
    moves_told: u32,
    slow_told: u32,
}

impl Scratch {
    /// Makes room for a snapshot of so many ports, so that no frame allocates.
    pub(super) fn reserve(&mut self, ports: usize) {
        self.hops.reserve(ports);
        self.sending.reserve(ports);
        self.away.reserve(ports.max(BATCH));
        self.segments.reserve(SEGMENTS);
        self.segments_outgoing.reserve(SEGMENTS);
    }

    pub(super) fn new_second(&mut self) {
        self.moves_told = 0;
        self.slow_told = 0;
    }

    /// Empties the lists after a batch was lost half-way.
    pub(super) fn recover(&mut self, pool: &mut Pool) {
        self.sending.clear();
        self.away.clear();
        self.segments_outgoing.clear();
        for segment in self.segments.drain(..) {
            segment.release(pool);
        }
    }
}

/// Notes a MAC move and an activation, and nothing else.
#[derive(Default)]
struct Moves {
    moved: Option<(Vid, MacAddr, PortId)>,
    activated: bool,
}

impl Observer for Moves {
    const LOOKS: bool = false;

    #[inline(always)]
    fn step(&mut self, _: Step) {}

    #[inline(always)]
    fn moved(&mut self, vid: Vid, source: MacAddr, from: PortId) {
        self.moved = Some((vid, source, from));
    }

    #[inline(always)]
    fn activated(&mut self) {
        self.activated = true;
    }
}

impl Worker {
    /// Receives one batch from a queue and runs it to completion. False if nothing waited, or the queue is not listened to
    /// any more.
    pub(super) fn serve_queue(&mut self, slot: usize, now: Timestamp) -> bool {
        self.lanes.collect(&mut self.pool);
        let Some(Some(attached)) = self.queues.get_mut(slot) else {
            return false;
        };
        if !attached.listening {
            return false;
        }
        if let Err(error) = attached.queue.receive(&mut self.pool, &mut self.batch) {
            self.fail(slot, &error);
        }
        if self.batch.is_empty() {
            return false;
        }
        self.shared.workers[self.index].counters.batch(self.batch.len());
        // Once for the batch: a queue may take frames that no capture has to see afterwards.
        let sinks = self.shared.captures.sinks.load();
        self.decide(slot, now, &sinks);
        self.send(&sinks);
        self.give_away(&sinks);
        if let Some(Some(attached)) = self.queues.get_mut(slot) {
            attached.queue.finish();
        }
        true
    }

    /// Sends what other workers have handed over, at most a batch of each. Returns whether there was any.
    pub(super) fn serve_lanes(&mut self) -> bool {
        let mut any = false;
        let first = self.lanes.next_turn();
        let workers = self.lanes.workers();
        for from in (first..workers).chain(0..first) {
            any |= self.serve_lane(from, BATCH) > 0;
        }
        any
    }

    /// Sends everything that other workers have handed over before the call.
    pub(super) fn drain_lanes(&mut self) {
        for from in 0..self.lanes.workers() {
            let mut left = self.lanes.waiting(from);
            while left > 0 {
                left -= self.serve_lane(from, left.min(BATCH)).clamp(1, left);
            }
        }
    }

    /// Sends at most so many frames that a worker has handed over; returns how many these were.
    fn serve_lane(&mut self, from: usize, limit: usize) -> usize {
        let mut taken = 0;
        let mut octets = 0;
        while taken < limit && octets < BATCH_OCTETS {
            let Some(handed) = self.lanes.pop(from) else { break };
            taken += 1;
            octets += handed.frame.weight();
            self.arrive(handed);
        }
        if taken > 0 {
            self.send_handed();
        }
        taken
    }

    /// Adds a frame that was handed over to the batch, and to the queue that it is for.
    pub(super) fn arrive(&mut self, handed: Handed) {
        let Handed {
            port,
            queue,
            tag,
            frame,
        } = handed;
        if let Some(Some(known)) = self.ports.get_mut(port.index()) {
            if known.coming == Some(queue) {
                known.held.push_back(Handed {
                    port,
                    queue,
                    tag,
                    frame,
                });
                return;
            }
            let slot = known.slot(queue);
            if let Some(Some(attached)) = slot.and_then(|slot| self.queues.get_mut(slot)) {
                if attached.outgoing.is_empty() {
                    self.scratch.sending.extend(slot);
                }
                attached.outgoing.push(Outgoing {
                    frame: self.batch.len() as u16,
                    tag,
                    sole: false,
                    outcome: Ok(()),
                });
            } else {
                // The port's device has gone meanwhile.
                let (frames, _) = frame.offload.wire_frames(frame.len());
                known.counters.count_drop(DropReason::TxPortDown, frames);
            }
        }
        self.batch.push(frame);
    }

    /// Sends a batch of frames that were handed over, and lets go of them.
    pub(super) fn send_handed(&mut self) {
        let sinks = self.shared.captures.sinks.load();
        self.send(&sinks);
        drop(sinks);
        self.release_batch();
    }

    /// Sends frames that nobody has received: the switch's own. Those that can't be sent count as drops of the port.
    pub(super) fn send_own(&mut self, port: PortId, frames: &[Vec<u8>]) {
        for frames in frames.chunks(BATCH) {
            for octets in frames {
                let Some(Some(known)) = self.ports.get(port.index()) else {
                    return;
                };
                let (counters, chunk) = (&known.counters, self.pool.take());
                let Some(mut chunk) = chunk else {
                    counters.count_drop(DropReason::NoBuffer, 1);
                    continue;
                };
                let len = octets.len().min(chunk.len() - HEADROOM);
                chunk[HEADROOM..HEADROOM + len].copy_from_slice(&octets[..len]);
                let frame = Frame::new(chunk, HEADROOM, len);
                if let Way::Own(slot) = known.way(&frame)
                    && let Some(Some(attached)) = self.queues.get_mut(slot)
                {
                    if attached.outgoing.is_empty() {
                        self.scratch.sending.push(slot);
                    }
                    attached.outgoing.push(Outgoing {
                        frame: self.batch.len() as u16,
                        tag: None,
                        sole: false,
                        outcome: Ok(()),
                    });
                } else {
                    counters.count_drop(DropReason::TxPortDown, 1);
                }
                self.batch.push(frame);
            }
            let sinks = self.shared.captures.sinks.load();
            self.send(&sinks);
            drop(sinks);
            for frame in self.batch.drain(..) {
                frame.release(&mut self.pool);
            }
        }
    }

    /// Lets go of a batch of frames that were handed over.
    pub(super) fn release_batch(&mut self) {
        for frame in self.batch.drain(..) {
            self.lanes.release(frame, &mut self.pool);
        }
    }

    /// Hands the frames that leave by other workers' queues over to them, and lets go of the others.
    fn give_away(&mut self, sinks: &[Arc<Sink>]) {
        if self.scratch.away.is_empty() {
            for frame in self.batch.drain(..) {
                frame.release(&mut self.pool);
            }
            return;
        }
        let Self {
            index: me,
            shared,
            ports,
            batch,
            scratch,
            pool,
            lanes,
            ..
        } = self;
        let counters = &shared.workers[*me].counters;
        let mut away = scratch.away.drain(..).peekable();
        for (number, frame) in batch.drain(..).enumerate() {
            let is_of = |item: &Away| usize::from(item.frame) == number;
            let mut frame = Some(frame);
            while let Some(item) = away.next_if(is_of) {
                let last = !away.peek().is_some_and(is_of);
                let (Some(Some(port)), Some(own)) = (ports.get_mut(item.port.index()), &mut frame) else {
                    continue;
                };
                let copy = if !lanes.has_room(usize::from(item.worker)) {
                    Err(DropReason::WorkerQueueFull)
                } else if !last || own.umem() != 0 {
                    // A UMEM's chunk stays, so that its socket finds it in this pool.
                    own.copy(pool).ok_or(DropReason::NoBuffer)
                } else if own.gather(pool) {
                    frame.take().ok_or(DropReason::NoBuffer)
                } else {
                    Err(DropReason::NoBuffer)
                };
                match (copy, &frame) {
                    (Ok(copy), _) => {
                        let handed = Handed {
                            port: item.port,
                            queue: item.queue,
                            tag: item.tag,
                            frame: copy,
                        };
                        counters.handed_over();
                        if let Some(handed) = lanes.push(usize::from(item.worker), handed) {
                            port.held.push_back(handed);
                        }
                    }
                    (Err(reason), Some(frame)) => {
                        let (frames, _) = frame.offload.wire_frames(frame.len());
                        port.counters.count_drop(reason, frames);
                        capture::offer(sinks, item.port, Seen::Dropped(reason), frame.bytes());
                    }
                    (Err(_), None) => {}
                }
            }
            if let Some(frame) = frame {
                frame.release(pool);
            }
        }
        let workers = &shared.workers;
        lanes.wake(|to| &workers[to].sleeping, |to| workers[to].waker.wake());
    }

    /// Decides about each frame, and lists the copies at the ports that they leave by.
    fn decide(&mut self, slot: usize, now: Timestamp, sinks: &[Arc<Sink>]) {
        let Some(Some(attached)) = self.queues.get(slot) else {
            return;
        };
        let port = attached.port;
        let counters = Arc::clone(&attached.counters);
        let load = Arc::clone(&attached.load);
        counters.set_queue_depth(self.batch.len() as u64);
        let mut work = 0;
        let mut received = Tally::default();
        let mut copies = 0;
        let mut decisions = Decisions::new(&self.snapshot, now, port, &mut self.scratch.hops);
        decisions.look_ahead(self.batch.iter().map(Frame::bytes), cache::prefetch);
        let tpid = self.snapshot.port(port).and_then(|port| port.vlan.tpid());
        let is_uplink = self
            .snapshot
            .port(port)
            .is_some_and(|port| matches!(port.role, Role::Uplink { .. }));
        // Port and slot of the hop before: frames of a batch mostly go to the same port.
        let mut last = None;
        for (index, frame) in self.batch.iter_mut().enumerate() {
            if !sinks.is_empty() {
                // Without a buffer only the front is seen.
                let _ = frame.gather(&mut self.pool);
                capture::offer(sinks, port, Seen::Receive, frame.bytes());
            }
            let view = frame.view(port);
            let (frames, octets) = view.offload.wire_frames(view.len);
            received.count(destination(view.header), frames, octets);
            work += assign::work(view.len);
            let decision = match frame.fault {
                Some(reason) => Err(reason),
                None => {
                    let mut moves = Moves::default();
                    let result = decisions.forward(&view, &mut moves);
                    if let Some((vid, mac, from)) = moves.moved
                        && self.scratch.moves_told < MOVES_TOLD
                    {
                        self.scratch.moves_told += 1;
                        self.shared.events.tell(Event::MacMoved {
                            vid,
                            mac,
                            from,
                            to: port,
                        });
                    }
                    if moves.activated {
                        self.shared.events.tell(Event::Activated { port });
                    }
                    result
                }
            };
            // What the pipeline took for the frame's own tag.
            let tag = tpid.and_then(|tpid| outer_tag(view.header).filter(|tag| tag.tpid == tpid));
            if let Err(mut reason) = decision {
                if reason == DropReason::ReservedAddress
                    && is_uplink
                    && is_slow(view.header)
                    && self.scratch.slow_told < SLOW_TOLD
                {
                    self.scratch.slow_told += 1;
                    reason = DropReason::ForSwitch;
                    self.shared.events.tell(Event::Slow {
                        port,
                        frame: view.header.into(),
                    });
                }
                counters.count_drop(reason, frames);
                if !sinks.is_empty() {
                    capture::offer(sinks, port, Seen::Dropped(reason), frame.bytes());
                }
                continue;
            }
            frame.set_outer_tag(tag);
            let hops = decisions.hops();
            copies += (hops.len() as u64 - 1) * frames;
            for hop in hops {
                let way = match last {
                    Some((port, slot)) if port == hop.port => Way::Own(slot),
                    _ => {
                        let Some(Some(egress)) = self.ports.get(hop.port.index()) else {
                            // Between a device's going and the snapshot without it.
                            counters.count_drop(DropReason::TxPortDown, frames);
                            continue;
                        };
                        last = egress.only_slot().map(|slot| (hop.port, slot));
                        egress.way(frame)
                    }
                };
                match way {
                    Way::Own(slot) => {
                        let Some(Some(attached)) = self.queues.get_mut(slot) else {
                            continue;
                        };
                        if attached.outgoing.is_empty() {
                            self.scratch.sending.push(slot);
                        }
                        attached.outgoing.push(Outgoing {
                            frame: index as u16,
                            tag: hop.tag,
                            sole: hops.len() == 1 && sinks.is_empty(),
                            outcome: Ok(()),
                        });
                    }
                    Way::Away { queue, worker } => self.scratch.away.push(Away {
                        frame: index as u16,
                        port: hop.port,
                        queue,
                        worker,
                        tag: hop.tag,
                    }),
                    // Its device is gone, or none of its queues is in use.
                    Way::Nowhere => match self.ports.get(hop.port.index()) {
                        Some(Some(egress)) if !egress.is_gone() => {
                            egress.counters.count_drop(DropReason::TxPortDown, frames);
                        }
                        _ => counters.count_drop(DropReason::TxPortDown, frames),
                    },
                }
            }
        }
        counters.receive.add(&received);
        load.batch(self.batch.len(), work);
        if copies > 0 {
            self.shared.workers[self.index].counters.flood_copies(copies);
        }
    }

    /// Sends what the batch left at each queue, and counts it.
    fn send(&mut self, sinks: &[Arc<Sink>]) {
        while let Some(slot) = self.scratch.sending.pop() {
            let Some(Some(egress)) = self.queues.get_mut(slot) else {
                continue;
            };
            let port = egress.port;
            let mut outgoing = std::mem::take(&mut egress.outgoing);
            if egress.failed {
                let failure = SendFailure {
                    reason: DropReason::TxPortDown,
                    errno: 0,
                };
                outgoing.iter_mut().for_each(|item| item.outcome = Err(failure));
            } else {
                let (pool, scratch) = (&mut self.pool, &mut self.scratch);
                transmit(egress, pool, scratch, &mut self.batch, &mut outgoing);
            }
            let mut sent = Tally::default();
            for item in &outgoing {
                // The frame still has the tag of this port: the next port's has not been put on yet.
                let frame = &self.batch[usize::from(item.frame)];
                let (frames, octets) = frame.offload.wire_frames(frame.len());
                let seen = match item.outcome {
                    Ok(()) => {
                        sent.count(destination(frame.bytes()), frames, octets);
                        Seen::Transmit
                    }
                    Err(failure) => {
                        egress.counters.count_drop(failure.reason, frames);
                        Seen::Dropped(failure.reason)
                    }
                };
                if !sinks.is_empty() {
                    capture::offer(sinks, port, seen, frame.bytes());
                }
            }
            egress.counters.transmit.add(&sent);
            let failure = outgoing
                .iter()
                .find_map(|item| item.outcome.err().filter(|f| f.errno != 0));
            if let Some(failure) = failure {
                let due = egress
                    .send_failed
                    .is_none_or(|last| last.elapsed().as_secs() >= SEND_FAILURES_APART);
                if due {
                    egress.send_failed = Some(std::time::Instant::now());
                    tracing::debug!(?port, errno = failure.errno, "sending failed");
                    self.shared.events.tell(Event::SendFailed {
                        port,
                        errno: failure.errno,
                    });
                }
            }
            outgoing.clear();
            egress.outgoing = outgoing;
        }
    }
}

/// Sends frames to a port, those that it can't take after doing in software what their senders left undone.
fn transmit(
    egress: &mut Attached,
    pool: &mut Pool,
    scratch: &mut Scratch,
    batch: &mut [Frame],
    mut outgoing: &mut [Outgoing],
) {
    let capabilities = egress.queue.capabilities();
    if !egress.queue.takes_payload() {
        for item in outgoing.iter_mut() {
            item.outcome = gather(&mut batch[usize::from(item.frame)], pool);
        }
    }
    while !outgoing.is_empty() {
        let as_it_is = |item: &Outgoing| {
            let offload = &batch[usize::from(item.frame)].offload;
            item.outcome.is_ok() && (offload.is_plain() || capabilities.takes(offload))
        };
        let taken = outgoing.iter().take_while(|item| as_it_is(item)).count();
        let (whole, rest) = outgoing.split_at_mut(taken);
        if !whole.is_empty() {
            egress.queue.transmit(batch, whole);
        }
        let Some((item, rest)) = rest.split_first_mut() else {
            return;
        };
        if item.outcome.is_ok() {
            transmit_finished(egress, pool, scratch, batch, item);
        }
        outgoing = rest;
    }
}

/// Makes a frame whole in its chunk.
fn gather(frame: &mut Frame, pool: &mut Pool) -> Result<(), SendFailure> {
    if frame.gather(pool) {
        return Ok(());
    }
    Err(SendFailure {
        reason: DropReason::NoBuffer,
        errno: 0,
    })
}

/// Sends one frame that the port can't take as it is.
fn transmit_finished(
    egress: &mut Attached,
    pool: &mut Pool,
    scratch: &mut Scratch,
    batch: &mut [Frame],
    item: &mut Outgoing,
) {
    let frame = &mut batch[usize::from(item.frame)];
    item.outcome = gather(frame, pool);
    if item.outcome.is_err() {
        return;
    }
    if frame.offload.gso.is_some() {
        frame.retag(item.tag);
        item.outcome = transmit_segments(egress, pool, scratch, frame);
    } else {
        frame.finish_checksum();
        egress.queue.transmit(batch, std::slice::from_mut(item));
    }
}

/// Cuts a super-frame and sends the segments in order. It counts as sent if every segment was.
fn transmit_segments(
    egress: &mut Attached,
    pool: &mut Pool,
    scratch: &mut Scratch,
    frame: &Frame,
) -> Result<(), SendFailure> {
    let failure = |reason| SendFailure { reason, errno: 0 };
    let mut segmenter =
        Segmenter::new(frame.bytes(), &frame.offload).ok_or(failure(DropReason::TxOffload))?;
    let mut outcome = Ok(());
    let mut done = false;
    while !done {
        while scratch.segments.len() < SEGMENTS {
            let Some(mut chunk) = pool.take() else { break };
            let Some(len) = segmenter.next_into(&mut chunk[HEADROOM..]) else {
                pool.give(chunk);
                done = true;
                break;
            };
            let frame = scratch.segments.len() as u16;
            scratch.segments_outgoing.push(Outgoing {
                frame,
                tag: None,
                sole: true,
                outcome: Ok(()),
            });
            scratch.segments.push(Frame::new(chunk, HEADROOM, len));
        }
        if scratch.segments.is_empty() && !done {
            return Err(failure(DropReason::NoBuffer));
        }
        egress
            .queue
            .transmit(&mut scratch.segments, &mut scratch.segments_outgoing);
        if let Some(error) = scratch
            .segments_outgoing
            .iter()
            .find_map(|item| item.outcome.err())
        {
            outcome = Err(error);
        }
        scratch.segments_outgoing.clear();
        for segment in scratch.segments.drain(..) {
            segment.release(pool);
        }
    }
    outcome
}

/// Whether a frame is of a slow protocol, untagged and to the address of these.
fn is_slow(header: &[u8]) -> bool {
    header.starts_with(&lacp::DESTINATION.0) && header.get(12..14) == Some(&ethertype::SLOW.to_be_bytes())
}

#[inline]
fn destination(frame: &[u8]) -> MacAddr {
    frame
        .first_chunk()
        .map_or(MacAddr::ZERO, |octets| MacAddr(*octets))
}
