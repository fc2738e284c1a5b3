//! `device` ports through AF_XDP (Linux Documentation/networking/af_xdp.rst): frames in memory shared with the kernel, one socket for
//! each queue of the device, each with a worker of its own.
//!
//! - **In.** An XDP program hands every frame to the socket of its queue, before the host's stack sees it (`sys::xdp::program`).
//!   The frame stays in the chunk that the kernel received it into, with `KERNEL_HEADROOM` octets in front for tags.
//! - **Out.** A frame that leaves by one port only, and lies in the UMEM of that port (`umems`), is handed over by its descriptor: the chunk
//!   goes on the ring and a spare one takes its place in the frame. All others are copied once. In copy mode the kernel sends
//!   during the call, and what it did not take is taken back, so that each frame's fate is known at once and none leaves later; a
//!   zero-copy device takes frames when it likes.
//! - **What the kernel does not tell.** A frame comes without metadata: no super-frames (the kernel drops what has no room in the
//!   socket's chunks), no VLAN tags that the device took off (`device` refuses such devices), no checksum state. On a
//!   device with a stack behind it (veth, TAP) partial checksums are found by their value, see [`offload::find_partial`].
//! - **Jumbo frames** come and go in several chunks where the kernel can (`XDP_USE_SG`, Linux 6.6), and are put together in one of
//!   the pool's.
//!
//! Program, sockets and promiscuous mode end with their descriptors, however the process ends.

pub(super) mod device;
mod umems;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use switch_core::offload::Capabilities;
use switch_core::verdict::DropReason;

use super::{BATCH, Outgoing, Queue, SendFailure};
use crate::frame::Frame;
use crate::offload;
use crate::pool::{Chunk, HEADROOM, MAX_FRAME, Pool};
use crate::sys::packet;
use crate::sys::xdp::program::Program;
use crate::sys::xdp::socket::{FRAME_COST, NOWHERE, Pushed, Socket};
use crate::sys::xdp::umem::CHUNK;

pub use umems::Umems;

use umems::Holdings;

/// Entries of the fill and the receive ring: how far a worker may lag behind.
const RECEIVE: u32 = 1024;

/// Entries of the transmit and the completion ring: frames under way at most.
const TRANSMIT: u32 = 512;

/// What the kernel leaves free in front of a received frame, octets (`XDP_PACKET_HEADROOM`).
const KERNEL_HEADROOM: usize = 256;

const _: () = assert!(KERNEL_HEADROOM >= HEADROOM);

/// What all queues of a port hold together.
struct Port {
    _program: Program,
    _promiscuous: packet::Membership,
    /// How the device is attached, in words.
    driver: String,
}

struct XdpQueue {
    /// The worker whose UMEMs it has a share in.
    worker: usize,
    /// Before `holdings`, so that it is closed first.
    socket: Socket,
    holdings: Holdings,
    zero_copy: bool,
    multi_buffer: bool,
    /// The device is polled by system calls while there is work.
    busy_poll: bool,
    /// Partial checksums may come in.
    guesses: bool,
    /// Chunks that left with received frames and are to come back by the pool.
    owed: usize,
    /// A frame of which the last part is still to come.
    partial: Option<Frame>,
    /// The parts before the next one of such a frame are lost.
    cut: bool,
    /// Addresses of the descriptors submitted in the present call, in order.
    sending: Vec<u64>,
    /// Of each frame submitted in the present call, where its descriptors end in `sending`.
    ends: Vec<usize>,
    port: Arc<Port>,
}

