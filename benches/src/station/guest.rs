//! A guest behind a vhost-user port: the front-end of the protocol and a virtio network driver with one queue pair.
//!
//! It listens, as QEMU does with `server=on`, and the switch connects. It polls, so it wants no interrupts; it kicks the
//! switch when the switch asks for that.

use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vhost::VhostBackend;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::memory::Memory;
use super::virtqueue::Virtqueue;
use super::{BURST, Flows, Station, clock};

/// Entries of a queue: QEMU's largest, and what the peers are given.
pub const SIZE: u16 = 1024;
/// Octets of a buffer: a page, as in Linux's driver for frames longer than 1500 octets.
const BUFFER: usize = 4096;
/// Octets of `struct virtio_net_hdr_v1` (VirtIO 1.2, 5.1.6).
const HEADER: usize = 12;
/// Its `num_buffers`.
const BUFFERS: usize = 10;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6, MRG_RXBUF (VirtIO 1.2, 5.1.3).
const NET: u64 = 1 | 1 << 1 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 12 | MRG_RXBUF;
const MRG_RXBUF: u64 = 1 << 15;
const HOST_TSO4: u64 = 1 << 11;
const VERSION_1: u64 = 1 << 32;
/// VHOST_USER_F_PROTOCOL_FEATURES.
const PROTOCOL: u64 = 1 << 30;

/// How long a switch may take to connect.
const CONNECT: Duration = Duration::from_secs(20);

/// One guest.
pub struct Guest {
    memory: Memory,
    receive: Virtqueue,
    transmit: Virtqueue,
    /// Heads of chains whose frames were sent, and how many descriptors each has.
    free: Vec<u16>,
    chain: u16,
    /// Entries of a queue.
    size: u16,
    /// Where the buffers begin, those for receiving first.
    buffers: usize,
    /// Where a frame has its stamp.
    stamp: usize,
    features: u64,
    /// Buffers of the frame being received that are still to come.
    pending: u16,
    // The connection ends with these.
    _frontend: Frontend,
    _calls: [EventFd; 2],
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest")
            .field("features", &self.features)
            .finish_non_exhaustive()
    }
}

impl Guest {
    /// Waits at a socket for the switch.
    pub fn listen(path: &Path) -> Result<UnixListener> {
        let _ = std::fs::remove_file(path);
        UnixListener::bind(path).with_context(|| format!("cannot listen at {}", path.display()))
    }

    /// Takes the switch's connection and sets the device up, with queues of `size` entries, a power of two.
    pub fn accept(listener: &UnixListener, size: u16) -> Result<Self> {
        let mut ready = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        let bound = PollTimeout::try_from(CONNECT)?;
        ensure!(
            poll(&mut ready, bound)? == 1,
            "no switch has connected within {} s",
            CONNECT.as_secs()
        );
        Self::new(listener.accept()?.0, size).context("vhost-user")
    }

    fn new(stream: UnixStream, size: u16) -> Result<Self> {
        let rings = Virtqueue::octets(size);
        let buffers = (2 * rings).next_multiple_of(BUFFER);
        let memory = Memory::new(buffers + 2 * usize::from(size) * BUFFER)?;
        let calls = [EventFd::new(EFD_NONBLOCK)?, EventFd::new(EFD_NONBLOCK)?];
        let mut receive = Virtqueue::new(&memory, RECEIVE * rings, size)?;
        let transmit = Virtqueue::new(&memory, TRANSMIT * rings, size)?;
        for id in 0..size {
            receive.set_chain(&memory, id, &[(buffers + usize::from(id) * BUFFER, BUFFER)], true)?;
            receive.offer(&memory, id)?;
        }

        let mut frontend = Frontend::from_stream(stream, 2);
        frontend.set_owner()?;
        let offered = frontend.get_features()?;
        let features = offered & (NET | VERSION_1 | PROTOCOL);
        ensure!(
            features & VERSION_1 != 0 && features & PROTOCOL != 0,
            "the switch offers {offered:#x}, which lacks VERSION_1 or the protocol's features"
        );
        let protocol = frontend.get_protocol_features()?;
        let wanted = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
        frontend.set_protocol_features(protocol & wanted)?;
        frontend.set_features(features)?;
        frontend.set_mem_table(&[memory.info()])?;
        for (index, queue) in [(RECEIVE, &receive), (TRANSMIT, &transmit)] {
            frontend.set_vring_num(index, size)?;
            frontend.set_vring_base(index, 0)?;
            frontend.set_vring_addr(index, &queue.config())?;
            frontend.set_vring_call(index, &calls[index])?;
            frontend.set_vring_kick(index, &queue.kick)?;
        }
        for index in [RECEIVE, TRANSMIT] {
            frontend.set_vring_enable(index, true)?;
        }
        receive.publish(&memory)?;
        Ok(Self {
            memory,
            receive,
            transmit,
            free: Vec::new(),
            chain: 0,
            size,
            buffers,
            stamp: 0,
            features,
            pending: 0,
            _frontend: frontend,
            _calls: calls,
        })
    }

