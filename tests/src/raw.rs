//! Frames sent and received one by one, through an AF_PACKET socket (packet(7)) on a station's device.
//!
//! The kernel takes the outer VLAN tag off a received frame and tells it beside (PACKET_AUXDATA); it is put back here, so that
//! a frame is compared as it was on the wire.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SetSockOpt, SockFlag, SockProtocol, SockType, SockaddrLike,
    bind, recvmsg, send, setsockopt, socket, sockopt,
};
use nix::{setsockopt_impl, sockopt_impl};

sockopt_impl!(
    /// VLAN tags of received frames come beside them.
    Auxdata,
    SetOnly,
    libc::SOL_PACKET,
    libc::PACKET_AUXDATA,
    bool
);
sockopt_impl!(
    /// Frames that the station itself sends are not received.
    IgnoreOutgoing,
    SetOnly,
    libc::SOL_PACKET,
    libc::PACKET_IGNORE_OUTGOING,
    bool
);
sockopt_impl!(
    /// Each frame has a `virtio_net_hdr` in front.
    VnetHeader,
    SetOnly,
    libc::SOL_PACKET,
    libc::PACKET_VNET_HDR,
    bool
);

/// Octets of `struct virtio_net_hdr`.
pub const VNET_HEADER_LEN: usize = 10;

/// A packet socket on one device.
#[derive(Debug)]
pub struct Raw {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Raw {
    /// Opens it in the calling thread's namespace.
    pub(crate) fn open(device: &str, vnet_header: bool) -> Self {
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )
        .expect("root may open packet sockets");
        set(&socket, Auxdata, true);
        set(&socket, IgnoreOutgoing, true);
        set(&socket, VnetHeader, vnet_header);
        setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20)).expect("root may set buffers");
        let address = getifaddrs()
            .expect("the kernel lists its interfaces")
            .filter(|interface| interface.interface_name == device)
            .filter_map(|interface| interface.address)
            .find(|address| address.family() == Some(AddressFamily::Packet))
            .unwrap_or_else(|| panic!("there is no device `{device}` in this namespace"));
        let link = address.as_link_addr().expect("its family is AF_PACKET");
        bind(socket.as_raw_fd(), link).unwrap_or_else(|error| panic!("bind to `{device}`: {error}"));
        let mut raw = Self {
            socket,
            buffer: vec![0; 1 << 17],
        };
        raw.drain();
        raw
    }

    /// Sends one frame, from its destination address on (behind its `virtio_net_hdr`, if the socket has those).
    ///
    /// # Errors
    /// What the kernel says: EMSGSIZE above the device's MTU, EINVAL for a header that contradicts the frame,
    /// ENOBUFS when the device's queue is full, ENETDOWN.
    pub fn try_send(&self, frame: &[u8]) -> Result<(), Errno> {
        let sent = send(self.socket.as_raw_fd(), frame, MsgFlags::empty())?;
        assert_eq!(sent, frame.len(), "a packet socket sends whole frames");
        Ok(())
    }

    /// Sends one frame that the kernel has to take.
    ///
    /// # Panics
    /// If it does not.
    pub fn send(&self, frame: &[u8]) {
        self.try_send(frame)
            .unwrap_or_else(|error| panic!("a frame of {} octets: {error}", frame.len()));
    }

    /// Sends frames one after the other, again where the kernel has no room, and counts them.
    ///
    /// # Panics
    /// If the kernel refuses one for another reason.
    pub fn send_all(&self, frames: impl Iterator<Item = Vec<u8>>) -> u64 {
        let mut count = 0;
        for frame in frames {
            while let Err(error) = self.try_send(&frame) {
                assert_eq!(error, Errno::ENOBUFS, "a frame of {} octets", frame.len());
                std::thread::yield_now();
            }
            count += 1;
        }
        count
    }

    /// The next frame received, if one is there or comes within `bound`.
    pub fn receive(&mut self, bound: Duration) -> Option<Vec<u8>> {
        let deadline = Instant::now() + bound;
        loop {
            if let Some(frame) = self.take() {
                return Some(frame);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            let timeout = PollTimeout::try_from(left.as_millis().max(1)).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            // A signal ends the wait early: the loop looks at the time.
            let _ = poll(&mut fds, timeout);
        }
    }

    /// Waits up to `bound` for a frame that `wanted` accepts; others are thrown away.
    pub fn receive_where(&mut self, bound: Duration, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let deadline = Instant::now() + bound;
        loop {
            let left = deadline.checked_duration_since(Instant::now())?;
            match self.receive(left) {
                Some(frame) if wanted(&frame) => return Some(frame),
                Some(_) => {}
                None => return None,
            }
        }
    }

    /// All frames that are there now.
    pub fn drain(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.take()).collect()
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let mut control = nix::cmsg_space!(libc::tpacket_auxdata);
        let mut parts = [std::io::IoSliceMut::new(&mut self.buffer)];
        let received = recvmsg::<()>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_DONTWAIT,
        );
        let (len, tag) = match received {
            Ok(message) => {
                let tag = message.cmsgs().ok()?.find_map(|control| match control {
                    ControlMessageOwned::Unknown(data) => tag_of(&data.data_bytes),
                    _ => None,
                });
                (message.bytes, tag)
            }
            // ENETDOWN: the device was set down; frames may follow when it is up again.
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => return None,
            Err(error) => panic!("a packet socket cannot receive: {error}"),
        };
        let mut frame = self.buffer[..len].to_vec();
        if let Some((tpid, tci)) = tag {
            let octets = [tpid.to_be_bytes(), tci.to_be_bytes()].concat();
            frame.splice(12..12, octets);
        }
        Some(frame)
    }
}

fn set<O: SetSockOpt<Val = bool>>(socket: &OwnedFd, option: O, on: bool) {
    setsockopt(socket, option, &on).expect("the kernel knows the options of packet sockets");
}

/// TPID and TCI in a `struct tpacket_auxdata`.
fn tag_of(auxdata: &[u8]) -> Option<(u16, u16)> {
    let status = u32::from_ne_bytes(auxdata.get(0..4)?.try_into().ok()?);
    let tci = u16::from_ne_bytes(auxdata.get(16..18)?.try_into().ok()?);
    let tpid = u16::from_ne_bytes(auxdata.get(18..20)?.try_into().ok()?);
    if status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    Some((
        if status & libc::TP_STATUS_VLAN_TPID_VALID == 0 {
            0x8100
        } else {
            tpid
        },
        tci,
    ))
}
