//! vhost-user ports: the network device of a virtual machine whose memory the switch shares.
//!
//! Two parts. The [`mod@thread`] of a port speaks the protocol with the hypervisor, by a [`device`]: features, memory, where the rings are.
//! The [`VhostQueue`]s are the rings at work, one value per worker. Rings go from the thread to the worker and back as [`Change`]s through a
//! channel, and the worker is woken for them as for frames; it never waits for the thread, while the thread waits for the worker to let a ring go before
//! it tells the hypervisor so.
//!
//! One copy from guest to guest: the first octets of a frame are copied to a small chunk and decided on, the rest stays in the
//! guest until the queue that it leaves by copies it into the other guest's buffers ([`crate::frame::Frame::gather`] for the other kinds of ports). The
//! guest has its buffers back when the batch is done ([`Queue::finish`]).
//!
//! A ring is asked for frames without system calls while there are some, and its guest is asked not to tell of new ones; before the worker sleeps it asks
//! to be told again ([`Queue::arm`]). The guest is told of frames once a batch, if it wants to be.
//!
//! A ring holds the guest's memory mapped, and so outlives the frames of the batch that point into it (`sys::guest`): rings are let go between batches,
//! and one that breaks in the middle of a batch when that is done.

mod device;
mod patience;
#[cfg(test)]
mod tests;
mod thread;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, unbounded};
use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use switch_core::flow;
use switch_core::offload::{Capabilities, Offload, OffloadError, VIRTIO_NET_HDR_LEN};
use switch_core::verdict::DropReason;

use super::peer::{PeerSink, VhostUserSpec};
use super::{BATCH, BATCH_OCTETS, OpenError, Outgoing, Queue, SendFailure};
use crate::frame::Frame;
use crate::offload::mend_joined;
use crate::pool::{Chunk, HEADROOM, MAX_FRAME, Pool};
use crate::sys::guest::Payload;
use crate::sys::poll::{Poller, Waker};
use crate::sys::vring::{Broken, Content, Given, Header, Taken, Vring};

use patience::{Began, Patience};
pub use patience::{LONG, LeftAlone};
use thread::Link;

/// What the device's thread asks of a worker's queue.
enum Change {
    /// Take a ring up. Even indices lead to the guest, odd ones from it.
    Start {
        index: usize,
        ring: Box<Vring>,
        /// Readable when the guest tells of new buffers; without it the ring has to be asked.
        kick: Option<File>,
        capabilities: Capabilities,
    },
    /// Let a ring go.
    Stop {
        index: usize,
        reply: Sender<Option<Box<Vring>>>,
    },
    /// Tell the guest of used buffers this way from now on.
    Call { index: usize, call: Option<File> },
}

/// One ring at work.
struct Running {
    ring: Box<Vring>,
    kick: Option<File>,
}

/// Two rings of a guest.
#[derive(Default)]
struct Pair {
    /// Leads to the guest.
    to_guest: Option<Running>,
    /// Comes from the guest.
    from_guest: Option<Running>,
}

/// The rings of a port that one worker serves.
struct VhostQueue {
    link: Arc<Link>,
    changes: Receiver<Change>,
    /// Shows that there are changes.
    wake: Arc<Waker>,
    /// Readable when a guest or the device's thread wants something.
    readiness: Poller,
    capabilities: Capabilities,
    /// Pairs of this worker.
    pairs: Vec<Pair>,
    /// Rings that broke, for as long as frames of the batch may lie in their memory.
    broken: Vec<Vring>,
    /// How many queues share the device's pairs.
    workers: usize,
    /// The pair that is asked first in the next round.
    turn: usize,
    patience: Patience,
    /// How it was left alone since the worker last asked, and when that was last told of.
    left_alone: Option<LeftAlone>,
    told: Option<Instant>,
    /// In `readiness`, from the first time that the guest is left alone: shows when that is over.
    alarm: Option<TimerFd>,
}

/// The number of the waker among the ring numbers.
const WAKE: u64 = u64::MAX;

/// How often it is told of that a guest is left alone.
const TOLD_APART: Duration = Duration::from_secs(10);

/// The number of the alarm among them.
const ALARM: u64 = u64::MAX - 1;

