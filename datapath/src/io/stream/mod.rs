//! Stream ports: frames behind their length on a Unix stream socket, as QEMU's `-netdev stream` (from QEMU 7.2 on) and passt speak it.
//! Neither side needs root, shared memory or a netdev. Nothing travels beside a frame: the switch segments and sums for such a port.
//!
//! A connection is one queue (`Owner`): one worker reads and writes it. A connection is read as much at once as there is, and frames are found in the buffer ([`framing`]); a batch is written
//! with one call. What the socket takes only a part of is kept and goes first, so no frame is ever cut in two: who reads too
//! slowly loses whole frames of its own.
//!
//! The port's readiness is an epoll set of its own, of all that the owner waits for: the connection, the listener, a timer and a waker. In
//! either role the connection comes again after it was lost, with a growing pause between attempts (`io::socket`). Nothing here waits, and nothing that the other
//! side sends stops more than its own connection.

pub mod framing;
#[cfg(test)]
mod tests;

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use switch_core::offload::Capabilities;
use switch_core::verdict::DropReason;

use self::framing::{BadLength, Inbox, LENGTH, Outbox};
use super::socket::{Backoff, Listener, dial, enlarge, unreachable};
use super::{
    BATCH, BATCH_OCTETS, OpenError, Outgoing, Peer, PeerSink, Queue, SendFailure, SocketMode, StreamSpec,
};
use crate::frame::Frame;
use crate::pool::{HEADROOM, MAX_FRAME, Pool};
use crate::sys::poll::{Poller, Waker};

/// Numbers in the owner's epoll set.
const CONNECTION: u64 = 0;
const LISTENER: u64 = 1;
const TIMER: u64 = 2;
const WAKER: u64 = 3;

/// How many of them there are.
const SOURCES: usize = 4;

/// A connection that lasted so long was a good one: the next may come at once.
const STABLE: Duration = Duration::from_secs(5);

/// Batches between two looks at what else is ready, while the connection always has frames.
const LOOK: u32 = 64;

/// Opens the port: listens, or begins to connect. A connection is one queue.
pub fn open(spec: &StreamSpec, peer: PeerSink) -> Result<Vec<Box<dyn Queue>>, OpenError> {
    Ok(vec![Box::new(Owner::new(spec, peer)?)])
}

/// Says that none of these was sent.
fn refuse(outgoing: &mut [Outgoing], reason: DropReason) {
    for item in outgoing {
        item.outcome = Err(SendFailure { reason, errno: 0 });
    }
}

struct Connection {
    stream: UnixStream,
    since: Instant,
    /// Another one was turned away meanwhile, and the log knows.
    turned_away: bool,
}

/// The queue of the worker that owns the connection.
struct Owner {
    path: PathBuf,
    /// With `mode: server`.
    listener: Option<Listener>,
    /// The epoll set has the listener.
    listening: bool,
    connection: Option<Connection>,
    inbox: Inbox,
    outbox: Outbox,
    /// The epoll set waits for room to write.
    wants_room: bool,
    /// Makes us readable.
    waker: Waker,
    /// The waker is signalled by ourselves, because whole frames wait in the inbox.
    signalled: bool,
    poller: Poller,
    timer: TimerFd,
    backoff: Backoff,
    peer: PeerSink,
    /// Why there is no connection, as last told.
    told: Option<String>,
    /// Batches since the last look at the epoll set.
    batches: u32,
    /// The last batch was empty.
    quiet: bool,
}

