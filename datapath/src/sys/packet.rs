//! AF_PACKET sockets (packet(7)): whole Ethernet frames of one netdev, each behind a `struct virtio_net_hdr`
//! (PACKET_VNET_HDR) that keeps checksum and segmentation offload intact, moved in batches by recvmmsg and sendmmsg.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Most messages of one system call.
pub const BATCH: usize = 64;

/// Room for the control message that carries a VLAN tag: `cmsghdr` (16 octets) and `tpacket_auxdata` (20), aligned to 8.
const CONTROL_LEN: usize = 40;

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_LEN]);

/// What came with a received frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct Received {
    /// Octets in the buffer, the virtio header included.
    pub len: usize,
    /// The frame was longer than its buffer.
    pub truncated: bool,
    /// EtherType and TCI of the VLAN tag that the kernel took off the frame.
    pub tag: Option<(u16, u16)>,
}

/// A socket bound to one device.
pub struct Socket {
    fd: OwnedFd,
    messages: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    control: Box<[Control]>,
}

// SAFETY: the raw pointers in `messages` and `vectors` are set anew in each call, from exclusive borrows that last through
// it, and are never read outside one.
unsafe impl Send for Socket {}

/// The index of a netdev in the calling thread's namespace.
pub fn interface_index(name: &str) -> io::Result<u32> {
    let field = super::interface_name(name)?;
    // SAFETY: `interface_name` leaves at least one zero at the end of the field.
    match unsafe { libc::if_nametoindex(field.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// Has a device receive what is for other stations, until dropped.
#[derive(Debug)]
pub struct Membership {
    _socket: OwnedFd,
}

impl Membership {
    /// For the device of index `interface`.
    ///
    /// # Errors
    /// EPERM without CAP_NET_RAW, ENODEV if the device is gone.
    pub fn promiscuous(interface: u32) -> io::Result<Self> {
        let fd = raw_socket()?;
        join_promiscuous(fd.as_fd(), interface)?;
        Ok(Self { _socket: fd })
    }
}

fn raw_socket() -> io::Result<OwnedFd> {
    let flags = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // Protocol 0: nothing is received before the socket is bound and its options are set.
    // SAFETY: socket takes no pointer.
    let fd = super::check(unsafe { libc::socket(libc::AF_PACKET, flags, 0) })?;
    // SAFETY: the descriptor was just made and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn join_promiscuous(socket: BorrowedFd<'_>, interface: u32) -> io::Result<()> {
    let promiscuous = libc::packet_mreq {
        mr_ifindex: interface as libc::c_int,
        mr_type: libc::PACKET_MR_PROMISC as libc::c_ushort,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    super::set_option(
        socket,
        libc::SOL_PACKET,
        libc::PACKET_ADD_MEMBERSHIP,
        &promiscuous,
    )
}

impl Socket {
    /// A socket bound to the device of index `interface`: promiscuous, blind to what it sends itself.
    ///
    /// # Errors
    /// EPERM without CAP_NET_RAW, ENODEV if the device is gone.
    pub fn open(interface: u32) -> io::Result<Self> {
        let socket = Self::unbound(BATCH)?;
        socket.set_option(libc::PACKET_AUXDATA, &1i32)?;
        socket.set_option(libc::PACKET_IGNORE_OUTGOING, &1i32)?;
        socket.set_option(libc::PACKET_QDISC_BYPASS, &1i32)?;
        join_promiscuous(socket.fd.as_fd(), interface)?;
        Ok(socket)
    }

    /// A socket that sends to the device one frame at a time, by way of its queueing discipline, and receives nothing.
    /// There the kernel segments super-frames that the device can't; [`Socket::open`]'s are refused (ENOBUFS), because
    /// PACKET_QDISC_BYPASS sends a frame as it is or not at all.
    pub fn open_queueing(interface: u32) -> io::Result<Self> {
        let socket = Self::unbound(1)?;
        socket.bind_protocol(interface, 0)?;
        Ok(socket)
    }

    /// A socket that moves up to `room` frames at once, each behind its virtio header.
    fn unbound(room: usize) -> io::Result<Self> {
        let fd = raw_socket()?;
        // SAFETY: all-zero is a valid value of these plain C structures (null pointers, zero lengths).
        let (message, vector): (libc::mmsghdr, libc::iovec) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let socket = Self {
            fd,
            messages: vec![message; room].into(),
            vectors: vec![vector; room].into(),
            control: vec![Control([0; CONTROL_LEN]); room].into(),
        };
        socket.set_option(libc::PACKET_VNET_HDR, &1i32)?;
        Ok(socket)
    }

    /// Starts receiving.
    pub fn bind(&self, interface: u32) -> io::Result<()> {
        self.bind_protocol(interface, libc::ETH_P_ALL as u16)
    }

    fn bind_protocol(&self, interface: u32, protocol: u16) -> io::Result<()> {
        // SAFETY: an all-zero sockaddr_ll is a valid value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as libc::c_ushort;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = interface as libc::c_int;
        let len = size_of_val(&address) as libc::socklen_t;
        // SAFETY: the address lives through the call and its true size is given.
        super::check(unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), len) })?;
        Ok(())
    }

    /// Joins the fanout group `id` (or makes a new one, with `None`), which spreads frames over its sockets by flow.
    /// Returns the group's id. Call after [`Socket::bind`].
    ///
    /// A group receives by a hook of its own, so it has to be told anew to be blind to what the device sends.
    pub fn join_fanout(&self, id: Option<u16>) -> io::Result<u16> {
        // PACKET_FANOUT_FLAG_IGNORE_OUTGOING of <linux/if_packet.h>
        const IGNORE_OUTGOING: u32 = 0x4000 << 16;
        const HASH: u32 = (libc::PACKET_FANOUT_HASH << 16) | IGNORE_OUTGOING;
        const UNIQUE: u32 = libc::PACKET_FANOUT_FLAG_UNIQUEID << 16;
        let request = match id {
            Some(id) => u32::from(id) | HASH,
            None => HASH | UNIQUE,
        };
        self.set_option(libc::PACKET_FANOUT, &request)?;
        let mut answer = 0u32;
        self.get_option(libc::PACKET_FANOUT, &mut answer)?;
        Ok(answer as u16)
    }

    /// Asks for socket buffers of so many octets, beyond the system's limit where we may.
    pub fn set_buffers(&self, octets: u32) {
        for (force, plain) in [
            (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
            (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
        ] {
            if self.set(libc::SOL_SOCKET, force, &octets).is_err() {
                // Without CAP_NET_ADMIN the system's limit holds; a smaller buffer only drops earlier.
                let _ = self.set(libc::SOL_SOCKET, plain, &octets);
            }
        }
    }

    /// Frames that the kernel dropped because the receive buffer was full, since the last call.
    pub fn take_kernel_drops(&self) -> u32 {
        let mut statistics = libc::tpacket_stats {
            tp_packets: 0,
            tp_drops: 0,
        };
        match self.get_option(libc::PACKET_STATISTICS, &mut statistics) {
            Ok(()) => statistics.tp_drops,
            Err(_) => 0,
        }
    }

    fn set_option<T: Copy>(&self, option: libc::c_int, value: &T) -> io::Result<()> {
        self.set(libc::SOL_PACKET, option, value)
    }

    fn set<T: Copy>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
        super::set_option(self.fd.as_fd(), level, option, value)
    }

    /// `T` must be a plain C structure, for which all values are valid.
    fn get_option<T: Copy>(&self, option: libc::c_int, value: &mut T) -> io::Result<()> {
        let mut len = size_of::<T>() as libc::socklen_t;
        // SAFETY: the value lives through the call, its true size is given, and the kernel writes no more than that.
        super::check(unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                option,
                (&raw mut *value).cast(),
                &mut len,
            )
        })?;
        Ok(())
    }

    /// Receives into at most [`BATCH`] buffers, one frame behind its virtio header each, without waiting.
    /// Returns how many, and writes what came with them to the front of `received`.
    pub fn receive<'a>(
        &mut self,
        buffers: impl Iterator<Item = &'a mut [u8]>,
        received: &mut [Received; BATCH],
    ) -> io::Result<usize> {
        let mut count = 0;
        for (buffer, ((vector, message), control)) in buffers.zip(
            self.vectors
                .iter_mut()
                .zip(self.messages.iter_mut())
                .zip(self.control.iter_mut()),
        ) {
            *vector = libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: buffer.len(),
            };
            message.msg_hdr.msg_name = std::ptr::null_mut();
            message.msg_hdr.msg_namelen = 0;
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
            message.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = CONTROL_LEN;
            message.msg_hdr.msg_flags = 0;
            count += 1;
        }
        // SAFETY: the first `count` messages point to one vector and one control buffer each, of their true sizes, both
        // owned by `self`; each vector points to a buffer that is borrowed for 'a, so through the call.
        let result = unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                self.messages.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let filled = super::check(result)? as usize;
        for ((message, control), received) in self
            .messages
            .iter()
            .zip(&self.control)
            .zip(received.iter_mut())
            .take(filled)
        {
            *received = Received {
                len: message.msg_len as usize,
                truncated: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
                tag: auxiliary_tag(&control.0, message.msg_hdr.msg_controllen),
            };
        }
        Ok(filled)
    }

    /// Sends at most [`BATCH`] buffers, one frame behind its virtio header each, without waiting.
    /// Returns how many went before the first that the kernel refused; an error is about the very first.
    pub fn send<'a>(&mut self, buffers: impl Iterator<Item = &'a [u8]>) -> io::Result<usize> {
        let mut count = 0;
        for (buffer, (vector, message)) in buffers.zip(self.vectors.iter_mut().zip(self.messages.iter_mut()))
        {
            *vector = libc::iovec {
                iov_base: buffer.as_ptr().cast_mut().cast(),
                iov_len: buffer.len(),
            };
            message.msg_hdr.msg_name = std::ptr::null_mut();
            message.msg_hdr.msg_namelen = 0;
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
            message.msg_hdr.msg_control = std::ptr::null_mut();
            message.msg_hdr.msg_controllen = 0;
            message.msg_hdr.msg_flags = 0;
            count += 1;
        }
        // SAFETY: the first `count` messages point to one vector each, owned by `self`; each vector points to a buffer
        // that is borrowed for 'a, so through the call, and that sendmmsg only reads.
        let result = unsafe {
            libc::sendmmsg(
                self.fd.as_raw_fd(),
                self.messages.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
            )
        };
        Ok(super::check(result)? as usize)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The VLAN tag in a PACKET_AUXDATA control message: `struct tpacket_auxdata` behind a `struct cmsghdr`.
fn auxiliary_tag(control: &[u8; CONTROL_LEN], len: usize) -> Option<(u16, u16)> {
    const DATA: usize = size_of::<libc::cmsghdr>();
    const STATUS: usize = DATA;
    const TCI: usize = DATA + 16;
    const TPID: usize = DATA + 18;
    if len < TPID + 2 {
        return None;
    }
    let u32_at =
        |at: usize| u32::from_ne_bytes([control[at], control[at + 1], control[at + 2], control[at + 3]]);
    let u16_at = |at: usize| u16::from_ne_bytes([control[at], control[at + 1]]);
    let level_and_type = (u32_at(8) as libc::c_int, u32_at(12) as libc::c_int);
    if level_and_type != (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
        return None;
    }
    let status = u32_at(STATUS);
    if status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let tpid = if status & libc::TP_STATUS_VLAN_TPID_VALID != 0 {
        u16_at(TPID)
    } else {
        0x8100
    };
    Some((tpid, u16_at(TCI)))
}
