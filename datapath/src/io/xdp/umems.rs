//! Which UMEM a socket gets, and what becomes of its chunks when it is closed.
//!
//! The AF_XDP ports of a worker share UMEMs, so that a frame goes from one to the other without a copy. The kernel's terms:
//! a UMEM is registered by one socket, and others name a *bound* socket that has it; all work in the first one's mode, zero-copy or
//! copy. A UMEM has room for [`QUEUES`] sockets; the next one gets another UMEM, and frames between the two are copied. A
//! region whose sockets are all closed is used again, in whatever mode.
//!
//! Only the control plane opens and closes; no lock here is ever waited for by a worker.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::{RECEIVE, TRANSMIT};
use crate::pool::Chunk;
use crate::sys::xdp::memory;
use crate::sys::xdp::socket::{BoundTo, Sender, Socket, Wanted};
use crate::sys::xdp::umem::{Lent, Umem};

/// Sockets that a UMEM has chunks for.
const QUEUES: usize = 8;

/// Chunks of one socket.
const SHARE: usize = (RECEIVE + TRANSMIT) as usize;

/// The kernel frees a queue a little after its socket was closed: how often, and how long apart, it is asked for.
const ATTEMPTS: u32 = 50;
const APART: Duration = Duration::from_millis(10);

/// How frames get into a UMEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mode {
    pub zero_copy: bool,
    pub multi_buffer: bool,
}

#[derive(Debug)]
struct Region {
    umem: Arc<Umem>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: Vec<Chunk>,
    mode: Mode,
    sockets: Vec<Weak<OwnedFd>>,
}

/// The UMEMs of all workers. Cloning it gives another handle on the same.
#[derive(Clone, Debug, Default)]
pub struct Umems(Arc<Mutex<HashMap<usize, Vec<Arc<Region>>>>>);

impl Umems {
    /// Opens a socket in the first of `modes` that the device can, with its share of a UMEM of this worker.
    pub(super) fn open(
        &self,
        worker: usize,
        place: BoundTo,
        modes: &[Mode],
    ) -> io::Result<(Socket, Holdings, Mode)> {
        let mut last = io::Error::from(io::ErrorKind::InvalidInput);
        for mode in modes {
            match self.open_patiently(worker, place, *mode) {
                Ok((socket, holdings)) => return Ok((socket, holdings, *mode)),
                Err(error) if depends_on_mode(&error) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    fn open_patiently(&self, worker: usize, place: BoundTo, mode: Mode) -> io::Result<(Socket, Holdings)> {
        let mut attempt = 1;
        loop {
            match self.open_in(worker, place, mode) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) && attempt < ATTEMPTS => {
                    std::thread::sleep(APART);
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    fn open_in(&self, worker: usize, place: BoundTo, mode: Mode) -> io::Result<(Socket, Holdings)> {
        let wanted = Wanted {
            zero_copy: mode.zero_copy,
            multi_buffer: mode.multi_buffer,
            receive: RECEIVE,
            transmit: TRANSMIT,
        };
        let mut workers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let regions = workers.entry(worker).or_default();
        let mut idle = None;
        for region in regions.iter() {
            let mut state = region.lock();
            state.sockets.retain(|socket| socket.strong_count() > 0);
            if state.free.len() < SHARE {
                continue;
            }
            if state.sockets.is_empty() {
                idle.get_or_insert_with(|| Arc::clone(region));
                continue;
            }
            if state.mode != mode {
                continue;
            }
            let open: Vec<_> = state.sockets.iter().filter_map(Weak::upgrade).collect();
            for first in open {
                match Socket::open(place, &region.umem, Some(&first), wanted) {
                    // Its device is gone.
                    Err(error) if error.raw_os_error() == Some(libc::EBADF) => {}
                    result => return result.map(|socket| region.share(&mut state, socket, place, mode)),
                }
            }
        }
        let region = match idle {
            Some(region) => region,
            None => {
                let region = Arc::new(Region::new(mode)?);
                // Its memory is never unmapped: should the socket be refused, it is there for the next attempt.
                regions.push(Arc::clone(&region));
                region
            }
        };
        let socket = Socket::open(place, &region.umem, None, wanted)?;
        let mut state = region.lock();
        state.mode = mode;
        Ok(region.share(&mut state, socket, place, mode))
    }
}

/// Whether another mode may do where one was refused.
fn depends_on_mode(error: &io::Error) -> bool {
    /// ENOTSUPP, the kernel's own, which some drivers let out.
    const NOT_SUPPORTED: i32 = 524;
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EINVAL | NOT_SUPPORTED)
    )
}

impl Region {
    fn new(mode: Mode) -> io::Result<Self> {
        let (umem, free) = Umem::new(QUEUES * SHARE)?;
        Ok(Self {
            umem: Arc::new(umem),
            state: Mutex::new(State {
                free,
                mode,
                sockets: Vec::new(),
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is half-done where it could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a socket its chunks: those to receive into are lent at once.
    fn share(
        self: &Arc<Self>,
        state: &mut State,
        mut socket: Socket,
        place: BoundTo,
        mode: Mode,
    ) -> (Socket, Holdings) {
        state.sockets.push(socket.share());
        let rest = state.free.len() - SHARE;
        let mut lent = Lent::new(Arc::clone(&self.umem));
        for chunk in state.free.drain(rest..rest + RECEIVE as usize) {
            // The region is the chunk's own, and the ring has room for this many.
            if let Ok(address) = lent.lend(chunk) {
                socket.fill.push(address);
            }
        }
        socket.fill.submit();
        let spare = state.free.split_off(rest);
        // As a rule nothing comes back for as long as the switch runs.
        state.free.shrink_to_fit();
        let holdings = Holdings {
            lent,
            spare,
            region: Arc::clone(self),
            unsettled: mode.zero_copy.then_some(place),
        };
        (socket, holdings)
    }
}

/// The chunks of one socket. Drop it after the socket: they go back to their region then.
#[derive(Debug)]
pub(super) struct Holdings {
    /// Those with the kernel.
    pub lent: Lent,
    /// Those to send from.
    pub spare: Vec<Chunk>,
    region: Arc<Region>,
    /// The queue, if its device may go on writing for a while after the socket is closed.
    unsettled: Option<BoundTo>,
}

impl Holdings {
    /// Number of the UMEM.
    pub(super) fn umem(&self) -> u32 {
        self.region.umem.number()
    }
}

impl Drop for Holdings {
    fn drop(&mut self) {
        let settled = self.unsettled.is_none_or(is_settled);
        let mut state = self.region.lock();
        state.free.append(&mut self.spare);
        // Chunks that a device may still write to are never used again.
        if settled {
            state.free.extend(self.lent.recover_all());
        }
    }
}

/// Whether the kernel has taken a closed socket's UMEM away from the device: then it gives the queue to another socket.
fn is_settled(place: BoundTo) -> bool {
    (0..ATTEMPTS).any(|_| {
        let probe =
            memory::Umem::new(2).and_then(|umem| Sender::open(place.interface, place.queue, &umem, 2));
        let busy = matches!(&probe, Err(error) if error.raw_os_error() == Some(libc::EBUSY));
        if busy {
            std::thread::sleep(APART);
        }
        !busy
    })
}