impl Owner {
    fn new(spec: &StreamSpec, peer: PeerSink) -> Result<Self, OpenError> {
        let path = spec.socket.clone();
        let error = |what| {
            let path = path.clone();
            move |source: io::Error| OpenError::from_socket(&path, what, source)
        };
        let waker = Waker::new().map_err(error("making a waker"))?;
        let poller = Poller::new(SOURCES).map_err(error("making an epoll set"))?;
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )
        .map_err(io::Error::from)
        .map_err(error("making a timer"))?;
        poller
            .add(timer.as_fd(), TIMER)
            .and_then(|()| poller.add(waker.fd(), WAKER))
            .map_err(error("waiting for it"))?;
        let listener = match spec.mode {
            SocketMode::Server => Some(Listener::bind(&path)?),
            SocketMode::Client => None,
        };
        let mut owner = Self {
            path,
            listener,
            listening: false,
            connection: None,
            inbox: Inbox::default(),
            outbox: Outbox::with_room(),
            wants_room: false,
            waker,
            signalled: false,
            poller,
            timer,
            backoff: Backoff::new(),
            peer,
            told: None,
            batches: 0,
            quiet: true,
        };
        // The worker takes up the connection when it first looks.
        owner.set_timer(Duration::from_nanos(1));
        Ok(owner)
    }

    // The connection's coming and going.

    fn set_timer(&mut self, delay: Duration) {
        let expiration = Expiration::OneShot(TimeSpec::from_duration(delay));
        if let Err(error) = self.timer.set(expiration, TimerSetTimeFlags::empty()) {
            tracing::error!(socket = %self.path.display(), %error, "no timer: it is not tried again");
        }
    }

    fn set_listening(&mut self, wanted: bool) {
        let Some(listener) = &self.listener else { return };
        if wanted && !self.listening {
            match self.poller.add(listener.as_fd(), LISTENER) {
                Ok(()) => self.listening = true,
                Err(error) => {
                    tracing::error!(socket = %self.path.display(), %error, "nobody can connect");
                }
            }
        } else if !wanted && self.listening {
            self.poller.remove(listener.as_fd());
            self.listening = false;
        }
    }

    /// The time has come to look for the other side again.
    fn timer_expired(&mut self) {
        // Also makes the timer unreadable.
        let _ = self.timer.unset();
        if self.listener.is_some() {
            self.set_listening(true);
        } else if self.connection.is_none() {
            match dial(&self.path) {
                Ok(stream) => self.connected(stream),
                Err(error) => self.retry_later(unreachable(&self.path, &error)),
            }
        }
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        match listener.accept() {
            Ok(stream) => match &mut self.connection {
                None => self.connected(stream),
                Some(connection) => {
                    if !connection.turned_away {
                        connection.turned_away = true;
                        tracing::warn!(
                            socket = %self.path.display(),
                            "a second connection was turned away: a port has one peer"
                        );
                    }
                    // Who tries for ever is heard only now and then.
                    self.set_listening(false);
                    self.set_timer(Backoff::LONGEST);
                }
            },
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {
                }
                _ if self.connection.is_some() => {
                    self.set_listening(false);
                    self.set_timer(Backoff::LONGEST);
                }
                _ => self.retry_later(format!(
                    "a connection to {} cannot be accepted: {error}",
                    self.path.display()
                )),
            },
        }
    }

    fn connected(&mut self, stream: UnixStream) {
        enlarge(&stream);
        if let Err(error) = self.poller.add(stream.as_fd(), CONNECTION) {
            self.retry_later(format!(
                "the connection to {} cannot be waited for: {error}",
                self.path.display()
            ));
            return;
        }
        self.connection = Some(Connection {
            stream,
            since: Instant::now(),
            turned_away: false,
        });
        self.told = None;
        self.peer.tell(Peer::Present(String::new()));
    }

    /// There is no connection, for this reason; looks again after a while.
    fn retry_later(&mut self, reason: String) {
        self.set_listening(false);
        let delay = self.backoff.next();
        self.set_timer(delay);
        if self.told.as_ref() != Some(&reason) {
            self.told = Some(reason.clone());
            self.peer.tell(Peer::Absent(reason));
        }
    }

    fn disconnect(&mut self, reason: String) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        self.poller.remove(connection.stream.as_fd());
        self.inbox.clear();
        self.outbox.clear();
        self.wants_room = false;
        if connection.since.elapsed() >= STABLE {
            self.backoff.reset();
        }
        self.retry_later(reason);
    }

    fn see_to_events(&mut self) {
        self.batches = 0;
        if let Err(error) = self.poller.wait(Some(Duration::ZERO)) {
            tracing::error!(socket = %self.path.display(), %error, "waiting failed");
        }
        for index in 0..self.poller.len() {
            match self.poller.ready(index) {
                LISTENER => self.accept(),
                TIMER => self.timer_expired(),
                CONNECTION if self.wants_room => self.flush(),
                // What can be read has been, or is at the next call; the waker is seen to by `settle`.
                _ => {}
            }
        }
    }

    // Receiving.

    /// Reads frames until the batch is full or nothing waits.
    fn read(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) {
        let mut octets = 0;
        let mut drained = false;
        loop {
            while batch.len() < BATCH && octets < BATCH_OCTETS {
                match self.inbox.peek() {
                    Ok(Some(bytes)) => {
                        let Some(chunk) = pool.take() else { return };
                        let len = bytes.len();
                        let frame = copied(chunk, bytes);
                        self.inbox.take(len);
                        octets += frame.weight();
                        batch.push(frame);
                    }
                    Ok(None) => break,
                    Err(bad) => return self.misread(bad),
                }
            }
            if drained || batch.len() >= BATCH || octets >= BATCH_OCTETS {
                return;
            }
            let Some(connection) = &mut self.connection else {
                return;
            };
            let room = self.inbox.room();
            let wanted = room.len();
            match connection.stream.read(room) {
                Ok(0) => {
                    let reason = format!("the other side has closed {}", self.path.display());
                    return self.disconnect(reason);
                }
                Ok(len) => {
                    // A stream socket gives all that it has.
                    drained = len < wanted;
                    self.inbox.filled(len);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return,
                    io::ErrorKind::Interrupted => {}
                    _ => {
                        let reason = format!("the connection to {} broke: {error}", self.path.display());
                        return self.disconnect(reason);
                    }
                },
            }
        }
    }

    fn misread(&mut self, bad: BadLength) {
        self.disconnect(format!(
            "the connection to {} was closed: {bad}",
            self.path.display()
        ));
    }

    /// Sees to it that we are called again exactly if whole frames wait that no descriptor tells of.
    fn settle(&mut self) {
        let more = self.inbox.has_more();
        if more && !self.signalled {
            self.waker.wake();
        } else if !more && self.signalled {
            self.waker.clear();
        }
        self.signalled = more;
    }

    // Sending.

    /// Sends what waits, as far as the socket takes it.
    fn flush(&mut self) {
        let Some(connection) = &self.connection else {
            return;
        };
        // A broken connection shows when it is read; what is kept goes with it.
        let free = send_rest(&connection.stream, &mut self.outbox).unwrap_or(false);
        self.want_room(!free);
    }

    fn want_room(&mut self, wanted: bool) {
        if wanted == self.wants_room {
            return;
        }
        let Some(connection) = &self.connection else {
            return;
        };
        match self
            .poller
            .wait_for_room(connection.stream.as_fd(), CONNECTION, wanted)
        {
            Ok(()) => self.wants_room = wanted,
            Err(error) => tracing::error!(socket = %self.path.display(), %error, "waiting for room failed"),
        }
    }
}

