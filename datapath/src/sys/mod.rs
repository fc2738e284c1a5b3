//! The only unsafe code: system calls that no safe wrapper covers. Each module exposes a safe face and names, at each
//! `unsafe` block, the bound that makes it so; the bounds hold in release builds too.

pub mod bpf;
pub mod cache;
pub mod cpu;
pub mod dirty;
pub mod ethtool;
pub mod eventfd;
pub mod guest;
mod mapping;
pub mod netns;
pub mod packet;
pub mod packet_ring;
pub mod poll;
pub mod sigbus;
pub mod tun;
pub mod unix;
pub mod vring;
pub mod xdp;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Turns the -1 of a system call into the error it set.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Sets an option of a socket.
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

/// The name of a netdev as the kernel's `ifreq` takes it: at most 15 octets, then zeros.
fn interface_name(name: &str) -> io::Result<[libc::c_char; libc::IFNAMSIZ]> {
    let mut field = [0; libc::IFNAMSIZ];
    let octets = name.as_bytes();
    if octets.is_empty() || octets.len() >= libc::IFNAMSIZ || octets.contains(&0) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in field.iter_mut().zip(octets) {
        *to = *from as libc::c_char;
    }
    Ok(field)
}
