//! Ports that are asked for frames without being ready: those whose other side shares memory with us and need not make a system call for each
//! frame. Such a port is woken by its readiness, is then asked in every round, and goes to sleep when it had nothing for a while.

use switch_core::id::PortId;

use super::Worker;

/// How often in a row a port is asked in vain before it is left to its readiness again.
const IDLE_ROUNDS: u32 = 1000;

impl Worker {
    /// The port's readiness showed. True if it is asked in every round from now on, or was before.
    pub(super) fn wake(&mut self, port: PortId) -> bool {
        let Some(Some(attached)) = self.ports.get_mut(port.index()) else {
            return false;
        };
        if !attached.queue.wake() {
            return false;
        }
        if attached.awake.replace(0).is_none() {
            self.awake.push(port);
        }
        true
    }

    /// Asks each port that is awake once; those that had frames are hot.
    pub(super) fn serve_awake(&mut self) {
        let mut index = 0;
        while let Some(&port) = self.awake.get(index) {
            let now = self.shared.now();
            if self.serve_port(port, now) {
                self.hot.push(port);
                self.stay(port, 0);
            } else if self.rounds(port).is_none_or(|rounds| rounds >= IDLE_ROUNDS) && self.lay(port) {
                self.awake.swap_remove(index);
                continue;
            } else {
                self.stay(port, self.rounds(port).unwrap_or(0) + 1);
            }
            index += 1;
        }
    }

    /// Sends all ports to sleep but those that have frames. True if some have.
    pub(super) fn lay_all(&mut self) -> bool {
        let mut index = 0;
        while let Some(&port) = self.awake.get(index) {
            if self.lay(port) {
                self.awake.swap_remove(index);
            } else {
                index += 1;
            }
        }
        !self.awake.is_empty()
    }

    /// Leaves a port to its readiness. False if it has frames, so that it stays awake.
    fn lay(&mut self, port: PortId) -> bool {
        let Some(Some(attached)) = self.ports.get_mut(port.index()) else {
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

    fn rounds(&self, port: PortId) -> Option<u32> {
        self.ports.get(port.index())?.as_ref()?.awake
    }

    fn stay(&mut self, port: PortId, rounds: u32) {
        if let Some(Some(attached)) = self.ports.get_mut(port.index()) {
            attached.awake = Some(rounds);
        }
    }
}