impl Queue for XdpQueue {
    fn receive(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> io::Result<bool> {
        self.refill(pool);
        if self.busy_poll && self.socket.receive.peek().is_none() {
            self.socket.wake_receive();
        }
        while batch.len() < BATCH {
            let Some(descriptor) = self.socket.receive.peek() else {
                self.socket.receive.release();
                return Ok(false);
            };
            let more = descriptor.options & libc::XDP_PKT_CONTD != 0;
            if !more && self.partial.is_none() && !self.cut {
                self.socket.receive.pop();
                let Some(chunk) = self.holdings.lent.recover(descriptor.addr) else {
                    continue;
                };
                self.owed += 1;
                let start = descriptor.addr as usize % CHUNK;
                batch.push(self.judge(Frame::new(chunk, start, descriptor.len as usize)));
            } else if !self.gather(pool, batch, &descriptor) {
                break;
            }
        }
        self.socket.receive.release();
        Ok(true)
    }

    fn transmit(&mut self, batch: &mut [Frame], outgoing: &mut [Outgoing]) {
        for item in outgoing.iter() {
            batch[usize::from(item.frame)].retag(item.tag);
        }
        let mut rest = outgoing;
        while !rest.is_empty() {
            self.reclaim();
            let submitted = self.submit(batch, rest);
            let (now, later) = rest.split_at_mut(submitted);
            let result = if self.zero_copy {
                self.ring_the_bell(now)
            } else {
                self.push_out(now)
            };
            if let Err(failure) = result {
                later.iter_mut().for_each(|item| item.outcome = Err(failure));
                return;
            }
            if submitted == 0 {
                // Nothing is free although all that was sent has been taken back.
                let full = SendFailure {
                    reason: DropReason::TxQueueFull,
                    errno: 0,
                };
                later.iter_mut().for_each(|item| item.outcome = Err(full));
                return;
            }
            rest = later;
        }
    }

    fn retire(&mut self, pool: &mut Pool) {
        if let Some(frame) = self.partial.take() {
            frame.release(pool);
            self.cut = true;
        }
        self.refill(pool);
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::NONE
    }

    fn take_kernel_drops(&mut self) -> u64 {
        self.socket.take_drops()
    }

    fn worker(&self) -> Option<usize> {
        Some(self.worker)
    }

    fn driver(&self) -> &str {
        &self.port.driver
    }
}

impl XdpQueue {
    /// Gives the kernel chunks for those that it received into.
    fn refill(&mut self, pool: &mut Pool) {
        let umem = self.holdings.umem();
        pool.expect_umem(umem, BATCH);
        if self.owed == 0 {
            return;
        }
        while self.owed > 0
            && let Some(chunk) = pool.take_umem(umem)
        {
            self.give_to_kernel(chunk);
        }
        self.socket.fill.submit();
        if self.zero_copy && self.socket.fill.wants_waking() {
            self.socket.wake_receive();
        }
    }

    fn give_to_kernel(&mut self, chunk: Chunk) {
        // It is of this UMEM, under whose number the pool had it, and there are no more chunks to receive into than the ring has
        // entries.
        if let Ok(address) = self.holdings.lent.lend(chunk) {
            self.socket.fill.push(address);
            self.owed -= 1;
        }
    }

    /// Takes a part of a frame that lies in several chunks. False if there is no buffer for it now.
    fn gather(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>, part: &libc::xdp_desc) -> bool {
        let frame = match self.partial.take() {
            Some(frame) => frame,
            None => match pool.take() {
                Some(chunk) => Frame::new(chunk, HEADROOM, 0),
                None => return false,
            },
        };
        self.socket.receive.pop();
        let mut frame = frame;
        if std::mem::take(&mut self.cut) {
            frame.fault = Some(DropReason::RxTruncated);
        }
        if let Some(chunk) = self.holdings.lent.recover(part.addr) {
            let start = part.addr as usize % CHUNK;
            let octets = chunk.get(start..).unwrap_or_default();
            let octets = &octets[..octets.len().min(part.len as usize)];
            if frame.len() + octets.len() > MAX_FRAME || !frame.append(octets) {
                frame.fault = Some(DropReason::RxTruncated);
            }
            self.owed += 1;
            self.give_to_kernel(chunk);
        }
        if part.options & libc::XDP_PKT_CONTD != 0 {
            self.partial = Some(frame);
        } else {
            self.socket.fill.submit();
            let frame = self.judge(frame);
            batch.push(frame);
        }
        true
    }

    #[inline]
    fn judge(&self, mut frame: Frame) -> Frame {
        if self.guesses {
            frame.offload.checksum = offload::find_partial(frame.bytes());
        }
        frame
    }

    /// Takes back the chunks of frames that were sent.
    fn reclaim(&mut self) {
        while let Some(address) = self.socket.completion.pop() {
            self.holdings.spare.extend(self.holdings.lent.recover(address));
        }
        self.socket.completion.release();
    }

