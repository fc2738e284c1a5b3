//! Between workers: frames for a queue that another worker owns, and their chunks on the way back.
//!
//! From each worker to each other one leads a lane: a ring of frames, and a ring of chunks in the opposite direction. Each ring has one producer and one
//! consumer (crate `rtrb`; its two indices lie in cache lines of their own, and each side keeps a copy of the other's index, so that a line is
//! fetched from the other core only when the copy says full or empty). The ends are moved into their workers when these are made, so the
//! types say who may touch what: nothing here is shared but the rings and, once per batch, the flag of a sleeper.
//!
//! - **Bounds.** A worker lends at most [`Lanes::lends`] chunks in all and a lane's depth by one lane; beyond that a frame is dropped and counted. The
//!   pool has that many chunks more than the worker needs for itself, so traffic in one direction starves nobody. Both rings of a lane have
//!   room for its depth: neither push can fail for a chunk that is within the bound.
//! - **Chunks come home.** A frame that was handed over knows its home ([`Frame::home`]); whoever is done with it returns the chunk there, also after a
//!   panic. Its payload was gathered before: guest memory is only read by the worker that received it (`sys::guest`).
//! - **Order.** A lane is first in, first out, and a flow takes one lane at a time; how a queue's move keeps that is in [`super::queues`].
//! - **Waking.** The producer pushes, then reads the consumer's flag; the consumer sets its flag, then looks at its rings once more. A fence between the two steps of
//!   either side (store buffering, the C++ memory model's [atomics.fences]) makes it impossible that both miss the other's step. The swap of
//!   the flag makes one producer of several the one who wakes, once.

use std::sync::atomic::{AtomicBool, Ordering, fence};

use rtrb::{Consumer, Producer, RingBuffer};
use switch_core::id::PortId;
use switch_core::vid::Tag;

use crate::frame::Frame;
use crate::pool::{Chunk, Pool};

/// Chunks that a worker lends at most.
const LENDS: usize = 1024;

/// Deepest and shallowest lane, frames.
const DEPTH: (usize, usize) = (512, 64);

/// A frame for a queue of another worker.
pub(super) struct Handed {
    pub port: PortId,
    /// Number of the port's queue.
    pub queue: u16,
    /// The outer tag that it leaves with.
    pub tag: Option<Tag>,
    pub frame: Frame,
}

/// Where a worker's frames go to another.
struct Out {
    frames: Producer<Handed>,
    returns: Consumer<Chunk>,
    /// Chunks that have not come back yet.
    lent: usize,
    /// Something was pushed that the other worker may have to be woken for.
    told: bool,
}

/// Where another worker's frames come in.
struct In {
    frames: Consumer<Handed>,
    returns: Producer<Chunk>,
}

/// A worker's ends of all its lanes.
pub(crate) struct Lanes {
    /// By worker; `None` at the worker itself.
    out: Box<[Option<Out>]>,
    /// By worker.
    into: Box<[Option<In>]>,
    /// This worker.
    me: u16,
    depth: usize,
    /// Bound of `lent`.
    lends: usize,
    lent: usize,
    /// The lane that is looked at first in the next round.
    turn: usize,
}

impl Lanes {
    /// The ends of each of so many workers.
    pub(crate) fn connect(workers: usize) -> Vec<Self> {
        let (deepest, shallowest) = DEPTH;
        let depth = (LENDS / workers.saturating_sub(1).max(1)).clamp(shallowest, deepest);
        let lends = LENDS.min(depth * workers.saturating_sub(1));
        let mut all: Vec<Self> = (0..workers)
            .map(|me| Self {
                out: std::iter::repeat_with(|| None).take(workers).collect(),
                into: std::iter::repeat_with(|| None).take(workers).collect(),
                me: me as u16,
                depth,
                lends,
                lent: 0,
                turn: 0,
            })
            .collect();
        for from in 0..workers {
            for to in (0..workers).filter(|to| *to != from) {
                let (frames, arrivals) = RingBuffer::new(depth);
                let (back, returns) = RingBuffer::new(depth);
                all[from].out[to] = Some(Out {
                    frames,
                    returns,
                    lent: 0,
                    told: false,
                });
                all[to].into[from] = Some(In {
                    frames: arrivals,
                    returns: back,
                });
            }
        }
        all
    }

    /// How many chunks the worker lends at most.
    pub(crate) fn lends(&self) -> usize {
        self.lends
    }

    /// How many chunks are lent now.
    pub(super) fn lent(&self) -> usize {
        self.lent
    }

    /// Whether another frame may be handed over to a worker, or held for the worker itself.
    #[inline]
    pub(super) fn has_room(&self, to: usize) -> bool {
        let lane_has = match self.out.get(to) {
            Some(Some(out)) => out.lent < self.depth,
            _ => true,
        };
        lane_has && self.lent < self.lends
    }

    /// Hands a frame over, or gives it back to be held until [`Lanes::let_go`] if it is for this worker itself. The caller has asked
    /// [`Lanes::has_room`].
    #[inline]
    #[must_use]
    pub(super) fn push(&mut self, to: usize, mut handed: Handed) -> Option<Handed> {
        self.lent += 1;
        let Some(Some(out)) = self.out.get_mut(to) else {
            return Some(handed);
        };
        handed.frame.set_home(self.me);
        out.lent += 1;
        out.told = true;
        // There is room: what is in the ring is lent.
        let _ = out.frames.push(handed);
        None
    }

    /// A frame that was held for this worker is on its way.
    pub(super) fn let_go(&mut self, handed: &Handed) {
        if handed.frame.home().is_none() {
            self.lent -= 1;
        }
    }

