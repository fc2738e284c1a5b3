//! What a netdev's driver says of itself (ethtool, <linux/ethtool.h>).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `ETHTOOL_GFLAGS`, with `struct ethtool_value`.
const GET_FLAGS: u32 = 0x25;
/// `ETH_FLAG_RXVLAN`.
const RECEIVE_VLAN: u32 = 1 << 8;

#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

#[repr(C)]
struct Request {
    name: [libc::c_char; libc::IFNAMSIZ],
    data: *mut Value,
    rest: [u8; 16],
}

const _: () = assert!(size_of::<Request>() == 40);

/// Whether the device takes VLAN tags off the frames that it receives, and tells them beside.
pub fn strips_vlan(device: &str) -> io::Result<bool> {
    // SAFETY: socket takes no pointer.
    let fd = super::check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor was just made and nothing else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut value = Value {
        command: GET_FLAGS,
        data: 0,
    };
    let mut request = Request {
        name: super::interface_name(device)?,
        data: &raw mut value,
        rest: [0; 16],
    };
    // SAFETY: SIOCETHTOOL takes one ifreq (40 octets) and, for this command, the value it points to; both have that size and
    // live through the call.
    super::check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) })?;
    Ok(value.data & RECEIVE_VLAN != 0)
}