    /// Puts frames on the transmit ring, in order. Returns how many went before the first for which there is no room.
    fn submit(&mut self, batch: &mut [Frame], outgoing: &mut [Outgoing]) -> usize {
        self.sending.clear();
        self.ends.clear();
        let room = self.socket.transmit.free();
        for item in outgoing.iter_mut() {
            let frame = &mut batch[usize::from(item.frame)];
            let parts = frame.len().div_ceil(CHUNK).max(1);
            if parts > 1 && !self.multi_buffer {
                let reason = DropReason::TxError;
                item.outcome = Err(SendFailure {
                    reason,
                    errno: libc::EMSGSIZE,
                });
                self.ends.push(self.sending.len());
                continue;
            }
            let spare = &mut self.holdings.spare;
            if spare.len() < parts || self.sending.len() + parts > room {
                break;
            }
            if parts == 1
                && item.sole
                && let Some((address, len)) = hand_over(frame, &mut self.holdings)
            {
                self.socket.transmit.push(libc::xdp_desc {
                    addr: address,
                    len,
                    options: 0,
                });
                self.sending.push(address);
            } else {
                self.copy(frame.bytes(), parts);
            }
            self.ends.push(self.sending.len());
        }
        self.socket.transmit.submit();
        self.ends.len()
    }

    /// Puts a copy of a frame on the ring, in so many parts. The caller has checked that there are chunks and room for them.
    fn copy(&mut self, frame: &[u8], parts: usize) {
        for (number, octets) in frame.chunks(CHUNK).enumerate() {
            let Some(mut chunk) = self.holdings.spare.pop() else {
                return;
            };
            chunk[..octets.len()].copy_from_slice(octets);
            let Ok(addr) = self.holdings.lent.lend(chunk) else {
                return;
            };
            let options = if number + 1 < parts {
                libc::XDP_PKT_CONTD
            } else {
                0
            };
            self.socket.transmit.push(libc::xdp_desc {
                addr,
                len: octets.len() as u32,
                options,
            });
            self.sending.push(addr);
        }
    }

    /// Zero-copy mode: tells the device that there are frames, if it asked to be told. If that fails, none of `items` counts as sent.
    fn ring_the_bell(&mut self, items: &mut [Outgoing]) -> Result<(), SendFailure> {
        if !self.socket.transmit.wants_waking() {
            return Ok(());
        }
        let result = self
            .socket
            .kick()
            .map_err(|error| SendFailure::from_system(&error));
        if let Err(failure) = result {
            items.iter_mut().for_each(|item| item.outcome = Err(failure));
        }
        result
    }

    /// Copy mode: makes the kernel take what was submitted, takes the rest back, and says in `items` which that is.
    fn push_out(&mut self, items: &mut [Outgoing]) -> Result<(), SendFailure> {
        if self.sending.is_empty() {
            return Ok(());
        }
        let Pushed {
            taken,
            dropped,
            result,
        } = self.socket.push_out(self.sending.len());
        if taken < self.sending.len() {
            // The kernel would read the entries at the next call.
            self.socket.transmit.replace_unconsumed(NOWHERE);
            for address in self.sending.drain(taken..) {
                self.holdings.spare.extend(self.holdings.lent.recover(address));
            }
        }
        let result = result.map_err(|error| SendFailure::from_system(&error));
        let full = SendFailure {
            reason: DropReason::TxQueueFull,
            errno: 0,
        };
        let failure = result.err().unwrap_or(full);
        for (item, end) in items.iter_mut().zip(&self.ends) {
            if (*end > taken || (dropped && *end == taken)) && item.outcome.is_ok() {
                item.outcome = Err(failure);
            }
        }
        result
    }
}

/// Lends the kernel the chunk that a frame lies in, if it is of this UMEM; the frame gets a spare one, and keeps its length and
/// destination. Returns the frame's address and length.
#[inline]
fn hand_over(frame: &mut Frame, holdings: &mut Holdings) -> Option<(u64, u32)> {
    if frame.umem() != holdings.umem() {
        return None;
    }
    let spare = holdings.spare.pop()?;
    let (chunk, start, len) = frame.exchange(spare);
    match holdings.lent.lend(chunk) {
        Ok(address) => Some((address + start as u64, len as u32)),
        Err(_) => None,
    }
}