    /// The workers that may have to be woken for what was pushed since the last call; `wake` is told of each that sleeps.
    #[inline]
    pub(super) fn wake<'a>(&mut self, sleeping: impl Fn(usize) -> &'a AtomicBool, wake: impl Fn(usize)) {
        let told = self.out.iter_mut().enumerate().filter_map(|(to, out)| {
            let out = out.as_mut()?;
            std::mem::take(&mut out.told).then_some(to)
        });
        for to in told {
            // Between the push and the look at the flag; see the module's head.
            fence(Ordering::SeqCst);
            let flag = sleeping(to);
            if flag.load(Ordering::Relaxed) && flag.swap(false, Ordering::Relaxed) {
                wake(to);
            }
        }
    }

    /// Sets the flag of this worker, which is about to sleep. False, and it is not set, if frames wait.
    pub(super) fn fall_asleep(&self, flag: &AtomicBool) -> bool {
        flag.store(true, Ordering::Relaxed);
        // Between the flag and the look at the rings; see the module's head.
        fence(Ordering::SeqCst);
        if self.waits() {
            flag.store(false, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// Whether frames wait for this worker.
    #[inline]
    pub(super) fn waits(&self) -> bool {
        self.into.iter().flatten().any(|lane| !lane.frames.is_empty())
    }

    /// How many frames wait that come from a worker.
    pub(super) fn waiting(&self, from: usize) -> usize {
        match self.into.get(from) {
            Some(Some(lane)) => lane.frames.slots(),
            _ => 0,
        }
    }

    /// How many workers there are.
    pub(super) fn workers(&self) -> usize {
        self.into.len()
    }

    /// The worker whose lane is to be looked at first.
    pub(super) fn next_turn(&mut self) -> usize {
        self.turn = (self.turn + 1) % self.into.len();
        self.turn
    }

    /// The next frame that comes from a worker.
    #[inline]
    pub(super) fn pop(&mut self, from: usize) -> Option<Handed> {
        self.into.get_mut(from)?.as_mut()?.frames.pop().ok()
    }

    /// Lets go of a frame, of whichever worker.
    #[inline]
    pub(super) fn release(&mut self, frame: Frame, pool: &mut Pool) {
        let Some(home) = frame.home() else {
            return frame.release(pool);
        };
        if let Some(Some(lane)) = self.into.get_mut(usize::from(home)) {
            // There is room for every chunk that is lent.
            let _ = lane.returns.push(frame.into_chunk());
        }
    }

    /// Takes back into the pool what others are done with.
    #[inline]
    pub(super) fn collect(&mut self, pool: &mut Pool) {
        if self.lent == 0 {
            return;
        }
        for out in self.out.iter_mut().flatten().filter(|out| out.lent > 0) {
            while let Ok(chunk) = out.returns.pop() {
                pool.give(chunk);
                out.lent -= 1;
                self.lent -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handed(frame: Frame) -> Handed {
        Handed {
            port: PortId::new(3).unwrap(),
            queue: 1,
            tag: None,
            frame,
        }
    }

    #[test]
    fn a_lane_is_bounded_in_order_and_gives_every_chunk_back() {
        let [mut one, mut two]: [Lanes; 2] = Lanes::connect(2).try_into().ok().unwrap();
        let spare = 4;
        let mut pool = Pool::new(one.lends() + spare);
        let mut theirs = Pool::new(1);
        for round in 0..5 {
            let mut pushed = 0;
            while one.has_room(1) {
                let mut chunk = pool.take().expect("the bound is below what the pool has");
                chunk[0] = pushed as u8;
                assert!(one.push(1, handed(Frame::new(chunk, 0, 64))).is_none());
                pushed += 1;
            }
            assert_eq!((pushed, one.lent(), pool.free()), (one.lends(), pushed, spare));
            assert_eq!(two.waiting(0), pushed);
            for number in 0..pushed {
                let handed = two.pop(0).unwrap();
                assert_eq!(handed.frame.bytes()[0], number as u8, "round {round}");
                two.release(handed.frame, &mut theirs);
            }
            assert!(two.pop(0).is_none() && !two.waits());
            assert!(!one.has_room(1), "what was not collected is still lent");
            one.collect(&mut pool);
            assert_eq!((one.lent(), pool.free(), theirs.free()), (0, pushed + spare, 1));
        }
    }

    #[test]
    fn all_lanes_together_lend_what_the_pool_has_for_it() {
        for workers in 1..=8 {
            let mut lanes = Lanes::connect(workers).swap_remove(0);
            let mut pool = Pool::new(lanes.lends());
            for to in 0..workers {
                while lanes.has_room(to) {
                    let frame = Frame::new(pool.take().unwrap(), 0, 0);
                    assert_eq!(lanes.push(to, handed(frame)).is_some(), to == 0);
                }
            }
            assert_eq!((pool.free(), lanes.lent()), (0, lanes.lends()), "{workers}");
        }
    }

    #[test]
    fn a_sleeper_is_woken_once_and_does_not_sleep_before_what_waits() {
        let [mut one, two]: [Lanes; 2] = Lanes::connect(2).try_into().ok().unwrap();
        let flag = AtomicBool::new(false);
        let mut pool = Pool::new(2);
        let woken = std::cell::Cell::new(0);
        assert!(two.fall_asleep(&flag) && flag.load(Ordering::Relaxed));
        for _ in 0..2 {
            assert!(
                one.push(1, handed(Frame::new(pool.take().unwrap(), 0, 0)))
                    .is_none()
            );
            one.wake(|_| &flag, |to| woken.set(woken.get() + to));
        }
        assert_eq!(woken.get(), 1);
        assert!(!two.fall_asleep(&flag) && !flag.load(Ordering::Relaxed));
    }
}
