//! A station in a network namespace, at a netdev that is a switch's port: a packet socket beside the kernel's stack.
//!
//! A system call for each frame is slow, but it tells when a frame arrived: the kernel stamps it as soon as it has it,
//! whether or not this thread was running then.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike,
    bind, recvmsg, sendmsg, setsockopt, socket,
};
use nix::sys::time::TimeSpec;

use super::{BURST, Flows, Station, clock};

/// Frames of flows go to this UDP port; others are not ours.
const PORT: [u8; 2] = [0, 9];

/// One netdev.
#[derive(Debug)]
pub struct Netdev {
    socket: OwnedFd,
    frame: Vec<u8>,
    stamp: usize,
    control: Vec<u8>,
}

impl Netdev {
    /// At netdev `device` of the namespace `netns`. The calling thread stays in that namespace.
    pub fn new(netns: &str, device: &str, flows: &Flows) -> Result<Self> {
        let path = Path::new("/run/netns").join(netns);
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("namespace {netns}"))?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
        bind(socket.as_raw_fd(), &address(device)?)?;
        setsockopt(&socket, ReceiveTimestampns, &true)?;
        Ok(Self {
            socket,
            frame: flows.frame.clone(),
            stamp: flows.stamp,
            control: nix::cmsg_space!(TimeSpec),
        })
    }
}

impl Station for Netdev {
    fn send(&mut self, flows: &mut Flows, most: usize, mut stamp: impl FnMut() -> u64) -> Result<usize> {
        for sent in 0..most {
            self.frame[..16].copy_from_slice(&flows.head());
            self.frame[self.stamp..self.stamp + 8].copy_from_slice(&stamp().to_ne_bytes());
            let parts = [IoSlice::new(&self.frame)];
            match sendmsg::<()>(self.socket.as_raw_fd(), &parts, &[], MsgFlags::empty(), None) {
                Ok(_) => {}
                Err(Errno::EAGAIN | Errno::ENOBUFS) => return Ok(sent),
                Err(error) => return Err(error).context("cannot send"),
            }
        }
        Ok(most)
    }

    fn receive(&mut self, mut each: impl FnMut(u64, u64)) -> Result<usize> {
        let mut frames = 0;
        for _ in 0..2 * BURST {
            let mut octets = [0; 128];
            let mut parts = [IoSliceMut::new(&mut octets)];
            let fd = self.socket.as_raw_fd();
            let message =
                match recvmsg::<LinkAddr>(fd, &mut parts, Some(&mut self.control), MsgFlags::MSG_TRUNC) {
                    Ok(message) => message,
                    Err(Errno::EAGAIN) => break,
                    Err(Errno::EINTR | Errno::ENETDOWN) => continue,
                    Err(error) => return Err(error).context("cannot receive"),
                };
            // What this socket's own side sends is heard by it as well.
            let outgoing = message
                .address
                .is_some_and(|address| address.pkttype() == OUTGOING);
            let at = message.cmsgs()?.find_map(|control| match control {
                ControlMessageOwned::ScmTimestampns(time) => {
                    u64::try_from(Duration::from(time).as_nanos()).ok()
                }
                _ => None,
            });
            if outgoing || octets[36..38] != PORT {
                continue;
            }
            let stamp: [u8; 8] = octets[self.stamp..self.stamp + 8]
                .try_into()
                .context("eight octets")?;
            each(u64::from_ne_bytes(stamp), at.unwrap_or_else(clock));
            frames += 1;
        }
        Ok(frames)
    }
}

/// PACKET_OUTGOING.
const OUTGOING: u8 = 4;

/// The link-layer address of a netdev, which holds its index.
pub fn address(device: &str) -> Result<LinkAddr> {
    let found = nix::ifaddrs::getifaddrs()?
        .filter(|entry| entry.interface_name == device)
        .filter_map(|entry| entry.address)
        .find(|address| address.family() == Some(AddressFamily::Packet))
        .and_then(|address| address.as_link_addr().copied());
    found.ok_or_else(|| anyhow!("there is no device {device}"))
}
