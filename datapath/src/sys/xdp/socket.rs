//! The sockets: their memory, their rings, the device queue that they are bound to.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Weak};

use crate::sys::mapping::Mapping;
use crate::sys::{check, set_option};

use super::memory::Umem;
use super::ring::{Consumer, Place, Producer};
use super::umem;

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
enum Kick {
    /// All was taken, or as much as one call may take.
    Taken,
    /// The device dropped the last frame that was taken.
    Dropped,
    /// The device takes no more at present.
    Busy,
}

/// What a frame under way counts in the socket's send buffer at most, octets.
pub const FRAME_COST: u32 = 4096;

/// No address in the UMEM: the kernel passes such a descriptor over.
pub const NOWHERE: libc::xdp_desc = libc::xdp_desc {
    addr: u64::MAX,
    len: 0,
    options: 0,
};

/// What became of descriptors that were submitted.
#[derive(Debug)]
pub struct Pushed {
    /// The kernel took so many, the first ones.
    pub taken: usize,
    /// The device dropped the last of these.
    pub dropped: bool,
    /// Why it took no more, if that is the device's end.
    pub result: io::Result<()>,
}

/// Makes the kernel take the `all` descriptors that were submitted last, in as many calls as it wants.
fn push_out(
    transmit: &mut Producer<libc::xdp_desc>,
    all: usize,
    kick: impl Fn() -> io::Result<Kick>,
) -> Pushed {
    let mut taken = 0;
    loop {
        let kicked = kick();
        let before = std::mem::replace(&mut taken, all.saturating_sub(transmit.unconsumed() as usize));
        let (dropped, result) = match kicked {
            Err(error) => (false, Err(error)),
            Ok(Kick::Dropped) => (taken > 0, Ok(())),
            Ok(_) if taken == all || taken == before => (false, Ok(())),
            Ok(Kick::Taken | Kick::Busy) => continue,
        };
        return Pushed {
            taken,
            dropped,
            result,
        };
    }
}

impl Sender {
    /// Binds to queue `queue` of the device of index `interface`; frames will lie in `umem`, which must outlive the socket's
    /// use of it: keep both together, the socket first. `ring` entries (a power of two) in each ring.
    ///
    /// # Errors
    /// EBUSY if another socket has the queue, EINVAL if the device has no such queue, EPERM without CAP_NET_RAW, ENOBUFS
    /// beyond the limit of locked memory.
    pub fn open(interface: u32, queue: u32, umem: &Umem, ring: u32) -> io::Result<Self> {
        let fd = open()?;
        let base = umem.mapping.at(0, 0, 1).ok_or(io::ErrorKind::InvalidInput)?;
        let region = (base.as_ptr() as u64, umem.mapping.len() as u64);
        register(fd.as_fd(), region, Umem::CHUNK)?;
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
        let transmit = transmit_ring(fd.as_fd(), offsets.tx, ring)?;
        let completion = completion_ring(fd.as_fd(), offsets.cr, ring)?;
        let place = BoundTo { interface, queue };
        bind(fd.as_fd(), place, libc::XDP_COPY, 0)?;
        Ok(Self {
            fd,
            transmit,
            completion,
        })
    }

    /// Asks for a send buffer of so many octets, beyond the system's limit where we may. Frames under way count against it.
    pub fn set_buffer(&self, octets: u32) {
        set_buffer(self.fd.as_fd(), octets);
    }

    /// Makes the kernel take the `all` descriptors that were submitted last; never waits. That it took no more is because the device is down
    /// (ENETDOWN) or gone (ENXIO), or takes no more at present.
    pub fn push_out(&mut self, all: usize) -> Pushed {
        push_out(&mut self.transmit, all, || kick(self.fd.as_fd()))
    }
}

/// A queue of a netdev.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundTo {
    /// Index of the netdev.
    pub interface: u32,
    /// Number of the queue.
    pub queue: u32,
}

/// What a socket is to be.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The device reads and writes the UMEM itself; else the kernel copies.
    pub zero_copy: bool,
    /// Frames may lie in several chunks (`XDP_USE_SG`, Linux 6.6).
    pub multi_buffer: bool,
    /// Entries of the fill and the receive ring, a power of two.
    pub receive: u32,
    /// Entries of the transmit and the completion ring, a power of two.
    pub transmit: u32,
}

/// One device queue, to receive from and to send by.
///
/// The kernel's socket that sends is another than the one that receives, on the same queue: a socket that somebody waits for in epoll is told of each
/// frame that was sent, which costs more than to send it.
pub struct Socket {
    fd: Arc<OwnedFd>,
    sender: OwnedFd,
    /// Addresses of chunks for the kernel to receive into.
    pub fill: Producer<u64>,
    /// Frames received.
    pub receive: Consumer<libc::xdp_desc>,
    /// Frames to send.
    pub transmit: Producer<libc::xdp_desc>,
    /// Addresses of frames that were sent.
    pub completion: Consumer<u64>,
    /// How the kernel counted at the last call of [`Socket::take_drops`].
    drops: u64,
}

