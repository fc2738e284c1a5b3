//! The socket: its UMEM, its rings, the device queue that it is bound to.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use crate::sys::check;
use crate::sys::mapping::Mapping;

use super::memory::Umem;
use super::ring::{Consumer, Place, Producer};

/// `XDP_MAX_TX_SKB_BUDGET` of <linux/if_xdp.h> (Linux 6.17): frames that one system call sends at most; 32 without it.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// A socket of one device queue that only sends, by copies of the frames in its UMEM.
///
/// Works on any netdev and needs no XDP program. The kernel takes frames from the ring only during [`Sender::kick`], so the
/// ring is at rest outside of it.
pub struct Sender {
    fd: OwnedFd,
    /// The frames to send.
    pub transmit: Producer<libc::xdp_desc>,
    /// Addresses of frames that were sent.
    pub completion: Consumer<u64>,
}

/// How a call that makes the kernel send ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kick {
    /// All was taken, or as much as one call may take.
    Taken,
    /// The device dropped the last frame that was taken.
    Dropped,
    /// The device takes no more at present.
    Busy,
}

impl Sender {
    /// Binds to queue `queue` of the device of index `interface`; frames will lie in `umem`, which must outlive the socket's
    /// use of it: keep both together, the socket first. `ring` entries (a power of two) in each ring.
    ///
    /// # Errors
    /// EBUSY if another socket has the queue, EINVAL if the device has no such queue, EPERM without CAP_NET_RAW, ENOBUFS
    /// beyond the limit of locked memory.
    pub fn open(interface: u32, queue: u32, umem: &Umem, ring: u32) -> io::Result<Self> {
        let flags = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: socket takes no pointer.
        let fd = check(unsafe { libc::socket(libc::AF_XDP, flags, 0) })?;
        // SAFETY: the descriptor was just made and nothing else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        register(fd.as_fd(), umem)?;
        // The kernel wants a fill ring of a socket that never receives, too.
        for option in [
            libc::XDP_UMEM_FILL_RING,
            libc::XDP_UMEM_COMPLETION_RING,
            libc::XDP_TX_RING,
        ] {
            set_option(fd.as_fd(), libc::SOL_XDP, option, &ring)?;
        }
        // An older kernel takes fewer per call, so more calls are made.
        let _ = set_option(fd.as_fd(), libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &ring);
        let offsets = offsets(fd.as_fd())?;
        let place = |at: libc::c_ulonglong, offsets: libc::xdp_ring_offset, entry: usize| {
            let len = offsets.desc as usize + ring as usize * entry;
            let mapping = Arc::new(Mapping::of_socket(fd.as_fd(), at as libc::off_t, len)?);
            Ok::<_, io::Error>(Place {
                mapping,
                offsets,
                size: ring,
            })
        };
        const DESCRIPTOR: usize = size_of::<libc::xdp_desc>();
        const ADDRESS: usize = size_of::<u64>();
        let transmit = place(
            libc::XDP_PGOFF_TX_RING as libc::c_ulonglong,
            offsets.tx,
            DESCRIPTOR,
        )?;
        let completion = place(libc::XDP_UMEM_PGOFF_COMPLETION_RING, offsets.cr, ADDRESS)?;
        let sender = Self {
            transmit: Producer::new(&transmit).ok_or(io::ErrorKind::InvalidData)?,
            completion: Consumer::new(&completion).ok_or(io::ErrorKind::InvalidData)?,
            fd,
        };
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: libc::XDP_COPY,
            sxdp_ifindex: interface,
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: 0,
        };
        let len = size_of_val(&address) as libc::socklen_t;
        // SAFETY: the address lives through the call and its true size is given.
        check(unsafe { libc::bind(sender.fd.as_raw_fd(), (&raw const address).cast(), len) })?;
        Ok(sender)
    }

    /// Asks for a send buffer of so many octets, beyond the system's limit where we may. Frames under way count against it.
    pub fn set_buffer(&self, octets: u32) {
        let fd = self.fd.as_fd();
        if set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &octets).is_err() {
            // Without CAP_NET_ADMIN the system's limit holds; fewer frames are then under way at once.
            let _ = set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, &octets);
        }
    }

    /// Makes the kernel take frames from the transmit ring; never waits.
    ///
    /// # Errors
    /// The device is down (ENETDOWN) or gone (ENXIO).
    pub fn kick(&self) -> io::Result<Kick> {
        // SAFETY: no data and no address are given.
        let result = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                std::ptr::null(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null(),
                0,
            )
        };
        if result >= 0 {
            return Ok(Kick::Taken);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EBUSY) => Ok(Kick::Dropped),
            Some(libc::EAGAIN | libc::ENOBUFS | libc::EINTR) => Ok(Kick::Busy),
            _ => Err(error),
        }
    }
}

fn register(socket: BorrowedFd<'_>, umem: &Umem) -> io::Result<()> {
    let base = umem.mapping.at(0, 0, 1).ok_or(io::ErrorKind::InvalidInput)?;
    let region = libc::xdp_umem_reg {
        addr: base.as_ptr() as u64,
        len: umem.mapping.len() as u64,
        chunk_size: Umem::CHUNK as u32,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    set_option(socket, libc::SOL_XDP, libc::XDP_UMEM_REG, &region)
}

fn offsets(socket: BorrowedFd<'_>) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: all-zero is a valid value of this plain C structure.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&offsets) as libc::socklen_t;
    // SAFETY: the value lives through the call, its true size is given, and the kernel writes no more than that.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_MMAP_OFFSETS,
            (&raw mut offsets).cast(),
            &mut len,
        )
    })?;
    if (len as usize) < size_of_val(&offsets) {
        // Linux before 5.4 knows no flags in its rings.
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(offsets)
}

fn set_option<T: Copy>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value lives through the call and its true size is given.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const *value).cast(), len) })?;
    Ok(())
}