/// Opens a vhost-user port: its queues, one per worker, and the thread that serves its socket.
pub fn open(spec: &VhostUserSpec, sink: PeerSink) -> Result<Vec<Box<dyn Queue>>, OpenError> {
    let name = spec.socket.display().to_string();
    let parts =
        Parts::new(spec).map_err(|source| OpenError::from_system(&name, "making its wakers", source))?;
    thread::spawn(spec, parts.link, parts.lanes, sink)?;
    Ok(parts
        .queues
        .into_iter()
        .map(|queue| Box::new(queue) as Box<dyn Queue>)
        .collect())
}

/// The queues of a port, and what its thread has of them.
struct Parts {
    link: Arc<Link>,
    lanes: Vec<thread::Lane>,
    queues: Vec<VhostQueue>,
}

impl Parts {
    fn new(spec: &VhostUserSpec) -> io::Result<Self> {
        let link = Arc::new(Link::new()?);
        let wakes: Vec<Arc<Waker>> = (0..spec.queues)
            .map(|_| Waker::new().map(Arc::new))
            .collect::<io::Result<_>>()?;
        let mut lanes = Vec::with_capacity(spec.queues);
        let mut queues = Vec::with_capacity(spec.queues);
        for (worker, wake) in wakes.into_iter().enumerate() {
            let pairs = (worker..spec.pairs).step_by(spec.queues).count();
            let readiness = Poller::new(pairs + 2)?;
            readiness.add(wake.fd(), WAKE)?;
            let (sender, changes) = unbounded();
            lanes.push(thread::Lane {
                changes: sender,
                wake: Arc::clone(&wake),
            });
            queues.push(VhostQueue {
                link: Arc::clone(&link),
                changes,
                wake,
                readiness,
                capabilities: Capabilities::default(),
                pairs: std::iter::repeat_with(Pair::default).take(pairs).collect(),
                broken: Vec::new(),
                workers: spec.queues,
                turn: 0,
                patience: Patience::default(),
                left_alone: None,
                told: None,
                alarm: None,
            });
        }
        Ok(Self { link, lanes, queues })
    }
}

/// Serves one connection to its end, with a worker of its own, as the thread of a port does: for the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) fn serve_once(
    spec: &VhostUserSpec,
    sink: PeerSink,
    stream: std::os::unix::net::UnixStream,
) -> String {
    let parts = Parts::new(spec).expect("a process that fuzzes has descriptors");
    let workers: Vec<_> = parts
        .queues
        .into_iter()
        .map(|queue| std::thread::spawn(move || work(queue)))
        .collect();
    let why = thread::serve_once(spec, Arc::clone(&parts.link), parts.lanes, sink, stream);
    parts.link.close();
    for worker in workers {
        worker.join().expect("a worker does not panic");
    }
    why
}

/// What a worker does with a queue: what comes from the guest goes back to it.
#[cfg(any(test, fuzzing))]
fn work(mut queue: VhostQueue) {
    let mut pool = Pool::new(3 * BATCH);
    let mut batch = Vec::new();
    while !queue.link.is_closed() {
        queue.wake();
        queue
            .receive(&mut pool, &mut batch)
            .expect("a broken ring is no error of the queue");
        let mut outgoing: Vec<Outgoing> = (0..batch.len() as u16)
            .map(|frame| Outgoing {
                frame,
                tag: None,
                sole: true,
                outcome: Ok(()),
            })
            .collect();
        queue.transmit(&mut batch, &mut outgoing);
        for frame in batch.drain(..) {
            frame.release(&mut pool);
        }
        queue.finish();
        queue.arm();
        std::thread::yield_now();
    }
}

