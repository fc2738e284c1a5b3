//! Queues that are asked for frames without being ready: those whose other side shares memory with us and need not make a system call for each
//! frame. Such a queue is woken by its readiness, is then asked in every round, and goes to sleep when it had nothing for a while.

use super::Worker;

/// How often in a row a queue is asked in vain before it is left to its readiness again.
const IDLE_ROUNDS: u32 = 1000;

impl Worker {
    /// The queue's readiness showed. True if it is asked in every round from now on, or was before.
    pub(super) fn wake(&mut self, slot: usize) -> bool {
        let Some(Some(attached)) = self.queues.get_mut(slot) else {
            return false;
        };
        let awake = attached.queue.wake();
        if awake && attached.awake.replace(0).is_none() {
            self.awake.push(slot);
        }
        self.refresh(slot);
        awake
    }

    /// Asks each queue that is awake once; those that had frames are hot.
    pub(super) fn serve_awake(&mut self) {
        let mut index = 0;
        while let Some(&slot) = self.awake.get(index) {
            let now = self.shared.now();
            if self.serve_queue(slot, now) {
                self.hot.push(slot);
                self.stay(slot, 0);
            } else if self.rounds(slot).is_none_or(|rounds| rounds >= IDLE_ROUNDS) && self.lay(slot) {
                self.awake.swap_remove(index);
                continue;
            } else {
                self.stay(slot, self.rounds(slot).unwrap_or(0) + 1);
            }
            index += 1;
        }
    }

    /// Sends all queues to sleep but those that have frames. True if some have.
    pub(super) fn lay_all(&mut self) -> bool {
        let mut index = 0;
        while let Some(&slot) = self.awake.get(index) {
            if self.lay(slot) {
                self.awake.swap_remove(index);
            } else {
                index += 1;
            }
        }
        !self.awake.is_empty()
    }

    /// Leaves a queue to its readiness. False if it has frames, so that it stays awake.
    fn lay(&mut self, slot: usize) -> bool {
        let Some(Some(attached)) = self.queues.get_mut(slot) else {
            return true;
        };
        if attached.awake.is_none() || !attached.listening {
            attached.awake = None;
            return true;
        }
        if attached.queue.arm() {
            return false;
        }
        attached.awake = None;
        true
    }

    fn rounds(&self, slot: usize) -> Option<u32> {
        self.queues.get(slot)?.as_ref()?.awake
    }

    fn stay(&mut self, slot: usize, rounds: u32) {
        if let Some(Some(attached)) = self.queues.get_mut(slot) {
            attached.awake = Some(rounds);
        }
    }
}