/// A frame of these octets; one that is longer than frames may be is cut, and marked.
fn copied(mut chunk: crate::pool::Chunk, bytes: &[u8]) -> Frame {
    let len = bytes.len().min(MAX_FRAME);
    chunk[HEADROOM..HEADROOM + len].copy_from_slice(&bytes[..len]);
    let mut frame = Frame::new(chunk, HEADROOM, len);
    if len < bytes.len() {
        frame.fault = Some(DropReason::RxTruncated);
    }
    frame
}

/// How many octets the socket takes; 0 if it has no room.
fn write(mut stream: &UnixStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    loop {
        match stream.write_vectored(slices) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            result => return result,
        }
    }
}

/// Sends the rest of a frame. True if all of it is gone.
fn send_rest(stream: &UnixStream, outbox: &mut Outbox) -> io::Result<bool> {
    if !outbox.rest().is_empty() {
        let sent = write(stream, &[IoSlice::new(outbox.rest())])?;
        outbox.sent(sent);
    }
    Ok(outbox.rest().is_empty())
}

impl Queue for Owner {
    fn receive(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> io::Result<bool> {
        if self.connection.is_some() {
            self.read(pool, batch);
        }
        self.batches += 1;
        let empty = batch.is_empty();
        // The first empty batch only ends a busy time: if it was something else that called us, it does so again.
        if (empty && self.quiet) || self.batches >= LOOK {
            self.see_to_events();
        }
        self.quiet = empty;
        self.settle();
        Ok(self.signalled)
    }

    fn transmit(&mut self, batch: &mut [Frame], outgoing: &mut [Outgoing]) {
        let Some(connection) = &self.connection else {
            return refuse(outgoing, DropReason::TxPortDown);
        };
        let stream = &connection.stream;
        match send_rest(stream, &mut self.outbox) {
            Ok(true) => {}
            Ok(false) => return refuse(outgoing, DropReason::TxQueueFull),
            // The connection's end is read like everything else that it has.
            Err(_) => return refuse(outgoing, DropReason::TxPortDown),
        }
        let mut items = outgoing;
        while !items.is_empty() {
            let (now, later) = items.split_at_mut(items.len().min(BATCH));
            for item in &*now {
                let frame = &mut batch[usize::from(item.frame)];
                frame.retag(item.tag);
                // A frame's length is far below 2^32.
                let length = (frame.len() as u32).to_be_bytes();
                frame.with_header(&length);
            }
            let mut slices = [IoSlice::new(&[]); BATCH];
            for (slice, item) in slices.iter_mut().zip(&*now) {
                *slice = IoSlice::new(batch[usize::from(item.frame)].behind_header::<LENGTH>());
            }
            let Ok(mut sent) = write(stream, &slices[..now.len()]) else {
                refuse(now, DropReason::TxPortDown);
                return refuse(later, DropReason::TxPortDown);
            };
            let mut full = false;
            for item in now {
                let bytes = batch[usize::from(item.frame)].behind_header::<LENGTH>();
                if sent >= bytes.len() {
                    sent -= bytes.len();
                    continue;
                }
                if sent > 0 {
                    self.outbox.keep(&bytes[sent..]);
                    sent = 0;
                } else {
                    refuse(std::slice::from_mut(item), DropReason::TxQueueFull);
                }
                full = true;
            }
            if full {
                refuse(later, DropReason::TxQueueFull);
                let waits = !self.outbox.rest().is_empty();
                return self.want_room(waits || self.wants_room);
            }
            items = later;
        }
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.poller.fd()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }
}