/// `struct xdp_statistics` of Linux 5.9.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Statistics {
    dropped: u64,
    invalid_receive: u64,
    invalid_transmit: u64,
    receive_full: u64,
    fill_empty: u64,
    transmit_empty: u64,
}

impl Socket {
    /// Binds to a queue. The first socket of a UMEM registers it; the others name one that is bound, and work in its mode.
    ///
    /// # Errors
    /// EBUSY if another socket has the queue, EOPNOTSUPP if the device can't do what is wanted, EPERM without CAP_NET_RAW, ENOBUFS
    /// beyond the limit of locked memory.
    pub fn open(
        place: BoundTo,
        umem: &umem::Umem,
        first: Option<&OwnedFd>,
        wanted: Wanted,
    ) -> io::Result<Self> {
        let fd = open()?;
        let socket = fd.as_fd();
        if first.is_none() {
            register(socket, umem.region(), umem::CHUNK)?;
        }
        for (option, size) in [
            (libc::XDP_UMEM_FILL_RING, wanted.receive),
            (libc::XDP_RX_RING, wanted.receive),
            (libc::XDP_UMEM_COMPLETION_RING, wanted.transmit),
        ] {
            set_option(socket, libc::SOL_XDP, option, &size)?;
        }
        let offsets = offsets(socket)?;
        let fill = ring(
            socket,
            libc::XDP_UMEM_PGOFF_FILL_RING,
            offsets.fr,
            wanted.receive,
            size_of::<u64>(),
        )?;
        let receive = ring(
            socket,
            libc::XDP_PGOFF_RX_RING as libc::c_ulonglong,
            offsets.rx,
            wanted.receive,
            size_of::<libc::xdp_desc>(),
        )?;
        let completion = completion_ring(socket, offsets.cr, wanted.transmit)?;
        match first {
            Some(first) => bind(socket, place, libc::XDP_SHARED_UMEM, first.as_raw_fd() as u32)?,
            None => {
                let mode = if wanted.zero_copy {
                    libc::XDP_ZEROCOPY
                } else {
                    libc::XDP_COPY
                };
                let parts = if wanted.multi_buffer { libc::XDP_USE_SG } else { 0 };
                bind(socket, place, mode | parts | libc::XDP_USE_NEED_WAKEUP, 0)?;
            }
        }
        let sender = open()?;
        set_option(sender.as_fd(), libc::SOL_XDP, libc::XDP_TX_RING, &wanted.transmit)?;
        // An older kernel takes fewer per call, so more calls are made.
        let _ = set_option(
            sender.as_fd(),
            libc::SOL_XDP,
            XDP_MAX_TX_SKB_BUDGET,
            &wanted.transmit,
        );
        let transmit = transmit_ring(sender.as_fd(), offsets.tx, wanted.transmit)?;
        bind(
            sender.as_fd(),
            place,
            libc::XDP_SHARED_UMEM,
            socket.as_raw_fd() as u32,
        )?;
        Ok(Self {
            sender,
            fill: Producer::new(&fill).ok_or(io::ErrorKind::InvalidData)?,
            receive: Consumer::new(&receive).ok_or(io::ErrorKind::InvalidData)?,
            transmit,
            completion,
            fd: Arc::new(fd),
            drops: 0,
        })
    }

    /// The descriptor, for others to share its UMEM while it is open.
    pub fn share(&self) -> Weak<OwnedFd> {
        Arc::downgrade(&self.fd)
    }

    /// Asks for a send buffer of so many octets, beyond the system's limit where we may. Copies under way count against it.
    pub fn set_buffer(&self, octets: u32) {
        set_buffer(self.sender.as_fd(), octets);
    }

    /// Has system calls on the socket poll the device for up to `micros` microseconds. While they do, the device's interrupts stay off for as
    /// long as its `gro_flush_timeout` and `napi_defer_hard_irqs` say (Linux 5.11, Documentation/networking/napi.rst).
    pub fn set_busy_poll(&self, micros: u32) -> io::Result<()> {
        const BUDGET: u32 = 64;
        let fd = self.fd.as_fd();
        set_option(fd, libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL, &1i32)?;
        set_option(fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL, &micros)?;
        set_option(fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL_BUDGET, &BUDGET)
    }

