//! The way of a batch: receive, decide, send.

use std::sync::Arc;

use switch_core::addr::MacAddr;
use switch_core::frame::Hop;
use switch_core::id::PortId;
use switch_core::pipeline::{self, Mode, Observer, Step};
use switch_core::time::Timestamp;
use switch_core::verdict::DropReason;
use switch_core::vid::Vid;
use switch_core::vlan::outer_tag;

use super::{Attached, Worker};
use crate::capture::{self, Seen, Sink};
use crate::events::Event;
use crate::frame::Frame;
use crate::io::{Outgoing, SendFailure};
use crate::offload::Segmenter;
use crate::pool::{HEADROOM, Pool};

/// MAC moves that a worker tells of in a second; all are counted in the table.
const MOVES_TOLD: u32 = 100;

/// How often a port's failing to send is told of, seconds.
const SEND_FAILURES_APART: u64 = 10;

/// Frames that a software-segmented super-frame is sent in at once.
const SEGMENTS: usize = crate::io::BATCH;

/// Lists that a batch fills and empties; kept for their memory.
#[derive(Default)]
pub(super) struct Scratch {
    hops: Vec<Hop>,
    /// Ports with something to send in this batch.
    sending: Vec<PortId>,
    segments: Vec<Frame>,
    segments_outgoing: Vec<Outgoing>,
    moves_told: u32,
}

impl Scratch {
    /// Makes room for a snapshot of so many ports, so that no frame allocates.
    pub(super) fn reserve(&mut self, ports: usize) {
        self.hops.reserve(ports);
        self.sending.reserve(ports);
        self.segments.reserve(SEGMENTS);
        self.segments_outgoing.reserve(SEGMENTS);
    }

    pub(super) fn new_second(&mut self) {
        self.moves_told = 0;
    }

    /// Empties the lists after a batch was lost half-way.
    pub(super) fn recover(&mut self, pool: &mut Pool) {
        self.sending.clear();
        self.segments_outgoing.clear();
        for segment in self.segments.drain(..) {
            segment.release(pool);
        }
    }
}

/// Notes a MAC move, and nothing else.
#[derive(Default)]
struct Moves(Option<(Vid, MacAddr, PortId)>);

impl Observer for Moves {
    const LOOKS: bool = false;

    #[inline(always)]
    fn step(&mut self, _: Step) {}

    #[inline(always)]
    fn moved(&mut self, vid: Vid, source: MacAddr, from: PortId) {
        self.0 = Some((vid, source, from));
    }
}

impl Worker {
    /// Receives one batch from a port and runs it to completion. False if nothing waited, or the port is not listened to
    /// any more.
    pub(super) fn serve_port(&mut self, port: PortId, now: Timestamp) -> bool {
        let Some(Some(attached)) = self.ports.get_mut(port.index()) else {
            return false;
        };
        if !attached.listening {
            return false;
        }
        if let Err(error) = attached.queue.receive(&mut self.pool, &mut self.batch) {
            self.fail(port, &error);
        }
        if self.batch.is_empty() {
            return false;
        }
        self.shared.workers[self.index].counters.batch(self.batch.len());
        // Once for the batch: a queue may take frames that no capture has to see afterwards.
        let sinks = self.shared.captures.sinks.load();
        self.decide(port, now, &sinks);
        self.send(port, &sinks);
        for frame in self.batch.drain(..) {
            frame.release(&mut self.pool);
        }
        if let Some(Some(attached)) = self.ports.get_mut(port.index()) {
            attached.queue.finish();
        }
        true
    }

    /// Decides about each frame, and lists the copies at the ports that they leave by.
    fn decide(&mut self, port: PortId, now: Timestamp, sinks: &[Arc<Sink>]) {
        let Some(Some(attached)) = self.ports.get(port.index()) else {
            return;
        };
        let counters = Arc::clone(&attached.counters);
        counters.set_queue_depth(self.batch.len() as u64);
        let tpid = self.snapshot.port(port).and_then(|port| port.vlan.tpid());
        for (index, frame) in self.batch.iter_mut().enumerate() {
            let (frames, octets) = frame.offload.wire_frames(frame.len());
            counters.receive.count(destination(frame.bytes()), frames, octets);
            if !sinks.is_empty() {
                // Without a buffer only the front is seen.
                let _ = frame.gather(&mut self.pool);
                capture::offer(sinks, port, Seen::Receive, frame.bytes());
            }
            let decision = match frame.fault {
                Some(reason) => Err(reason),
                None => {
                    let mut moves = Moves::default();
                    let hops = &mut self.scratch.hops;
                    let view = frame.view(port);
                    let result = pipeline::forward(&self.snapshot, now, &view, Mode::Live, hops, &mut moves);
                    if let Some((vid, mac, from)) = moves.0
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
                    result
                }
            };
            if let Err(reason) = decision {
                counters.count_drop(reason, frames);
                if !sinks.is_empty() {
                    capture::offer(sinks, port, Seen::Dropped(reason), frame.bytes());
                }
                continue;
            }
            // What the pipeline took for the frame's own tag.
            frame.set_outer_tag(outer_tag(frame.bytes()).filter(|tag| Some(tag.tpid) == tpid));
            let hops = &self.scratch.hops;
            self.shared.workers[self.index]
                .counters
                .flood_copies((hops.len() as u64 - 1) * frames);
            for hop in hops {
                match self.ports.get_mut(hop.port.index()) {
                    Some(Some(egress)) => {
                        if egress.outgoing.is_empty() {
                            self.scratch.sending.push(hop.port);
                        }
                        egress.outgoing.push(Outgoing {
                            frame: index as u16,
                            tag: hop.tag,
                            sole: hops.len() == 1 && sinks.is_empty(),
                            outcome: Ok(()),
                        });
                    }
                    // Between a device's going and the snapshot without it.
                    _ => counters.count_drop(DropReason::TxPortDown, frames),
                }
            }
        }
    }

    /// Sends what the batch left at each port, and counts it.
    fn send(&mut self, from: PortId, sinks: &[Arc<Sink>]) {
        while let Some(port) = self.scratch.sending.pop() {
            let Some(Some(egress)) = self.ports.get_mut(port.index()) else {
                continue;
            };
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
            for item in &outgoing {
                // The frame still has the tag of this port: the next port's has not been put on yet.
                let frame = &self.batch[usize::from(item.frame)];
                let (frames, octets) = frame.offload.wire_frames(frame.len());
                let seen = match item.outcome {
                    Ok(()) => {
                        egress
                            .counters
                            .transmit
                            .count(destination(frame.bytes()), frames, octets);
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
            let failure = outgoing
                .iter()
                .find_map(|item| item.outcome.err().filter(|f| f.errno != 0));
            if let Some(failure) = failure {
                let due = egress
                    .send_failed
                    .is_none_or(|last| last.elapsed().as_secs() >= SEND_FAILURES_APART);
                if due {
                    egress.send_failed = Some(std::time::Instant::now());
                    tracing::debug!(?from, ?port, errno = failure.errno, "sending failed");
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
            item.outcome.is_ok() && capabilities.takes(&batch[usize::from(item.frame)].offload)
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

#[inline]
fn destination(frame: &[u8]) -> MacAddr {
    frame
        .first_chunk()
        .map_or(MacAddr::ZERO, |octets| MacAddr(*octets))
}