    /// Where the buffer of a head is.
    #[inline]
    fn buffer(&self, queue: usize, head: u16) -> usize {
        self.buffers + (queue * usize::from(self.size) + usize::from(head)) * BUFFER
    }

    /// Fills all buffers for sending with the frame of these flows. Nothing may be under way.
    pub fn prepare(&mut self, flows: &Flows) -> Result<()> {
        ensure!(
            flows.segment.is_none() || self.features & HOST_TSO4 != 0,
            "the switch takes no super-frames"
        );
        self.reclaim()?;
        ensure!(
            self.free.len() == usize::from(self.size.checked_div(self.chain).unwrap_or(0)),
            "the switch has not given back all frames"
        );
        self.stamp = flows.stamp;
        let octets = HEADER + flows.frame.len();
        self.chain = u16::try_from(octets.div_ceil(BUFFER))?;
        self.free = (0..self.size / self.chain)
            .map(|index| index * self.chain)
            .collect();
        for &head in &self.free {
            let mut image = vec![0; HEADER];
            if let Some(segment) = flows.segment {
                // NEEDS_CSUM, TCPV4, length of the headers, segment, start of the sum, its place.
                image[..2].copy_from_slice(&[1, 1]);
                for (at, value) in [(2, 54), (4, segment), (6, 34), (8, 16)] {
                    image[at..at + 2].copy_from_slice(&u16::to_le_bytes(value));
                }
            }
            image.extend_from_slice(&flows.frame);
            let at = self.buffer(TRANSMIT, head);
            self.memory.write_all(at, &image)?;
            let parts: Vec<(usize, usize)> = (0..octets.div_ceil(BUFFER))
                .map(|part| (at + part * BUFFER, BUFFER.min(octets - part * BUFFER)))
                .collect();
            self.transmit.set_chain(&self.memory, head, &parts, false)?;
        }
        Ok(())
    }

    /// Takes back the buffers of frames that were sent.
    fn reclaim(&mut self) -> Result<()> {
        for _ in 0..self.transmit.returned(&self.memory)? {
            let head = self.transmit.take(&self.memory)?;
            self.free.push(head);
        }
        Ok(())
    }
}

impl Station for Guest {
    fn send(&mut self, flows: &mut Flows, most: usize, mut stamp: impl FnMut() -> u64) -> Result<usize> {
        self.reclaim()?;
        let count = most.min(self.free.len());
        for _ in 0..count {
            let Some(head) = self.free.pop() else { break };
            let at = self.buffer(TRANSMIT, head) + HEADER;
            let [low, high] = halves(flows.head());
            self.memory.write(at, low)?;
            self.memory.write(at + 8, high)?;
            self.memory.write(at + self.stamp, stamp())?;
            self.transmit.offer(&self.memory, head)?;
        }
        if count > 0 {
            self.transmit.publish(&self.memory)?;
        }
        Ok(count)
    }

    fn receive(&mut self, mut each: impl FnMut(u64, u64)) -> Result<usize> {
        let returned = usize::from(self.receive.returned(&self.memory)?).min(4 * BURST);
        if returned == 0 {
            return Ok(0);
        }
        let now = clock();
        let mut frames = 0;
        for _ in 0..returned {
            let head = self.receive.take(&self.memory)?;
            if self.pending == 0 {
                let at = self.buffer(RECEIVE, head);
                self.pending = if self.features & MRG_RXBUF == 0 {
                    1
                } else {
                    self.memory.read(at + BUFFERS)?
                };
                ensure!(self.pending > 0, "the switch said that a frame has no buffer");
                each(self.memory.read(at + HEADER + self.stamp)?, now);
                frames += 1;
            }
            self.pending -= 1;
            self.receive.offer(&self.memory, head)?;
        }
        self.receive.publish(&self.memory)?;
        Ok(frames)
    }
}

/// Sixteen octets as two words, as they are in memory.
fn halves(octets: [u8; 16]) -> [u64; 2] {
    let whole = u128::from_ne_bytes(octets);
    [whole as u64, (whole >> 64) as u64]
}