impl Queue for VhostQueue {
    fn receive(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> io::Result<bool> {
        if self.patience.is_out(Instant::now) {
            return Ok(false);
        }
        let began = self.patience.begin();
        let mut octets = 0;
        for index in 0..self.pairs.len() {
            let turn = (self.turn + index) % self.pairs.len();
            let Some(running) = &mut self.pairs[turn].from_guest else {
                continue;
            };
            if let Err(broken) = receive(&mut running.ring, pool, batch, &mut octets) {
                self.link.fail(broken);
                let running = self.pairs[turn].from_guest.take();
                let ring = self.release(running);
                if !batch.is_empty() {
                    // Its frames may lie in the ring's memory; `finish` follows.
                    self.broken.extend(ring.map(|ring| *ring));
                }
            }
            if batch.len() == BATCH || octets >= BATCH_OCTETS {
                break;
            }
        }
        self.turn = self.turn.wrapping_add(1);
        if began.is_some() {
            // Whoever sends them on is not to wait for this guest's memory.
            for frame in batch.iter_mut() {
                let _ = frame.gather(pool);
            }
        }
        self.ended(began);
        Ok(!batch.is_empty())
    }

    fn transmit(&mut self, batch: &mut [Frame], outgoing: &mut [Outgoing]) {
        if self.patience.is_out(Instant::now) {
            for item in outgoing {
                item.outcome = failure(DropReason::GuestSlow);
            }
            return;
        }
        let began = self.patience.begin();
        let active = self.pairs.iter().filter(|pair| pair.to_guest.is_some()).count();
        let mut place = 0;
        for pair in &mut self.pairs {
            let Some(running) = &mut pair.to_guest else {
                continue;
            };
            let ring = &mut running.ring;
            let result = if active == 1 {
                transmit(ring, batch, outgoing, |_| true)
            } else {
                // A flow stays on one ring, and in order.
                transmit(ring, batch, outgoing, |frame| {
                    flow::hash(frame.bytes()) as usize % active == place
                })
            };
            place += 1;
            if let Err(broken) = result {
                self.link.fail(broken);
                pair.to_guest = None;
            }
        }
        if active == 0 {
            // The last ring broke just now; the worker has not looked yet.
            for item in outgoing {
                item.outcome = failure(DropReason::TxPortDown);
            }
        }
        self.ended(began);
    }

    fn finish(&mut self) {
        let began = self.patience.begin();
        for pair in &mut self.pairs {
            if let Some(running) = &mut pair.from_guest {
                running.ring.use_taken();
            }
        }
        self.broken.clear();
        self.ended(began);
    }

    fn takes_payload(&self) -> bool {
        true
    }

    fn wake(&mut self) -> bool {
        let began = self.patience.begin();
        self.wake.clear();
        // Takes what was told: all of it, and without a word to the guests' descriptors.
        if let Err(error) = self.readiness.wait(Some(Duration::ZERO)) {
            tracing::error!(%error, "asking what guests have told failed");
        }
        while let Ok(change) = self.changes.try_recv() {
            self.change(change);
        }
        let mut any = false;
        if !self.patience.is_out(Instant::now) {
            for running in self.pairs.iter_mut().filter_map(|pair| pair.from_guest.as_mut()) {
                running.ring.disarm();
                any = true;
            }
        }
        self.ended(began);
        any
    }

    fn arm(&mut self) -> bool {
        if self.patience.is_out(Instant::now) {
            // The alarm wakes the worker.
            return self.alarm.is_none();
        }
        let began = self.patience.begin();
        let mut waiting = false;
        for running in self.pairs.iter_mut().filter_map(|pair| pair.from_guest.as_mut()) {
            waiting |= running.ring.arm() || running.kick.is_none();
        }
        self.ended(began);
        waiting
    }

    fn suspect(&mut self) -> Option<LeftAlone> {
        let now = Instant::now();
        self.patience.suspect(now);
        let due = self.told.is_none_or(|told| now - told > TOLD_APART);
        let left_alone = self.left_alone.take().filter(|_| due);
        if left_alone.is_some() {
            self.told = Some(now);
        }
        left_alone
    }

    fn takes_frames(&self) -> bool {
        self.pairs.iter().any(|pair| pair.to_guest.is_some())
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.readiness.fd()
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }
}

impl VhostQueue {
    /// A call that touches the guest's memory has ended.
    #[inline]
    fn ended(&mut self, began: Option<Began>) {
        if let Some(began) = began {
            self.judge(began);
        }
    }

    #[cold]
    fn judge(&mut self, Began { at, waits }: Began) {
        let left_alone = self.patience.end(at, Instant::now(), || waits.were_there_since());
        let Some(left_alone) = left_alone else { return };
        self.left_alone = Some(left_alone);
        if let Err(error) = self.set_alarm(left_alone.rest) {
            // Without an alarm the worker asks until it is over.
            self.alarm = None;
            tracing::warn!(%error, "no timer for a guest that is left alone");
        }
    }

