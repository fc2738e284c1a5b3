//! The thread of a vhost-user port: it makes the connection, and again whenever it is lost, in both roles, and has a [`Device`] answer what comes.
//!
//! One thread per port, so that a hypervisor that sends half a message holds up nobody else. The workers reach it through the [`Link`], it reaches
//! them through their [`Lane`]s.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam::channel::Sender;
use vhost::vhost_user::{BackendReqHandler, Error, Result, VhostUserBackendReqHandlerMut};

use super::Change;
use super::device::{Device, feature};
use crate::io::OpenError;
use crate::io::peer::{Peer, PeerSink, SocketMode, VhostUserSpec};
use crate::io::socket::{self, Listener};
use crate::sys::poll::{Poller, Waker};
use crate::sys::unix;
use crate::sys::vring::Broken;

/// The first and the longest wait between two attempts to connect.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The way to one worker's queue.
pub(super) struct Lane {
    pub changes: Sender<Change>,
    pub wake: Arc<Waker>,
}

impl Lane {
    /// False if the queue is closed.
    pub(super) fn send(&self, change: Change) -> bool {
        let sent = self.changes.send(change).is_ok();
        self.wake.wake();
        sent
    }
}

/// What the queues and the thread of a port share.
pub(super) struct Link {
    closed: AtomicBool,
    /// With `mode: server`, until the port is closed: whoever opens it anew finds the path free.
    listener: Mutex<Option<Listener>>,
    /// Wakes the thread when it waits for a hypervisor.
    waker: Waker,
    state: Mutex<LinkState>,
}

#[derive(Default)]
struct LinkState {
    connection: Option<UnixStream>,
    /// Why the connection was ended from this side.
    broken: Option<Broken>,
}

