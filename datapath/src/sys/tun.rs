//! The ioctls of /dev/net/tun (Linux Documentation/networking/tuntap.rst) and those that set a netdev's MTU and address.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use switch_core::addr::MacAddr;

/// `TUNSETOFFLOAD` bits: what the netdev may leave undone in the frames that it gives us.
pub mod offload {
    /// Partial checksums.
    pub const CHECKSUM: u32 = 0x01;
    /// TCP super-frames, with and without ECN.
    pub const TSO: u32 = 0x02 | 0x04 | 0x08;
    /// UDP super-frames (Linux 6.2).
    pub const USO: u32 = 0x20 | 0x40;
}

/// Size of the header in front of each frame: `struct virtio_net_hdr`, without `num_buffers`.
pub const VNET_HEADER_LEN: usize = 10;

const PATH: &str = "/dev/net/tun";

#[repr(C)]
struct FlagsRequest {
    name: [libc::c_char; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

/// Opens one queue of the TAP `name`, and makes the TAP if it isn't there.
pub fn open_queue(name: &str, multi_queue: bool) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(PATH)?;
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    let mut request = FlagsRequest {
        name: super::interface_name(name)?,
        flags: flags as libc::c_short,
        rest: [0; 22],
    };
    // SAFETY: TUNSETIFF reads and writes one ifreq (40 octets); `FlagsRequest` is that large and lives through the call.
    super::check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) })?;
    let size = VNET_HEADER_LEN as libc::c_int;
    // SAFETY: TUNSETVNETHDRSZ reads one int, which lives through the call.
    super::check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &size) })?;
    Ok(file)
}

/// Says what the netdev may leave undone.
pub fn set_offload(queue: &File, bits: u32) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    super::check(unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(bits)) })?;
    Ok(())
}

/// Whether the netdev stays after its last queue is closed.
pub fn set_persistent(queue: &File, persistent: bool) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes its argument by value.
    super::check(unsafe {
        libc::ioctl(
            queue.as_raw_fd(),
            libc::TUNSETPERSIST,
            libc::c_ulong::from(persistent),
        )
    })?;
    Ok(())
}

#[repr(C)]
struct MtuRequest {
    name: [libc::c_char; libc::IFNAMSIZ],
    mtu: libc::c_int,
    rest: [u8; 20],
}

#[repr(C)]
struct AddressRequest {
    name: [libc::c_char; libc::IFNAMSIZ],
    address: libc::sockaddr,
    rest: [u8; 8],
}

fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: socket takes no pointer.
    let fd: RawFd =
        super::check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor was just made and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets the MTU of a netdev in the calling thread's namespace.
pub fn set_mtu(name: &str, mtu: u16) -> io::Result<()> {
    let request = MtuRequest {
        name: super::interface_name(name)?,
        mtu: mtu.into(),
        rest: [0; 20],
    };
    // SAFETY: SIOCSIFMTU reads one ifreq (40 octets); `MtuRequest` is that large and lives through the call.
    super::check(unsafe { libc::ioctl(control_socket()?.as_raw_fd(), libc::SIOCSIFMTU, &request) })?;
    Ok(())
}

/// Sets the MAC address of a netdev in the calling thread's namespace.
pub fn set_address(name: &str, mac: MacAddr) -> io::Result<()> {
    let mut data = [0; 14];
    for (to, from) in data.iter_mut().zip(mac.0) {
        *to = from as libc::c_char;
    }
    let address = libc::sockaddr {
        sa_family: libc::ARPHRD_ETHER,
        sa_data: data,
    };
    let request = AddressRequest {
        name: super::interface_name(name)?,
        address,
        rest: [0; 8],
    };
    // SAFETY: SIOCSIFHWADDR reads one ifreq (40 octets); `AddressRequest` is that large and lives through the call.
    super::check(unsafe { libc::ioctl(control_socket()?.as_raw_fd(), libc::SIOCSIFHWADDR, &request) })?;
    Ok(())
}

const _: () = assert!(size_of::<FlagsRequest>() == 40);
const _: () = assert!(size_of::<MtuRequest>() == 40);
const _: () = assert!(size_of::<AddressRequest>() == 40);