    fn set_alarm(&mut self, rest: Duration) -> nix::Result<()> {
        let alarm = match self.alarm.take() {
            Some(alarm) => alarm,
            None => {
                let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
                let alarm = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
                self.readiness
                    .add_edge(alarm.as_fd(), ALARM)
                    .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
                alarm
            }
        };
        let expiration = Expiration::OneShot(TimeSpec::from_duration(rest));
        alarm.set(expiration, TimerSetTimeFlags::empty())?;
        self.alarm = Some(alarm);
        Ok(())
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Start {
                index,
                mut ring,
                kick,
                capabilities,
            } => {
                self.capabilities = capabilities;
                ring.disarm();
                ring.call();
                let from_guest = index % 2 == 1;
                // What a guest that has to be told of its own buffers tells is of no use.
                let kick = kick.filter(|_| from_guest);
                if let Some(kick) = &kick
                    && self.readiness.add_edge(kick.as_fd(), index as u64).is_err()
                {
                    self.link.fail(Broken::Kick);
                    return;
                }
                if let Some(place) = self.place(index) {
                    *place = Some(Running { ring, kick });
                }
            }
            Change::Stop { index, reply } => {
                let running = self.place(index).and_then(Option::take);
                // The thread waits for it, or is gone together with its guest.
                let _ = reply.send(self.release(running));
            }
            Change::Call { index, call } => {
                if let Some(Some(running)) = self.place(index) {
                    running.ring.set_call(call);
                }
            }
        }
    }

    /// Waits for a ring's guest no more. To be done before the ring's descriptor is closed: the guest has it too, so that it
    /// would stay in the set, ready for ever.
    fn release(&self, running: Option<Running>) -> Option<Box<Vring>> {
        let running = running?;
        if let Some(kick) = &running.kick {
            self.readiness.remove(kick.as_fd());
        }
        Some(running.ring)
    }

    fn place(&mut self, index: usize) -> Option<&mut Option<Running>> {
        let pair = self.pairs.get_mut(index / 2 / self.workers)?;
        Some(if index.is_multiple_of(2) {
            &mut pair.to_guest
        } else {
            &mut pair.from_guest
        })
    }
}

/// Receives what fits the batch from one ring. Not inlined: its loop wants the registers for itself.
#[inline(never)]
fn receive(
    ring: &mut Vring,
    pool: &mut Pool,
    batch: &mut Vec<Frame>,
    octets: &mut usize,
) -> Result<(), Broken> {
    if ring.is_broken() {
        return Err(Broken::Memory);
    }
    let room = (BATCH - batch.len()).min(pool.free_small());
    let fetched = ring.fetch(room)?;
    let mut done = 0;
    while done < fetched && *octets < BATCH_OCTETS {
        let Some(weight) = take(ring, done, pool, batch)? else {
            break;
        };
        done += 1;
        *octets += weight;
    }
    ring.take(done);
    Ok(())
}

/// Appends the frame in a fetched chain to the batch. Returns its weight, or `None` if there is no buffer for it at present.
///
/// The usual frame, short and without offloads, is written once, to its place in the batch, and not read there again: the processor would
/// have to wait for the writes.
#[inline]
fn take(
    ring: &Vring,
    index: usize,
    pool: &mut Pool,
    batch: &mut Vec<Frame>,
) -> Result<Option<usize>, Broken> {
    let header = ring.header();
    let start = HEADROOM - header;
    let Some(mut chunk) = pool.take_small() else {
        return Ok(None);
    };
    let Some(taken) = ring.copy_whole(index, &mut chunk[start..]) else {
        pool.give(chunk);
        return take_long(ring, index, pool, batch);
    };
    let plain = is_plain(&chunk[start..]) && taken >= header;
    let len = taken.saturating_sub(header);
    batch.push(Frame::new(chunk, HEADROOM, len));
    if plain {
        return Ok(Some(len));
    }
    Ok(batch.last_mut().map(|frame| {
        if taken < header {
            frame.fault = Some(DropReason::RxTruncated);
        } else {
            decode(frame, header, pool);
        }
        frame.weight()
    }))
}

/// Whether a header asks for nothing: neither a checksum nor segments.
#[inline(always)]
fn is_plain(header: &[u8]) -> bool {
    header.starts_with(&[0; 2])
}

