//! The driver's side of a split virtqueue (VirtIO 1.2, 2.7): what a guest's network driver does, and no more.
//!
//! Each head has a chain of descriptors and buffers of its own, set up once; sending and receiving then only move heads
//! from the used ring to the available ring and back. One thread. Numbers are little-endian, as the hosts are that this runs on.

use std::sync::atomic::{Ordering, fence};

use anyhow::{Context, Result, ensure};
use vhost::VringConfigData;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::memory::Memory;

const DESCRIPTOR: usize = 16;
/// The buffer goes on in the next descriptor of the chain.
const NEXT: u16 = 1;
/// The switch writes the buffer.
const WRITE: u16 = 2;
/// The driver wants no interrupt (in the available ring's flags), or the switch no kick (in the used ring's).
const NO_NOTIFICATION: u16 = 1;

/// One queue.
pub struct Virtqueue {
    size: u16,
    descriptors: usize,
    available: usize,
    used: usize,
    /// The next places in the two rings.
    next_available: u16,
    next_used: u16,
    /// The switch is woken by it.
    pub kick: EventFd,
}

impl Virtqueue {
    /// Octets that a queue's rings take.
    pub fn octets(size: u16) -> usize {
        let size = usize::from(size);
        (DESCRIPTOR * size + 6 + 2 * size).next_multiple_of(64) + (6 + 8 * size).next_multiple_of(64)
    }

    /// A queue with nothing in it, whose rings begin at `offset`.
    pub fn new(memory: &Memory, offset: usize, size: u16) -> Result<Self> {
        let count = usize::from(size);
        let available = offset + DESCRIPTOR * count;
        let queue = Self {
            size,
            descriptors: offset,
            available,
            used: offset + (DESCRIPTOR * count + 6 + 2 * count).next_multiple_of(64),
            next_available: 0,
            next_used: 0,
            kick: EventFd::new(EFD_NONBLOCK)?,
        };
        memory.write(available, NO_NOTIFICATION)?;
        Ok(queue)
    }

    /// As a switch is told of it.
    pub fn config(&self) -> VringConfigData {
        VringConfigData {
            queue_max_size: self.size,
            queue_size: self.size,
            flags: 0,
            desc_table_addr: Memory::address(self.descriptors),
            used_ring_addr: Memory::address(self.used),
            avail_ring_addr: Memory::address(self.available),
            log_addr: None,
        }
    }

    /// Lets a chain begin at descriptor `head`, in those that follow it, for `buffers` of (offset, octets).
    pub fn set_chain(
        &self,
        memory: &Memory,
        head: u16,
        buffers: &[(usize, usize)],
        writable: bool,
    ) -> Result<()> {
        for (index, (offset, octets)) in buffers.iter().enumerate() {
            let last = index + 1 == buffers.len();
            let id = head + u16::try_from(index)?;
            let at = self.descriptors + DESCRIPTOR * usize::from(id);
            let flags = if last { 0 } else { NEXT } | if writable { WRITE } else { 0 };
            memory.write(at, Memory::address(*offset))?;
            memory.write(at + 8, u32::try_from(*octets)?)?;
            memory.write(at + 12, flags)?;
            memory.write(at + 14, if last { 0 } else { id + 1 })?;
        }
        Ok(())
    }

    /// Puts a head on the available ring; the switch sees it after [`Self::publish`].
    #[inline]
    pub fn offer(&mut self, memory: &Memory, head: u16) -> Result<()> {
        let at = usize::from(self.next_available & (self.size - 1));
        memory.write(self.available + 4 + 2 * at, head)?;
        self.next_available = self.next_available.wrapping_add(1);
        Ok(())
    }

    /// Shows the switch what was offered, and wakes it if it sleeps.
    pub fn publish(&self, memory: &Memory) -> Result<()> {
        memory
            .shared(self.available + 2)?
            .store(self.next_available, Ordering::Release);
        // The switch sets its flag and then looks at the index once more; we do it the other way round.
        fence(Ordering::SeqCst);
        if memory.shared(self.used)?.load(Ordering::Relaxed) & NO_NOTIFICATION == 0 {
            self.kick.write(1).context("cannot kick")?;
        }
        Ok(())
    }

    /// How many heads have come back and were not taken yet.
    #[inline]
    pub fn returned(&self, memory: &Memory) -> Result<u16> {
        let index = memory.shared(self.used + 2)?.load(Ordering::Acquire);
        Ok(index.wrapping_sub(self.next_used))
    }

    /// The next head that came back; [`Self::returned`] has said that there is one.
    #[inline]
    pub fn take(&mut self, memory: &Memory) -> Result<u16> {
        let at = usize::from(self.next_used & (self.size - 1));
        let id: u32 = memory.read(self.used + 4 + 8 * at)?;
        self.next_used = self.next_used.wrapping_add(1);
        ensure!(
            id < u32::from(self.size),
            "the switch gave back descriptor {id}, which there is not"
        );
        Ok(id as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rings_of_a_queue_do_not_overlap() {
        for size in [1_u16, 256, 1024] {
            let used = (18 * usize::from(size) + 6).next_multiple_of(64);
            assert!(Virtqueue::octets(size) >= used + 6 + 8 * usize::from(size));
        }
    }
}