impl Link {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            closed: AtomicBool::new(false),
            listener: Mutex::default(),
            waker: Waker::new()?,
            state: Mutex::default(),
        })
    }

    // Each change of what is behind a lock is one assignment.

    fn state(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listener(&self) -> MutexGuard<'_, Option<Listener>> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection: a guest has broken the rules of its rings. Called by a worker, once for a ring; the thread holds the lock for an
    /// assignment at most.
    pub(super) fn fail(&self, broken: Broken) {
        let mut state = self.state();
        state.broken.get_or_insert(broken);
        shut(state.connection.as_ref());
    }

    /// Ends the thread.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        drop(self.listener().take());
        shut(self.state().connection.as_ref());
        self.waker.wake();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

fn shut(connection: Option<&UnixStream>) {
    if let Some(connection) = connection {
        // Fails if the other side is gone, which is what is wanted.
        let _ = connection.shutdown(Shutdown::Both);
    }
}

/// Starts the thread of a port.
pub(super) fn spawn(
    spec: &VhostUserSpec,
    link: Arc<Link>,
    lanes: Vec<Lane>,
    sink: PeerSink,
) -> std::result::Result<(), OpenError> {
    let error = |what| move |source| OpenError::from_socket(&spec.socket, what, source);
    let listener = match spec.mode {
        SocketMode::Client => None,
        SocketMode::Server => Some(Listener::bind(&spec.socket)?),
    };
    let pollers = || -> io::Result<_> {
        let (closed, ready) = (Poller::new(1)?, Poller::new(1)?);
        closed.add(link.waker.fd(), 0)?;
        ready.add(link.waker.fd(), 0)?;
        if let Some(listener) = &listener {
            ready.add(listener.as_fd(), 1)?;
        }
        Ok((closed, ready))
    };
    let (closed, ready) = pollers().map_err(error("waiting for it"))?;
    *link.listener() = listener;
    let mut thread = Thread {
        spec: spec.clone(),
        closed,
        ready,
        link,
        lanes: lanes.into(),
        sink,
    };
    std::thread::Builder::new()
        .name("vhost-user".to_owned())
        .spawn(move || thread.run())
        .map_err(error("starting its thread"))?;
    Ok(())
}

/// Serves one connection to its end on the thread of the caller. Returns why it ended.
#[cfg(any(test, fuzzing))]
pub(super) fn serve_once(
    spec: &VhostUserSpec,
    link: Arc<Link>,
    lanes: Vec<Lane>,
    sink: PeerSink,
    stream: UnixStream,
) -> String {
    let thread = Thread {
        spec: spec.clone(),
        closed: Poller::new(1).expect("a process that fuzzes has descriptors"),
        ready: Poller::new(1).expect("a process that fuzzes has descriptors"),
        link,
        lanes: lanes.into(),
        sink,
    };
    thread.serve(stream).0
}

struct Thread {
    spec: VhostUserSpec,
    /// Readable when the port is closed.
    closed: Poller,
    /// Also when somebody connects.
    ready: Poller,
    link: Arc<Link>,
    lanes: Arc<[Lane]>,
    sink: PeerSink,
}

impl Thread {
    fn run(&mut self) {
        let mut wait = RETRY.0;
        if self.listens() {
            self.sink.tell(Peer::Absent(self.nobody()));
        }
        while !self.link.is_closed() {
            match self.connect() {
                Ok(Some(stream)) => {
                    let (why, how) = self.serve(stream);
                    if how == Served::Nothing && self.listens() {
                        // Nobody, in the way of those behind.
                        continue;
                    }
                    self.sink.tell(Peer::Absent(why));
                    if how == Served::Guest {
                        wait = RETRY.0;
                    }
                }
                Ok(None) => continue,
                Err(error) => self.sink.tell(Peer::Absent(self.unreachable(&error))),
            }
            // Also after a connection that came to nothing: who makes and loses thousands of them is heard once in a while.
            self.pause(wait);
            // Where we listen, the next one in the queue may be the right one.
            if !self.listens() {
                wait = (2 * wait).min(RETRY.1);
            }
        }
    }

    /// A connection; `None` if there is none yet.
    fn connect(&mut self) -> io::Result<Option<UnixStream>> {
        let stream = match self.spec.mode {
            SocketMode::Client => socket::dial(&self.spec.socket)?,
            SocketMode::Server => {
                self.ready.wait(None)?;
                let accepted = self.link.listener().as_ref().map(Listener::accept);
                match accepted {
                    None => return Ok(None),
                    Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                    Some(result) => result?,
                }
            }
        };
        stream.set_nonblocking(false)?;
        Ok(Some(stream))
    }

    fn listens(&self) -> bool {
        self.spec.mode == SocketMode::Server
    }

    /// Waits until the port is closed, or the time is over.
    fn pause(&mut self, time: Duration) {
        if let Err(error) = self.closed.wait(Some(time)) {
            tracing::error!(socket = %self.spec.socket.display(), %error, "waiting for a hypervisor failed");
            std::thread::sleep(RETRY.1);
        }
    }

    fn nobody(&self) -> String {
        let path = self.spec.socket.display();
        format!("nobody has connected to `{path}` (QEMU: `-chardev socket,path={path},reconnect=1`)")
    }

    fn connected(&self) -> String {
        let path = self.spec.socket.display();
        format!(
            "`{path}` is connected, but the guest's network driver has not started (the guest boots, has no driver, or does not share its memory; QEMU: `-object memory-backend-memfd,share=on`)"
        )
    }

    fn unreachable(&self, error: &io::Error) -> String {
        let path = self.spec.socket.display();
        match error.kind() {
            io::ErrorKind::NotFound => format!(
                "there is no socket `{path}`; it is tried until the hypervisor makes it (QEMU: `-chardev socket,path={path},server=on,wait=off`)"
            ),
            io::ErrorKind::ConnectionRefused => {
                format!("nobody listens on `{path}`; it is tried until the hypervisor does")
            }
            _ => socket::unreachable(&self.spec.socket, error),
        }
    }

    /// Answers one hypervisor until it goes. Returns why the port carries nothing now, and what there was.
    fn serve(&self, stream: UnixStream) -> (String, Served) {
        let (early, ours) = match (stream.try_clone(), stream.try_clone()) {
            (Ok(early), Ok(ours)) => (early, ours),
            (Err(error), _) | (_, Err(error)) => return (self.unreachable(&error), Served::Messages),
        };
        {
            let mut state = self.link.state();
            state.broken = None;
            state.connection = Some(ours);
        }
        if self.link.is_closed() {
            // Who closed it may not have seen the connection.
            return (self.nobody(), Served::Nothing);
        }
        let connected = || self.sink.tell(Peer::Absent(self.connected()));
        if !self.listens() {
            connected();
        }
        // An error shows again below.
        let silent = unix::peek(&early, &mut [0]).is_ok_and(|len| len == 0);
        if self.listens() && !silent {
            connected();
        }
        let device = Device::new(&self.spec, Arc::clone(&self.lanes), self.sink.clone());
        let device = Arc::new(Mutex::new(device));
        let locked = || device.lock().unwrap_or_else(PoisonError::into_inner);
        let mut handler = BackendReqHandler::from_stream(stream, Arc::clone(&device));
        let mut next = || {
            if enable_early(&early, &mut locked())? {
                return Ok(());
            }
            handler.handle_request()
        };
        let error = loop {
            if self.link.is_closed() {
                break Error::Disconnected;
            }
            match next() {
                Ok(()) | Err(Error::SocketRetry(_)) => {}
                // Something that the device never offered. The connection is whole.
                Err(error @ Error::InvalidOperation(_)) => {
                    tracing::debug!(socket = %self.spec.socket.display(), %error, "a vhost-user message was refused");
                }
                Err(error) => break error,
            }
        };
        drop(handler);
        let served = {
            let mut device = locked();
            device.stop_all();
            match (silent, device.served) {
                (true, _) => Served::Nothing,
                (_, true) => Served::Guest,
                (_, false) => Served::Messages,
            }
        };
        let mut state = self.link.state();
        state.connection = None;
        let path = self.spec.socket.display();
        let why = match (state.broken.take(), error) {
            (Some(broken), _) => format!("the guest behind `{path}` broke the rules of its rings: {broken}"),
            (None, error) if is_end(&error) && served == Served::Messages => {
                let pairs = self.spec.pairs;
                format!(
                    "the hypervisor has closed `{path}` before its guest's driver ran; its own log says why (QEMU refuses a device with more than the port's {pairs} queues, for example)"
                )
            }
            (None, error) if is_end(&error) => format!("the hypervisor has closed `{path}`"),
            (None, Error::ReqHandlerError(error)) => {
                format!("what the hypervisor behind `{path}` gave cannot be used: {error}")
            }
            (None, error) => format!("the hypervisor behind `{path}` broke the protocol: {error}"),
        };
        (why, served)
    }
}

/// Whether an error is only that the other side is gone, in the middle of a message perhaps.
fn is_end(error: &Error) -> bool {
    match error {
        Error::Disconnected | Error::PartialMessage => true,
        Error::SocketBroken(error) => matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof
        ),
        _ => false,
    }
}

