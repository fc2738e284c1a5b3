//! How workers that don't own the connection send by it: each copies its frames into slots of its own, and the owner writes
//! what it finds there. Nobody waits for anybody: where no slot is free, the frame is dropped and counted.
//!
//! Two queues of the same slots lie between a worker and the owner, the free ones and the full ones; a slot is always in
//! one of them or in the owner's hands. The owner is woken once for all that is handed over until it looks.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::queue::ArrayQueue;
use switch_core::offload::Capabilities;
use switch_core::verdict::DropReason;

use super::framing::LENGTH;
use super::refuse;
use crate::frame::Frame;
use crate::io::{BATCH, Outgoing, Queue, SendFailure};
use crate::pool::Pool;
use crate::sys::poll::Waker;

/// Slots between a worker and the owner: two batches.
const SLOTS: usize = 2 * BATCH;

/// The longest frame that a slot holds: the largest MTU of a switch, an Ethernet header and two tags. A port that takes no
/// offloads is given none longer.
const LONGEST: usize = 9216 + 14 + 8;

/// A frame behind its length.
pub(super) struct Slot {
    octets: Box<[u8]>,
    len: usize,
}

impl Slot {
    /// What goes on the wire.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.octets[..self.len]
    }

    /// False if the frame is too long.
    fn fill(&mut self, frame: &[u8]) -> bool {
        let Some(to) = self.octets.get_mut(LENGTH..LENGTH + frame.len()) else {
            return false;
        };
        to.copy_from_slice(frame);
        // It fits a slot, so its length fits 32 bits.
        self.octets[..LENGTH].copy_from_slice(&(frame.len() as u32).to_be_bytes());
        self.len = LENGTH + frame.len();
        true
    }
}

/// What all queues of a port share.
pub(super) struct Port {
    /// The owner's.
    pub(super) waker: Waker,
    /// It was woken for what was handed over and has not looked yet.
    told: AtomicBool,
    /// The other side is there.
    present: AtomicBool,
}

impl Port {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            waker: Waker::new()?,
            told: AtomicBool::new(false),
            present: AtomicBool::new(false),
        })
    }

    pub(super) fn set_present(&self, present: bool) {
        self.present.store(present, Ordering::Release);
    }

    /// Whether something was handed over since the last call. The waker must be cleared before, so that what comes between is told anew.
    pub(super) fn was_told(&self) -> bool {
        // The swap pairs with that in `tell`: what was pushed before it is seen after this.
        self.told.load(Ordering::Relaxed) && self.told.swap(false, Ordering::AcqRel)
    }

    /// As [`Port::was_told`], but leaves it so.
    pub(super) fn is_told(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    fn tell(&self) {
        if !self.told.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }
}

struct Handover {
    free: ArrayQueue<Slot>,
    full: ArrayQueue<Slot>,
}

/// The owner's end.
pub(super) struct Incoming {
    handover: Arc<Handover>,
    /// Slots that were taken and not sent yet, in order.
    staged: VecDeque<Slot>,
}

impl Incoming {
    /// The next slots to send, at most a batch.
    pub(super) fn staged(&mut self) -> &VecDeque<Slot> {
        while self.staged.len() < BATCH
            && let Some(slot) = self.handover.full.pop()
        {
            self.staged.push_back(slot);
        }
        &self.staged
    }

    /// Whether anything waits.
    pub(super) fn waits(&self) -> bool {
        !self.staged.is_empty() || !self.handover.full.is_empty()
    }

    /// Gives the first slot back.
    pub(super) fn retire(&mut self) {
        if let Some(slot) = self.staged.pop_front() {
            // There is room for every slot that was made.
            let _ = self.handover.free.push(slot);
        }
    }

    /// Gives everything back unsent.
    pub(super) fn discard(&mut self) {
        for _ in 0..=SLOTS / BATCH {
            for _ in 0..self.staged().len() {
                self.retire();
            }
        }
    }
}

/// The queue of a worker that doesn't own the connection. It never receives.
pub(super) struct Outbound {
    port: Arc<Port>,
    handover: Arc<Handover>,
    /// Never signalled.
    silent: Waker,
}

/// Both ends of a new handover.
pub(super) fn handover(port: &Arc<Port>) -> std::io::Result<(Incoming, Outbound)> {
    let handover = Arc::new(Handover {
        free: ArrayQueue::new(SLOTS),
        full: ArrayQueue::new(SLOTS),
    });
    for _ in 0..SLOTS {
        let slot = Slot {
            octets: vec![0; LENGTH + LONGEST].into(),
            len: 0,
        };
        let _ = handover.free.push(slot);
    }
    let incoming = Incoming {
        handover: Arc::clone(&handover),
        staged: VecDeque::with_capacity(BATCH),
    };
    let outbound = Outbound {
        port: Arc::clone(port),
        handover,
        silent: Waker::new()?,
    };
    Ok((incoming, outbound))
}

impl Queue for Outbound {
    fn receive(&mut self, _: &mut Pool, _: &mut Vec<Frame>) -> std::io::Result<bool> {
        Ok(false)
    }

    fn transmit(&mut self, batch: &mut [Frame], outgoing: &mut [Outgoing]) {
        if !self.port.present.load(Ordering::Acquire) {
            refuse(outgoing, DropReason::TxPortDown);
            return;
        }
        for item in outgoing {
            let frame = &mut batch[usize::from(item.frame)];
            frame.retag(item.tag);
            let Some(mut slot) = self.handover.free.pop() else {
                refuse(std::slice::from_mut(item), DropReason::TxQueueFull);
                continue;
            };
            let to = if slot.fill(frame.bytes()) {
                &self.handover.full
            } else {
                item.outcome = Err(SendFailure {
                    reason: DropReason::TxError,
                    errno: libc::EMSGSIZE,
                });
                &self.handover.free
            };
            // There is room for every slot that was made.
            let _ = to.push(slot);
        }
        self.port.tell();
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.silent.fd()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }
}