/// A frame that is long, or in several buffers.
#[inline(never)]
fn take_long(
    ring: &Vring,
    index: usize,
    pool: &mut Pool,
    batch: &mut Vec<Frame>,
) -> Result<Option<usize>, Broken> {
    let header = ring.header();
    let Some(mut chunk) = pool.take_small() else {
        return Ok(None);
    };
    let Some(mut rest) = pool.take_payload() else {
        pool.give(chunk);
        return Ok(None);
    };
    let copied = copy_long(ring, index, pool, &mut chunk, &mut rest);
    let Ok(Some(taken)) = copied else {
        pool.give(chunk);
        pool.give_payload(rest);
        return copied.map(|_| None);
    };
    let fits = (header..=header + MAX_FRAME).contains(&taken.len);
    let mut frame = Frame::new(chunk, HEADROOM, taken.copied.saturating_sub(header));
    if fits && !rest.is_empty() {
        frame.set_payload(rest);
    } else {
        pool.give_payload(rest);
    }
    if !fits {
        // It counts as what is here of it: how long it says that it is, is the guest's word.
        frame.fault = Some(DropReason::RxTruncated);
    } else if !is_plain(frame.in_front(header)) {
        decode(&mut frame, header, pool);
    }
    let weight = frame.weight().max(ring.toil());
    batch.push(frame);
    Ok(Some(weight))
}

/// Copies the front of a frame to `chunk`, and lists the rest in `rest`; a frame in more parts than that has places is copied whole to a
/// large chunk in its place. `None` if there is none at present.
fn copy_long(
    ring: &Vring,
    index: usize,
    pool: &mut Pool,
    chunk: &mut Chunk,
    rest: &mut Payload,
) -> Result<Option<Taken>, Broken> {
    let start = HEADROOM - ring.header();
    let taken = ring.copy(index, &mut chunk[start..], Some(&mut *rest))?;
    if taken.copied + rest.len() == taken.len {
        return Ok(Some(taken));
    }
    rest.clear();
    let Some(large) = pool.take() else {
        return Ok(None);
    };
    pool.give(std::mem::replace(chunk, large));
    ring.copy(index, &mut chunk[start..], None).map(Some)
}

/// Reads the header of `len` octets in front of a frame.
#[inline(never)]
fn decode(frame: &mut Frame, len: usize, pool: &mut Pool) {
    let mut header = [0; VIRTIO_NET_HDR_LEN];
    header[..len].copy_from_slice(frame.in_front(len));
    let decoded = match Offload::decode(&header, frame.bytes(), frame.len()) {
        Err(OffloadError::GsoWithoutChecksum) if frame.gather(pool) => {
            mend_joined(&header, frame.bytes_mut())
        }
        decoded => decoded,
    };
    match decoded {
        Ok(offload) => frame.offload = offload,
        Err(_) => frame.fault = Some(DropReason::BadOffload),
    }
}

/// Gives the frames that are `mine` to a guest. If its ring is broken it sees none of them.
fn transmit(
    ring: &mut Vring,
    batch: &mut [Frame],
    outgoing: &mut [Outgoing],
    mine: impl Fn(&Frame) -> bool,
) -> Result<(), Broken> {
    let result = if ring.is_broken() {
        Err(Broken::Memory)
    } else {
        give(ring, batch, outgoing, &mine)
    };
    if result.is_err() {
        for item in outgoing {
            if mine(&batch[usize::from(item.frame)]) {
                item.outcome = failure(DropReason::TxPortDown);
            }
        }
    }
    result
}

fn give(
    ring: &mut Vring,
    batch: &mut [Frame],
    outgoing: &mut [Outgoing],
    mine: impl Fn(&Frame) -> bool,
) -> Result<(), Broken> {
    ring.prefetch(outgoing.len());
    for item in outgoing.iter() {
        batch[usize::from(item.frame)].retag(item.tag);
    }
    let frames = outgoing.iter_mut().filter_map(|item| {
        let frame = &batch[usize::from(item.frame)];
        mine(frame).then(|| {
            let content = Content {
                header: header_of(frame),
                head: frame.bytes(),
                payload: frame.payload(),
            };
            (item, content)
        })
    });
    ring.give(frames, |item, given| match given {
        Given::Sent => {}
        Given::Full => item.outcome = failure(DropReason::TxQueueFull),
        Given::TooLong => item.outcome = failure(DropReason::TxError),
    })?;
    ring.publish();
    Ok(())
}

#[inline]
fn header_of(frame: &Frame) -> Header {
    if frame.offload.is_plain() {
        return Header::default();
    }
    let (front, checksum_offset) = frame.offload.encode_words();
    Header {
        front,
        checksum_offset,
    }
}

fn failure(reason: DropReason) -> Result<(), SendFailure> {
    Err(SendFailure { reason, errno: 0 })
}

impl Drop for VhostQueue {
    fn drop(&mut self) {
        self.link.close();
    }
}
