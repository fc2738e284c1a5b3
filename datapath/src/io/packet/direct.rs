//! A shorter way out for plain frames, those without offload metadata: AF_XDP sending, which costs the kernel about half of what a
//! message to an AF_PACKET socket does.
//!
//! It sends copies, needs nothing of the device and no XDP program, and ends with its descriptor. Frames leave during the call,
//! so that those sent before and after it through AF_PACKET keep their places. It holds few frames under way: a device that
//! keeps more of them waiting (a TAP whose guest is slow) gets the rest through AF_PACKET.

use std::io;

use crate::sys::xdp::memory::Umem;
use crate::sys::xdp::socket::{FRAME_COST, NOWHERE, Pushed, Sender};

/// Frames under way at most.
const CHUNKS: u32 = 128;

/// Sends plain frames to a device.
pub(super) struct DirectSender {
    socket: Sender,
    umem: Umem,
    /// Chunks that are not under way.
    free: Vec<usize>,
    /// Those of the call in progress, in order.
    sending: Vec<usize>,
}

impl DirectSender {
    /// The longest frame.
    pub(super) const LONGEST: usize = Umem::CHUNK;

    /// Binds to a queue of a device.
    ///
    /// # Errors
    /// As [`Sender::open`]; AF_PACKET then does all the sending.
    pub(super) fn open(interface: u32, queue: u32) -> io::Result<Self> {
        let umem = Umem::new(CHUNKS as usize)?;
        let socket = Sender::open(interface, queue, &umem, CHUNKS)?;
        socket.set_buffer(CHUNKS * FRAME_COST);
        Ok(Self {
            socket,
            free: (0..umem.chunks()).collect(),
            sending: Vec::with_capacity(umem.chunks()),
            umem,
        })
    }

    /// Sends frames in order, without waiting. Returns how many went before the first that was refused, for want of room
    /// here or with the device.
    ///
    /// # Errors
    /// The device is down or gone.
    pub(super) fn send<'a>(&mut self, frames: impl Iterator<Item = &'a [u8]>) -> io::Result<usize> {
        self.reclaim();
        self.sending.clear();
        for frame in frames {
            let Some(&chunk) = self.free.last() else { break };
            let Some(addr) = self.umem.write(chunk, frame) else {
                break;
            };
            let len = frame.len() as u32;
            if !self.socket.transmit.push(libc::xdp_desc {
                addr,
                len,
                options: 0,
            }) {
                break;
            }
            self.free.pop();
            self.sending.push(chunk);
        }
        self.socket.transmit.submit();
        let Pushed {
            taken,
            dropped,
            result,
        } = self.socket.push_out(self.sending.len());
        // What the kernel left is taken back; it would read the entries at the next call.
        self.socket.transmit.replace_unconsumed(NOWHERE);
        self.free.extend(self.sending.drain(taken..));
        match result {
            // The next call meets it again.
            Err(error) if taken == 0 => Err(error),
            _ => Ok(taken - usize::from(dropped)),
        }
    }

    /// Takes back the chunks of frames that were sent.
    fn reclaim(&mut self) {
        while let Some(addr) = self.socket.completion.pop() {
            let chunk = addr as usize / Umem::CHUNK;
            // The kernel gives back what it was given; anything else would be sent twice at once.
            if chunk < self.umem.chunks() && self.free.len() < self.umem.chunks() {
                self.free.push(chunk);
            }
        }
        self.socket.completion.release();
    }
}
