//! How a worker sends to a guest none of whose rings it serves: a guest may use fewer pairs of rings than there are workers. The worker
//! copies its frames to parcels of its own and puts them into the inbox of a worker that serves a ring to the guest, which gives them on.
//!
//! Nobody waits for anybody. A parcel is in its sender's free queue, in an inbox or in a worker's hands; where none is free, because the guest takes
//! nothing, the frame is dropped and counted by its sender. A worker without a ring takes no offloads, so no frame is longer than a
//! parcel; and all its frames go by one inbox, so that a flow stays in order.
//!
//! The parcels of a worker are made when it hands over for the first time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam::queue::ArrayQueue;

use crate::frame::Frame;
use crate::io::BATCH;
use crate::sys::guest::Payload;
use crate::sys::poll::Waker;
use crate::sys::vring::Header;

/// Parcels of a worker.
const PARCELS: usize = BATCH;

/// The longest frame that a parcel holds: the largest MTU of a switch, an Ethernet header and two tags.
const LONGEST: usize = 9216 + 14 + 8;

/// A frame under way between two workers.
pub(super) struct Parcel {
    sender: usize,
    pub(super) header: Header,
    octets: Box<[u8]>,
    len: usize,
}

impl Parcel {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.octets[..self.len]
    }
}

/// What one worker has.
struct Place {
    inbox: ArrayQueue<Parcel>,
    free: OnceLock<ArrayQueue<Parcel>>,
    wake: Arc<Waker>,
}

/// What the queues of a port share.
pub(super) struct Handover {
    places: Box<[Place]>,
    /// A bit for each worker that serves a ring to the guest.
    serving: AtomicU64,
}

/// A frame cannot be handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// No ring leads to the guest.
    NoRing,
    /// All parcels are under way.
    Full,
    /// The frame is longer than a parcel.
    TooLong,
}

impl Handover {
    /// For workers with these wakers, in their order.
    pub(super) fn new(wakes: impl ExactSizeIterator<Item = Arc<Waker>>) -> Self {
        let workers = wakes.len();
        let places = wakes.map(|wake| Place {
            inbox: ArrayQueue::new(PARCELS * workers),
            free: OnceLock::new(),
            wake,
        });
        Self {
            places: places.collect(),
            serving: AtomicU64::new(0),
        }
    }

    /// Says whether a worker serves a ring to the guest. Those beyond the 64th never take parcels.
    pub(super) fn serve(&self, worker: usize, serves: bool) {
        let bit = u32::try_from(worker)
            .ok()
            .and_then(|worker| 1u64.checked_shl(worker));
        let bit = bit.unwrap_or(0);
        if serves {
            self.serving.fetch_or(bit, Ordering::AcqRel);
        } else {
            self.serving.fetch_and(!bit, Ordering::AcqRel);
        }
    }

    /// The worker that takes parcels, if one does.
    fn server(&self) -> Option<&Place> {
        let serving = self.serving.load(Ordering::Acquire);
        self.places.get(serving.trailing_zeros() as usize)
    }

    /// Hands a frame over. [`Handover::wake`] follows.
    pub(super) fn send(&self, sender: usize, header: Header, frame: &Frame) -> Result<(), Refused> {
        let server = self.server().ok_or(Refused::NoRing)?;
        let free = self.places[sender].free.get_or_init(|| {
            let free = ArrayQueue::new(PARCELS);
            for _ in 0..PARCELS {
                let parcel = Parcel {
                    sender,
                    header,
                    octets: vec![0; LONGEST].into_boxed_slice(),
                    len: 0,
                };
                // There is room for all.
                let _ = free.push(parcel);
            }
            free
        });
        let head = frame.bytes();
        let len = head.len() + frame.payload().map_or(0, Payload::len);
        if len > LONGEST {
            return Err(Refused::TooLong);
        }
        let mut parcel = free.pop().ok_or(Refused::Full)?;
        parcel.header = header;
        parcel.len = len;
        parcel.octets[..head.len()].copy_from_slice(head);
        if let Some(payload) = frame.payload() {
            payload.copy_to(&mut parcel.octets[head.len()..len]);
        }
        // An inbox has room for all parcels of all workers.
        server.inbox.push(parcel).map_err(|_| Refused::Full)
    }

    /// Tells the worker that takes parcels that there are some.
    pub(super) fn wake(&self) {
        if let Some(server) = self.server() {
            server.wake.wake();
        }
    }

    /// The next parcel for a worker.
    pub(super) fn receive(&self, worker: usize) -> Option<Parcel> {
        self.places[worker].inbox.pop()
    }

    /// Gives a parcel back to its sender.
    pub(super) fn release(&self, parcel: Parcel) {
        if let Some(free) = self.places[parcel.sender].free.get() {
            // It came from there, so there is room for it.
            let _ = free.push(parcel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{HEADROOM, Pool};

    fn frame(pool: &mut Pool, number: u8, len: usize) -> Frame {
        let mut chunk = pool.take().unwrap();
        chunk[HEADROOM..HEADROOM + len].fill(number);
        Frame::new(chunk, HEADROOM, len)
    }

    #[test]
    fn frames_come_in_order_and_no_more_than_there_are_parcels() {
        let wakes = [Arc::new(Waker::new().unwrap()), Arc::new(Waker::new().unwrap())];
        let handover = Handover::new(wakes.iter().map(Arc::clone));
        let mut pool = Pool::new(4);
        let header = Header {
            front: 7,
            checksum_offset: 0,
        };
        let short = frame(&mut pool, 1, 60);
        assert_eq!(handover.send(1, header, &short), Err(Refused::NoRing));
        handover.serve(0, true);
        let long = frame(&mut pool, 2, LONGEST + 1);
        assert_eq!(handover.send(1, header, &long), Err(Refused::TooLong));
        for round in 0..3 {
            for number in 0..PARCELS as u8 {
                let frame = frame(&mut pool, number, 60);
                assert_eq!(handover.send(1, header, &frame), Ok(()), "round {round}");
                frame.release(&mut pool);
            }
            assert_eq!(handover.send(1, header, &short), Err(Refused::Full));
            for number in 0..PARCELS as u8 {
                let parcel = handover.receive(0).unwrap();
                assert_eq!((parcel.bytes(), parcel.header), (&[number; 60][..], header));
                handover.release(parcel);
            }
            assert!(handover.receive(0).is_none() && handover.receive(1).is_none());
        }
        handover.serve(0, false);
        assert_eq!(handover.send(1, header, &short), Err(Refused::NoRing));
    }
}
