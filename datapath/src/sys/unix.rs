//! What std does not have for Unix stream sockets.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// Reads what comes next, up to the length of `to`, and leaves it to be read again. Waits for the first octet; 0 at the end.
///
/// # Errors
/// What recv says.
pub fn peek(stream: &UnixStream, to: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `to` has room for `to.len()` octets and outlives the call; the descriptor is open.
    let len = unsafe {
        libc::recv(
            stream.as_raw_fd(),
            to.as_mut_ptr().cast(),
            to.len(),
            libc::MSG_PEEK,
        )
    };
    usize::try_from(len).map_err(|_| io::Error::last_os_error())
}

/// Sends octets and, with the first of them, descriptors (SCM_RIGHTS), at most [`FILES`].
///
/// # Errors
/// What sendmsg says.
#[cfg(any(test, fuzzing))]
pub fn send(stream: &UnixStream, octets: &[u8], files: &[&std::fs::File]) -> io::Result<usize> {
    let descriptors: Vec<libc::c_int> = files.iter().take(FILES).map(|file| file.as_raw_fd()).collect();
    let size = size_of_val(descriptors.as_slice()) as u32;
    // Words, so that the header in it is aligned.
    let mut control = [0u64; 32];
    let mut part = libc::iovec {
        iov_base: octets.as_ptr().cast_mut().cast(),
        iov_len: octets.len(),
    };
    // SAFETY: all-zero is a valid msghdr; the fields that matter are set below.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    if !descriptors.is_empty() {
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: these compute lengths from lengths.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(size) } as usize;
        // SAFETY: 256 octets of control hold the header and FILES descriptors, to which `descriptors` was cut, so that the header
        // and the data behind it lie within.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size) as usize;
            std::ptr::copy_nonoverlapping(
                descriptors.as_ptr().cast(),
                libc::CMSG_DATA(header),
                size as usize,
            );
        }
    }
    // SAFETY: the message and all that it points to outlive the call; the octets are only read.
    let len = unsafe { libc::sendmsg(stream.as_raw_fd(), &message, libc::MSG_NOSIGNAL) };
    usize::try_from(len).map_err(|_| io::Error::last_os_error())
}

/// Most descriptors of one message.
#[cfg(any(test, fuzzing))]
const FILES: usize = 40;

/// Memory as a file, of `len` octets.
///
/// # Errors
/// What memfd_create and ftruncate say.
#[cfg(any(test, fuzzing))]
pub fn memory(len: u64) -> io::Result<std::fs::File> {
    use std::os::fd::{FromRawFd, OwnedFd};
    // SAFETY: the name is a string that ends with a zero and is only read.
    let fd = super::check(unsafe { libc::memfd_create(c"memory".as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: the descriptor was just made and nothing else owns it.
    let file = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.set_len(len)?;
    Ok(file)
}

/// An eventfd.
///
/// # Errors
/// What eventfd says.
#[cfg(any(test, fuzzing))]
pub fn eventfd() -> io::Result<std::fs::File> {
    use std::os::fd::{FromRawFd, OwnedFd};
    // SAFETY: eventfd takes no pointer.
    let fd = super::check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) })?;
    // SAFETY: the descriptor was just made and nothing else owns it.
    Ok(std::fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn what_was_peeked_at_is_read_again() {
        let (mut near, mut far) = UnixStream::pair().unwrap();
        far.write_all(b"octets").unwrap();
        let mut octets = [0; 10];
        assert_eq!(peek(&near, &mut octets[..3]).unwrap(), 3);
        assert_eq!(peek(&near, &mut octets).unwrap(), 6);
        assert_eq!(near.read(&mut octets).unwrap(), 6);
        assert_eq!(&octets[..6], b"octets");
        drop(far);
        assert_eq!(peek(&near, &mut octets).unwrap(), 0);
    }
}
