//! Sends one frame again and again, as fast as a core can, through a packet socket.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockType, SockaddrLike, bind, sendmmsg, socket,
};
use std::io::IoSlice;
use std::os::fd::AsRawFd;

/// Sends UDP over IPv4 in frames of one size
#[derive(Parser)]
struct Arguments {
    /// Netdev to send from
    device: String,
    /// Source address
    from: String,
    /// Destination address
    to: String,
    /// Octets of a frame without FCS
    #[arg(long, default_value_t = 60)]
    size: usize,
    /// How many frames; 0: until it is ended
    #[arg(long, default_value_t = 0)]
    frames: u64,
}

/// Frames of one system call.
const BATCH: usize = 64;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!((42..=1514).contains(&arguments.size), "--size must be 42 to 1514");
    let frame = frame(&arguments)?;
    // Protocol 0: the socket receives nothing.
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    bind(socket.as_raw_fd(), &address(&arguments.device)?)?;
    let slices = [[IoSlice::new(&frame)]; BATCH];
    let addresses: [Option<LinkAddr>; BATCH] = [None; BATCH];
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let mut left = if arguments.frames == 0 {
        u64::MAX
    } else {
        arguments.frames
    };
    while left > 0 {
        let count = BATCH.min(usize::try_from(left).unwrap_or(BATCH));
        let sent = sendmmsg(
            socket.as_raw_fd(),
            &mut headers,
            &slices[..count],
            &addresses[..count],
            [],
            MsgFlags::empty(),
        );
        match sent {
            Ok(results) => left -= results.count() as u64,
            // The device's queue is full: that is the point.
            Err(nix::errno::Errno::ENOBUFS | nix::errno::Errno::EAGAIN) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot send to {}", arguments.device)),
        }
    }
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

fn frame(arguments: &Arguments) -> Result<Vec<u8>> {
    let payload = vec![0; arguments.size - 42];
    let builder = etherparse::PacketBuilder::ethernet2(mac(&arguments.from)?, mac(&arguments.to)?)
        .ipv4(
            Ipv4Addr::new(10, 0, 0, 1).octets(),
            Ipv4Addr::new(10, 0, 0, 2).octets(),
            64,
        )
        .udp(9, 9);
    let mut frame = Vec::with_capacity(arguments.size);
    builder.write(&mut frame, &payload)?;
    Ok(frame)
}