/// What came of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Served {
    /// It ended without a word.
    Nothing,
    /// Messages, but no guest ever ran behind it.
    Messages,
    /// A guest.
    Guest,
}

/// Takes a SET_VRING_ENABLE that comes before the features are negotiated. False if something else comes next.
///
/// QEMU enables the rings of a network device before it sets the features, while the protocol (and with it the crate) has it the
/// other way round. A back-end that refuses would never start them.
fn enable_early(stream: &UnixStream, device: &mut Device) -> Result<bool> {
    const SET_VRING_ENABLE: u32 = 18;
    const VERSION: u32 = 1;
    const REPLY: u32 = 1 << 2;
    const NEED_REPLY: u32 = 1 << 3;
    if device.has(feature::PROTOCOL_FEATURES) {
        return Ok(false);
    }
    // Request, flags, size; ring, whether to enable it.
    let mut octets = [0; 20];
    let len = unix::peek(stream, &mut octets).map_err(Error::SocketBroken)?;
    let word = |at: usize| u32::from_ne_bytes(*octets[4 * at..].first_chunk().expect("there are five words"));
    if len < octets.len() || word(0) != SET_VRING_ENABLE || word(2) != 8 || word(1) & !NEED_REPLY != VERSION {
        return Ok(false);
    }
    (&*stream).read_exact(&mut [0; 20]).map_err(Error::SocketBroken)?;
    let result = match word(4) {
        enable @ (0 | 1) => device.set_vring_enable(word(3), enable == 1),
        _ => Err(Error::InvalidParam),
    };
    if word(1) & NEED_REPLY != 0 && device.replies {
        let mut reply = Vec::with_capacity(20);
        for word in [
            SET_VRING_ENABLE,
            VERSION | REPLY,
            8,
            u32::from(result.is_err()),
            0,
        ] {
            reply.extend(word.to_ne_bytes());
        }
        (&*stream).write_all(&reply).map_err(Error::SocketBroken)?;
    }
    result.map(|()| true)
}
