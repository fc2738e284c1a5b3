//! The receive ring of an AF_PACKET socket (TPACKET_V2, Linux Documentation/networking/packet_mmap.rst): frames
//! arrive in memory shared with the kernel, without a system call each.
//!
//! A slot holds an ordinary frame behind its virtio header. A longer one (super-frame, jumbo) is truncated there, and waits
//! whole in the socket's receive queue ([`Slot::whole_in_queue`]): slots and queue have the same order.
//!
//! `acquire → data → release`: a slot whose status says USER is ours until we write KERNEL; the kernel writes USER with
//! the data visible before it. One thread has the ring.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// Octets of a slot: `struct tpacket2_hdr`, the virtio header, and a frame of the usual MTU.
const SLOT: usize = 2048;
const SLOTS: usize = 512;
/// Physically contiguous parts of the ring.
const BLOCK: usize = 32 * 1024;

const _: () = assert!(BLOCK.is_multiple_of(SLOT) && (SLOT * SLOTS).is_multiple_of(BLOCK));

/// Offsets in `struct tpacket2_hdr`.
mod field {
    pub const STATUS: usize = 0;
    pub const LEN: usize = 4;
    pub const SNAP_LEN: usize = 8;
    pub const MAC: usize = 12;
    pub const VLAN_TCI: usize = 24;
    pub const VLAN_TPID: usize = 26;
    pub const END: usize = 32;
}

/// The mapped ring of one socket.
#[derive(Debug)]
pub struct Ring {
    base: NonNull<u8>,
    head: usize,
}

// SAFETY: the mapping belongs to this value alone and is reached through `&mut self` only.
unsafe impl Send for Ring {}

/// One received frame, ours until [`Slot::release`].
#[derive(Debug)]
pub struct Slot<'a> {
    ring: &'a mut Ring,
    status: u32,
}

impl Ring {
    /// Octets that a ring takes.
    pub const LEN: usize = SLOT * SLOTS;

    /// Gives `socket` a ring. Its virtio header option must have been set before.
    pub fn new(socket: BorrowedFd<'_>) -> io::Result<Self> {
        set_option(
            socket,
            libc::PACKET_VERSION,
            &(libc::tpacket_versions::TPACKET_V2 as libc::c_int),
        )?;
        // Any value but 0: frames that don't fit a slot go whole to the receive queue too.
        set_option(socket, libc::PACKET_COPY_THRESH, &1)?;
        let request = libc::tpacket_req {
            tp_block_size: BLOCK as u32,
            tp_block_nr: (Self::LEN / BLOCK) as u32,
            tp_frame_size: SLOT as u32,
            tp_frame_nr: SLOTS as u32,
        };
        set_option(socket, libc::PACKET_RX_RING, &request)?;
        // SAFETY: a new mapping of the ring's own length; nothing is unmapped or overwritten.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                Self::LEN,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, head: 0 })
    }

    fn status(&self) -> &AtomicU32 {
        // SAFETY: `head` is below SLOTS, so the slot lies in the mapping, which lives as long as `self`. The status is
        // aligned, and all access to it here is atomic.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(self.head * SLOT + field::STATUS).cast()) }
    }

    /// The next frame, if one has arrived.
    #[inline]
    pub fn next(&mut self) -> Option<Slot<'_>> {
        let status = self.status().load(Ordering::Acquire);
        (status & libc::TP_STATUS_USER != 0).then_some(Slot { ring: self, status })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this address and length, and no slot borrows it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), Self::LEN) };
    }
}

impl Slot<'_> {
    /// The slot behind its status word.
    fn memory(&self) -> &[u8] {
        let start = self.ring.head * SLOT + field::LEN;
        // SAFETY: the slot lies in the mapping (`head` < SLOTS), which outlives the borrow, and its status word, which is
        // accessed atomically, is left out. The status says USER, so the kernel doesn't write to the slot before
        // `release`, which consumes `self`.
        unsafe { std::slice::from_raw_parts(self.ring.base.as_ptr().add(start), SLOT - field::LEN) }
    }

    fn u16_at(&self, offset: usize) -> u16 {
        let memory = &self.memory()[offset - field::LEN..];
        u16::from_ne_bytes([memory[0], memory[1]])
    }

    fn u32_at(&self, offset: usize) -> u32 {
        let memory = &self.memory()[offset - field::LEN..];
        u32::from_ne_bytes([memory[0], memory[1], memory[2], memory[3]])
    }

    /// Octets of the whole frame, without the virtio header.
    pub fn frame_len(&self) -> usize {
        self.u32_at(field::LEN) as usize
    }

    /// Whether the frame did not fit and waits whole in the socket's receive queue.
    pub fn whole_in_queue(&self) -> bool {
        self.status & libc::TP_STATUS_COPY != 0
    }

    /// The frame behind its virtio header of `header` octets, or the part of it that is here.
    pub fn bytes(&self, header: usize) -> &[u8] {
        let mac = usize::from(self.u16_at(field::MAC));
        let start = mac.saturating_sub(header).max(field::END);
        let end = mac
            .saturating_add(self.u32_at(field::SNAP_LEN) as usize)
            .clamp(start, SLOT);
        &self.memory()[start - field::LEN..end - field::LEN]
    }

    /// Whether only a part of the frame is here.
    pub fn truncated(&self) -> bool {
        (self.u32_at(field::SNAP_LEN) as usize) < self.frame_len()
    }

    /// EtherType and TCI of the VLAN tag that the kernel took off the frame.
    pub fn tag(&self) -> Option<(u16, u16)> {
        if self.status & libc::TP_STATUS_VLAN_VALID == 0 {
            return None;
        }
        let has_tpid = self.status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
        let tpid = if has_tpid {
            self.u16_at(field::VLAN_TPID)
        } else {
            0x8100
        };
        Some((tpid, self.u16_at(field::VLAN_TCI)))
    }

    /// Gives the slot back to the kernel.
    pub fn release(self) {
        self.ring
            .status()
            .store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.ring.head = (self.ring.head + 1) % SLOTS;
    }
}

fn set_option<T: Copy>(socket: BorrowedFd<'_>, option: libc::c_int, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value lives through the call and its true size is given.
    super::check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const *value).cast(),
            len,
        )
    })?;
    Ok(())
}