    /// Makes the kernel look at the transmit ring; never waits. In copy mode it takes frames from the ring only then.
    ///
    /// # Errors
    /// The device is down (ENETDOWN) or gone (ENXIO).
    pub fn kick(&self) -> io::Result<()> {
        kick(self.sender.as_fd()).map(drop)
    }

    /// Makes the kernel take the `all` descriptors that were submitted last, as [`Sender::push_out`]. For copy mode.
    pub fn push_out(&mut self, all: usize) -> Pushed {
        push_out(&mut self.transmit, all, || kick(self.sender.as_fd()))
    }

    /// Makes the kernel look at the fill ring, and the device if it is busy-polled; never waits.
    pub fn wake_receive(&self) {
        // SAFETY: no buffer and no address are given. What it says is of no use: what matters comes by the ring.
        unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                std::ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        };
    }

    /// Frames that the kernel had no room for since the last call, or that did not fit their chunk.
    pub fn take_drops(&mut self) -> u64 {
        let mut statistics = Statistics::default();
        if get_option(self.fd.as_fd(), libc::XDP_STATISTICS, &mut statistics).is_err() {
            return 0;
        }
        // An empty fill ring is among `dropped`.
        let drops = statistics.dropped + statistics.receive_full + statistics.invalid_receive;
        drops.saturating_sub(std::mem::replace(&mut self.drops, drops))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn open() -> io::Result<OwnedFd> {
    let flags = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: socket takes no pointer.
    let fd = check(unsafe { libc::socket(libc::AF_XDP, flags, 0) })?;
    // SAFETY: the descriptor was just made and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn kick(socket: BorrowedFd<'_>) -> io::Result<Kick> {
    // SAFETY: no data and no address are given.
    let result = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
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

fn set_buffer(socket: BorrowedFd<'_>, octets: u32) {
    if set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &octets).is_err() {
        // Without CAP_NET_ADMIN the system's limit holds; fewer frames are then under way at once.
        let _ = set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, &octets);
    }
}

fn bind(socket: BorrowedFd<'_>, place: BoundTo, flags: u16, first: u32) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: place.interface,
        sxdp_queue_id: place.queue,
        sxdp_shared_umem_fd: first,
    };
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address lives through the call and its true size is given.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) })?;
    Ok(())
}

/// Maps a ring of `size` entries.
fn ring(
    socket: BorrowedFd<'_>,
    at: libc::c_ulonglong,
    offsets: libc::xdp_ring_offset,
    size: u32,
    entry: usize,
) -> io::Result<Place> {
    let len = offsets.desc as usize + size as usize * entry;
    let mapping = Arc::new(Mapping::of_socket(socket, at as libc::off_t, len)?);
    Ok(Place {
        mapping,
        offsets,
        size,
    })
}

fn transmit_ring(
    socket: BorrowedFd<'_>,
    offsets: libc::xdp_ring_offset,
    size: u32,
) -> io::Result<Producer<libc::xdp_desc>> {
    let at = libc::XDP_PGOFF_TX_RING as libc::c_ulonglong;
    let place = ring(socket, at, offsets, size, size_of::<libc::xdp_desc>())?;
    Producer::new(&place).ok_or(io::ErrorKind::InvalidData.into())
}

fn completion_ring(
    socket: BorrowedFd<'_>,
    offsets: libc::xdp_ring_offset,
    size: u32,
) -> io::Result<Consumer<u64>> {
    let at = libc::XDP_UMEM_PGOFF_COMPLETION_RING;
    let place = ring(socket, at, offsets, size, size_of::<u64>())?;
    Consumer::new(&place).ok_or(io::ErrorKind::InvalidData.into())
}

/// Registers a region, address and length, as the UMEM of a socket.
fn register(socket: BorrowedFd<'_>, (addr, len): (u64, u64), chunk: usize) -> io::Result<()> {
    let region = libc::xdp_umem_reg {
        addr,
        len,
        chunk_size: chunk as u32,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    set_option(socket, libc::SOL_XDP, libc::XDP_UMEM_REG, &region)
}

fn offsets(socket: BorrowedFd<'_>) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: all-zero is a valid value of this plain C structure.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    // Linux before 5.4 knows no flags in its rings.
    get_option(socket, libc::XDP_MMAP_OFFSETS, &mut offsets)?;
    Ok(offsets)
}

/// Reads an option of `SOL_XDP` that is plain data of the kernel's interface.
///
/// # Errors
/// Unsupported if the kernel knows less of it.
fn get_option<T: Copy>(socket: BorrowedFd<'_>, option: libc::c_int, value: &mut T) -> io::Result<()> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value lives through the call, its true size is given, and the kernel writes no more than that.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            option,
            (&raw mut *value).cast(),
            &mut len,
        )
    })?;
    if (len as usize) < size_of::<T>() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(())
}
