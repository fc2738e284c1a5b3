//! Sends the shortest frames, UDP over IPv4, as fast as a core can.
//!
//! A packet socket costs a core more for each frame than most switches do, so that one would measure the generator. Here the
//! kernel's own UDP makes the frames: one system call hands it [`SEGMENTS`] of them as a super-frame, which it cuts right before
//! the netdev (whose segmentation offload must be off). With `--learn` one frame goes through a packet socket instead, from
//! any source.

use std::io::IoSlice;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use nix::errno::Errno;
use nix::sys::socket::sockopt::UdpGsoSegment;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, bind, sendmsg, setsockopt, socket,
};

/// Sends UDP over IPv4 to 10.0.0.2 in frames of 60 octets, 64 on the wire
#[derive(Parser)]
struct Arguments {
    /// Send one frame from this netdev, so that a switch learns where its source is, and end
    #[arg(long, num_args = 3, value_names = ["DEVICE", "FROM", "TO"])]
    learn: Option<Vec<String>>,
}

/// Payload of the shortest frame: 60 octets less the headers of Ethernet, IPv4 and UDP.
const PAYLOAD: usize = 18;

/// Frames of one system call: the most that every kernel takes (UDP_MAX_SEGMENTS).
const SEGMENTS: usize = 64;

fn main() -> Result<()> {
    if let Some([device, from, to]) = Arguments::parse().learn.as_deref() {
        return learn(device, from, to);
    }
    let socket = UdpSocket::bind((Ipv4Addr::new(10, 0, 0, 1), 0))?;
    socket.connect((Ipv4Addr::new(10, 0, 0, 2), 9))?;
    setsockopt(&socket, UdpGsoSegment, &i32::try_from(PAYLOAD)?)?;
    let payload = [0; PAYLOAD * SEGMENTS];
    loop {
        match socket.send(&payload) {
            Ok(_) => {}
            // A queue is full: that is the point. Refused: a stray answer to an earlier frame.
            Err(error)
                if matches!(
                    error.raw_os_error().map(Errno::from_raw),
                    Some(Errno::ENOBUFS | Errno::EAGAIN | Errno::ECONNREFUSED)
                ) => {}
            Err(error) => return Err(error).context("cannot send"),
        }
    }
}

fn learn(device: &str, from: &str, to: &str) -> Result<()> {
    let builder = etherparse::PacketBuilder::ethernet2(mac(from)?, mac(to)?)
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(9, 9);
    let mut frame = Vec::new();
    builder.write(&mut frame, &[0; PAYLOAD])?;
    // Protocol 0: the socket receives nothing.
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    bind(socket.as_raw_fd(), &address(device)?)?;
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(&frame)],
        &[],
        MsgFlags::empty(),
        None,
    )
    .with_context(|| format!("cannot send to {device}"))?;
    Ok(())
}

/// The link-layer address of a netdev, which holds its index.
fn address(device: &str) -> Result<LinkAddr> {
    let found = nix::ifaddrs::getifaddrs()?
        .filter(|entry| entry.interface_name == device)
        .filter_map(|entry| entry.address)
        .find(|address| address.family() == Some(AddressFamily::Packet))
        .and_then(|address| address.as_link_addr().copied());
    found.ok_or_else(|| anyhow!("there is no device {device}"))
}

fn mac(text: &str) -> Result<[u8; 6]> {
    let octets: Result<Vec<u8>, _> = text
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16))
        .collect();
    let octets: Option<[u8; 6]> = octets.ok().and_then(|octets| octets.try_into().ok());
    octets.with_context(|| format!("{text} is not a MAC address"))
}
